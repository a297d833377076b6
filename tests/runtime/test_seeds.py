"""Randomness: one SeedSequence for a run, no two streams alike, and another seed changes all of them."""

import json
import multiprocessing
import os
import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import troupe
from troupe.config import Environment, resolve
from troupe.environments import find
from troupe.environments.stepping import pool
from troupe.networks.actor_critic import build
from troupe.runs.evaluate.evaluation import Evaluator
from troupe.runtime.assembly import assemble
from troupe.runtime.progress import Progress
from troupe.runtime.topologies import Topology

NEEDS_ENVPOOL = pytest.mark.skipif(not pool.installed(), reason="needs envpool")
BACKENDS = ["native", "sync", pytest.param("envpool", marks=NEEDS_ENVPOOL)]


def built(make: Any, seed: int, **settings: Any) -> Topology:
    source = find(make)
    asked = {
        "topology": "queue",
        "learner.count": 2,
        "actor.count": 3,
        "actor.environments": 2,
        "actor.rollout_steps": 4,
        "actor.placement": "thread",
    }
    config = resolve(source.id, settings=asked | settings)
    network = build(source.observation_space, source.action_space, config.network)
    return assemble(config, source, network, np.random.SeedSequence(seed), Progress())


def first_seeds(parts: Topology) -> list[int]:
    played = [part.environment for runner in parts.runners for part in runner.actor._groups]
    return [env.unwrapped.seeds[0] for each in played for env in each._vector.envs]


def streams(parts: Topology) -> list[tuple[float, ...]]:
    """The first numbers of every generator that actors and learners own."""
    drawn = [tuple(torch.rand(3, generator=runner.actor._inference._generator).tolist()) for runner in parts.runners]
    return drawn + [tuple(learner._rng.random(3).tolist()) for learner in parts.learners]


@pytest.mark.parametrize(("environments", "parts"), [(2, 1), (2, 2), (5, 2)])
def test_no_two_environments_of_a_run_share_a_seed(counting, environments, parts):
    seeds = first_seeds(built(counting, 1, **{"actor.environments": environments, "actor.parts": parts}))
    assert None not in seeds
    assert len(set(seeds)) == len(seeds) == 3 * environments


def test_no_two_actors_or_learners_share_a_stream(counting):
    drawn = streams(built(counting, 1))
    assert len(set(drawn)) == 5


def test_an_actor_that_replaces_another_repeats_no_stream(counting):
    """Neither its predecessors' nor another actor's, in environments or actions."""
    plans = [runner._plan for runner in built(counting, 1).runners]
    states = [
        tuple(seeds.generate_state(4).tolist())
        for plan in plans
        for generation in range(5)
        for seeds in plan._seeds(generation)
    ]
    assert len(set(states)) == len(states) == 3 * 5 * 2


def test_another_seed_changes_every_stream_and_the_same_seed_none(counting):
    one, again, other = built(counting, 1), built(counting, 1), built(counting, 2)
    assert first_seeds(one) == first_seeds(again)
    assert not set(first_seeds(one)) & set(first_seeds(other))
    drawn = streams(one)
    assert drawn == streams(again)
    assert not set(drawn) & set(streams(other))


def test_actors_explore_in_another_way_with_another_seed(counting):
    asked = {"exploration.distribution": "uniform", "exploration.epsilon": "0.1,0.9"}
    epsilons = [[runner.actor._epsilon(0) for runner in built(counting, seed, **asked).runners] for seed in (1, 1, 2)]
    assert epsilons[0] == epsilons[1] != epsilons[2]
    assert len(set(epsilons[0])) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_environments_begin_differently_from_one_another_and_with_every_seed(backend):
    source = find("CartPole-v1")
    obs = []
    for seed in (1, 2):
        vector = source.make_vector(3, Environment(backend=backend))
        obs += vector.reset(np.random.SeedSequence(seed)).copy().tolist()
        vector.close()
    assert len({tuple(each) for each in obs}) == 6


def test_an_environment_is_seeded_once_so_its_episodes_differ(stage, counting):
    staged = stage(counting, environments=1)
    staged.collect(20)
    seed, *later = staged.environments[0].seeds
    assert isinstance(seed, int)
    assert later
    assert set(later) == {None}


def test_evaluations_draw_streams_of_their_own(counting):
    """Not the training environments', not each other's."""
    source = find(counting)
    network = build(source.observation_space, source.action_space, resolve("x").network)
    evaluator = Evaluator(source, Environment(), 4)
    root = np.random.SeedSequence(1)
    training = first_seeds(built(counting, 1))
    seen = []
    for _ in range(3):
        (seeds,) = root.spawn(1)
        evaluator.run(network, 4, seeds)
        seen += [[s for s in env.unwrapped.seeds if s is not None][-1] for env in evaluator._environment._vector.envs]
    assert len(set(seen)) == 12
    assert not set(seen) & set(training)


class Drawing(gym.Env):
    """Leaves what the global streams gave it in a folder, a file for each process."""

    observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)

    def __init__(self, folder: Any):
        if multiprocessing.parent_process() is not None:  # an actor's, not one that is measured or evaluated in
            drawn = [random.random(), float(np.random.random()), float(torch.rand(()))]
            (folder / f"{os.getpid()}").write_text(json.dumps(drawn))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Any:
        return 0, 0.0, True, False, {}


def test_global_streams_differ_from_process_to_process_and_are_the_same_in_the_same_run(tmp_path):
    def drawn(name: str, seed: int) -> set[tuple[float, ...]]:
        folder = tmp_path / name
        folder.mkdir()
        settings = {"actor.count": 2, "actor.environments": 1, "actor.placement": "process", "learner.rollouts": 1}
        settings |= {"evaluation.final_episodes": 1, "actor.rollout_steps": 8, "learner.minibatches": 1}
        troupe.train(lambda: Drawing(folder), seed=seed, steps=20, run_dir=folder / "run", settings=settings)
        return {tuple(json.loads(file.read_text())) for file in folder.iterdir() if file.is_file()}

    first, again, other = drawn("first", 1), drawn("again", 1), drawn("other", 2)
    assert len(first) == 2
    assert len({number for numbers in first for number in numbers}) == 6
    assert first == again
    assert not first & other


def test_an_actor_that_replaces_another_repeats_none_of_its_global_streams(counting):
    plan = built(counting, 1).runners[0]._plan
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    drawn = set()
    try:
        for generation in (0, 1, 0):
            plan.seed_process(generation)
            drawn |= {random.random(), float(np.random.random()), float(torch.rand(()))}
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    assert len(drawn) == 6
