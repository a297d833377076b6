"""What must not break a run, in real processes: signals, blocked environments, kill -9, a full disk.

Nothing here measures time. A test acts on a process once a file shows how far it has come, and gives it
`PATIENCE_SECONDS` to end: far more than it needs, so that only one that hangs is too late.
"""

import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import PATIENCE_SECONDS, faults, slow
from troupe import cli, load, resume
from troupe.runs.evaluate.evaluation import evaluate

SCRIPT = "from troupe.cli import main; main()"
IMPORTING = """
import pathlib, sys, time
class Waits:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            pathlib.Path("here").touch()
            try:
                time.sleep(1e6)
            except BaseException:  # as some imports do
                raise ImportError
sys.meta_path.insert(0, Waits())
"""
ENVIRONMENTS = Path(faults.__file__).read_text()


def wait_until(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come that far"
        time.sleep(0.01)


def until_learning(folder: Path, process: subprocess.Popen) -> None:
    def learning() -> bool:
        files = list(folder.glob("run*/**/metrics.jsonl"))
        return any(re.search(r'"updates": [1-9]', file.read_text()) for file in files)

    wait_until(learning, process)


class Process:
    """A troupe command in a process of its own, in its own folder."""

    def __init__(self, folder: Path, words: str, before: str = "", most_bytes: int | None = None, nohup: bool = False):
        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # where the tests run in the background, it is ignored
            signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
            if most_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

        (folder / "envs.py").write_text(ENVIRONMENTS)
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", before + SCRIPT, *words.split()], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=prepare,
        )  # fmt: skip

    def until(self, reached: Callable[[], bool]) -> None:
        wait_until(reached, self._process)

    def until_here(self) -> None:
        self.until((self.folder / "here").exists)

    def until_learning(self) -> None:
        until_learning(self.folder, self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        out, err = self._process.communicate(timeout=PATIENCE_SECONDS)
        return self._process.returncode, out, err

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(words: str, **more: object) -> Process:
        started.append(Process(tmp_path, words, **more))
        return started[-1]

    yield start
    for process in started:
        process.kill()


ENDLESS = "--run-dir run --steps 0 --target none --evaluation.every_seconds 0 --evaluation.final_episodes 3"
ONE = "--actor.count 1 --actor.environments 4"
IN_THREADS = "--actor.placement thread"  # for environments whose actors share a count, and tests of abandoned threads


@pytest.mark.parametrize(
    ("topology", "number"),
    [
        (f"serial {ONE}", signal.SIGINT),
        slow("queue", signal.SIGTERM),
        slow("async", signal.SIGINT),
        slow("async", signal.SIGTERM),
        slow("async", signal.SIGHUP),
    ],
)
def test_a_signal_saves_says_where_and_ends(start, tmp_path, topology, number):
    process = start(f"train envs.py:Plain {ENDLESS} --topology {topology}")
    process.until_learning()
    process.send(number)
    status, out, err = process.end()
    assert status == 128 + number
    assert err == ""
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert f"checkpoint run/checkpoints/{checkpoint.name}" in out
    assert "to continue: troupe resume run" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["outcome"] == "interrupted"
    assert load(tmp_path / "run").act([0.0, 0.0]) in (0, 1)


@pytest.mark.parametrize(
    ("number", "status"), [slow(signal.SIGINT, -signal.SIGINT), slow(signal.SIGTERM, 143), slow(signal.SIGHUP, 129)]
)
def test_a_script_that_does_not_catch_the_signal_ends_as_one_that_it_stopped(tmp_path, number, status):
    """By SIGINT itself, so that a shell's loop around the script ends as well."""
    (tmp_path / "envs.py").write_text(ENVIRONMENTS)
    script = "import troupe; troupe.train('envs.py:Plain', steps=0, target='none', run_dir='run')"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGHUP)],
    ) as process:  # fmt: skip
        try:
            until_learning(tmp_path, process)
            process.send_signal(number)
            process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == status
    assert load(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_train_json_says_that_a_signal_ended_the_run(start, tmp_path, number):
    process = start(f"train envs.py:Plain {ENDLESS} --json")
    process.until_learning()
    process.send(number)
    status, out, _ = process.end()
    assert status == 128 + number
    result = json.loads(out)
    assert (result["outcome"], result["path"], result["evaluation"]) == ("interrupted", str(tmp_path / "run"), None)


@pytest.mark.slow
def test_under_nohup_a_closed_terminal_does_not_end_a_run(start, tmp_path):
    process = start(f"train envs.py:Plain {ENDLESS}", nohup=True)
    process.until_learning()
    process.send(signal.SIGHUP)
    process.send(signal.SIGTERM)  # of two that are pending, Python would answer SIGHUP first
    assert process.end()[0] == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_and_saves_the_run(tmp_path):
    """SIGHUP comes to the foreground group, and nothing can be written to the terminal any more."""
    (tmp_path / "envs.py").write_text(ENVIRONMENTS)
    terminal, inside = pty.openpty()
    code = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {SCRIPT}"
    words = f"train envs.py:Plain {ENDLESS} --quiet --checkpoint.every_seconds 1000".split()
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=tmp_path, start_new_session=True,
        stdin=inside, stdout=inside, stderr=inside, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) as process:  # fmt: skip
        try:
            os.close(inside)
            until_learning(tmp_path, process)
            os.close(terminal)
            assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGHUP
        finally:
            process.kill()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["outcome"] == "interrupted"
    assert load(tmp_path / "run").act([0.0, 0.0]) in (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_environments_of_actors_and_of_evaluations(start, tmp_path, number):
    process = start(f"train envs.py:Simulated {ENDLESS} {IN_THREADS} {ONE}")
    process.until_learning()
    assert len(list(tmp_path.glob("open-*"))) > 4
    process.send(number)
    assert process.end()[0] == 128 + number
    assert list(tmp_path.glob("open-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, slow(signal.SIGTERM), slow(signal.SIGHUP)])
def test_a_signal_before_training_leaves_nothing(start, tmp_path, number):
    process = start(f"train envs.py:Plain {ENDLESS}", before=IMPORTING)
    process.until_here()
    process.send(number)
    assert process.end() == (128 + number, "importing PyTorch and Gymnasium ...\n", "troupe: interrupted\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_signal_ends_an_evaluation_under_way(start, tmp_path):
    process = start(
        f"train envs.py:SlowInEvaluation {ENDLESS} --evaluation.every_steps 500 --evaluation.episodes 10000"
    )
    process.until_here()
    process.send(signal.SIGINT)
    status, out, _ = process.end()
    assert status == 130
    assert "checkpoint run/checkpoints/" in out
    assert load(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "stuck"),
    [
        ("Blocks", "abandoned: actor-"),
        (
            "BlocksInEvaluation --evaluation.every_steps 500",
            "an evaluation is still in a step of envs.py:BlocksInEvaluation, and is abandoned",
        ),
    ],
)
def test_a_signal_ends_a_run_whose_environment_never_returns(start, tmp_path, env, stuck):
    process = start(f"train envs.py:{env} {ENDLESS} {IN_THREADS} --checkpoint.every_seconds 0.01")
    process.until_here()
    process.send(signal.SIGINT)
    status, out, _ = process.end()
    assert status == 130
    assert stuck in out
    assert "checkpoint run/checkpoints/" in out
    assert load(tmp_path / "run")


@pytest.mark.slow
def test_the_time_limit_ends_a_run_whose_environment_never_returns(start, tmp_path):
    process = start(f"train envs.py:BlocksAtOnce {ENDLESS} {IN_THREADS} --time 0.5s --actor.count 1")
    status, out, _ = process.end()
    assert status == 0
    assert "abandoned: actor-0" in out
    assert "time limit reached: mean evaluation return" in out


@pytest.mark.slow
def test_a_second_signal_ends_at_once(start):
    process = start(f"train envs.py:Blocks {ENDLESS} {IN_THREADS}")
    process.until_here()
    process.send(signal.SIGINT)
    time.sleep(0.2)  # two signals at the same moment are one
    process.send(signal.SIGINT)
    status, _, err = process.end()
    assert status == 130
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_signal_ends_a_final_evaluation_that_never_returns(start, tmp_path):
    process = start(f"train envs.py:BlocksAtTheEnd --run-dir run --steps 500 --target none {ONE}")
    process.until_here()
    process.send(signal.SIGINT)
    status, out, _ = process.end()
    assert status == 130
    assert "step limit reached, and interrupted in the final evaluation" in out
    assert "to evaluate it: troupe evaluate run" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["outcome"], summary["evaluation"]) == ("steps", None)


@pytest.mark.parametrize(
    ("env", "line", "signals"),
    [
        slow("BlocksAtTheEnd", "step limit reached, and interrupted in the final evaluation", 1),
        slow("BlocksAtTheEnd", "step limit reached, and interrupted in the final evaluation", 2),
        slow("BlocksInClose", "step limit reached: mean evaluation return", 1),
        slow("BlocksInClose", "step limit reached: mean evaluation return", 2),
    ],
)
def test_signals_late_in_a_run_leave_its_summary_and_its_closing_lines(start, tmp_path, env, line, signals):
    process = start(f"train envs.py:{env} --run-dir run --steps 500 --target none {ONE}")
    process.until_here()
    for _ in range(signals):
        process.send(signal.SIGINT)
        time.sleep(0.2)  # two signals at the same moment are one
    status, out, err = process.end()
    assert (status, err) == (130, "")
    assert line in out
    assert "troupe evaluate run" in out or "troupe watch run" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["outcome"] == "steps"
    assert load(tmp_path / "run")


@pytest.mark.slow
def test_a_signal_ends_all_seeds(start, tmp_path):
    process = start(f"train envs.py:Plain {ENDLESS} --seeds 3")
    process.until_learning()
    process.send(signal.SIGINT)
    assert process.end()[0] == 130
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"seed0", "series.json"}


@pytest.mark.slow
def test_threads_of_the_environment_do_not_keep_the_process(start):
    process = start("train envs.py:NeverCloses --run-dir run --steps 500 --evaluation.final_episodes 3 --quiet")
    status, out, err = process.end()
    assert (status, err) == (0, "")
    assert out.startswith("step limit reached")


@pytest.mark.slow
def test_after_kill_9_the_newest_whole_checkpoint_serves(start, tmp_path, monkeypatch):
    process = start(f"train envs.py:Plain {ENDLESS} --checkpoint.every_seconds 0.05")
    process.until(lambda: len(list(tmp_path.glob("run/checkpoints/[0-9]*"))) >= 3)
    process.kill()
    monkeypatch.chdir(tmp_path)
    newest = max(int(path.name.removesuffix(".replaced")) for path in tmp_path.glob("run/checkpoints/[0-9]*"))
    assert evaluate("run", episodes=3).mean >= 0
    run = resume("run", steps=newest + 1000)
    assert run.steps >= newest + 1000
    assert not list(tmp_path.glob("run/checkpoints/.*"))  # what was half-written is gone
    assert "actor.auto" in json.loads((tmp_path / "run/summary.json").read_text())["measured"]


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(start, tmp_path, monkeypatch, capfd):
    process = start(f"train envs.py:Plain {ENDLESS} {IN_THREADS} --record")
    process.until_learning()
    process.kill()
    monkeypatch.chdir(tmp_path)
    assert not list(tmp_path.glob("run/checkpoints/*"))
    assert cli.run(["resume", "run", "--steps", "300"]) == 0
    out = capfd.readouterr().out
    assert "'run' has no checkpoint yet: starting over from its config.toml" in out
    assert "step limit reached" in out
    assert load("run")
    assert cli.run(["replay", "run"]) == 0  # its journal is not that of the killed one
    assert cli.run(["train", "envs.py:Plain", "--run-dir", "run"]) == 2


HOLDS = """
import os, pathlib, time
from troupe.runs.store.directory import RunDirectory
pathlib.Path("run").mkdir(exist_ok=True)
directory = RunDirectory(pathlib.Path("run"))
parent = os.getpid()
if os.fork() == 0:  # a child that an environment has left behind holds nothing
    os.setsid()
    while os.getppid() == parent:
        time.sleep(0.01)
    time.sleep(10)
    os._exit(0)
pathlib.Path("here").touch()
time.sleep(1e6)
"""


@pytest.mark.parametrize("command", ["resume run --steps 500", "train envs.py:Plain --run-dir run"])
def test_a_directory_that_another_process_writes_to_is_refused_until_that_dies(
    start, tmp_path, monkeypatch, capfd, command
):
    monkeypatch.chdir(tmp_path)
    tiny = f"{ONE} --target none --evaluation.final_episodes 2 --quiet"
    (tmp_path / "envs.py").write_text(ENVIRONMENTS)
    if command.startswith("resume"):
        assert cli.run(f"train envs.py:Plain --run-dir run --steps 200 {tiny}".split()) == 0
    else:
        command = f"{command} --steps 200 {tiny}"
    before = sorted(tmp_path.glob("run/**/*"))
    process = start("", before=HOLDS)
    process.until_here()
    capfd.readouterr()
    assert cli.run(command.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"troupe: 'run' is in use by process {process.pid} on .*: wait for it to end, .*\n", err)
    assert sorted(tmp_path.glob("run/**/*")) == sorted([*before, tmp_path / "run" / ".lock"])
    process.kill()
    assert cli.run(command.split()) == 0
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(start, tmp_path):
    # A file may have 4,096 bytes: enough for the configuration, not for the weights.
    process = start(
        f"train envs.py:Plain --run-dir run --steps 20000 --target none --checkpoint.every_seconds 0.05 --quiet "
        f"{IN_THREADS}",  # processes would share memory in a file
        most_bytes=4096,
    )
    status, out, err = process.end()
    assert status == 1
    assert out.count("no checkpoint could be written") <= 1
    assert out.count("metrics are no longer written") <= 1
    (line,) = err.splitlines()
    assert line.startswith("troupe: saving failed: file too large (")
    assert line.endswith("newest checkpoint: none)")
    assert not any((tmp_path / "run" / "checkpoints").iterdir())


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    words = [sys.executable, "-c", SCRIPT]
    for arguments in (["envs"], ["presets"], ["--help"]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([*words, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        os.close(write)
        assert (done.returncode, done.stderr) == (0, "")
