"""Playing to be shown: which pictures, of which states, when; in small environments and in Pong."""

import math
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from troupe.agent import Agent
from troupe.config import Network, TroupeError, UsageError
from troupe.networks.actor_critic import build
from troupe.runs.show import play, rendering


class Repeating(gym.Wrapper[Any, Any, Any, Any]):
    """Takes every action `times` times; starts with a few frames of its own."""

    def __init__(self, env: rendering.Env, times: int):
        super().__init__(env)
        self.times = times

    def reset(self, **arguments: Any) -> Any:
        self.env.reset(**arguments)
        for _ in range(3):
            result = self.env.step(0)
        return result[0], {}

    def step(self, action: Any) -> Any:
        total = 0.0
        for _ in range(self.times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated:
                break
        return observation, total, terminated, truncated, info


def frames_of(agent: Any, env: rendering.Env, fastest: float, **arguments: Any) -> list[tuple[play.Frame, np.ndarray]]:
    rendered = rendering.RenderedEnv(env, fastest)
    return [(frame, frame.render()) for frame in play.play(agent, rendered, 1, 0, **arguments)]


def test_every_moment_has_what_the_agent_thought_and_chose(countdown, decided):
    seen = frames_of(decided(), countdown("rgb_array"), 60)
    states = [frame.state for frame, _ in seen]
    assert [state.step for state in states] == [0, 1, 2, 3, 4, 5]
    assert [state.episode_return for state in states] == [0, 1, 2, 3, 4, 5]
    assert [state.decision.chosen for state in states] == [1, 1, 1, 1, 1, None]
    assert [frame.seconds for frame, _ in seen] == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])
    assert states[-1].ended
    assert states[-1].history.points[-1] == pytest.approx((0.1, 12.5))


def test_an_agent_that_takes_no_mask_is_given_none(countdown):
    env = countdown("rgb_array")
    env.step = lambda action: (np.zeros(1, np.float32), 1.0, False, True, {"action_mask": np.ones(3, np.int8)})
    env.reset = lambda **_: (np.zeros(1, np.float32), {"action_mask": np.ones(3, np.int8)})
    env.render = lambda: np.zeros((40, 60, 3), np.uint8)
    spaces = env.observation_space, env.action_space
    agent = Agent(build(*spaces, Network(hidden=(8,))).eval(), *spaces)
    assert len(frames_of(agent, env, 60)) == 2


def test_a_chosen_action_is_counted_from_the_spaces_first(countdown, decided):
    env = countdown("rgb_array")
    env.action_space = gym.spaces.Discrete(3, start=1)
    assert frames_of(decided(), env, 60)[0][0].state.decision.chosen == 0


def test_actions_that_cannot_be_counted_have_no_probabilities(countdown):
    class Steering:
        def act(self, observation: Any) -> Any:
            return np.array([0.3, 0.1])

        def distribution(self, observation: Any) -> tuple[None, float]:
            return None, 1.0

    env = countdown("rgb_array")
    env.action_space = gym.spaces.MultiDiscrete([2, 2], start=[1, 0])
    assert frames_of(Steering(), env, 60)[0][0].state.decision == (None, 1.0, None, [])


MIXED = gym.spaces.Dict(gas=gym.spaces.Box(0, 4, (1,)), gear=gym.spaces.Discrete(3, start=1))


@pytest.mark.parametrize(
    ("space", "alternatives"),
    [
        (gym.spaces.MultiDiscrete([3, 2], start=[1, 0]), [[1, 2, 3], [0, 1]]),
        (gym.spaces.MultiBinary(2), [[0, 1], [0, 1]]),
        (gym.spaces.Box(np.array([0, -3]), np.array([2, -1]), dtype=np.int8), [[0, 1, 2], [-3, -2, -1]]),
        (MIXED, [None, [1, 2, 3]]),
    ],
)
def test_each_choice_of_an_action_has_what_was_chosen_and_its_probability(countdown, space, alternatives):
    env = countdown("rgb_array")
    env.action_space = space
    torch.manual_seed(0)
    agent = Agent(build(env.observation_space, space, Network()), env.observation_space, space)
    states = [frame.state for frame, _ in frames_of(agent, env, 60)]
    assert states[0].decision.probabilities is None
    choices = iter(agent.choice_probabilities(np.zeros(1)))
    for component, values in zip(states[0].decision.components, alternatives, strict=True):
        if values is None:
            assert component.probability is None
            continue
        probabilities = next(choices)
        assert probabilities.sum() == pytest.approx(1)
        assert component.value == values[probabilities.argmax()]  # the greedy agent's choice
        assert component.probability == pytest.approx(probabilities.max())
    assert states[-1].decision.components == states[-2].decision.components  # the last action stays


def test_numbers_of_an_action_stand_between_their_bounds_and_those_of_the_last_one_at_the_end(countdown):
    class Steering:
        step = 0.0

        def act(self, observation: Any) -> Any:
            self.step += 1
            return np.array([self.step, -0.5, 7.0], np.float32)

        def distribution(self, observation: Any) -> tuple[None, float]:
            return None, 1.0

    env = countdown("rgb_array", length=2)
    bounds = np.array([0, -1, -np.inf], np.float32), np.array([4, 1, np.inf], np.float32)
    env.action_space = gym.spaces.Box(*bounds)
    decisions = [frame.state.decision for frame, _ in frames_of(Steering(), env, 60)]
    assert [[component[:2] for component in each.components] for each in decisions] == [
        [(1, 0.25), (-0.5, 0.25), (7, 1)], [(2, 0.5), (-0.5, 0.25), (7, 1)], [(2, 0.5), (-0.5, 0.25), (7, 1)],
    ]  # fmt: skip


def test_an_observation_that_ends_an_episode_and_allows_nothing_is_valued_and_shown():
    class Barred(gym.Env[Any, Any]):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
        observation_space = gym.spaces.Dict(
            {"action_mask": gym.spaces.MultiBinary(2), "left": gym.spaces.Box(0, 9, (1,))}
        )
        action_space = gym.spaces.Discrete(2)
        render_mode = "rgb_array"

        def reset(self, **_: Any) -> Any:
            self.left = 3
            return self._obs(), {}

        def step(self, action: int) -> Any:
            self.left -= 1
            return self._obs(), 1.0, self.left == 0, False, {}

        def render(self) -> Any:
            return np.zeros((8, 8, 3), np.uint8)

        def _obs(self) -> Any:
            return {"action_mask": np.array([0, self.left > 0], np.int8), "left": np.full(1, self.left, np.float32)}

    spaces = Barred.observation_space, Barred.action_space
    agent = Agent(build(*spaces, Network(), "observation"), *spaces)
    states = [frame.state for frame, _ in frames_of(agent, Barred(), 60)]
    assert [state.decision.chosen for state in states] == [1, 1, 1, None]
    assert states[0].decision.probabilities.tolist() == [0, 1]
    assert states[-1].decision.probabilities.sum() == pytest.approx(1)
    with pytest.raises(UsageError, match=r"^action_mask forbids every action$"):
        agent.act({"action_mask": np.zeros(2, np.int8), "left": np.zeros(1)})


def test_frames_that_a_wrapper_skips_are_seen_at_the_environments_speed(countdown, decided):
    """Ten steps of four frames, of which every second makes an image; frames before the first step do not count."""
    env = Repeating(countdown("rgb_array", length=43), 4)
    seen = frames_of(decided(), env, 25)
    assert [round(50 * frame.seconds) for frame, _ in seen] == list(range(0, 41, 2))
    assert [image[0, 0, 0] for _, image in seen] == [min(20 * (3 + frame), 250) for frame in range(0, 41, 2)]
    assert [frame.state.step for frame, _ in seen[:5]] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("fastest", [50, 25, 20, 10])
def test_pictures_are_evenly_spaced_whatever_is_skipped(countdown, decided, times, fastest):
    env = Repeating(countdown("rgb_array", length=33), times)
    frames = [round(50 * frame.seconds) for frame, _ in frames_of(decided(), env, fastest)]
    stride = math.ceil(50 / fastest)
    assert frames == sorted({*range(0, 30, stride), 30})


def test_what_blinks_in_an_emulator_is_always_seen_and_what_moves_is_not_doubled(countdown, decided):
    class Blinking(countdown):
        """An emulator's image: one thing in every second frame, and one that moves."""

        ale, _frameskip = SimpleNamespace(), 1

        def render(self) -> Any:
            image = np.zeros((4, 80, 3), np.uint8)
            image[0, 0] = 200 * (self.step_number % 2 == 0)  # never when an image is due
            image[2, 2 * self.step_number : 2 * self.step_number + 4] = 100
            return image

    env = Repeating(Blinking("rgb_array", length=23), 4)
    seen = frames_of(decided(), env, 60)
    assert len(seen) == 1 + 10  # at 30 pictures/s although 60 were allowed
    assert [frame.seconds for frame, _ in seen[:3]] == pytest.approx([0, 2 / 60, 4 / 60])
    for _, image in seen[1:]:
        assert (image[0, 0] == 200).all()
        assert (image[2, :, 0] > 0).sum() == 4


def test_pong_has_thirty_pictures_for_a_second_of_the_game(decided):
    pytest.importorskip("ale_py")
    from troupe.environments import find

    class Still(decided):
        def distribution(self, observation: Any) -> tuple[np.ndarray, float]:
            assert observation.shape == (84, 84, 4)
            return np.full(6, 1 / 6), 0.0

    rendered = rendering.RenderedEnv(find("ALE/Pong-v5").make("rgb_array"), 60)
    seen = [(frame, frame.render()) for frame in play.play(Still(), rendered, 1, 0, max_steps=60)]
    rendered.env.close()
    assert rendered.shown_fps == 30
    assert rendered.action_names == ["noop", "fire", "right", "left", "right fire", "left fire"]
    assert [round(60 * frame.seconds) for frame, _ in seen] == list(range(0, 241, 2))
    assert seen[-1][0].state.step == 60
    assert all(image.shape == (210, 160, 3) for _, image in seen)
    ball = [(image[34:194] == 236).all(axis=2).any() for _, image in seen]
    assert sum(ball) > 30


def test_values_are_remembered_for_ten_seconds():
    history = play.ValueHistory()
    for second in range(30):
        history.add(float(second), float(second))
    history.add(30.0, math.nan)
    assert list(history.points) == [(float(second), float(second)) for second in range(20, 30)]


@pytest.mark.parametrize(
    ("words", "name"), [("NOOP", "noop"), ("UPRIGHTFIRE", "up right fire"), ("DOWNLEFT", "down left"), ("Jump", "jump")]
)
def test_actions_have_their_emulators_names(words, name, countdown):
    class Named(countdown):
        def get_action_meanings(self) -> list[str]:
            return [words]

    actions = rendering.RenderedEnv(Named("rgb_array"), 60).action_names
    assert rendering.action_name(actions, 0) == name
    assert rendering.action_name(actions, 1) == "action 1"


class TestRealTime:
    def test_shots_come_when_they_are_due(self, countdown, decided, clock):
        rendered = rendering.RenderedEnv(countdown("rgb_array"), 60)
        times = [(clock.now, show) for _, show in play.in_real_time(play.play(decided(), rendered, 2, 0))]
        second = 0.1 + play.LAST_FRAME_SECONDS
        assert [time for time, _ in times] == pytest.approx(
            [start + 0.02 * step for start in (0, second) for step in range(6)]
        )
        assert all(show for _, show in times)

    def test_those_too_late_are_left_out_but_not_for_long(self, countdown, decided, clock):
        """Steps take twice the time they should: nothing can be made up for, and there are still pictures."""

        class Slow(countdown):
            def step(self, action: int) -> Any:
                clock.now += 0.04
                return super().step(action)

        rendered = rendering.RenderedEnv(Slow("rgb_array", length=200), 60)
        shown = [clock.now for _, show in play.in_real_time(play.play(decided(), rendered, 1, 0)) if show]
        assert len(shown) < 60
        assert max(np.diff(shown)) < 0.35

    def test_a_long_pause_is_not_made_up_for(self, countdown, decided, clock):
        class Pausing(countdown):
            def step(self, action: int) -> Any:
                clock.now += 100 * (self.step_number == 2)
                return super().step(action)

        rendered = rendering.RenderedEnv(Pausing("rgb_array", length=200), 60)
        for _ in play.in_real_time(play.play(decided(), rendered, 1, 0)):
            pass
        assert clock.now == pytest.approx(100 + 4 - play.MAX_DELAY_SECONDS + play.LAST_FRAME_SECONDS, abs=0.2)


def blind(countdown: Any) -> Any:
    def make(mode: str) -> rendering.Env:
        env = countdown()
        env.metadata = {"render_modes": ["ansi"]}
        return env

    return make


def modeless(countdown: Any) -> Any:
    def make(mode: str) -> rendering.Env:
        env = countdown()
        env.metadata = {}
        return env

    return make


def deaf(countdown: Any) -> Any:
    class Deaf(countdown):
        def __init__(self) -> None:
            super().__init__()

    return lambda mode: Deaf(render_mode=mode)


def empty(countdown: Any) -> Any:
    class Empty(countdown):
        def render(self) -> Any:
            return None

    return Empty


def broken(countdown: Any) -> Any:
    class Broken(countdown):
        def render(self) -> Any:
            raise OSError("no OpenGL\nand more")

    return Broken


@pytest.mark.parametrize(
    ("make_env", "words"),
    [
        (blind, r"Countdown cannot be shown: it offers render modes ansi \('rgb_array' is needed\)"),
        (modeless, r"it offers no render modes \('rgb_array' is needed\)"),
        (deaf, "cannot be shown: it takes no render_mode"),
        (empty, "returned None, not an image"),
        (broken, "Broken could not render: no OpenGL$"),
    ],
)
def test_an_environment_without_pictures_is_a_plain_line(make_env, words, countdown, decided):
    def show():
        with rendering.open_rendered(make_env(countdown), 60) as rendered:
            for frame in play.play(decided(), rendered, 1, 0):
                frame.render()

    with pytest.raises(TroupeError, match=words):
        show()
