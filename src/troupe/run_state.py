"""What a checkpoint keeps of a run, and how a resumed run is put back to it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from troupe.config import TrainConfig
from troupe.environments import EnvironmentSource, spaces
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import named
from troupe.runs.evaluate.collapse_handler import Rescue
from troupe.runs.evaluate.judge import Judge
from troupe.runs.store import compatibility
from troupe.runs.store.checkpoint import Checkpoint
from troupe.runtime.learning import annealing
from troupe.runtime.progress import Episode
from troupe.runtime.topologies import Serial, Topology


def why_streams_are_lost(config: TrainConfig, source: EnvironmentSource, saved: Checkpoint) -> str | None:
    """Why a resumed run begins new episodes and random streams: None where it does not, "" where nobody expects
    anything else."""
    if not config.traits.serial:
        return ""
    if not source.is_restorable(config.env):
        why = f"env.backend {config.env.backend} cannot restore the state of environments"
    elif saved.streams is None:
        why = "its checkpoint is not of a serial run whose state could be restored"
    elif saved.streams["shape"] != [config.actor.environments, config.actor.window_steps]:
        why = "actor.environments or actor.window_steps has been changed"
    else:
        return None
    return f"it continues with new episodes and random streams, not as it would have without a stop: {why}"


def restore(
    saved: Checkpoint, topology: Topology, network: ActorCritic, judge: Judge, rescue: Rescue, *, streams: bool
) -> None:
    """Puts back all but the weights, with which the network was made; `streams` says whether those are restored too."""
    topology.master.load(compatibility.optimizer_state(saved.optimizer, network))
    topology.restore_novelty(saved.novelty)
    if saved.streams and streams and isinstance(topology, Serial):
        progress = topology.progress
        progress.restore(progress.counts, [Episode(*each) for each in saved.streams["recent"]])
        progress.notices += topology.restore(saved.streams)
    judge.restore(saved.best, saved.state)
    if "rescue" in saved.state:  # earlier versions had none
        rescue.restore(saved.state["rescue"])


def capture(
    topology: Topology, network: ActorCritic, judge: Judge, rescue: Rescue, source: EnvironmentSource, **state: Any
) -> Checkpoint:
    """A copy of everything as it is now, for whoever holds the master's lock; `state` is added to state.json."""
    snapshot = topology.snapshot()
    model = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model |= named(network, snapshot.weights)
    recent = [[episode.total, episode.length] for episode in snapshot.recent]
    whole_state: Mapping[str, Any] = {
        "counts": asdict(snapshot.counts),
        "version": snapshot.version,
        **state,
        **judge.state(),
        "rescue": rescue.state(),
        "annealing": annealing.state_of(topology.schedule),
        "observation_space": spaces.describe(source.observation_space),
        "action_space": spaces.describe(source.action_space),
        "masked": source.masked,
    }
    return Checkpoint(
        model=model,
        best=model | judge.best(snapshot.eval_weights),
        optimizer=snapshot.optimizer,
        state=whole_state,
        streams=snapshot.streams and snapshot.streams | {"recent": recent},
        novelty=snapshot.novelty,
    )
