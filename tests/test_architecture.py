"""The import rule: modules import from their own layer and those below (docs/architecture.md), never in a circle."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
LAYERS = [  # from below; the longest name that fits decides
    ("algorithm", "config", "importing", "interpreter", "signals", "torch_threads"),
    ("safe_files", "extras", "text", "hints", "user_code"),
    ("environments",),
    ("networks",),
    ("runtime",),
    ("runs.store",),
    ("agent", "with_code"),
    ("runs",),
    ("run", "preparation", "no_effect"),
    ("trainer", "session", "run_output", "run_state", "messages", "conclusion", "ranks"),
    ("bench", "side_by_side", "series", "comparison", "tuning"),
    ("argument_types", "setting_arguments", "arguments", "console", "reading_commands", "cli", "__main__"),
]
UPWARDS = {("agent", "runs.export.onnx")}  # inside a function: Agent.export is a convenience
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE / "troupe").with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module_name(path): path for path in sorted((SOURCE / "troupe").rglob("*.py"))}


def imports_of(name: str) -> Iterator[tuple[str, bool]]:
    """The modules of ours that a module imports, and whether it does so inside a function; not those of its types."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.ImportFrom) and (child.module or "").partition(".")[0] == "troupe":
                package = (child.module or "").removeprefix("troupe").lstrip(".")
                for alias in child.names:
                    module = f"{package}.{alias.name}".lstrip(".")
                    yield (module if module in MODULES else package), inside
            yield from walk(child, inside or isinstance(child, ast.FunctionDef | ast.Lambda))

    for module, inside in walk(ast.parse(MODULES[name].read_text()), inside=False):
        if module != name:
            yield module, inside


def level_of(module: str) -> int:
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    found = next((name for name in names if name in LEVELS), None)
    assert found, f"{module} has no layer in LAYERS"
    return LEVELS[found]


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_a_module_imports_from_its_own_layer_and_those_below(name):
    above = {module for module, _ in imports_of(name) if level_of(module) > level_of(name)}
    assert {(name, module) for module in above} <= UPWARDS


def test_exceptions_to_the_rule_exist():
    assert all((module, True) in imports_of(name) for name, module in UPWARDS)


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: {module for module, inside in imports_of(name) if not inside} for name in MODULES}
    assert graph.keys() <= set(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize("package", ["algorithm", "config"])
def test_algorithm_and_config_import_nothing_else_of_ours(package):
    ours = {module for name in MODULES if name.startswith(package) for module, _ in imports_of(name)}
    assert {module for module in ours if module.partition(".")[0] != package} <= (
        {"safe_files"} if package == "config" else set()
    )
