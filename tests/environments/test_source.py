"""From a name to an environment, and one plain line for everything that can be wrong with it."""

import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from troupe.config import Environment, UsageError
from troupe.environments import find, of_run
from troupe.environments.source import Backend, EnvironmentSource, name_of
from troupe.environments.stepping.episodes import RestorableEnvironment
from troupe.environments.stepping.vector import VectorEnvironment

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


# What steps a batch


class Told(Backend):
    """Can step what it is told, and gives what it was asked for in place of environments."""

    def __init__(self, name: str, refuses: str = "", **about: Any):
        self.name, self._refuses = name, refuses
        vars(self).update(about)

    def refusal(self, source: EnvironmentSource, config: Environment) -> str:
        return self._refuses

    def make(self, source: EnvironmentSource, count: int, config: Environment) -> Any:
        return self.name, source.id, count, config


def source_of(*backends: Backend, **about: Any) -> EnvironmentSource:
    spaces = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3)
    return EnvironmentSource("X-v0", lambda **_: pytest.fail("made"), *spaces, known_backends=backends, **about)


BACKENDS = Told("native"), Told("sync", in_python=True, penalty=2.0), Told("pool", penalty=1.5, threaded=True)
VECTOR: Any = object()  # is never called


def test_auto_is_the_environments_own_vector_version_where_there_is_one_and_else_python():
    for vector, name in ((VECTOR, "native"), (None, "sync")):
        source = source_of(*BACKENDS, native_vector=vector)
        assert source.backend(Environment()).name == name
        assert source.make_vector(4, Environment()) == (name, "X-v0", 4, Environment())
        assert source.is_native(Environment()) == (name == "native")
        assert [source.penalty(each.name) for each in BACKENDS] == (
            [1.0, 2.0, 1.5] if vector else [1.0, 1.0, 1.5]  # the default has none
        )
    assert source.make_vector(4, Environment(backend="pool"))[0] == "pool"
    with pytest.raises(UsageError, match=r"^env\.backend = 'own': X-v0 has native, sync, pool$"):
        source.backend(Environment(backend="own"))


def test_a_backend_that_cannot_step_it_is_no_candidate_and_is_refused_where_it_is_asked_for():
    source = source_of(Told("native", "no room"), *BACKENDS[1:], native_vector=VECTOR)
    assert source.backends == ["sync", "pool"]
    for make in (source.make_vector, source.make_restorable):
        with pytest.raises(UsageError, match=r"^env\.backend = 'native': no room$"):
            make(1, Environment(backend="native"))


def test_a_plain_backend_can_step_anything_and_costs_what_it_takes():
    plain = Told("plain")
    assert Backend.refusal(plain, source_of(), Environment()) == ""
    assert (plain.penalty, plain.in_python, plain.threaded) == (1.0, False, False)
    assert (plain.startup_seconds, plain.call_seconds) == (0.0, 0.0)


@pytest.mark.parametrize("atari", [False, True])
def test_what_only_atari_games_have_is_refused_elsewhere_and_threads_where_a_backend_has_none(atari):
    source = source_of(*BACKENDS, atari=atari)
    assert source.has_threads(Environment()) == atari
    assert source.has_threads(Environment(backend="pool"))
    source.check(Environment(backend="pool", threads=2))
    for name, value in {
        "threads": 2, "protocol": "v5", "sticky": 0.5, "episodic_life": True, "fire_reset": False, "noops": 3,
        "frame_skip": 2,
    }.items():  # fmt: skip
        config = replace(Environment(), **{name: value})
        if atari:
            source.check(config)
        else:
            with pytest.raises(UsageError, match=rf"^env\.{name} = {value}: only Atari games have it, not X-v0$"):
                source.check(config)


@pytest.mark.parametrize(
    ("atari", "backend", "restorable"),
    [(False, "auto", True), (False, "sync", True), (False, "pool", False), (True, "auto", False), (True, "sync", True)],
)
def test_environments_in_python_can_be_restored_and_atari_games_where_that_is_asked_for(atari, backend, restorable):
    assert source_of(*BACKENDS, atari=atari).is_restorable(Environment(backend=backend)) == restorable


def test_a_restorable_batch_is_made_where_that_is_possible(counting):
    source = find(counting)
    restorable = source.make_restorable(2, Environment())
    assert isinstance(restorable, RestorableEnvironment)
    assert restorable.count == 2
    restorable.close()
    other = replace(source, known_backends=BACKENDS)
    assert other.make_restorable(2, Environment(backend="pool"))[0] == "pool"


def test_a_batch_knows_its_name_and_what_the_settings_say_of_it(counting):
    config = Environment(delay_seconds=0.25, episodic_life=True)
    vector = find(counting).make_vector(3, replace(config, episodic_life=False))
    assert isinstance(vector, VectorEnvironment)
    assert (vector.count, type(vector)) == (3, VectorEnvironment)
    vector.close()
    seen: dict[str, Any] = {}

    def kind(*given: Any, **named: Any) -> Any:
        seen.update(named, given=given)

    source_of(masked="info").wrapped(VECTOR, config, kind)  # type: ignore[arg-type]
    assert seen == {"given": (VECTOR, "X-v0", 0.25), "episodic_life": True, "masked": "info"}


# What can be said of it


@pytest.mark.parametrize(
    ("env", "name"),
    [("CartPole-v1", "CartPole-v1"), (CartPoleEnv, "python:CartPoleEnv"), (partial(int), "python:partial")],
)
def test_an_environment_has_its_id_or_the_name_of_the_callable(env, name):
    assert name_of(env) == name


def test_a_source_knows_whether_it_can_be_sent_to_another_process(counting):
    assert find(counting).unsendable == ""
    lock = threading.Lock()
    assert "pickle" in replace(find(counting), make=lambda **_: lock).unsendable


def test_changed_settings_are_named():
    assert source_of(changed=("kwargs", "max_steps")).changed_settings == "env.kwargs, env.max_steps"
    assert source_of().changed_settings == ""


MASKED = gym.spaces.Dict(x=gym.spaces.Box(-1, 1, (1,)), action_mask=gym.spaces.MultiBinary(3))


def test_random_actions_are_those_that_are_allowed():
    source = EnvironmentSource("X-v0", pytest.fail, MASKED, gym.spaces.Discrete(3, start=5), "observation")
    rng, observation = np.random.default_rng(0), {"x": np.zeros(1), "action_mask": np.array([0, 1, 1])}
    packed = np.stack([source.packing.pack_one(observation, np.array([False, True, True]))] * 200)
    drawn = source.random_actions(rng, packed)
    assert (drawn.shape, set(drawn.tolist())) == ((200,), {1, 2})
    assert {int(source.random_action(rng, observation, {})) for _ in range(50)} == {6, 7}
    free = EnvironmentSource("X-v0", pytest.fail, gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3, start=5))
    assert set(free.random_actions(rng, np.zeros((200, 2), np.float32)).tolist()) == {0, 1, 2}
    assert {int(free.random_action(rng, np.zeros(2), {})) for _ in range(50)} == {5, 6, 7}


class Numbered(gym.Env):
    """Closes visibly; `made` are all, of which the one numbered `fails` cannot be made."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

    def __init__(self, made: list[Any], fails: int):
        if len(made) == fails:
            raise OSError("in use")
        made.append(self)
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("fails", "once"), [(1, True), (0, False), (9, False)])
def test_whether_an_environment_exists_once_is_tried_and_all_that_were_made_are_closed(fails, once):
    made: list[Any] = []
    source = replace(source_of(), make=lambda config: Numbered(made, fails))
    assert source.exists_once(Environment()) == once
    assert len(made) == min(fails, 2)
    assert all(each.closed for each in made)


def test_of_a_batch_that_cannot_be_made_all_are_closed():
    made: list[Any] = []
    source = replace(source_of(), make=lambda config: Numbered(made, 2))
    with pytest.raises(UsageError, match=r"^environment X-v0 cannot be made 5 times: OSError: in use; if only one"):
        source.sync_vector(5, Environment())
    assert [each.closed for each in made] == [True, True]


def test_what_is_read_of_an_environments_infos_are_masks_and_of_games_with_lives_these(counting):
    infos = []
    for config, atari in ((Environment(), False), (Environment(episodic_life=True), False), (Environment(), True)):
        vector = replace(find(counting), atari=atari).sync_vector(2, config)
        infos.append([(each.unwrapped.played, each._read) for each in vector.envs])  # type: ignore[attr-defined]
        vector.close()
    assert infos == [[(0, read)] * 2 for read in (("action_mask",), *[("action_mask", "lives")] * 2)]
