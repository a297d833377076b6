"""Environments in files: what such a file may do, and which file a run is judged with."""

import ctypes
import hashlib
import json
import pickle
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

import troupe
from helpers import PATIENCE_SECONDS, slow
from troupe import UsageError
from troupe.config import Environment
from troupe.environments import find
from troupe.environments.stepping import closing
from troupe.user_code import files

ENVIRONMENT = """
from __future__ import annotations

import dataclasses
import threading

import gymnasium as gym
import numpy as np

from neighbour import REWARD

LOCK = threading.Lock()


@dataclasses.dataclass
class Shape:
    length: int = 4
    late: bool = dataclasses.field(default=True)


class Env(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, shape: Shape | None = None, render_mode: str | None = None):
        self.shape, self.render_mode = shape or Shape(), render_mode
        self.observation_space, self.action_space = gym.spaces.Box(0, 1, (2,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        import late_neighbour

        super().reset(seed=seed)
        self.left = self.shape.length
        return np.zeros(2, np.float32), {}

    def step(self, action):
        with LOCK:
            self.left -= 1
        return np.zeros(2, np.float32), REWARD, False, self.left <= 0, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)
"""
CLOSES = """
import pathlib
import gymnasium as gym

class Env(gym.Wrapper):
    made = 0

    def __init__(self, render_mode=None):
        super().__init__(gym.make("CartPole-v1", render_mode=render_mode, max_episode_steps=8))
        Env.made += 1
        self.number = Env.made

    def close(self):
        pathlib.Path("closed").mkdir(exist_ok=True)
        pathlib.Path(f"closed/{self.number}").touch()
        raise RuntimeError("no longer\\nthere")
"""
SMALL = (
    "--actor.count 1 --actor.environments 2 --actor.rollout_steps 8 --learner.rollouts 1 --evaluation.final_episodes 2 "
    "--steps 64 --target none --untuned"
)


def write_env(folder: Path, reward: float) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "env.py").write_text(ENVIRONMENT)
    (folder / "neighbour.py").write_text(f"REWARD = {reward}\n")
    (folder / "late_neighbour.py").write_text("")
    return folder / "env.py"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("neighbour", "late_neighbour"):
        sys.modules.pop(name, None)


# What a file may do


@pytest.mark.parametrize("placement", ["process", "thread"])
def test_a_file_may_postpone_annotations_import_its_neighbours_and_hold_a_lock(run_command, placement, tmp_path):
    write_env(tmp_path / "mine", 2.0)
    words = f"train mine/env.py:Env --run-dir run --quiet --actor.placement {placement} {SMALL}"
    assert run_command(words)[0] == 0
    assert troupe.evaluate("run", episodes=2).mean == 8.0
    status, out, _ = run_command("watch run --video agent.gif --episodes 1")
    assert (status, out.splitlines()[-1]) == (0, "1 episode, return 8")


def test_a_dataclass_argument_of_such_a_file_is_read(tmp_path):
    write_env(tmp_path / "mine", 2.0)
    env = find("mine/env.py:Env", Environment(kwargs={"shape": "{length = 9}"}), texts={"shape"}).make()
    assert env.unwrapped.shape.length == 9


def test_two_folders_may_have_neighbours_of_one_name(tmp_path):
    for folder, reward in (("one", 1.0), ("two", 2.0), ("one", 1.0)):
        env = find(f"{write_env(tmp_path / folder, reward)}:Env").make()
        env.reset(seed=0)
        assert env.step(0)[1] == reward


def test_a_neighbour_does_not_hide_a_module_of_the_same_name(tmp_path):
    """Once the file is executed: what is imported later is not meant for its folder."""
    path = write_env(tmp_path / "mine", 1.0)
    (path.parent / "sched.py").write_text("raise AssertionError('not this one')")
    find(f"{path}:Env")
    sys.modules.pop("sched", None)
    import sched

    assert Path(sched.__file__).parent != path.parent
    assert sys.path[-1] == str(path.parent)


def test_a_changed_file_is_executed_anew_and_its_module_has_a_name_of_its_own(tmp_path):
    for text in ("def make():\n    return 1\n", "def make():\n    return 2\n"):
        Path("json.py").write_text(text)
        loaded = files.load("json.py:make", "thing")
        assert loaded() == int(text[-2])
        assert loaded.value.__module__.startswith("troupe_file_json_")
    assert json.loads("1") == 1


def test_two_threads_may_load_a_file_at_once(monkeypatch):
    Path("slow.py").write_text("import sys\nsys.executing.set()\nsys.go_on.wait()\ndef make():\n    return 4\n")
    executing, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "executing", executing, raising=False)
    monkeypatch.setattr(sys, "go_on", go_on, raising=False)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(files.load, "slow.py:make", "thing")
        assert executing.wait(PATIENCE_SECONDS)
        second = threads.submit(files.load, "slow.py:make", "thing")
        assert not wait([second], timeout=0.2).done
        go_on.set()
        assert first.result()() == second.result()() == 4


def test_a_file_reaches_another_process_as_its_text(tmp_path):
    Path("env.py").write_text("def make():\n    return 3\n")
    packed = pickle.dumps(files.load("env.py:make", "thing"))
    Path("env.py").unlink()
    code = f"import pickle; print(pickle.loads({packed!r})())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "3\n"


@pytest.mark.parametrize("placement", ["process", "thread"])
@pytest.mark.slow
def test_a_close_that_raises_costs_nothing_and_is_reported_once(run_command, placement, monkeypatch, caplog):
    monkeypatch.setattr(closing, "_reported", set())
    Path("closes.py").write_text(CLOSES)
    words = f"train closes.py:Env --run-dir run --actor.placement {placement} --actor.auto true {SMALL}"
    status, out, err = run_command(words)
    assert status == 0
    assert ": a step takes " in out  # what closing raised has not spoilt the measurement
    assert (out + err + caplog.text).count("close raised RuntimeError: no longer there") == 1
    for command in ("evaluate run --episodes 2", "watch run --video agent.gif --episodes 1", "export run pole.onnx"):
        assert run_command(command)[0] == 0


def test_all_environments_of_a_batch_are_closed_where_one_raises(monkeypatch):
    monkeypatch.setattr(closing, "_reported", set())
    Path("closes.py").write_text(CLOSES)
    batch = find("closes.py:Env").make_vector(3, Environment())
    batch.close()
    assert sorted(file.name for file in Path("closed").iterdir()) == ["1", "2", "3", "4"]


PRINTS = """
import ctypes, os, subprocess, sys
import gymnasium as gym

C = ctypes.CDLL(None)

class Env(gym.Wrapper):
    def __init__(self):
        super().__init__(gym.make("CartPole-v1", max_episode_steps=8))

    def reset(self, **how):
        C.printf(b"from C\\n")
        os.write(1, b"past Python\\n")
        subprocess.run([sys.executable, "-c", "print('from a program')"])
        return super().reset(**how)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "printf"), reason="no printf to call")
def test_under_json_what_c_code_and_programs_print_is_kept_apart(run_command):
    Path("prints.py").write_text(PRINTS)
    assert run_command(f"train prints.py:Env --run-dir run --quiet --actor.placement thread {SMALL}")[0] == 0
    words = [sys.executable, "-m", "troupe", "evaluate", "run", "--episodes", "2", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["episodes"] == 2
    for line in ("from C", "past Python", "from a program"):
        assert line in done.stderr


# Which file


@pytest.fixture
def trained(run_command, tmp_path):
    """A run of a file that was named by a relative path."""
    write_env(tmp_path / "mine", 1.0)
    assert run_command(f"train mine/env.py:Env --run-dir run --quiet {SMALL}")[0] == 0
    return tmp_path / "run"


def test_the_file_is_the_same_from_every_folder(trained, tmp_path, monkeypatch, run_command, caplog):
    env = tomllib.loads((trained / "config.toml").read_text())["env"]
    assert env["id"] == f"{tmp_path}/mine/env.py:Env"
    assert list(env["files"]) == [f"{tmp_path}/mine/env.py"]
    write_env(tmp_path / "other", 1.0)
    write_env(tmp_path / "other" / "mine", 1000.0)
    monkeypatch.chdir(tmp_path / "other")
    status, out, _ = run_command(f"evaluate {trained} --episodes 2 --json")
    assert (status, json.loads(out)["mean_return"]) == (0, 4.0)
    assert run_command(f"resume {trained} --steps 128 --quiet")[0] == 0
    assert json.loads((trained / "summary.json").read_text())["evaluation"]["mean_return"] == 4.0
    assert caplog.text == ""


@pytest.mark.parametrize(
    "command",
    [
        "evaluate RUN --episodes 2",
        "resume RUN --steps 128 --quiet",
        "watch RUN --video agent.gif",
        slow("export RUN pole.onnx"),
    ],
)
def test_a_file_that_has_changed_is_named_and_does_not_stop(trained, tmp_path, run_command, caplog, command):
    path = tmp_path / "mine" / "env.py"
    path.write_text(path.read_text().replace("length: int = 4", "length: int = 3"))
    assert run_command(command.replace("RUN", str(trained)))[0] == 0
    (notice,) = [record.message for record in caplog.records if "changed" in record.message]
    assert notice.startswith(f"{path} has changed since the run began")


@pytest.mark.slow
def test_a_file_that_has_gone_is_named(trained, tmp_path, run_command):
    path = tmp_path / "mine" / "env.py"
    path.unlink()
    for command in (f"evaluate {trained}", f"resume {trained} --steps 128", f"watch {trained} --video agent.gif"):
        status, _, err = run_command(command)
        assert status == 2
        option = "if it moved, pass --env FILE.py:NAME"
        assert err == f"troupe: no file '{path}' to take the environment factory 'Env' from; {option}\n"
    assert run_command(f"export {trained} pole.onnx")[0] == 0


def test_a_file_that_has_moved_is_named_again(trained, tmp_path, run_command, caplog):
    moved = (tmp_path / "mine" / "env.py").rename(tmp_path / "mine" / "moved.py")
    status, out, _ = run_command(f"evaluate {trained} --env {moved}:Env --episodes 2 --json")
    assert (status, json.loads(out)["mean_return"]) == (0, 4.0)
    assert troupe.evaluate(trained, env=f"{moved}:Env", episodes=2).mean == 4.0
    assert run_command(f"resume {trained} --env {moved}:Env --steps 128")[0] == 0
    assert run_command(f"evaluate {trained} --episodes 2")[0] == 0, "a resumed run remembers where it is"
    files = tomllib.loads((trained / "config.toml").read_text())["env"]["files"]
    assert files[str(moved)] == hashlib.sha256(moved.read_bytes()).hexdigest()
    moved.write_text(f"{moved.read_text()}\n")
    assert run_command(f"evaluate {trained} --episodes 2")[0] == 0
    assert f"{moved} has changed since the run began" in caplog.text
    for command in ("evaluate", "watch --terminal"):
        status, _, err = run_command(f"{command} {trained} --env CartPole-v1")
        wrong = "env = CartPole-v1: its observations are not those that the agent was trained with"
        assert (status, err) == (2, f"troupe: {wrong}\n")


def test_a_wrapper_file_that_has_changed_is_named(tmp_path, run_command, caplog):
    write_env(tmp_path / "mine", 1.0)
    Path("wrap.py").write_text("def same(env):\n    return env\n")
    words = f"train mine/env.py:Env --env.wrappers wrap.py:same --run-dir run --quiet {SMALL}"
    assert run_command(words)[0] == 0
    Path("wrap.py").write_text("def same(env):\n    return env  # or not\n")
    assert run_command("evaluate run --episodes 2")[0] == 0
    assert f"{tmp_path}/wrap.py has changed" in caplog.text


def test_a_run_from_before_paths_were_absolute_still_loads(trained, tmp_path, run_command, caplog, monkeypatch):
    text = (trained / "config.toml").read_text()
    old = "\n".join(line for line in text.splitlines() if "env.py" not in line and "[env.files]" not in line)
    (trained / "config.toml").write_text(old.replace("[env]", '[env]\nid = "mine/env.py:Env"'))
    status, out, _ = run_command(f"evaluate {trained} --episodes 2 --json")
    assert (status, json.loads(out)["mean_return"]) == (0, 4.0)
    assert f"mine/env.py:Env by a relative path: {tmp_path}/mine/env.py is used" in caplog.text
    monkeypatch.chdir(tmp_path / "mine")
    with pytest.raises(UsageError, match=r"^no file 'mine/env\.py' to take"):
        troupe.evaluate(trained)


def test_the_origin_of_an_agent_holds_no_path_of_the_machine(trained):
    assert troupe.load(trained).about["environment"] == "env.py:Env"
