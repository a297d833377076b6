"""A policy with memory from training to play: a cue is shown in the first step and asked for five steps later."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import troupe
from troupe import UsageError
from troupe.agent import Agent
from troupe.config import Network
from troupe.networks.actor_critic import build
from troupe.runs.show import play, rendering

WAIT = 5
SERIAL = {
    "topology": "serial", "actor.count": 1, "actor.environments": 16, "actor.rollout_steps": 16, "learner.rollouts": 1,
    "network.hidden": (16,), "network.core_units": 32, "learner.learning_rate": 3e-3, "loss.normalize_reward": False,
    "evaluation.every_seconds": 0.0, "evaluation.every_steps": 2000, "stop.target": 1.0, "stop.steps": 30_000,
}  # fmt: skip


class Cue(gym.Env[np.ndarray, int]):
    """Shows [-1 or 1, 0], then nothing, then [0, 1]: there the action that is the cue's pays 1. Nothing else pays."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.cue, self.played = int(self.np_random.integers(2)), 0
        return np.array([2 * self.cue - 1, 0], np.float32), {}

    def step(self, action: int) -> Any:
        asked = self.played == WAIT
        self.played += 1
        obs = np.array([0, self.played == WAIT], np.float32)
        return obs, float(asked and action == self.cue), asked, False, {}

    def render(self) -> Any:
        return np.zeros((8, 8, 3), np.uint8)


def train(folder: Path, core: str, **settings: Any) -> troupe.Run:
    return troupe.train(Cue, seed=1, run_dir=folder / "run", settings=SERIAL | {"network.core": core} | settings)


@pytest.fixture(scope="module")
def remembers(tmp_path_factory):
    return train(tmp_path_factory.mktemp("remembers"), "lstm")


@pytest.mark.slow
def test_with_memory_the_cue_is_remembered_and_without_it_guessed(remembers, tmp_path):
    """An evaluation is 100 episodes: all of them right, or about half."""
    assert remembers.scores.mean == 1.0
    assert train(tmp_path, "gru", **{"network.core_inputs": True}).scores.mean == 1.0
    guesses = troupe.evaluate(train(tmp_path / "none", "none", **{"stop.steps": 6000}).path, env=Cue, greedy=False)
    assert 0.3 < guesses.mean < 0.7


def test_what_was_saved_remembers_as_what_was_trained(remembers):
    assert troupe.evaluate(remembers.path, episodes=40, seed=9, env=Cue).mean == 1.0


def episodes(count: int, **how: Any) -> tuple[np.ndarray, np.ndarray]:
    """The observations [WAIT + 1, count, 2] of that many episodes, and their cues."""
    cues = np.random.default_rng(0).integers(2, size=count)
    obs = np.zeros((WAIT + 1, count, 2), np.float32)
    obs[0, :, 0], obs[-1, :, 1] = 2 * cues - 1, 1
    return obs, cues


def test_an_agent_remembers_from_reset_to_reset(remembers):
    agent, (obs, cues) = troupe.load(remembers.path), episodes(10)
    for b, cue in enumerate(cues):
        agent.reset()
        assert [agent.act(each) for each in obs[:, b]][-1] == cue


def test_an_agent_that_is_not_reset_still_remembers_the_old_episode(remembers):
    """Nothing but reset() makes it forget: the same observations are another thing after those of an episode."""
    agent, (obs, _) = troupe.load(remembers.path), episodes(1)
    begun = agent.distribution(obs[0, 0])[1]
    for each in obs[:, 0]:
        agent.act(each)
    assert agent.distribution(obs[0, 0])[1] != begun
    agent.reset()
    assert agent.distribution(obs[0, 0])[1] == begun


def test_looking_at_the_distribution_is_not_remembered(remembers):
    agent, (obs, cues) = troupe.load(remembers.path), episodes(1)
    agent.act(obs[0, 0])
    for _ in range(3):
        agent.distribution(-obs[0, 0])
    for each in obs[1:, 0]:
        action = agent.act(each)
    assert action == cues[0]


def test_the_observations_of_a_batch_have_memories_of_their_own(remembers):
    agent, (obs, cues) = troupe.load(remembers.path), episodes(7)
    assert [agent.act(each) for each in obs][-1].tolist() == cues.tolist()


@pytest.mark.parametrize("given", [lambda ended: ended, np.flatnonzero], ids=["flags", "numbers"])
def test_in_a_batch_episodes_begin_one_by_one(remembers, given):
    """Three episodes of each of six players, who begin a step after one another."""
    agent, (obs, cues) = troupe.load(remembers.path), episodes(18)
    right = 0
    for step in range(3 * (WAIT + 1) + 5):
        at = [min(max(step - player, 0), 3 * (WAIT + 1) - 1) for player in range(6)]
        ended = np.array([step == player or (step > player and at[player] % (WAIT + 1) == 0) for player in range(6)])
        agent.reset(given(ended))
        seen = [obs[each % (WAIT + 1), 3 * player + each // (WAIT + 1)] for player, each in enumerate(at)]
        actions = agent.act(np.stack(seen))
        for player, each in enumerate(at):
            if each % (WAIT + 1) == WAIT and step - player == each:
                assert actions[player] == cues[3 * player + each // (WAIT + 1)]
                right += 1
    assert right == 18


def test_sessions_played_at_once_keep_apart(remembers):
    agent, (obs, cues) = troupe.load(remembers.path), episodes(5)
    sessions = [agent.session() for _ in cues]
    for row in obs:
        actions = [session.act(each) for session, each in zip(sessions, row, strict=True)]
    assert actions == cues.tolist()


def test_another_number_of_observations_is_refused_until_a_reset(remembers):
    agent = troupe.load(remembers.path)
    agent.act(np.zeros((3, 2)))
    with pytest.raises(
        UsageError, match=r"^1 observation for a recurrent agent in the middle of 3: reset\(\) begins new episodes"
    ):
        agent.act(np.zeros(2))
    agent.reset()
    assert agent.act(np.zeros(2)) in (0, 1)


def test_a_video_shows_an_agent_that_forgets_between_episodes(remembers):
    """And the value of each last observation: it is computed with the recurrent state of its own episode."""
    agent = troupe.load(remembers.path)
    agent.act(np.ones((4, 2)))  # whatever it did before
    with rendering.open_rendered(lambda mode: Cue(mode), 30) as rendered:
        states = [frame.state for frame in play.play(agent, rendered, 8, 3)]
    ends = [state for state in states if state.ended]
    assert [state.episode_return for state in ends] == [1.0] * 8
    begins = {round(state.decision.value, 5) for state in states if state.step == 0}
    assert len(begins) == 2  # one of each cue: an episode's first value depends on nothing else


# The reward before


@pytest.fixture
def hears():
    """An agent that reads the action and the reward before, as it was born."""
    torch.manual_seed(0)
    spaces = Cue.observation_space, Cue.action_space
    return Agent(build(*spaces, Network(core="gru", core_inputs=True)), *spaces)


def test_the_reward_of_the_step_before_is_asked_for_but_at_the_beginning(hears):
    assert hears.reads_rewards
    hears.act(np.zeros(2))
    with pytest.raises(UsageError, match=r"^this agent reads the reward of the last step: act\(observation, reward="):
        hears.act(np.zeros(2))
    values = {reward: hears.distribution(np.zeros(2), reward=reward)[1] for reward in (0.0, 1.0)}
    assert values[0.0] != values[1.0]
    hears.act(np.zeros(2), reward=1)
    hears.reset()
    hears.act(np.zeros((3, 2)))
    with pytest.raises(UsageError, match=r"^reward = \[1, 2\]: expected a number for each of 3$"):
        hears.act(np.zeros((3, 2)), reward=[1, 2])
    assert len(hears.act(np.zeros((3, 2)), reward=[1, 2, 3])) == 3


def test_an_agent_at_play_is_given_its_rewards(hears):
    class Rich(Cue):
        def step(self, action: int) -> Any:
            obs, _, *rest = super().step(action)
            return obs, 10.0 * self.played, *rest

    heard = []
    act = hears.act
    hears.act = lambda observation, **given: heard.append(given["reward"]) or act(observation, **given)
    with rendering.open_rendered(lambda mode: Rich(mode), 30) as rendered:
        assert len(list(play.play(hears, rendered, 2, 0))) == 2 * (WAIT + 2)
    assert heard == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0] * 2
