"""Every setting works: its value arrives however it is given, and another value changes what its consumer computes.

Both lists below are compared with the settings there are, so none can be forgotten. What is learned is compared with
the algorithm called directly, with the setting as its keyword: `losses.appo(..., clip=0.01)` as a loss of one's own
must give the same weights, bit for bit, as `loss.clip = 0.01`.
"""

import copy
import inspect
import itertools
import json
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import Tensor, nn

import troupe
from helpers import PATIENCE_SECONDS
from troupe import UsageError, trainer
from troupe.algorithm import losses
from troupe.algorithm.optimizers import Adam, RMSProp
from troupe.algorithm.returns import AdvantageEMA
from troupe.cli import run as run_cli
from troupe.config import TrainConfig, fields, from_toml, resolve, to_toml
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.runs.evaluate.evaluation import Evaluator
from troupe.runs.evaluate.scores import Scores
from troupe.runtime import assembly

STEPS, ROWS, ENVIRONMENTS = 96, 8, 4  # so a run has three batches of 8 x 4 steps
SERIAL = {
    "topology": "serial", "actor.count": 1, "actor.environments": ENVIRONMENTS, "actor.rollout_steps": ROWS,
    "learner.rollouts": 1, "learner.epochs": 2, "learner.minibatches": 2, "learner.learning_rate": 0.05,
    "learner.anneal_steps": 0, "learner.average_decay": 0.0, "learner.gradient_norm": 0.0, "network.hidden": (8,),
    "network.normalize": False, "network.precision": "float32", "loss.normalize_reward": False,
    "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1, "evaluation.max_steps": 1,
    "stop.target": "none", "stop.steps": STEPS,
}  # fmt: skip
ONE_PASS = {"learner.epochs": 1, "learner.minibatches": 1}
THREADS = SERIAL | ONE_PASS | {"topology": "async", "actor.placement": "thread", "threads": "free"}
GA3C = THREADS | {"topology": "ga3c", "inference.kind": "batched"}


class Steady(gym.Env):
    """No episode ends, and what is seen and paid is drawn from the seed: the same whatever is done."""

    observation_space: gym.Space[Any] = gym.spaces.Box(-10.0, 10.0, (3,), np.float32)
    action_space: gym.Space[Any] = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        return self._obs(), float(self.np_random.normal(1.0, 2.0)), False, False, {}

    def _obs(self) -> np.ndarray:
        return self.np_random.normal(size=3).astype(np.float32)


class SteadyBox(Steady):
    action_space = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)


class SteadyImage(Steady):
    observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)

    def _obs(self) -> np.ndarray:
        return self.np_random.integers(256, size=(36, 36, 1), dtype=np.uint8)


class Train:
    """Trains in directories of its own; `last` is the one of the run under way. Runs of settings alone are kept."""

    def __init__(self, folder: Path):
        self.folder, self._number, self._kept = folder, itertools.count(), {}

    def __call__(self, changed: dict[str, Any] | None = None, base: dict[str, Any] = SERIAL, **how: Any) -> troupe.Run:
        settings = base | (changed or {})
        key = None if how else str(sorted(settings.items()))
        if key in self._kept:
            return self._kept[key]
        self.last = self.folder / str(next(self._number))
        how = {"env": Steady, "tuned": False} | how
        run = troupe.train(settings=settings, run_dir=self.last, **how)
        if key:
            self._kept[key] = run
        return run


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    return Train(tmp_path_factory.mktemp("settings"))


Case = Callable[[Train, pytest.MonkeyPatch], None]
CASES: dict[str, list[Case]] = defaultdict(list)
ELSEWHERE = {  # the file whose tests set it and see what it changes
    "env.kwargs": "test_options.py",
    "env.wrappers": "test_options.py",
    "env.max_steps": "test_options.py",
    "env.ignore": "test_any_environment.py",
    "actor.placement": "runtime/test_topologies.py",
    "actor.cluster": "runtime/test_cluster.py",
    "actor.restarts": "test_process_faults.py",
    "actor.hang_seconds": "test_process_faults.py",
    "env.on_error": "runtime/test_env_failures.py",
    "actor.window_steps": "runtime/test_topologies.py",
    "network.custom": "test_custom_network.py",
    "learner.max_lag": "runtime/test_lag.py",
    "learner.stale": "runtime/test_lag.py",
    "schedules.learning_rate": "test_own_schedules.py",
    "schedules.entropy_coefficient": "test_own_schedules.py",
    "schedules.clip": "test_own_schedules.py",
    "threads": "runtime/test_topologies.py",
}
DERIVED = {
    "env.files": "hashes of the code that a run uses, taken when it begins: nobody sets it (test_environment_files.py)"
}


def case(*names: str) -> Callable[[Case], Case]:
    def keep(function: Case) -> Case:
        for name in names:
            CASES[name].append(function)
        return function

    return keep


def metrics(run: troupe.Run, kind: str = "report") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def weights(run: troupe.Run) -> Tensor:
    """Those that the run ended with: it evaluates nothing that could be better."""
    return torch.cat([each.detach().flatten() for each in run.agent.network.parameters()])


# Losses and optimizers: the functions called directly

LOSS_VALUES: dict[str, Any] = {
    "lam": 0.3, "rho_clip": 1.2, "c_clip": 0.5, "clip": 0.01, "normalize_advantage": False, "value_coefficient": 2.0,
    "entropy_coefficient": 0.3, "probability_floor": 0.2,
}  # fmt: skip
OPTIMIZERS = {"adam": Adam, "rmsprop": RMSProp}
OPTIMIZER_VALUES = {"epsilon": 0.1, "decay": 0.5, "initial_accumulator": 1.0, "beta1": 0.5, "beta2": 0.5}


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    known = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    known.pop("advantage_ema", None)
    return known


def called_directly(function: Callable[..., Any], values: dict[str, Any]) -> Callable[..., Any]:
    """A loss of one's own: `function` with all its keywords."""

    def loss(outputs: Any, batch: Any) -> Any:
        return function(outputs, batch, **values)

    return loss


def is_as_called_directly(kind: str, name: str, train: Train, patch: pytest.MonkeyPatch) -> None:
    function, settings, value = getattr(losses, kind), {"loss.kind": kind}, LOSS_VALUES[name]
    group = resolve("x", settings=SERIAL | settings, tuned=False).loss
    values = {each: getattr(group, each) for each in keywords(function)}
    changed = weights(train(settings | {f"loss.{name}": value}))
    assert torch.equal(changed, weights(train(loss=called_directly(function, values | {name: value}))))
    assert not torch.equal(changed, weights(train(settings)))


def optimizes_as_made_directly(kind: str, name: str, train: Train, patch: pytest.MonkeyPatch) -> None:
    made, settings, value = OPTIMIZERS[kind], {"learner.optimizer": kind}, OPTIMIZER_VALUES[name]
    group = resolve("x", settings=SERIAL | settings, tuned=False).learner
    values = {each: getattr(group, each, default) for each, default in keywords(made).items()}
    changed = weights(train(settings | {_optimizer_setting(name): value}))
    direct = train(optimizer=lambda weights: made(weights, **values | {name: value}))
    assert torch.equal(changed, weights(direct))
    assert not torch.equal(changed, weights(train(settings)))


def _optimizer_setting(name: str) -> str:
    return f"learner.{name}" if f"learner.{name}" in fields() else f"learner.optimizer_kwargs.{name}"


for _kind in ("a3c", "impala", "appo"):
    for _name in keywords(getattr(losses, _kind)):
        case(f"loss.{_name}", "loss.kind")(partial(is_as_called_directly, _kind, _name))
for _kind, _made in OPTIMIZERS.items():
    for _name in keywords(_made):
        _setting = "learner.optimizer_kwargs" if "kwargs" in _optimizer_setting(_name) else f"learner.{_name}"
        case(_setting, "learner.optimizer")(partial(optimizes_as_made_directly, _kind, _name))


@case("loss.kwargs")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    def scaled(outputs: Any, batch: Any, *, share: float = 1.0) -> Any:
        done = losses.a3c(outputs, batch)
        return done._replace(loss=done.loss * share)

    direct = train(loss=lambda outputs, batch: scaled(outputs, batch, share=0.25), optimizer=Recorded)
    assert torch.equal(weights(train({"loss.kwargs.share": 0.25}, loss=scaled, optimizer=Recorded)), weights(direct))
    assert not torch.equal(weights(train(loss=scaled, optimizer=Recorded)), weights(direct))


@case("loss.entropy_anneal_steps")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    settings, steps = ONE_PASS | {"loss.kind": "a3c", "loss.lam": 1.0, "loss.entropy_coefficient": 0.3}, [0]

    def falling(outputs: Any, batch: Any) -> Any:
        steps[0] += int(batch.valid.sum())
        return losses.a3c(outputs, batch, entropy_coefficient=0.3 * (1 - steps[0] / 200))

    annealed = weights(train(settings | {"loss.entropy_anneal_steps": 200}))
    assert torch.equal(annealed, weights(train(settings, loss=falling)))
    assert not torch.equal(annealed, weights(train(settings)))


@case("learner.advantage_decay")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    group = resolve("x", settings=SERIAL, tuned=False).loss
    values = {each: getattr(group, each) for each in keywords(losses.appo)}
    ema = [AdvantageEMA.start(0.9)]

    def averaged(outputs: Any, batch: Any) -> Any:
        done = losses.appo(outputs, batch, **values, advantage_ema=ema[0])
        ema[0] = done.advantage_ema
        return done.loss, done.metrics

    decayed = weights(train({"learner.advantage_decay": 0.9}))
    assert torch.equal(decayed, weights(train(loss=averaged)))
    assert not torch.equal(decayed, weights(train()))


@pytest.fixture(autouse=True)
def _only_the_run_calls_the_callables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those below record what a run gives them: without the trial on made-up numbers (test_own_learning.py)."""
    monkeypatch.setattr(assembly, "try_callables", lambda *_: None)


# What a loss is given

Seen = list[tuple[Any, Any]]


def recorder() -> tuple[Callable[..., Any], Seen]:
    """A loss that keeps outputs and batch of each call."""
    seen: Seen = []

    def loss(outputs: Any, batch: Any) -> Any:
        seen.append((outputs, copy.deepcopy(batch)))  # its rollout's memory is used again
        return losses.a3c(outputs, batch)

    return loss, seen


def batches(train: Train, changed: dict[str, Any], base: dict[str, Any] = SERIAL | ONE_PASS, **how: Any) -> list[Any]:
    loss, seen = recorder()
    train(changed, base, loss=loss, **how)
    return [batch for _, batch in seen]


def rewards(train: Train, changed: dict[str, Any]) -> Tensor:
    """Of all batches: [batch, T, B]."""
    return torch.stack([batch.reward for batch in batches(train, changed)])


@case("loss.gamma")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    for gamma in (0.5, 0.9):
        assert all((batch.discount == np.float32(gamma)).all() for batch in batches(train, {"loss.gamma": gamma}))


@case("loss.reward_scale", "loss.reward_clip")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    raw = rewards(train, {})
    torch.testing.assert_close(rewards(train, {"loss.reward_scale": 0.25}), 0.25 * raw)
    torch.testing.assert_close(rewards(train, {"loss.reward_clip": 0.5}), raw.clamp(-0.5, 0.5))
    assert raw.abs().max() > 1


@case("loss.normalize_reward", "loss.reward_scale")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    """By the standard deviation of the discounted sums of all rows so far; the scale is applied once, whatever the
    number of batches."""
    settings = {"loss.gamma": 0.5}
    raw = rewards(train, settings)
    normalized = rewards(train, settings | {"loss.normalize_reward": True, "loss.reward_scale": 0.25})
    total, sums = torch.zeros(ENVIRONMENTS, dtype=torch.float64), []
    for number, batch in enumerate(raw):
        for row in batch:
            total = 0.5 * total + row
            sums.append(total)
        std = torch.stack(sums).std(correction=0)
        torch.testing.assert_close(normalized[number].double(), 0.25 * batch.double() / std, rtol=1e-5, atol=1e-6)


@case("actor.environments", "actor.rollout_steps", "learner.rollouts", "learner.epochs", "learner.minibatches")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    def shapes(changed: dict[str, Any]) -> set[tuple[int, ...]]:
        made = batches(train, changed)
        shapes = {tuple(batch.reward.shape) for batch in made}
        assert len(made) == math.ceil(STEPS / math.prod(max(shapes)))
        return shapes

    assert shapes({}) == {(ROWS, ENVIRONMENTS)}
    assert shapes({"actor.environments": 6}) == {(ROWS, 6)}
    assert shapes({"actor.rollout_steps": 5}) == {(5, ENVIRONMENTS)}
    assert shapes({"learner.rollouts": 3}) == {(ROWS, 3 * ENVIRONMENTS)}
    assert len(batches(train, {"learner.epochs": 3})) == 3 * 3
    assert [batch.reward.shape[1] for batch in batches(train, {"learner.minibatches": 2})] == [2] * 2 * 3


@case("actor.auto")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    """The serial topology has one actor: it gets the environments of all that were asked for."""
    settings = {"actor.auto": True, "actor.count": 2, "learner.rollouts": 2}
    assert {tuple(batch.reward.shape) for batch in batches(train, settings)} == {(ROWS, 2 * ENVIRONMENTS)}
    with pytest.raises(UsageError, match=r"actor\.count = 2: topology serial has one actor"):
        train(settings | {"actor.auto": False})


@case("exploration.epsilon", "exploration.epsilon_end", "exploration.decay_steps", "exploration.distribution")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    def epsilons(changed: dict[str, Any]) -> list[float]:
        """mu = (1 - epsilon) pi + epsilon / 2, solved for epsilon."""
        loss, seen = recorder()
        train(STILL | changed, SERIAL | ONE_PASS, loss=loss, network=Undecided(1.0))
        found = []
        for outputs, batch in seen:
            pi, mu = outputs.distribution.log_prob(batch.action).detach().exp(), batch.behaviour_log_prob.exp()
            each = (mu - pi) / (0.5 - pi)
            assert each.max() - each.min() < 1e-4
            found.append(float(each.mean()))
        return found

    assert epsilons({}) == pytest.approx([0.0] * 3, abs=1e-4)
    assert epsilons({"exploration.epsilon": (0.4,)}) == pytest.approx([0.4] * 3, abs=1e-4)
    falls = {"exploration.epsilon": (0.4, 0.8), "exploration.epsilon_end": (0.1,), "exploration.decay_steps": 64}
    assert epsilons(falls) == pytest.approx([0.4, 0.25, 0.1], abs=1e-4)
    drawn = epsilons({"exploration.epsilon": (0.4, 0.8), "exploration.distribution": "uniform"})
    assert 0.401 < drawn[0] < 0.799
    assert drawn == pytest.approx(drawn[:1] * 3, abs=1e-4)


# What an optimizer is given


class Recorded:
    """Gradient descent that keeps what it is given, and the weights before and after."""

    made: "list[Recorded]" = []  # noqa: RUF012

    def __init__(self, weights: Tensor):
        self.weights, self.rates, self.gradients = [weights.clone()], [], []
        Recorded.made.append(self)

    def step(self, weights: Tensor, gradient: Tensor, learning_rate: float) -> None:
        weights.sub_(gradient, alpha=learning_rate)
        self.rates.append(learning_rate)
        self.gradients.append(gradient.clone())
        self.weights.append(weights.clone())

    def state(self) -> dict[str, Tensor]:
        return {}


def recorded(train: Train, changed: dict[str, Any], base: dict[str, Any] = SERIAL | ONE_PASS) -> Recorded:
    Recorded.made.clear()
    train(changed, base, optimizer=Recorded)
    (used,) = [each for each in Recorded.made if each.rates]
    return used


@case("learner.learning_rate", "learner.warmup_updates", "learner.anneal_steps")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    """An update is made after 32, 64 and 96 steps."""
    for changed, rates in (
        ({}, [0.05] * 3),
        ({"learner.learning_rate": 0.01}, [0.01] * 3),
        ({"learner.warmup_updates": 2}, [0.025, 0.05, 0.05]),
        ({"learner.anneal_steps": 128}, [0.05 * 0.75, 0.05 * 0.5, 0.05 * 0.25]),
        ({"learner.anneal_steps": "auto"}, [0.05 * 0.75, 0.05 * 0.5, 0.05 * 0.25]),
        ({"learner.anneal_steps": "auto", "stop.steps": 192}, [0.05 * (1 - 0.125 * k) for k in range(1, 7)]),
    ):
        assert recorded(train, changed).rates == pytest.approx(rates)


@case("learner.gradient_norm")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    whole, clipped = (recorded(train, {"learner.gradient_norm": norm}).gradients[0] for norm in (0.0, 0.125))
    assert float(whole.norm()) > 0.25
    torch.testing.assert_close(clipped, whole * 0.125 / whole.norm())


@case("loss.reduction")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    mean, total = (recorded(train, {"loss.reduction": way}).gradients[0] for way in ("mean", "sum"))
    torch.testing.assert_close(total, ROWS * ENVIRONMENTS * mean)


@case("learner.average_decay")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    Recorded.made.clear()
    run = train({"learner.average_decay": 0.75}, optimizer=Recorded)
    (used,) = [each for each in Recorded.made if each.rates]
    average = used.weights[0].clone()
    for each in used.weights[1:]:
        average.lerp_(each, 0.25)
    assert torch.equal(weights(run), average)
    assert not torch.equal(average, used.weights[-1])
    assert torch.equal(weights(train(optimizer=Recorded)), Recorded.made[-1].weights[-1])


# Networks, against those that are built directly

STILL = {"learner.learning_rate": 1e-30}
NETWORKS: dict[str, tuple[type[Steady], dict[str, Any], Any]] = {
    "encoder": (SteadyImage, {}, "a3c"),
    "hidden": (Steady, {}, (5, 4)),
    "activation": (Steady, {}, "relu"),
    "shared": (Steady, {}, True),
    "normalize": (Steady, {}, True),
    "log_std": (SteadyBox, {}, -1.5),
    "core": (Steady, {}, "gru"),
    "core_units": (Steady, {"core": "gru"}, 6),
    "core_inputs": (Steady, {"core": "gru"}, True),
    "precision": (Steady, {}, "bfloat16"),
}


def is_as_built_directly(name: str, train: Train, patch: pytest.MonkeyPatch) -> None:
    env, more, value = NETWORKS[name]
    settings = STILL | {f"network.{each}": value for each, value in more.items()}
    config = resolve("x", settings=SERIAL | settings, tuned=False).network
    torch.manual_seed(0)
    source = find(env)
    spaces = source.observation_space, source.action_space
    observations = torch.from_numpy(np.stack([env.observation_space.sample() for _ in range(5)]))

    def seen(network: Any) -> Any:
        with torch.no_grad():
            output = network.eval()(observations, network.initial_state(5))
        shape = {each: tuple(part.shape) for each, part in network.state_dict().items()}
        shown = output.distribution.mode().float() + output.distribution.entropy().reshape(5, -1).sum(-1, keepdim=True)
        return shape, shown.tolist(), output.value.tolist()

    trained = train(settings | {f"network.{name}": value}, env=env).agent.network
    direct, default = build(*spaces, replace(config, **{name: value})), build(*spaces, config)
    if name == "log_std":  # a number that is learned: it is in the weights
        assert [part.unique().tolist() for each, part in trained.state_dict().items() if "log_std" in each] == [[value]]
    direct.load_state_dict(trained.state_dict())
    assert seen(direct) == seen(trained)
    if seen(default)[0] == seen(trained)[0] and name != "log_std":
        default.load_state_dict(trained.state_dict())
        assert seen(default) != seen(trained)


for _name in NETWORKS:
    case(f"network.{_name}")(partial(is_as_built_directly, _name))


# Novelty


def novelty(run: troupe.Run) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What is kept of the first learner, and its arrays in order."""
    (file,) = (run.path / "checkpoints").glob("*/novelty.safetensors")
    arrays = safetensors.numpy.load(file.read_bytes())
    header = file.read_bytes()
    nested = json.loads(json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]["nested"])
    return nested["learners"][0], [arrays[str(number)] for number in range(len(arrays))]


@case("novelty.coefficient", "novelty.gamma")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    assert [batch.bonus for batch in batches(train, {})] == [None] * 3
    for batch in batches(train, {"novelty.coefficient": 0.7, "novelty.gamma": 0.5}):
        assert batch.bonus.coefficient == 0.7
        assert (batch.bonus.discount == 0.5).all()
        assert (batch.bonus.reward > 0).all()


@case("novelty.hidden", "novelty.learning_rate")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    """The predictor's first step with Adam changes every number by the learning rate."""

    def predictor(changed: dict[str, Any]) -> dict[str, np.ndarray]:
        run = train({"novelty.coefficient": 0.7, "novelty.hidden": (5,), "stop.steps": 32} | changed)
        nested, arrays = novelty(run)
        return {name: arrays[int(each["array"])] for name, each in nested["novelty"].items()}

    still, moved = (predictor({"novelty.learning_rate": rate}) for rate in (1e-30, 0.25))
    assert {5} < {size for each in still.values() for size in each.shape} < {1, 3, 5, 64, 128, 256, 512}
    changes = {name: float(np.abs(moved[name] - still[name]).max()) for name in still}
    assert max(changes.values()) == pytest.approx(0.25, rel=1e-3)
    assert 7 in {size for each in predictor({"novelty.hidden": (7,)}).values() for size in each.shape}


# Who works together


class Numbers(nn.Module):
    """A network that keeps, of each pass, the thread and the number of observations, with and without gradient."""

    passes: "dict[bool, set[tuple[str, int]]]" = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        Numbers.passes.setdefault(torch.is_grad_enabled(), set()).add((threading.current_thread().name, len(obs)))
        output = self.layer(obs)
        return output[:, :2], output[:, 2]


def passes(train: Train, changed: dict[str, Any], base: dict[str, Any] = THREADS) -> dict[bool, set[tuple[str, int]]]:
    Numbers.passes = {}
    train(changed, base, network=Numbers())
    return Numbers.passes


@case("topology")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    for settings, thread in (
        (SERIAL, "serial"),
        (THREADS, "learner-0"),
        (THREADS | {"topology": "hogwild", "loss.kind": "a3c"}, "actor-0"),
    ):
        names = {name for name, _ in passes(train, ONE_PASS, settings)[True]}
        assert {name for name in names if name.startswith(("serial", "learner", "actor"))} == {thread}


@case("learner.threads", "actor.parts", "inference.kind")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    """Of one pass with gradient, T + 1 rows of 4 environments; of one without, the environments that act together."""

    def sizes(changed: dict[str, Any], *, learning: bool) -> set[int]:
        threads = ("learner",) if learning else ("actor", "predictor")
        return {size for name, size in passes(train, changed)[learning] if name.startswith(threads)}

    assert sizes({}, learning=True) == {9 * 4}
    assert sizes({"learner.threads": 3}, learning=True) == {9 * 1, 9 * 2}
    assert sizes({}, learning=False) == {4}
    assert sizes({"actor.parts": 2}, learning=False) == {2}
    acting = {name for name, _ in passes(train, {"inference.kind": "batched"})[False]}
    assert "predictor-0" in acting
    assert "actor-0" not in acting


@case("actor.count", "inference.predictors", "learner.count")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    """As the reports have them; and two learners meet in their first loss, which one alone would never leave."""
    assert metrics(train(base=GA3C))[-1]["numbers"] == {"actors": 1, "predictors": 1, "learners": 1}
    more = {"actor.count": 3, "inference.predictors": 2, "learner.count": 2}
    met, barrier = set(), threading.Barrier(2)

    def loss(outputs: Any, batch: Any) -> Any:
        name = threading.current_thread().name
        if name not in met:
            met.add(name)
            barrier.wait(PATIENCE_SECONDS)
        return losses.a3c(outputs, batch)

    assert metrics(train(more, GA3C, loss=loss))[-1]["numbers"] == {"actors": 3, "predictors": 2, "learners": 2}
    assert met == {"learner-0", "learner-1"}


class Looks(Steady):
    """Waits in its first step of training until the threads `wanted` are there; keeps the names of all new ones."""

    before: "set[threading.Thread]" = set()  # noqa: RUF012
    wanted: "set[str]" = set()  # noqa: RUF012
    seen: "set[str]" = set()  # noqa: RUF012

    def step(self, action: Any) -> Any:
        if threading.current_thread().name.startswith("actor"):
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not (names := {each.name for each in set(threading.enumerate()) - Looks.before}) >= Looks.wanted:
                assert time.monotonic() < deadline, names
                time.sleep(1e-3)
            Looks.seen |= names
        return super().step(action)


@case("adjust.every_seconds", "adjust.most_actors", "adjust.most_predictors", "adjust.most_learners")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    def looked(changed: dict[str, Any], wanted: set[str]) -> set[str]:
        Looks.before, Looks.wanted, Looks.seen = set(threading.enumerate()), wanted, set()
        train(changed, GA3C, env=Looks)
        return {name for name in Looks.seen if name.startswith(("actor-", "predictor-", "learner-", "controller"))}

    one = {"actor-0", "predictor-0", "learner-0"}
    assert looked({}, one) == one
    most = {"adjust.most_actors": 4, "adjust.most_predictors": 2, "adjust.most_learners": 3}
    limits = {f"{part}-{k}" for part, count in (("actor", 4), ("predictor", 2), ("learner", 3)) for k in range(count)}
    assert looked(most | {"adjust.every_seconds": 100.0}, limits | {"controller"}) == limits | {"controller"}
    assert looked(most, one) == one


@case("learner.take_all", "queue.capacity")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    """While the first rollouts are learned from, all others are filled, and all but perhaps the last one are queued: a
    learner that takes all has these next. On a busy machine the first batch may have several, too."""

    class Counted(Steady):
        played = 0

        def step(self, action: Any) -> Any:
            Counted.played += threading.current_thread().name.startswith("actor")
            return super().step(action)

    def columns(changed: dict[str, Any], rollouts: int) -> list[int]:
        Counted.played, seen = 0, []

        def loss(outputs: Any, batch: Any) -> Any:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not seen and Counted.played < rollouts * ROWS * ENVIRONMENTS:
                assert time.monotonic() < deadline, Counted.played
                time.sleep(1e-3)
            seen.append(batch.reward.shape[1])
            return losses.a3c(outputs, batch)

        run = train(changed | {"stop.steps": 4 * rollouts * ROWS * ENVIRONMENTS}, THREADS, loss=loss, env=Counted)
        assert metrics(run)[-1]["queue_capacity"] == rollouts
        return seen

    assert columns({"queue.capacity": 3}, 4)[1] == 4
    assert 3 * 4 <= sum(columns({"queue.capacity": 3, "learner.take_all": True}, 4)[:2]) <= 8 * 4
    assert max(columns({"queue.capacity": 3, "learner.take_all": True}, 4)) <= 4 * 4
    assert sum(columns({"queue.capacity": 6, "learner.take_all": True}, 7)[:2]) >= 6 * 4


# Environments


@case("env.id")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    run = train(env="Acrobot-v1")
    assert run.agent.observation_space.shape == (6,)
    assert train().agent.observation_space.shape == (3,)
    assert len(troupe.evaluate(run.path, episodes=1).returns) == 1  # in the environment that its file names


@case("env.backend")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    from gymnasium.envs.classic_control import cartpole

    stepped: set[str] = set()

    def note(kind: type) -> None:
        step = kind.step

        def noting(self: Any, action: Any) -> Any:
            if threading.current_thread().name == "serial":
                stepped.add(kind.__name__)
            return step(self, action)

        patch.setattr(kind, "step", noting)

    note(cartpole.CartPoleEnv)
    note(cartpole.CartPoleVectorEnv)
    for backend, kind in (("sync", "CartPoleEnv"), ("native", "CartPoleVectorEnv")):
        stepped.clear()
        train({"env.backend": backend}, env="CartPole-v1")
        assert stepped == {kind}


@case("env.delay_seconds")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    delays = [
        metrics(train({"env.delay_seconds": delay}))[-1]["stage_seconds"]["actor"]["delay"] for delay in (0.0, 0.01)
    ]
    assert delays[1] > 2 * ROWS * 0.01 > delays[0]  # three rollouts, less what other programs took


ATARI: dict[str, Any] = {
    "protocol": "v5",
    "sticky": 1.0,
    "episodic_life": True,
    "fire_reset": False,
    "noops": 0,
    "frame_skip": 2,
}


@cache
def breakout() -> Any:
    return find("ALE/Breakout-v5")


@cache
def played(name: str = "") -> tuple[Any, ...]:
    """What the same actions from the same seed lead to, with another value of the setting."""
    changed = {f"env.{name}": ATARI[name]} if name else {}
    vector = breakout().make_vector(1, resolve("ALE/Breakout-v5", settings=changed, tuned=False).env)
    seen = [vector.reset(np.random.SeedSequence(3)).tobytes()]
    for action in np.random.default_rng(1).integers(4, size=(150, 1)):
        row = vector.step(action)
        seen.append((row.obs.tobytes(), row.life_lost.any()))
    vector.close()
    return tuple(seen)


def plays_otherwise(name: str, train: Train, patch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ale_py")
    assert played(name) != played()


for _name in ATARI:
    case(f"env.{_name}")(partial(plays_otherwise, _name))


@case("env.threads")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    ale = pytest.importorskip("ale_py.vector_env")

    def noting(self: Any, *args: Any, num_threads: int, **named: Any) -> None:
        raise LookupError(num_threads)

    patch.setattr(ale.AtariVectorEnv, "__init__", noting)
    for threads in (1, 2):
        config = resolve("ALE/Breakout-v5", settings={"env.threads": threads}, tuned=False).env
        with pytest.raises(Exception, match=f"{threads}$"):
            breakout().make_vector(2, config)


# Evaluation, collapse, checkpoints, and the end


class Pays(Steady):
    """Action 1 pays; an episode lasts 40 steps."""

    def reset(self, **how: Any) -> Any:
        self.left = 40
        return super().reset(**how)

    def step(self, action: Any) -> Any:
        self.left -= 1
        return self._obs(), float(action), False, self.left <= 0, {}


class Undecided(nn.Module):
    """Action 1 is the more probable one, whatever is seen."""

    def __init__(self, logit: float = 0.1):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.0, logit]))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(obs), -1), torch.zeros(len(obs))


def evaluations(run: troupe.Run, purpose: str) -> list[dict[str, Any]]:
    return [row for row in metrics(run, "evaluation") if row["purpose"] == purpose]


@case("evaluation.every_steps", "evaluation.every_seconds", "evaluation.episodes")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    def evaluated(changed: dict[str, Any]) -> list[int]:
        return [row["steps"] for row in evaluations(train(changed), "progress")]

    assert evaluated({}) == []
    assert evaluated({"evaluation.every_steps": 64}) == [64, 96]  # what a run ends with is evaluated once more
    assert evaluated({"evaluation.every_steps": 32}) == [32, 64, 96]
    assert evaluated({"evaluation.every_seconds": 1e-9}) == [32, 64, 96]
    for episodes in (2, 5):
        rows = evaluations(train({"evaluation.every_steps": 96, "evaluation.episodes": episodes}), "progress")
        assert [row["episodes"] for row in rows] == [episodes]


@case("evaluation.final_episodes", "evaluation.max_steps", "evaluation.greedy")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    def final(**changed: Any) -> dict[str, Any]:
        settings = {f"evaluation.{name}": value for name, value in changed.items()}
        run = train(STILL | {"evaluation.max_steps": "auto"} | settings, env=Pays, network=Undecided())
        (row,) = evaluations(run, "final")
        return row

    assert (final()["episodes"], final()["mean_length"], final()["mean"]) == (1, 40, 40)
    assert final(final_episodes=3)["episodes"] == 3
    assert final(max_steps=7)["mean_length"] == 7
    assert 5 < final(greedy=False)["mean"] < 35


@case("collapse.loss", "collapse.evaluations", "collapse.answer", "collapse.step_factor", "collapse.rollbacks")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    """Evaluated returns of 0, then 10, and from then on 4, by a script."""
    means: list[float] = []

    def scripted(self: Any, network: Any, episodes: int, seeds: Any, **how: Any) -> Scores:
        return Scores(np.full(episodes, means.pop(0) if means else 4.0), np.full(episodes, 1))

    patch.setattr(Evaluator, "run", scripted)

    def collapses(**changed: Any) -> list[tuple[int, str, float]]:
        means[:] = [0.0, 10.0]
        settings = {f"collapse.{name}": value for name, value in changed.items()}
        run = train(settings | {"evaluation.every_steps": 32, "stop.steps": 224}, optimizer=Recorded)
        return [(row["steps"], row["answer"], row["step_factor"]) for row in metrics(run, "collapse")]

    assert collapses() == [(160, "report", 1.0)]
    assert collapses(loss=0.7) == []
    assert collapses(evaluations=2) == [(128, "report", 1.0)]
    back = {"answer": "rollback", "evaluations": 2}
    assert collapses(**back) == [(steps, "rollback", 0.5**k) for k, steps in enumerate((128, 192), 1)]
    assert collapses(**back, step_factor=0.25)[:2] == [(128, "rollback", 0.25), (192, "rollback", 0.0625)]
    assert collapses(**back, rollbacks=1) == [(128, "rollback", 0.5), (192, "report", 0.5)]


@case("checkpoint.every_seconds")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    """The last loss waits for a checkpoint: there is one before the end, or none."""

    def saved(changed: dict[str, Any], patience_seconds: float) -> bool:
        calls: list[bool] = []

        def loss(outputs: Any, batch: Any) -> Any:
            calls.append(False)
            deadline = time.monotonic() + patience_seconds
            while len(calls) == 3 and not calls[-1] and time.monotonic() < deadline:
                calls[-1] = any((train.last / "checkpoints").glob("[0-9]*"))
                time.sleep(1e-3)
            return losses.a3c(outputs, batch)

        train(changed, SERIAL | ONE_PASS, loss=loss)
        return calls[-1]

    assert saved({"checkpoint.every_seconds": 1e-3}, PATIENCE_SECONDS)
    assert not saved({"checkpoint.every_seconds": 1e6}, 0.3)


@case("stop.steps", "stop.seconds", "stop.target")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    assert (train({"stop.steps": 64}).steps, train().steps) == (64, 96)
    assert train({"stop.seconds": 1e-6, "stop.steps": 10**6}).outcome == "time"
    settings = {"evaluation.every_steps": 32, "evaluation.max_steps": "auto"}
    for target, outcome in ((39.0, "solved"), (41.0, "steps")):
        assert (
            train(settings | {"stop.target": target}, env=Pays, network=Undecided(), optimizer=Still).outcome == outcome
        )


class Still(Recorded):
    """Changes nothing."""

    def step(self, weights: Tensor, gradient: Tensor, learning_rate: float) -> None:
        pass


@case("seed", "preset", "tuned")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    assert torch.equal(weights(train()), weights(train(seed=0)))
    assert not torch.equal(weights(train()), weights(train(seed=1)))
    for preset, kind in (("appo", "appo"), ("impala", "impala")):
        config = from_toml((train(preset=preset).path / "config.toml").read_text())
        assert (config.preset, config.loss.kind) == (preset, kind)
    for run, tuned in ((train(env="CartPole-v1", tuned=True), True), (train(), False)):
        assert json.loads((run.path / "summary.json").read_text())["tuned"] is tuned


@case("record")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    for record in (True, False):
        assert (train({"record": record}, THREADS).path / "journal.jsonl").exists() is record


@case("device")
def _(train: Train, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: False)
    assert weights(train({"device": "cpu"})).device.type == "cpu"
    with pytest.raises(UsageError, match=r"^device = 'cuda': torch sees no CUDA device here"):
        train({"device": "cuda"})


# How a value arrives

ENVIRONMENT = """
import gymnasium as gym
import numpy as np

class Env(gym.Env):
    observation_space = gym.spaces.Dict(x=gym.spaces.Box(-1, 1, (2,)), y=gym.spaces.Discrete(2))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, size: int = 1):
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"x": np.zeros(2, np.float32), "y": 0}, {}

    def step(self, action):
        return {"x": np.zeros(2, np.float32), "y": 0}, 1.0, True, False, {}

class Wrapped(gym.Wrapper):
    pass

def loss(outputs, batch, *, share: float = 1.0):
    raise NotImplementedError

def network(observation_space, action_space):
    raise NotImplementedError

def flat(share):
    return 1.0
"""
VALUES: dict[str, Any] = {  # of settings for which not every value will do
    "threads": "one-core", "device": "cpu", "env.wrappers": ("FILE:Wrapped",), "env.ignore": ("y",),
    "env.backend": "sync", "actor.placement": "thread", "exploration.epsilon": (0.5, 0.25),
    "exploration.epsilon_end": (0.125,), "network.encoder": "flat", "network.hidden": (5, 4), "network.core": "gru",
    "novelty.hidden": (5,), "loss.kind": "impala", "collapse.answer": "rollback", "topology": "queue",
    "inference.kind": "batched", "learner.optimizer": "rmsprop", "stop.target": 1.5, "collapse.step_factor": 0.25,
    "evaluation.max_steps": 7, "network.custom": "FILE:network", "loss.rho_clip": 1.2,
    "schedules.learning_rate": "FILE:flat", "schedules.entropy_coefficient": "FILE:flat", "schedules.clip": "FILE:flat",
    "actor.cluster": "10.0.0.1:6379",
}  # fmt: skip
TABLES = {"env.kwargs": ("size", 3), "loss.kwargs": ("share", 0.5), "learner.optimizer_kwargs": ("beta1", 0.5)}
CONTEXT: dict[str, dict[str, Any]] = {  # what else must be set
    "actor.window_steps": {"loss.kind": "a3c", "actor.environments": 1},
    "adjust.every_seconds": {"topology": "ga3c", "inference.kind": "batched"},
    "learner.count": {"topology": "queue"},
    "loss.kwargs": {"loss.kind": "FILE:loss"},
}


DEFAULTS: dict[Path, TrainConfig] = {}  # of the environment in a file, made once


class Arrived(BaseException):
    """A run would begin: no error that a command turns into its status."""


@pytest.fixture
def config_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], TrainConfig]:
    """The configuration with which a call would begin or resume a run."""

    def begin(*args: Any, **named: Any) -> None:
        raise Arrived(next(each for each in (*args, *named.values()) if isinstance(each, TrainConfig)))

    monkeypatch.setattr(trainer, "connected", lambda *_, **__: nullcontext())  # to no cluster
    monkeypatch.setattr(trainer, "Session", begin)
    monkeypatch.setattr(trainer, "fit", lambda config, *rest: (config, []))

    def of(call: Callable[[], object]) -> TrainConfig:
        with pytest.raises(Arrived) as arrived:
            call()
        config: TrainConfig = arrived.value.args[0]
        return config

    return of


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("env_file") / "env.py"
    file.write_text(ENVIRONMENT)
    return file


def in_file(value: Any, file: Path) -> Any:
    if isinstance(value, tuple):
        return tuple(in_file(each, file) for each in value)
    return value.replace("FILE", str(file)) if isinstance(value, str) else value


def other_value(name: str, file: Path) -> Any:
    field = fields()[name]
    if name in VALUES:
        return in_file(VALUES[name], file)
    if isinstance(field.default, bool):
        return not field.default
    if field.choices and isinstance(field.default, str):
        return next(each for each in field.choices if each not in (field.default, "auto"))
    if isinstance(field.default, float):
        return 0.5 if field.default != 0.5 else 0.25
    return 2 * field.default + 1


def value_in(config: TrainConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", [name for name in fields() if name not in DERIVED])
def test_a_value_arrives_from_the_command_line_from_python_and_from_a_file_alike(name, env_file, tmp_path, config_of):
    env, settings = f"{env_file}:Env", {each: in_file(value, env_file) for each, value in CONTEXT.get(name, {}).items()}
    how: dict[str, Any] = {"preset": "appo", "tuned": False, "seed": 0}
    expected: Any
    if name in TABLES:
        key, value = TABLES[name]
        settings[f"{name}.{key}"], expected = value, {key: value}
    elif name in ("preset", "tuned", "seed"):
        how[name] = expected = {"preset": "impala", "tuned": True, "seed": 7}[name]
        env = "CartPole-v1" if name == "tuned" else env
    elif name == "env.id":
        env = expected = "CartPole-v1"
    else:
        settings[name] = expected = other_value(name, env_file)

    def words() -> list[str]:
        words = [
            "train",
            env,
            "--run-dir",
            str(tmp_path / "none"),
            "--preset",
            how["preset"],
            "--seed",
            str(how["seed"]),
        ]
        words += [] if how["tuned"] else ["--untuned"]
        for each, value in settings.items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += ["--record"] if each == "record" else [f"--{each}", text]
        return words

    python = config_of(lambda: troupe.train(env, settings=settings, run_dir=tmp_path / "none", **how))
    assert value_in(python, name) == expected
    assert config_of(lambda: run_cli(words())) == python
    (tmp_path / "config.toml").write_text(to_toml(python))
    assert config_of(lambda: troupe.resume(tmp_path, trust=True)) == python
    if name != "env.id":
        if env_file not in DEFAULTS:
            DEFAULTS[env_file] = config_of(lambda: troupe.train(env, run_dir=tmp_path / "none", tuned=False))
        assert value_in(DEFAULTS[env_file], name) != expected


def test_a_run_that_is_resumed_goes_by_its_file(train):
    """Every value of the file is the resumed run's, also one that was changed by hand: the learning rate is the last
    that the optimizer is given."""
    Recorded.made.clear()
    run = train({"stop.steps": 64, "learner.rollouts": 1}, SERIAL | ONE_PASS, optimizer=Recorded)
    file = run.path / "config.toml"
    file.write_text(file.read_text().replace("learning_rate = 0.05", "learning_rate = 0.125"))
    troupe.resume(run.path, steps=96, env=Steady, optimizer=Recorded)
    assert [rate for each in Recorded.made for rate in each.rates] == [0.05, 0.05, 0.125]


def test_every_setting_has_a_case_here_or_a_test_elsewhere() -> None:
    missing = fields().keys() - CASES.keys() - ELSEWHERE.keys() - DERIVED.keys()
    assert not missing, (
        "a new setting needs a case that shows what it changes, or a test elsewhere that does (ELSEWHERE)"
    )
    assert CASES.keys() | ELSEWHERE.keys() | DERIVED.keys() == fields().keys()
    for name, file in ELSEWHERE.items():
        mention = f"--{name.partition('.')[0]} " if name == "network.custom" else name
        assert mention in (Path(__file__).parent / file).read_text(), f"{file} has no test of {name} any more"


def _cases() -> list[Any]:
    """Each function once, by the names of its settings."""
    names: dict[Case, list[str]] = defaultdict(list)
    for name, functions in CASES.items():
        for function in functions:
            names[function].append(name)
    return [
        pytest.param(each, id=f"{each.args[0]}, {each.args[-1]}" if isinstance(each, partial) else " ".join(those))
        for each, those in names.items()
    ]


@pytest.mark.parametrize("case", _cases())
def test_another_value_changes_what_its_consumer_computes(case, train, monkeypatch):
    case(train, monkeypatch)
