"""Where actors run: `actor.placement` names a placement, which makes their runners.

A custom placement is a callable, passed from Python or named by its file (docs/extending.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from troupe.config import TrainConfig, UsageError, one_line
from troupe.environments import EnvironmentSource
from troupe.interpreter import threads_run_in_parallel
from troupe.runtime.acting.actor_plan import ActorPlan
from troupe.runtime.data.shared_memory import Block
from troupe.runtime.execution.process_launch import NO_PROCESSES, may_have_processes
from troupe.runtime.execution.processes import AHEAD, ActorProcess, check_sendable
from troupe.runtime.execution.runner import ActorContext, ActorRunner, ProcessRunner, ThreadRunner
from troupe.user_code.choices import Choice
from troupe.user_code.files import unwrapped
from troupe.user_code.guard import user_code

PLACEMENTS = Choice("placement", "actor.placement", if_changed="its actors run elsewhere than they did")
MakeRunners = Callable[[Sequence[ActorPlan], ActorContext], Sequence[ActorRunner]]


@dataclass(frozen=True)
class Placement:
    """`make_runners` gets the actors' plans and what they share, and makes a runner for each, in order."""

    name: str
    make_runners: MakeRunners
    in_processes: bool = False  # then weights, rollouts and switches are in memory that other processes see, and
    # training begins when every runner is ready: at its first rollout, or when it calls `context.ready.add(number)`
    rollouts_per_actor: int = 1  # at a time
    elsewhere: bool = False  # on other machines: nothing here is shared with them

    @property
    def plural(self) -> str:
        return {"thread": "threads", "process": "processes", "cluster": "processes"}.get(
            self.name, f"placement {PLACEMENTS.shown(self.name)}"
        )

    def runners(self, plans: Sequence[ActorPlan], context: ActorContext) -> list[ActorRunner]:
        """Raises UsageError if a custom placement fails or does not make a runner for each plan."""
        if PLACEMENTS.is_builtin(self.name) or self.elsewhere:
            return list(self.make_runners(plans, context))
        try:
            with user_code():
                runners = list(self.make_runners(plans, context))
        except Exception as error:
            raise UsageError(f"actor.placement = '{self.name}' failed: {one_line(error)}") from error
        if [getattr(each, "number", None) for each in runners] != [plan.number for plan in plans]:
            raise UsageError(
                f"actor.placement = '{self.name}' made {len(runners)} runners for {len(plans)} actors; "
                "it must make one for each plan, in order, with the plan's number"
            )
        return runners


def _threads(plans: Sequence[ActorPlan], context: ActorContext) -> list[ActorRunner]:
    return [ThreadRunner(plan, context) for plan in plans]


def process_runners(plans: Sequence[ActorPlan], context: ActorContext) -> list[ProcessRunner]:
    check_sendable(plans[0])
    numbers = 1 + max(plan.number for plan in plans)
    pulses = Block({"pulse": ((numbers,), np.float64)}, shared=True)
    return [ProcessRunner(ActorProcess(plan, context.buffers, context.gate, pulses), context) for plan in plans]


_BUILT_IN = {
    "thread": Placement("thread", _threads),
    "process": Placement("process", process_runners, in_processes=True, rollouts_per_actor=AHEAD),
}


def placement_of(config: TrainConfig, source: EnvironmentSource) -> Placement:
    """Where actors run. `auto`: an environment that steps without Python shares this process, others get their own,
    unless threads run Python in parallel.

    Raises UsageError where that cannot be, and for an unknown name.
    """
    name = config.actor.placement
    if config.actor.cluster != "none":
        from troupe.runtime.cluster.placement import on_hosts  # what it needs is loaded for a run on a cluster only

        return Placement("cluster", on_hosts, in_processes=True, rollouts_per_actor=0, elsewhere=True)
    if config.traits.serial:
        if name not in ("auto", "thread"):
            raise UsageError(f"actor.placement = '{name}': topology serial has one thread for everything")
        name = "thread"
    if name == "process" and not may_have_processes():
        raise UsageError(f"actor.placement = 'process': {NO_PROCESSES}; set it to thread, or to auto")
    if name == "auto":
        parallel = threads_run_in_parallel() or source.is_native(config.env)
        name = "thread" if parallel or source.unsendable or not may_have_processes() else "process"
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    make_runners = PLACEMENTS.load(name)
    itself = unwrapped(make_runners)
    in_processes, ahead = getattr(itself, "in_processes", False), getattr(itself, "rollouts_per_actor", 1)
    return Placement(name, make_runners, in_processes, ahead)
