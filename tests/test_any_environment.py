"""Environments as users bring them, each trained from the command line."""

import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import troupe
from troupe import cli
from troupe.config import UsageError
from troupe.environments.readable import reduced

ENVIRONMENTS = '''
"""Each shows a number from 0 to 2; the action that names it earns 1. Episodes last eight steps."""
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Cue(gym.Env):
    observation_space, action_space = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(3)

    def show(self):
        return np.eye(3, dtype=np.float32)[self.cue]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.cue = 0, int(self.np_random.integers(3))
        return self.show(), {}

    def step(self, action):
        reward = float(action == self.cue)
        self.steps, self.cue = self.steps + 1, int(self.np_random.integers(3))
        return self.show(), reward, False, self.steps == 8, {}


class Picture(Cue):
    """The number is the third of the picture that is bright."""
    observation_space = spaces.Box(0, 255, (40, 36, 3), np.uint8)

    def show(self):
        picture = np.zeros((40, 36, 3), np.uint8)
        picture[:, 12 * self.cue : 12 * self.cue + 12] = 255
        return picture


class Mission(Cue):
    """Numbers beside words, a graph, a sequence and a space of its own, at several depths."""
    class Own(gym.Space):
        def sample(self, mask=None): return object()
        def contains(self, x): return True

    observation_space = spaces.Dict(
        numbers=Cue.observation_space,
        mission=spaces.Text(40),
        more=spaces.Tuple([spaces.Text(9), spaces.Discrete(2), spaces.Graph(spaces.Discrete(2), None)]),
        own=Own(),
        list=spaces.Sequence(spaces.Discrete(3)),
    )

    def show(self):
        return {"numbers": super().show(), "mission": "go", "more": ("a", 1, None), "own": object(), "list": (1, 2)}


class Integers(Cue):
    """The first of two integers is the one to choose."""
    action_space = spaces.Box(np.array([0, -3]), np.array([2, 4]), dtype=np.int8)

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(action[0])


class Prices(Cue):
    action_space = spaces.Box(0, 5000, (1,), np.int64)


class OneOfActions(Cue):
    action_space = spaces.OneOf([spaces.Discrete(3), spaces.Box(-1, 1)])


class OneOfObservations(Cue):
    observation_space = spaces.OneOf([Cue.observation_space, spaces.Discrete(2)])


class OneOfEntry(Cue):
    observation_space = spaces.Dict(numbers=Cue.observation_space, goal=spaces.OneOf([spaces.Discrete(3)]))

    def show(self):
        return {"numbers": super().show(), "goal": (0, 1)}


class Words(Cue):
    observation_space = spaces.Dict(mission=spaces.Text(40), more=spaces.Tuple([spaces.Text(3)]))


class Informed(Cue):
    """What lies in an info is the environment's own affair, also where it differs from step to step."""
    def info(self):
        one = {"seen": np.zeros(self.steps), 0: None, "order": 3}
        return (one, None, {"order": "closed", "lives": None, "id": 2**70})[self.steps % 3]

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], self.info()

    def step(self, action):
        return *super().step(action)[:4], self.info()


class Rewards(Cue):
    kinds = (bool, np.bool_, np.array, lambda reward: np.array([[reward]]), np.float16, int)

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        kind = self.kinds[self.steps % len(self.kinds)]
        return obs, kind(reward), np.bool_(terminated), np.array([truncated]), info


class VecNormalize(gym.Wrapper):
    """Named as Stable-Baselines3's."""


def normalized():
    env = gym.wrappers.NormalizeObservation(gym.wrappers.TimeLimit(VecNormalize(Cue()), 100))
    return gym.wrappers.NormalizeReward(env)
'''
FAULTS = '''
from environments import *


class FourValues(Cue):
    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, truncated, info


class NoTuple(Cue):
    def step(self, action):
        return super().step(action)[0]


class ObservationOnly(Cue):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class DictOnly(Cue):
    observation_space = spaces.Dict(day=spaces.Discrete(8), stock=Cue.observation_space)

    def reset(self, *, seed=None, options=None):
        return {"day": 0, "stock": super().reset(seed=seed)[0]}


class PairOnly(Cue):
    """Its second entry is a dict, as an info is."""
    observation_space = spaces.Tuple([Cue.observation_space, spaces.Dict(day=spaces.Discrete(8))])

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"day": 0}


class NoSeed(Cue):
    def reset(self):
        return super().reset()


class Info(Cue):
    def step(self, action):
        return *super().step(action)[:4], "won"


class Vector(Cue):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, np.array([1.0, 0.5]), *rest


class Endless(Cue):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float("inf"), *rest


class Ends(Cue):
    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, {"agent": False}, truncated, info


class Shape(Cue):
    def show(self):
        return np.zeros(5, np.float32)


class LaterShape(Cue):
    def show(self):
        return np.zeros(5 if self.steps else 3, np.float32)


class Missing(Cue):
    observation_space = spaces.Dict(day=spaces.Discrete(8), stock=Cue.observation_space)

    def show(self):
        return {"stock": super().show(), "night": 1}


class Kind(Cue):
    def show(self):
        return ["a", "b", "c"]


class Half(Cue):
    observation_space = spaces.Box(0, 255, (3,), np.uint8)

    def show(self):
        return super().show() / 2


class Nothing(Cue):
    def show(self):
        return super().show() * np.nan


class Choice(Cue):
    observation_space = spaces.Discrete(3)

    def show(self):
        return 4


class Old:
    def reset(self):
        return 0

    def step(self, action):
        return 0, 0.0, False, {}


def nothing():
    return {"observation_space": 3}
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("environments.py").write_text(ENVIRONMENTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "environments", raising=False)


SHORT = "--seed 1 --steps 600 --target none --evaluation.final_episodes 3 --actor.rollout_steps 16 --run-dir run"


def train(name: str, *options: str) -> int:
    """A short run with the defaults."""
    return cli.run(["train", f"environments.py:{name}", *SHORT.split(), *options])


# Pictures


def test_a_picture_that_is_no_atari_game_is_trained_on():
    """The measurement at the start chose `env.threads`, which only Atari games have."""
    assert train("Picture") == 0


# Spaces


@pytest.mark.slow
def test_integers_of_a_box_are_chosen_and_learned(capsys):
    serial = [
        "--topology",
        "serial",
        "--steps",
        "6000",
        "--learner.learning_rate",
        "0.01",
        "--evaluation.final_episodes",
        "20",
    ]
    assert train("Integers", *serial) == 0
    assert troupe.load("run").act(np.array([0, 1, 0], np.float32)).dtype == np.int8
    assert cli.run(["evaluate", "run", "--episodes", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["mean_return"] > 6  # of 8; at random 2.7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Prices", "action space Box(0, 5000, (1,), int64) is not supported: each integer of a Box is a choice among "
         "at most 1,024, and here among 5,001; declare closer bounds, or a Box of floats and round in the environment"),
        ("OneOfActions", "action space OneOf(Discrete(3), Box(-1.0, 1.0, (1,), float32)) is not supported: Box, "
         "Discrete, MultiDiscrete and MultiBinary are, and Dict and Tuple of these"),
        ("OneOfObservations", "observation space OneOf(Box(-1.0, 1.0, (3,), float32), Discrete(2)) is not supported: "
         "Box, Discrete, MultiDiscrete and MultiBinary are, and Dict and Tuple of these"),
    ],
)  # fmt: skip
def test_a_space_that_is_not_supported_is_named(name, message, capsys):
    assert train(name) == 2
    assert capsys.readouterr().err == f"troupe: {message}\n"
    assert not Path("run").exists()


def test_a_one_of_beside_other_entries_is_left_out(capsys):
    assert train("OneOfEntry") == 0
    assert "no network can read it: goal (OneOf)" in " ".join(capsys.readouterr().out.split())


# Entries that cannot be read


def test_unsupported_entries_are_left_out_and_named_in_every_command(capsys):
    assert train("Mission") == 0
    assert (
        "left out of the observation, because no network can read it: mission (Text), more.0 (Text), "
        "more.2 (Graph), own (Own), list (Sequence)"
    ) in " ".join(capsys.readouterr().out.split())
    assert cli.run(["evaluate", "run", "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    assert cli.run(["resume", "run", "--steps", "1200", "--quiet"]) == 0


def test_an_agent_takes_the_whole_observation_and_the_reduced_one():
    assert train("Mission", "--quiet") == 0
    agent = troupe.load("run")
    numbers = np.array([0, 1, 0], np.float32)
    whole = {"numbers": numbers, "mission": "go", "more": ("a", 1, None), "own": object(), "list": (1, 2)}
    assert agent.act(whole) == agent.act({"numbers": numbers, "more": {1: 1}})
    with pytest.raises(UsageError, match="observation does not fit Dict"):
        agent.act({"mission": "go"})


def test_an_observation_of_which_nothing_can_be_read_is_refused(capsys):
    assert train("Words") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("troupe: observation space Text(1, 40, ")
    assert " at ['mission'] is not supported: Box, Discrete, MultiDiscrete and MultiBinary are, and Dict and" in line
    assert not Path("run").exists()


def test_an_entry_that_is_not_wanted_is_left_out_in_every_command(capsys):
    assert train("Mission", "--env.ignore", "more,mission") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "left out of the observation, because no network can read it: own (Own), list (Sequence) " in shown
    agent = troupe.load("run")
    assert list(agent.observation_space.spaces) == ["numbers"]
    agent.act({"numbers": np.zeros(3, np.float32)})
    assert cli.run(["evaluate", "run", "--episodes", "2"]) == 0
    assert cli.run(["resume", "run", "--steps", "1200", "--quiet"]) == 0
    assert train("Mission", "--run-dir", "other", "--env.ignore", "misson") == 2
    assert capsys.readouterr().err == (
        "troupe: env.ignore: the observation has no entry 'misson'; did you mean mission?: it has numbers, mission, "
        "more.0, more.1, more.2, own, list\n"
    )


SPACE = gym.spaces.Dict(
    camera=gym.spaces.Dict(depth=gym.spaces.Box(0, 1, (2,)), words=gym.spaces.Text(3)),
    pair=gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Box(0, 1, (1,)), gym.spaces.Discrete(4)]),
    action_mask=gym.spaces.Tuple([gym.spaces.MultiBinary(2), gym.spaces.Text(3)]),
)


@pytest.mark.parametrize(
    ("ignore", "paths"),
    [
        ((), ["action_mask.0", "action_mask.1", "camera.depth", "pair.0", "pair.1", "pair.2"]),
        (("camera",), ["action_mask.0", "action_mask.1", "pair.0", "pair.1", "pair.2"]),
        (("camera.depth", "pair.0", "action_mask"), ["pair.1", "pair.2"]),
        (("pair.1", "pair.2", "pair.0"), ["action_mask.0", "action_mask.1", "camera.depth"]),
    ],
)
def test_remaining_entries_keep_their_paths(ignore, paths):
    def dotted(space, path=()):
        parts = getattr(space, "spaces", None)
        if parts is None:
            return [".".join(map(str, path))]
        items = parts.items() if isinstance(parts, dict) else enumerate(parts)
        return [each for key, part in items for each in dotted(part, (*path, key))]

    assert dotted(reduced(SPACE, ignore).space) == paths
    whole = gym.spaces.Discrete(3)
    assert reduced(whole).space is whole


@pytest.mark.parametrize(
    ("space", "ignore", "shown"),
    [
        (SPACE, ["camera.deep"], "env.ignore: the observation has no entry 'camera.deep'; did you mean camera.depth?"),
        (gym.spaces.Discrete(2), ["x"], "env.ignore: the observation has no entry 'x': it is not a Dict or Tuple"),
        (SPACE, ["camera", "pair"], "env.ignore = camera,pair: nothing that can be read remains of the observation"),
    ],
)
def test_ignoring_a_missing_entry_or_all_entries_is_refused(space, ignore, shown):
    with pytest.raises(UsageError) as caught:
        reduced(space, ignore)
    assert str(caught.value).startswith(shown)


# Wrappers that normalise


def test_wrappers_that_normalise_are_named_with_their_consequences(capsys):
    assert train("normalized") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "NormalizeReward in the environment: returns here are of its normalised rewards, not of the environment's own; "
        "leave it out, rewards are normalised for learning (loss.normalize_reward) "
        "NormalizeObservation in the environment: its statistics are not saved,"
    ) in shown
    assert shown.count("VecNormalize in the environment") == 2
    assert "VecNormalize in the environment: its statistics are not saved" in shown


# What differs and is no fault


@pytest.mark.parametrize("name", ["Informed", "Rewards"])
def test_infos_and_rewards_of_every_kind_are_let_through(name):
    assert train(name, "--quiet") == 0


# Errors before anything starts


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "FourValues",
            ": step returned 4 values: expected 5, (observation, reward, terminated, truncated, info); "
            "Gym had one `done` for both; shimmy's GymV21CompatibilityV0 adapts such environments",
        ),
        ("NoTuple", ": step returned ndarray: expected (observation, reward, terminated, truncated, info)"),
        ("ObservationOnly", ": reset returned only an observation (ndarray): expected (observation, info)"),
        ("DictOnly", ": reset returned only an observation (dict): expected (observation, info)"),
        ("PairOnly", ": reset returned only an observation (tuple of length 2): expected (observation, info)"),
        (
            "NoSeed",
            ": reset does not take the arguments that Gymnasium passes: expected reset(self, *, seed=None, "
            "options=None), found TypeError: NoSeed.reset() got an unexpected keyword argument 'seed'",
        ),
        ("Info", ": step returned str as info: expected a dict"),
        (
            "Vector",
            ": step returned a reward of shape (2,): expected one number; a wrapper can combine several objectives "
            "(mo-gymnasium's LinearReward)",
        ),
        ("Endless", ", first step: the reward is inf, expected a finite number"),
        ("Ends", ": step returned terminated = {'agent': False} (dict): expected True or False"),
        ("Shape", ", first reset: the observation has shape (5,), its space (3,)"),
        ("LaterShape", ", first step: the observation has shape (5,), its space (3,)"),
        ("Missing", ", first reset: the observation has no entry ['day'], which its space has: found 'stock', 'night'"),
        ("Kind", ", first reset: the observation holds list (<U1), its space numbers (float32)"),
        ("Half", ", first reset: the observation holds 0.5, which does not fit its space's dtype (uint8)"),
        ("Nothing", ", first reset: the observation holds nan"),
        ("Choice", ", first reset: the observation holds 4, which is not in Discrete(3)"),
        ("nothing", ": the factory returned dict, not a gymnasium.Env"),
        (
            "Old",
            ": the factory returned Old, not a gymnasium.Env; Gym had one `done` for both; shimmy's "
            "GymV21CompatibilityV0 adapts such environments",
        ),
    ],
)
def test_a_wrong_first_reset_or_step_is_wrong_usage_in_one_line(capsys, name, shown):
    Path("faults.py").write_text(FAULTS)
    assert cli.run(["train", f"faults.py:{name}", *SHORT.split()]) == 2
    assert capsys.readouterr().err == f"troupe: environment faults.py:{name}{shown}\n"
    assert not Path("run").exists()
