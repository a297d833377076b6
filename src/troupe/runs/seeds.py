"""The same training with several seeds: one table, one picture (the article's own figure of results)."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from troupe.config import TroupeError, UsageError
from troupe.runs.directory import run_name
from troupe.runs.plots import plot_runs
from troupe.trainer import Run, train


def train_seeds(env: str, seeds: Sequence[int], folder: str | None, asked: dict[str, Any]) -> int:
    """Trains once for each seed, in `folder`/seed<k>; returns the exit status.

    A run that fails is reported and the others go on; Ctrl-C ends the run under way and those to come.
    """
    place = Path(folder or f"runs/{run_name(env)}/{datetime.now():%Y-%m-%d_%H%M%S}_seeds{seeds[0]}-{seeds[-1]}")
    taken = [place / f"seed{seed}" for seed in seeds if (place / f"seed{seed}").exists()]
    if taken:
        raise UsageError(f"'{taken[0]}' exists already; name another --run-dir")
    done: list[tuple[int, Run]] = []
    failed = 0
    for seed in seeds:
        try:
            run = train(env, seed=seed, run_dir=place / f"seed{seed}", **asked)
        except TroupeError as error:
            if isinstance(error, UsageError) and not done and not failed:
                raise  # nothing has started: what is wrong for this seed is wrong for all
            failed += 1
            print(f"troupe: seed {seed}: {error}", file=sys.stderr)
            continue
        if run.signal:
            return 128 + run.signal
        done.append((seed, run))
    if done:
        print(_table(done, len(seeds)))
        try:
            plot_runs([run.path for _, run in done], place / "learning.png")
            print(f"picture {place / 'learning.png'}")
        except UsageError as error:  # no episode has ended
            print(f"troupe: no picture: {error}", file=sys.stderr)
    return 1 if failed else 0


def _table(runs: Sequence[tuple[int, Run]], asked: int) -> str:
    lines = ["", f"{'seed':>6}  {'outcome':8}{'mean':>8}{'min':>8}{'max':>8}{'steps':>12}{'seconds':>9}{'steps/s':>10}"]
    means, steps, spent = [], [], []
    for seed, run in runs:
        assert run.scores is not None
        means.append(run.scores.mean)
        steps.append(run.steps)
        spent.append(run.seconds)
        lines.append(
            f"{seed:>6}  {run.outcome:8}{run.scores.mean:>8.1f}{run.scores.returns.min():>8g}"
            f"{run.scores.returns.max():>8g}{run.steps:>12,}{run.seconds:>9.2f}{run.steps / run.seconds:>10,.0f}"
        )
    lines.append(
        f"{len(runs)} of {asked} runs: mean return {np.mean(means):.1f}, lowest {min(means):.1f}; medians: "
        f"{np.median(steps):,.0f} steps, {np.median(spent):.2f} s of training (longest {max(spent):.2f} s)"
    )
    return "\n".join(lines)
