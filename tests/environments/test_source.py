"""From a name to an environment, and one plain line for everything that can be wrong with it."""

import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from troupe.config import Environment, UsageError
from troupe.environments import find, of_run

FACTORY = """
import gymnasium as gym
MODES = []
def make(render_mode=None):
    MODES.append(render_mode)
    return gym.make("CartPole-v1", render_mode=render_mode)
def makes_nothing():
    return "nothing"
def fails():
    raise ValueError("no\\n  such maze")
NUMBER = 3
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "maze.py"
    path.write_text(FACTORY)
    return path


def refusal(env: object) -> str:
    with pytest.raises(UsageError) as caught:
        find(env)
    (line,) = str(caught.value).splitlines()
    return line


# A Gymnasium id


def test_an_id_gives_spaces_threshold_and_its_own_vector_version():
    source = find("CartPole-v1")
    assert source.action_space == gym.spaces.Discrete(2)
    assert source.observation_space.shape == (4,)
    assert source.reward_threshold == 475.0
    assert source.native_vector is not None


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("CartPol-v1", "CartPole-v1"), ("cartpole-v1", "CartPole-v1"), ("CartPole-v7", "CartPole-v1")],
)
def test_the_error_for_an_unknown_id_suggests_the_nearest(name, nearest):
    assert refusal(name).startswith(f"no environment '{name}'; did you mean {nearest}? (troupe envs")


@pytest.mark.parametrize("name", ["", "no such thing", "x/y/z", "FrozenLakes-v99999999999999999999"])
def test_an_id_without_similar_ones_is_refused_without_a_suggestion(name):
    assert refusal(name).startswith(f"no environment '{name}'")


@pytest.mark.parametrize(
    ("entry_point", "packages"),
    [
        ("gymnasium.envs.box2d.missing:Lander", "'gymnasium[box2d]'"),
        ("gymnasium.envs.mujoco.missing:Ant", "'gymnasium[mujoco]'"),
        ("ale_py.missing:Pong", "'ale-py>=0.12' 'opencv-python-headless>=4.8'"),
    ],
)
def test_the_error_for_a_missing_package_has_the_command_that_installs_it(monkeypatch, entry_point, packages):
    """Whether or not the package is here: the module named in the registry does not exist."""
    monkeypatch.setitem(gym.registry, "Far-v0", gym.envs.registration.EnvSpec("Far-v0", entry_point))
    assert refusal("Far-v0") == f"environment Far-v0 needs a package that is not installed: pip install {packages}"


def test_the_error_for_an_unregistered_namespace_has_its_package(monkeypatch):
    for key in [key for key in gym.registry if key.startswith("ALE/")]:
        monkeypatch.delitem(gym.registry, key)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    assert refusal("ALE/Pong-v5").endswith("pip install 'ale-py>=0.12' 'opencv-python-headless>=4.8'")


def test_a_package_of_which_nothing_is_known_is_named(monkeypatch):
    """'whale' has 'ale' in it, and is not an Atari game."""
    monkeypatch.setitem(gym.registry, "Far-v0", gym.envs.registration.EnvSpec("Far-v0", "whale_watching.envs:Whale"))
    assert refusal("Far-v0").endswith("not installed: No module named 'whale_watching'")


def test_a_vector_version_that_resets_at_once_is_not_used(monkeypatch):
    """Only the next-step reset keeps the final observation in line."""

    class SameStep(gym.vector.VectorEnv):
        metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012

        def __init__(self, num_envs, **_):
            self.num_envs = num_envs

    spec = gym.envs.registration.EnvSpec("Near-v0", CartPoleEnv, vector_entry_point=SameStep)
    monkeypatch.setitem(gym.registry, "Near-v0", spec)
    source = find("Near-v0")
    assert source.native_vector is None
    with pytest.raises(UsageError, match=r"env\.backend = 'native': Near-v0 has no vector version of its own"):
        source.make_vector(2, Environment(backend="native"))


def test_a_registered_environment_need_not_take_a_render_mode(monkeypatch):
    class Plain(gym.Env):
        observation_space = action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return 0, {}

        def step(self, action):
            return 0, 0.0, False, False, {}

    monkeypatch.setitem(gym.registry, "Plain-v0", gym.envs.registration.EnvSpec("Plain-v0", Plain))
    source = find("Plain-v0")
    source.make().close()
    with pytest.raises(TypeError, match="render_mode"):
        source.make("rgb_array")


# module:Id


def test_a_module_is_imported_so_that_it_registers_its_environments(tmp_path, monkeypatch):
    (tmp_path / "troupe_test_mazes.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Labyrinth-v0', entry_point=CartPoleEnv, max_episode_steps=7, reward_threshold=6)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        source = find("troupe_test_mazes:Labyrinth-v0")
        assert (source.id, source.reward_threshold) == ("troupe_test_mazes:Labyrinth-v0", 6)
        assert "did you mean Labyrinth-v0?" in refusal("troupe_test_mazes:Labyrint-v0")
    finally:
        gym.registry.pop("Labyrinth-v0", None)
        sys.modules.pop("troupe_test_mazes", None)


def test_a_module_that_cannot_be_imported_is_named():
    assert refusal("no_mazes_here:Maze-v0") == (
        "environment no_mazes_here:Maze-v0: 'no_mazes_here' cannot be imported: "
        "ModuleNotFoundError: No module named 'no_mazes_here'"
    )


# A file with a factory


def test_a_factory_in_a_file_makes_the_environment(own_file):
    source = find(f"{own_file}:make")
    assert source.id == f"{own_file}:make"
    assert source.make(render_mode="rgb_array").render_mode == "rgb_array"


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "maze.py"
    assert refusal(f"{path}:make") == f"no file '{path}' to take the environment factory 'make' from"


@pytest.mark.parametrize(("name", "hint"), [("maker", "; did you mean make?"), ("NUMBER", ""), ("zzzzzz", "")])
def test_the_error_for_a_missing_factory_suggests_the_nearest(own_file, name, hint):
    assert refusal(f"{own_file}:{name}") == f"{own_file} has no callable '{name}'{hint}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_imported_says_why(own_file, text, message):
    own_file.write_text(text)
    assert refusal(f"{own_file}:make").startswith(f"{own_file} cannot be imported: {message}")


def test_the_error_for_a_factory_that_returns_something_else_names_it(own_file):
    name = f"{own_file}:makes_nothing"
    assert refusal(name) == f"environment {name}: the factory returned str, not a gymnasium.Env"


def test_a_factory_that_raises_is_quoted_in_one_line(own_file):
    name = f"{own_file}:fails"
    assert refusal(name) == f"environment {name} cannot be made: ValueError: no such maze"


# A callable


def test_any_callable_will_do(counting):
    for make in (counting, partial(counting, actions=3), lambda: counting()):
        source = find(make)
        assert source.id.startswith("python:")
        assert source.action_space == gym.spaces.Discrete(3)
        assert source.native_vector is None


def test_a_callable_that_raises_is_quoted():
    def maze() -> gym.Env:
        raise RuntimeError("the walls are not up")

    assert refusal(maze).endswith("maze cannot be made: RuntimeError: the walls are not up")


def test_the_error_for_a_callable_that_lacks_a_package_names_it():
    def maze() -> gym.Env:
        raise ModuleNotFoundError("No module named 'walls'")

    assert refusal(maze).endswith("needs a package that is not installed: No module named 'walls'")


def test_an_environment_that_can_exist_only_once_gives_one_plain_error_line(counting):
    made = []

    def maze() -> gym.Env:
        made.append(1)
        if len(made) > 1:
            raise OSError("the licence is\nin use")
        return counting()

    with pytest.raises(UsageError, match=r"made 2 times: OSError: the licence is in use; if only one can exist"):
        find(maze).make_vector(2, Environment())


def test_the_callable_of_a_run_has_to_be_passed_again(counting, tmp_path):
    with pytest.raises(UsageError, match=r"^the run's environment was the callable Maze: pass it as env="):
        of_run(tmp_path, Environment(id="python:Maze"))
    assert of_run(tmp_path, Environment(id="python:Maze"), counting).id == "python:Counting"
