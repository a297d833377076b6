"""Several presets on one environment, each with the same seeds: one table, one picture."""

import json
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from troupe import config
from troupe.config import TroupeError, UsageError, reason
from troupe.environments import settle
from troupe.run import Run
from troupe.runs.report.display import Mode
from troupe.runs.report.seeds import Series, draw, train_in_turn
from troupe.runs.store.checkpoint import write_durably
from troupe.runs.store.directory import check_free, check_named, run_name, versions
from troupe.runs.store.metrics import Row, read_metrics, to_json
from troupe.trainer import train

Cell = tuple[str, int]  # preset and seed


def compare(
    env: str,
    presets: Sequence[str],
    seeds: Sequence[int],
    folder: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    tuned: bool = True,
    display: Mode = "silent",
) -> int:
    """Trains with every preset and seed, in `folder`/<preset>/seed<k>; returns the exit status.

    Each seed goes round all presets before the next one, so that a machine whose speed wanders treats
    them alike. A run that fails is reported and the others go on; Ctrl-C ends the run under way and
    those to come, and what is done is compared all the same. Raises UsageError before anything starts
    where one of the presets cannot be what was asked for.
    """
    check_named(folder)
    for preset in map(config.load_preset, presets):
        try:
            config.resolve(env, preset.name, settings, tuned=tuned)
        except UsageError as error:
            raise UsageError(f"preset {preset.name}: {error}") from None
    settle(config.resolve(env, presets[0], settings, tuned=tuned), env)
    place = Path(folder or f"runs/{run_name(env)}/{datetime.now():%Y-%m-%d_%H%M%S}_compare")
    check_free(place)
    if place.exists() and any(place.iterdir()):
        raise UsageError(f"'{place}' is not empty; name another --run-dir")

    one = partial(train, env, settings=settings, tuned=tuned, display=display)
    runs: dict[Cell, Callable[[], Run]] = {
        (preset, seed): partial(one, preset=preset, seed=seed, run_dir=place / preset / f"seed{seed}")
        for seed in seeds
        for preset in presets
    }
    series = train_in_turn(runs, lambda cell: f"{cell[0]}, seed {cell[1]}")
    if series.done or series.failed:
        told = {"environment": env, "settings": settings or {}, "tuned": tuned, "versions": versions()}
        _conclude(told | _figures(series, presets, place), place)
    return series.status


def _figures(series: Series[Cell], presets: Sequence[str], place: Path) -> Row:
    """What was measured, by preset and by run."""
    runs = [_figures_of_run(*cell, run.path, place) for cell, run in series.done.items()]
    failed = [{"preset": cell[0], "seed": cell[1], "error": str(error)} for cell, error in series.failed.items()]
    by_preset = {}
    for preset in presets:
        done = [run for run in runs if run["preset"] == preset]
        failures = sum(failure["preset"] == preset for failure in failed)
        if done or failures:
            by_preset[preset] = {"seeds": len(done) + failures, "failed": failures, **_figures_of_preset(done)}
    return {"presets": by_preset, "runs": sorted(runs, key=lambda run: presets.index(run["preset"])), "failed": failed}


def _figures_of_run(preset: str, seed: int, run: Path, place: Path) -> Row:
    summary = json.loads((run / "summary.json").read_bytes())
    names = (
        "outcome", "target", "evaluation", "steps", "episodes", "updates", "best_steps",
        "training_seconds", "total_seconds", "steps_per_s",
    )  # fmt: skip
    lag_mean, lag_max = policy_lag(run)
    return {
        "preset": preset,
        "seed": seed,
        "folder": run.relative_to(place).as_posix(),
        **{name: summary[name] for name in names},
        "lag_mean": lag_mean,
        "lag_max": lag_max,
    }


def policy_lag(run: Path) -> tuple[float, int]:
    """Of a whole run: the mean by step, and the maximum."""
    reports = [row for row in read_metrics(run) if row["kind"] == "report"]
    steps = np.diff([row["steps"] for row in reports], prepend=0)
    mean = steps @ np.array([row["lag_mean"] for row in reports]) / max(steps.sum(), 1)
    return round(float(mean), 4), max((row["lag_max"] for row in reports), default=0)


def _figures_of_preset(runs: Sequence[Row]) -> Row:
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


def _conclude(comparison: Row, place: Path) -> None:
    """Prints the table, and leaves it with all figures and the picture in the comparison's folder."""
    text = f"{_table(comparison['presets'])}\n\n{_note(comparison['presets'])}\n"
    print(f"\n{text}")
    title = f"# {comparison['environment']}: {', '.join(comparison['presets'])}"
    try:
        write_durably(place / "comparison.json", to_json(comparison, indent=2))
        write_durably(place / "comparison.md", f"{title}\n\n{text}\n![](comparison.png)\n".encode())
    except OSError as error:
        raise TroupeError(f"'{place}' cannot be written: {reason(error)}; the runs in it are whole") from error
    print(f"figures {place / 'comparison.json'}")
    drawn = [place / run["folder"] for run in comparison["runs"] if run["episodes"]]
    for run in comparison["runs"]:
        if not run["episodes"]:
            print(f"troupe: {run['preset']}, seed {run['seed']}: not in the picture: no episode ended", file=sys.stderr)
    if drawn:
        draw(drawn, place / "comparison.png")


_COLUMNS = {  # by heading: the figure and its form
    "mean": ("mean_return", ".1f"),
    "lowest": ("lowest_return", ".1f"),
    "steps": ("median_steps", ",.0f"),
    "seconds": ("median_training_seconds", ",.2f"),
    "steps/s": ("median_steps_per_s", ",.0f"),
    "lag": ("lag_mean", ".2f"),
    "max lag": ("lag_max", ",.0f"),
}


def _table(presets: Mapping[str, Row]) -> str:
    """In Markdown, aligned so that it reads as well on a terminal."""
    rows = [["preset", "solved", *_COLUMNS]]
    for preset, figures in presets.items():
        solved = "-" if figures.get("solved") is None else figures["solved"]
        cells = [format(figures[name], form) if name in figures else "-" for name, form in _COLUMNS.values()]
        rows.append([preset, f"{solved} of {figures['seeds']}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _note(presets: Mapping[str, Row]) -> str:
    """What the headings mean; targets one by one where they differ."""
    targets = {preset: figures["target"] for preset, figures in presets.items() if "target" in figures}
    words = {preset: "none" if target is None else f"{target:g}" for preset, target in targets.items()}
    if len(set(words.values())) > 1:
        target = ", ".join(f"{preset} {word}" for preset, word in words.items())
    else:
        target = next(iter(words.values()), "none")
    return textwrap.fill(
        f"Solved: the target ({target}) was confirmed while training. Mean and lowest: of the final evaluations. "
        "Steps, seconds of training and steps/s: medians. Lag: policy versions from acting to learning, by step.",
        width=80,
    )
