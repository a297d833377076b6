"""What reaches a terminal or a file from environments and errors: one plain line, whatever they hold; and
environments that would end the program."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from troupe import TroupeError, cli
from troupe.config import one_line, printable
from troupe.environments.stepping import closing

TINY = "--steps 200 --target none --actor.count 1 --actor.environments 2 --evaluation.final_episodes 2 --run-dir run"
ENVIRONMENT = r"""
import os, sys, threading, time
import gymnasium as gym
import numpy as np

class Plain(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(2)
    steps = 0
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.steps += 1
        if self.steps == 30:
            self.happens()
        return np.zeros(2, np.float32), 1.0, self.steps % 10 == 0, False, {}
    def happens(self):
        pass

class Shown(Plain):
    metadata, render_mode = {"render_modes": ["rgb_array"]}, "rgb_array"
    def render(self):
        return np.zeros((64, 64, 3), np.uint8)

class Odd(Plain):
    def happens(self):
        raise ValueError("bad file name: caf\udce9 \x1b[2J\x1b]0;owned\x07 licence\nserver")

class Asserts(Plain):
    def happens(self):
        assert self.steps < 0

class Leaves(Plain):
    def happens(self):
        sys.exit(0)

class Interrupts(Plain):
    def happens(self):
        raise KeyboardInterrupt

class LeavesInReset(Plain):
    def reset(self, *, seed=None, options=None):
        sys.exit(0)

class LeavesInClose(Plain):
    def close(self):
        if self.steps:
            sys.exit(0)

def leaves():
    sys.exit(0)

def interrupts():
    raise KeyboardInterrupt

def odd_id():
    raise ValueError("\x1b]0;owned\x07")
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("env.py").write_text(ENVIRONMENT)
    Path("leaves.py").write_text("import sys\nsys.exit(0)\n")


@pytest.fixture
def troupe(capfd):
    def run(words: str) -> tuple[int, str, str]:
        status = cli.run(words.split())
        return status, *capfd.readouterr()

    return run


def escapes(text: str) -> list[str]:
    return re.findall(r"[^\n\t -~]", text)


# One line


def test_control_characters_and_surrogates_are_escaped_and_words_are_not():
    assert printable("caf\udce9 \x1b[2J\x9b5m \u202eabc\x07") == r"caf\udce9 \x1b[2J\x9b5m \u202eabc\x07"
    assert printable("Größe 東京 a\n\tb") == "Größe 東京 a\n\tb"
    assert one_line("a\r\n  b\x85c\t d") == "a b c d"


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("broken itself")


@pytest.mark.parametrize("error", [AssertionError(), ValueError(" \n"), Mute("x")])
def test_an_exception_without_text_says_where_it_was_raised(error):
    assert re.fullmatch(rf"{type(error).__name__} raised at .*test_errors\.py:\d+", one_line(raised(error)))


def test_an_exception_is_its_type_and_text_and_ours_the_text_alone():
    assert one_line(ValueError("no\n road\x1b[2J")) == r"ValueError: no road\x1b[2J"
    assert one_line(TroupeError("no road")) == "no road"
    assert one_line(AssertionError()) == "AssertionError"


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_an_odd_message_is_printed_whole_and_harmlessly(troupe, placement):
    status, out, err = troupe(f"train env.py:Odd {TINY} --actor.placement {placement} --quiet")
    assert status == 1
    (line,) = err.splitlines()
    assert r"step raised ValueError: bad file name: caf\udce9 \x1b[2J\x1b]0;owned\x07 licence server (step" in line
    assert "weights saved in run/checkpoints/" in line
    assert not escapes(out + err + Path("run/error.txt").read_text())
    assert "in happens" in Path("run/error.txt").read_text()


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_an_assertion_without_text_names_its_line(troupe, placement):
    line = next(i for i, text in enumerate(ENVIRONMENT.splitlines(), 1) if "assert self.steps" in text)
    status, _, err = troupe(f"train env.py:Asserts {TINY} --actor.placement {placement} --quiet")
    assert status == 1
    assert re.search(rf"step raised AssertionError raised at \S*env\.py:{line} \(step", err)


def test_whatever_stands_in_ids_and_words_is_escaped(troupe):
    for words in ("train Cart\x1b[2J-v1", "train env.py:odd_id", "\x1b[2Jtrain", "evaluate no\x1b[2Jrun"):
        status, out, err = troupe(words)
        assert (status, out) == (2, "")
        assert not escapes(err)


# Environments that would end the program


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("leaves.py:make", r"leaves\.py cannot be imported: sys\.exit\(0\), "),
        ("env.py:leaves", r"env\.py:leaves cannot be made: sys\.exit\(0\), "),
        ("env.py:LeavesInReset", r"reset raised sys\.exit\(0\), "),
    ],
)
def test_an_environment_that_exits_before_anything_starts_is_wrong_usage(troupe, name, where):
    status, out, err = troupe(f"train {name} {TINY} --quiet")
    assert (status, out) == (2, "")
    assert re.search(where + "where an environment must not exit the program", err)
    assert len(err.splitlines()) == 1
    assert not Path("run").exists()


@pytest.mark.parametrize("placement", ["thread", "process"])
@pytest.mark.parametrize(("name", "what"), [("Leaves", r"sys\.exit\(0\)"), ("Interrupts", "KeyboardInterrupt")])
def test_an_environment_that_exits_in_a_step_fails_the_run(troupe, placement, name, what):
    status, _, err = troupe(f"train env.py:{name} {TINY} --actor.placement {placement} --quiet")
    assert status == 1
    assert re.search(rf"actor-0 failed: environment env\.py:{name}\[0\]: step raised {what}, where an env", err)
    assert "weights saved in run/checkpoints/" in err


def test_an_environment_that_exits_in_close_costs_nothing(troupe, caplog, monkeypatch):
    monkeypatch.setattr(closing, "_reported", set())  # of other tests
    status, out, err = troupe(f"train env.py:LeavesInClose {TINY} --actor.placement thread --quiet")
    assert (status, err) == (0, "")
    assert "close raised sys.exit(0), where an environment must not exit the program" in caplog.text
    assert "step limit reached" in out


def test_an_evaluated_environment_that_exits_is_an_error(troupe):
    assert troupe(f"train env.py:Plain {TINY} --quiet")[0] == 0
    text = ENVIRONMENT.replace("self.steps == 30", "self.steps == 5").replace("pass\n", "exit(0)\n", 1)
    Path("env.py").write_text(text)
    status, out, err = troupe("evaluate run --episodes 20")
    assert (status, out) == (1, "")
    assert "step raised sys.exit(0), where an environment must not exit the program" in err


@pytest.mark.slow
def test_the_keyboard_interrupt_of_an_environment_is_not_the_users():
    """In a process of its own, whose handlers are those of the command line."""
    script = "from troupe.cli import main; main('train env.py:interrupts --run-dir run'.split())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), env=os.environ,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be made: KeyboardInterrupt, where an environment must not exit the program" in done.stderr


def test_a_name_that_no_file_can_hold_is_refused_before_anything_starts(troupe):
    Path("caf\udce9.py").write_text(ENVIRONMENT)
    status, out, err = troupe(f"train caf\udce9.py:Plain {TINY}")
    assert (status, out) == (2, "")
    assert err == "troupe: environment caf\\udce9.py:Plain: config.toml cannot hold a name that is not UTF-8\n"
    assert not Path("run").exists()


def test_a_shown_environment_that_exits_is_an_error(troupe):
    assert troupe(f"train env.py:Shown {TINY} --quiet")[0] == 0
    text = ENVIRONMENT.replace("self.steps == 30", "self.steps == 5").replace("pass\n", "exit(0)\n", 1)
    Path("env.py").write_text(text)
    status, out, err = troupe("watch run --video agent.gif")
    assert (status, out) == (1, "")
    assert "sys.exit(0), where an environment must not exit the program" in err
