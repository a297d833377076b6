"""A serial run is the same, bit for bit, however often and at whatever moment it was stopped and resumed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
import torch

import troupe
from helpers import PATIENCE_SECONDS, drift, slow_unless, slow_unless_in_turn
from troupe.run import saved_run
from troupe.runs.evaluate.evaluation import Evaluator
from troupe.runs.store import checkpoint
from troupe.runs.store.metrics import read_log
from troupe.runtime.execution.gate import Gate

STEPS = 400
BATCH_TURNS = 20  # 2 rollouts of 8 steps, then 2 passes over 2 minibatches
SMALL = {
    "topology": "serial", "actor.count": 1, "actor.environments": 4, "actor.rollout_steps": 8, "network.hidden": (8,),
    "learner.rollouts": 2, "learner.epochs": 2, "learner.minibatches": 2, "learner.anneal_steps": 1000,
    "learner.advantage_decay": 0.9, "learner.average_decay": 0.9, "loss.entropy_anneal_steps": 1000,
    "exploration.epsilon": 0.5, "exploration.epsilon_end": 0.05, "exploration.decay_steps": 300,
    "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 2, "stop.target": "none",
}  # fmt: skip
WINDOW = SMALL | {
    "actor.environments": 1, "actor.window_steps": 3, "loss.kind": "a3c", "learner.rollouts": 8,
    "learner.optimizer": "rmsprop",
}  # fmt: skip


class Drift(drift.Drift):
    """Episodes of `length` steps, outside Gymnasium's registry."""

    spec = None

    def __init__(self, length: int = 9):
        self.length = length


class EndlessDrift(Drift):
    """One episode is longer than the whole run."""

    def __init__(self):
        super().__init__(10_000)

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, False, truncated or self.training_is_over(), info

    def training_is_over(self):
        return self.played > STEPS


class Nested(Drift):
    """Nested on both sides; one of three ways is barred, another one after every step, as the info says."""

    observation_space = gym.spaces.Dict(
        {"place": gym.spaces.Box(-1e3, 1e3, (1,), np.float64), "rest": gym.spaces.Tuple([gym.spaces.Discrete(10)])}
    )
    action_space = gym.spaces.Tuple(
        [gym.spaces.Discrete(3, start=-1), gym.spaces.Box(-2, 2, (2,)), gym.spaces.MultiBinary(2)]
    )

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"action_mask": self._allowed()}

    def step(self, action):
        assert self.action_space.contains(action)
        assert self._allowed()[action[0] + 1], "barred"
        obs, reward, *ends, _ = super().step(action[0] + action[1].sum() + action[2][0])
        return obs, reward, *ends, {"action_mask": self._allowed()}

    def _allowed(self):
        return np.array([self.played % 3 != way for way in range(3)] + 4 * [True], np.int8)

    def _obs(self):
        return {"place": np.array([self.place]), "rest": (self.played,)}


class Barred(Drift):
    """The mask is in the observation; where the episode has ended it allows nothing."""

    observation_space = gym.spaces.Dict(
        {"action_mask": gym.spaces.MultiBinary(3), "where": gym.spaces.Box(-1e3, 1e3, (2,), np.float32)}
    )

    def step(self, action):
        assert self._obs()["action_mask"][action + 1], "barred"
        return super().step(action)

    def _obs(self):
        over = self.place > 4 or self.played == self.length
        mask = np.array([self.played % 3 != way and not over for way in range(3)], np.int8)
        return {"where": super()._obs(), "action_mask": mask}


def swing() -> gym.Env:
    return gym.make("Pendulum-v1", max_episode_steps=15)


ENVIRONMENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "CartPole": ("CartPole-v1", SMALL),
    "dice of its own": (Drift, SMALL),
    "one long episode": (EndlessDrift, SMALL),
    "the article's window": (Drift, WINDOW),
    "numbers for actions": (swing, SMALL | {"exploration.epsilon": 0.0, "exploration.epsilon_end": ()}),
    "nested spaces and masks": (Nested, SMALL | {"loss.reward_clip": 1.0}),
    "masks that are observed": (Barred, SMALL),
    "masks in the article's window": (Barred, WINDOW),
    "a memory": (Drift, SMALL | {"network.core": "lstm", "network.core_units": 8, "network.core_inputs": True}),
    "bonuses for what is new": (Drift, SMALL | {"novelty.coefficient": 0.5, "novelty.hidden": (8,)}),
}


def play(folder: Path, env: Any, settings: dict[str, Any], **limits: Any) -> troupe.Run:
    limits = {"steps": STEPS} | limits
    return run_of(lambda: troupe.train(env, seed=5, run_dir=folder, settings=settings, tuned=False, **limits))


def resume_run(folder: Path, env: Any, **limits: Any) -> troupe.Run:
    return run_of(lambda: troupe.resume(folder, env=None if isinstance(env, str) else env, **limits))


def run_of(work: Callable[[], troupe.Run]) -> troupe.Run:
    """Also where a signal ends it."""
    try:
        return work()
    except KeyboardInterrupt as stop:
        return saved_run(stop)


def left(folder: Path) -> dict[str, Any]:
    """All that a run leaves to go on with, by dotted name, but the clock's time."""
    found: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, msgspec.Struct):
            value = msgspec.structs.asdict(value)
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{name}.{key}", item)
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                walk(f"{name}.{number}", item)
        else:
            found[name] = value

    saved = checkpoint.load(folder, pytest.fail)
    for part in ("model", "best", "optimizer", "state", "streams", "novelty"):
        walk(part, getattr(saved, part))
    return {name: value for name, value in found.items() if "seconds" not in name}


def differences(one: Path, other: Path) -> list[str]:
    def same(ours: Any, theirs: Any) -> bool:
        return torch.equal(ours, theirs) if torch.is_tensor(ours) else np.array_equal(ours, theirs)

    ours, theirs = left(one), left(other)
    assert any(name.startswith("model.") for name in ours)
    alike = {name for name in ours.keys() & theirs.keys() if same(ours[name], theirs[name])}
    return sorted((ours.keys() | theirs.keys()) - alike)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run that was never stopped; each is made once."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            env, settings = ENVIRONMENTS[name]
            made[name] = play(tmp_path_factory.mktemp("whole") / "run", env, settings).path
        return made[name]

    return run


@pytest.fixture
def at_turn(monkeypatch):
    """Does something in the turn of that number, counted from now: acting, or computing a gradient."""
    turn = Gate.turn

    def plan(number: int, act) -> None:
        turns = iter(range(1, 10**9))

        def counted(gate: Gate, *others: Any):
            if next(turns) == number:
                act(gate)
            return turn(gate, *others)

        monkeypatch.setattr(Gate, "turn", counted)

    return plan


def press_ctrl_c(gate: Gate) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    while not gate.stopped:
        time.sleep(1e-3)


# At any moment


FIRST, SECOND = BATCH_TURNS, 2 * BATCH_TURNS
MOMENTS = {
    "before the first step": [1],
    "in a rollout": [SECOND + 5],
    "between two rollouts": [SECOND + 9],
    "between acting and learning": [SECOND + 17],
    "between two minibatches": [SECOND + 18],
    "before the last minibatch": [SECOND + 20],
    "at the end of a batch": [SECOND + 1],
    "four times": [FIRST + 13, 3, FIRST + 19, SECOND],
}


@pytest.mark.parametrize(("case", "moment"), slow_unless_in_turn(ENVIRONMENTS, MOMENTS, 1))
def test_stopped_at_any_moment_and_resumed_it_ends_as_if_it_had_not_been(
    tmp_path, uninterrupted, at_turn, case, moment
):
    env, settings = ENVIRONMENTS[case]
    folder = tmp_path / "run"
    for number, turns in enumerate(MOMENTS[moment]):
        at_turn(turns, press_ctrl_c)
        run = resume_run(folder, env) if number else play(folder, env, settings)
        assert run.outcome == "interrupted"
        assert run.steps == checkpoint.load(folder, pytest.fail).state.counts.steps
    assert resume_run(folder, env).steps >= STEPS
    assert differences(uninterrupted(case), folder) == []


@pytest.mark.parametrize("case", slow_unless(["the article's window", "nested spaces and masks"], ENVIRONMENTS))
def test_what_a_killed_run_has_saved_while_it_ran_is_resumed_exactly(
    tmp_path, monkeypatch, uninterrupted, at_turn, case
):
    """Copied in the middle of a batch that follows the checkpoint: kill -9 leaves no more."""
    env, settings = ENVIRONMENTS[case]
    folder, killed = tmp_path / "run", tmp_path / "killed"
    save, saving, saved = checkpoint.save, threading.Lock(), threading.Event()

    def watched(run: Path, step: int, taken: checkpoint.Checkpoint) -> Path:
        with saving:
            written = save(run, step, taken)
        if step:
            saved.set()
        return written

    def kill(_: Gate) -> None:
        assert saved.wait(PATIENCE_SECONDS)
        with saving:
            shutil.copytree(folder, killed)

    monkeypatch.setattr(checkpoint, "save", watched)
    at_turn(SECOND + 18, kill)
    play(folder, env, settings | {"checkpoint.every_seconds": 1e-9})
    assert 0 < checkpoint.load(killed, pytest.fail).state.counts.steps < STEPS
    assert resume_run(killed, env).steps >= STEPS
    assert differences(uninterrupted(case), killed) == []


@pytest.mark.parametrize("case", slow_unless(["a memory"], ENVIRONMENTS))
def test_a_run_in_three_pieces_by_steps_is_the_run_in_one(tmp_path, uninterrupted, case):
    env, settings = ENVIRONMENTS[case]
    folder = play(tmp_path / "run", env, settings, steps=90).path
    resume_run(folder, env, steps=250)
    resume_run(folder, env, steps=STEPS)
    assert differences(uninterrupted(case), folder) == []


def test_a_run_that_its_time_limit_ended_is_resumed_exactly(tmp_path, uninterrupted):
    env, settings = ENVIRONMENTS["CartPole"]
    folder = tmp_path / "run"
    assert play(folder, env, settings, seconds=0.03).outcome == "time"
    assert resume_run(folder, env, seconds=1e6).outcome == "steps"
    assert differences(uninterrupted("CartPole"), folder) == []


def test_a_run_that_failed_goes_on_from_its_last_batch(tmp_path, uninterrupted):
    class Fragile(Drift):
        broken = True

        def step(self, action):
            if self.played == 5 and Fragile.broken and gate_turns[0] > SECOND:
                raise ValueError("a wheel came off")
            gate_turns[0] += 1
            return super().step(action)

    gate_turns = [0]
    folder = tmp_path / "run"
    with pytest.raises(troupe.TroupeError, match="a wheel came off"):
        play(folder, Fragile, SMALL)
    Fragile.broken = False
    resume_run(folder, Fragile)
    assert differences(uninterrupted("dice of its own"), folder) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_process_stopped_and_killed_at_random_ends_as_if_it_had_not_been(tmp_path):
    flags = [f"--{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in SMALL.items()]
    flags += ["--checkpoint.every_seconds=0.01", "--quiet", "--stop.target=none", "--env.delay_seconds=0.001"]

    def start(*words: str) -> subprocess.Popen:
        code = "from troupe.cli import main; main()"
        out = subprocess.DEVNULL
        return subprocess.Popen([sys.executable, "-c", code, *words], cwd=tmp_path, stdout=out, stderr=out)

    def train(folder: str) -> list[str]:
        return ["train", "CartPole-v1", "--seed", "5", "--steps", "2500", "--run-dir", folder, *flags]

    whole = start(*train("whole"))
    words, sent = train("pieces"), []
    for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
        process = start(*words)
        newest = max((int(each.name) for each in tmp_path.glob("pieces/checkpoints/[0-9]*")), default=-1)
        while process.poll() is None:  # until it has saved something new
            steps = [int(each.name) for each in tmp_path.glob("pieces/checkpoints/*") if each.name.isdigit()]
            if max(steps, default=-1) > max(newest, 0):
                break
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.1))
        if process.poll() is None:
            sent.append(number)
            process.send_signal(number)
        process.wait()
        words = ["resume", "pieces", "--quiet"]
    assert signal.SIGINT in sent
    last = start(*words)
    assert (whole.wait(), last.wait() in (0, 2)) == (0, True)  # 2: it had reached the end before
    assert differences(tmp_path / "whole", tmp_path / "pieces") == []


# What is left


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_a_run_that_is_loaded_is_evaluated_alike_however_often_and_plays_what_is_allowed(uninterrupted, case):
    """The environments raise if it is not."""
    env, folder = ENVIRONMENTS[case][0], uninterrupted(case)
    make = None if isinstance(env, str) else env
    for greedy in (True, False):
        one, other = (troupe.evaluate(folder, episodes=3, greedy=greedy, env=make) for _ in range(2))
        assert one.returns.tolist() == other.returns.tolist()
    agent, played = troupe.load(folder), make() if make else gym.make(env)
    before = {name: tensor.clone() for name, tensor in agent.network.state_dict().items()}
    obs, info = played.reset(seed=1)
    reward = 0.0
    for _ in range(9):
        action = agent.act(obs, mask=info.get("action_mask"), reward=reward, greedy=False)
        assert played.action_space.contains(action)
        obs, reward, terminated, truncated, info = played.step(action)
        if terminated or truncated:
            obs, info = played.reset()
            agent.reset()
    assert all(torch.equal(before[name], tensor) for name, tensor in agent.network.state_dict().items())
    assert any("normalizer" in name for name in before)


# The verdict


JUDGED = SMALL | {
    "evaluation.every_steps": 100, "evaluation.episodes": 3, "stop.target": 16.0,
    "exploration.epsilon": 0.0, "exploration.epsilon_end": (), "learner.anneal_steps": 0,
}  # fmt: skip


def test_an_evaluation_that_was_stopped_is_made_again_with_the_same_verdict(tmp_path, monkeypatch):
    whole = play(tmp_path / "whole", "CartPole-v1", JUDGED, steps=3000)
    assert whole.outcome == "solved"
    judge, folder = Evaluator.run, tmp_path / "pieces"

    def stopped_while(episodes: int):
        """3 while judging, 2 while confirming."""

        def run(evaluator, network, asked, seeds, **more):
            if asked == episodes:
                os.kill(os.getpid(), signal.SIGINT)
                while not more["stopped"]():
                    time.sleep(1e-3)
            return judge(evaluator, network, asked, seeds, **more)

        return run

    monkeypatch.setattr(Evaluator, "run", stopped_while(3))
    assert play(folder, "CartPole-v1", JUDGED, steps=3000).outcome == "interrupted"
    monkeypatch.setattr(Evaluator, "run", stopped_while(2))
    assert resume_run(folder, "CartPole-v1").outcome == "interrupted"
    monkeypatch.setattr(Evaluator, "run", judge)
    run = resume_run(folder, "CartPole-v1")
    assert (run.outcome, run.steps) == ("solved", whole.steps)
    assert run.scores.returns.tolist() == whole.scores.returns.tolist()
    assert differences(whole.path, folder) == []
    verdicts = [
        {(row["purpose"], row["steps"], row["mean"]) for row in read_log(path) if row["kind"] == "evaluation"}
        for path in (whole.path, folder)
    ]
    assert verdicts[0] == verdicts[1]
    assert {purpose for purpose, _, _ in verdicts[0]} == {"progress", "confirm", "final"}


# What cannot be resumed exactly is named, and resumed all the same


class Unseeded(Drift):
    def reset(self, *, seed=None, options=None):
        self.np_random = np.random.default_rng()
        return super().reset()


class Remembers(Drift):
    """Begins where the last episode ended."""

    place = 0.0

    def reset(self, *, seed=None, options=None):
        kept = self.place
        super().reset(seed=seed)
        self.place = kept
        return self._obs(), {}


class Breaks(Drift):
    """Cannot be played again: that is done in the main thread, where otherwise only the first step is tried."""

    tried = False

    def step(self, action):
        if threading.current_thread() is threading.main_thread():
            if self.tried:
                raise KeyError("no such thing now")
            self.tried = True
        return super().step(action)


@pytest.mark.parametrize("env", [Unseeded, Remembers, Breaks])
@pytest.mark.parametrize("settings", [SMALL, WINDOW], ids=["rollouts", "window"])
def test_an_environment_that_comes_out_elsewhere_is_named_and_begins_a_new_episode(
    tmp_path, caplog, at_turn, env, settings
):
    at_turn(SECOND + 5, press_ctrl_c)
    folder = play(tmp_path / "run", env, settings).path
    assert resume_run(folder, env).steps >= STEPS
    (line,) = [record.getMessage() for record in caplog.records]
    assert "environments did not reach the same state when their episodes were replayed" in line


def streams(folder: Path) -> Any:
    return checkpoint.load(folder, pytest.fail).streams


def test_native_environments_are_named_and_draw_new_streams(tmp_path, caplog):
    settings = SMALL | {"env.backend": "native"}
    folder = play(tmp_path / "run", "CartPole-v1", settings, steps=100).path
    assert streams(folder) is None
    resume_run(folder, "CartPole-v1", steps=200)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "it continues with new episodes and random streams, not as it would have without a stop: "
        "env.backend native cannot restore the state of environments"
    )
    assert checkpoint.load(folder, pytest.fail).state.resumes == 1


def test_a_run_whose_environments_are_other_in_number_is_named(tmp_path, caplog):
    folder = play(tmp_path / "run", "CartPole-v1", SMALL, steps=100).path
    file = folder / "config.toml"
    file.write_text(file.read_text().replace("environments = 4", "environments = 3"))
    resume_run(folder, "CartPole-v1", steps=200)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(": actor.environments or actor.window_steps has been changed")


def test_other_topologies_draw_new_streams_and_say_nothing(tmp_path, caplog):
    settings = SMALL | {"topology": "async", "actor.placement": "thread"}
    folder = play(tmp_path / "run", Drift, settings, steps=100).path
    resume_run(folder, Drift, steps=200)
    assert caplog.records == []
    assert checkpoint.load(folder, pytest.fail).state.resumes == 1
