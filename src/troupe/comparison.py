"""`troupe compare`: presets and settings, each with the same seeds, target and limits: a table and a picture."""

import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from troupe import config
from troupe.config import Mode, TrainConfig, TroupeError, UsageError, reason
from troupe.environments import settle
from troupe.runs.callbacks.callback import Callback
from troupe.runs.report import group, statistics
from troupe.runs.report.lines import usual_target
from troupe.runs.store.checkpoint import write_durably
from troupe.runs.store.directory import check_empty, versions
from troupe.runs.store.metrics import Row, read_log, to_json
from troupe.runs.store.summary import summary_of
from troupe.series import Job, Series, directory_of, run_series, show_end
from troupe.text import by_value
from troupe.trainer import train
from troupe.user_code.files import absolute

_ENDS = ("stop.target", "stop.steps", "stop.seconds")


@dataclass(frozen=True)
class Variant:
    """A preset with settings that vary."""

    preset: str
    varied: Mapping[str, Any]
    config: TrainConfig  # with the settings common to all runs

    @property
    def label(self) -> str:
        return ", ".join([self.preset, *(f"{name}={value}" for name, value in self.varied.items())])

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.=,+-]+", "_", self.label.replace(", ", "_"))


def compare(
    env: str,
    presets: Sequence[str],
    seeds: Sequence[int],
    run_dir: str | None = None,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    tuned: bool = True,
    callbacks: Sequence[Callback | str] = (),
    display: Mode = "silent",
) -> int:
    """Trains with every preset, every value of the settings in `vary` and every seed, in `run_dir`/<variant>/seed<k>;
    returns the exit status.

    All have the same target and limits: those of the first preset, unless they are in `settings`. Each seed is trained
    with all variants before the next seed, so that a machine whose speed varies treats them alike. After failures and
    signals the finished runs are still compared, and the same call with the same `run_dir` continues. Raises UsageError
    before any run starts if one of the presets does not allow the settings.
    """
    directory = directory_of(run_dir, env, "compare")
    variants, common = _variants(env, presets, vary or {}, settings or {}, tuned=tuned)
    settle(variants[0].config, env)
    if not group.has_begun(directory):
        check_empty(directory)

    by_label = {variant.label: variant for variant in variants}
    runs = itertools.product(seeds, variants)
    jobs = {Job(each.label, seed, directory / each.folder / f"seed{seed}"): each for seed, each in runs}
    some_tuned = len({each.config.tuned for each in variants}) > 1

    def train_one(job: Job, display: Mode) -> Any:
        each = by_label[job.variant]
        asked = {**common, **each.varied}
        return train(
            env, preset=each.preset, seed=job.seed, run_dir=job.path, settings=asked, tuned=tuned,
            callbacks=callbacks, display=display,
        )  # fmt: skip

    names = {job: each.label + f", {_tuned(each)}" * some_tuned for job, each in jobs.items()}
    asked = {"environment": absolute(env), "tuned": tuned, **common}
    series = run_series(directory, names, asked, train_one, display, variants[0].config, callbacks)
    if series.done or series.failed:
        asked = {"environment": env, "settings": common, "varied": vary or {}, "tuned": tuned, "versions": versions()}
        _write_comparison(asked | _figures(series, variants), directory, list_missing=not series.signal)
    show_end(series, directory / "comparison.png")
    return series.exit_status


def _tuned(variant: Variant) -> str:
    return "tuned" if variant.config.tuned else "untuned"


def _variants(
    env: str, presets: Sequence[str], vary: Mapping[str, Sequence[Any]], settings: Mapping[str, Any], *, tuned: bool
) -> tuple[list[Variant], dict[str, Any]]:
    """All variants, and the settings that are common to them."""
    common = dict(config.flatten(settings))
    variants: list[Variant] = []
    for preset in map(config.load_preset, presets):
        for values in itertools.product(*vary.values()):
            varied = dict(zip(vary, values, strict=True))
            try:
                resolved = config.resolve(env, preset.name, common | varied, tuned=tuned)
                if not variants:
                    ends = {name: config.value_of(resolved, name) for name in _ENDS if name not in varied}
                    common = ends | common
                    resolved = config.resolve(env, preset.name, common | varied, tuned=tuned)
            except UsageError as error:
                raise UsageError(f"preset {preset.name}: {error}") from None
            variants.append(Variant(preset.name, varied, resolved))
    for one, other in itertools.combinations(variants, 2):
        if one.label == other.label:
            raise UsageError(f"{one.label}: it would be trained twice")
        if not {*config.differing(one.config, other.config)} - {"preset", "tuned"}:
            raise UsageError(f"{one.label} and {other.label} have the same settings: it would be trained twice")
    return variants, common


def _figures(series: Series, variants: Sequence[Variant]) -> Row:
    """The measured figures, by variant and by run."""
    runs = [_run_figures(job, series.directory) for job in series.done]
    failed = [{"preset": job.variant, "seed": job.seed, "error": str(error)} for job, error in series.failed.items()]
    by_variant = {}
    for variant in variants:
        done = [run for run in runs if run["preset"] == variant.label]
        failures = sum(failure["preset"] == variant.label for failure in failed)
        if done or failures:
            by_variant[variant.label] = {
                "seeds": len(done) + failures,
                "failed": failures,
                "tuned": variant.config.tuned,
                "limits": {"steps": variant.config.stop.steps, "seconds": variant.config.stop.seconds},
                **variant_figures(done),
            }
    labels = [variant.label for variant in variants]
    returns = {label: [run["evaluation"]["mean_return"] for run in runs if run["preset"] == label] for label in labels}
    return {
        "presets": by_variant,
        "statistics": statistics.of_variants(returns),
        "runs": sorted(runs, key=lambda run: labels.index(run["preset"])),
        "failed": failed,
        "unfinished": [
            {"folder": each.folder, "seed": each.seed, "state": state}
            for each, state in group.unfinished(series.directory)
        ],
    }


def _run_figures(job: Job, directory: Path) -> Row:
    summary = msgspec.to_builtins(summary_of(job.path))
    names = (
        "outcome", "target", "evaluation", "steps", "episodes", "updates", "best_steps",
        "training_seconds", "total_seconds", "steps_per_s",
    )  # fmt: skip
    lag_mean, lag_max = policy_lag(job.path)
    return {
        "preset": job.variant,
        "seed": job.seed,
        "folder": job.path.relative_to(directory).as_posix(),
        **{name: summary[name] for name in names},
        "lag_mean": lag_mean,
        "lag_max": lag_max,
    }


def policy_lag(run: Path) -> tuple[float, int]:
    """Of a whole run: the mean over steps, and the maximum."""
    rows = (row for row in read_log(run) if row.get("kind") == "report")
    reports = [row for row in rows if None not in (row.get("steps"), row.get("lag_mean"))]
    steps = np.diff([row["steps"] for row in reports], prepend=0)
    mean = steps @ np.array([row["lag_mean"] for row in reports]) / max(steps.sum(), 1)
    return round(float(mean), 4), max((row.get("lag_max") or 0 for row in reports), default=0)


def variant_figures(runs: Sequence[Row]) -> Row:
    """Of the runs of one variant."""
    if not runs:
        return {}
    target = usual_target(run["target"] for run in runs)
    returns = [run["evaluation"]["mean_return"] for run in runs]
    steps = [run["steps"] for run in runs]
    solved = [run for run in runs if run["outcome"] == "solved"]
    at_limit = [run for run in runs if run["outcome"] in ("steps", "time")]
    return {
        "target": target,
        "solved": None if target is None else len(solved),
        "mean_return": float(np.mean(returns)),
        "lowest_return": min(returns),
        "median_steps": float(np.median(steps)),
        "median_training_seconds": _median(runs, "training_seconds"),
        "median_seconds_to_target": _median(solved, "training_seconds"),
        "median_seconds_at_limit": _median(at_limit, "training_seconds"),
        "median_steps_per_s": _median(runs, "steps_per_s"),
        "lag_mean": float(np.dot(steps, [run["lag_mean"] for run in runs]) / max(sum(steps), 1)),
        "lag_max": max(run["lag_max"] for run in runs),
    }


def _median(runs: Sequence[Row], name: str) -> float | None:
    return float(np.median([run[name] for run in runs])) if runs else None


def _write_comparison(comparison: Row, directory: Path, *, list_missing: bool) -> None:
    """Prints the table, and writes it and all figures into the directory. `list_missing`: print the runs that are not
    done as well; after a signal the closing lines name them."""
    words = note(comparison["presets"], comparison["runs"])
    spread = [*statistics.markdown(comparison["statistics"]), "", textwrap.fill(statistics.NOTE, width=80)]
    text = "\n".join([*table(comparison["presets"], comparison["runs"]), "", words, "", *spread, ""])
    missing = group.unfinished_words(directory)
    left_out = textwrap.fill(f"Not in these figures: {missing}.", width=80) + "\n\n" if missing else ""
    print(f"\n{left_out * list_missing}{text}")
    title = f"# {comparison['environment']}: {', '.join(comparison['presets'])}"
    try:
        write_durably(directory / "comparison.json", to_json(comparison, indent=2))
        write_durably(directory / "comparison.tex", statistics.latex(comparison["statistics"]).encode())
        write_durably(directory / "comparison.md", f"{title}\n\n{left_out}{text}\n![](comparison.png)\n".encode())
    except OSError as error:
        raise TroupeError(f"'{directory}' cannot be written: {reason(error)}; the runs in it are complete") from error
    print(f"figures {directory / 'comparison.json'}")


_COLUMNS = {  # by heading: the figure and its format
    "mean": ("mean_return", ".1f"),
    "lowest run": ("lowest_return", ".1f"),
    "steps": ("median_steps", ",.0f"),
    "s to target": ("median_seconds_to_target", ",.2f"),
    "s at limit": ("median_seconds_at_limit", ",.2f"),
    "steps/s": ("median_steps_per_s", ",.0f"),
    "lag": ("lag_mean", ".2f"),
    "max lag": ("lag_max", ",.0f"),
}


def table(variants: Mapping[str, Row], runs: Sequence[Row]) -> list[str]:
    """A Markdown table, aligned so that it can be read on a terminal as well; with the targets where they differ."""
    differ = _targets_differ(runs)
    rows = [["preset", "tuned", *["target"] * differ, "solved", *_COLUMNS]]
    for label, figures in variants.items():
        solved = "-" if figures.get("solved") is None else figures["solved"]
        cells = ["-" if figures.get(name) is None else format(figures[name], form) for name, form in _COLUMNS.values()]
        target = [_target_words([run for run in runs if run["preset"] == label])] * differ
        rows.append([label, "yes" if figures["tuned"] else "no", *target, f"{solved} of {figures['seeds']}", *cells])
    return statistics.markdown_table(rows)


def note(variants: Mapping[str, Row], runs: Sequence[Row]) -> str:
    """The target or that targets differ, the limits or those of each, and what the headings mean."""
    several = ", the same for all" * (len({run["preset"] for run in runs}) > 1)
    target = "Targets differ: see the column." if _targets_differ(runs) else f"Target: {_target_words(runs)}{several}."
    limits = _one_or_each((label, _limit(figures["limits"])) for label, figures in variants.items())
    return textwrap.fill(
        f"{target} Limit: {limits}. Tuned: whether the preset has settings of its own for this environment. "
        "Solved: runs whose target was confirmed while training. Mean: of the runs' final evaluations; lowest run: the "
        "lowest of these. Medians: steps and steps/s; s to target, seconds of training of the solved runs; s at limit, "
        "of the runs that ended at the limit. Lag: weight versions between acting and learning, mean over steps; max "
        "lag: the largest.",
        width=80,
    )


def _targets_differ(runs: Sequence[Row]) -> bool:
    return len({run["target"] for run in runs}) > 1


def _target_words(runs: Sequence[Row]) -> str:
    """'150, seed 1: none': the target of the runs of one variant, and of those that were resumed with another."""
    if not runs:
        return "-"
    usual = usual_target(run["target"] for run in runs)
    others = [f"seed {run['seed']}: {_target(run['target'])}" for run in runs if run["target"] != usual]
    return ", ".join([_target(usual), *others])


def _target(target: float | None) -> str:
    return "none" if target is None else f"{target:g}"


def _limit(limits: Mapping[str, float]) -> str:
    steps, seconds = limits["steps"], limits["seconds"]
    words = [f"{steps:,} steps" if steps else "", f"{seconds:g} s" if seconds else ""]
    return " or ".join(filter(None, words)) or "none"


def _one_or_each(values: Iterable[tuple[str, str]]) -> str:
    pairs = list(values)
    differ, several = len({value for _, value in pairs}) > 1, len({name for name, _ in pairs}) > 1
    return "differs: " * differ + by_value(pairs) + ", the same for all" * (several and not differ)


def parse_vary(given: Iterable[str]) -> dict[str, list[str]]:
    """The values of each setting in "learner.learning_rate=1e-3,1e-4". If the setting is a list itself, each item of
    `given` is one value. Raises UsageError."""
    varied: dict[str, list[str]] = {}
    for words in given:
        name, _, values = words.partition("=")
        field = config.fields().get(name)
        whole = field is not None and isinstance(field.default, tuple)
        found = [values] if whole else [value.strip() for value in values.split(",")]
        if not name or not all(found):
            raise UsageError(f"--vary '{words}': expected NAME=VALUE,VALUE,...")
        varied.setdefault(name, []).extend(found)
    return varied
