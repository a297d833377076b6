"""Several runs, one after another: `troupe train --seeds` and `troupe compare`, each with a table and a picture."""

import json
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from troupe import config
from troupe.config import TroupeError, UsageError, one_line, reason
from troupe.environments import settle
from troupe.run import Run, saved_run
from troupe.runs.report.display import Mode
from troupe.runs.report.plots import plot_runs
from troupe.runs.store.checkpoint import write_durably
from troupe.runs.store.directory import check_free, check_named, run_name, versions
from troupe.runs.store.metrics import Row, read_metrics, to_json
from troupe.text import format_return, table
from troupe.trainer import train


class Job(NamedTuple):
    """One run of a series."""

    label: str  # in messages
    preset: str
    seed: int
    path: Path  # its run directory


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


def _draw(series: Series, picture: Path) -> None:
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


def _directory(asked: str | None, env: str, suffix: str) -> Path:
    check_named(asked)
    return Path(asked or f"runs/{run_name(env)}/{datetime.now():%Y-%m-%d_%H%M%S}_{suffix}")


# Several seeds


def train_seeds(
    env: str, seeds: Sequence[int], run_dir: str | None = None, *, preset: str = "appo", **options: Any
) -> int:
    """Trains once with each seed, in `run_dir`/seed<k>; returns the exit status. `options` are those of `train`."""
    directory = _directory(run_dir, env, f"seeds{seeds[0]}-{seeds[-1]}")
    jobs = [Job(f"seed {seed}", preset, seed, directory / f"seed{seed}") for seed in seeds]
    for job in jobs:
        if job.path.exists():
            raise UsageError(f"'{job.path}' exists already; name another --run-dir")
    series = run_series(jobs, lambda job: train(env, preset=preset, seed=job.seed, run_dir=job.path, **options))
    if series.done:
        print("\n".join(["", *_seeds_table(series.done, len(jobs))]))
        _draw(series, directory / "learning.png")
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


# Several presets


def compare(
    env: str,
    presets: Sequence[str],
    seeds: Sequence[int],
    run_dir: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    tuned: bool = True,
    display: Mode = "silent",
) -> int:
    """Trains with every preset and seed, in `run_dir`/<preset>/seed<k>; returns the exit status.

    Each seed is trained with all presets before the next seed, so that a machine whose speed varies treats them
    alike. After failures and signals the finished runs are still compared. Raises UsageError before any run starts
    where one of the presets does not allow the settings.
    """
    directory = _directory(run_dir, env, "compare")
    for preset in map(config.load_preset, presets):
        try:
            config.resolve(env, preset.name, settings, tuned=tuned)
        except UsageError as error:
            raise UsageError(f"preset {preset.name}: {error}") from None
    settle(config.resolve(env, presets[0], settings, tuned=tuned), env)
    check_free(directory)
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"'{directory}' is not empty; name another --run-dir")

    jobs = [
        Job(f"{preset}, seed {seed}", preset, seed, directory / preset / f"seed{seed}")
        for seed in seeds
        for preset in presets
    ]
    one = partial(train, env, settings=settings, tuned=tuned, display=display)
    series = run_series(jobs, lambda job: one(preset=job.preset, seed=job.seed, run_dir=job.path))
    if series.done or series.failed:
        asked = {"environment": env, "settings": settings or {}, "tuned": tuned, "versions": versions()}
        _write_comparison(asked | _figures(series, presets, directory), directory)
        _draw(series, directory / "comparison.png")
    return series.exit_status


def _figures(series: Series, presets: Sequence[str], directory: Path) -> Row:
    """What was measured, by preset and by run."""
    runs = [_run_figures(job, directory) for job in series.done]
    failed = [{"preset": job.preset, "seed": job.seed, "error": str(error)} for job, error in series.failed.items()]
    by_preset = {}
    for preset in presets:
        done = [run for run in runs if run["preset"] == preset]
        failures = sum(failure["preset"] == preset for failure in failed)
        if done or failures:
            by_preset[preset] = {"seeds": len(done) + failures, "failed": failures, **_preset_figures(done)}
    return {"presets": by_preset, "runs": sorted(runs, key=lambda run: presets.index(run["preset"])), "failed": failed}


def _run_figures(job: Job, directory: Path) -> Row:
    summary = json.loads((job.path / "summary.json").read_bytes())
    names = (
        "outcome", "target", "evaluation", "steps", "episodes", "updates", "best_steps",
        "training_seconds", "total_seconds", "steps_per_s",
    )  # fmt: skip
    lag_mean, lag_max = policy_lag(job.path)
    return {
        "preset": job.preset,
        "seed": job.seed,
        "folder": job.path.relative_to(directory).as_posix(),
        **{name: summary[name] for name in names},
        "lag_mean": lag_mean,
        "lag_max": lag_max,
    }


def policy_lag(run: Path) -> tuple[float, int]:
    """Of a whole run: the mean over steps, and the maximum."""
    reports = [row for row in read_metrics(run) if row["kind"] == "report"]
    steps = np.diff([row["steps"] for row in reports], prepend=0)
    mean = steps @ np.array([row["lag_mean"] for row in reports]) / max(steps.sum(), 1)
    return round(float(mean), 4), max((row["lag_max"] for row in reports), default=0)


def _preset_figures(runs: Sequence[Row]) -> Row:
    if not runs:
        return {}
    target = runs[0]["target"]
    returns = [run["evaluation"]["mean_return"] for run in runs]
    steps = [run["steps"] for run in runs]
    return {
        "target": target,
        "solved": None if target is None else sum(run["outcome"] == "solved" for run in runs),
        "mean_return": float(np.mean(returns)),
        "lowest_return": min(returns),
        "median_steps": float(np.median(steps)),
        "median_training_seconds": float(np.median([run["training_seconds"] for run in runs])),
        "median_steps_per_s": float(np.median([run["steps_per_s"] for run in runs])),
        "lag_mean": float(np.dot(steps, [run["lag_mean"] for run in runs]) / max(sum(steps), 1)),
        "lag_max": max(run["lag_max"] for run in runs),
    }


def _write_comparison(comparison: Row, directory: Path) -> None:
    """Prints the table, and writes it and all figures into the directory."""
    text = "\n".join([*_presets_table(comparison["presets"]), "", _note(comparison["presets"]), ""])
    print(f"\n{text}")
    title = f"# {comparison['environment']}: {', '.join(comparison['presets'])}"
    try:
        write_durably(directory / "comparison.json", to_json(comparison, indent=2))
        write_durably(directory / "comparison.md", f"{title}\n\n{text}\n![](comparison.png)\n".encode())
    except OSError as error:
        raise TroupeError(f"'{directory}' cannot be written: {reason(error)}; the runs in it are complete") from error
    print(f"figures {directory / 'comparison.json'}")


_COLUMNS = {  # by heading: the figure and its format
    "mean": ("mean_return", ".1f"),
    "lowest": ("lowest_return", ".1f"),
    "steps": ("median_steps", ",.0f"),
    "seconds": ("median_training_seconds", ",.2f"),
    "steps/s": ("median_steps_per_s", ",.0f"),
    "lag": ("lag_mean", ".2f"),
    "max lag": ("lag_max", ",.0f"),
}


def _presets_table(presets: Mapping[str, Row]) -> list[str]:
    """In Markdown, aligned so that it reads as well on a terminal."""
    rows = [["preset", "solved", *_COLUMNS]]
    for preset, figures in presets.items():
        solved = "-" if figures.get("solved") is None else figures["solved"]
        cells = [format(figures[name], form) if name in figures else "-" for name, form in _COLUMNS.values()]
        rows.append([preset, f"{solved} of {figures['seeds']}", *cells])
    head, *lines = (f"| {line} |" for line in table(rows, "<" + ">" * (len(rows[0]) - 1), " | "))
    first, *others = head.strip("|").split("|")
    rule = [f" :{'-' * (len(first) - 3)} ", *(f" {'-' * (len(cell) - 3)}: " for cell in others)]
    return [head, f"|{'|'.join(rule)}|", *lines]


def _note(presets: Mapping[str, Row]) -> str:
    """What the headings mean; each preset's target where they differ."""
    targets = {preset: figures["target"] for preset, figures in presets.items() if "target" in figures}
    words = {preset: "none" if target is None else f"{target:g}" for preset, target in targets.items()}
    if len(set(words.values())) > 1:
        target = ", ".join(f"{preset} {word}" for preset, word in words.items())
    else:
        target = next(iter(words.values()), "none")
    return textwrap.fill(
        f"Solved: the target ({target}) was confirmed while training. Mean and lowest: of the final evaluations. "
        "Steps, seconds of training and steps/s: medians. Lag: policy versions between acting and learning, "
        "mean over steps.",
        width=80,
    )
