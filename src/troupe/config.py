"""Everything a run can be told, as frozen dataclasses: the same for presets, files, Python and the shell.

A field's annotation carries its range and its one-line description, so validation and `--help` read
the same source. Nothing here imports torch or Gymnasium: a wrong word is answered at once.
"""

import dataclasses
import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import msgspec
import tomli_w
from msgspec import Meta

Topology = Literal["serial", "queue", "hogwild", "ga3c", "async"]
Backend = Literal["auto", "native", "envpool", "sync"]
Positive = Meta(gt=0)


class TroupeError(Exception):
    """A run failed; the message is one plain line. The command line exits with 1."""


class UsageError(TroupeError):
    """What was asked for cannot be: an unknown name, a value out of range. Exit status 2."""


def _doc(text: str, **limits: Any) -> Meta:
    return Meta(description=text, **limits)


@dataclass(frozen=True, kw_only=True)
class Environment:
    id: Annotated[str, _doc("Gymnasium id, module:Id, or path/to/file.py:factory")] = ""
    backend: Annotated[
        Backend,
        _doc("a vector version of its own (native), EnvPool, or Python environments in turn (sync); auto measures"),
    ] = "auto"
    delay_seconds: Annotated[float, _doc("pause after every step, as the article has it", ge=0)] = 0.0
    threads: Annotated[
        int, _doc("Atari, EnvPool: threads in which a batch steps; 0 is chosen by a measurement, or 1", ge=0)
    ] = 0
    sticky: Annotated[
        float, _doc("Atari: chance in each frame that the last action goes on; 0.25 in Machado et al. 2018", ge=0, le=1)
    ] = 0.0
    episodic_life: Annotated[
        bool, _doc("Atari: a lost life ends the episode for learning; the game and its return go on")
    ] = False
    fire_reset: Annotated[bool, _doc("Atari: press FIRE at the start of a game that has it")] = True
    noops: Annotated[int, _doc("Atari: most frames without action at the start, a random number", ge=0)] = 30
    frame_skip: Annotated[int, _doc("Atari: frames in a step, all with its action", ge=1)] = 4


@dataclass(frozen=True, kw_only=True)
class Actor:
    count: Annotated[int, _doc("how many actors play at the same time", ge=1, le=1024)] = 2
    environments: Annotated[int, _doc("environments of each actor, stepped together", ge=1)] = 8
    parts: Annotated[
        int, _doc("its environments take turns in so many parts: one steps while another's actions are computed", ge=1)
    ] = 1
    auto: Annotated[
        bool,
        _doc("measure at the start, and deal out count x environments anew over as many actors as that calls for"),
    ] = True
    place: Annotated[
        Literal["auto", "thread", "process"],
        _doc("where actors run; auto: in threads where the environment steps without Python, else in processes"),
    ] = "auto"
    restarts: Annotated[int, _doc("actors that may be replaced in a run, after a process died or hung", ge=0)] = 20
    hang_seconds: Annotated[
        float, _doc("an environment that takes longer than this to answer is replaced; 0 waits for ever", ge=0)
    ] = 60.0
    rollout_steps: Annotated[int, _doc("T: steps of each environment in one rollout", ge=1)] = 64
    window_steps: Annotated[
        int, _doc("n of the article's sliding window: samples (s, a, R, s_n) instead of rollouts; 0 is off", ge=0)
    ] = 0

    @property
    def rollout_shape(self) -> tuple[int, int]:
        """T and B of what travels to a learner: a window's samples are rollouts of one row."""
        return (1, 1) if self.window_steps else (self.rollout_steps, self.environments)


@dataclass(frozen=True, kw_only=True)
class Inference:
    kind: Annotated[
        Literal["local", "batched"],
        _doc("each actor with a copy of the network, or predictors that serve all actors together (GA3C)"),
    ] = "local"
    predictors: Annotated[int, _doc("batched: threads that predict", ge=1, le=64)] = 1


@dataclass(frozen=True, kw_only=True)
class Adjust:
    """GA3C's controller (Babaeizadeh et al. 2017, section 4.3)."""

    every_seconds: Annotated[
        float, _doc("ga3c: how long each trial of other numbers of actors, predictors, learners takes; 0 is off", ge=0)
    ] = 0.0
    most_actors: Annotated[int, _doc("ga3c: the most actors a trial may ask for", ge=1, le=1024)] = 32
    most_predictors: Annotated[int, _doc("ga3c: the most predictors", ge=1, le=64)] = 4
    most_learners: Annotated[int, _doc("ga3c: the most learners", ge=1, le=64)] = 4


@dataclass(frozen=True, kw_only=True)
class Exploration:
    epsilon: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=1)], ...],
        _doc("chance of a random action; several values are dealt out over the actors", min_length=1),
    ] = (0.0,)
    epsilon_end: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=1)], ...],
        _doc("what epsilon falls to linearly; empty leaves it constant"),
    ] = ()
    decay_steps: Annotated[int, _doc("steps, of all actors together, in which it falls", ge=1)] = 100_000
    distribution: Annotated[
        Literal["listed", "uniform", "loguniform"],
        _doc("deal out the listed values, or draw each actor's between the first and the last"),
    ] = "listed"


@dataclass(frozen=True, kw_only=True)
class Network:
    encoder: Annotated[
        Literal["auto", "flat", "a3c", "nature", "impala"],
        _doc("what reads observations: a vector as it is, images through convolutions; auto: nature for images"),
    ] = "auto"
    hidden: Annotated[tuple[Annotated[int, Positive], ...], _doc("units of each hidden layer, for vectors")] = (64, 64)
    activation: Annotated[Literal["tanh", "relu"], _doc("between these layers")] = "tanh"
    shared: Annotated[bool, _doc("vectors: one trunk for policy and value, or one each; images share theirs")] = False
    normalize: Annotated[
        bool, _doc("observed numbers with mean 0 and deviation 1, by running statistics; images stay as they are")
    ] = True
    log_std: Annotated[
        float, _doc("Box actions: logarithm of the first deviation, in half the distance of the bounds", ge=-5, le=2)
    ] = 0.0
    core: Annotated[
        Literal["none", "lstm", "gru"], _doc("memory between the encoder and the hidden layers, kept within an episode")
    ] = "none"
    core_units: Annotated[int, _doc("its units", ge=1)] = 128
    core_inputs: Annotated[bool, _doc("it reads the action and the reward before each observation, too")] = False
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        _doc("what networks compute in; auto: bfloat16 for images where a measurement at the start shows a gain"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Loss:
    kind: Annotated[Literal["a3c", "impala", "appo"], _doc("which loss (docs/algorithms.md)")] = "appo"
    gamma: Annotated[float, _doc("discount of the next step", ge=0, le=1)] = 0.99
    lam: Annotated[float, _doc("lambda of the return: 0 one step, 1 the whole rollout", ge=0, le=1)] = 0.95
    rho_clip: Annotated[float, _doc("V-trace: limit of rho, what is estimated", gt=0)] = 1.0
    c_clip: Annotated[float, _doc("V-trace: limit of c, how far corrections travel", gt=0)] = 1.0
    clip: Annotated[float, _doc("appo: how far pi/mu may leave 1", gt=0, lt=1)] = 0.2
    normalize_advantage: Annotated[bool, _doc("appo: advantages with mean 0 and deviation 1")] = True
    value_coefficient: Annotated[float, _doc("weight of (target - V)^2", ge=0)] = 0.5
    entropy_coefficient: Annotated[float, _doc("weight of the entropy bonus", ge=0)] = 0.01
    probability_floor: Annotated[float, _doc("a3c: log(pi + floor), the article's 1e-10", ge=0, lt=1)] = 0.0
    reward_scale: Annotated[float, _doc("rewards are multiplied by this for learning only", gt=0)] = 1.0
    normalize_reward: Annotated[
        bool, _doc("for learning, rewards are divided by the running deviation of their discounted sum")
    ] = True
    reward_clip: Annotated[float, _doc("for learning, held between minus this and this; 0 is off", ge=0)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Novelty:
    """Random network distillation: a bonus for observations that are new (docs/algorithms.md)."""

    coefficient: Annotated[
        float, _doc("weight of the advantage of bonuses for new observations, beside that of rewards; 0 is off", ge=0)
    ] = 0.0
    gamma: Annotated[float, _doc("discount of the bonuses, which go on over the ends of episodes", ge=0, lt=1)] = 0.99
    hidden: Annotated[
        tuple[Annotated[int, Positive], ...],
        _doc("units of each hidden layer of the random network; its predictor has one layer more", min_length=1),
    ] = (64, 64)
    learning_rate: Annotated[float, _doc("the predictor's step size, one step for each batch", gt=0)] = 1e-3


@dataclass(frozen=True, kw_only=True)
class Learner:
    count: Annotated[int, _doc("learner threads that improve the one network", ge=1, le=64)] = 1
    rollouts: Annotated[int, _doc("fewest rollouts (or window samples) in a batch", ge=1)] = 2
    take_all: Annotated[bool, _doc("take everything that is queued, not just the fewest")] = False
    threads: Annotated[int, _doc("threads that share one learner's passes; 0 is chosen by a measurement", ge=0)] = 0
    epochs: Annotated[int, _doc("passes over each batch", ge=1)] = 4
    minibatches: Annotated[int, _doc("parts a batch is cut into, by whole environments", ge=1)] = 4
    optimizer: Annotated[Literal["adam", "rmsprop"], _doc("algorithm/optimizers.py")] = "adam"
    learning_rate: Annotated[float, _doc("step size", gt=0)] = 1e-3
    warmup_updates: Annotated[int, _doc("updates in which the step size rises to its full size", ge=0)] = 0
    anneal_steps: Annotated[int, _doc("environment steps in which the step size falls to 0; 0 is never", ge=0)] = 0
    decay: Annotated[float, _doc("rmsprop: decay of the squared gradient", ge=0, lt=1)] = 0.99
    epsilon: Annotated[float, _doc("optimizer's epsilon", gt=0)] = 1e-8
    initial_accumulator: Annotated[float, _doc("rmsprop: where the squared gradient starts", ge=0)] = 0.0
    gradient_norm: Annotated[float, _doc("largest norm of a gradient; 0 is no limit", ge=0)] = 0.5
    max_lag: Annotated[
        int, _doc("rollouts with a step more versions old than this are counted as stale; 0 is no bound", ge=0)
    ] = 0
    stale: Annotated[
        Literal["correct", "drop"], _doc("what happens to a stale rollout: the loss corrects it, or it is dropped")
    ] = "correct"


@dataclass(frozen=True, kw_only=True)
class Queue:
    capacity: Annotated[
        int, _doc("rollouts that wait or are learned from (at least a batch); full, it holds up the actors", ge=1)
    ] = 3


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    every_steps: Annotated[
        int, _doc("steps between evaluations while training; 0 leaves it to every_seconds", ge=0)
    ] = 0
    every_seconds: Annotated[
        float, _doc("training seconds between evaluations, which take a tenth of the time at most; 0 is never", ge=0)
    ] = 1.0
    episodes: Annotated[int, _doc("episodes of an evaluation while training", ge=1)] = 20
    greedy: Annotated[bool, _doc("by the likeliest actions, or by actions drawn as in training (usual for Atari)")] = (
        True
    )
    final_episodes: Annotated[int, _doc("episodes that confirm the target, and of the last evaluation", ge=1)] = 100


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """When the return has fallen far below its best and stays there (docs/algorithms.md)."""

    answer: Annotated[
        Literal["report", "rollback"],
        _doc("say that the return has collapsed, or go back to the best weights as well, with smaller steps"),
    ] = "report"
    loss: Annotated[float, _doc("far below: more than this fraction of best - first is lost", gt=0)] = 0.5
    evaluations: Annotated[int, _doc("stays there: so many evaluations in a row", ge=1)] = 3
    step_factor: Annotated[float, _doc("step sizes are multiplied by this in every rollback", gt=0, le=1)] = 0.5
    rollbacks: Annotated[int, _doc("most rollbacks in a run; a collapse after these is reported", ge=1)] = 10


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    every_seconds: Annotated[float, _doc("training seconds between checkpoints; one is always written last", gt=0)] = (
        60.0
    )


@dataclass(frozen=True, kw_only=True)
class Stop:
    steps: Annotated[int, _doc("stop after this many steps of all actors; 0 is no limit", ge=0)] = 1_000_000
    seconds: Annotated[float, _doc("stop after this many seconds of training; 0 is no limit", ge=0)] = 0.0
    target: Annotated[
        float | Literal["auto", "none"],
        _doc("stop when an evaluation confirms this mean return; auto is the environment's own threshold"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. `resolve` builds it from defaults, preset, tuned settings and what the user said."""

    preset: Annotated[str, _doc("the preset it came from")] = "appo"
    tuned: Annotated[bool, _doc("whether the preset's settings for this environment were used")] = False
    topology: Annotated[Topology, _doc("which parts run where (docs/architecture.md)")] = "async"
    threads: Annotated[
        Literal["free", "turns", "one-core"],
        _doc("they compete, take turns, or take turns on one processor; see docs/architecture.md"),
    ] = "turns"
    record: Annotated[bool, _doc("keep a journal, so that troupe replay can run it again bit for bit")] = False
    seed: Annotated[int, _doc("seeds every random stream of the run", ge=0)] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], _doc("where the learner computes")] = "auto"
    env: Environment = field(default_factory=Environment)
    actor: Actor = field(default_factory=Actor)
    inference: Inference = field(default_factory=Inference)
    adjust: Adjust = field(default_factory=Adjust)
    exploration: Exploration = field(default_factory=Exploration)
    network: Network = field(default_factory=Network)
    loss: Loss = field(default_factory=Loss)
    novelty: Novelty = field(default_factory=Novelty)
    learner: Learner = field(default_factory=Learner)
    queue: Queue = field(default_factory=Queue)
    evaluation: Evaluation = field(default_factory=Evaluation)
    collapse: Collapse = field(default_factory=Collapse)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    stop: Stop = field(default_factory=Stop)


@dataclass(frozen=True)
class Verified:
    """What tuned settings were seen to reach: every seed's final evaluation, and the medians."""

    seeds: int
    lowest: float
    mean: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class Tuned:
    verified: Verified | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    name: str
    summary: str
    source: str
    settings: Mapping[str, Any]
    tuned: Mapping[str, Tuned] = field(default_factory=dict)

    def tuned_for(self, env_id: str) -> Tuned | None:
        """The settings for an environment; those of a name with a * are for all that have none of their own."""
        fitting = (tuned for name, tuned in self.tuned.items() if fnmatchcase(env_id, name))
        return self.tuned.get(env_id) or next(fitting, None)


def resolve(
    env_id: str,
    preset: str = "appo",
    settings: Mapping[str, Any] | None = None,
    *,
    tuned: bool = True,
) -> TrainConfig:
    """The configuration of a run: defaults < preset < its settings for `env_id` < `settings`.

    `settings` maps dotted names ("learner.epochs") to values, which may be strings as a shell gives
    them. Raises UsageError, naming the nearest word, for what does not exist or is out of range.
    """
    chosen = load_preset(preset)
    layers: list[Mapping[str, Any]] = [chosen.settings]
    found = chosen.tuned_for(env_id) if tuned else None
    if found:
        layers.append(found.settings)
    layers.append(settings or {})
    merged: dict[str, Any] = {"preset": preset, "tuned": found is not None, "env.id": env_id}
    for layer in layers:
        said = dict(flatten(layer))
        if "actor.count" in said or "actor.environments" in said:
            merged["actor.auto"] = False  # whoever names a number means it
        merged |= said
    config = build(merged)
    _check_together(config)
    return config


def build(dotted: Mapping[str, Any]) -> TrainConfig:
    """A configuration from dotted names; every name and value is checked."""
    known = fields()
    nested: dict[str, Any] = {}
    for name, value in dotted.items():
        if name not in known:
            raise UsageError(f"no setting '{name}'{did_you_mean(name, known)} (troupe train --help lists them)")
        checked = _convert(name, value, known[name])
        section, _, leaf = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[leaf] = checked
    return msgspec.convert(nested, TrainConfig)


def replace(config: TrainConfig, changed: Mapping[str, Any]) -> TrainConfig:
    """`config` with the settings in `changed`, by dotted name, checked."""
    return build(dict(flatten(dataclasses.asdict(config))) | dict(changed))


def _convert(name: str, value: Any, field: "Field") -> Any:
    given = value
    value = value.item() if hasattr(value, "item") else value  # NumPy's numbers
    if typing.get_origin(typing.get_args(field.type)[0]) is tuple and not isinstance(value, list | tuple):
        value = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else [value]
    try:
        converted = msgspec.convert(value, field.type, strict=False)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise msgspec.ValidationError("Expected a finite number")
        return converted
    except msgspec.ValidationError as error:
        wrong = re.sub(r" - at `.*`$", "", str(error)).replace("`", "")
        wrong = f"expected {' | '.join(field.choices)}" if field.choices else wrong[0].lower() + wrong[1:]
        near = did_you_mean(given, field.choices) if isinstance(given, str) else ""
        raise UsageError(f"{name} = {given!r}: {wrong}{near}") from None


def _check_together(config: TrainConfig) -> None:
    """What no single field can say."""
    if config.actor.window_steps and config.loss.kind != "a3c":
        raise UsageError(
            f"actor.window_steps = {config.actor.window_steps}: the window's samples carry n-step returns, "
            f"which only loss.kind a3c reads, not {config.loss.kind}; set it to 0"
        )
    if config.actor.window_steps and config.loss.reward_clip:
        raise UsageError(
            "loss.reward_clip: a window's samples hold sums of rewards, which are not to be clipped; set it to 0"
        )
    if config.actor.window_steps and config.actor.environments > 1:
        raise UsageError(
            f"actor.environments = {config.actor.environments}: an actor with a window (actor.window_steps) plays one; "
            "set it to 1, and actor.count to as many as you want"
        )
    if config.actor.window_steps and config.network.core != "none":
        raise UsageError(
            f"network.core = '{config.network.core}': a window's samples (actor.window_steps) are single steps, and a "
            "memory is learned from sequences; set it to none, or take a preset that learns from rollouts (a3c, appo)"
        )
    if config.novelty.coefficient and config.actor.window_steps:
        raise UsageError(
            "novelty.coefficient: a window's samples do not show what follows each action, so they earn no bonus; "
            "set actor.window_steps to 0"
        )
    if config.topology not in ("queue", "ga3c") and config.learner.count > 1:
        has = "learns in every actor" if config.topology == "hogwild" else "has one learner"
        raise UsageError(
            f"learner.count = {config.learner.count}: topology {config.topology} {has}; "
            "use --topology queue for several"
        )
    if config.topology == "serial" and config.actor.count > 1 and not config.actor.auto:
        raise UsageError(
            f"actor.count = {config.actor.count}: topology serial has one actor; "
            f"use --actor.count 1 --actor.environments {config.actor.count * config.actor.environments}"
        )
    if config.inference.kind == "batched" and config.topology in ("serial", "hogwild"):
        raise UsageError(
            f"inference.kind = 'batched': in topology {config.topology} whoever acts has the network; "
            "use async, queue or ga3c"
        )
    if config.topology == "ga3c" and config.inference.kind != "batched":
        raise UsageError("topology = 'ga3c': its actors have no network; set inference.kind to batched")
    if config.adjust.every_seconds and config.topology != "ga3c":
        raise UsageError(f"adjust.every_seconds: topology {config.topology} does not adjust its numbers; ga3c does")
    if config.topology == "hogwild":
        _check_hogwild(config)
    if config.record and (config.topology not in ("async", "queue") or config.inference.kind != "local"):
        raise UsageError(
            f"record: a run of topology {config.topology} with {config.inference.kind} inference cannot be replayed; "
            "async and queue with local inference can, and serial repeats itself without a record"
        )
    if config.collapse.answer == "rollback":
        _check_rollback(config)
    if config.learner.max_lag and config.learner.stale == "correct" and config.loss.kind == "a3c":
        raise UsageError("learner.stale = 'correct': loss a3c corrects no lag; use drop, or loss.kind impala or appo")


def _check_rollback(config: TrainConfig) -> None:
    if config.record:
        raise UsageError(
            "record: a run that goes back to its best weights (collapse.answer = 'rollback') cannot be replayed; "
            "use --on-collapse report"
        )
    if not (config.evaluation.every_steps or config.evaluation.every_seconds):
        raise UsageError(
            "collapse.answer = 'rollback': nothing is judged while training, so no weights are the best; "
            "set evaluation.every_steps or evaluation.every_seconds"
        )


def _check_hogwild(config: TrainConfig) -> None:
    """Each worker makes one gradient of each rollout of its own: what speaks of batches has no place."""
    if config.actor.window_steps:
        raise UsageError("actor.window_steps: topology hogwild learns from whole rollouts; set it to 0")
    if config.novelty.coefficient:
        raise UsageError(
            "novelty.coefficient: in topology hogwild no learner sees what the others have seen; "
            "use async, queue or ga3c"
        )
    for name, value in (("epochs", config.learner.epochs), ("minibatches", config.learner.minibatches)):
        if value != 1:
            raise UsageError(f"learner.{name} = {value}: topology hogwild makes one gradient of each rollout; set 1")


def presets() -> list[str]:
    """Names of the presets, the default first."""
    names = [entry.name[:-5] for entry in resources.files("troupe.presets").iterdir() if entry.name.endswith(".toml")]
    return sorted(names, key=lambda name: (name != "appo", name))


@cache
def load_preset(name: str) -> Preset:
    if name not in presets():
        raise UsageError(f"no preset '{name}'{did_you_mean(name, presets())} (troupe presets lists them)")
    text = resources.files("troupe.presets").joinpath(f"{name}.toml").read_text()
    return msgspec.convert({"name": name} | tomllib.loads(text), Preset)


@dataclass(frozen=True)
class Field:
    name: str
    type: Any
    default: Any
    description: str
    choices: tuple[str, ...]


@cache
def fields() -> Mapping[str, Field]:
    """Every setting by its dotted name, in order."""
    return {item.name: item for item in _fields(TrainConfig)}


def _fields(section: type, prefix: str = "") -> Iterator[Field]:
    for item in dataclasses.fields(section):
        kind = typing.cast(Any, item.type)
        if dataclasses.is_dataclass(kind):
            yield from _fields(typing.cast(type, kind), f"{item.name}.")
        else:
            inner, meta = typing.get_args(kind)[:2]
            yield Field(prefix + item.name, kind, item.default, meta.description, _choices(inner))


def _choices(kind: Any) -> tuple[str, ...]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(choice for part in typing.get_args(kind) for choice in _choices(part))
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"learner": {"epochs": 4}} and {"learner.epochs": 4} alike -> ("learner.epochs", 4)."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def to_toml(config: TrainConfig) -> str:
    return tomli_w.dumps(dataclasses.asdict(config))


# What a run had before there was a setting for it, where its default is not that.
_BEFORE = {"network.normalize": False, "loss.normalize_reward": False}


def from_toml(text: str) -> TrainConfig:
    """Reads what `to_toml` wrote, also before there were all the settings; raises UsageError for anything else."""
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not a TOML file: {error}") from None
    config = build(_BEFORE | dict(flatten(settings)))
    _check_together(config)
    return config


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean x?' for the nearest of the known words, or nothing."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[near[0]]}?" if near else ""


_UNITS_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """'90', '30s', '1.5m', '2h' in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match:
        raise UsageError(f"'{text}' is not a time: write 30s, 5m or 1.5h")
    return float(match[1]) * _UNITS_SECONDS[match[2]]
