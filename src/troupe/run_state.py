"""What a checkpoint keeps of a run, and how a resumed run is restored from it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from troupe.config import TrainConfig, UsageError, one_line
from troupe.environments import EnvironmentSource
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import named
from troupe.runs.evaluate.collapse_handler import CollapseHandler
from troupe.runs.evaluate.judge import Judge
from troupe.runs.store import compatibility
from troupe.runs.store.checkpoint import Checkpoint
from troupe.runs.store.state import State
from troupe.runs.store.writer import RunWriter
from troupe.runtime.execution.interruption import POLL_SECONDS
from troupe.runtime.learning import annealing
from troupe.runtime.progress import Clock, Episode
from troupe.runtime.topologies import Serial, Topology


def why_streams_are_lost(config: TrainConfig, source: EnvironmentSource, saved: Checkpoint) -> str | None:
    """Why a resumed run begins new episodes and random streams: None if it does not, "" if nothing else is to be
    expected."""
    if not config.traits.serial:
        return ""
    if not source.is_restorable(config.env):
        why = f"env.backend {config.env.backend} cannot restore the state of environments"
    elif saved.streams is None:
        why = "its checkpoint is not of a serial run whose state could be restored"
    elif saved.streams.get("shape") != [config.actor.environments, config.actor.window_steps]:
        why = "actor.environments or actor.window_steps has been changed"
    else:
        return None
    return f"it continues with new episodes and random streams, not as it would have without a stop: {why}"


class RunState:
    """Saves a run and restores it. `resumes` counts the resumes that drew new random streams."""

    def __init__(
        self,
        topology: Topology,
        network: ActorCritic,
        judge: Judge,
        collapse: CollapseHandler,
        source: EnvironmentSource,
        clock: Clock,
        *,
        resumes: int,
        custom_network: bool,
        measured: Sequence[str],
    ):
        self._topology, self._network, self._judge, self._collapse = topology, network, judge, collapse
        self._source, self._clock = source, clock
        self._constant: dict[str, Any] = {
            "resumes": resumes, "custom_network": custom_network, "measured": tuple(measured),
        }  # fmt: skip

    def restore(self, saved: Checkpoint, *, streams: bool) -> None:
        """Restores all but the weights, with which the network was made; the random streams only if `streams`.

        Raises UsageError where the checkpoint, which may come from a stranger, does not fit the run; the topology is
        closed then.
        """
        try:
            self._restore(saved, streams=streams)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            self._topology.close()
            raise UsageError(f"the checkpoint does not fit the run: {one_line(error)}") from error

    def _restore(self, saved: Checkpoint, *, streams: bool) -> None:
        topology, progress = self._topology, self._topology.progress
        topology.master.load(compatibility.optimizer_state(saved.optimizer, self._network))
        topology.restore_novelty(saved.novelty)
        if saved.streams and streams and isinstance(topology, Serial):
            progress.restore(progress.counts, [Episode(*each) for each in saved.streams["recent"]])
            progress.notices += topology.restore(saved.streams)
        self._judge.restore(saved.best, saved.state)
        if saved.state.rescue:  # earlier versions had none
            self._collapse.restore(saved.state.rescue)

    def weights(self, interrupted: Callable[[], bool], *, best: bool) -> dict[str, Tensor]:
        """A copy of the newest weights or of the best, by name. Waits for an evaluation that is under way, unless the
        run is to end."""
        lock = self._topology.master.lock
        while not (held := lock.acquire(timeout=POLL_SECONDS)) and not (interrupted() or self._topology.gate.stopped):
            pass
        try:
            newest = self._topology.master.eval_weights
            return self._judge.best(newest) if best else named(self._network, newest.cpu().clone())
        finally:
            if held:
                lock.release()

    def save(self, writer: RunWriter) -> Path:
        """Writes the last checkpoint. Raises OSError."""
        taken = self._capture(even_if_locked=True)  # by a stuck evaluation: the weights do not change then
        assert taken is not None
        return writer.save(taken)

    def save_while_running(self, writer: RunWriter) -> bool:
        """Writes a checkpoint if that is possible; False while an evaluation holds the weights."""
        taken = self._capture()
        if taken is not None:
            writer.try_to_save(taken)
        return taken is not None

    def _capture(self, *, even_if_locked: bool = False) -> Checkpoint | None:
        """A copy of everything as it is now."""
        lock = self._topology.master.lock
        held = lock.acquire(timeout=POLL_SECONDS)
        try:
            return self._checkpoint() if held or even_if_locked else None
        finally:
            if held:
                lock.release()

    def _checkpoint(self) -> Checkpoint:
        snapshot = self._topology.snapshot()
        model = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        model |= named(self._network, snapshot.weights)
        recent = [[episode.total, episode.length] for episode in snapshot.recent]
        return Checkpoint(
            model=model,
            best=model | self._judge.best(snapshot.eval_weights),
            optimizer=snapshot.optimizer,
            state=State(
                counts=snapshot.counts,
                seconds=self._clock.seconds,
                version=snapshot.version,
                **self._constant,
                **self._judge.state(),
                rescue=self._collapse.state(),
                annealing=annealing.state_of(self._topology.schedule),
                observation_space=self._source.observation_space,
                action_space=self._source.action_space,
                masked=self._source.masked,
            ),
            streams=snapshot.streams and snapshot.streams | {"recent": recent},
            novelty=snapshot.novelty,
        )
