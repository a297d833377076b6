"""For mutation.py: which tests run a line, and what they make of a mutant."""

import difflib
import gc
import itertools
import json
import os
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path("src/troupe")
_FIRST = 8  # tests of a mutant that are run before the others: most mutants die here, and fewer files are imported
_DEFINED = re.compile(r"\b(?:def|class)\s+(\w+)|\b(\w+)\s*(?::[^=]*)?=(?!=)")  # names, in a line
# Tests of what is read as data, of which no line of the program has the name: the page of settings has each with its
# range and its default.
_OF_DATA = dict.fromkeys(["config/settings.py", "config/evaluation.py"], "tests/test_docs.py::test_a_generated_page")
_PATIENCE = 4  # how much longer a test that was not done in time may take when it is run again


class Covering:
    """Which passing tests ran a line of the tree, how long they took and what they cost.

    Each recording holds the tests of one run of `cover`, and the source that they ran; what a later one says of a test
    counts. Where a line has changed since, the tests are those of the nearest line above it that has not.
    """

    def __init__(self, recordings: Sequence[Path], tree: Path):
        import coverage

        self.seconds: dict[str, float] = {}
        self.cost: dict[str, float] = {}  # in seconds of the processor, which depend less on what else is running
        self._tests: dict[tuple[str, int], set[str]] = defaultdict(set)
        sources = (tree / SOURCE).rglob("*.py")
        self._source = {os.path.relpath(file, tree / SOURCE): file.read_text().splitlines() for file in sources}
        later: set[str] = set()
        for recorded in reversed(recordings):
            rows = [json.loads(line) for file in recorded.glob("tests.*") for line in file.read_text().splitlines()]
            passed = {name: (seconds, cost) for name, passed, seconds, cost in rows if passed and name not in later}
            later |= {name for name, *_ in rows}
            self.seconds |= {name: seconds for name, (seconds, _) in passed.items()}
            self.cost |= {name: cost for name, (_, cost) in passed.items()}
            of_line: dict[tuple[str, int], set[str]] = defaultdict(set)
            for file in recorded.glob("coverage.*"):
                data = coverage.CoverageData(str(file))
                data.read()
                for path in data.measured_files():
                    name = path.partition(f"/{SOURCE.as_posix()}/")[2]
                    for line, contexts in data.contexts_by_lineno(path).items():
                        of_line[name, line] |= passed.keys() & set(contexts)
            for name in {name for name, _ in of_line}:
                if (tree / SOURCE / name).is_file():
                    for line, before in enumerate(_lines_before(recorded / SOURCE / name, tree / SOURCE / name), 1):
                        self._tests[name, line] |= of_line.get((name, before), set())

    def tests(self, mutant: Any, most_seconds: float, default: Sequence[str]) -> list[str]:
        """Those of the file that has the module's name first, then the cheapest, together not above the limit; where no
        test ran the line, as in another process, those of the files `default`."""
        lines = range(mutant.statement, mutant.last_line + 1)
        here = {test for line in lines for test in self._tests[mutant.file, line]}
        elsewhere: set[str] = set()
        if mutant.at_import:  # what counts is not who imports the line first, but who runs what it defines
            names = {name for line in lines for name in _DEFINED.findall(self._source[mutant.file][line - 1])}
            mention = re.compile(rf"\b({'|'.join(filter(None, itertools.chain(*names)))})\b") if names else None
            for file, texts in self._source.items():
                found = here if file == mutant.file else elsewhere
                for line, text in enumerate(texts, 1):
                    if mention.search(text) if mention else file == mutant.file:
                        found |= self._tests[file, line]
        data = {test for test in self.seconds if mutant.at_import and test.startswith(_OF_DATA.get(mutant.file, "-"))}
        known = here | elsewhere | data or {test for test in self.seconds if test.startswith(tuple(default))}
        own = f"test_{Path(mutant.file).stem}.py"
        chosen, spent = [], 0.0
        first = lambda test: (test not in data, own not in test, test not in here, self.cost[test], test)  # noqa: E731
        for test in sorted(known, key=first):
            spent += self.cost[test]
            if spent > most_seconds and chosen:
                break
            chosen.append(test)
        return chosen


def _lines_before(old: Path, new: Path) -> Iterator[int]:
    """For each line of a file the line of its earlier text."""
    before, now = old.read_text().splitlines(), new.read_text().splitlines()
    last = 1
    for _, old_first, old_end, new_first, new_end in difflib.SequenceMatcher(None, before, now, False).get_opcodes():
        same = old_end - old_first == new_end - new_first
        for number in range(new_end - new_first):
            last = old_first + number + 1 if same else last
            yield last


class _Outcome:
    """A pytest plugin: runs `tests` of the collected ones in this order, each with its time limit, and reports."""

    def __init__(self, tests: Sequence[str], seconds: Mapping[str, float]):
        self._order = {test: number for number, test in enumerate(tests)}
        self._seconds = seconds
        self.passed: list[str] = []
        self.failed, self.late = "", False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        wanted = (item for item in items if item.nodeid in self._order)
        items[:] = sorted(wanted, key=lambda item: self._order[item.nodeid])
        for item in items:
            item.add_marker(pytest.mark.timeout(self._seconds[item.nodeid]), append=False)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed, self.late = report.nodeid, "Timeout (>" in report.longreprtext[-2000:]
        elif report.when == "teardown" and not report.failed:
            self.passed.append(report.nodeid)


@dataclass
class Result:
    """Of some tests: `survived`, `killed` or `late`; the test that failed; and those that passed before it."""

    outcome: str
    by: str = ""
    passed: list[str] = field(default_factory=list)


class Runner:
    """Runs tests in `tree`, each time in a fork of this process, which has imported what takes long."""

    def __init__(self, tree: Path, seconds: Mapping[str, float]):
        import gymnasium, hypothesis, matplotlib.pyplot, rich.live, safetensors.torch, torch  # noqa: E401, F401, I001

        self._tree, self._seconds, self._report = tree, seconds, tree.resolve().with_name("report.json")
        sys.path.insert(0, str(tree / "src"))
        os.environ["PYTHONPATH"] = str(tree / "src")  # of processes that tests start
        self.passes_alone = cache(self._passes_alone)
        gc.collect()
        gc.freeze()  # pytest collects garbage several times: not also what is imported here

    def fate(self, mutant: Any, tests: Sequence[str]) -> tuple[str, str]:
        """What becomes of a mutant, and by which test; what a test shows without it, too, does not count."""
        late = ""
        for part in (tests[:_FIRST], tests[_FIRST:]):
            while part:
                with self._mutated(mutant):
                    result = self.run(part)
                if result.outcome == "survived":
                    break
                suspects = (result.by,) if "::" in result.by else tuple(part)
                if result.outcome == "late":
                    with self._mutated(mutant):
                        again = self.run(suspects, _PATIENCE)
                    result.outcome = {"late": "hung"}.get(again.outcome, again.outcome)
                    late = late or suspects[0]
                if result.outcome != "survived" and self.passes_alone(suspects):
                    return result.outcome, result.by or suspects[0]
                part = [test for test in part if test not in {*suspects, *result.passed}]
        return ("late", late) if late else ("survived", "")

    def _passes_alone(self, tests: tuple[str, ...]) -> bool:
        return self.run(tests).outcome == "survived"

    @contextmanager
    def _mutated(self, mutant: Any) -> Iterator[None]:
        file = self._tree / SOURCE / mutant.file
        original = file.read_text()
        try:
            _put(file, mutant.source)
            yield
        finally:
            _put(file, original)

    def run(self, tests: Sequence[str], patience: int = 1) -> Result:
        seconds = {test: patience * (20 + 10 * self._seconds[test]) for test in tests}
        limit = patience * (60 + 10 * sum(self._seconds[test] for test in tests))
        self._report.unlink(missing_ok=True)
        pid = os.fork()
        if not pid:
            self._child(_Outcome(tests, seconds), list(dict.fromkeys(test.partition("::")[0] for test in tests)))
        end, (ended, _) = time.monotonic() + limit, (0, 0)
        while not ended and time.monotonic() < end:
            time.sleep(0.02)
            ended, _ = os.waitpid(pid, os.WNOHANG)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what the tests left, too
        if not ended:
            os.waitpid(pid, 0)
        if not ended:
            return Result("late")
        if not self._report.exists():  # the process ended
            return Result("killed")
        outcome = json.loads(self._report.read_text())
        if outcome["code"] in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return Result("survived")
        return Result("late" if outcome["late"] else "killed", outcome["failed"], outcome["passed"])

    def _child(self, outcome: _Outcome, files: Sequence[str]) -> None:
        try:
            os.setsid()
            os.chdir(self._tree)
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            code = int(
                pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-o", "timeout=60", *files], plugins=[outcome])
            )
            rows = {"code": code, "failed": outcome.failed, "late": outcome.late, "passed": outcome.passed}
            self._report.write_text(json.dumps(rows))
        finally:
            os._exit(0)


def _put(file: Path, source: str) -> None:
    """Python takes old bytecode for that of a text that is as long and was written in the same second."""
    file.write_text(source)
    for bytecode in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        bytecode.unlink()
