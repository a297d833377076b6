"""How many one-line mutants of the source the tests notice.

pip install -e '.[dev,mutation]'
python benchmarks/mutation.py cover                    # once: which test runs which line, and how long it takes
python benchmarks/mutation.py measure --sample 400     # a random sample; run it again to go on
python benchmarks/mutation.py measure --changed main   # all mutants of the lines that changed since `main`
python benchmarks/mutation.py report                   # writes benchmarks/results/mutation.json and prints it

Everything happens in copies of the tracked files (`--folder`). A mutant is written into one, and the tests that ran its
line are run there, the fastest first, until one fails, in a process forked from one that has imported torch. A test
that fails is run once without a mutant, too: one that fails then as well shows nothing. Tests in child processes are
not seen by `cover`: for lines that no test ran, those of `--default-tests` are taken; `uncovered` is a mutant that has
none.

A mutant is `killed` by a test that fails, `timeout` if its tests are not done in time (counted apart, as a slow machine
looks the same), or it `survived`. The sample is stratified by file, and its order random, so any beginning of it is
such a sample, too. The interval is Wilson's, of 95 %. Equivalent mutants are listed with the reason in EQUIVALENT.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent
SOURCE = Path("src/troupe")
PATHS = ["runtime", "runs", "agent.py", "config", "environments/source.py"]
EQUIVALENT = HERE / "results" / "mutation-equivalent.toml"
PROCESSES = ["tests/runtime/test_processes.py", "tests/test_process_faults.py"]
TEST_SECONDS = 60  # for one test, by pytest-timeout; five times as long in `cover`


def copy_of_the_tree(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


# Which test runs which line


def cover(folder: Path, tests: Sequence[str], processes: int) -> None:
    tree = copy_of_the_tree(folder / "tree")
    environment = os.environ | {"PYTHONPATH": f"{tree / 'src'}:{HERE}", "MUTATION_COVER": str(folder)}
    for old in (*folder.glob("coverage.*"), *folder.glob("tests.*")):
        old.unlink()
    words = [sys.executable, "-m", "pytest", "-p", "mutation_cover", "-q", "-n", str(processes), *tests]
    subprocess.run([*words, "-o", f"timeout={5 * TEST_SECONDS}"], cwd=tree, env=environment, check=False)


class Covering:
    """Which passing tests ran a line, and how long they took."""

    def __init__(self, folder: Path, tree: Path):
        import coverage

        rows = [json.loads(line) for file in folder.glob("tests.*") for line in file.read_text().splitlines()]
        self.seconds = {name: seconds for name, seconds, passed in rows if passed}
        self._tests: dict[tuple[str, int], set[str]] = defaultdict(set)
        for file in folder.glob("coverage.*"):
            data = coverage.CoverageData(str(file))
            data.read()
            for path in data.measured_files():
                for line, contexts in data.contexts_by_lineno(path).items():
                    self._tests[os.path.relpath(path, tree), line] |= self.seconds.keys() & set(contexts)

    def tests(self, mutant: Any, most_seconds: float, default: Sequence[str]) -> list[str]:
        """Those of the file that has the module's name first, then the fastest, together not above the limit."""
        file = str(SOURCE / mutant.file)
        found = {test for line in range(mutant.line, mutant.last_line + 1) for test in self._tests[file, line]}
        own = f"test_{Path(file).stem}.py"
        chosen, spent = [], 0.0
        for test in sorted(found, key=lambda test: (own not in test, self.seconds[test], test)):
            spent += self.seconds[test]
            if spent > most_seconds and chosen:
                break
            chosen.append(test)
        return chosen or list(default)


# One mutant after another


class Outcome:
    """A pytest plugin: the first test that fails, and whether by its time limit."""

    failed, late = "", False

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed, self.late = report.nodeid, "Timeout (>" in report.longreprtext[-2000:]


class Runner:
    """Runs tests in `tree`, each time in a fork of this process, which has imported what takes long."""

    def __init__(self, tree: Path):
        import gymnasium, hypothesis, matplotlib.pyplot, rich.live, safetensors.torch, torch  # noqa: E401, F401, I001

        self._tree = tree
        sys.path.insert(0, str(tree / "src"))
        os.environ["PYTHONPATH"] = str(tree / "src")  # of processes that tests start

    def run(self, tests: Sequence[str], limit_seconds: float) -> tuple[str, str]:
        """`survived`, `killed` or `timeout`, and the test that failed."""
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            self._child(tests, writing)
        os.close(writing)
        end, (ended, _) = time.monotonic() + limit_seconds, (0, 0)
        while not ended and time.monotonic() < end:
            time.sleep(0.05)
            ended, _ = os.waitpid(pid, os.WNOHANG)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what the tests left, too
        if not ended:
            os.waitpid(pid, 0)
        with open(reading) as file:
            said = file.read()
        if not ended:
            return "timeout", ""
        outcome = json.loads(said) if said else {"failed": "the process ended", "late": False, "code": 3}
        if outcome["code"] == 0:
            return "survived", ""
        return ("timeout" if outcome["late"] else "killed"), outcome["failed"] or "collection"

    def _child(self, tests: Sequence[str], writing: int) -> None:
        try:
            os.setsid()
            os.chdir(self._tree)
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            outcome = Outcome()
            words = ["-x", "-q", "-p", "no:cacheprovider", "-o", f"timeout={TEST_SECONDS}", *tests]
            code = int(pytest.main(words, plugins=[outcome]))
            os.write(writing, json.dumps({"failed": outcome.failed, "late": outcome.late, "code": code}).encode())
        finally:
            os._exit(0)


def in_order(mutants: Sequence[Any], seed: int) -> Iterator[Any]:
    """A random order of which any beginning has of each file about its share."""
    dice = random.Random(seed)
    of_file = defaultdict(list)
    for mutant in mutants:
        of_file[mutant.file].append(mutant)
    placed = []
    for file in sorted(of_file):
        dice.shuffle(of_file[file])
        start = dice.random()
        placed += [((start + number) / len(of_file[file]), mutant) for number, mutant in enumerate(of_file[file])]
    return (mutant for _, mutant in sorted(placed, key=lambda pair: pair[0]))


def changed_lines(since: str) -> set[tuple[str, int]]:
    """File and line of what was added since a commit."""
    words = ["git", "diff", "-U0", since, "--", str(SOURCE)]
    found, file = set(), ""
    for line in subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if line.startswith("+++ b/"):
            file = os.path.relpath(line[6:], SOURCE)
        elif line.startswith("@@"):
            first, _, count = line.split("+")[1].split(" ")[0].partition(",")
            found |= {(file, int(first) + number) for number in range(int(count or 1))}
    return found


def measure(folder: Path, options: argparse.Namespace) -> None:
    from mutants import files_of, mutants

    tree = folder / "tree"
    covering, runner = Covering(folder, tree), Runner(tree)
    every = [mutant for file in files_of(tree / SOURCE, options.paths) for mutant in mutants(tree / SOURCE, file)]
    if options.changed:
        lines = changed_lines(options.changed)
        every = [each for each in every if any((each.file, n) in lines for n in range(each.line, each.last_line + 1))]
    results = folder / "results.jsonl"
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["file"], row["line"], row["change"]) for row in known}
    (folder / "counts.json").write_text(json.dumps(Counter(mutant.file for mutant in every)))
    trusted: set[str] = set()
    end = time.monotonic() + 3600 * options.hours
    for number, mutant in enumerate(in_order(every, options.seed)):
        if time.monotonic() > end or (options.sample and number >= options.sample and not options.changed):
            break
        if not mutant.change or (mutant.file, mutant.line, mutant.change) in done:
            continue
        row = one(mutant, tree, covering, runner, trusted, options)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['outcome']:9s} {row['seconds']:6.1f} s  {mutant.file}:{mutant.line}  {row['by']}", flush=True)


def one(
    mutant: Any, tree: Path, covering: Covering, runner: Runner, trusted: set[str], options: argparse.Namespace
) -> dict[str, Any]:
    tests = covering.tests(mutant, options.seconds, options.default_tests)
    file, began = tree / SOURCE / mutant.file, time.monotonic()
    original = file.read_text()
    outcome, by = "uncovered", ""
    while tests:
        file.write_text(mutant.source)
        try:
            outcome, by = runner.run(tests, options.limit)
        finally:
            file.write_text(original)
        if outcome != "killed" or by in trusted or "::" not in by:
            break
        if runner.run([by], options.limit)[0] == "survived":
            trusted.add(by)
            break
        covering.seconds[by] = math.inf  # it comes last from now on, and alone shows nothing
        tests, outcome, by = [test for test in tests if test != by], "uncovered", ""
    spent = round(time.monotonic() - began, 1)
    of_mutant = {"file": mutant.file, "line": mutant.line, "change": mutant.change}
    return of_mutant | {"outcome": outcome, "by": by, "tests": len(tests), "seconds": spent}


# The result


def wilson(killed: int, of: int) -> tuple[float, float]:
    if not of:
        return 0.0, 1.0
    z, share = 1.96, killed / of
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def report(folder: Path) -> None:
    from common import write

    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    rows = list({(row["file"], row["line"], row["change"]): row for row in rows}.values())  # the newest of each
    reasons = tomllib.loads(EQUIVALENT.read_text())["mutant"] if EQUIVALENT.exists() else []
    reason = {(each["file"], each["change"]): each["reason"] for each in reasons}
    for row in rows:
        if row["outcome"] == "survived" and (row["file"], row["change"]) in reason:
            row["outcome"] = "equivalent"
    parts = defaultdict(Counter)
    for row in rows:
        parts[row["file"].rpartition("/")[0] or row["file"]][row["outcome"]] += 1
    total = sum(parts.values(), Counter())
    decided = total["killed"] + total["survived"]
    low, high = wilson(total["killed"], decided)
    result = {
        "mutants": sum(json.loads((folder / "counts.json").read_text()).values()),
        "sample": len(rows),
        "outcomes": dict(total),
        "killed_share": round(total["killed"] / max(1, decided), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "parts": {name: dict(counts) for name, counts in sorted(parts.items())},
        "survivors": [
            {name: row[name] for name in ("file", "line", "change", "tests")}
            for row in sorted(rows, key=lambda row: (row["file"], row["line"]))
            if row["outcome"] == "survived"
        ],
        "equivalent": [
            row | {"reason": reason[row["file"], row["change"]]} for row in rows if row["outcome"] == "equivalent"
        ],
    }
    write("mutation", result)
    print(json.dumps({name: result[name] for name in list(result)[:6]}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cover", "measure", "report"])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutation")
    parser.add_argument("--tests", nargs="*", default=[], help="cover: these only")
    parser.add_argument("--processes", type=int, default=2, help="cover: in parallel")
    parser.add_argument("--paths", nargs="*", default=PATHS, help="measure: files and folders of src/troupe")
    parser.add_argument("--sample", type=int, default=0, help="measure: so many; 0: all")
    parser.add_argument("--changed", default="", metavar="COMMIT", help="measure: lines that changed since, all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours", type=float, default=24.0, help="measure: begin no mutant after so long")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="measure: of tests for one mutant, as cover timed them"
    )
    parser.add_argument("--limit", type=float, default=600.0, help="measure: seconds until a mutant is a timeout")
    parser.add_argument("--default-tests", nargs="*", default=PROCESSES)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.what == "cover":
        cover(options.folder, options.tests, options.processes)
    elif options.what == "measure":
        measure(options.folder, options)
    else:
        report(options.folder)


if __name__ == "__main__":
    main()
