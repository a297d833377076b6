"""The end of a serial batch: what is kept of it, and parts that are put back to it."""

from typing import Any

import numpy as np
import pytest
import torch

from helpers.rollouts import check
from troupe.config import TroupeError, resolve
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.runtime.assembly import assemble
from troupe.runtime.data.rollout import FIELDS, Rollout
from troupe.runtime.progress import Progress
from troupe.runtime.topologies import Topology

SETTINGS = {
    "topology": "serial", "actor.count": 1, "actor.environments": 3, "actor.rollout_steps": 1, "network.hidden": (8,),
    "exploration.epsilon": 0.5, "learner.rollouts": 1,
}  # fmt: skip
WINDOW = SETTINGS | {"actor.environments": 1, "actor.window_steps": 3, "loss.kind": "a3c"}
MEMORY = SETTINGS | {"network.core": "lstm", "network.core_units": 6, "network.core_inputs": True}


def assembled(env: Any, settings: dict[str, Any], seed: int) -> Topology:
    source = find(env)
    config = resolve(source.id, settings=settings, tuned=False)
    torch.manual_seed(0)
    network = build(source.observation_space, source.action_space, config.network)
    return assemble(config, source, network, np.random.SeedSequence(seed), Progress())


def collected(parts: Topology) -> Rollout:
    full: list[Rollout] = []
    parts.runners[0].collect(full.append)
    parts.queue.release(full)
    return full[0]


def kept(parts: Topology) -> Any:
    """The streams as a checkpoint gives them: arrays made, and nothing shared with the parts."""

    def made(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: made(item) for name, item in value.items()}
        if isinstance(value, list):
            return [made(item) for item in value]
        return np.array(value) if hasattr(value, "__array__") else value

    parts.end_batch()
    return made(parts.snapshot().streams)


@pytest.mark.parametrize("settings", [SETTINGS, WINDOW, MEMORY], ids=["rollouts", "window", "memory"])
def test_at_every_step_of_an_episode_its_end_and_its_reset_a_restored_actor_goes_on_alike(settings):
    parts = assembled("CartPole-v1", settings, 1)
    for _ in range(25):
        streams, again = kept(parts), assembled("CartPole-v1", settings, 2)
        assert again.restore(streams) == []
        for _ in range(2):
            ours, theirs = collected(parts), collected(again)
            assert ours.index == theirs.index
            for name in FIELDS:
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_an_environment_that_came_out_elsewhere_begins_an_episode_of_its_own_and_the_others_go_on(counting):
    """Counting shows [episode, step]. The second of three is restored to another state."""
    parts, again = (assembled(lambda: counting([(9, "terminated")]), SETTINGS, 1) for _ in range(2))
    for _ in range(4):
        collected(parts)
    streams = kept(parts)
    first = streams["actors"][0]
    first["obs"][:, 0] = 1  # a new Counting is in its second episode when it is played again
    first["obs"][1] = 7
    first["ended"][1] = True
    (line,) = again.restore(streams)
    assert line.startswith("1 of 3 environments did not reach the same state")
    rollout = collected(again)
    check(rollout)
    assert rollout.first[0].tolist() == [False, True, False]
    assert rollout.valid[0].tolist() == [True, True, True]
    assert rollout.obs[:, :, 1].tolist() == [[4, 0, 4], [5, 1, 5]]
    for _ in range(8):
        collected(again)
    assert [episode.length for episode in again.progress.recent] == [9, 9, 9]
    totals = sorted(episode.total for episode in again.progress.recent)
    assert all(10 * sum(range(9)) <= total <= 10 * sum(range(9)) + 18 for total in totals)


def test_no_sample_of_a_window_reaches_from_an_episode_that_was_lost_into_a_new_one(counting):
    """Samples of three rows: the first after the restore begins where the new episode does."""
    parts, again = (assembled(lambda: counting([(9, "terminated")]), WINDOW, 1) for _ in range(2))
    collected(parts)
    streams = kept(parts)
    (line,) = again.restore(streams)
    assert line.startswith("1 of 1 environments did not reach the same state")
    sample = collected(again)
    assert sample.obs[:, 0, 1].tolist() == [0, 3]
    assert sample.first[0, 0]


def test_a_window_is_put_back_from_before_rollouts_had_past_returns(counting):
    old = WINDOW | {"loss.normalize_reward": False}
    parts, again = (assembled(lambda: counting([(9, "terminated")]), old, 1) for _ in range(2))
    collected(parts)
    streams = kept(parts)
    del streams["actors"][0]["rows"]["past_return"]
    again.restore(streams)
    assert not collected(again).past_return.any()


def test_a_stopped_run_is_left_at_the_end_of_its_last_batch(counting):
    parts = assembled(counting, SETTINGS, 1)
    parts.end_batch()
    snapshot = parts.snapshot()
    weights = parts.master.vector.clone()
    parts.learners[0].learn(collected(parts))
    assert not torch.equal(parts.master.vector, weights)
    assert parts.progress.counts != snapshot.counts
    parts.rewind()
    assert torch.equal(parts.master.vector, weights)
    assert all(torch.equal(tensor, snapshot.optimizer[name]) for name, tensor in parts.master.optimizer.state().items())
    assert parts.progress.counts == snapshot.counts


def test_how_many_gradients_were_refused_in_a_row_is_not_forgotten(counting):
    learners = []
    for number in range(2):
        (learner,) = assembled(counting, SETTINGS, number).learners
        learners.append(learner)
        if number:
            learner.restore(learners[0].state())
        for _ in range(60 if not number else 39):
            learner.apply_gradient(torch.full_like(learner.weights.vector, float("nan")))
    with pytest.raises(TroupeError, match="100 gradients in a row were not finite"):
        learners[1].apply_gradient(torch.full_like(learners[1].weights.vector, float("nan")))
