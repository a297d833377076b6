"""The number of actors, chosen by the cost of steps: the same environments and batches, and only if none is given."""

import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import troupe
from troupe import cli, preparation
from troupe.config import Stop, TrainConfig, TroupeError, load_preset, resolve
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.preparation import fit
from troupe.runtime import measure as measure_module
from troupe.runtime.measure import Costs, cores, cost, measure, measure_backends

US = 1e-6
SIZES = (1, 2, 4, 8, 16, 32)
WAITING = Costs(step=10_000 * US, step_computing=100 * US, act=dict.fromkeys(SIZES, 200 * US))
COMPUTING = Costs(step=100 * US, step_computing=100 * US, act=dict.fromkeys(SIZES, 100 * US))
NATIVE = Costs(step=1 * US, step_computing=1 * US, act=dict.fromkeys(SIZES, 100 * US))
SMALL = {
    "actor.rollout_steps": 4, "network.hidden": (4,), "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1,
    "stop.target": "none", "stop.steps": 200,
}  # fmt: skip


def test_the_share_that_computes() -> None:
    assert WAITING.computing == pytest.approx(0.01)
    assert NATIVE.computing == 1.0
    assert Costs(1.0, 1.1, {}).computing == 1.0  # clocks are not that exact


@pytest.mark.parametrize(
    ("costs", "actors", "environments", "cores", "parallel", "steps_per_s"),
    [
        (WAITING, 1, 16, 2, True, 16 / 0.1602),  # one environment waits after the other
        (WAITING, 16, 1, 2, True, 16 / 0.0102),  # all wait together
        (WAITING, 16, 1, 2, False, 16 / 0.0102),  # in threads, too
        (COMPUTING, 1, 16, 2, True, 16 / 1700e-6),  # one process has one core
        (COMPUTING, 2, 8, 2, True, 16 / 900e-6),  # two have two
        (COMPUTING, 16, 1, 2, True, 2 / 200e-6),  # more have no more, and act for one at a time
        (COMPUTING, 2, 8, 2, False, 1 / 112.5e-6),  # of threads one computes at a time
        (COMPUTING, 4, 4, 1, True, 1 / 125e-6),
    ],
)
def test_speeds_of_worked_examples(
    costs: Costs, actors: int, environments: int, cores: int, parallel: bool, steps_per_s: float
) -> None:
    assert costs.speed(actors, environments, cores, parallel=parallel) == pytest.approx(steps_per_s)


@pytest.mark.parametrize(
    ("costs", "cores", "parallel", "best"),
    [
        (WAITING, 2, True, (16, 1)),
        (WAITING, 2, False, (16, 1)),
        (COMPUTING, 2, True, (2, 8)),
        (COMPUTING, 4, True, (4, 4)),
        (COMPUTING, 1, True, (1, 16)),
        (COMPUTING, 2, False, (1, 16)),
        (NATIVE, 2, False, (1, 16)),
    ],
)
def test_the_best_way_to_deal_out_16_environments(
    costs: Costs, cores: int, parallel: bool, best: tuple[int, int]
) -> None:
    assert costs.best(16, 16, cores, parallel=parallel) == best


def test_a_batch_stays_a_whole_number_of_rollouts() -> None:
    assert NATIVE.best(16, 8, 2, parallel=False) == (2, 8)
    assert NATIVE.best(16, 4, 2, parallel=False) == (4, 4)


def test_more_actors_must_be_clearly_faster() -> None:
    def of_acting(microseconds: float) -> Costs:
        """Steps that wait and cost nothing: two actors are as much faster as half a batch is sooner acted on."""
        return Costs(1000 * US, 0.0, {1: 1000 * US, 2: microseconds * US})

    # One actor with two: 2 / (a + 2000 us); two with one: 2 / 2000 us.
    assert of_acting(90).best(2, 2, 2, parallel=True) == (1, 2)  # 4.5 % slower
    assert of_acting(110).best(2, 2, 2, parallel=True) == (2, 1)  # 5.5 %


class Waits(gym.Env[np.ndarray, int]):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, **seed: Any) -> Any:
        super().reset(**seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> Any:
        time.sleep(0.01)
        return np.zeros(2, np.float32), 0.0, False, False, {}


class Computes(Waits):
    def step(self, action: int) -> Any:
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        return np.zeros(2, np.float32), 0.0, False, False, {}


def measured(env: Any, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> Costs:
    monkeypatch.setattr("troupe.runtime.measure._SECONDS", 0.1)
    source, config = find(env), resolve("", "appo", SMALL)
    network = build(source.observation_space, source.action_space, config.network)
    return measure(source, config.env, network, sizes)


def test_waiting_and_computing_are_measured_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, computing = measured(Waits, [1, 4], monkeypatch), measured(Computes, [1], monkeypatch)
    assert waiting.step >= 0.01
    assert waiting.computing < 0.5
    assert computing.step_computing >= 0.01
    assert waiting.act.keys() == {1, 4}
    assert all(cost > 0 for cost in waiting.act.values())


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="only Linux says who had to wait")
def test_computing_beside_busy_programs_is_not_taken_for_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * cores())]
    try:
        computing, waiting = measured(Computes, [1], monkeypatch), measured(Waits, [1], monkeypatch)
    finally:
        for program in busy:
            program.kill()
            program.wait()
    assert computing.computing > 0.5 > waiting.computing


def test_a_preemption_while_clocks_are_read_makes_no_cost_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([0.0, 0.05])

    def kept() -> float:
        answer = next(answers)
        time.sleep(answer)
        return answer

    monkeypatch.setattr("troupe.runtime.measure.preempted_seconds", kept)
    took, _ = cost(lambda: time.sleep(1e-3), 1e-4)
    assert took > 0


def test_a_native_batch_is_measured_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    source = find("CartPole-v1")
    make = type(source).make_vector

    def look(self: Any, count: int, config: Any) -> Any:
        made.append(count)
        return make(self, count, config)

    monkeypatch.setattr(type(source), "make_vector", look)
    measured("CartPole-v1", [1, 16], monkeypatch)
    measured(Waits, [1, 16], monkeypatch)
    assert made == [16, 1]


@pytest.mark.parametrize(
    ("cost", "stop", "tried"),
    [
        (11 * US, Stop(steps=500_000), False),  # CartPole, which is over after a second
        (11 * US, Stop(steps=100_000_000), True),
        (38 * US, Stop(steps=1_000_000), True),  # Acrobot
        (38 * US, Stop(steps=100_000), False),
        (38 * US, Stop(steps=0, seconds=10.0), False),
        (38 * US, Stop(steps=1_000_000, seconds=10.0), False),
        (38 * US, Stop(steps=0, seconds=600.0), True),
        (4 * US, Stop(steps=0), False),  # a call alone costs EnvPool more
        (38 * US, Stop(steps=0), True),
    ],
)
def test_envpool_is_tried_only_where_it_could_pay_for_its_import(
    cost: float, stop: Stop, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = {"sync": cost, "envpool": 5 * US}

    def play(source: Any, config: Any, count: int, seconds: float) -> Any:
        return None, 1.0, costs[config.backend]

    monkeypatch.setattr("troupe.runtime.measure._play", play)
    monkeypatch.setattr(type(find(Waits)), "backends", ["sync", "envpool"])
    found = measure_backends(find(Waits), resolve("x").env, 8, stop)
    assert found == (costs if tried else {"sync": cost})


def test_a_backend_that_refuses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe.runtime.measure.may_pay", lambda *_: True)
    monkeypatch.setattr("troupe.runtime.measure._BACKEND_SECONDS", 0.001)
    monkeypatch.setattr(type(find(Waits)), "backends", ["sync", "envpool"])
    assert measure_backends(find(Waits), resolve("x").env, 2, Stop()).keys() == {"sync"}


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> list[Costs]:
    """What measuring gives; every time it is asked, the list grows."""
    given = [WAITING]

    def give(source: Any, config: Any, network: Any, sizes: list[int]) -> Costs:
        given.append(given[0])
        return Costs(given[0].step, given[0].step_computing, dict.fromkeys(sizes, given[0].act[1]))

    monkeypatch.setattr(preparation, "measure", give)
    monkeypatch.setattr(preparation, "cores", lambda: 2)
    return given


def chosen(
    env: Any, settings: dict[str, Any], preset: str = "appo", tuned: bool = True
) -> tuple[TrainConfig, list[str]]:
    source = find(env)
    return fit(resolve(source.id, preset, settings, tuned=tuned), source, None)


@pytest.mark.parametrize("kind", [WAITING, COMPUTING, NATIVE])
@pytest.mark.parametrize(
    ("count", "environments", "rollouts"), [(2, 8, 2), (3, 4, 1), (1, 6, 5), (6, 1, 4), (4, 3, 2), (1, 1, 1)]
)
def test_environments_and_batches_stay(
    costs: list[Costs], kind: Costs, count: int, environments: int, rollouts: int
) -> None:
    costs[0] = kind
    settings = {"actor.count": count, "actor.environments": environments, "learner.rollouts": rollouts}
    config, _ = chosen(Waits, settings | {"actor.auto": True, "actor.placement": "thread"})
    assert len(costs) == 2
    assert not config.actor.auto
    assert config.actor.count * config.actor.environments == count * environments
    assert config.learner.rollouts * config.actor.environments == rollouts * environments


def test_what_is_measured_decides(costs: list[Costs]) -> None:
    config, notices = chosen(Waits, {"actor.placement": "process"})
    assert (config.actor.count, config.actor.environments, config.learner.rollouts) == (32, 1, 32)
    assert notices == ["actors 32 x 1: a step takes 10,000 us (1% computing, 1 at a time), acting 200 us"]
    costs[0] = COMPUTING
    assert chosen(Waits, {"actor.placement": "process"})[0].actor.count == 2
    assert chosen(Waits, {"actor.placement": "thread"})[0].actor.count == 1


@pytest.mark.parametrize(
    ("env", "preset", "settings"),
    [
        (Waits, "appo", {"actor.count": 3}),
        (Waits, "appo", {"actor.environments": 4}),
        (Waits, "appo", {"actor": {"count": 3}}),
        (Waits, "appo", {"actor.auto": False}),
        (Waits, "impala", {}),
        (Waits, "article", {}),
        ("CartPole-v1", "appo", {"env.backend": "native"}),  # its tuned settings
    ],
)
def test_whoever_names_a_number_means_it(costs: list[Costs], env: Any, preset: str, settings: dict[str, Any]) -> None:
    config, notices = chosen(env, settings, preset)
    assert len(costs) == 1
    assert notices == []
    asked = resolve(find(env).id, preset, settings)
    assert (config.actor.count, config.actor.environments) == (asked.actor.count, asked.actor.environments)


def test_an_untuned_environment_is_measured(costs: list[Costs]) -> None:
    chosen("CartPole-v1", {}, tuned=False)
    assert len(costs) == 2


def test_a_preset_with_a_number_of_actors_is_measured_where_auto_is_set(costs: list[Costs]) -> None:
    actor = load_preset("impala").settings["actor"]
    config, _ = chosen(Waits, {"actor.auto": True}, "impala")
    assert len(costs) == 2
    assert config.actor.count == actor["count"] * actor["environments"]


def test_serial_has_one_actor_with_them_all(costs: list[Costs]) -> None:
    config, _ = chosen(Waits, {"topology": "serial"})
    assert len(costs) == 1
    assert (config.actor.count, config.actor.environments, config.learner.rollouts) == (1, 32, 1)


SLOW = Costs(0.1, 0.1, {1: 200 * US})


def test_slow_environments_have_shorter_rollouts_so_that_a_first_update_comes_within_seconds(
    costs: list[Costs],
) -> None:
    """Two cores make 20 steps/s of 100 ms: a batch of 2 x 16 x 64 steps would take 100 s."""
    costs[0] = SLOW
    config, notices = chosen(Waits, {"actor.placement": "process"})
    steps = config.learner.rollouts * config.actor.environments * config.actor.rollout_steps
    assert (steps, config.actor.rollout_steps) == (128, 8)
    assert config.learner.minibatches <= config.learner.rollouts * config.actor.environments
    assert config.actor.count * config.actor.environments == 32
    assert f"20.0 steps/s at most: rollouts of 8 steps instead of 64 and batches of {steps} steps" in notices[-1]


def test_a_length_of_rollouts_that_was_named_stays(costs: list[Costs]) -> None:
    costs[0] = SLOW
    named = {"actor.placement": "process", "actor.rollout_steps": 64}
    source = find(Waits)
    config, notices = fit(resolve(source.id, settings=named), source, None, named)
    assert config.actor.rollout_steps == 64
    assert len(notices) == 1


def words(folder: Path, *more: str) -> list[str]:
    settings = [word for name, value in SMALL.items() for word in (f"--{name}", str(value).strip("(),"))]
    return ["train", "CartPole-v1", "--untuned", "--run-dir", str(folder), *settings, *more]


def test_the_run_keeps_the_numbers_and_says_how_it_came_to_them(
    costs: list[Costs], tmp_path: Path, capsys: Any
) -> None:
    assert cli.run(words(tmp_path / "run")) == 0
    shown = capsys.readouterr()
    text = " ".join((shown.out + shown.err).split())
    assert "async: 32 x 1 environments in threads" in text
    assert "actors 32 x 1: a step takes 10,000 us (1% computing, 1 at a time), acting 200 us" in text
    kept = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert (kept["actor"]["count"], kept["actor"]["environments"], kept["actor"]["auto"]) == (32, 1, False)
    assert kept["learner"]["rollouts"] == 32
    costs[0] = NATIVE
    troupe.resume(tmp_path / "run", steps=400)
    assert len(costs) == 2  # measured once
    again = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert again["actor"] == kept["actor"]


@pytest.mark.slow
def test_actors_on_the_command_line(costs: list[Costs], tmp_path: Path, capsys: Any) -> None:
    def actor(folder: str, *more: str) -> Any:
        assert cli.run(words(tmp_path / folder, *more, "--quiet")) == 0
        return tomllib.loads((tmp_path / folder / "config.toml").read_text())["actor"]

    three = actor("three", "--actors", "3")
    assert (three["count"], three["environments"], len(costs)) == (3, 16, 1)
    auto = actor("auto", "--actors", "auto", "--preset", "impala")
    assert (auto["count"], auto["environments"], len(costs)) == (64, 1, 2)
    capsys.readouterr()
    assert cli.run(words(tmp_path / "none", "--actors", "some")) == 2
    assert "--actors 'some': expected a whole number" in capsys.readouterr().err


def hangs() -> None:
    threading.Event().wait()


def raises() -> None:
    raise OSError("no such device")


@pytest.mark.parametrize(
    ("wrong", "says", "numbers"),
    [(hangs, "has not answered for 0.3 s", (max(8, cores()), 1)), (raises, "no such device", (2, 16))],
)
def test_what_is_wrong_with_an_environment_shows_in_the_run(
    tmp_path: Path, wrong: Callable[[], None], says: str, numbers: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[gym.Env[Any, Any]] = []

    class WrongLater(Waits):
        """All but the first of them, of which the first steps are tried before the run begins."""

        def step(self, action: int) -> Any:
            if self is not made[0]:
                wrong()
            return super().step(action)

    def env() -> Waits:
        made.append(WrongLater())
        return made[-1]

    monkeypatch.setattr(preparation, "_SECONDS", 0.1)
    settings = SMALL | {"actor.placement": "thread", "actor.hang_seconds": 0.3, "actor.restarts": 0}
    with pytest.raises(TroupeError, match=says):
        troupe.train(env, run_dir=tmp_path / "run", settings=settings)
    kept = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["actor"]
    assert (kept["count"], kept["environments"], kept["auto"]) == (*numbers, False)


@pytest.mark.parametrize(("named", "steps"), [({}, 8), ({"actor.rollout_steps": 64}, 64)])
def test_an_environment_too_slow_to_be_measured_has_an_actor_to_itself(
    monkeypatch: pytest.MonkeyPatch, named: dict[str, Any], steps: int
) -> None:
    """Resets of 5 s: sixteen of them in turn, in each of two actors, would take 80 s."""
    monkeypatch.setattr(preparation, "_SECONDS", 0.01)
    monkeypatch.setattr("troupe.runtime.execution.interruption._PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(preparation, "measure", lambda *_: hangs())
    monkeypatch.setattr(preparation, "cores", lambda: 2)
    source = find(Waits)
    config, notices = fit(resolve(source.id, settings=named), source, None, named)
    assert (config.actor.count, config.actor.environments, config.actor.rollout_steps) == (8, 1, steps)
    assert config.learner.rollouts <= 8
    assert not config.actor.auto
    assert "reset it and step it twice takes longer than 0.01 s" in notices[0]
    if not named:
        assert notices[1].startswith("8.0 steps/s supposed: rollouts of 8 steps instead of 64 and batches of 40 steps")


# With a clock of the test


class Clock:
    """Reading it takes no time; `busy` of each second is spent computing, `taken` by other programs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now, self.busy, self.taken, self.preempted, self.computed = 50.0, 1.0, 0.0, 3.0, 9.0
        clock = SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: self.computed)
        monkeypatch.setattr("troupe.runtime.measure.time", clock)
        monkeypatch.setattr("troupe.runtime.measure.preempted_seconds", lambda: self.preempted)

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.computed += seconds * self.busy
        self.preempted += seconds * self.taken


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_cost_is_a_mean_of_calls_without_the_first(clock: Clock) -> None:
    calls = iter([100.0, 1.0, 2.0, 3.0])
    assert cost(lambda: clock.work(next(calls)), 6.0) == (2.0, 2.0)


def test_one_call_is_measured_however_long_it_takes(clock: Clock) -> None:
    clock.busy = 0.25
    assert cost(lambda: clock.work(8.0), 0.5) == (8.0, 2.0)


def test_time_that_other_programs_took_is_no_part_of_a_cost(clock: Clock) -> None:
    clock.busy, clock.taken = 0.5, 0.25
    assert cost(lambda: clock.work(4.0), 10.0) == (3.0, 2.0)


def test_a_step_of_one_environment_is_a_share_of_that_of_its_batch(clock: Clock) -> None:
    source, config = find(Waits), resolve("x", settings={"env.backend": "sync"}).env
    closed, played = [], []

    class Batch:
        def reset(self, seed: np.random.SeedSequence) -> np.ndarray:
            played.append(seed.generate_state(1)[0])
            return np.full((4, 2), 7.0, np.float32)

        def step(self, actions: np.ndarray) -> Any:
            assert actions.shape == (4,)
            clock.work(0.5)
            return SimpleNamespace(obs=np.zeros((4, 2), np.float32))

        def close(self) -> None:
            closed.append(True)

    source = replace(source)
    object.__setattr__(source, "make_vector", lambda count, given: Batch() if (count, given) == (4, config) else None)
    obs, step, computing = measure_module._play(source, config, 4, 2.0)
    assert (obs == 7.0).all()
    assert (step, computing) == (0.125, 0.125)
    assert closed == [True]
    assert played == [np.random.SeedSequence(0).generate_state(1)[0]]


@pytest.mark.parametrize(
    ("native", "atari", "sizes", "count"),
    [(False, False, [1, 16], 1), (True, False, [1, 16], 16), (True, True, [1, 16], 4), (True, True, [1, 2], 2)],
)
def test_as_many_environments_are_measured_as_tell_what_a_step_costs(
    monkeypatch: pytest.MonkeyPatch, native: bool, atari: bool, sizes: list[int], count: int
) -> None:
    """A native batch costs little more than one; emulators are slow to make."""
    asked: list[Any] = []

    def play(source: Any, config: Any, number: int, seconds: float) -> Any:
        asked.append((number, seconds))
        return np.zeros((number, 2), np.float32), 0.25, 0.125

    def cost_of(work: Callable[[], object], seconds: float) -> tuple[float, float]:
        asked.append((len(work()), seconds))  # type: ignore[arg-type]
        return float(len(asked)), -1.0

    monkeypatch.setattr(measure_module, "_play", play)
    monkeypatch.setattr(measure_module, "cost", cost_of)
    monkeypatch.setattr(type(find(Waits)), "is_native", lambda self, config: native)
    source, config = replace(find(Waits), atari=atari), resolve("", "appo", SMALL)
    network = build(source.observation_space, source.action_space, config.network)
    costs = measure(source, config.env, network, sizes)
    assert asked == [(count, 0.25), *((size, 0.025) for size in sizes)]
    assert costs == Costs(0.25, 0.125, {size: 2.0 + number for number, size in enumerate(sizes)}, count)


def test_only_what_a_backend_costs_of_a_core_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def play(source: Any, config: Any, count: int, seconds: float) -> Any:
        asked.append((config.backend, count, seconds))
        return None, 7.0, {"sync": 3.0, "envpool": 2.0}[config.backend]

    monkeypatch.setattr(measure_module, "_play", play)
    monkeypatch.setattr(measure_module, "may_pay", lambda backend, cost, count, stop: asked.append(cost) or True)
    monkeypatch.setattr(type(find(Waits)), "backends", ["sync", "envpool"])
    monkeypatch.setattr(type(find(Waits)), "backend", lambda self, config: config.backend)
    assert measure_backends(find(Waits), resolve("x").env, 5, Stop()) == {"sync": 3.0, "envpool": 2.0}
    assert asked == [("sync", 5, 0.05), 3.0, ("envpool", 5, 0.05)]


def test_the_cores_are_those_that_this_program_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1, 5, 6} if pid == 0 else set(), raising=False)
    assert cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert cores() == 7
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert cores() == 1
