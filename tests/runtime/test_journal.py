"""The journal: each fact noted at its moment, written down in order, and nothing kept that cannot be written."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from troupe import safe_files
from troupe.config import resolve
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.runtime.assembly import assemble
from troupe.runtime.data.rollout import Rollout
from troupe.runtime.journal import FILE, Journal, RecordedMaster, checksum
from troupe.runtime.learning.weights import Master, WeightStore
from troupe.runtime.progress import Progress


class Adding:
    def step(self, weights: torch.Tensor, gradient: torch.Tensor, learning_rate: float) -> None:
        weights.add_(gradient, alpha=learning_rate)


def written(journal: Journal, folder: Path) -> list[Any]:
    journal.append_to(folder)
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def master(journal: Journal) -> RecordedMaster:
    vector = torch.zeros(3)
    return RecordedMaster(vector, lambda _: Adding(), WeightStore(vector), journal)  # type: ignore[arg-type]


def test_what_learners_do_is_noted_under_their_threads_names(
    master: RecordedMaster, journal: Journal, tmp_path: Path
) -> None:
    def learn() -> None:
        master.copy_to(torch.empty(3))
        master.apply(torch.ones(3), 0.1)
        master.publish()

    for name in ("learner-1", "learner-0"):
        thread = threading.Thread(target=learn, name=name)
        thread.start()
        thread.join()
    journal.end(master.vector)
    first, second = torch.full((3,), 0.1), torch.full((3,), 0.1).add(torch.ones(3), alpha=0.1)
    assert written(journal, tmp_path) == [
        ["copy", "learner-1"], ["apply", "learner-1", 0.1], ["publish", "learner-1", 1, checksum(first)],
        ["copy", "learner-0"], ["apply", "learner-0", 0.1], ["publish", "learner-0", 2, checksum(second)],
        ["end", checksum(second)],
    ]  # fmt: skip


def test_a_recorded_master_does_what_a_master_does(master: RecordedMaster) -> None:
    vector, into = torch.zeros(3), torch.empty(3)
    plain = Master(vector, lambda _: Adding(), WeightStore(vector))  # type: ignore[arg-type]
    for each in (master, plain):
        each.apply(torch.tensor([1.0, 2.0, 3.0]), 0.3)
        assert each.publish() == each.version == 1
    master.copy_to(into)
    assert torch.equal(into, vector)
    assert torch.equal(master.vector, vector)
    pulled = torch.empty(3)
    assert master.store.pull(pulled, 0) == 1
    assert torch.equal(pulled, vector)


def test_a_publication_is_noted_before_anybody_can_use_it(
    master: RecordedMaster, journal: Journal, tmp_path: Path
) -> None:
    publish, noted = master.store.publish, []

    def look(vector: Any) -> int:
        noted.append(written(journal, tmp_path))
        return publish(vector)

    master.store.publish = look  # type: ignore[method-assign]
    master.publish()
    assert [each[:3] for each in noted[0]] == [["publish", threading.current_thread().name, 1]]


@pytest.mark.parametrize("method", ["copy_to", "apply", "publish"])
def test_an_access_to_the_weights_is_recorded_while_the_lock_is_held(
    master: RecordedMaster, journal: Journal, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, free = journal.weights, []

    def other_thread_gets_the_lock() -> None:
        taken = master.lock.acquire(blocking=False)
        free.append(taken)
        if taken:
            master.lock.release()

    def look(*facts: object) -> None:
        thread = threading.Thread(target=other_thread_gets_the_lock)
        thread.start()
        thread.join()
        note(*facts)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "weights", look)
    arguments: dict[str, tuple[Any, ...]] = {"copy_to": (torch.empty(3),), "apply": (torch.ones(3), 0.1), "publish": ()}
    getattr(master, method)(*arguments[method])
    assert free == [False]


def test_a_rollout_is_noted_before_a_learner_can_have_it(echo: Any, tmp_path: Path) -> None:
    source, journal = find(echo), Journal()
    settings = {"actor.count": 2, "actor.environments": 1, "actor.rollout_steps": 4, "actor.placement": "thread"}
    config = resolve(source.id, "appo", settings | {"record": True}, tuned=False)
    network = build(source.observation_space, source.action_space, config.network)
    parts = assemble(config, source, network, np.random.SeedSequence(1), Progress(), journal=journal)
    noted: list[Any] = []

    def deliver(rollout: Rollout) -> None:
        assert not noted
        noted.append(written(journal, tmp_path))

    parts.runners[1].collect(deliver)  # type: ignore[union-attr]
    assert noted == [[["rollout", 1, 0, 0, [[0, 0]]]]]
    parts.close()


def test_the_smallest_difference_changes_the_checksum() -> None:
    vector = torch.randn(1000)
    other = vector.clone()
    other[500] = torch.nextafter(other[500], torch.tensor(torch.inf))
    assert checksum(other) != checksum(vector) == checksum(vector.clone())


def test_the_file_grows_by_what_is_new(journal: Journal, tmp_path: Path) -> None:
    journal.append_to(tmp_path)
    assert not (tmp_path / FILE).exists()
    for number in (1, 2):
        journal.weights("copy")
        assert len(written(journal, tmp_path)) == number


def test_learning_rates_are_written_to_the_last_bit(journal: Journal, tmp_path: Path) -> None:
    rates = torch.rand(100, dtype=torch.float64).mul(1e-3).tolist()
    for rate in rates:
        journal.weights("apply", rate)
    assert [rate for *_, rate in written(journal, tmp_path)] == rates


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_where_nothing_can_be_written_nothing_is_kept(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_files, "append", lambda _: io.FileIO("/dev/full", "a"))
    journal.weights("copy")
    with pytest.raises(OSError, match="No space left"):
        journal.append_to(tmp_path)
    journal.weights("copy")
    monkeypatch.undo()
    journal.append_to(tmp_path)  # one with a hole would be worse than none
    assert not (tmp_path / FILE).exists()
