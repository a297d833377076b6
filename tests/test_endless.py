"""Environments that never end an episode, or never answer: evaluations end, and the run tells what it has."""

import json
import logging
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

import troupe
from troupe import cli
from troupe.environments import layers
from troupe.environments.lookup import probe
from troupe.environments.stepping import closing
from troupe.runs.evaluate import evaluation, judge
from troupe.runs.evaluate.scores import Tally
from troupe.runs.store.metrics import read_log
from troupe.runtime import progress

ENVIRONMENTS = """
import pathlib, sys, threading, time
import gymnasium as gym
import numpy as np

class Endless(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}

class Limited(Endless):
    max_steps = 7
    def reset(self, *, seed=None, options=None):
        self.left = 7
        return super().reset()

    def step(self, action):
        self.left -= 1
        return np.zeros(2, np.float32), 1.0, False, self.left == 0, {}

class Slow(Limited):
    "A step takes 10 ms in evaluations, on the clock of the test."
    def step(self, action):
        if threading.current_thread().name.endswith("-evaluation"):
            sys.let_pass(0.01)
        return super().step(action)

class SlowToBegin(Slow):
    "A reset takes 70 ms, and steps nothing."
    def reset(self, *, seed=None, options=None):
        if threading.current_thread().name.endswith("-evaluation"):
            sys.let_pass(0.07)
        return super().reset()

    def step(self, action):
        return Limited.step(self, action)

class Timed(Endless):
    "Its steps move the clock of the test."
    def step(self, action):
        sys.let_pass(threading.current_thread().name.endswith("-evaluation"))
        return super().step(action)

class Undeclared(Limited):
    max_steps = None

class Masked(Undeclared):
    "Only action 1 is allowed."
    def reset(self, *, seed=None, options=None):
        return super().reset()[0], {"action_mask": np.array([0, 1], np.int8)}

    def step(self, action):
        if action != 1:
            raise ValueError("illegal action")
        *rest, _ = super().step(action)
        return *rest, {"action_mask": np.array([0, 1], np.int8)}

class Once(Limited):
    "Holds a licence of which there is one."
    taken = False
    def __init__(self):
        if Once.taken:
            raise RuntimeError("no licence is free")
        self.mine = Once.taken = True

    def close(self):
        if self.mine:
            self.mine = Once.taken = False

class SlowToReset(Limited):
    "Its first reset waits until a warning has been logged."
    def reset(self, *, seed=None, options=None):
        import logging
        if not logging.getLogger("troupe").handlers:
            return super().reset()
        logging.getLogger("troupe").handlers[0].warned.wait(60)
        return super().reset()

class NeverReady(Limited):
    "In an actor's process its reset does not return."
    def reset(self, *, seed=None, options=None):
        import multiprocessing
        if multiprocessing.parent_process() is not None:
            threading.Event().wait()
        return super().reset()

class BlocksOnce(Limited):
    "The first step of the first evaluation never returns."
    blocked = False
    def step(self, action):
        if threading.current_thread().name.endswith("-evaluation") and not BlocksOnce.blocked:
            BlocksOnce.blocked = True
            self.waits_for_ever()
        return super().step(action)

    def waits_for_ever(self):
        threading.Event().wait()

class NeverCloses(Limited):
    def close(self):
        threading.Event().wait()
"""
FEW = "--actor.count 1 --actor.environments 2 --actor.rollout_steps 8 --evaluation.final_episodes 3 --target none"


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Trains from the command line; gives the status and what was printed."""
    monkeypatch.chdir(tmp_path)
    Path("envs.py").write_text(ENVIRONMENTS)

    def train(words: str) -> tuple[int, str]:
        status = cli.run(["train", *f"--run-dir run {FEW} {words}".split()])
        shown = capsys.readouterr()
        errors.append(shown.err)
        return status, shown.out

    errors: list[str] = []
    train.errors = errors
    return train


def summary() -> dict:
    return json.loads(Path("run/summary.json").read_text())


def test_episodes_of_an_evaluation_that_do_not_end_are_cut_off_and_counted(train, capsys):
    status, out = train("envs.py:Endless --steps 200 --evaluation.max_steps 20 --evaluation.every_seconds 0")
    assert status == 0
    assert "mean evaluation return 20.0 (min 20, max 20) over 3 greedy episodes, 3 of them cut off" in out
    assert summary()["evaluation"]["cut_off"] == 3
    assert [row["cut_off"] for row in read_log(Path("run")) if row["kind"] == "evaluation"] == [3]
    assert cli.run(["evaluate", "run", "--episodes", "4"]) == 0
    assert "mean length 20 steps, 4 cut off" in capsys.readouterr().out


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_where_no_episode_ends_returns_are_reported_by_steps(train, monkeypatch, placement):
    monkeypatch.setattr(layers, "_TRIAL_SECONDS", 60.0)  # on a busy machine, 300 steps may take more than 0.1 s
    status, out = train(f"envs.py:Endless --steps 1100 --evaluation.max_steps 20 --actor.placement {placement}")
    assert status == 0
    assert "no time limit: envs.py:Endless declares none" in out
    assert "no episode has ended: the training return is that of 1,000 steps (/1k)" in out
    assert " 1,000.0/1k" in out
    reported = {row["return_per_1000_steps"] for row in read_log(Path("run")) if row["kind"] == "report"}
    assert reported - {None} == {1000.0}


def test_an_environment_too_slow_to_tell_is_not_reported_to_have_no_time_limit(train, monkeypatch):
    monkeypatch.setattr(layers, "_TRIAL_SECONDS", 0.0)
    status, out = train("envs.py:Endless --steps 16 --evaluation.max_steps 5 --actor.placement thread")
    assert status == 0
    assert "no time limit" not in out


def test_a_limit_that_is_declared_or_seen_is_no_notice(train):
    for env in ("CartPole-v1", "envs.py:Limited", "envs.py:Undeclared", "envs.py:Masked"):
        status, out = train(f"{env} --steps 16 --actor.placement thread --run-dir {env[-7:]}")
        assert status == 0
        assert "no time limit" not in out


@pytest.mark.parametrize("preset", ["appo", "appo --topology serial", "a3c", "article --actor.environments 1"])
def test_a_limit_on_time_ends_evaluations_too(train, monkeypatch, preset):
    """No episode ends before the ten millionth step, neither in the first evaluation, which is due at once, nor in
    the last. The clock moves by steps of environments alone, and before that first one has begun so little that the
    queue is full long before the limit."""
    clock = SimpleNamespace(now=1000.0, evaluated=False, time=time.time)
    clock.monotonic = clock.perf_counter = lambda: clock.now

    def let_pass(evaluates: bool) -> None:
        clock.evaluated |= evaluates
        clock.now += 0.01 if clock.evaluated else 1e-4

    monkeypatch.setattr(sys, "let_pass", let_pass, raising=False)
    for module in (judge, progress):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(judge, "_FREE_SECONDS", 0.1)
    status, out = train(
        f"envs.py:Timed --time 0.3s --steps 0 --preset {preset} --actor.placement thread "
        "--evaluation.every_seconds 0.01 --evaluation.max_steps 10000000 --evaluation.final_episodes 1"
    )
    assert status == 0
    assert clock.evaluated
    assert "time limit reached: no evaluation episode ended in the time there was, 1 was begun (return" in out
    assert summary()["outcome"] == "time"
    rows = [row for row in read_log(Path("run")) if row["kind"] == "evaluation"]
    assert [(row["purpose"], row["episodes"], row["unfinished"], row["cut_off"]) for row in rows] == [
        ("final", 1, 1, 0)
    ]


@pytest.mark.parametrize("env", ["Slow", "SlowToBegin"])
def test_where_steps_or_resets_are_slow_a_few_environments_complete_their_episodes_in_time(train, monkeypatch, env):
    """An episode takes 0.07 s; 16 environments in sequence would take 1.12 s for their first ones. Nothing else takes
    time: the judge and the evaluation have a clock that only environments move."""
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0], time=time.time)
    monkeypatch.setattr(sys, "let_pass", lambda seconds: now.append(now.pop() + seconds), raising=False)
    monkeypatch.setattr(judge, "time", clock)
    monkeypatch.setattr(evaluation, "time", clock)
    monkeypatch.setattr(judge, "_LEAST_FINAL_SECONDS", 0.8)
    status, out = train(
        f"envs.py:{env} --time 0.3s --steps 0 --actor.placement thread --evaluation.every_seconds 0"
        " --evaluation.episodes 100"
    )
    assert status == 0
    assert "time limit reached: mean evaluation return 7.0" in out
    assert summary()["evaluation"]["unfinished"] == 0


def test_a_serial_run_evaluates_in_as_many_environments_on_every_machine(tmp_path):
    made = []

    class Slow(gym.Env):
        observation_space, action_space = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(2)

        def __init__(self):
            made.append(self)

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            threading.Event().wait(0.001)
            return np.zeros(2, np.float32), 1.0, True, False, {}

    settings = {"topology": "serial", "actor.count": 1, "actor.environments": 2, "evaluation.every_seconds": 0.0}
    settings |= {"actor.rollout_steps": 4, "evaluation.final_episodes": 16, "learner.rollouts": 1}
    counts = []
    for seconds in (60.0, None):
        made.clear()
        run = troupe.train(
            Slow, steps=16, seconds=seconds, target="none", run_dir=tmp_path / f"run{seconds}", settings=settings
        )
        assert run.outcome == "steps"
        counts.append(len(made))
    assert counts[0] == counts[1] >= 16


@pytest.mark.slow
def test_a_blocked_evaluation_is_named_and_the_run_goes_on_with_fresh_environments(train):
    status, out = train(
        "envs.py:BlocksOnce --steps 3000 --actor.placement thread --actor.hang_seconds 0.3 --evaluation.every_steps 64"
    )
    assert status == 0
    assert "an evaluation is given up, and the run continues: environment envs.py:BlocksOnce has not" in out
    assert "in waits_for_ever" in out
    purposes = [row["purpose"] for row in read_log(Path("run")) if row["kind"] == "evaluation"]
    assert "progress" in purposes
    assert purposes[-1] == "final"
    assert summary()["outcome"] == "steps"


@pytest.mark.slow
def test_a_blocked_evaluation_writes_a_checkpoint_at_once(tmp_path):
    class Blocks(gym.Env):
        """Once an evaluation has blocked, the actor waits until there is a checkpoint."""

        observation_space, action_space = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(2)
        blocked = threading.Event()

        def reset(self, *, seed=None, options=None):
            self.left = 5
            return np.zeros(2, np.float32), {}

        def step(self, action):
            name = threading.current_thread().name
            if name.startswith("learner") and not Blocks.blocked.is_set():
                Blocks.blocked.set()
                threading.Event().wait()
            while name.startswith("actor") and Blocks.blocked.is_set() and not list(tmp_path.glob("run/checkpoints/*")):
                threading.Event().wait(0.01)
            self.left -= 1
            return np.zeros(2, np.float32), 1.0, self.left == 0, False, {}

    settings = {
        "actor.count": 1, "actor.environments": 2, "actor.placement": "thread", "actor.hang_seconds": 0.3,
        "evaluation.every_steps": 64, "evaluation.final_episodes": 3, "checkpoint.every_seconds": 1e6,
    }  # fmt: skip
    run = troupe.train(Blocks, steps=3000, target="none", run_dir=tmp_path / "run", settings=settings)
    assert run.outcome == "steps"
    assert run.scores is not None


def test_an_environment_whose_close_blocks_is_left_behind_with_a_word(train, monkeypatch, caplog):
    monkeypatch.setattr(closing, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr("troupe.conclusion._CLOSE_SECONDS", 0.05)
    monkeypatch.setattr("troupe.runtime.execution.interruption._PATIENCE_SECONDS", 0.05)
    status, out = train("envs.py:NeverCloses --steps 200 --actor.placement thread")
    assert status == 0
    assert "environment envs.py:NeverCloses: close() has not returned after 0.05 s, and is abandoned" in caplog.text
    assert "environment envs.py:NeverCloses: close() has not returned, and is abandoned" in out


def test_an_environment_that_does_not_answer_before_the_run_begins_is_named(train, monkeypatch, caplog):
    monkeypatch.setattr(probe, "SLOW_SECONDS", 0.05)

    class Heard(logging.Handler):
        warned = threading.Event()

        def emit(self, record):
            self.warned.set()

    heard = Heard()
    logging.getLogger("troupe").addHandler(heard)
    try:
        status, _ = train("envs.py:SlowToReset --steps 32 --actor.placement thread")
    finally:
        logging.getLogger("troupe").removeHandler(heard)
    assert status == 0
    assert "environment envs.py:SlowToReset: reset has not returned after 0.05 s; still waiting" in caplog.text


def test_a_limit_on_time_ends_the_wait_for_the_first_actors_too(train, monkeypatch):
    monkeypatch.setattr("troupe.session._START_SECONDS", 0.0)
    status, out = train("envs.py:NeverReady --time 0.1s --actor.placement process --actor.restarts 0")
    assert status == 0
    assert "the actors are still making and resetting their environments: the run ends" in out
    assert "time limit reached" in out
    assert "nothing was learned" in out
    assert (summary()["outcome"], summary()["steps"]) == ("time", 0)


def test_a_close_that_blocks_does_not_cost_the_measurement(train, monkeypatch, caplog):
    monkeypatch.setattr(closing, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr("troupe.conclusion._CLOSE_SECONDS", 0.05)
    status, out = train("envs.py:NeverCloses --steps 32 --actor.placement thread --actors auto")
    assert status == 0
    assert ": a step takes" in out
    assert "close() has not returned after 0.05 s" in caplog.text


def test_an_environment_that_can_exist_only_once_is_borrowed_by_evaluations(train):
    status, out = train(
        "envs.py:Once --actors 1 --actor.environments 1 --steps 400 --evaluation.every_steps 100 "
        "--evaluation.episodes 2"
    )
    assert status == 0
    assert "only one envs.py:Once can exist at a time" in out
    rows = [row for row in read_log(Path("run")) if row["kind"] == "evaluation"]
    assert {row["purpose"] for row in rows} == {"progress", "final"}
    assert {row["mean"] for row in rows} == {7.0}
    reports = [row for row in read_log(Path("run")) if row["kind"] == "report"]
    assert {row["return_min"] for row in reports} - {None} == {7.0}  # no episode was patched together


def test_an_environment_that_can_exist_only_once_says_what_to_do(train):
    assert train("envs.py:Once --steps 400")[0] == 2
    assert "use --actors 1 --actor.environments 1" in train.errors[-1]


def test_a_run_without_an_update_says_so(train):
    status, out = train("envs.py:Limited --time 0.01s --actor.placement thread --actor.rollout_steps 50000")
    assert status == 0
    assert "nothing was learned: the first update needs 200,000 steps" in out


# Which episodes count


def test_what_is_cut_off_waits_for_the_end_of_the_round():
    tally = Tally(2, 4, max_steps=3)
    tally.begin_round()
    rewards = np.ones(2)
    ended, none = np.array([False, True]), np.array([False, False])
    tally.add(rewards, none, none)
    tally.add(rewards, none, ended)  # the second has ended its first episode
    tally.add(rewards, ended, none)  # the first is cut off; the second is being reset
    assert not tally.round_is_over
    tally.add(rewards, none, ended)
    assert tally.round_is_over
    assert not tally.is_complete
    tally.begin_round()
    for _ in range(3):
        tally.add(rewards, none, none)
    assert tally.is_complete
    scores = tally.scores(greedy=True)
    assert (scores.lengths.tolist(), scores.cut_off) == ([2, 3, 1, 3], 2)


def test_when_there_is_no_more_time_only_whole_rounds_count():
    """The first environment has episodes of two steps, the second of four; what the quick one has more is left out."""
    tally, none = Tally(2, 20, max_steps=100), np.zeros(2, np.bool_)
    tally.begin_round()
    reset = none
    for step in range(1, 12):
        tally.add(np.array([1.0, 10.0]), reset, np.array([step % 2 == 0, step % 4 == 0]))
        reset = none
        scores = tally.scores_so_far(greedy=True)
        if step < 4:  # the second is in its first
            assert sorted(scores.returns) == sorted([min(step, 2), 10.0 * step])
            assert scores.unfinished == (2 if step == 1 else 1)
        else:
            assert sorted(scores.returns) == sorted([2.0, 40.0] * (step // 4))
            assert scores.unfinished == 0
        assert scores.cut_off == 0
        assert scores.asked == 20
