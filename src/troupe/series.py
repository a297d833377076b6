"""Several runs, one after another: `troupe train --seeds`, and what `troupe compare` shares with it.

The same command continues in the same directory: runs that are done are kept, the others resumed or begun.
"""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from troupe.config import TroupeError, UsageError, flatten, one_line
from troupe.run import Run, saved_run
from troupe.runs.evaluate.scores import remarks
from troupe.runs.report import group
from troupe.runs.report.display import Mode
from troupe.runs.report.group import Member
from troupe.runs.store.directory import check_named, run_name
from troupe.text import format_return, table
from troupe.trainer import resume, train
from troupe.user_code.files import absolute


class Job(NamedTuple):
    """One run of a series."""

    variant: str  # the preset, with settings that vary; "" if all runs have the same
    seed: int
    path: Path  # its run directory

    @property
    def label(self) -> str:
        return f"{self.variant}, seed {self.seed}" if self.variant else f"seed {self.seed}"


@dataclass
class Series:
    """The runs that are done, those that failed, and the signal that ended the series (0: none)."""

    directory: Path
    done: list[Job] = field(default_factory=list)
    failed: dict[Job, TroupeError] = field(default_factory=dict)
    signal: int = 0

    @property
    def exit_status(self) -> int:
        return 128 + self.signal if self.signal else int(bool(self.failed))


def run_series(
    directory: Path,
    jobs: Mapping[Job, str],
    asked: Mapping[str, Any],
    train_one: Callable[[Job], Run],
    display: Mode,
) -> Series:
    """Trains the jobs in order, those that are not done; `jobs` have the names of their lines in the picture, and
    `asked` is what all have in common. A failed run is reported and the next one starts; a signal ends the series.

    Raises the UsageError of the first that is trained: it would be the same for all.
    """
    members = {job: Member(job.path.relative_to(directory).as_posix(), name, job.seed) for job, name in jobs.items()}
    group.begin(directory, asked, list(members.values()))
    series, trained = Series(directory), False
    if kept := [job for job in jobs if group.state_of(job.path) == "done"]:
        print(f"{len(kept)} of {len(jobs)} runs are done already")
    try:
        for job in jobs:
            if job in kept:
                series.done.append(job)
                continue
            try:
                begun = group.state_of(job.path) != "not started"
                run = resume(job.path, display=display) if begun else train_one(job)
            except (KeyboardInterrupt, SystemExit) as stop:
                run = saved_run(stop)
            except TroupeError as error:
                if isinstance(error, UsageError) and not trained:
                    group.forget(directory)
                    raise
                series.failed[job], trained = error, True
                print(f"troupe: {job.label}: {one_line(error)}", file=sys.stderr)
                continue
            trained = True
            if run.scores:
                series.done.append(job)
            if run.signal:
                series.signal = run.signal
                break
    except KeyboardInterrupt as stop:  # between two runs, where no trainer handles it
        series.signal = stop.args[0] if stop.args else signal.SIGINT
        print("troupe: interrupted", file=sys.stderr)
    return series


def show_end(series: Series, picture: Path) -> None:
    """Draws the picture and prints where it is, or why not; and how to continue what a signal ended."""
    try:
        drawn, empty = group.draw(series.directory, picture)
        for job in series.done:
            if any(series.directory / each.folder == job.path for each in empty):
                print(f"troupe: {job.label}: not in the picture: no episode ended", file=sys.stderr)
        if drawn:
            print(f"picture {picture}")
    except TroupeError as error:  # the disk is full
        print(f"troupe: no picture: {one_line(error)}", file=sys.stderr)
    if series.signal and (missing := group.unfinished_words(series.directory)):
        print(f"not done: {missing}\nto continue: the same command with --run-dir {series.directory}")


def directory_of(asked: str | None, env: str, suffix: str) -> Path:
    check_named(asked)
    return Path(asked or f"runs/{run_name(env)}/{datetime.now():%Y-%m-%d_%H%M%S}_{suffix}")


# Several seeds


def train_seeds(env: str, seeds: Sequence[int], run_dir: str | None = None, **options: Any) -> int:
    """Trains once with each seed, in `run_dir`/seed<k>; returns the exit status. `options` are those of `train`."""
    directory = directory_of(run_dir, env, f"seeds{seeds[0]}-{seeds[-1]}")
    options = {"preset": "appo", "display": "auto"} | options
    jobs = {Job("", seed, directory / f"seed{seed}"): options["preset"] for seed in seeds}
    given = {name: value for name, value in options.items() if name not in ("display", "settings")}
    asked = {"environment": absolute(env), **given, **dict(flatten(options.get("settings") or {}))}

    def train_one(job: Job) -> Run:
        return train(env, seed=job.seed, run_dir=job.path, **options)

    series = run_series(directory, jobs, asked, train_one, options["display"])
    if series.done:
        print("\n".join(["", *_seeds_table(series.done, len(jobs))]))
    show_end(series, directory / "learning.png")
    return series.exit_status


def _seeds_table(jobs: Sequence[Job], total: int) -> list[str]:
    """A row for each run, and a line about all of them."""
    rows = [("seed", "outcome", "mean", "min", "max", "steps", "seconds", "steps/s", "")]
    means, steps, seconds = list[float](), list[int](), list[float]()
    for job in jobs:
        summary = group.summary_of(job.path)
        scores = summary["evaluation"]
        remark = remarks(scores["cut_off"], scores["unfinished"])
        means.append(scores["mean_return"])
        steps.append(summary["steps"])
        seconds.append(summary["training_seconds"])
        rows.append((
            str(job.seed), summary["outcome"], format_return(means[-1]), f"{scores['min_return']:g}",
            f"{scores['max_return']:g}", f"{steps[-1]:,}", f"{seconds[-1]:.2f}", f"{summary['steps_per_s']:,.0f}",
            f"{scores['episodes']} episodes{remark}" if remark else "",
        ))  # fmt: skip
    return [
        *table(rows, "><>>>>>>"),
        f"{len(jobs)} of {total} runs: mean evaluation return {format_return(float(np.mean(means)))}, "
        f"lowest {format_return(min(means))}; medians: {np.median(steps):,.0f} steps, "
        f"{np.median(seconds):.2f} s of training (longest {max(seconds):.2f} s)",
    ]
