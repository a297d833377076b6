"""Arguments, wrappers and a time limit of an environment: by every command, from the shell and in Python."""

import json
import sys
import tomllib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import troupe
from troupe import UsageError
from troupe.config import Environment
from troupe.environments import find, of_run

ENVIRONMENTS = '''
import dataclasses
from typing import Literal

import gymnasium as gym
import numpy as np


class Env(gym.Env):
    """Pays `size` a step and lasts `length` of them."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space, action_space = gym.spaces.Box(0, 1, (2,), np.float32), gym.spaces.Discrete(2)

    def __init__(self, size: int = 1, length: int = 5, render_mode=None):
        assert type(size) is int
        self.size, self.length, self.render_mode = size, length, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.length
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(2, np.float32), float(self.size), False, self.left <= 0, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)


@dataclasses.dataclass
class Shape:
    length: int
    size: int = 1


def typed(name: str, pair: tuple[int, int] = (1, 2), kind: Literal["a", "b"] = "a", shape: Shape | None = None,
          whole=1, rate=0.5, plain=None, on: bool = False, render_mode=None):
    env = Env()
    env.given = {"name": name, "pair": pair, "kind": kind, "shape": shape, "whole": whole, "rate": rate,
                 "plain": plain, "on": on}
    return env


def needs(capacity, depth, render_mode=None):
    return Env()


class Tripled(gym.RewardWrapper):
    def reward(self, reward):
        return 3 * reward


class PlusOne(gym.RewardWrapper):
    def reward(self, reward):
        return reward + 1


class Scaled(gym.RewardWrapper):
    def __init__(self, env, factor):
        super().__init__(env)


def doubled(env):
    return gym.wrappers.TransformReward(env, lambda reward: 2 * reward)


def broken(env):
    return None
'''
SMALL = (
    "--actor.count 1 --actor.environments 2 --actor.rollout_steps 8 --learner.rollouts 1 --evaluation.final_episodes 2 "
    "--steps 64 --target none --untuned"
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("envs.py").write_text(ENVIRONMENTS)


def judged(run: Path) -> dict:
    scores = troupe.evaluate(run, episodes=2)
    return {"return": scores.mean, "length": float(scores.lengths.mean())}


# From the shell


def test_arguments_wrappers_and_a_time_limit_are_part_of_the_run(run_command):
    options = "--env.kwargs.size 7 --env.wrappers envs.py:Tripled,envs.py:PlusOne --env.max_steps 3"
    status, _, err = run_command(f"train envs.py:Env {options} --run-dir run --quiet {SMALL}")
    assert (status, err) == (0, "")
    stored = tomllib.loads(Path("run/config.toml").read_text())["env"]
    here = Path.cwd()
    assert stored["kwargs"] == {"size": 7}
    assert stored["wrappers"] == [f"{here}/envs.py:Tripled", f"{here}/envs.py:PlusOne"]
    assert stored["max_steps"] == 3
    expected = {"return": 3 * (3 * 7 + 1), "length": 3}
    assert judged(Path("run")) == expected
    status, out, _ = run_command("evaluate run --episodes 2 --json")
    assert json.loads(out)["mean_return"] == expected["return"]
    assert run_command("resume run --steps 128 --quiet")[0] == 0
    assert judged(Path("run")) == expected
    status, out, _ = run_command("watch run --video agent.gif --episodes 1")
    assert status == 0
    assert out.splitlines()[-1] == "1 episode, return 66"


def test_a_recorded_run_is_replayed_with_its_options(run_command):
    options = "--env.kwargs.size 7 --env.wrappers envs.py:Tripled --env.max_steps 3 --actor.placement thread --record"
    assert run_command(f"train envs.py:Env {options} --run-dir run --quiet {SMALL}")[0] == 0
    status, out, _ = run_command("replay run")
    assert status == 0
    assert "bit for bit" in out


@pytest.mark.slow
def test_several_seeds_and_a_comparison_have_them_too(run_command):
    options = "--env.kwargs.size=7 --env.max_steps 3"
    assert run_command(f"train envs.py:Env --seeds 2 {options} --run-dir two --quiet {SMALL}")[0] == 0
    words = f"compare envs.py:Env --presets appo --seeds 1 {options} --run-dir more --quiet {SMALL}"
    assert run_command(words)[0] == 0
    for summary in [*Path("two").glob("*/summary.json"), *Path("more").glob("*/*/summary.json")]:
        assert json.loads(summary.read_text())["evaluation"]["mean_return"] == 21


def test_bench_has_them_too(run_command, monkeypatch):
    from troupe import bench

    monkeypatch.setattr(bench, "STAGE_SECONDS", 0.05)
    small = "--actor.placement thread --actor.environments 2"
    status, out, _ = run_command(f"bench envs.py:needs {small} --json --time 0.2s")
    assert (status, out) == (2, "")
    options = "--env.kwargs.capacity 3 --env.kwargs.depth 1"
    status, out, _ = run_command(f"bench envs.py:needs {options} {small} --json --time 0.2s")
    assert status == 0
    assert json.loads(out)["environment"] == "envs.py:needs"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "envs.py:Env --env.kwargs.sise 7",
            "env.kwargs.sise: environment envs.py:Env takes no such argument; did you mean size? "
            "(it takes size, length)",
        ),
        ("envs.py:Env --env.kwargs.size big", "env.kwargs.size = 'big': expected a whole number"),
        ("envs.py:Env --env.kwargs.size", "--env.kwargs.size: expected --env.kwargs.NAME VALUE"),
        ("envs.py:Env --env.kwargs.render_mode human", "env.kwargs.render_mode: it is set by what renders"),
        (
            "envs.py:needs --env.kwargs.depth 1",
            "environment envs.py:needs needs an argument: --env.kwargs.capacity VALUE",
        ),
        (
            "envs.py:needs",
            "environment envs.py:needs needs arguments: --env.kwargs.capacity VALUE --env.kwargs.depth VALUE",
        ),
        (
            "CartPole-v1 --env.kwargs.gravity 7",
            "env.kwargs.gravity: environment CartPole-v1 takes no such argument (it takes sutton_barto_reward)",
        ),
        (
            "CartPole-v1 --env.kwargs.max_episode_steps 7",
            "env.kwargs.max_episode_steps: a time limit is set by --env.max",
        ),
        ("CartPole-v1 --env.max_steps -1", "env.max_steps = '-1': expected a whole number of at least 0"),
        ("envs.py:Env --env.wrappers nonsense", "env.wrappers: 'nonsense' is not module:Wrapper or"),
        ("envs.py:Env --env.wrappers no_such:Thing", "env.wrappers: 'no_such' cannot be imported: ModuleNotFound"),
        (
            "envs.py:Env --env.wrappers gymnasium.wrappers:FlattenObs",
            "env.wrappers: gymnasium.wrappers has no 'FlattenObs'; did you mean FlattenObservation?",
        ),
        ("envs.py:Env --env.wrappers envs.py:Trippled", "has no callable 'Trippled'; did you mean Tripled?"),
        ("envs.py:Env --env.wrappers nowhere.py:Tripled", "nowhere.py' to take the wrapper 'Tripled' from"),
        ("envs.py:Env --env.wrappers envs.py:Shape", "envs.py:Shape is not a gymnasium.Wrapper"),
        (
            "envs.py:Env --env.wrappers envs.py:Scaled",
            "envs.py:Scaled needs more than the environment (factor)",
        ),
        ("envs.py:Env --env.wrappers envs.py:broken", "envs.py:broken returned NoneType, not a gymnasium.Env"),
        (
            "CartPole-v1 --env.wrappers gymnasium.wrappers:TimeAwareObservation --env.backend native",
            "env.backend = 'native': CartPole-v1 has no vector version of its own that takes env.wrappers; use sync",
        ),
        (
            "CartPole-v1 --env.max_steps 9 --env.backend envpool",
            "env.backend = 'envpool': EnvPool takes no env.max_steps",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_status_2(run_command, words, line):
    status, out, err = run_command(f"train {words} --run-dir run")
    assert (status, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1
    assert not Path("run").exists()


def test_only_commands_that_train_take_arguments_of_an_environment(run_command):
    status, _, err = run_command("evaluate run --env.kwargs.size 7")
    assert status == 2
    assert err.startswith("troupe: unknown argument '--env.kwargs.size'")


# What text means


def given(**texts: str) -> dict:
    """What the factory `typed` is called with."""
    env = find("envs.py:typed", Environment(kwargs={"name": "x"} | texts), texts={"name", *texts}).make()
    return env.unwrapped.given


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("name", "7", "7"),
        ("pair", "[3, 4]", (3, 4)),
        ("kind", "b", "b"),
        ("whole", "7", 7),
        ("whole", "7.5", 7.5),
        ("rate", "1", 1.0),
        ("rate", "1e-3", 0.001),
        ("on", "true", True),
        ("on", "True", True),
        ("plain", "7", 7),
        ("plain", "[1, [2]]", [1, [2]]),
        ("plain", "{a = 1}", {"a": 1}),
        ("plain", "true", True),
        ("plain", "words as they are", "words as they are"),
        ("plain", "'7'", "7"),
    ],
)
def test_text_is_read_as_the_signature_says_and_as_toml_otherwise(name, text, value):
    read = given(**{name: text})[name]
    assert read == value
    assert type(read) is type(value)


def test_a_table_becomes_the_dataclass_that_is_annotated():
    shape = given(shape="{length = 3}")["shape"]
    assert (type(shape).__name__, shape.length, shape.size) == ("Shape", 3, 1)


def test_a_value_that_is_not_among_the_choices_is_refused():
    with pytest.raises(UsageError, match=r"^env\.kwargs\.kind = 'c': invalid enum value 'c'$"):
        given(kind="c")


# In Python


def test_settings_and_env_kwargs_say_the_same_in_python(tmp_path):
    settings = {"actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 8, "learner.rollouts": 1}
    more = {"evaluation.final_episodes": 2, "env.max_steps": 3, "env.wrappers": ["envs.py:doubled"]}
    how = {"steps": 64, "target": "none", "tuned": False}
    text = troupe.train("envs.py:Env", run_dir="text", settings={"env.kwargs.size": "7"} | settings | more, **how)
    value = troupe.train("envs.py:Env", run_dir="value", env_kwargs={"size": 7}, settings=settings | more, **how)
    for run in (text, value):
        assert run.scores.mean == 42
        assert judged(run.path) == {"return": 42, "length": 3}
        resumed = troupe.resume(run.path, steps=128)
        assert resumed.scores.mean == 42


def test_the_arguments_of_a_callable_are_kept_for_the_callable(counting):
    def make(length: int) -> gym.Env:
        return gym.wrappers.TimeLimit(counting(), length)

    settings = {"actor.count": 1, "actor.environments": 2, "actor.placement": "thread", "evaluation.final_episodes": 2}
    run = troupe.train(make, run_dir="run", steps=64, target="none", env_kwargs={"length": 2}, settings=settings)
    assert troupe.evaluate(run.path, episodes=2, env=make).lengths.tolist() == [2, 2]


@pytest.mark.parametrize("value", [object(), None, np.zeros(3), {"deep": [object()]}])
def test_what_no_file_can_hold_is_left_to_a_factory(value):
    with pytest.raises(UsageError, match=r"config\.toml cannot hold a value of type \w+; make it inside") as caught:
        troupe.train("envs.py:typed", run_dir="run", env_kwargs={"name": "x", "plain": value})
    assert len(str(caught.value).splitlines()) <= 1 or isinstance(value, np.ndarray)
    assert not Path("run").exists()


def test_a_string_in_python_is_that_string():
    from troupe.config import resolve
    from troupe.environments import settle

    config, source = settle(resolve("envs.py:typed"), "envs.py:typed", {"name": "x", "plain": "7"})
    assert source.make().unwrapped.given["plain"] == "7"
    again = of_run(Path("run"), config.env)
    assert again.make().unwrapped.given["plain"] == "7"


# Backends


def test_a_native_vector_takes_the_time_limit_and_arguments_where_it_has_them():
    source = find("CartPole-v1", Environment(max_steps=3, kwargs={"sutton_barto_reward": True}))
    assert source.native_vector is not None
    assert source.pool_name == ""
    assert source.reward_threshold is None  # 475 is that of another environment
    for backend in ("native", "sync"):
        vector = source.make_vector(2, Environment(backend=backend))
        vector.reset(np.random.SeedSequence(1))
        rows = [vector.step(np.zeros(2, np.int64)) for _ in range(3)]
        assert [row.truncated.tolist() for row in rows] == [[False] * 2, [False] * 2, [True] * 2]
        assert rows[0].reward.tolist() == [0.0, 0.0]


def test_wrappers_are_played_in_python():
    source = find("CartPole-v1", Environment(wrappers=("gymnasium.wrappers:TimeAwareObservation",)))
    assert (source.native_vector, source.pool_name) == (None, "")
    assert source.observation_space.shape == (5,)


def test_a_longer_limit_replaces_the_registered_one():
    env = find("MountainCar-v0", Environment(max_steps=300)).make()
    env.reset(seed=0)
    ends = [env.step(1)[3] for _ in range(300)]
    assert ends.index(True) == 299


def test_a_registered_argument_of_an_open_signature_is_named(monkeypatch):
    class Base(gym.Env):
        observation_space = action_space = gym.spaces.Discrete(2)

        def __init__(self, depth=1):
            self.depth = depth

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def step(self, action):
            return 0, 0.0, True, False, {}

    class Open(Base):
        def __init__(self, width=1, **kwargs):
            super().__init__(**kwargs)

    monkeypatch.setitem(gym.registry, "Open-v0", gym.envs.registration.EnvSpec("Open-v0", Open))
    assert find("Open-v0", Environment(kwargs={"depth": 3})).make().unwrapped.depth == 3
    with pytest.raises(UsageError, match=r"^env\.kwargs\.dept: .* did you mean depth\? \(it takes width, depth\)$"):
        find("Open-v0", Environment(kwargs={"dept": 3}))


def test_atari_takes_wrappers_and_a_limit_in_single_emulators_and_refuses_the_rest():
    pytest.importorskip("ale_py")
    options = Environment(max_steps=4, kwargs={"difficulty": 1}, wrappers=("gymnasium.wrappers:TimeAwareObservation",))
    with pytest.raises(UsageError, match=r"it takes mode, difficulty, full_action_space"):
        find("ALE/Pong-v5", Environment(kwargs={"frameskip": 2}))
    source = find("ALE/Pong-v5", Environment(max_steps=4, kwargs={"difficulty": 1}))
    assert source.backend(options).name == "sync"
    env = source.make(config=options)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(4)] == [False, False, False, True]
    assert env.unwrapped.ale.getDifficulty() == 1 if hasattr(env.unwrapped.ale, "getDifficulty") else True
    env.close()


# Security


def test_a_wrapper_that_lies_in_the_run_directory_is_not_executed(run_command):
    assert run_command(f"train envs.py:Env --run-dir run --quiet {SMALL}")[0] == 0
    Path("run/evil.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    text = Path("run/config.toml").read_text()
    Path("run/config.toml").write_text(text.replace("wrappers = []", f'wrappers = ["{Path.cwd()}/run/evil.py:Wrap"]'))
    status, _, err = run_command("evaluate run")
    assert status == 2
    assert "which is not executed" in err
    assert not Path("executed").exists()
    assert "evil" not in sys.modules


def test_an_argument_that_only_the_registration_names_has_the_type_of_its_value_there(run_command):
    """What is made takes it as one of any."""
    made = []

    class Open(gym.Env):
        observation_space, action_space = gym.spaces.Box(0, 1, (2,), np.float32), gym.spaces.Discrete(2)

        def __init__(self, **options):
            made.append(options)

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), 0.0, True, False, {}

    gym.register("OpenArguments-v0", Open, kwargs={"size": 3})
    try:
        words = "train OpenArguments-v0 --env.kwargs.size"
        assert run_command(f"{words} big") == (2, "", "troupe: env.kwargs.size = 'big': expected a number\n")
        assert made == []
        find("OpenArguments-v0", Environment(kwargs={"size": 4}))
        assert made == [{"size": 4}]
    finally:
        del gym.registry["OpenArguments-v0"]
