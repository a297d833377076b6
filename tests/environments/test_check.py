"""`troupe check`: what is wrong with an environment, what is unwise, and the exit status."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from troupe import cli
from troupe.environments import layers

ENVIRONMENTS = '''
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Fine(gym.Env):
    """Shows random numbers; pays 1 for a large first one. Ten steps an episode."""
    observation_space, action_space = spaces.Box(0, 1, (3,), np.float32), spaces.Discrete(3)
    max_steps = 10

    def show(self):
        return self.np_random.random(3, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.show(), {}

    def step(self, action):
        self.steps += 1
        shown = self.show()
        return shown, float(shown[0] > 0.5), False, self.steps == self.max_steps, {}


class FourValues(Fine):
    def step(self, action):
        return super().step(action)[:4]


class Unseeded(Fine):
    def show(self):
        return np.random.random(3).astype(np.float32)


class Remembers(Fine):
    """Goes on where the last episode was."""
    played = 0.0

    def show(self):
        self.played += 0.001
        return np.full(3, self.played, np.float32)


class Buffer(Fine):
    shown = None

    def show(self):
        self.shown = np.zeros(3, np.float32) if self.shown is None else self.shown
        self.shown[:] = super().show()
        return self.shown


class Bounds(Fine):
    def show(self):
        return super().show() + 1.5


class Later(Fine):
    def show(self):
        return super().show()[: 3 - (self.steps if hasattr(self, "steps") else 0) // 5]


class SlowReset(Fine):
    """By the clock of the check."""
    def reset(self, *, seed=None, options=None):
        import troupe.environments.checks.check as check
        check.time.now += check.time.reset_seconds
        return super().reset(seed=seed)


class Raises(Fine):
    def step(self, action):
        if self.steps == 7:
            raise ValueError("no road")
        return super().step(action)


class Worthless(Fine):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, "much" if self.steps == 3 else reward, *rest


class Flags(Fine):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, int(terminated), truncated, info


class Unwise(Fine):
    observation_space = spaces.Dict(
        much=spaces.Box(-np.inf, np.inf, (2,), np.float64), flat=spaces.Box(0, 1, (4,), np.float32), word=spaces.Text(5)
    )
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    max_steps = None

    def show(self):
        return {"much": 1e9 * self.np_random.random(2), "flat": np.zeros(4), "word": "abc"}

    def step(self, action):
        self.steps += 1
        return self.show(), np.array([-5000.0 if self.steps % 100 == 0 else 0.5]), False, False, None


class Silent(Fine):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, 0.0, *rest


def sized(size):
    return Fine()
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("environments.py").write_text(ENVIRONMENTS)
    monkeypatch.delitem(sys.modules, "environments", raising=False)


def check(capsys, name: str, *options: str) -> tuple[int, str]:
    status = cli.run(["check", f"environments.py:{name}", *options])
    return status, capsys.readouterr().out


def test_an_environment_without_fault_is_clean(capsys):
    status, message = check(capsys, "Fine")
    assert status == 0
    assert message.splitlines() == [
        "environments.py:Fine: 400 steps of random actions, 40 episodes ended",
        "nothing wrong, nothing unwise",
    ]


@pytest.mark.parametrize(
    ("name", "what", "change"),
    [
        ("FourValues", "environment environments.py:FourValues: step returned 4 values: expected 5", "gymnasium.Env"),
        (
            "Unseeded",
            "the same seed and actions gave another episode in the same environment, from",
            "np_random",
        ),
        ("Remembers", "the same seed and actions gave another episode in the same environment, from", "reset"),
        ("Buffer", "the observation is one buffer that each step overwrites", "copy"),
        ("Bounds", "step 0: the observation holds ", "declare the bounds"),
        ("Later", "step 5: the observation has shape (2,), its space (3,)", "observation_space"),
        ("Raises", "step 8: step raised ValueError: no road", "fix it, or catch the expected exceptions there"),
        ("Worthless", "step 3: step returned the reward 'much'", "gymnasium.Env"),
        ("Flags", "terminated is int (0): expected bool", "return bool(terminated)"),
    ],
)
def test_wrong_findings_say_what_to_change_and_exit_with_1(capsys, name, what, change):
    status, message = check(capsys, name, "--json")
    assert status == 1
    assert [(each["what"][: len(what)], change in each["change"]) for each in json.loads(message)["wrong"]] == [
        (what, True)
    ]


def test_unwise_findings_exit_with_0(capsys, monkeypatch):
    monkeypatch.setattr(layers, "_TRIAL_SECONDS", 60.0)  # on a busy machine, 300 steps may take more than 0.1 s
    status, message = check(capsys, "Unwise")
    assert status == 0
    lines = message.splitlines()
    assert lines[0] == "environments.py:Unwise: 400 steps of random actions, 0 episodes ended"
    for what, change in (
        ("left out of the observation, because no network can read it: word (Text)", "turn it into numbers"),
        ("no time limit: ", "TimeLimit"),
        ("step returns None as info", "return a dict"),
        ("the reward is an array of shape (1,)", "return float(reward)"),
        ("the observation['flat'] is float64, its space float32: it is converted", "np.float32"),
        ("the observation['flat'] never changed in 400 steps", "--env.ignore"),
        ("the observation['much'] holds numbers as large as ", "differences"),
        ("rewards are as large as 5000", "scale rewards"),
        ("one reward of 5000 dwarfs the others, half of which are at most 0.5", "loss.reward_clip"),
        ("the action has no bounds", "declare the bounds"),
    ):
        (number,) = [number for number, line in enumerate(lines) if line.startswith(f"unwise  {what}")]
        assert change in lines[number + 1]
    assert "every reward of 400 random steps is 0" in check(capsys, "Silent")[1]


@pytest.mark.parametrize("seconds", [0.0, 5.0, 60.0])
def test_a_slow_reset_is_unwise_and_a_check_ends_in_its_time(capsys, monkeypatch, seconds):
    clock = SimpleNamespace(now=100.0, reset_seconds=seconds, monotonic=lambda: clock.now)
    monkeypatch.setattr("troupe.environments.checks.check.time", clock)
    status, message = check(capsys, "SlowReset")
    assert status == 0
    lines = message.splitlines()
    if not seconds:
        assert lines[0].endswith("400 steps of random actions, 40 episodes ended")
        assert lines[-1] == "nothing wrong, nothing unwise"
        return
    assert lines[0].endswith("; cut short after 20 s")
    assert f"unwise  a reset takes {seconds:.1f} s" in lines
    assert clock.now - 100.0 <= 20.0 + 3 * seconds  # those of the first look, which comes before the check


def test_options_of_the_environment_are_those_of_train(capsys):
    status, message = check(capsys, "Unwise", "--env.ignore", "flat,word", "--env.max_steps", "10", "--steps", "50")
    assert status == 0
    assert message.startswith("environments.py:Unwise: 50 steps of random actions, 5 episodes ended\n")
    assert "['flat']" not in message
    assert "no time limit" not in message
    assert check(capsys, "sized", "--env.kwargs.size", "3")[0] == 0


def test_an_unknown_environment_is_wrong_usage(capsys):
    assert cli.run(["check", "environments.py:Nothing"]) == 2
    assert capsys.readouterr().err == "troupe: environments.py has no callable 'Nothing'\n"
