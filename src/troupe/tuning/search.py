"""`troupe tune`: a search for better settings with Optuna, whose winner is verified with fresh seeds."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from troupe import config as configuration
from troupe.config import TroupeError, UsageError, reason
from troupe.environments import settle
from troupe.extras import need
from troupe.runs.callbacks.find import find as find_callbacks
from troupe.runs.report.statistics import interval
from troupe.runs.store.checkpoint import write_durably
from troupe.runs.store.directory import check_empty, check_free, check_named, run_name
from troupe.runs.store.lock import Lock
from troupe.runtime.measure import cores
from troupe.text import counted, format_return
from troupe.tuning.space import Space, default_space, read_space
from troupe.tuning.trial import Trial
from troupe.tuning.workers import Workers
from troupe.user_code import files

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STEPS = 50_000  # of a trial, unless given
_OF_TRIALS = {  # a trial has one core, and is not measured while others compute
    "stop.steps": STEPS, "stop.target": "none", "evaluation.every_seconds": 0.0, "evaluation.every_steps": 0,
    "evaluation.final_episodes": 1, "learner.threads": 1, "actor.auto": False,
}  # fmt: skip
_STARTUP, _WARMUP = 5, 2  # trials before any is pruned, and parts of each
_FRESH = 1_000  # seeds of the verification are this much larger than those of the search
_POLL_SECONDS = 0.5
_STUDY = "study.db"


@dataclass(frozen=True)
class Search:
    """What is searched. Kept with the study: whoever continues it asks for the same."""

    env: str
    preset: str
    tuned: bool
    seed: int
    settings: Mapping[str, Any]  # of all trials
    space: Space
    callbacks: Sequence[str] = ()  # which need not be the same

    def trial(self, run_dir: Path, seed: int, found: Mapping[str, Any]) -> Trial:
        settings = {**_OF_TRIALS, **self.settings, **found}
        return Trial(self.env, self.preset, self.tuned, seed, settings, run_dir, self.callbacks)

    def decoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.space[name].decoded(value) for name, value in params.items()}

    def describe(self) -> str:
        space = {name: vars(dimension) for name, dimension in self.space.items()}
        asked = vars(self) | {"space": space, "settings": dict(self.settings)}
        del asked["callbacks"]
        return json.dumps(asked, sort_keys=True, default=str)


def tune(
    env: str,
    *,
    preset: str = "appo",
    trials: int = 20,
    seconds: float = 0.0,
    space: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    tuned: bool = True,
    seed: int = 0,
    seeds: int = 5,
    jobs: int | None = None,
    run_dir: str | None = None,
    callbacks: Sequence[str] = (),
) -> bool:
    """Searches for better settings, several trials at once; returns whether fresh seeds confirm that they are better.

    The first trial has the settings that a run has anyway, as far as the space holds them. After `seconds` (0: no
    limit) no trial begins any more. The same call with the same `run_dir` continues after a stop or a crash. Raises
    UsageError before anything starts, TroupeError where no trial has a score.
    """
    need("tune")
    check_named(run_dir)
    given = dict(configuration.flatten(settings or {}))
    config = settle(configuration.resolve(env, preset, {**_OF_TRIALS, **given}, tuned=tuned), env)[0]
    dimensions = read_space(space) if space else default_space(config)
    if space and (twice := dimensions.keys() & given.keys()):
        raise UsageError(f"{min(twice)}: it is given, and varied by {space}; leave one of them out")
    dimensions = {name: dimension for name, dimension in dimensions.items() if name not in given}
    if not dimensions:
        raise UsageError("every setting that a search varies is given; leave some out, or name others by --space")
    find_callbacks(callbacks)
    search = Search(env, preset, tuned, seed, given, dimensions, callbacks)
    directory = Path(run_dir or f"runs/{run_name(env)}/{datetime.now():%Y-%m-%d_%H%M%S}_tune")
    check_free(directory)
    if not (directory / _STUDY).is_file():
        check_empty(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = Lock(directory)
    except OSError as error:
        raise UsageError(f"'{directory}' cannot be written: {reason(error)}") from error
    try:
        study = _opened(directory, search, _values_of(config, dimensions))
        deadline = time.monotonic() + seconds if seconds else float("inf")
        with Workers(jobs or cores()) as workers:
            asked = f"{counted(trials, 'trial')} of {config.stop.steps:,} steps"
            print(f"{env}: {asked}, {workers.most} at once, in {directory}")
            _search(study, search, workers, directory, trials, deadline)
            return _conclude(study, search, workers, directory, seeds)
    except KeyboardInterrupt as stop:
        stop.after = f"; to continue: the same command with --run-dir {directory}"  # type: ignore[attr-defined]
        raise
    finally:
        lock.release()


def _values_of(config: configuration.TrainConfig, space: Space) -> dict[str, Any]:
    """The values that a run has anyway, of the settings whose dimension holds them."""
    values = {name: configuration.value_of(config, name) for name in space}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {name: value for name, value in plain.items() if space[name].holds(value)}


def _opened(directory: Path, search: Search, first: Mapping[str, Any]) -> "Study":
    """The study in the directory, or a new one, whose first trial has the values `first`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{directory.resolve()}/{_STUDY}",
        study_name="troupe",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=search.seed, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARMUP),
    )
    asked = study.user_attrs.get("asked")
    if asked not in (None, search.describe()):
        raise UsageError(f"'{directory}' holds another search: its environment, settings or space differ")
    if asked is None:
        study.set_user_attr("asked", search.describe())
        study.enqueue_trial({name: search.space[name].encoded(value) for name, value in first.items()})
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):  # when the last process was killed
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _search(study: "Study", search: Search, workers: Workers, directory: Path, trials: int, deadline: float) -> None:
    """Runs trials until there are as many as asked for, those of earlier calls included."""
    import optuna
    from optuna.trial import TrialState

    distributions = {name: dimension.distribution() for name, dimension in search.space.items()}
    begun = len(study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED]))
    running: dict[int, optuna.Trial] = {}
    pruned: set[int] = set()
    while True:
        while len(running) < workers.most and begun < trials and time.monotonic() < deadline:
            trial = study.ask(distributions)
            running[trial.number], begun = trial, begun + 1
            run_dir = directory / "trials" / str(trial.number)
            workers.start(trial.number, search.trial(run_dir, search.seed, search.decoded(trial.params)))
        if not running:
            return
        for number, kind, about in workers.messages(_POLL_SECONDS):
            trial = running[number]
            if kind == "score":
                part, score = about
                trial.report(score, part)
                if trial.should_prune():
                    pruned.add(number)
                workers.answer(number, goes_on=number not in pruned)
                continue
            del running[number]
            if kind == "failed" or about[0] is None:
                trial.set_user_attr("why", about[0] or "no episode ended")
                study.tell(trial, state=TrialState.FAIL)
            elif number in pruned:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, about[0])
            print(_row(study.trials[number], search), flush=True)


def _row(trial: "FrozenTrial", search: Search) -> str:
    """What became of a trial, in a line."""
    name = trial.state.name.lower()
    last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
    score = {"complete": format_return(trial.value), "pruned": f"{format_return(last)}, pruned"}
    values = ", ".join(f"{name} {_text(value)}" for name, value in search.decoded(trial.params).items())
    return f"trial {trial.number:3}  {score.get(name) or trial.user_attrs['why']}  ({values})"


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _conclude(study: "Study", search: Search, workers: Workers, directory: Path, seeds: int) -> bool:
    """Verifies the best trial, and writes and prints what came of it; returns whether it is better."""
    from optuna.trial import TrialState

    complete = study.get_trials(states=[TrialState.COMPLETE])
    if not complete:
        why = [trial.user_attrs["why"] for trial in study.trials if "why" in trial.user_attrs]
        raise TroupeError(f"no trial has a score: {why[0] if why else 'there was no time for one'}")
    best = max(complete, key=lambda trial: trial.value or 0.0)
    found = search.decoded(best.params)
    print(f"best: trial {best.number}, score {format_return(best.value)}; with {seeds} fresh seeds:", flush=True)
    runs = {f"trial{best.number}": found, "defaults": {}}
    scores = _verified(
        study, search, workers, directory, runs, range(search.seed + _FRESH, search.seed + _FRESH + seeds)
    )
    ours, theirs = (np.array(each)[:, None] for each in scores.values())
    low, high = interval(lambda one, other: (one - other).mean(axis=(-2, -1)), ours, theirs)
    better = low > 0
    verdict = [
        f"mean score {format_return(ours.mean())}, and {format_return(theirs.mean())} of the settings without it",
        f"the difference is {format_return(low)} to {format_return(high)} (95 % bootstrap interval): "
        + ("it is better" if better else "it is worse" if high < 0 else "it is not shown to be better"),
    ]
    file = directory / "best.toml"
    about = [f"{search.env}: trial {best.number} of {len(study.trials)}; with {seeds} fresh seeds", *verdict]
    environment = {"env.id": files.absolute(search.env)}
    content = {"preset": search.preset, "tuned": search.tuned, **_nested({**environment, **search.settings, **found})}
    content.get("stop", {}).pop("steps", None)  # of a trial
    text = "".join(f"# {line}\n" for line in about) + tomli_w.dumps(content)
    try:
        write_durably(file, text.encode())
    except OSError as error:
        raise TroupeError(f"{file} cannot be written: {reason(error)}") from error
    print("\n".join([*(f"  {line}" for line in verdict), f"to train with it: troupe train --config {file}"]))
    return better


def _verified(
    study: "Study", search: Search, workers: Workers, directory: Path, runs: Mapping[str, Any], seeds: range
) -> dict[str, list[float]]:
    """The scores of the runs with each seed; those of earlier calls are kept with the study. Raises TroupeError."""
    known: dict[str, float] = dict(study.user_attrs.get("verified", {}))
    left = [(name, seed) for seed in seeds for name in runs if f"{name} {seed}" not in known]
    while left or workers.running:
        while left and workers.running < workers.most:
            name, seed = left.pop(0)
            run_dir = directory / "verified" / name / f"{datetime.now():%H%M%S}_seed{seed}"
            workers.start(f"{name} {seed}", search.trial(run_dir, seed, runs[name]))
        for key, kind, about in workers.messages(_POLL_SECONDS):
            if kind == "score":
                workers.answer(key, goes_on=True)
            elif kind == "failed" or about[0] is None:
                raise TroupeError(f"{key}: {about[0] or 'no episode ended'}")
            else:
                known[key] = about[0]
                study.set_user_attr("verified", known)
    return {name: [known[f"{name} {seed}"] for seed in seeds] for name in runs}


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, leaf = name.split(".")
        table = nested
        for section in sections:
            table = table.setdefault(section, {})
        table[leaf] = value
    return nested
