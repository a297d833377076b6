"""The placement of actors on a cluster, and the connection of a run to it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar

from troupe.config import TrainConfig, UsageError
from troupe.extras import need
from troupe.importing import announced
from troupe.runtime.acting.actor_plan import ActorPlan
from troupe.runtime.cluster.engine import Engine, Node
from troupe.runtime.cluster.head import ClusterRunner
from troupe.runtime.cluster.host import parcel_sizes
from troupe.runtime.cluster.parcel import record_type
from troupe.runtime.cluster.remote import IN_FLIGHT
from troupe.runtime.data.rollout import RolloutSpec
from troupe.runtime.execution.processes import check_sendable
from troupe.runtime.execution.runner import ActorContext, ActorRunner
from troupe.runtime.measure import cores

_engine: ContextVar[Engine | None] = ContextVar("engine", default=None)
_STORE_SHARE = 0.3  # of a machine's object store, at most, for rollouts in transit


@contextmanager
def connected(config: TrainConfig, *, quiet: bool = True, rank: int = 0, ranks: int = 1) -> Iterator[None]:
    """Inside, a run with actors on a cluster is connected to it; of several `ranks` each is. Raises UsageError."""
    if config.actor.cluster == "none" or _engine.get() is not None:
        yield
        return
    need("cluster")
    from troupe.runtime.cluster import ray_engine

    with ExitStack() as stack:
        with nullcontext() if quiet else announced("connecting to the cluster ..."):
            engine = stack.enter_context(ray_engine.connected(config.actor.cluster, rank, ranks))
        with using(engine):
            yield


@contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Inside, runs on a cluster use this engine."""
    before = _engine.set(engine)
    try:
        yield
    finally:
        _engine.reset(before)


def cores_of_hosts(config: TrainConfig) -> int:
    """The free cores of all hosts, or all their cores if none is free; 0 for a run without a cluster."""
    engine = _engine.get()
    if config.actor.cluster == "none" or engine is None:
        return 0
    return sum(node.free for node in engine.nodes()) or sum(node.cores for node in engine.nodes())


def runs_at_a_time(config: TrainConfig) -> int:
    """Of a series: as many as the hosts have cores for their actors, and this machine for their learners."""
    if not cores_of_hosts(config) or "RAY_ADDRESS" not in os.environ:  # by which other processes find the cluster
        return 1
    return max(1, min(cores_of_hosts(config) // config.actor.count, cores()))


def on_hosts(plans: Sequence[ActorPlan], context: ActorContext) -> list[ActorRunner]:
    """One runner for all actors, with its hosts open. Raises UsageError if a host cannot take part."""
    engine = _engine.get()
    assert engine is not None
    check_sendable(plans[0])
    nodes = engine.nodes()
    _check_store(context.buffers.spec, len(plans), nodes)
    available = sum(node.cores for node in nodes)
    if len(plans) > available:
        context.progress.notices.append(f"{len(plans)} actors share {available} cores on the hosts of the cluster")
    runner = ClusterRunner(plans, context, engine)
    runner.open()
    return [runner]


def _check_store(spec: RolloutSpec, actors: int, nodes: Sequence[Node]) -> None:
    """Raises UsageError if rollouts in transit could fill an object store, which Ray would then write to disk."""
    most, _ = parcel_sizes(spec, actors)
    needed, store = IN_FLIGHT * len(nodes) * most * record_type(spec).itemsize, min(node.store_bytes for node in nodes)
    if needed > _STORE_SHARE * store:
        raise UsageError(
            f"rollouts in transit from {len(nodes)} hosts need up to {needed / 1e6:,.0f} MB, and an object store of "
            f"the cluster has {store / 1e6:,.0f} MB, of which they may take {_STORE_SHARE:.0%}: shorter rollouts "
            "(actor.rollout_steps) or fewer environments need less; ray start --object-store-memory gives more"
        )
