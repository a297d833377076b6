"""Training: `train` begins a run and `resume` continues one."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec

import gymnasium as gym
from torch import nn

from troupe import config as configuration
from troupe import hints, no_effect
from troupe.config import Mode, TrainConfig, UsageError
from troupe.environments import EnvironmentSource, name_of, of_run, quiet_gymnasium, settle
from troupe.importing import announced
from troupe.networks.custom import AnyNetwork, NetworkMaker, find_network, name_of_network, network_of_run
from troupe.networks.user_encoder import ENCODERS
from troupe.preparation import fit
from troupe.ranks import meeting
from troupe.ranks.follower import follow, lead
from troupe.run import Run, limit_reached
from troupe.runs.callbacks.callback import Callback
from troupe.runs.callbacks.find import find as find_callbacks
from troupe.runs.report.display import Display
from troupe.runs.store import checkpoint, weights
from troupe.runs.store.directory import RunDirectory, check_free, check_named, newest_first
from troupe.runs.store.summary import summary_of
from troupe.runtime import choices
from troupe.runtime.cluster.placement import connected
from troupe.runtime.initial_network import with_any_weights
from troupe.runtime.journal import FILE as JOURNAL
from troupe.runtime.learning import annealing
from troupe.runtime.learning.group import Alone
from troupe.session import Session
from troupe.user_code import files
from troupe.user_code.trust import check as check_trust

EnvironmentMaker = Callable[..., gym.Env[Any, Any]]
NameOrCallable = str | Callable[..., Any]
P = ParamSpec("P")
_ARGUMENTS = {  # of `train` that are short for settings
    "stop.steps": "steps", "stop.seconds": "seconds", "stop.target": "target", "network.custom": "network",
    "loss.kind": "loss", "learner.optimizer": "optimizer", "network.encoder": "encoder", "env.backend": "backend",
    "actor.placement": "placement", "actor.cluster": "cluster",
}  # fmt: skip


def _settings_suggested(function: Callable[P, Run]) -> Callable[P, Run]:
    """In the TypeError for an argument that does not exist, such as gamma=0.9: how settings are given."""

    @wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> Run:
        for name in named.keys() - inspect.signature(function).parameters.keys():
            likely = configuration.likely(name, configuration.fields(), _ARGUMENTS)
            found = [f"settings={{'{each}': ...}}" if "." in each else f"{each}=" for each in likely]
            hint = f"; did you mean {' or '.join(found)}?" if found else ""
            raise TypeError(f"train() has no argument '{name}'{hint}")
        return function(*args, **named)

    return call


@_settings_suggested
@configuration.checked
@quiet_gymnasium()
def train(
    env: str | EnvironmentMaker,
    *,
    preset: str = "appo",
    seed: int = 0,
    steps: int | None = None,
    seconds: float | None = None,
    target: float | Literal["auto", "none"] | None = None,
    network: AnyNetwork | None = None,
    loss: NameOrCallable | None = None,
    optimizer: NameOrCallable | None = None,
    encoder: NameOrCallable | None = None,
    backend: NameOrCallable | None = None,
    placement: NameOrCallable | None = None,
    cluster: str | None = None,
    run_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    tuned: bool = True,
    schedules: Mapping[str, NameOrCallable] | None = None,
    callbacks: Sequence[Callback | str] = (),
    learners: int = 1,
    display: Mode = "auto",
) -> Run:
    """Trains an agent and returns the run.

    `env` is an id, `path/to/file.py:factory` or a callable that makes one environment. `network` is a
    module that maps observations [N, ...] to (logits [N, A], values [N]), a callable that makes one from the two
    spaces (or from nothing), or the name of either, `path/to/file.py:NAME`. `settings` maps dotted names to values
    ("learner.epochs": 8); `steps`, `seconds` and `target` are short for those of `stop`; `loss`, `optimizer`,
    `encoder`, `backend` and `placement` are callables of your own, or names (docs/extending.md): short for
    "loss.kind", "learner.optimizer", "network.encoder", "env.backend" and "actor.placement". `env_kwargs` are arguments
    of the environment or its factory, passed unchanged; in `settings` they are "env.kwargs.NAME", and text is converted
    to the types of its signature. `cluster` is the address of a Ray cluster whose hosts run the actors, or "auto"
    (docs/cluster.md): short for "actor.cluster".

    `schedules` maps "learning_rate", "entropy_coefficient" or "clip" to a function of the share of `steps` that is
    done, from 0 to 1, which gives a factor of that setting: short for those of "schedules".

    `callbacks` are called while it trains: objects of subclasses of `Callback`, names of what makes one,
    and the trackers "wandb" and "mlflow".

    `learners` processes on this machine learn together from one gradient, each with its own actors; under torchrun
    every process does, and only rank 0's call returns (docs/learners.md).

    `display` "auto" shows progress on a terminal and in a notebook and is silent elsewhere; "plain" writes lines,
    "quiet" only the outcome, "silent" nothing.

    Raises UsageError before anything starts, TroupeError if the run fails; both say why in one line. A signal
    ends the run in order, and is then raised as KeyboardInterrupt (Ctrl-C) or SystemExit (SIGTERM,
    SIGHUP) with the run as the exception's `run`.
    """
    call = dict(locals()) | {"learners": 1, "display": "silent", "callbacks": ()}
    check_named(run_dir)
    short: dict[str, Any] = {"seed": seed, "stop.steps": steps, "stop.seconds": seconds, "stop.target": target}
    short["actor.cluster"] = cluster
    own = {"loss": loss, "optimizer": optimizer, "encoder": encoder, "backend": backend, "placement": placement}
    given = choices.named({**(settings or {}), **_short_for_schedules(schedules)}, **own)
    given |= {name: value for name, value in short.items() if value is not None}
    given |= {} if network is None else {"network.custom": name_of_network(network)}
    resolved = configuration.resolve(name_of(env), preset, given, tuned=tuned)
    names = [name for name, _ in configuration.flatten(given)]
    leads, quiet = meeting.of_environment()[0] == 0, display in ("quiet", "silent")
    if leads and run_dir is not None:
        check_free(Path(run_dir))
    called = find_callbacks(callbacks) if leads else ()
    meeting.check(learners, resolved)
    saying = "making and measuring environments ..."
    ranks = max(learners, meeting.of_environment()[1])
    with connected(resolved, quiet=quiet, ranks=ranks) if leads else nullcontext():
        with nullcontext() if quiet else announced(saying):
            asked, source = settle(resolved, env, env_kwargs)
            asked, made = choices.settle(asked), find_network(network, asked)
        with meeting.join(learners, "train", call, configuration.by_name(asked)) as group:
            if group.rank:
                follow(group, lambda _: (source, made))
            with nullcontext() if quiet else announced(saying):
                config, findings = fit(asked, source, made, names)
            findings += [*no_effect.notices(config, names), *group.notes]
            measured = configuration.differing(asked, config)
            lead(group, config, annealing.annealing(config))
            hosts = resolved.actor.cluster != "none"
            with announced("starting actors on the hosts ...") if hosts and not quiet else nullcontext():
                session = Session(
                    config, source, made, display, findings=findings, measured=measured, callbacks=called, group=group
                )
            with RunDirectory.new(config, run_dir) as directory:
                return session.run(directory)


@configuration.checked
@quiet_gymnasium()
def resume(
    run: str | os.PathLike[str],
    *,
    steps: int | None = None,
    seconds: float | None = None,
    target: float | str | None = None,
    on_collapse: str | None = None,
    anneal_steps: int | Literal["auto"] | None = None,
    env: str | EnvironmentMaker | None = None,
    network: AnyNetwork | None = None,
    loss: NameOrCallable | None = None,
    optimizer: NameOrCallable | None = None,
    encoder: NameOrCallable | None = None,
    backend: NameOrCallable | None = None,
    placement: NameOrCallable | None = None,
    cluster: str | None = None,
    schedules: Mapping[str, NameOrCallable] | None = None,
    callbacks: Sequence[Callback | str] = (),
    learners: int = 1,
    trust: bool = False,
    display: Mode = "auto",
) -> Run:
    """Continues a run from its newest whole checkpoint, to its own limits or to new ones.

    One that was killed before its first checkpoint starts over from its config.toml; one that was stopped in its final
    evaluation is evaluated. Raises what `train` raises; UsageError also if another process writes there.

    `steps` and `seconds` are totals that include what the run has already made. `target` (a return, "auto" or "none"),
    `on_collapse`, "report" or "rollback", `anneal_steps` (0: a constant learning rate; "auto": down to a quarter
    at the limit on steps) and `cluster` ("none": this machine) replace what the run was given before. `env`, `network`,
    `loss`, `schedules` and the like are needed only if the run was trained with callables passed from Python, or if a
    file has moved; those of files it finds by name. Files and modules that you have not trained with are imported only
    with `trust` (SECURITY.md). `callbacks` and `learners`, as for `train`, are not remembered.
    """
    call = dict(locals()) | {"learners": 1, "display": "silent", "callbacks": ()}
    path = Path(run)
    if leads := meeting.of_environment()[0] == 0:
        config = checkpoint.read_config(path)  # raises if this is not a run directory
        config = config if cluster is None else configuration.replace(config, {"actor.cluster": cluster})
        meeting.check(learners, config)
    changes = {"stop.steps": steps, "stop.seconds": seconds, "stop.target": target}
    changes |= {"collapse.answer": on_collapse, "learner.anneal_steps": anneal_steps}
    changes["env.id"] = env if isinstance(env, str) else None
    changes["network.custom"] = network if isinstance(network, str) else None
    own = {"loss": loss, "optimizer": optimizer, "encoder": encoder, "backend": backend, "placement": placement}
    changes = {
        name: files.absolute(value) if isinstance(value, str) else value
        for name, value in choices.named(changes | _short_for_schedules(schedules), **own).items()
    }
    changes["actor.cluster"] = cluster
    ranks = max(learners, meeting.of_environment()[1])
    hosts = connected(config, ranks=ranks) if leads else nullcontext()  # first, so that ranks started here find it
    with hosts, meeting.join(learners, "resume", call, changes) as group:
        if not leads:
            follow(group, lambda config: _parts(path, config, env, network))
        with RunDirectory(path) as directory:  # locked before it is read
            called = find_callbacks(callbacks)
            return _resumed(path, changes, env, network, called, display, group, trust=trust).run(directory)


def _short_for_schedules(schedules: Mapping[str, NameOrCallable] | None) -> dict[str, Any]:
    return {f"schedules.{name}": value for name, value in (schedules or {}).items()}


def _resumed(
    path: Path,
    changes: Mapping[str, Any],
    env: str | EnvironmentMaker | None,
    network: AnyNetwork | None,
    callbacks: Sequence[Callback],
    display: Mode,
    group: Alone,
    *,
    trust: bool,
) -> Session:
    before = checkpoint.read_config(path)
    given = {name: value for name, value in changes.items() if value is not None}
    named = [(name, files.path_of(name)) for name in given.values() if isinstance(name, str)]
    there = [name for name, file in named if file and file.is_file()]
    given |= {f"env.files.{file}": digest for file, digest in files.digests(there).items()}
    config = configuration.replace(before, given)
    passed = [hints.CODE[name] for name, value in (("env", env), ("network", network)) if value is not None]
    check_trust(path, config, [*given, *passed], trust=trust)
    choices.check_code(path, config)
    if not newest_first(path):
        return _begun_anew(path, config, env, network_of_run(path, config, network), callbacks, display, group)
    with Display(display) as shown:
        saved = checkpoint.load(path, shown.notice)
    done = saved.state.counts.steps, saved.state.seconds
    if (asked := changes["stop.steps"]) and asked <= done[0]:
        raise UsageError(
            f"{hints.given('steps', f'{asked:,}')} is not more than the {done[0]:,} it has run; name a larger total"
        )
    if limit_reached(config.stop, *done) and summary_of(path).evaluation:
        raise UsageError(
            f"'{path}' has already run {done[0]:,} steps and {done[1]:.0f} s, up to its limit; "
            f"raise the limit with {hints.option('steps')} or {hints.option('time', 'seconds')}"
        )
    own = network_of_run(path, config, network, trained_with_one=saved.state.custom_network)
    given_steps = "learner.anneal_steps" in given
    schedule = annealing.resumed(saved.state.annealing, done[0], before, config, given=given_steps)
    lead(group, config, schedule, replace(saved.state.counts), saved.state.resumes + 1)
    source = of_run(path, config.env, env)
    if own is None and ENCODERS.is_builtin(config.network.encoder):
        weights.check_sizes(path, saved.model, lambda: with_any_weights(None, source, config))
    return Session(
        config, source, own, display, (path, saved), findings=group.notes, schedule=schedule, callbacks=callbacks,
        group=group,
    )  # fmt: skip


def _parts(
    path: Path, config: TrainConfig, env: str | EnvironmentMaker | None, network: AnyNetwork | None
) -> tuple[EnvironmentSource, nn.Module | NetworkMaker | None]:
    """Environment and network of a run that is resumed, in a rank that need not see its directory."""
    choices.check_code(path, config)
    return of_run(path, config.env, env), network_of_run(path, config, network)


def _begun_anew(
    path: Path,
    config: TrainConfig,
    env: str | EnvironmentMaker | None,
    network: nn.Module | NetworkMaker | None,
    callbacks: Sequence[Callback],
    display: Mode,
    group: Alone,
) -> Session:
    """A run that was killed before its first checkpoint, from the start."""
    (path / JOURNAL).unlink(missing_ok=True)  # it records rollouts that the new run does not make
    lead(group, config, annealing.annealing(config))
    session = Session(
        config, of_run(path, config.env, env), network, display, findings=group.notes, callbacks=callbacks, group=group
    )
    session.notice(f"'{path}' has no checkpoint yet: starting over from its config.toml")
    return session
