"""What ranks other than 0 do: they play and learn as rank 0 does, and leave everything else to it."""

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

import msgspec
import numpy as np
from torch import nn

from troupe.algorithm.schedules import LinearSchedule, Schedule
from troupe.conclusion import close_in_time
from troupe.config import TrainConfig, TroupeError, from_toml, one_line, to_toml
from troupe.environments import EnvironmentSource
from troupe.networks.custom import NetworkMaker
from troupe.runtime.assembly import assemble
from troupe.runtime.cluster.placement import connected
from troupe.runtime.execution.gate import Closed
from troupe.runtime.execution.interruption import POLL_SECONDS, on_signal
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.initial_network import first_network
from troupe.runtime.learning import annealing
from troupe.runtime.learning.group import Alone
from troupe.runtime.progress import Counts, Progress
from troupe.torch_threads import one_torch_thread

if TYPE_CHECKING:  # a run with one learner does not import torch.distributed
    from troupe.runtime.learning.rank_group import RankGroup

Parts = Callable[[TrainConfig], tuple[EnvironmentSource, nn.Module | NetworkMaker | None]]
_SIGNAL_SECONDS = 3.0  # for rank 0 to end the run: it has probably received the same signal


class Start(NamedTuple):
    """What every rank starts from."""

    config: str  # as TOML
    counts: dict[str, int]
    schedule: list[Any]  # of the learning rate, as in checkpoints; empty: the user's own
    resumes: int


def lead(group: Alone, config: TrainConfig, schedule: Schedule, counts: Counts | None = None, resumes: int = 0) -> None:
    """Rank 0 sends the others what the run begins with."""
    if group.size > 1:
        ranks, counts = cast("RankGroup", group), counts or Counts()
        ranks.begin(counts)
        ranks.send_start(
            msgspec.json.encode(Start(to_toml(config), asdict(counts), annealing.state_of(schedule), resumes))
        )


def follow(group: Alone, parts: Parts) -> NoReturn:
    """Trains along with rank 0 to the end of the run, then ends this process; `parts` makes environment and network."""
    ranks = cast("RankGroup", group)
    packed = ranks.receive_start()
    if packed is None:
        raise SystemExit(0)
    start = msgspec.json.decode(packed, type=Start)
    try:
        config = from_toml(start.config)
        with connected(config, rank=group.rank, ranks=group.size):
            wrong = _train(ranks, config, parts, start)
    except Exception as error:
        wrong = one_line(error) if isinstance(error, TroupeError) else f"{type(error).__name__}: {one_line(error)}"
        ranks.fail(wrong, traceback.format_exc())
    raise SystemExit(1 if wrong else 0)


def _train(group: "RankGroup", config: TrainConfig, parts: Parts, start: Start) -> str:
    """Trains until rank 0 ends the run; returns what went wrong if it ended otherwise."""
    counts = Counts(**start.counts)
    source, network = parts(config)
    group.begin(counts)
    built, seeds, _ = first_network(network, source, config, start.resumes)
    seeds = np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, 2**16 + group.rank))
    progress = Progress(replace(counts))
    schedule = LinearSchedule(*start.schedule) if start.schedule else annealing.annealing(config)
    topology = assemble(config, source, built, seeds, progress, schedule=schedule, group=group)
    supervisor = Supervisor(topology.gate, topology.wake)
    signals: list[tuple[int, float]] = []
    with on_signal(lambda number: signals.append((number, time.monotonic()))), one_torch_thread(), supervisor:
        group.watch(supervisor, progress)
        with suppress(Closed):
            group.follow_first(topology.master)
        topology.start(supervisor, lambda: None)
        while not supervisor.wait(POLL_SECONDS):
            topology.look_after(supervisor, lambda: None)
            if signals and time.monotonic() > signals[0][1] + _SIGNAL_SECONDS:
                group.fail(f"it was stopped by signal {signals[0][0]}")
                supervisor.end()
    failure = supervisor.failure
    if failure and not group.ended_in_order:
        trace = "".join(traceback.format_exception(failure.error))
        group.fail(f"{failure.part}: {one_line(failure.error)}", trace)
    close_in_time(topology.close, lambda: False)
    return "" if group.ended_in_order else "not ended by rank 0"
