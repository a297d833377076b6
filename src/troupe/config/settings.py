"""All settings of a run, as frozen dataclasses.

A field's annotation carries its range and its one-line description, so validation and `--help` read the same source.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from troupe.config.description import doc as _doc
from troupe.config.evaluation import Checkpoint, Collapse, Evaluation, Stop
from troupe.config.topologies import TOPOLOGIES, Topology, TopologyTraits

Positive = Meta(gt=0)


@dataclass(frozen=True, kw_only=True)
class Environment:
    id: Annotated[str, _doc("Gymnasium id, module:Id, or path/to/file.py:factory")] = ""
    kwargs: Annotated[
        Mapping[str, Any],
        _doc("argument NAME of the environment, converted to its annotated type, or else read as TOML"),
    ] = field(default_factory=dict, hash=False)
    wrappers: Annotated[
        tuple[str, ...],
        _doc("wrappers around the environment, innermost first: module:Wrapper or path/to/file.py:Wrapper"),
    ] = ()
    ignore: Annotated[
        tuple[str, ...],
        _doc("entries of a Dict or Tuple observation to leave out, by path: mission, camera.depth, 0.pose"),
    ] = ()
    max_steps: Annotated[int, _doc("truncate episodes after this many steps; 0: the environment's own limit", ge=0)] = 0
    files: Annotated[Mapping[str, str], _doc("SHA-256 of the Python files that the run uses, as of its start")] = field(
        default_factory=dict, hash=False
    )
    backend: Annotated[
        str,
        _doc(
            "the environment backend: the environment's own vector version (native), EnvPool, Python environments one "
            "after another (sync), or your own; auto: the fastest, by measurement",
            choices=("auto", "native", "envpool", "sync"),
        ),
    ] = "auto"
    on_error: Annotated[
        Literal["fail", "restart"],
        _doc(
            "what follows if a step or reset raises: fail: the run ends; restart: the episode is dropped and the "
            "environment (Python's, not a batch's own) is made anew, up to actor.restarts times"
        ),
    ] = "fail"
    delay_seconds: Annotated[float, _doc("pause after every step, as in the article", ge=0)] = 0.0
    threads: Annotated[int, _doc("Atari, EnvPool: threads of a batch; 0: by measurement, or else 1", ge=0)] = 0
    protocol: Annotated[
        Literal["nature", "v5"],
        _doc(
            "Atari: sets sticky, episodic_life, fire_reset, noops and frame_skip together (docs/extending.md); nature: "
            "Mnih et al. 2015; v5: as Gymnasium registers ALE/...-v5, Machado et al. 2018"
        ),
    ] = "nature"
    sticky: Annotated[
        float,
        _doc(
            "Atari: sticky actions: probability of repeating the last one in each frame; Machado et al. 2018: 0.25",
            ge=0,
            le=1,
        ),
    ] = 0.0
    episodic_life: Annotated[
        bool, _doc("Atari: losing a life ends the episode for the learner only, not the game and its return")
    ] = False
    fire_reset: Annotated[bool, _doc("Atari: press FIRE at the start of games that have it")] = True
    noops: Annotated[int, _doc("Atari: maximum number of random no-op frames at the start", ge=0)] = 30
    frame_skip: Annotated[int, _doc("Atari: frames per step, with the action repeated", ge=1)] = 4


@dataclass(frozen=True, kw_only=True)
class Actor:
    count: Annotated[int, _doc("number of actors", ge=1, le=1024)] = 2
    environments: Annotated[int, _doc("environments per actor, stepped as one batch", ge=1)] = 8
    parts: Annotated[
        int,
        _doc(
            "groups that an actor's environments are split into: one steps while another's actions are computed", ge=1
        ),
    ] = 1
    auto: Annotated[
        bool,
        _doc("measure at the start, and spread the count x environments over the number of actors that suits"),
    ] = True
    placement: Annotated[
        str,
        _doc(
            "where actors run; auto: threads if the environment steps without Python, else processes",
            choices=("auto", "thread", "process"),
        ),
    ] = "auto"
    cluster: Annotated[
        str,
        _doc(
            "hosts of a Ray cluster run the actors: its address HOST:PORT, or auto: the cluster that this machine "
            "belongs to, or else one on this machine alone; none: all on this machine, without Ray (docs/cluster.md)"
        ),
    ] = "none"
    restarts: Annotated[
        int, _doc("maximum number of replacements of actors that died or hung; see env.on_error", ge=0)
    ] = 20
    hang_seconds: Annotated[float, _doc("replace actors whose environment is silent this long; 0: never", ge=0)] = 60.0
    rollout_steps: Annotated[int, _doc("T: steps per environment in one rollout", ge=1)] = 64
    window_steps: Annotated[
        int, _doc("n of the article's sliding n-step window: samples (s, a, R, s_n) instead of rollouts; 0: off", ge=0)
    ] = 0

    @property
    def rollout_shape(self) -> tuple[int, int]:
        """T and B of a rollout; a window's samples are rollouts of one step."""
        return (1, 1) if self.window_steps else (self.rollout_steps, self.environments)


@dataclass(frozen=True, kw_only=True)
class Inference:
    kind: Annotated[
        Literal["local", "batched"],
        _doc("local: a copy of the network per actor; batched: predictor threads serve all actors (GA3C)"),
    ] = "local"
    predictors: Annotated[int, _doc("batched: number of predictor threads", ge=1, le=64)] = 1


@dataclass(frozen=True, kw_only=True)
class Adjust:
    """GA3C's controller (Babaeizadeh et al. 2017, section 4.3)."""

    every_seconds: Annotated[
        float, _doc("ga3c: duration of each trial of other numbers of actors, predictors and learners; 0: off", ge=0)
    ] = 0.0
    most_actors: Annotated[int, _doc("ga3c: maximum number of actors", ge=1, le=1024)] = 32
    most_predictors: Annotated[int, _doc("ga3c: maximum number of predictors", ge=1, le=64)] = 4
    most_learners: Annotated[int, _doc("ga3c: maximum number of learners", ge=1, le=64)] = 4


@dataclass(frozen=True, kw_only=True)
class Exploration:
    epsilon: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=1)], ...],
        _doc(
            "probability of a random action, constant unless epsilon_end is set beside it; several values are assigned "
            "to the actors in turn",
            min_length=1,
        ),
    ] = (0.0,)
    epsilon_end: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=1)], ...],
        _doc("final epsilon of a linear decay; empty: constant"),
    ] = ()
    decay_steps: Annotated[int, _doc("steps of all actors over which epsilon decays", ge=1)] = 100_000
    distribution: Annotated[
        Literal["listed", "uniform", "loguniform"],
        _doc("listed: assign the values in turn; else sample each actor's epsilon between the first and the last"),
    ] = "listed"


@dataclass(frozen=True, kw_only=True)
class Network:
    custom: Annotated[
        str,
        _doc(
            "a network of your own in place of the built-in one: path/to/file.py:NAME or module:NAME",
            choices=("none",),
        ),
    ] = "none"
    encoder: Annotated[
        str,
        _doc(
            "encoder of images, by convolutions (vectors are read as they are); auto: nature, or small for boards",
            choices=("auto", "flat", "small", "a3c", "nature", "impala"),
        ),
    ] = "auto"
    hidden: Annotated[tuple[Annotated[int, Positive], ...], _doc("units of each hidden layer")] = (64, 64)
    activation: Annotated[Literal["tanh", "relu"], _doc("activation of the hidden layers")] = "tanh"
    shared: Annotated[bool, _doc("policy and value share the hidden layers; image encoders are always shared")] = False
    normalize: Annotated[
        bool, _doc("normalize observations to mean 0 and std 1 by running statistics (not images)")
    ] = True
    log_std: Annotated[
        float, _doc("Box actions: initial log standard deviation, in units of half the action range", ge=-5, le=2)
    ] = 0.0
    core: Annotated[
        Literal["none", "lstm", "gru"], _doc("recurrent layer after the encoder, reset at the start of each episode")
    ] = "none"
    core_units: Annotated[int, _doc("units of the recurrent layer", ge=1)] = 128
    core_inputs: Annotated[bool, _doc("the recurrent layer also reads the previous action and reward")] = False
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        _doc("number format of the computations; auto: bfloat16 for images if measured to be faster (not in serial)"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Loss:
    kind: Annotated[
        str, _doc("the loss (docs/algorithms.md), or one of your own", choices=("a3c", "impala", "appo"))
    ] = "appo"
    kwargs: Annotated[Mapping[str, Any], _doc("argument NAME of a loss of your own, typed by its signature")] = field(
        default_factory=dict, hash=False
    )
    gamma: Annotated[float, _doc("discount factor", ge=0, le=1)] = 0.99
    lam: Annotated[float, _doc("lambda of the return (GAE): 0: one step, 1: the whole rollout", ge=0, le=1)] = 0.95
    rho_clip: Annotated[float, _doc("V-trace: clip of rho, which sets the policy whose value is estimated", gt=0)] = 1.0
    c_clip: Annotated[float, _doc("V-trace: clip of c, which decides how far corrections propagate", gt=0)] = 1.0
    clip: Annotated[float, _doc("appo: PPO's clip range, of the ratio pi/mu around 1", gt=0, lt=1)] = 0.2
    normalize_advantage: Annotated[bool, _doc("appo: normalize advantages to mean 0 and std 1")] = True
    reduction: Annotated[
        Literal["mean", "sum"],
        _doc("mean or sum of the loss over the steps of a minibatch; A3C, GA3C and IMPALA were published with the sum"),
    ] = "mean"
    value_coefficient: Annotated[float, _doc("coefficient of the value loss (target - V)^2", ge=0)] = 0.5
    entropy_coefficient: Annotated[float, _doc("coefficient of the entropy bonus", ge=0)] = 0.01
    entropy_anneal_steps: Annotated[
        int, _doc("steps over which the entropy bonus decays linearly to 0; 0: constant", ge=0)
    ] = 0
    probability_floor: Annotated[
        float, _doc("a3c: log(pi + floor) in place of log(pi); the article has 1e-10", ge=0, lt=1)
    ] = 0.0
    reward_scale: Annotated[float, _doc("factor on rewards, for learning only", gt=0)] = 1.0
    normalize_reward: Annotated[
        bool, _doc("divide rewards by the running std of their discounted sum, for learning only")
    ] = True
    reward_clip: Annotated[float, _doc("clip rewards to -x .. x, for learning; 0: off", ge=0)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Novelty:
    """Random network distillation: a bonus for novel observations (docs/algorithms.md)."""

    coefficient: Annotated[
        float, _doc("coefficient of the intrinsic advantage (bonus for novel observations); 0: off", ge=0)
    ] = 0.0
    gamma: Annotated[float, _doc("discount factor of the bonuses, which do not end with an episode", ge=0, lt=1)] = 0.99
    hidden: Annotated[
        tuple[Annotated[int, Positive], ...],
        _doc("units of each hidden layer of the random target network; its predictor has one layer more", min_length=1),
    ] = (64, 64)
    learning_rate: Annotated[float, _doc("learning rate of the predictor, with one update per batch", gt=0)] = 1e-3


@dataclass(frozen=True, kw_only=True)
class Learner:
    count: Annotated[int, _doc("number of learner threads, all updating the same network", ge=1, le=64)] = 1
    rollouts: Annotated[int, _doc("minimum number of rollouts (or window samples) in a batch", ge=1)] = 2
    take_all: Annotated[bool, _doc("take everything that is queued into a batch, not just the minimum")] = False
    threads: Annotated[
        int, _doc("threads that share the computation of one learner; 0: chosen by measurement", ge=0)
    ] = 0
    epochs: Annotated[int, _doc("epochs over each batch", ge=1)] = 4
    minibatches: Annotated[int, _doc("minibatches per epoch, of whole environments", ge=1)] = 4
    advantage_decay: Annotated[
        float,
        _doc(
            "decay of the moving mean and std by which appo normalizes advantages; 0: each minibatch's own", ge=0, lt=1
        ),
    ] = 0.0
    average_decay: Annotated[
        float,
        _doc(
            "decay of the moving average of the weights, which is evaluated and saved; 0: the newest weights are",
            ge=0,
            lt=1,
        ),
    ] = 0.0
    optimizer: Annotated[str, _doc("the optimizer, or one of your own", choices=("adam", "rmsprop"))] = "adam"
    optimizer_kwargs: Annotated[
        Mapping[str, Any], _doc("argument NAME of the optimizer (beta1), typed by its signature")
    ] = field(default_factory=dict, hash=False)
    learning_rate: Annotated[float, _doc("learning rate", gt=0)] = 1e-3
    warmup_updates: Annotated[int, _doc("updates over which the learning rate rises linearly from 0", ge=0)] = 0
    anneal_steps: Annotated[
        Annotated[int, Meta(ge=0)] | Literal["auto"],
        _doc("linear decay of the learning rate to 0 at this step; 0: constant; auto: down to 25 % at stop.steps"),
    ] = 0
    decay: Annotated[float, _doc("rmsprop: decay of the moving average of squared gradients", ge=0, lt=1)] = 0.99
    epsilon: Annotated[float, _doc("epsilon of the optimizer", gt=0)] = 1e-8
    initial_accumulator: Annotated[float, _doc("rmsprop: initial value of the squared gradient", ge=0)] = 0.0
    gradient_norm: Annotated[float, _doc("clip gradients to this norm; 0: no clipping", ge=0)] = 0.5
    max_lag: Annotated[
        int, _doc("rollouts whose policy is more than this many versions old are stale; 0: no bound", ge=0)
    ] = 0
    stale: Annotated[Literal["correct", "drop"], _doc("correct stale rollouts by the loss (V-trace), or drop them")] = (
        "correct"
    )


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """Functions of your own of the share of `stop.steps` that is done, from 0 to 1: each gives a factor of a setting,
    and is named path/to/file.py:NAME or module:NAME (docs/extending.md)."""

    learning_rate: Annotated[
        str, _doc("factor of learner.learning_rate, in place of learner.anneal_steps", choices=("none",))
    ] = "none"
    entropy_coefficient: Annotated[
        str, _doc("factor of loss.entropy_coefficient, in place of loss.entropy_anneal_steps", choices=("none",))
    ] = "none"
    clip: Annotated[str, _doc("factor of loss.clip", choices=("none",))] = "none"


@dataclass(frozen=True, kw_only=True)
class Queue:
    capacity: Annotated[
        int, _doc("rollouts queued or in use by the learner (at least a batch); actors wait while it is full", ge=1)
    ] = 3


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a run. `resolve` builds it from defaults, preset, tuned settings and those given by the user."""

    preset: Annotated[str, _doc("the preset")] = "appo"
    tuned: Annotated[bool, _doc("whether the preset's settings for this environment were used")] = False
    topology: Annotated[Topology, _doc("how actors and learners work together (docs/architecture.md)")] = "async"
    threads: Annotated[
        Literal["free", "turns", "one-core"],
        _doc("scheduling of the threads: free, in turns, or in turns on one core (docs/design.md)"),
    ] = "turns"
    record: Annotated[bool, _doc("keep a journal, so that troupe replay can repeat the run bit for bit")] = False
    seed: Annotated[int, _doc("seed of all random numbers of the run", ge=0)] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], _doc("device of the learner")] = "auto"
    env: Environment = field(default_factory=Environment)
    actor: Actor = field(default_factory=Actor)
    inference: Inference = field(default_factory=Inference)
    adjust: Adjust = field(default_factory=Adjust)
    exploration: Exploration = field(default_factory=Exploration)
    network: Network = field(default_factory=Network)
    loss: Loss = field(default_factory=Loss)
    novelty: Novelty = field(default_factory=Novelty)
    learner: Learner = field(default_factory=Learner)
    schedules: Schedules = field(default_factory=Schedules)
    queue: Queue = field(default_factory=Queue)
    evaluation: Evaluation = field(default_factory=Evaluation)
    collapse: Collapse = field(default_factory=Collapse)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    stop: Stop = field(default_factory=Stop)

    @property
    def traits(self) -> TopologyTraits:
        """What the topology implies."""
        return TOPOLOGIES[self.topology]
