"""Checkpoints: whole or not at all, the newest whole one first, and nothing in them is executed."""

import errno
import hashlib
import json
import os
import re
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import troupe
from helpers.checkpoints import state
from troupe import UsageError, cli, config, safe_files
from troupe.runs.store import checkpoint
from troupe.runs.store.checkpoint import Checkpoint
from troupe.runs.store.metrics import MetricsLog
from troupe.runs.store.state import State, of_json

FILES = ("model.safetensors", "best.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def make(number: float) -> Checkpoint:
    weights = {"weight": torch.full((4, 3), number), "count": torch.tensor(int(number))}
    return Checkpoint(weights, weights, {"square": torch.ones(2)}, state(int(number)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text(config.to_toml(config.resolve("CartPole-v1")))
    return tmp_path


def steps(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def read(run: Path) -> tuple[float, list[str]]:
    warned: list[str] = []
    return checkpoint.load(run, warned.append).state.counts.steps, warned


def test_what_is_loaded_is_what_was_saved(run):
    folder = checkpoint.save(run, 7, make(3.0))
    assert folder == run / "checkpoints" / "7"
    assert {file.name for file in folder.iterdir()} == set(FILES)
    loaded, saved = checkpoint.load(run, pytest.fail), make(3.0)
    for ours, theirs in ((loaded.model, saved.model), (loaded.best, saved.best), (loaded.optimizer, saved.optimizer)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert loaded.state == saved.state


def test_streams_come_back_with_their_arrays_and_are_whole_or_damaged(run):
    streams = {
        "deep": [{"a": np.arange(3, dtype=np.int64)}, {"b": np.zeros((2, 0), np.float32)}, None, 0.1],
        "big": {"state": 2**127 + 1, "over": True, "name": "PCG64"},
        "bytes": np.arange(5, dtype=np.uint8), "first": np.array([True, False]),
    }  # fmt: skip
    folder = checkpoint.save(run, 1, replace(make(1), streams=streams))
    loaded = checkpoint.load(run, pytest.fail).streams
    arrays = [
        (each["deep"][0].pop("a"), each["deep"][1].pop("b"), each.pop("bytes"), each.pop("first"))
        for each in (loaded, streams)
    ]
    for ours, theirs in zip(*arrays, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert loaded == streams
    damage("one byte flipped", folder / "streams.safetensors")
    with pytest.raises(UsageError, match="holds no whole checkpoint"):
        checkpoint.load(run, lambda text: None)


def test_only_the_newest_few_are_kept(run):
    for step in (5, 80, 900, 1000, 20_000):
        checkpoint.save(run, step, make(step))
    assert steps(run) == [900, 1000, 20_000]
    assert read(run) == (20_000, [])


def damage(kind: str, file: Path) -> None:
    data = file.read_bytes()
    if kind == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif kind == "one byte flipped":
        file.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.unlink()


@pytest.mark.parametrize("kind", ["truncated", "one byte flipped", "empty", "missing", "a folder"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_newest_one_is_named_and_the_one_before_it_serves(run, name, kind):
    checkpoint.save(run, 1, make(1))
    damage(kind, checkpoint.save(run, 2, make(2)) / name)
    step, warned = read(run)
    assert step == 1
    assert len(warned) == 1
    assert str(run / "checkpoints" / "2") in warned[0]
    assert "damaged" in warned[0]


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("manifest.json", "truncated", "manifest.json is not valid JSON"),
        ("manifest.json", "missing", "manifest.json: no such file or directory"),
        ("best.safetensors", "one byte flipped", "best.safetensors does not match its hash"),
        ("state.json", "a folder", "state.json: not a regular file"),
    ],
)
def test_what_is_wrong_with_a_damaged_one_is_reported_in_plain_words(run, name, kind, why):
    for step in (1, 2):
        damage(kind, checkpoint.save(run, step, make(step)) / name)
    warned: list[str] = []
    with pytest.raises(UsageError, match="holds no whole checkpoint"):
        checkpoint.load(run, warned.append)
    newer, older = (f"checkpoint {run / 'checkpoints' / step} is damaged ({why})" for step in ("2", "1"))
    assert warned == [f"{newer}; trying the one before it", older]


@pytest.mark.parametrize("manifest", ["[]", "{}", "null", '"text"', '{"../../config.toml": "0"}'])
def test_a_manifest_that_lists_something_else_is_damage(run, manifest):
    folder = checkpoint.save(run, 1, make(1))
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match="holds no whole checkpoint"):
        checkpoint.load(run, lambda text: None)


def test_nothing_whole_is_a_plain_error(run):
    with pytest.raises(UsageError, match="holds no whole checkpoint"):
        checkpoint.load(run, pytest.fail)
    (checkpoint.save(run, 1, make(1)) / "manifest.json").unlink()
    with pytest.raises(UsageError, match="holds no whole checkpoint"):
        checkpoint.load(run, lambda text: None)


def test_what_is_no_run_directory_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no run directory '.*missing'"):
        checkpoint.load(tmp_path / "missing", pytest.fail)
    with pytest.raises(UsageError, match=r"is not a run directory: it has no config\.toml"):
        checkpoint.load(tmp_path, pytest.fail)


@pytest.mark.parametrize("text", [b"[env\nid = 1", b"\xff\xfe\x00", b"[learner]\nepoch = 3\n", b'seed = "x"\n'])
def test_a_damaged_configuration_is_named_with_its_file(run, text):
    checkpoint.save(run, 1, make(1))
    (run / "config.toml").write_bytes(text)
    with pytest.raises(UsageError, match=re.escape(f"{run / 'config.toml'} is damaged: ")):
        checkpoint.load(run, pytest.fail)


def test_a_run_that_went_on_behind_a_damaged_one_leaves_it_behind(run):
    for step in (10, 20, 30):
        checkpoint.save(run, step, make(step))
    for step in (20, 30):
        (run / "checkpoints" / str(step) / "state.json").unlink()
    assert read(run)[0] == 10
    checkpoint.save(run, 15, make(15))
    assert steps(run) == [10, 15]
    assert read(run) == (15, [])


def test_the_same_step_again_replaces(run):
    checkpoint.save(run, 10, make(1))
    checkpoint.save(run, 10, make(2))
    assert steps(run) == [10]
    assert read(run) == (2, [])


def failing(write: Callable[[Path, bytes], None], at: str) -> Callable[[Path, bytes], None]:
    def write_or_fail(path: Path, data: bytes) -> None:
        if path.name == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    return write_or_fail


@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_leaves_the_one_before(run, name, monkeypatch):
    checkpoint.save(run, 10, make(10))
    monkeypatch.setattr(checkpoint, "write_durably", failing(checkpoint.write_durably, name))
    for step in (10, 20):
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(run, step, make(20))
    assert steps(run) == [10]
    assert read(run) == (10, [])


class Killed(BaseException):
    """Stands for kill -9: nothing is cleaned up after it."""


def test_killed_at_any_rename_a_whole_checkpoint_is_left(run, monkeypatch):
    """Of the same step, which is the hardest: the old one must go for the new one to come."""
    rename, remove = Path.rename, checkpoint._remove
    for survives in range(3):
        checkpoint.save(run, 10, make(1))
        left = [survives]

        def counted(self: Path, target: Path, left: list[int] = left) -> Path:
            if not left[0]:
                monkeypatch.setattr(checkpoint, "_remove", lambda folder: None)
                raise Killed
            left[0] -= 1
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", counted)
        try:
            checkpoint.save(run, 10, make(2))
            assert survives == 2
        except Killed:
            pass
        monkeypatch.setattr(Path, "rename", rename)
        monkeypatch.setattr(checkpoint, "_remove", remove)
        assert read(run) == (2 if survives == 2 else 1, [])
    checkpoint.save(run, 11, make(3))
    assert sorted(folder.name for folder in (run / "checkpoints").iterdir()) == ["10", "11"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name_and_then_its_name_is(run, monkeypatch):
    """Each file is written, flushed and renamed, in this order; so is the folder of them all."""
    events: list[str] = []

    def noting(word: str, call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            events.append(f"{word} {name(*given)}")
            return call(*given, **named)

        return noted

    def opened(descriptor: int) -> str:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), run / "checkpoints")

    def names(path: Path, target: Path) -> str:
        return " to ".join(os.path.relpath(each, run / "checkpoints") for each in (path, target))

    monkeypatch.setattr(
        os, "fsync", noting("flush", os.fsync, lambda descriptor: f"{opened(descriptor)}{size(descriptor)}")
    )
    for rename in ("rename", "replace"):
        monkeypatch.setattr(Path, rename, noting("name", getattr(Path, rename), names))

    def size(descriptor: int) -> str:
        status = os.fstat(descriptor)
        return "" if stat.S_ISDIR(status.st_mode) else f" of {status.st_size} bytes"

    directory = checkpoint.save(run, 7, make(3.0))
    beside, expected = ".7.partial", []
    for file in FILES:
        expected += [
            f"flush {beside}/.{file}.partial of {(directory / file).stat().st_size} bytes",
            f"name {beside}/.{file}.partial to {beside}/{file}",
        ]
    assert events == [*expected, f"flush {beside}", f"name {beside} to 7", "flush ."]


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "summary.json"
    checkpoint.write_durably(file, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write_durably(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


# A directory may come from anybody


@pytest.fixture
def patience():
    """What waits for a pipe would wait for ever: a signal ends it, and fails the test."""

    def too_long(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("kind", ["pipe", "endless", "huge"])
@pytest.mark.parametrize("name", FILES)
def test_what_never_ends_is_damage_and_the_one_before_it_serves(run, name, kind):
    checkpoint.save(run, 1, make(1))
    file = checkpoint.save(run, 2, make(2)) / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    else:
        with file.open("wb") as sparse:
            sparse.truncate(2**36)
    step, warned = read(run)
    assert step == 1
    told = ("not a regular file", "more than the", "does not begin as a safetensors file")
    assert any(words in warned[0] for words in told)


@pytest.mark.usefixtures("patience")
def test_a_pipe_among_a_runs_files_holds_up_no_command(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = "--steps 200 --target none --actor.count 1 --evaluation.final_episodes 2 --quiet"
    assert cli.run(f"train CartPole-v1 --run-dir run {tiny}".split()) == 0
    for name in ("summary.json", "config.toml", "metrics.jsonl"):
        (tmp_path / "run" / name).unlink()
        os.mkfifo(tmp_path / "run" / name)
        assert cli.run(["plot", "run", "-o", "out.png"]) == (2 if name == "metrics.jsonl" else 0)
        if name != "summary.json":
            assert cli.run(["evaluate", "run", "--episodes", "2"]) == 2
    assert "'run' is not a run directory: it has no config.toml" in capfd.readouterr().err


def with_manifest(folder: Path) -> None:
    """Makes whatever lies there what the manifest says."""
    files = [file for file in folder.iterdir() if file.name != "manifest.json"]
    manifest = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_two_hundred_thousand_brackets_are_damage(run, name):
    checkpoint.save(run, 1, make(1))
    folder = checkpoint.save(run, 2, make(2))
    (folder / name).write_text("[" * 200_000)
    if name != "manifest.json":
        with_manifest(folder)
    step, warned = read(run)
    assert step == 1
    told = {"manifest.json": "manifest.json: Expected", "state.json": "state.json is not valid JSON"}
    assert told[name] in warned[0]
    (run / "config.toml").write_text("a = " + "[" * 200_000)
    with pytest.raises(UsageError, match=r"config\.toml is damaged"):
        checkpoint.load(run, pytest.fail)


@pytest.mark.parametrize("which", ["model", "best"])
def test_weights_that_are_not_numbers_are_damage(run, which):
    checkpoint.save(run, 1, make(1))
    good = make(2)
    bad = {"weight": torch.full((2,), float("nan")), "mask": torch.full((2,), float("-inf"))}
    checkpoint.save(run, 2, replace(good, **{which: bad}))
    step, warned = read(run)
    assert step == 1
    assert f"{which}.safetensors holds NaN in weight" in warned[0]
    checkpoint.save(run, 3, replace(good, **{which: {"mask": bad["mask"]}}))  # somebody's own network may have such
    assert read(run) == (2, [])


def test_only_what_is_a_checkpoint_is_deleted(run, tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(run, step, make(step))
    mine = run / "checkpoints" / "2020"
    mine.mkdir()
    (mine / "holiday.jpg").touch()
    (run / "checkpoints" / "1" / "note.txt").touch()
    (run / "checkpoints" / ".9.partial").symlink_to(mine)
    checkpoint.save(run, 4, make(4))
    assert (mine / "holiday.jpg").exists()
    assert [file.name for file in (run / "checkpoints" / "1").iterdir()] == ["note.txt"]
    assert steps_of(run) == {1, 2, 3, 4, 2020}


def steps_of(run: Path) -> set[int]:
    return {int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit()}


def test_a_lock_that_is_a_link_is_named_as_one(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "outside")
    assert cli.run(["train", "CartPole-v1", "--run-dir", f"{tmp_path / 'run'}"]) == 2
    named = f"troupe: '{tmp_path / 'run' / '.lock'}' is a link: a run writes only inside its directory; remove the link"
    assert capsys.readouterr().err == f"{named}\n"
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "plots"])
def test_a_link_out_of_the_directory_is_refused_and_nothing_is_touched(tmp_path, monkeypatch, capfd, pictures, name):
    monkeypatch.chdir(tmp_path)
    tiny = "--target none --actor.count 1 --evaluation.final_episodes 2 --quiet"
    assert cli.run(f"train CartPole-v1 --run-dir run --steps 200 {tiny}".split()) == 0
    (tmp_path / "run" / name).rename(tmp_path / "outside")
    (tmp_path / "run" / name).symlink_to(tmp_path / "outside")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("outside/**/*")}
    capfd.readouterr()
    assert cli.run(["resume", "run", "--steps", "500"]) == 2
    assert capfd.readouterr().err.startswith(f"troupe: 'run/{name}' is a link: a run writes only inside")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("outside/**/*")} == before
    writes = {
        "checkpoints": lambda run: checkpoint.save(run, 1, make(1)),
        "metrics.jsonl": lambda run: MetricsLog(run, pytest.fail),
        "plots": lambda run: safe_files.folder(run / "plots"),
    }
    with pytest.raises(OSError, match="link"):  # nor if it was put there while the run went on
        writes[name](tmp_path / "run")


def test_files_that_are_written_beside_their_path_follow_no_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for name in ("summary.json", "config.toml"):
        (tmp_path / name).write_text("mine")
        (tmp_path / "run" / f".{name}.partial").symlink_to(tmp_path / name)
    tiny = "--target none --actor.count 1 --evaluation.final_episodes 2 --quiet"
    assert cli.run(f"train CartPole-v1 --run-dir run --steps 200 {tiny}".split()) == 0
    for name in ("summary.json", "config.toml"):
        assert (tmp_path / name).read_text() == "mine"
        assert not (tmp_path / "run" / name).is_symlink()
    assert not list((tmp_path / "run").glob(".*.partial"))


def test_nothing_is_pickled_or_evaluated_anywhere():
    words = (
        r"\bc?[pP]ickle\b|\bmarshal\b|\bshelve\b|\bjoblib\b|np\.load\b"
        r"|\btorch\.(load|save)\b|(?<![.\w])(eval|exec)\("
    )
    for file in Path(troupe.__file__).parent.rglob("*.py"):
        found = re.search(words, file.read_text())
        assert not found, f"{file}: {found}"


def test_files_are_plain_json_and_safetensors(run):
    folder = checkpoint.save(run, 1, make(1))
    assert set(json.loads((folder / "manifest.json").read_text())) == set(FILES) - {"manifest.json"}
    assert of_json((folder / "state.json").read_text(), State) == make(1).state
