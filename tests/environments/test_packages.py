"""Ids that installed packages register: found without naming a module, and the errors for unknown ones."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from troupe import cli
from troupe.config import Environment, UsageError
from troupe.environments import find
from troupe.environments.lookup import packages
from troupe.environments.lookup.find import of_run
from troupe.environments.lookup.packages import KNOWN, known

WALK = """
import gymnasium as gym
class Walk(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)
    steps = 0
    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.observation_space.sample(), {}
    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 10, False, {}
"""
TINY = "--steps 200 --actor.count 1 --actor.environments 2 --evaluation.final_episodes 2 --target none --quiet"
Maker = Callable[..., Path]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    """Installs a package: `package(name, code, entry_points)` as pip would lay it, for this test."""
    site, ids, modules = tmp_path / "site", set(gym.registry), set(sys.modules)
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)

    def make(name: str, code: str, entry_points: str = "") -> Path:
        file = site / name.replace(".", "/") / "__init__.py"
        file.parent.mkdir(parents=True)
        file.write_text(code)
        info = site / f"{name.partition('.')[0]}-1.0.dist-info"
        if entry_points:
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(entry_points)
        return file

    yield make
    for key in set(gym.registry) - ids:
        del gym.registry[key]
    for module in set(sys.modules) - modules:
        if (getattr(sys.modules[module], "__file__", None) or "").startswith(str(site)):
            del sys.modules[module]


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a module one that is not installed, whether it is or not."""

    def make(module: str) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        for key in packages.ids_of(module):
            monkeypatch.delitem(gym.registry, key)

    return make


def refusal(env: str) -> str:
    with pytest.raises(UsageError) as caught:
        find(env)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def registering(*ids: str) -> str:
    return f"{WALK}\nfor each in {ids}:\n    gym.register(each, entry_point=__name__ + ':Walk')\n"


# Found without a module


@pytest.mark.parametrize(
    ("declared", "env_id"),
    [
        ("[gymnasium.envs]\nspeck = speck:register_all\n", "speck/Walk-v3"),
        ("[gymnasium.envs]\n__root__ = speck:register_all\n", "Walk-v3"),
        ("[gymnasium.envs.__root__]\nspeck = speck:register_all\n", "Walk-v3"),
    ],
)
def test_environments_of_entry_points_are_trained_and_evaluated_by_id_alone(package, capfd, declared, env_id):
    """Its actors are processes, which import it by themselves."""
    package("speck", f"{WALK}\ndef register_all():\n    gym.register('Walk-v3', entry_point='speck:Walk')\n", declared)
    assert cli.run(f"train {env_id} --run-dir run {TINY} --actor.placement process".split()) == 0
    assert cli.run(["evaluate", "run", "--episodes", "2", "--json"]) == 0
    assert capfd.readouterr().err == ""


def test_a_well_known_package_is_imported_for_an_id_of_its(package, absent):
    absent("minigrid")
    del sys.modules["minigrid"]
    package("minigrid", registering("MiniGrid-Speck-v0"))
    assert find("MiniGrid-Speck-v0").id == "MiniGrid-Speck-v0"


def test_the_entry_point_of_a_package_whose_module_registers_nothing_is_called(package):
    package("speck", "", "[gymnasium.envs]\nspeck = speck.inner:register_all\n")
    register = "def register_all():\n    gym.register('Walk-v3', entry_point='speck.inner:Walk')\n"
    package("speck.inner", WALK + register)
    assert find("speck:speck/Walk-v3").id == "speck:speck/Walk-v3"


def test_nothing_is_imported_for_an_id_that_does_not_ask_for_it(package):
    package("speck", "raise RuntimeError('imported')", "[gymnasium.envs]\nspeck = speck:register_all\n")
    find("CartPole-v1")
    refusal("other/Walk-v0")
    refusal("Walk-v0")
    assert "speck" not in sys.modules


def test_a_package_of_the_run_directory_is_not_executed_when_a_run_is_loaded(package, tmp_path):
    file = package("speck", "raise RuntimeError('executed')", "[gymnasium.envs]\nspeck = speck:register_all\n")
    with pytest.raises(UsageError, match="which is not executed"):
        of_run(tmp_path, Environment(id="speck/Walk-v0"))
    assert file.exists()
    assert "speck" not in sys.modules


# Not found


def test_the_error_for_a_package_that_is_not_installed_has_its_command(absent, capsys):
    for module in ("gymnasium_robotics", "highway_env", "shimmy", "minatar", "tetris_gymnasium"):
        absent(module)
    for env_id, command in (
        ("FetchReach-v4", "gymnasium-robotics"),
        ("gymnasium_robotics:FetchReach-v4", "gymnasium-robotics"),
        ("highway-fast-v0", "highway-env"),
        ("dm_control/cartpole-swingup-v0", "'shimmy[dm-control]'"),
        ("MinAtar/Breakout-v1", "minatar"),
        ("tetris_gymnasium/Tetris", "tetris-gymnasium"),
    ):
        assert cli.run(["train", env_id]) == 2
        message = f"troupe: environment {env_id} needs a package that is not installed: pip install {command}\n"
        assert capsys.readouterr().err == message


def test_the_error_for_an_old_atari_name_has_the_new_name(absent):
    pytest.importorskip("ale_py")
    assert refusal("Pong-v5").startswith("no environment 'Pong-v5'; did you mean ALE/Pong-v5? (")
    assert refusal("PongNoFrameskip-v4").startswith("'PongNoFrameskip-v4' is an old name: write ALE/Pong-v5 (")
    absent("ale_py")
    needs = "needs a package that is not installed: pip install 'ale-py>=0.12' 'opencv-python-headless>=4.8'"
    assert refusal("PongNoFrameskip-v4") == f"environment PongNoFrameskip-v4 {needs}; its name there is ALE/Pong-v5"
    assert refusal("Pong-v5") == f"environment Pong-v5 {needs}; its name there is ALE/Pong-v5"
    assert refusal("ALE/Pong-v5") == f"environment ALE/Pong-v5 {needs}"


def test_the_games_that_are_known_without_ale_py_are_those_it_has():
    pytest.importorskip("ale_py")
    find("ALE/Pong-v5")
    assert {f"ALE/{game}-v5" for game in packages._GAMES.split("|")} <= set(gym.registry)


def test_of_an_environment_in_another_version_the_newest_is_named(package):
    package("gymnasium_robotics", registering("FetchReach-v1", "FetchReach-v4", "FetchReach-v3", "FetchReachDense-v9"))
    sys.modules.pop("gymnasium_robotics", None)
    assert refusal("FetchReach-v2").startswith("no environment 'FetchReach-v2'; did you mean FetchReach-v4? (")


def test_the_error_for_an_id_that_a_module_lacks_lists_its_ids(package):
    package("speck", registering("Walk-v1", "Wade-v1", "Run-v0", "Swim-v0", "Fly-v0", "Dive-v0"))
    assert refusal("speck:Walks-v1") == (
        "no environment 'speck:Walks-v1'; did you mean Walk-v1? "
        "('speck' was imported and registers Walk-v1, Wade-v1, Fly-v0, Swim-v0 and 2 more)"
    )
    message = refusal("speck:Breakout-v5")
    assert message.startswith("no environment 'speck:Breakout-v5': 'speck' was imported and registers no such id, but ")
    assert "ALE" not in message


def test_no_id_of_another_package_is_suggested_for_a_known_namespace(package):
    package("speck", f"{WALK}\ndef all():\n    gym.register('Run-v0', entry_point='speck:Walk')\n",
            "[gymnasium.envs]\nspeck = speck:all\n")  # fmt: skip
    assert refusal("speck/CartPole-v1").endswith("speck/Run-v0? ('speck' was imported and registers speck/Run-v0)")
    assert refusal("specks/CartPol-v1") == (
        "no environment 'specks/CartPol-v1': no installed package declares the namespace 'specks'; "
        "name the module that registers it, MODULE:specks/CartPol-v1"
    )


def test_a_module_that_registers_nothing_is_reported_as_such(package):
    package("speck", WALK)
    assert refusal("speck:Walk") == (
        "no environment 'speck:Walk': 'speck' was imported and registers no environments; "
        "a class or function that makes one is named in a file: path/to/file.py:NAME"
    )


def test_several_that_differ_in_namespace_only_are_all_named(package):
    package("speck", registering("a/Walk-v1", "b/Walk-v0", "b/Walk-v2"))
    find("speck:a/Walk-v1")
    assert refusal("Walk-v1").startswith("no environment 'Walk-v1'; did you mean a/Walk-v1 or b/Walk-v2? (")


def test_a_package_that_cannot_be_imported_is_named_with_its_error(package):
    package("speck", "raise RuntimeError('no licence')", "[gymnasium.envs]\nspeck = speck:register_all\n")
    assert refusal("speck/Walk-v0") == (
        "environment speck/Walk-v0: 'speck' cannot be imported: RuntimeError: no licence"
    )
    assert gym.envs.registration.current_namespace is None


def test_every_known_package_is_one_pattern_of_ids_and_what_to_import():
    for each in KNOWN:
        assert each.command.startswith("pip install ")
        assert packages.root(each.registers.partition(":")[0]) == each.modules[0]
    assert [each.modules[0] for each in known("MiniGrid-Empty-8x8-v0")] == ["minigrid"]
    assert known("CartPole-v1") == known("HalfCheetah-v5") == known("Taxi-v3") == []
