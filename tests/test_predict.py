"""`Agent.predict`, as Stable-Baselines3 has it."""

import gymnasium as gym
import numpy as np
import pytest

from troupe import Agent, UsageError
from troupe.config import Network
from troupe.networks.actor_critic import build

SPACES = gym.spaces.Box(-1.0, 1.0, (3,), np.float32), gym.spaces.Discrete(4)


def agent(core: str = "none") -> Agent:
    return Agent(build(*SPACES, Network(core=core, core_units=8, hidden=(8,))).eval(), *SPACES)


def observations(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def test_without_memory_it_gives_actions_for_one_and_for_a_batch_and_no_state():
    made = agent()
    batch = observations(5)
    actions, state = made.predict(batch, deterministic=True)
    assert (actions.shape, state) == ((5,), None)
    assert [made.predict(each, deterministic=True)[0] for each in batch] == actions.tolist()
    assert actions.tolist() == made.act(batch, greedy=True).tolist()
    sampled = {int(made.predict(batch[0])[0]) for _ in range(200)}
    assert len(sampled) == 4


def test_the_loop_of_stable_baselines_gives_what_act_and_reset_give():
    made, other = agent("lstm"), agent("lstm")
    other.network.load_state_dict(made.network.state_dict())
    starts = np.zeros((12, 2), bool)
    starts[0], starts[4, 1], starts[9, 0] = True, True, True
    state = None
    for batch, episode_start in zip(observations(12, 2), starts, strict=True):
        other.reset(episode_start)
        expected = other.act(batch, greedy=True)
        actions, state = made.predict(batch, state, episode_start, deterministic=True)
        assert actions.tolist() == expected.tolist()
    assert made._state is None  # of `act`: untouched


def test_a_state_is_of_its_caller_and_is_not_changed():
    made = agent("gru")
    first, second = observations(2, 1)
    _, state = made.predict(first, deterministic=True)
    again = [made.predict(second, state, np.array([begins]), deterministic=True)[1] for begins in (False, True, False)]
    assert all(bool((one == other).all()) for one, other in zip(again[0], again[2], strict=True))
    assert not bool((again[0][0] == again[1][0]).all())
    assert not state.resets.any()


def test_a_state_that_predict_did_not_return_is_refused():
    with pytest.raises(UsageError, match="state is a tuple: expected None, or the state that predict returned"):
        agent("lstm").predict(observations(2), (np.zeros((2, 8)), np.zeros((2, 8))))


def test_a_file_of_an_agent_is_a_path():
    for write in (agent().save, agent().export):
        with pytest.raises(UsageError, match="file = 3: expected a path"):
            write(3)


def test_a_mask_is_refused_by_an_agent_that_was_trained_without():
    made, (observation,) = agent(), observations(1)
    assert not made.reads_masks
    for ask in (made.act, made.predict, made.distribution, made.choice_probabilities):
        with pytest.raises(UsageError, match="mask=: this agent was trained without masks, or finds"):
            ask(observation, mask=np.ones(4, np.int8))


def test_a_mask_apart_is_refused_where_it_is_part_of_the_observation():
    space = gym.spaces.Dict({"seen": SPACES[0], "action_mask": gym.spaces.Box(0, 1, (4,), np.int8)})
    network = build(space, SPACES[1], Network(hidden=(8,)), "observation").eval()
    made = Agent(network, space, SPACES[1])
    observation = {"seen": observations(1)[0], "action_mask": np.array([0, 0, 1, 0], np.int8)}
    assert made.act(observation) == 2
    with pytest.raises(UsageError, match="or finds them in its observations"):
        made.act(observation, mask=np.ones(4, np.int8))


def test_an_episode_start_may_be_numbers():
    made = agent("lstm")
    first, second = observations(4, 2)[:2]
    _, state = made.predict(first, deterministic=True)
    by_number, by_bool = (
        made.predict(second, state, begins, deterministic=True)[1] for begins in ([1, 0], np.array([True, False]))
    )
    assert all(bool((one == other).all()) for one, other in zip(by_number, by_bool, strict=True))


def test_an_episode_start_of_another_length_is_refused():
    made = agent("lstm")
    _, state = made.predict(observations(2))
    with pytest.raises(UsageError, match="episode_start has 3 entries, and the state is of 2"):
        made.predict(observations(2), state, [True, False, True])
