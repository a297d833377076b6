"""A run's directory: its name, who has it, and what happens where it is moved; and its lock."""

import os
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from troupe import UsageError
from troupe.config import resolve
from troupe.runs.store import directory
from troupe.runs.store.directory import RunDirectory, runs_inside
from troupe.runs.store.lock import Lock

CONFIG = resolve("ALE/Pong-v5", settings={"seed": 7})


@pytest.mark.parametrize(
    ("env", "name"),
    [("CartPole-v1", "CartPole-v1"), ("ALE/Pong-v5", "ALE_Pong-v5"), ("/folder/my envs.py:make", "my_envs.py_make"),
     ("python:make", "python_make"), ("<x> ", "x")],
)  # fmt: skip
def test_a_folder_has_the_environments_name(env, name):
    assert directory.run_name(env) == name


def test_a_run_without_a_name_has_a_directory_by_environment_time_and_seed_of_its_own(tmp_path, monkeypatch):
    class Then(directory.datetime):
        @classmethod
        def now(cls):
            return cls(2024, 3, 4, 15, 6, 7)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(directory, "datetime", Then)
    made = [RunDirectory.new(CONFIG, None) for _ in range(3)]
    first = "runs/ALE_Pong-v5/2024-03-04_150607_seed7"
    assert [str(each.path) for each in made] == [first, f"{first}_2", f"{first}_3"]
    assert [each.absolute for each in made] == [tmp_path / each.path for each in made]
    for each in made:
        each.release()


def test_a_directory_is_one_runs_until_it_is_released(tmp_path):
    with RunDirectory.new(CONFIG, tmp_path / "a" / "run") as one:
        assert one.path.is_dir()
        for take in (partial(RunDirectory.new, CONFIG), RunDirectory, Lock):
            with pytest.raises(UsageError, match=rf"^'{one.path}' is in use by process {os.getpid()} on \S+: wait for"):
                take(one.path)
    assert list(one.path.iterdir()) == []  # nothing of the lock is left
    RunDirectory(one.path).release()


def test_a_directory_that_holds_a_run_or_is_none_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    with pytest.raises(UsageError, match=rf"^'{tmp_path}/run' already holds a run; to continue: .*or name another "):
        RunDirectory.new(CONFIG, tmp_path / "run")
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["config.toml"]
    RunDirectory(tmp_path / "run").release()  # as a resumed run takes it
    with pytest.raises(UsageError, match=rf"^run directory '{tmp_path}/run/config.toml' cannot be written: "):
        RunDirectory.new(CONFIG, tmp_path / "run" / "config.toml")
    with pytest.raises(UsageError, match=r"' is a file; run_dir= names a directory$"):
        directory.check_free(tmp_path / "run" / "config.toml")
    directory.check_free(tmp_path / "other")
    directory.check_free(tmp_path)


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "journal.jsonl", "checkpoints", "plots", "videos"])
def test_a_link_in_it_is_refused(tmp_path, name):
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=rf"^'{tmp_path}/{name}' is a link: a run writes only inside its directory; "):
        RunDirectory(tmp_path)


def test_one_that_was_moved_or_replaced_is_gone_and_the_run_continues_in_a_new_one(tmp_path):
    one = RunDirectory.new(CONFIG, tmp_path / "run")
    assert not one.is_gone()
    one.path.rename(tmp_path / "moved")
    assert one.is_gone()
    one.renew()
    assert (one.path, one.is_gone()) == (tmp_path / "run", False)
    one.path.rename(tmp_path / "moved again")
    (tmp_path / "run").mkdir()  # of somebody else
    assert one.is_gone()
    one.renew()
    assert (one.path, one.is_gone()) == (tmp_path / "run_2", False)
    with pytest.raises(UsageError, match="is in use"):
        Lock(one.path)
    one.release()


@pytest.mark.parametrize("name", ["", " ", "  "])
def test_an_empty_name_is_refused(name):
    with pytest.raises(UsageError, match=r"^run_dir= is empty; name a directory$"):
        directory.check_named(name)
    directory.check_named(None)
    directory.check_named("x")


def test_runs_in_a_folder_that_was_taken_for_one_are_named_four_at_most(tmp_path):
    assert runs_inside(tmp_path) == ""
    for count, more in ((2, ""), (4, ""), (5, ", ...")):
        for number in range(count):
            run = tmp_path / (f"seed{number}" if number % 2 else f"appo/seed{number}")
            run.mkdir(parents=True, exist_ok=True)
            (run / "config.toml").touch()
        found = sorted(each.parent for each in tmp_path.rglob("config.toml"))
        assert len(found) == count
        assert runs_inside(tmp_path) == f"; it holds runs: {', '.join(map(str, found[:4]))}{more}"


def test_a_lock_says_whose_it_is_and_another_lock_of_that_name_is_left_alone(tmp_path):
    lock = Lock(tmp_path)
    assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    (tmp_path / ".lock").rename(tmp_path / "old")
    other = Lock(tmp_path)  # the file that the first has is no longer there
    lock.release()
    lock.release()  # a second time changes nothing
    assert (tmp_path / ".lock").exists()
    other.release()
    assert not (tmp_path / ".lock").exists()


def test_a_lock_that_nobody_wrote_into_is_another_processs_and_one_that_is_left_behind_is_taken(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on old\n" + 300 * "x")
    lock = Lock(tmp_path)
    os.truncate(tmp_path / ".lock", 0)
    with pytest.raises(UsageError, match="is in use by another process: "):
        Lock(tmp_path)
    lock.release()


def test_a_forked_process_keeps_no_lock(tmp_path):
    lock = Lock(tmp_path)
    ready, release = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        os.write(ready[1], b"x")
        os.read(release[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    lock.release()
    Lock(tmp_path).release()  # although the child lives
    os.write(release[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    for descriptor in (*ready, *release):
        os.close(descriptor)


def test_memory_is_in_megabytes_and_versions_are_of_all_that_computes():
    megabytes = directory.peak_memory_mb()
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        assert megabytes == pytest.approx(int(peak) / 1024, rel=0.1)
    assert directory.versions().keys() == {"python", "troupe", "torch", "gymnasium", "numpy"}
    assert all(each[0].isdigit() or each == "unknown" for each in directory.versions().values())


@pytest.fixture
def owner():
    """Lets another process hold a directory, until it is killed."""
    children: list[int] = []

    def hold(folder: Path) -> Callable[[], None]:
        ready = os.pipe()
        if (child := os.fork()) == 0:
            try:
                held = Lock(folder)  # noqa: F841
                os.write(ready[1], b"x")
                signal.pause()
            finally:
                os._exit(1)
        children.append(child)
        assert os.read(ready[0], 1) == b"x"
        for descriptor in ready:
            os.close(descriptor)

        def kill() -> None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(children.pop(), 0)

        return kill

    yield hold
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_of_two_resumes_and_of_two_trainings_the_second_is_refused_until_the_first_is_gone_even_killed(
    run_command, tmp_path, monkeypatch, owner
):
    monkeypatch.chdir(tmp_path)
    tiny = "--target none --actor.count 1 --evaluation.final_episodes 2 --quiet"
    (tmp_path / "run").mkdir()
    for words in (f"train CartPole-v1 --run-dir run --steps 200 {tiny}", "resume run --steps 2000 --quiet"):
        kill = owner(tmp_path / "run")
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        status, _, error = run_command(words)
        assert (status, error.count("\n")) == (2, 1)
        assert re.fullmatch(r"troupe: 'run' is in use by process \d+ on .*: wait for it to end, or stop it\n", error)
        assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
        kill()
        status, _, error = run_command(words)
        assert status == 0, error
