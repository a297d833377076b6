"""Several runs, one after another: `troupe train --seeds`, and what `troupe compare` shares with it.

The same command continues in the same directory: runs that are done are kept, the others resumed or begun.
"""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from troupe.config import Mode, TrainConfig, TroupeError, UsageError, flatten, one_line, resolve
from troupe.run import Run, outcome_text, saved_run
from troupe.runs.callbacks.callback import Callback
from troupe.runs.evaluate.scores import remarks
from troupe.runs.report import group
from troupe.runs.report.group import Member
from troupe.runs.store.directory import check_named, run_name
from troupe.runs.store.summary import FinalScores, summary_of
from troupe.runtime.cluster.placement import connected, runs_at_a_time
from troupe.side_by_side import side_by_side
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


@dataclass(frozen=True)
class Outcome:
    """What came of one run, perhaps in a process of its own."""

    error: TroupeError | None = None
    scored: bool = False
    signal: int = 0
    words: str = ""


TrainOne = Callable[[Job, Mode], Run]


def run_series(
    directory: Path,
    jobs: Mapping[Job, str],
    asked: Mapping[str, Any],
    train_one: TrainOne,
    display: Mode,
    config: TrainConfig,
    callbacks: Sequence[Callback | str] = (),
) -> Series:
    """Trains the jobs in order, those that are not done; `jobs` have the names of their lines in the picture, and
    `asked` is what all have in common. A failed run is reported and the next one starts; a signal ends the series.
    `callbacks` are for the runs that are resumed. Where `config`, that of one of them, has hosts, as many runs as those
    have cores for are under way at a time.

    Raises the UsageError of the first that is trained: it would be the same for all.
    """
    members = {job: Member(job.path.relative_to(directory).as_posix(), name, job.seed) for job, name in jobs.items()}
    group.begin(directory, asked, list(members.values()))
    series = Series(directory)
    series.done += [job for job in jobs if group.state_of(job.path) == "done"]
    if series.done:
        print(f"{len(series.done)} of {len(jobs)} runs are done already")
    left = [job for job in jobs if job not in series.done]
    trained: list[Job] = []

    def note(job: Job, outcome: Outcome | TroupeError) -> None:
        error = outcome if isinstance(outcome, TroupeError) else outcome.error
        if isinstance(error, UsageError) and not trained:
            group.forget(directory)
            raise error
        trained.append(job)
        if error is not None:
            series.failed[job] = error
            print(f"troupe: {job.label}: {one_line(error)}", file=sys.stderr)
        elif isinstance(outcome, Outcome):
            series.done += [job] if outcome.scored else []
            series.signal = series.signal or outcome.signal

    def note_and_say(job: Job, outcome: Outcome | TroupeError) -> None:
        note(job, outcome)
        if isinstance(outcome, Outcome) and outcome.words:
            print(f"{job.label}: {outcome.words}", flush=True)

    try:
        with connected(config):
            most = runs_at_a_time(config)
            if most > 1 and len(left) > 1:
                print(f"{len(left)} runs, up to {most} at a time on {config.actor.cluster}")
                work = partial(_train, train_one, callbacks, "silent")
                side_by_side(left, work, most, note_and_say)
            else:
                for job in left:
                    note(job, _train(train_one, callbacks, display, job))
                    if series.signal:
                        break
    except KeyboardInterrupt as stop:  # between two runs, where no trainer handles it
        series.signal = stop.args[0] if stop.args else signal.SIGINT
        print("troupe: interrupted", file=sys.stderr)
    series.done.sort(key=list(jobs).index)
    return series


def _train(train_one: TrainOne, callbacks: Sequence[Callback | str], display: Mode, job: Job) -> Outcome:
    try:
        begun = group.state_of(job.path) != "not started"
        run = resume(job.path, callbacks=callbacks, display=display) if begun else train_one(job, display)
    except (KeyboardInterrupt, SystemExit) as stop:
        run = saved_run(stop)
    except TroupeError as error:
        return Outcome(error)
    reached = f"mean evaluation return {format_return(run.scores.mean)}" if run.scores else "no final evaluation"
    return Outcome(
        None, run.scores is not None, run.signal, f"{outcome_text(run.outcome)}: {reached}, {run.steps:,} steps"
    )


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

    display = options.pop("display")
    resolved = resolve(absolute(env), options["preset"], options.get("settings"), tuned=options.get("tuned", True))

    def train_one(job: Job, display: Mode) -> Run:
        return train(env, seed=job.seed, run_dir=job.path, display=display, **options)

    series = run_series(directory, jobs, asked, train_one, display, resolved, options.get("callbacks", ()))
    if series.done:
        print("\n".join(["", *_seeds_table(series.done, len(jobs))]))
    show_end(series, directory / "learning.png")
    return series.exit_status


def _seeds_table(jobs: Sequence[Job], total: int) -> list[str]:
    """A row for each run, and a line about all of them."""
    rows = [("seed", "outcome", "mean", "min", "max", "steps", "seconds", "steps/s", "")]
    means, steps, seconds = list[float](), list[int](), list[float]()
    for job in jobs:
        summary = summary_of(job.path)
        scores = summary.evaluation or FinalScores()
        remark = remarks(scores.cut_off, scores.unfinished)
        means.append(scores.mean_return)
        steps.append(summary.steps)
        seconds.append(summary.training_seconds)
        rows.append((
            str(job.seed), summary.outcome, format_return(means[-1]), f"{scores.min_return:g}",
            f"{scores.max_return:g}", f"{steps[-1]:,}", f"{seconds[-1]:.2f}", f"{summary.steps_per_s:,.0f}",
            f"{scores.episodes} episodes{remark}" if remark else "",
        ))  # fmt: skip
    return [
        *table(rows, "><>>>>>>"),
        f"{len(jobs)} of {total} runs: mean evaluation return {format_return(float(np.mean(means)))}, "
        f"lowest {format_return(min(means))}; medians: {np.median(steps):,.0f} steps, "
        f"{np.median(seconds):.2f} s of training (longest {max(seconds):.2f} s)",
    ]
