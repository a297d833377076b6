"""The same training with several seeds: one table, one picture (the article's own figure of results)."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from troupe.config import TroupeError, UsageError, one_line
from troupe.run import Run, saved_run
from troupe.runs.report.plots import plot_runs
from troupe.runs.report.view import score
from troupe.runs.store.directory import check_named, run_name
from troupe.trainer import train

Name = TypeVar("Name")


def train_seeds(env: str, seeds: Sequence[int], folder: str | None, asked: dict[str, Any]) -> int:
    """Trains once for each seed, in `folder`/seed<k>; returns the exit status.

    A run that fails is reported and the others go on; Ctrl-C ends the run under way and those to come.
    """
    check_named(folder)
    place = Path(folder or f"runs/{run_name(env)}/{datetime.now():%Y-%m-%d_%H%M%S}_seeds{seeds[0]}-{seeds[-1]}")
    taken = [place / f"seed{seed}" for seed in seeds if (place / f"seed{seed}").exists()]
    if taken:
        raise UsageError(f"'{taken[0]}' exists already; name another --run-dir")
    runs = {seed: partial(train, env, seed=seed, run_dir=place / f"seed{seed}", **asked) for seed in seeds}
    series = train_in_turn(runs, lambda seed: f"seed {seed}")
    if series.done:
        print(_table(series.done, len(seeds)))
        draw([run.path for run in series.done.values()], place / "learning.png")
    return series.status


@dataclass
class Series(Generic[Name]):
    """What came of several runs. One that a signal ended before it was judged is in neither."""

    done: dict[Name, Run] = field(default_factory=dict)
    failed: dict[Name, TroupeError] = field(default_factory=dict)
    signal: int = 0

    @property
    def status(self) -> int:
        """For the program to exit with."""
        return 128 + self.signal if self.signal else int(bool(self.failed))


def train_in_turn(runs: Mapping[Name, Callable[[], Run]], say: Callable[[Name], str]) -> Series[Name]:
    """Does the runs, in order. One that fails is reported, as `say` calls it; a signal ends them all.

    Raises the UsageError of the first run: what is wrong there is wrong everywhere, and nothing has started.
    """
    series: Series[Name] = Series()
    try:
        for name, train_one in runs.items():
            try:
                run = train_one()
            except (KeyboardInterrupt, SystemExit) as stop:
                run = saved_run(stop)
            except TroupeError as error:
                if isinstance(error, UsageError) and not series.done and not series.failed:
                    raise
                series.failed[name] = error
                print(f"troupe: {say(name)}: {one_line(error)}", file=sys.stderr)
                continue
            if run.scores:
                series.done[name] = run
            if run.signal:
                series.signal = run.signal
                break
    except KeyboardInterrupt as stop:  # between two runs, where none is there to hear it
        series.signal = stop.args[0] if stop.args else signal.SIGINT
        print("troupe: interrupted", file=sys.stderr)
    return series


def draw(runs: Sequence[Path], picture: Path) -> None:
    """Draws the runs and says where, or why not."""
    try:
        plot_runs(runs, picture)
        print(f"picture {picture}")
    except TroupeError as error:  # no episode has ended, or the disk is full
        print(f"troupe: no picture: {one_line(error)}", file=sys.stderr)


def _table(runs: Mapping[int, Run], asked: int) -> str:
    lines = ["", f"{'seed':>6}  {'outcome':8}{'mean':>8}{'min':>8}{'max':>8}{'steps':>12}{'seconds':>9}{'steps/s':>10}"]
    means, steps, spent = [], [], []
    for seed, run in runs.items():
        assert run.scores is not None
        means.append(run.scores.mean)
        steps.append(run.steps)
        spent.append(run.seconds)
        lines.append(
            f"{seed:>6}  {run.outcome:8}{score(run.scores.mean):>8}{run.scores.returns.min():>8g}"
            f"{run.scores.returns.max():>8g}{run.steps:>12,}{run.seconds:>9.2f}{run.steps / run.seconds:>10,.0f}"
            + (f"  {len(run.scores.returns)} episodes{run.scores.remarks}" if run.scores.remarks else "")
        )
    lines.append(
        f"{len(runs)} of {asked} runs: mean evaluation return {score(float(np.mean(means)))}, "
        f"lowest {score(min(means))}; "
        f"medians: {np.median(steps):,.0f} steps, {np.median(spent):.2f} s of training (longest {max(spent):.2f} s)"
    )
    return "\n".join(lines)
