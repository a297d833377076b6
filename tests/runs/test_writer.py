"""What a run writes while it trains, where its directory is moved or its disk is full."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.checkpoints import state
from troupe.config import from_toml, resolve
from troupe.runs.store import checkpoint
from troupe.runs.store.checkpoint import Checkpoint
from troupe.runs.store.directory import RunDirectory
from troupe.runs.store.writer import RunWriter

CONFIG = resolve("X-v0", settings={"seed": 7})


def taken(steps: int) -> Checkpoint:
    weights = {"w": torch.full((1,), float(steps))}
    return Checkpoint(weights, weights, {}, state(steps))


class Journal:
    """Remembers where it was written to; `broken` is what its file system says."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.broken: OSError | None = None

    def append_to(self, path: Path) -> None:
        if self.broken:
            raise self.broken
        self.calls.append(path)

    def discard(self) -> None:
        self.calls.append("discarded")


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def writer(tmp_path, warned, journal):
    with (
        RunDirectory.new(CONFIG, tmp_path / "run") as directory,
        RunWriter(directory, CONFIG, journal, warned.append) as made,
    ):
        yield made


def test_the_settings_are_there_from_the_start_and_a_checkpoint_beside_them(writer, warned, tmp_path):
    assert from_toml((tmp_path / "run" / "config.toml").read_text()) == CONFIG
    assert writer.saved is None
    assert writer.save(taken(40)) == writer.saved == tmp_path / "run" / "checkpoints" / "40"
    assert checkpoint.load(writer.path, pytest.fail).model["w"].item() == 40
    assert warned == []


def test_settings_that_were_removed_are_written_again(writer, warned):
    (writer.path / "config.toml").unlink()
    writer.save(taken(40))
    assert from_toml((writer.path / "config.toml").read_text()) == CONFIG
    assert warned == [f"config.toml was missing in '{writer.path}', and has been written again"]


def test_metrics_whose_file_was_removed_begin_again(writer, warned):
    (writer.path / "metrics.jsonl").unlink()
    writer.save(taken(40))
    writer.metrics.write({"kind": "report", "wall": 1.0, "seconds": 2.0, "steps": 40})
    assert (writer.path / "metrics.jsonl").read_text().count("\n") == 1
    assert warned == [f"metrics.jsonl was missing in '{writer.path}'; it begins again, without the rows so far"]


def test_a_run_whose_directory_is_moved_continues_in_a_new_one_without_its_journal(writer, warned, journal, tmp_path):
    writer.metrics.write({"kind": "report", "wall": 1.0, "seconds": 1.0, "steps": 20})
    shutil.move(tmp_path / "run", tmp_path / "moved")
    writer.save(taken(40))
    writer.metrics.write({"kind": "report", "wall": 1.0, "seconds": 2.0, "steps": 40})
    assert from_toml((tmp_path / "run" / "config.toml").read_text()) == CONFIG
    assert (tmp_path / "run" / "checkpoints" / "40").is_dir()
    assert [(tmp_path / each / "metrics.jsonl").read_text().count("\n") for each in ("moved", "run")] == [1, 1]
    assert warned == [
        f"'{tmp_path}/run' has been moved or deleted; continuing in a new directory, {tmp_path}/run",
        "not recorded from here on: the new directory cannot be replayed",
    ]
    assert journal.calls == ["discarded"]


def test_of_failures_in_a_row_the_first_is_reported(writer, warned, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for _ in range(2):
        writer.try_to_save(taken(20))
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", full)
            writer.try_to_save(taken(40))
            writer.try_to_save(taken(60))
        assert writer.saved is None
    assert warned == ["no checkpoint could be written: no space left on device; the run continues"] * 2
    writer.try_to_save(taken(80))
    assert writer.saved.name == "80"


def test_the_journal_is_written_into_the_directory_and_a_failure_is_no_end(writer, warned, journal, tmp_path):
    writer.write_journal()
    assert journal.calls == [tmp_path / "run"]
    journal.broken = OSError(28, "No space left on device")
    writer.write_journal()
    assert warned == [
        "the journal is no longer written: no space left on device; the run continues and cannot be replayed"
    ]
    writer._journal = None
    writer.write_journal()
    assert len(warned) == 1
