"""Everything a run can be told, as frozen dataclasses.

A field's annotation carries its range and its one-line description, so validation and `--help` read the same source.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from troupe.config.topologies import TOPOLOGIES, Topology, TopologyTraits

Positive = Meta(gt=0)


def _doc(text: str, *, choices: tuple[str, ...] = (), **limits: Any) -> Meta:
    """`choices` are those of a setting that also takes callables of the user, by name (`values.register_choice`)."""
    return Meta(description=text, extra={"choices": choices} if choices else None, **limits)


@dataclass(frozen=True, kw_only=True)
class Environment:
    id: Annotated[str, _doc("Gymnasium id, module:Id, or path/to/file.py:factory")] = ""
    kwargs: Annotated[
        Mapping[str, Any],
        _doc("argument NAME of the environment: typed as its signature says, else written as in TOML"),
    ] = field(default_factory=dict, hash=False)
    wrappers: Annotated[
        tuple[str, ...],
        _doc("wrappers around the environment, innermost first: module:Wrapper or path/to/file.py:Wrapper"),
    ] = ()
    ignore: Annotated[
        tuple[str, ...],
        _doc("entries of a Dict or Tuple observation that are left out, by their paths: mission, camera.depth, 0.pose"),
    ] = ()
    max_steps: Annotated[
        int, _doc("episodes are truncated after this many steps; 0 leaves the environment's own limit", ge=0)
    ] = 0
    files: Annotated[
        Mapping[str, str], _doc("SHA-256 of the files that environment and wrappers come from, when the run began")
    ] = field(default_factory=dict, hash=False)
    backend: Annotated[
        str,
        _doc(
            "what steps a batch: the environment's own vector version (native), EnvPool, Python environments one after "
            "another (sync), or one of your own; auto measures which is fastest",
            choices=("auto", "native", "envpool", "sync"),
        ),
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
        Literal["auto", "flat", "small", "a3c", "nature", "impala"],
        _doc("what reads observations: a vector as it is, images by convolutions; auto: nature, for boards small"),
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
    entropy_anneal_steps: Annotated[
        int, _doc("environment steps in which the entropy bonus falls to 0; 0 is never", ge=0)
    ] = 0
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
    advantage_decay: Annotated[
        float,
        _doc("of the mean and deviation that appo normalises by, 0: each minibatch by its own", ge=0, lt=1),
    ] = 0.0
    average_decay: Annotated[
        float,
        _doc("of the running mean of the weights, which is judged and kept; 0: the newest weights are", ge=0, lt=1),
    ] = 0.0
    optimizer: Annotated[Literal["adam", "rmsprop"], _doc("which optimizer applies the gradients")] = "adam"
    learning_rate: Annotated[float, _doc("step size", gt=0)] = 1e-3
    warmup_updates: Annotated[int, _doc("updates in which the step size rises to its full size", ge=0)] = 0
    anneal_steps: Annotated[
        Annotated[int, Meta(ge=0)] | Literal["auto"],
        _doc("step at which the learning rate has fallen linearly to 0; 0: constant; auto: a quarter at stop.steps"),
    ] = 0
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
    max_steps: Annotated[
        Annotated[int, Meta(ge=1)] | Literal["auto"],
        _doc("an episode not ended after so many steps is cut off; auto: 27,000, or the environment's own limit"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """When the return has fallen far below its best and stays there (docs/algorithms.md)."""

    answer: Annotated[
        Literal["report", "rollback"],
        _doc("say that the return has collapsed, or also go back to the best weights with a smaller learning rate"),
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

    @property
    def traits(self) -> TopologyTraits:
        """What the topology implies."""
        return TOPOLOGIES[self.topology]
