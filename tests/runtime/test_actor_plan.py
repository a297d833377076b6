"""What an actor is made of, by the settings and by where it will play."""

from typing import Any

import numpy as np
import pytest
import torch

from troupe.config import resolve
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.networks.flat import FlatWeights
from troupe.runtime.acting.actor_plan import ActorPlan
from troupe.runtime.acting.inference import BatchedInference, LocalInference, PredictionQueue
from troupe.runtime.acting.n_step_window import NStepActor
from troupe.runtime.assembly import make_plans
from troupe.runtime.data.rollout import RolloutSpec
from troupe.runtime.data.shared_memory import ByValue
from troupe.runtime.execution.gate import Gate, RemoteGate
from troupe.runtime.learning.weights import WeightStore
from troupe.runtime.progress import Progress

SMALL = {
    "topology": "async", "network.hidden": (4,), "actor.count": 2, "actor.environments": 5, "actor.rollout_steps": 3,
    "env.backend": "sync", "network.normalize": False, "loss.normalize_reward": False, "loss.gamma": 0.7,
}  # fmt: skip


def plan_of(env: Any, batched: bool = False, **settings: Any) -> ActorPlan:
    source, config = find(env), resolve("x", settings=SMALL | settings, tuned=False)
    network = build(source.observation_space, source.action_space, config.network)
    spec = RolloutSpec(source.packing.space, 3, 5, source.actions, network.state_size)
    policy: Any = ByValue(network), WeightStore(FlatWeights(network).vector)
    if batched:
        policy = PredictionQueue(spec, 2, shared=False).client(1)
    seeds = np.random.SeedSequence(1)
    return make_plans(config, source, seeds, seeds, 2, lambda _: policy, "cpu", network.state_size)[1]


def built(plan: ActorPlan, gate: Any = None, generation: int = 0) -> Any:
    actor = plan.build(generation, Progress(), gate or Gate(), np.zeros(1))
    actor.close()
    return actor


def sizes(actor: Any) -> list[int]:
    return [group.environment.count for group in actor._groups]


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, torch.float32),
        ({"network.precision": "bfloat16"}, torch.bfloat16),
        ({"network.precision": "bfloat16", "network.normalize": True}, torch.float32),
        ({"network.precision": "bfloat16", "network.core": "gru"}, torch.float32),
    ],
)
def test_an_actors_weights_have_the_networks_precision_unless_errors_would_add_up(counting, settings, dtype):
    inference = built(plan_of(counting, **settings))._inference
    assert inference._pulled.dtype == dtype
    assert all(parameter.dtype == dtype for parameter in inference._network.parameters())


def test_environments_are_dealt_into_groups_except_where_a_predictor_serves_them(counting):
    assert sizes(built(plan_of(counting, **{"actor.parts": 2}))) == [3, 2]
    batched = built(plan_of(counting, batched=True, **{"actor.parts": 2, "inference.kind": "batched"}))
    assert sizes(batched) == [5]
    assert isinstance(batched._inference, BatchedInference)


def test_an_actor_has_its_process_to_itself_in_serial_and_behind_a_remote_gate(counting):
    serial = {"topology": "serial", "actor.count": 1}
    gate = RemoteGate(Gate().switches)
    assert [built(plan_of(counting))._alone, built(plan_of(counting), gate)._alone] == [False, True]
    actor = built(plan_of(counting, **serial))
    assert actor._alone
    assert actor.state() is not None, "its environments can be restored"
    assert built(plan_of(counting)).state() is None


def test_past_returns_are_recorded_by_the_losss_gamma_where_rewards_are_normalised(counting):
    assert built(plan_of(counting))._past is None
    past = built(plan_of(counting, **{"loss.normalize_reward": True}))._past
    assert (past._gamma, past.total.shape) == (0.7, (5,))


def test_only_a_recurrent_policy_has_a_state(counting):
    assert built(plan_of(counting))._states is None
    states = built(plan_of(counting, **{"network.core": "gru", "network.core_units": 6}))._states
    assert states._state.shape == (5, 6)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_window_has_room_for_one_row_more_than_it_holds(counting, steps):
    settings = {"actor.environments": 1, "actor.window_steps": steps, "loss.kind": "a3c"}
    actor = built(plan_of(counting, **settings))
    assert isinstance(actor, NStepActor)
    assert (actor._window._steps, actor._window._gamma, len(actor._rows)) == (steps, 0.7, steps + 1)
    assert actor.watch is actor._actor.watch


def test_each_generation_draws_other_actions(counting):
    plan = plan_of(counting)
    drawn = []
    for generation in (0, 1, 0):
        inference = built(plan, generation=generation)._inference
        assert isinstance(inference, LocalInference)
        drawn.append(torch.rand(4, generator=inference._generator).tolist())
    assert drawn[0] == drawn[2] != drawn[1]


def test_an_actors_weights_are_its_own(counting):
    """Two actors in threads, and the plan that a third is made from."""
    plan = plan_of(counting)
    one, other = (built(plan)._inference for _ in range(2))
    one._pulled.fill_(7.0)
    assert not (other._pulled == 7.0).any()
    assert not any((parameter == 7.0).any() for parameter in plan.policy_source[0].value.parameters())
