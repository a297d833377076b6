"""How many one-line mutants of the source the tests notice.

pip install -e '.[dev,mutation]'
python benchmarks/mutation.py cover                    # once: which test runs which line, and how long it takes
python benchmarks/mutation.py measure --sample 400     # a random sample; run it again to go on
python benchmarks/mutation.py measure --changed main   # all mutants of the lines that changed since `main`
python benchmarks/mutation.py report                   # writes benchmarks/results/mutation.json and prints it

Everything happens in copies of the tracked files. A mutant is written into one, and the tests that ran its line are run
there, those of the module's own file first, then the cheapest, until one fails, in a process forked from one that has
imported torch. A test that fails is run once without a mutant, too: one that fails then as well shows nothing. Tests in
child processes are not seen by `cover`: for lines that no test ran, those of `--default-tests` are taken. For a line
that is run by an import (a constant, a default, a field) they are those that ran a line in which its name stands.
`cover --tests FILE` adds tests that are new; where the source has changed since, lines are found again by their text.

A mutant is `killed` by a test that fails. It `hung` if a test is not done in time (20 s and ten times what it took in
`cover`), nor in four times as long when it is run again, but is without the mutant: the suite's own limit would notice,
so it counts as killed. A test that is late only once shows nothing, and the others decide: if none fails, the mutant is
`late` and not counted. `survived` and `uncovered` (no test at all) count against the suite. The sample is stratified by
file, and its order random, so any beginning of it is such a sample, too. The interval is Wilson's, of 95 %. Equivalent
mutants are listed with the reason in EQUIVALENT, and not counted.
"""

import argparse
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mutant_tests import SOURCE, Covering, Runner

HERE = Path(__file__).parent
ROOT = HERE.parent
PATHS = ["runtime", "runs", "agent.py", "config", "environments/source.py"]
LEFT_OUT = ["runtime/cluster/ray_engine.py"]  # runs only with Ray, under slow tests
EQUIVALENT = HERE / "results" / "mutation-equivalent.toml"
NOTICED, MISSED = ("killed", "hung"), ("survived", "uncovered")
PROCESSES = ["tests/runtime/test_processes.py", "tests/test_process_faults.py"]


def recordings(folder: Path) -> list[Path]:
    """Of the runs of `cover`, the oldest first."""
    return sorted(folder.glob("cover-*"), key=lambda each: int(each.name[6:]))


def cover(folder: Path, tests: Sequence[str], processes: int) -> None:
    """Of all tests; or of some, in addition to what is known."""
    known = recordings(folder)
    if not tests:
        for old in known:
            shutil.rmtree(old)
    recorded = copy_of_the_tree(folder / f"cover-{len(known) if tests else 0}")
    environment = os.environ | {"PYTHONPATH": f"{recorded / 'src'}:{HERE}", "MUTATION_COVER": str(recorded)}
    words = [sys.executable, "-m", "pytest", "-p", "mutation_cover", "-q", "-o", "timeout=300", *tests]
    words += ["-n", str(processes)] if processes > 1 else []
    subprocess.run(words, cwd=recorded, env=environment, check=False)


def copy_of_the_tree(copy: Path) -> Path:
    """The files that git tracks, as they are in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


# One mutant after another


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


def measure(folder: Path, tree: Path, options: argparse.Namespace) -> None:
    from mutants import files_of, mutants

    copy_of_the_tree(tree)
    files = [file for file in files_of(tree / SOURCE, options.paths) if file not in LEFT_OUT]
    every = [mutant for file in files for mutant in mutants(tree / SOURCE, file)]
    if options.changed:
        lines = changed_lines(options.changed)
        every = [each for each in every if any((each.file, n) in lines for n in range(each.line, each.last_line + 1))]
    covering = Covering(recordings(folder), tree)
    runner = Runner(tree, covering.seconds)
    results = folder / "results.jsonl"
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    again = ("survived", "uncovered", "late") if options.again else ()
    done = {(row["file"], row["line"], row["change"]) for row in known if row["outcome"] not in again}
    about = {"mutants": len(every), "seed": options.seed, "test_seconds": options.seconds, "commit": commit()}
    (folder / "about.json").write_text(json.dumps(about))
    end = time.monotonic() + 3600 * options.hours
    of_all = len(every) if options.changed else options.sample or len(every)
    for number, mutant in enumerate(itertools.islice(in_order(every, options.seed), of_all)):
        if time.monotonic() > end:
            break
        another = number % options.workers != options.worker
        if another or not mutant.change or (mutant.file, mutant.line, mutant.change) in done:
            continue
        began, tests = time.monotonic(), covering.tests(mutant, options.seconds, options.default_tests)
        outcome, by = runner.fate(mutant, tests) if tests else ("uncovered", "")
        row = {"file": mutant.file, "line": mutant.line, "change": mutant.change, "outcome": outcome, "by": by}
        row |= {"tests": len(tests), "seconds": round(time.monotonic() - began, 1)}
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{outcome:9s} {row['seconds']:6.1f} s  {mutant.file}:{mutant.line}  {by}", flush=True)


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


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
        if row["outcome"] in MISSED and (row["file"], row["change"]) in reason:
            row["outcome"] = "equivalent"
    parts = defaultdict(Counter)
    for row in rows:
        parts[row["file"].rpartition("/")[0] or row["file"]][row["outcome"]] += 1
    total = sum(parts.values(), Counter())
    noticed = sum(total[each] for each in NOTICED)
    decided = noticed + sum(total[each] for each in MISSED)
    low, high = wilson(noticed, decided)
    result = {
        **json.loads((folder / "about.json").read_text()),
        "date": time.strftime("%Y-%m-%d"),
        "sample": len(rows),
        "outcomes": dict(total),
        "killed_share": round(noticed / max(1, decided), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "parts": {name: dict(counts) for name, counts in sorted(parts.items())},
        "survivors": [
            {name: row[name] for name in ("file", "line", "change", "outcome", "tests")}
            for row in sorted(rows, key=lambda row: (row["file"], row["line"]))
            if row["outcome"] in MISSED
        ],
        "equivalent": [
            row | {"reason": reason[row["file"], row["change"]]} for row in rows if row["outcome"] == "equivalent"
        ],
    }
    write("mutation", result)
    print(json.dumps({name: result[name] for name in list(result)[:9]}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cover", "measure", "report"])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutation")
    parser.add_argument("--tests", nargs="*", default=[], help="cover: these, in addition to what is known")
    parser.add_argument("--processes", type=int, default=2, help="cover: in parallel")
    parser.add_argument("--paths", nargs="*", default=PATHS, help="measure: files and folders of src/troupe")
    parser.add_argument("--sample", type=int, default=0, help="measure: so many; 0: all")
    parser.add_argument("--changed", default="", metavar="COMMIT", help="measure: lines that changed since, all")
    parser.add_argument(
        "--again", action="store_true", help="measure: also what has survived, as after `cover --tests`"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=int, default=0, help="measure: the number of this of `--workers` commands")
    parser.add_argument("--workers", type=int, default=1, help="measure: commands that share the mutants")
    parser.add_argument("--hours", type=float, default=24.0, help="measure: begin no mutant after so long")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="measure: of tests for one mutant, as cover timed them"
    )
    parser.add_argument("--default-tests", nargs="*", default=PROCESSES)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.what == "cover":
        cover(options.folder, options.tests, options.processes)
    elif options.what == "measure":
        with tempfile.TemporaryDirectory(prefix="mutation-") as made:
            measure(options.folder, Path(made).resolve() / "tree", options)
    else:
        report(options.folder)


if __name__ == "__main__":
    main()
