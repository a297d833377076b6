"""Every one-line change of a source file that the tests should notice: mutmut's operators, and two of our own.

mutmut makes mutants of functions without decorators only; here those of decorated functions, classes and modules are
made as well. Left out are changes of prose (a text with a space in it), of letters' case, of types, which mypy checks,
and of `strict=True` in `zip`, which asserts what holds. Two operators are added, for faults of wiring: a call that
stands alone is left out, and the condition of an `if` is negated.
"""

import ast
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import file_mutation, mutators
from mutmut.mutation.pragma_handling import get_ignored_lines


@dataclass(frozen=True)
class Mutant:
    """A change of one node; `file` is relative to the tree it comes from."""

    file: str
    line: int  # where the changed node begins, and where it ends
    last_line: int
    statement: int  # where the statement begins that it is in
    at_import: bool  # whether the line runs when the module is imported, and not when a function is called
    _module: cst.Module
    _mutation: file_mutation.Mutation

    @cached_property
    def source(self) -> str:
        """The whole file."""
        return self._module.deep_replace(self._mutation.original_node, self._mutation.mutated_node).code

    @cached_property
    def change(self) -> str:
        """The lines of a diff, without context."""
        diff = difflib.unified_diff(self._module.code.splitlines(), self.source.splitlines(), n=0, lineterm="")
        return "\n".join(line for line in diff if line[0] in "+-" and not line.startswith(("+++", "---")))


def mutants(root: Path, file: str) -> Iterator[Mutant]:
    """All mutants of a file of the tree `root`."""
    source = (root / file).read_text()
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = _Visitor(_operators(), get_ignored_lines(file, source, wrapper, None))
    module = wrapper.visit(visitor)
    positions = wrapper.resolve(PositionProvider)
    nodes = list(ast.walk(ast.parse(source)))
    statements = [(each.lineno, each.end_lineno or 0) for each in nodes if isinstance(each, ast.stmt)]
    called, decorated = set(), {}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            called |= {*range(node.body[0].lineno, (node.end_lineno or 0) + 1)}
        for decorator in getattr(node, "decorator_list", ()):
            decorated |= dict.fromkeys(range(decorator.lineno, (decorator.end_lineno or 0) + 1), node.lineno)
    for mutation in visitor.mutations:
        if _without_strict(mutation.original_node) == _without_strict(mutation.mutated_node):
            continue
        position = positions[mutation.original_node]
        line, last_line = position.start.line, position.end.line
        statement = max((first for first, last in statements if first <= line <= last), default=line)
        if line in decorated and line not in called:
            last_line = decorated[line]
        yield Mutant(file, line, last_line, statement, line not in called, module, mutation)


def files_of(root: Path, paths: Sequence[str]) -> list[str]:
    """The Python files among `paths`, files and folders relative to `root`."""
    found = [
        each for path in paths for each in ([root / path] if path.endswith(".py") else (root / path).rglob("*.py"))
    ]
    return sorted({each.relative_to(root).as_posix() for each in found})


class _Visitor(file_mutation.MutationVisitor):
    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return node.name.value in file_mutation.NEVER_MUTATE_FUNCTION_NAMES
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value == "_doc":
            return True  # a setting's description
        if isinstance(node, cst.Subscript) and isinstance(node.value, cst.Name) and node.value.value == "Literal":
            return True  # a type, which mypy checks
        if isinstance(node, cst.Assign) and _names_a_type(node):
            return True  # mypy as well
        if isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value == "strict":
            return True
        return super()._skip_node_and_children(node)


def _without_strict(node: cst.CSTNode) -> str:
    """The code of a call, without an argument `strict`; of anything else what tells it from all others."""
    if not isinstance(node, cst.Call):
        return str(id(node))
    return re.sub(r",\s*(strict=\w+)?\s*\)$", ")", cst.Module([]).code_for_node(node))


def _operators() -> mutators.OPERATORS_TYPE:
    ours = [(cst.BaseString, _word), (cst.Expr, _left_out), (cst.If, _negated)]
    return [*(each for each in mutators.mutation_operators if each[1] is not mutators.operator_string), *ours]


def _names_a_type(node: cst.Assign) -> bool:
    """Whether it is an alias as in `Deliver = Callable[[Rollout], None]`, or a type variable."""
    name, value = node.targets[0].target, node.value
    if not isinstance(name, cst.Name) or not re.fullmatch(r"[A-Z]|[A-Z][A-Za-z]*[a-z][A-Za-z]*", name.value):
        return False
    return not isinstance(value, cst.Call) or (isinstance(value.func, cst.Name) and value.func.value == "TypeVar")


def _word(node: cst.BaseString) -> Iterator[cst.BaseString]:
    if isinstance(node, cst.SimpleString) and not any(each.isspace() for each in node.value):
        yield from list(mutators.operator_string(node))[:1]


def _left_out(node: cst.Expr) -> Iterator[cst.CSTNode]:
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def _negated(node: cst.If) -> Iterator[cst.If]:
    test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test), whitespace_before_test=cst.SimpleWhitespace(" "))
