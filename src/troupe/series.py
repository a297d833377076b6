"""Several runs, one after another: `troupe train --seeds`, and what `troupe compare` has in common with it."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from troupe.config import TroupeError, UsageError, one_line
from troupe.run import Run, saved_run
from troupe.runs.report.plots import plot_runs
from troupe.runs.store.directory import check_named, run_name
from troupe.text import format_return, table
from troupe.trainer import train


class Job(NamedTuple):
    """One run of a series."""

    variant: str  # what it is one of: a preset, with settings of its own; "" where all are the same
    seed: int
    path: Path  # its run directory

    @property
    def label(self) -> str:
        return f"{self.variant}, seed {self.seed}" if self.variant else f"seed {self.seed}"


@dataclass
class Series:
    """The runs that ended with an evaluation, those that failed, and the signal that ended the series (0: none)."""

    done: dict[Job, Run] = field(default_factory=dict)
    failed: dict[Job, TroupeError] = field(default_factory=dict)
    signal: int = 0

    @property
    def exit_status(self) -> int:
        return 128 + self.signal if self.signal else int(bool(self.failed))


def run_series(jobs: Sequence[Job], train_one: Callable[[Job], Run]) -> Series:
    """Trains the jobs in order. A failed run is reported and the next one starts; a signal ends the series.

    Raises the UsageError of the first job: it would be the same for all, and nothing has started.
    """
    series = Series()
    try:
        for job in jobs:
            try:
                run = train_one(job)
            except (KeyboardInterrupt, SystemExit) as stop:
                run = saved_run(stop)
            except TroupeError as error:
                if isinstance(error, UsageError) and not series.done and not series.failed:
                    raise
                series.failed[job] = error
                print(f"troupe: {job.label}: {one_line(error)}", file=sys.stderr)
                continue
            if run.scores:
                series.done[job] = run
            if run.signal:
                series.signal = run.signal
                break
    except KeyboardInterrupt as stop:  # between two runs, where no trainer handles it
        series.signal = stop.args[0] if stop.args else signal.SIGINT
        print("troupe: interrupted", file=sys.stderr)
    return series


def draw(series: Series, picture: Path) -> None:
    """Draws the runs in which an episode ended, and prints where, or why not."""
    drawn = {job: run.path for job, run in series.done.items() if len(run.curve.steps)}
    for job in series.done:
        if job not in drawn:
            print(f"troupe: {job.label}: not in the picture: no episode ended", file=sys.stderr)
    if not drawn:
        return
    try:
        plot_runs(list(drawn.values()), picture)
        print(f"picture {picture}")
    except TroupeError as error:  # the disk is full
        print(f"troupe: no picture: {one_line(error)}", file=sys.stderr)


def directory_of(asked: str | None, env: str, suffix: str) -> Path:
    check_named(asked)
    return Path(asked or f"runs/{run_name(env)}/{datetime.now():%Y-%m-%d_%H%M%S}_{suffix}")


# Several seeds


def train_seeds(env: str, seeds: Sequence[int], run_dir: str | None = None, **options: Any) -> int:
    """Trains once with each seed, in `run_dir`/seed<k>; returns the exit status. `options` are those of `train`."""
    directory = directory_of(run_dir, env, f"seeds{seeds[0]}-{seeds[-1]}")
    jobs = [Job("", seed, directory / f"seed{seed}") for seed in seeds]
    for job in jobs:
        if job.path.exists():
            raise UsageError(f"'{job.path}' exists already; name another --run-dir")
    series = run_series(jobs, lambda job: train(env, seed=job.seed, run_dir=job.path, **options))
    if series.done:
        print("\n".join(["", *_seeds_table(series.done, len(jobs))]))
        draw(series, directory / "learning.png")
    return series.exit_status


def _seeds_table(runs: Mapping[Job, Run], total: int) -> list[str]:
    """A row for each run, and a line about all of them."""
    rows = [("seed", "outcome", "mean", "min", "max", "steps", "seconds", "steps/s", "")]
    means = []
    for job, run in runs.items():
        assert run.scores is not None
        returns, remarks = run.scores.returns, run.scores.remarks
        means.append(run.scores.mean)
        rows.append((
            str(job.seed), run.outcome, format_return(run.scores.mean), f"{returns.min():g}", f"{returns.max():g}",
            f"{run.steps:,}", f"{run.seconds:.2f}", f"{run.steps / run.seconds:,.0f}",
            f"{len(returns)} episodes{remarks}" if remarks else "",
        ))  # fmt: skip
    seconds = [run.seconds for run in runs.values()]
    return [
        *table(rows, "><>>>>>>"),
        f"{len(runs)} of {total} runs: mean evaluation return {format_return(float(np.mean(means)))}, "
        f"lowest {format_return(min(means))}; medians: {np.median([run.steps for run in runs.values()]):,.0f} steps, "
        f"{np.median(seconds):.2f} s of training (longest {max(seconds):.2f} s)",
    ]
