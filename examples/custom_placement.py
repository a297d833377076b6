"""An actor placement of your own: each actor in the thread that its runner has.

troupe train CartPole-v1 --actor.placement custom_placement.py:in_threads
"""

import itertools

import numpy as np

import troupe


class Runner:
    """Runs one actor. One on another machine would send the plan there, and hand on what comes back."""

    def __init__(self, plan, context):
        self.number, self.queue = plan.number, context.buffers.queues[plan.number]
        self.actor = plan.build(0, context.progress, context.gate, np.zeros(1))
        self.watch, self.context = self.actor.watch, context

    def run(self, deliver):
        for index in itertools.count():
            self.context.workers.wait("actors", self.number)
            rollout = self.queue.acquire()
            rollout.actor, rollout.generation, rollout.index = self.number, 0, index
            self.actor.collect(rollout)
            self.context.journal.rollout(rollout)
            deliver(rollout)

    def successor(self):
        return None  # an environment that hangs is waited for

    def close(self):
        self.actor.close()


def in_threads(plans, context):
    return [Runner(plan, context) for plan in plans]


if __name__ == "__main__":
    run = troupe.train("CartPole-v1", placement=in_threads, seed=1, steps=200_000)
    print(f"{run.outcome} after {run.steps:,} steps: mean return {run.scores.mean:.1f}")
