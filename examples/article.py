"""The article's program on the library's parts: eight actors, one queue, two learners, thirty seconds.

`troupe train CartPole-v0 --preset article` is the same with a display, checkpoints and pictures; here every part is
visible. For another environment change ENV.
"""

import copy
import sys
import time
from functools import partial

import numpy as np
import torch

from troupe.algorithm.losses import a3c
from troupe.algorithm.optimizers import RMSProp
from troupe.algorithm.schedules import LinearSchedule
from troupe.config import Environment, Network
from troupe.config import Learner as LearnerConfig
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.networks.flat import FlatWeights
from troupe.runs.evaluate.evaluation import Evaluator
from troupe.runtime.acting.actor import Actor
from troupe.runtime.acting.inference import LocalInference
from troupe.runtime.acting.n_step_window import NStepActor, NStepWindow
from troupe.runtime.data.queue import RolloutQueue
from troupe.runtime.data.rollout import RolloutSpec, allocate, stack
from troupe.runtime.execution.gate import Gate
from troupe.runtime.execution.supervisor import Supervisor, idlest_core
from troupe.runtime.learning.learner import Learner, Objective, Rewards
from troupe.runtime.learning.weights import Master, WeightStore
from troupe.runtime.progress import Progress

ENV = "CartPole-v0"
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
ACTORS, LEARNERS = 8, 2
DELAY_SECONDS = 0.001
GAMMA, N_STEPS = 0.99, 8
EPSILON = LinearSchedule(0, 75_000, 0.40, 0.15)  # over the steps of all actors together
MIN_BATCH = 32

torch.manual_seed(0)
torch.set_num_threads(1)
source = find(ENV)
network = build(source.observation_space, source.action_space, Network(hidden=(16,), activation="relu"))
vector = FlatWeights(network).vector
store = WeightStore(vector)
master = Master(vector, partial(RMSProp, decay=0.99, epsilon=1e-10, initial_accumulator=1.0), store)
gate, progress = Gate(one_at_a_time=True), Progress()
sample = partial(allocate, RolloutSpec(source.observation_space, steps=1, environments=1))
queue = RolloutQueue([sample() for _ in range(1024)])


def act(seeds: np.random.SeedSequence) -> None:
    """One actor: play a step, slide the window, put what it completes into the queue."""
    environment = source.make_vector(1, Environment(backend="sync", delay_seconds=DELAY_SECONDS))
    generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
    inference = LocalInference(FlatWeights(copy.deepcopy(network)), store, generator, gate)
    player = Actor([environment], inference, EPSILON, progress, seeds, pulse=np.zeros(1))
    actor = NStepActor(player, NStepWindow(N_STEPS, GAMMA), [sample() for _ in range(N_STEPS + 1)])
    while True:
        rollout = queue.acquire()
        actor.collect(rollout)
        queue.put(rollout)


def learn(number: int) -> None:
    """One learner: take all that is queued, make one update."""
    loss = partial(a3c, lam=1.0, value_coefficient=0.5, entropy_coefficient=0.01, probability_floor=1e-10)
    config = LearnerConfig(epochs=1, optimizer="rmsprop", learning_rate=0.005, gradient_norm=0.0)
    rng = np.random.default_rng(number)
    learner = Learner(copy.deepcopy(network), master, Objective(loss, Rewards(GAMMA)), config, progress, gate, rng)
    while True:
        rollouts = queue.get(MIN_BATCH, take_all=True)
        progress.consume(rollouts, store.version)
        batch = stack(rollouts)
        queue.release(rollouts)
        learner.learn(batch)


with Supervisor(gate, queue.close) as supervisor:
    core = idlest_core()
    for i, seeds in enumerate(np.random.SeedSequence(0).spawn(ACTORS)):
        supervisor.start(f"actor-{i}", partial(act, seeds), core)
    for i in range(LEARNERS):
        supervisor.start(f"learner-{i}", partial(learn, i), core)
    end = time.monotonic() + SECONDS
    while not supervisor.wait(2.0) and time.monotonic() < end:
        recent = [episode.total for episode in list(progress.recent)[-20:]]
        print(f"{progress.counts.steps:8,} steps   mean of the last 20 returns {np.mean(recent or [0]):6.1f}")

if supervisor.failure:
    raise supervisor.failure.error
scores = Evaluator(source, Environment(), 100).run(network, 100, np.random.SeedSequence(1))
print(f"{progress.counts.steps / SECONDS:,.0f} steps/s; greedy, 100 episodes: mean return {scores.mean:.1f}")
