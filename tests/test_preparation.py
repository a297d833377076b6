"""What is settled before a run: precision, actors, threads and device, each by numbers that are given here."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from troupe import preparation
from troupe.config import TrainConfig, UsageError, replace, resolve
from troupe.environments import find
from troupe.preparation import fit
from troupe.runtime.initial_network import choose_device, first_network
from troupe.runtime.measure import Costs, measure_pass
from troupe.torch_threads import one_torch_thread

US = 1e-6


class Pictures(gym.Env[np.ndarray, int]):
    """Images that say nothing."""

    observation_space = gym.spaces.Box(0, 255, (40, 36, 2), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def reset(self, **seed: Any) -> Any:
        super().reset(**seed)
        return np.zeros_like(self.observation_space.low), {}

    def step(self, action: int) -> Any:
        return np.zeros_like(self.observation_space.low), 0.0, False, False, {}


class Game(Pictures):
    """The same, taken for an Atari game: its emulators step in threads of their own."""


class Numbers(Pictures):
    """The same without images."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


class Own(nn.Module):
    """A network of one's own, for either."""

    def __init__(self, *_: Any):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(obs), 3), self.value.expand(len(obs))


class Measured:
    """What measuring gives, and what was measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.environment, self.act = 300 * US, 50 * US  # of a step
        self.learn = {torch.float32: 100 * US, torch.bfloat16: 100 * US}  # of a pass, for each observation
        self.fails: Exception | None = None
        self.asked: list[Any] = []
        self.passes: list[tuple[torch.dtype, int]] = []
        monkeypatch.setattr(preparation, "measure", self._measure)
        monkeypatch.setattr(preparation, "measure_pass", self._measure_pass)
        self.cores = 2
        monkeypatch.setattr(preparation, "cores", lambda: self.cores)

    def _measure(self, source: Any, config: Any, network: Any, sizes: list[int]) -> Costs:
        assert torch.get_num_threads() == 1
        self.asked.append(sizes)
        if self.fails:
            raise self.fails
        return Costs(self.environment, self.environment, {size: size * self.act for size in sizes})

    def _measure_pass(self, network: Any, size: int, steps: int) -> float:
        assert torch.get_num_threads() == 1
        self.passes.append((network.precision, size))
        return self.learn[network.precision]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    return Measured(monkeypatch)


def fitted(
    env: Any = Game, settings: dict[str, Any] | None = None, network: Any = None, **how: Any
) -> tuple[TrainConfig, list[str]]:
    source = dataclasses.replace(find(env), atari=env is Game)
    usual = {"actor.count": 1, "actor.environments": 32, "actor.placement": "thread", "learner.epochs": 3}
    config = resolve(source.id, settings=usual | (settings or {}), **how)
    return fit(config, source, network)


# Backend


class Backends:
    """What a step costs on each, and where it was measured."""

    def __init__(self) -> None:
        self.costs: dict[Any, float] | None = {"native": 6 * US, "sync": 14 * US}
        self.asked: list[int] = []

    def measure(self, source: Any, config: Any, count: int, stop: Any) -> Any:
        self.asked.append(count)
        return self.costs


@pytest.fixture
def backends(measured, monkeypatch) -> Backends:
    given = Backends()
    monkeypatch.setattr(preparation, "measure_backends", given.measure)
    return given


@pytest.mark.parametrize(
    ("costs", "chosen"),
    [
        ({"native": 6, "sync": 14}, "native"),
        ({"native": 14, "sync": 6}, "sync"),
        ({"native": 11, "sync": 6}, "native"),  # in processes, which take their time to start
        ({"native": 20, "sync": 30, "envpool": 19}, "native"),  # no clear gain
        ({"native": 60, "sync": 90, "envpool": 20}, "envpool"),
    ],
)
def test_the_backend_is_the_one_whose_steps_take_the_least_of_a_core(backends, costs, chosen):
    backends.costs = {name: cost * US for name, cost in costs.items()}
    config, _ = fitted("CartPole-v1")
    assert backends.asked == [32]
    assert config.env.backend == chosen


def test_the_choice_and_what_the_others_cost_are_reported(backends):
    backends.costs = {"native": 12.5 * US, "sync": 40 * US, "envpool": 10 * US}
    (line,) = fitted("CartPole-v1")[1]
    assert line == "backend envpool: a step takes 10 us of a core, native 12 us, sync 40 us (32 at a time)"


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", {"topology": "serial"}),
        ("CartPole-v1", {"env.backend": "sync"}),
        ("CartPole-v1", {"env.backend": "native"}),
        (Numbers, {}),  # there is nothing to choose
    ],
)
def test_a_backend_is_not_measured_where_none_is_to_be_chosen(backends, env, settings):
    config, notices = fitted(env, settings)
    assert backends.asked == notices == []
    assert config.env.backend == settings.get("env.backend", "auto")


def test_a_measurement_that_fails_leaves_the_backend_as_it_was(backends):
    backends.costs = None
    config, notices = fitted("CartPole-v1")
    assert (config.env.backend, notices) == ("auto", [])


# Precision


@pytest.mark.parametrize(
    ("env", "network", "settings"),
    [
        (Numbers, None, {}),
        (Numbers, Own, {}),
        (Pictures, Own, {}),
        (Pictures, Own(), {}),
        (Pictures, None, {"network.encoder": "flat"}),
    ],
)
def test_vectors_and_custom_networks_are_in_float32_without_a_measurement(measured, env, network, settings):
    config, notices = fitted(env, settings, network)
    assert (config.network.precision, config.learner.threads, config.env.threads) == ("float32", 1, 0)
    assert notices == measured.asked == measured.passes == []


@pytest.mark.parametrize(
    ("seconds", "chosen", "gain"),
    [
        (100 * US, "float32", "1.0"),
        (92 * US, "float32", "1.1"),
        (90 * US, "bfloat16", "1.1"),
        (50 * US, "bfloat16", "2.0"),
        (800 * US, "float32", "0.1"),
    ],
)
def test_images_are_in_what_is_clearly_faster_and_that_is_reported(measured, seconds, chosen, gain):
    measured.learn[torch.bfloat16] = seconds
    config, notices = fitted()
    assert config.network.precision == chosen
    assert notices[0] == f"precision {chosen}: a pass in bfloat16 is {gain} times as fast as in float32 here"
    assert [precision for precision, _ in measured.passes[:2]] == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("env", [Pictures, Numbers])
def test_a_precision_that_was_asked_for_is_left_alone(measured, env, precision):
    measured.learn = {torch.float32: 100 * US, torch.bfloat16: 1 * US}
    if precision == "bfloat16":
        measured.learn = {torch.float32: 1 * US, torch.bfloat16: 100 * US}
    config, notices = fitted(env, {"network.precision": precision})
    assert config.network.precision == precision
    assert not any(line.startswith("precision") for line in notices)


def test_what_was_chosen_is_what_the_network_computes_in(measured):
    measured.learn[torch.bfloat16] = 10 * US
    config, _ = fitted()
    network, _, _ = first_network(None, find(Pictures), config)
    assert network.precision == torch.bfloat16
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert measured.passes[2][0] == torch.bfloat16  # and what the threads are reckoned with


# Threads


@pytest.mark.parametrize(
    ("cores", "parts", "count", "playing", "learning"),
    [
        # A step is 300 us of playing, 50 of acting and 3 x 100 of learning: of two cores 0.92, 0.15 and 0.92.
        (2, 1, 1, 1, 2),  # 0.92 and 0.15 for what is not foreseen: more than one core
        (1, 1, 1, 1, 1),
        (16, 1, 1, 8, 8),  # 7.4 each
        (16, 2, 1, 4, 8),
        (16, 2, 2, 2, 8),
        (64, 1, 1, 30, 30),  # 29.5 each
    ],
)
def test_threads_follow_the_shares_of_a_step(measured, cores, parts, count, playing, learning):
    measured.cores = cores
    config, notices = fitted(settings={"actor.parts": parts, "actor.count": count})
    assert (config.env.threads, config.learner.threads) == (playing, learning)
    assert measured.asked == [[32 // parts]]
    assert notices[-1] == (
        "threads: a step is 300 us of playing, 50 of acting and 300 of learning in 3 passes: "
        f"{playing * parts * count} to play, {count} to act, {learning} to learn"
    )


@pytest.mark.parametrize(
    ("environment", "act", "learn", "epochs", "threads"),
    [
        (900, 50, 25, 2, (8, 1)),  # of 8 cores: 7.2, 0.4, 0.4
        (20, 10, 190, 5, (1, 8)),  # 0.16, 0.08, 7.8
        (100, 100, 100, 1, (3, 3)),  # 2.7 each
    ],
)
def test_whoever_has_the_work_has_the_threads(measured, environment, act, learn, epochs, threads):
    measured.cores, measured.environment, measured.act = 8, environment * US, act * US
    measured.learn[torch.float32] = learn * US
    config, notices = fitted(settings={"learner.epochs": epochs})
    assert (config.env.threads, config.learner.threads) == threads
    assert f"{epochs} pass{'es' if epochs > 1 else ''}:" in notices[-1]


@pytest.mark.parametrize(
    ("settings", "playing", "learning"),
    [
        ({"topology": "queue", "learner.count": 2, "learner.epochs": 3}, 8, 4),  # 7.4 of 16 cores: 3.7 for each
        ({"topology": "queue", "learner.count": 7, "learner.epochs": 3}, 8, 2),
        # One pass, 450 us a step: 10.7 cores for playing, 3.6 for learning, dealt out to four workers.
        ({"topology": "hogwild", "actor.count": 4, "learner.epochs": 1, "learner.minibatches": 1}, 3, 2),
    ],
)
def test_several_learners_share_the_threads_that_learning_is_worth(measured, settings, playing, learning):
    measured.cores = 16
    config, notices = fitted(settings=settings)
    assert (config.env.threads, config.learner.threads) == (playing, learning)
    learners = config.actor.count if config.topology == "hogwild" else config.learner.count
    assert notices[-1].endswith(f" to act, {learners * learning} to learn")


def test_pictures_that_are_no_game_step_with_their_actor_and_may_be_played_as_settled(measured):
    """`env.threads` is for emulators and EnvPool; every other picture was refused for a number nobody had asked for."""
    measured.cores = 16
    config, notices = fitted(Pictures)
    assert (config.env.threads, config.learner.threads) == (0, 8)
    assert notices[-1].endswith(" of learning in 3 passes: 1 to act, 8 to learn")
    find(Pictures).check(config.env)
    assert fitted(Pictures, {"learner.threads": 2, "network.precision": "float32"})[1] == []


@pytest.mark.parametrize(
    ("asked", "threads"),
    [
        ({"learner.threads": 3}, (8, 3)),
        ({"env.threads": 5}, (5, 8)),
        ({"learner.threads": 3, "env.threads": 5}, (5, 3)),
        ({"learner.threads": 1, "env.threads": 1}, (1, 1)),
    ],
)
def test_numbers_of_threads_that_were_asked_for_are_left_alone(measured, asked, threads):
    measured.cores = 16
    config, notices = fitted(settings=asked | {"network.precision": "float32"})
    assert (config.env.threads, config.learner.threads) == threads
    assert len(measured.asked) == (len(asked) == 1)  # measured where something is left open
    assert len(notices) == (len(asked) == 1)


def test_serial_measures_nothing_so_it_is_the_same_every_time(measured):
    measured.cores = 16
    config, notices = fitted(settings={"topology": "serial"})
    assert (config.network.precision, config.learner.threads, config.env.threads) == ("float32", 1, 0)
    assert notices == measured.asked == measured.passes == []
    config, _ = fitted(settings={"topology": "serial", "learner.threads": 2})
    assert config.learner.threads == 2


@pytest.mark.parametrize("error", [ValueError("broken"), UsageError("no such game")])
def test_what_cannot_be_measured_has_one_thread(measured, error):
    measured.fails, measured.cores = error, 16
    config, notices = fitted()
    assert (config.learner.threads, config.env.threads) == (1, 0)
    assert [line.split()[0] for line in notices] == ["precision"]


def test_the_rest_of_the_configuration_stays_as_it_was(measured):
    source = find(Pictures)
    before = resolve(source.id, settings={"actor.count": 1, "actor.environments": 6, "seed": 3})
    after, _ = fit(before, source, None)
    settled = {"network.precision": "float32", "learner.threads": 2}
    assert after == replace(before, settled)
    assert fit(after, source, None) == (after, [])  # and is settled once and for all


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"actor.rollout_steps": 4, "actor.environments": 8, "learner.rollouts": 2, "learner.minibatches": 4}, 16),
        ({"actor.rollout_steps": 32, "actor.environments": 32, "learner.rollouts": 4, "learner.minibatches": 4}, 256),
        ({"actor.rollout_steps": 1, "actor.environments": 2, "learner.rollouts": 1, "learner.minibatches": 8}, 1),
    ],
)
def test_passes_are_measured_in_minibatches_of_at_most_256(measured, settings, size):
    fitted(settings=settings)
    assert {each for _, each in measured.passes} == {size}


def test_a_real_pass_takes_longer_for_the_deeper_network(monkeypatch):
    """Not the clock's exactness: only that a pass is forwards and back, and for each observation."""
    monkeypatch.setattr("troupe.runtime.measure._SECONDS", 0.05)
    source, seconds = find(Pictures), {}
    with one_torch_thread():
        for kind in ("a3c", "impala"):
            network, _, _ = first_network(None, source, resolve("x", settings={"network.encoder": kind}))
            seconds[kind] = measure_pass(network, 8)
    assert 0 < seconds["a3c"] < seconds["impala"] < 1.0


# Device


@pytest.mark.parametrize(
    ("env", "asked", "available", "device"),
    [
        (Pictures, "auto", False, "cpu"),
        (Numbers, "auto", False, "cpu"),
        (Pictures, "auto", True, "cuda"),
        (Numbers, "auto", True, "cpu"),  # small networks are faster there
        (Pictures, "cpu", True, "cpu"),
        (Numbers, "cuda", True, "cuda"),
    ],
)
def test_the_device_that_suits_or_was_asked_for(monkeypatch, env, asked, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device(resolve("x", settings={"device": asked}), find(env)).type == device


@pytest.mark.parametrize("env", [Pictures, Numbers])
def test_a_device_that_is_not_there_is_refused_in_one_line(monkeypatch, env):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"^device = 'cuda': torch sees no CUDA device here; use cpu, or auto$"):
        choose_device(resolve("x", settings={"device": "cuda"}), find(env))


def test_a_learner_on_a_gpu_has_one_thread(measured, monkeypatch):
    measured.cores = 16
    monkeypatch.setattr(preparation, "choose_device", lambda *_: torch.device("meta"))  # not cpu, and always there
    config, _ = fitted(settings={"network.precision": "float32"})
    assert (config.env.threads, config.learner.threads) == (8, 1)


# The first network


def test_first_weights_follow_the_seed_and_leave_torchs_own_stream_alone():
    source, before = find(Pictures), torch.get_rng_state()

    def weights(seed: int, resumes: int = 0) -> torch.Tensor:
        config = resolve("x", settings={"seed": seed})
        network, _, _ = first_network(None, source, config, resumes)
        return torch.cat([each.detach().flatten() for each in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert not torch.equal(weights(1), weights(1, resumes=1))
    assert torch.equal(torch.get_rng_state(), before)
