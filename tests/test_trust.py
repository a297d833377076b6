"""A run of a stranger: what it names is imported only if the user says so; one's own runs need no word."""

import io
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w

import troupe
from troupe import UsageError, hints
from troupe.runs.dashboard.report import write_report
from troupe.runs.replay import replay
from troupe.user_code import trust

TINY = {
    "stop.steps": 64, "stop.target": "none", "evaluation.final_episodes": 2, "actor.count": 1, "actor.environments": 1,
    "actor.auto": False, "actor.rollout_steps": 8, "learner.rollouts": 1, "network.hidden": (4,), "env.backend": "sync",
    "actor.placement": "thread", "record": True,
}  # fmt: skip
CODE = """
import pathlib
pathlib.Path({mark!r}).touch()

import gymnasium as gym
import torch

def make():
    return gym.make("CartPole-v1")

def flat(share):
    return 1.0

class Same(gym.Wrapper):
    pass
"""
EVALUATED = ("env.id", "env.wrappers", "env.backend", "network.custom", "network.encoder")
TRAINED = ("loss.kind", "learner.optimizer", "actor.placement", "schedules.clip")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    return troupe.train("CartPole-v1", settings=TINY, run_dir=folder, tuned=False, display="silent").path


@pytest.fixture
def stranger(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a run that names code: a module, or a file beside it."""
    text = CODE.format(mark=str(tmp_path / "executed"))
    for name in ("strange_file.py", "modules/strange_module.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "strange_module", raising=False)

    def make(setting: str, name: str) -> Path:
        run = shutil.copytree(trained, tmp_path / "run", dirs_exist_ok=True)
        settings = tomllib.loads((run / "config.toml").read_text())
        section, key = setting.split(".")
        settings[section][key] = [name] if setting == "env.wrappers" else name
        (run / "config.toml").write_text(tomli_w.dumps(settings))
        return run

    return make


COMMANDS = {
    "evaluate": "evaluate run --episodes 1", "watch": "watch run --terminal --episodes 1",
    "resume": "resume run --steps 128 --quiet", "replay": "replay run", "export": "export run run.onnx",
}  # fmt: skip


@pytest.mark.parametrize("setting", EVALUATED + TRAINED)
def test_no_command_imports_what_a_strangers_run_names(run_command, stranger, tmp_path, setting):
    names = ["strange_module:make", f"{tmp_path}/strange_file.py:make", "strange_file.py:make"]
    for name in [*names, "strange_module:Strange-v0"] if setting == "env.id" else names[:2]:
        stranger(setting, name)
        for command, words in COMMANDS.items():
            if (command in ("evaluate", "watch") and setting in TRAINED) or command == "export":
                continue
            status, _, error = run_command(words)
            assert (status, error.count("\n")) == (2, 1), error
            named = f"{tmp_path}/{name}" if name == "strange_file.py:make" else name
            assert f"{named} ({setting})" in error
            assert "if you trust it, add --trust" in error
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("setting", EVALUATED)
def test_what_only_reads_a_run_never_imports_anything(run_command, stranger, tmp_path, setting):
    run = stranger(setting, "strange_module:make")
    if setting.startswith("network."):
        with pytest.raises(UsageError, match="executes no code"):
            troupe.load(run)
        status, _, error = run_command(COMMANDS["export"])
        assert (status, error.count("\n")) == (2, 1)
        assert f"strange_module:make ({setting})" in error
    else:
        troupe.load(run)
    assert run_command("plot run -o run.png")[0] == 0
    write_report(run, tmp_path / "run.html")
    assert not (tmp_path / "executed").exists()


def test_python_refuses_as_well_and_says_how_to_trust(stranger, tmp_path):
    run = stranger("env.id", "strange_module:make")
    for call in (troupe.evaluate, troupe.resume, troupe.watch, replay):
        with pytest.raises(UsageError, match=r"strange_module:make \(env\.id\); if you trust it, pass trust=True$"):
            call(run)
    assert not (tmp_path / "executed").exists()


def test_with_trust_it_is_imported_and_a_run_that_was_resumed_is_ones_own(run_command, stranger, tmp_path):
    name = f"{tmp_path}/strange_file.py:make"
    run = stranger("env.id", name)
    assert troupe.evaluate(run, episodes=1, trust=True)
    assert (tmp_path / "executed").exists()
    assert run_command(COMMANDS["evaluate"])[0] == 2  # the next time it is asked for again
    assert run_command(f"{COMMANDS['resume']} --trust")[0] == 0
    assert run_command(COMMANDS["evaluate"])[0] == 0


def test_what_the_caller_names_is_trusted_and_the_rest_of_the_run_is_not(run_command, stranger, tmp_path):
    stranger("env.id", "strange_module:make")
    assert run_command(f"{COMMANDS['evaluate']} --env CartPole-v1")[0] == 0
    assert not (tmp_path / "executed").exists()
    stranger("env.wrappers", "strange_module:Same")
    assert run_command(f"{COMMANDS['evaluate']} --env CartPole-v1")[0] == 2
    assert not (tmp_path / "executed").exists()
    assert run_command(f"{COMMANDS['evaluate']} --env {tmp_path}/strange_file.py:make --trust")[0] == 0


def test_ones_own_run_needs_no_word_and_other_arguments_do(run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("import gymnasium as gym\ndef make(n: int = 1):\n    return gym.make('CartPole-v1')\n")
    troupe.train(
        "own.py:make", settings=TINY | {"env.wrappers": ("gymnasium.wrappers:FlattenObservation",)}, run_dir="run",
        tuned=False, display="silent", env_kwargs={"n": 2},
    )  # fmt: skip
    monkeypatch.setattr(trust, "_remembered", set())  # as in another process
    assert run_command(COMMANDS["evaluate"])[0] == 0
    assert run_command(COMMANDS["replay"])[0] == 0
    file = trust._file()
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o666)
    assert run_command(COMMANDS["evaluate"])[0] == 2  # anybody may have written to it
    file.chmod(0o600)
    config = Path("run/config.toml").read_text()
    Path("run/config.toml").write_text(config.replace("n = 2", "n = 3"))
    assert run_command(COMMANDS["evaluate"])[0] == 2


def test_where_nothing_can_be_remembered_a_process_remembers_its_own_runs(tmp_path, monkeypatch):
    (tmp_path / "taken").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "taken"))
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("import gymnasium as gym\ndef make():\n    return gym.make('CartPole-v1')\n")
    run = troupe.train("own.py:make", settings=TINY, run_dir="run", tuned=False, display="silent")
    assert troupe.evaluate(run, episodes=1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("yes\n", 0), ("\n", 2), ("n\n", 2), ("", 2)])
def test_on_a_terminal_the_user_is_asked(run_command, stranger, monkeypatch, answer, status):
    stranger("env.wrappers", "strange_module:Same")
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr(hints, "on_terminal", lambda: True)
    found, _, error = run_command(COMMANDS["evaluate"])
    assert found == status
    assert "names code that you have not trained with" in error
    assert "Is it to be trusted? [y/N]" in error


def test_a_terminal_is_one_on_both_ends(monkeypatch):
    streams = {"stdin": Terminal(), "stderr": Terminal()}
    for name, stream in streams.items():
        monkeypatch.setattr(f"sys.{name}", stream)
    assert not hints.on_terminal()  # in Python nobody is asked
    with hints.by_command():
        assert hints.on_terminal()
        monkeypatch.setattr("sys.stdin", io.StringIO())
        assert not hints.on_terminal()
