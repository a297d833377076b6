"""Several learners on one gradient: the ranks are threads here, each with a connection of its own to the others."""

import copy
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.distributed as dist

from helpers import PATIENCE_SECONDS
from helpers.parts import Descent
from troupe.algorithm.optimizers import Adam
from troupe.config import TrainConfig, TroupeError, build
from troupe.environments import EnvironmentSource
from troupe.networks import actor_critic
from troupe.networks.flat import FlatWeights
from troupe.runtime.assembly import build_statistics, make_learners
from troupe.runtime.data.rollout import Rollout, RolloutSpec, allocate, columns, stack
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.learning.group import Alone
from troupe.runtime.learning.learner import Learner
from troupe.runtime.learning.rank_group import RankGroup
from troupe.runtime.learning.weights import Master, WeightStore
from troupe.runtime.progress import Counts, Episode, Progress

T, B = 6, 4
BOX, CHOICES = gym.spaces.Box(-9.0, 9.0, (3,), np.float32), gym.spaces.Discrete(3)
SMALL = {
    "network.hidden": (8,), "learner.epochs": 2, "learner.minibatches": 1, "learner.learning_rate": 0.1,
    "learner.gradient_norm": 0.1, "learner.threads": 1,
}  # fmt: skip


def groups(size: int = 2) -> list[RankGroup]:
    """The groups of `size` ranks, connected with each other."""
    store, names = dist.HashStore(), [f"rank {rank}" for rank in range(size)]

    def connect(rank: int) -> RankGroup:
        own = dist.ProcessGroupGloo(dist.PrefixStore("own", store), rank, size, timedelta(seconds=PATIENCE_SECONDS))
        made = RankGroup(store, own.allreduce, lambda tensor: own.broadcast(tensor, 0), rank, names)
        made.keep = own  # type: ignore[attr-defined]
        return made

    return together([lambda rank=rank: connect(rank) for rank in range(size)])


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of calls that wait for each other."""
    results: list[Any] = [None] * len(calls)

    def work(number: int) -> None:
        results[number] = calls[number]()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    return results


def source() -> EnvironmentSource:
    return EnvironmentSource("none", lambda: None, BOX, CHOICES)  # type: ignore[arg-type, return-value]


def config(**settings: Any) -> TrainConfig:
    return build({"env.id": "none", **SMALL, **settings})


def learner(of: TrainConfig, group: Alone, optimizer: Any = Descent) -> tuple[Learner, Master]:
    """A learner of `group` and its master; all have the same first weights."""
    torch.manual_seed(0)
    network = actor_critic.build(BOX, CHOICES, of.network, "")
    flat = FlatWeights(copy.deepcopy(network))
    statistics = build_statistics(of, flat, group.size, gather=group.gather)
    make = (lambda _: Descent()) if optimizer is Descent else optimizer
    master = Master(flat.vector, make, WeightStore(flat.vector), statistics)
    seed = np.random.SeedSequence(group.rank)
    (made,) = make_learners(of, source(), network, master, [seed], Progress(), Gate(), group=group)
    return made, master


def batch(seed: int) -> Rollout:
    """Random numbers, in which episodes end at random: the number of valid rows differs from batch to batch."""
    rng = np.random.default_rng(seed)
    rollout = allocate(RolloutSpec(BOX, T, B))
    rollout.obs[:] = rng.normal(1.0, 2.0, rollout.obs.shape)
    rollout.action[:] = rng.integers(3, size=(T, B))
    rollout.behaviour_log_prob[:] = np.log(rng.uniform(0.1, 0.9, (T, B)))
    rollout.reward[:] = rng.normal(0.0, 3.0, (T, B))
    rollout.past_return[:] = rng.normal(0.0, 5.0, (T, B))
    rollout.terminated[:] = rng.random((T, B)) < 0.2
    rollout.valid[1:] = ~rollout.terminated[:-1]
    return rollout


LOSSES: dict[str, dict[str, Any]] = {
    "a3c": {"loss.kind": "a3c"},
    "a3c, sum": {"loss.kind": "a3c", "loss.reduction": "sum"},
    "impala": {"loss.kind": "impala"},
    "impala, sum": {"loss.kind": "impala", "loss.reduction": "sum"},
    "appo": {"loss.kind": "appo"},
    "appo, minibatches": {"loss.kind": "appo", "learner.minibatches": 2},
    "appo, advantage_decay": {"loss.kind": "appo", "learner.advantage_decay": 0.9, "learner.minibatches": 2},
    "not clipped": {"loss.kind": "appo", "learner.gradient_norm": 0.0},
    "nothing normalized": {"loss.kind": "impala", "network.normalize": False, "loss.normalize_reward": False},
}


@pytest.mark.parametrize("settings", LOSSES.values(), ids=LOSSES)
def test_two_learners_are_one_with_the_joined_batch(settings):
    of, batches = config(**settings), [batch(1), batch(2)]
    assert batches[0].steps != batches[1].steps
    ranks = groups()
    pairs = [learner(of, group) for group in ranks]
    cuts = [np.random.default_rng(np.random.SeedSequence(rank)) for rank in (0, 1)]  # as the ranks' learners draw
    together([lambda made=made, own=own: made.learn(own) for (made, _), own in zip(pairs, batches, strict=True)])

    single, master = learner(of, Alone())
    parts = of.learner.minibatches

    def joined(_: Rollout) -> Any:
        for _epoch in range(of.learner.epochs):
            if parts == 1:
                yield stack(batches), None
                continue
            drawn = [np.array_split(rng.permutation(B), parts) for rng in cuts]
            for chosen in zip(*drawn, strict=True):
                yield stack([columns(*each) for each in zip(batches, chosen, strict=True)]), None

    single.minibatches = joined
    single.learn(stack(batches))
    assert master.optimizer.gradients[0].abs().max() > 1e-3
    for _, other in pairs:
        assert len(other.optimizer.gradients) == len(master.optimizer.gradients) == of.learner.epochs * parts
        torch.testing.assert_close(other.vector, master.vector, rtol=1e-6, atol=1e-6)
    assert torch.equal(pairs[0][1].vector, pairs[1][1].vector)
    assert pairs[0][0]._progress.counts.updates == pairs[1][0]._progress.counts.updates


def test_a_gradient_that_is_not_finite_in_one_rank_is_refused_by_all():
    of, batches = config(**{"loss.normalize_reward": False}), [batch(1), batch(2)]
    batches[1].reward[0] = np.inf
    pairs = [learner(of, group) for group in groups()]
    before = pairs[0][1].vector.clone()
    together([lambda made=made, own=own: made.learn(own) for (made, _), own in zip(pairs, batches, strict=True)])
    for made, master in pairs:
        assert made._progress.counts.skipped_updates == of.learner.epochs
        parameters = slice(6, None)  # after the observations' mean and scale
        assert torch.equal(master.vector[parameters], before[parameters])


def test_a_rank_takes_over_weights_optimizer_and_statistics_at_the_start_and_after_a_rollback():
    of, ranks = config(), groups()
    masters = [learner(of, group, Adam)[1] for group in ranks]
    masters[0].vector.add_(1.0)
    masters[0].optimizer.mean.fill_(3.0)
    masters[0].statistics.load({"moments": torch.full((3, 4), 2.0)})
    masters[0].step_factor = 0.5

    def follow() -> None:
        together(
            [
                lambda group=group, master=master: group.follow(master)
                for group, master in zip(ranks, masters, strict=True)
            ]
        )

    def same() -> None:
        assert torch.equal(masters[0].vector, masters[1].vector)
        assert masters[0].step_factor == masters[1].step_factor
        for name, part in masters[0].state().items():
            assert torch.equal(part, masters[1].state()[name]), name

    follow()
    same()
    assert masters[1].oldest == masters[1].version == 1  # what was played before is not learned from
    masters[1].vector.add_(1.0)
    follow()
    assert not torch.equal(masters[0].vector, masters[1].vector), "only a rollback is followed"
    masters[0].roll_back(torch.full_like(masters[0].vector, 7.0), 0.5)
    follow()
    same()
    assert masters[1].step_factor == 0.25
    assert masters[1].oldest == masters[1].version == 2


def test_all_ranks_count_the_steps_of_all():
    ranks, progresses = groups(), [Progress(Counts(steps=100)) for _ in range(2)]
    for group in ranks:
        group.begin(Counts(steps=100))
    for steps in ((1, 10), (2, 20)):
        for progress, own in zip(progresses, steps, strict=True):
            progress.counts.steps += own
            progress.play(own)
        together([lambda g=g, p=p: g.count(p) for g, p in zip(ranks, progresses, strict=True)])
    assert [progress.counts.steps for progress in progresses] == [133, 133]
    assert [progress.counts.played for progress in progresses] == [33, 33]


def supervised(group: RankGroup, progress: Progress) -> Supervisor:
    gate = Gate()
    supervisor = Supervisor(gate, group.wake)
    group.watch(supervisor, progress)
    return supervisor


def test_rank_0_hears_of_the_episodes_metrics_and_notices_of_the_others():
    ranks, progresses = groups(), [Progress() for _ in range(2)]
    progresses[1].play(7, [Episode(3.0, 7)], reward=3.0)
    progresses[1].metrics.add({"entropy": 0.5}, 4.0)
    progresses[1].notices.append("it is cold here")
    watches = [supervised(group, progress) for group, progress in zip(ranks, progresses, strict=True)]
    wait_for(lambda: progresses[0].notices)
    assert progresses[0].notices.popleft() == "rank 1: it is cold here"
    assert progresses[0].recent_returns() == [3.0]
    assert progresses[0].take_reward()[0] == 3.0
    assert progresses[0].metrics.take() == {"entropy": [2.0, 4.0]}
    watches[0].end()
    assert watches[1].wait(PATIENCE_SECONDS), "rank 0 has ended the run"
    assert ranks[1].ended_in_order
    assert all(not each.stop(PATIENCE_SECONDS) for each in watches)


def test_a_rank_that_fails_ends_the_run_and_says_why():
    ranks = groups()
    watches = [supervised(group, Progress()) for group in ranks]
    ranks[1].fail("actor-0: ValueError: out of fuel", "the traceback")
    assert watches[0].failure.part == "rank 1"
    assert str(watches[0].failure.error) == "actor-0: ValueError: out of fuel"
    assert watches[0].failure.error.__notes__ == ["the traceback"]
    assert all(not each.stop(PATIENCE_SECONDS) for each in watches)


def test_a_wait_for_a_learner_that_has_ended_is_over_once_the_run_is():
    ranks, ended = groups(), threading.Event()

    def wait() -> None:
        with suppress(Closed):
            ranks[0].total(torch.ones(3))
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not ended.wait(0.05), "it waits for rank 1"
    ranks[0].wake()
    assert ended.wait(PATIENCE_SECONDS)
    ranks[1].total(torch.ones(3))  # so that no operation is left


def test_an_operation_that_ends_just_as_its_wait_is_over_has_not_failed():
    class EndsLate:
        waits = 0

        def wait(self, timeout=None):
            self.waits += 1
            if timeout:
                raise RuntimeError("Operation timed out!")

        def is_completed(self):
            return self.waits > 1

    work = EndsLate()
    group = RankGroup(dist.HashStore(), lambda _: work, lambda _: work, 0, ["rank 0", "rank 1"])
    assert group.total(torch.ones(2)).tolist() == [1.0, 1.0]
    assert work.waits == 3


def test_a_silent_rank_is_lost(monkeypatch):
    monkeypatch.setattr("troupe.runtime.learning.rank_group._SILENT_SECONDS", 0.0)
    monkeypatch.setattr("troupe.runtime.learning.rank_group._START_SECONDS", 0.0)
    ranks = groups()
    watch = supervised(ranks[0], Progress())
    assert watch.wait(PATIENCE_SECONDS)
    assert watch.failure.part == "rank 1"
    assert "no sign of life" in str(watch.failure.error)
    assert not watch.stop(PATIENCE_SECONDS)


# One rank alone: what it sends, and what it makes of silence


class Done:
    """An operation of ranks that all have ended, or whose connection is broken."""

    def __init__(self, error: str = ""):
        self.error = error

    def wait(self, timeout: Any = None) -> None:
        if self.error:
            raise RuntimeError(self.error)

    def is_completed(self) -> bool:
        return True


def alone(rank: int = 0, store: Any = None, size: int = 2, ended: Any = None, error: str = "") -> RankGroup:
    names, more = [f"rank {number}" for number in range(size)], {} if ended is None else {"ended": ended}
    return RankGroup(
        store or dist.HashStore(), lambda _: Done(error), lambda _: Done(error), rank, names, ["a note"], **more
    )


def failure_of(group: RankGroup) -> Any:
    watch = supervised(group, Progress())
    assert watch.wait(PATIENCE_SECONDS)
    assert not watch.stop(PATIENCE_SECONDS)
    assert group.lost
    return watch.failure


class Broken:
    """A store whose process has ended."""

    def check(self, *_: Any) -> bool:
        raise RuntimeError("Broken pipe")

    get = set = check


def test_a_rank_knows_its_number_its_names_and_what_there_is_to_say():
    group = alone(1, size=3)
    assert (group.rank, group.size, group.names, list(group.notes)) == (
        1,
        3,
        ["rank 0", "rank 1", "rank 2"],
        ["a note"],
    )
    assert (Alone().rank, Alone().size, list(Alone().notes)) == (0, 1, [])
    assert not group.ended_in_order
    assert not group.lost


def test_the_others_begin_with_what_rank_0_sends_or_end_with_it():
    store = dist.HashStore()
    alone(0, store).send_start(b"begin")
    assert alone(1, store).receive_start() == b"begin"
    ended = dist.HashStore()
    alone(0, ended).wake()
    assert alone(1, ended).receive_start() is None
    with pytest.raises(TroupeError, match=r"^the connection to rank 0 broke: RuntimeError: Broken pipe$"):
        alone(1, Broken()).receive_start()


def test_only_rank_0_ends_the_others():
    store = dist.HashStore()
    alone(1, store).wake()
    assert not store.check(["end"])
    alone(0, store).wake()
    assert store.check(["end"])
    alone(0, Broken()).wake()  # nobody is left to hear it


def test_a_mean_goes_by_the_rows_of_all_and_is_nothing_where_nobody_has_any():
    ranks = groups()
    values = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 10.0])
    for rows, expected in (((3, 1), [2.0, 4.0]), ((0, 2), [5.0, 10.0]), ((0, 0), [0.0, 0.0])):
        given = zip(ranks, values, rows, strict=True)
        means = together([lambda g=g, v=v, n=n: g.mean(v, n) for g, v, n in given])
        assert [each.tolist() for each in means] == [expected] * 2


def test_everybody_has_all_parts_once_they_are_gathered():
    ranks, parts = groups(3), [torch.full((3, 2), 10.0 * rank) for rank in range(3)]
    together([lambda g=g, p=p: g.gather(p) for g, p in zip(ranks, parts, strict=True)])
    assert all(each.tolist() == [[0.0, 0.0], [10.0, 10.0], [20.0, 20.0]] for each in parts)


def test_first_weights_that_were_followed_ahead_of_time_are_not_waited_for_again():
    of, ranks = config(), groups()
    masters = [learner(of, group, Adam)[1] for group in ranks]
    masters[0].vector.add_(1.0)
    pairs = list(zip(ranks, masters, strict=True))
    together([lambda g=g, m=m: g.follow_first(m) for g, m in pairs])
    assert torch.equal(masters[0].vector, masters[1].vector)
    for group, master in pairs:
        group.follow(master)  # one after the other: neither waits
    masters[0].roll_back(masters[0].vector + 1.0, 0.5)
    together([lambda g=g, m=m: g.follow(m) for g, m in pairs])
    assert torch.equal(masters[0].vector, masters[1].vector)


def test_a_rank_whose_process_has_ended_is_named_with_how():
    failure = failure_of(alone(ended=lambda rank: f"process {rank} was killed by SIGKILL"))
    assert (failure.part, str(failure.error)) == ("rank 1", "process 1 was killed by SIGKILL")


def test_what_a_rank_reported_before_its_process_ended_is_the_reason(monkeypatch):
    monkeypatch.setattr("troupe.runtime.learning.rank_group._SILENT_SECONDS", 0.0)  # nobody will end the run
    store = dist.HashStore()
    alone(1, store).fail("actor-0: out of fuel", "the traceback")
    monkeypatch.undo()
    failure = failure_of(alone(0, store, ended=lambda _: "it ended"))
    assert (failure.part, str(failure.error)) == ("rank 1", "actor-0: out of fuel")


def test_a_rank_that_has_failed_waits_until_rank_0_has_ended_the_run():
    store, over = dist.HashStore(), threading.Event()

    def fail() -> None:
        alone(1, store).fail("out of fuel")
        over.set()

    threading.Thread(target=fail, daemon=True).start()
    wait_for(lambda: store.check(["failed/1"]))
    assert not over.wait(0.02)
    alone(0, store).wake()
    assert over.wait(PATIENCE_SECONDS)


def test_a_rank_whose_connection_to_rank_0_breaks_says_so():
    failure = failure_of(alone(1, Broken()))
    assert failure.part == "rank 0"
    assert str(failure.error) == "the connection to it broke: RuntimeError: Broken pipe"


def test_an_operation_that_breaks_is_closed_and_named_where_no_rank_turns_out_to_be_lost(monkeypatch):
    monkeypatch.setattr("troupe.runtime.learning.rank_group._BROKEN_SECONDS", 0.001)
    store, group, closed = dist.HashStore(), None, []
    group = alone(0, store, error="Connection reset by peer")
    group._wrong = lambda rank: None  # type: ignore[method-assign]

    def learn() -> None:
        try:
            group.total(torch.ones(2))
        except Closed:
            closed.append(True)

    thread = threading.Thread(target=learn, daemon=True)
    thread.start()
    wait_for(lambda: group._broken)
    failure = failure_of(group)
    assert failure.part == "the connection between learners"
    assert str(failure.error) == "Connection reset by peer"
    thread.join(PATIENCE_SECONDS)
    assert closed == [True]


def test_heartbeats_are_heard_in_order_and_nothing_is_left_in_the_store():
    store = dist.HashStore()
    ranks, progresses = [alone(rank, store) for rank in (0, 1)], [Progress(), Progress()]
    for reward in (1.0, 2.0, 4.0):
        progresses[1].play(1, [Episode(reward, 1)], reward)
        ranks[1]._send(progresses[1])
    ranks[0]._receive(1, progresses[0])
    assert progresses[0].recent_returns() == [1.0, 2.0, 4.0]
    assert progresses[0].take_reward()[0] == 7.0
    assert progresses[0].counts == Counts(), "steps and episodes are added up by `count`"
    assert not store.check(["beat/1/1"])
    assert not store.check(["beat/1/3"])
    seen = dict(ranks[1]._seen)
    ranks[1]._receive(0, progresses[1])
    assert ranks[1]._seen == seen, "it has not been heard of"
    ranks[0]._send(progresses[0])
    ranks[1]._receive(0, progresses[1])
    assert ranks[1]._seen[0] < seen[0], "from then on its silence counts"


def test_a_rank_may_take_its_time_to_start_and_is_lost_after_that(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("troupe.runtime.learning.rank_group.time", SimpleNamespace(monotonic=lambda: now[0]))
    group, store = alone(0, store := dist.HashStore()), store
    now[0] += 300.0
    assert group._wrong(1) is None
    alone(1, store)._send(Progress())
    group._receive(1, Progress())
    now[0] += 20.0
    assert group._wrong(1) is None
    now[0] += 1.0
    assert str(group._wrong(1)) == "there has been no sign of life from it for 21 s"
    group._broken = now[0], RuntimeError()
    now[0] -= 17.0
    assert str(group._wrong(1)) == "there has been no sign of life from it for 4 s"
    now[0] -= 1.0
    assert group._wrong(1) is None


def wait_for(condition: Callable[[], object]) -> None:
    waited = threading.Event()
    for _ in range(int(PATIENCE_SECONDS / 0.01)):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("it never came")


def test_the_others_are_watched_by_one_thread_of_that_name():
    group, started = alone(), []
    supervisor: Any = SimpleNamespace(start=lambda name, run: started.append(name))
    for _ in range(2):
        group.watch(supervisor, Progress())
    assert started == ["ranks"]
