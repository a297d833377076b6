"""Episodes of an agent as frames in the environment's own time, each with the agent's policy and value.

What is shown and how fast is the same for a video, a window and the terminal, which only draw it.
"""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from troupe.environments.actions import lowest, scale
from troupe.environments.spaces import MASK, leaves
from troupe.runs.show.rendering import Render, RenderedEnv
from troupe.user_code.guard import user_code

LAST_FRAME_SECONDS = 0.6  # how long the end of an episode stays visible
MAX_STEPS = 10_000  # an episode without a time limit is cut off here
HISTORY_SECONDS = 10.0  # of values that are shown
TOO_LATE_SECONDS = 0.03  # in real time, a frame later than this is dropped,
LONGEST_SECONDS = 0.25  # unless none was shown for this long
MAX_DELAY_SECONDS = 1.0  # behind real time; the time lost in a longer pause is not caught up


class PlayingAgent(Protocol):
    """What plays; `Agent` is one. `mask=` is passed if the environment gives a mask of allowed actions, unless the
    agent says by `reads_masks` that it takes none."""

    def act(self, observation: Any, *, mask: Any = ...) -> Any: ...

    def distribution(self, observation: Any, *, mask: Any = ...) -> tuple[Float[np.ndarray, " actions"] | None, float]:
        """The probability of every action, or None where actions are not discrete; and the value."""


@runtime_checkable
class RecurrentAgent(Protocol):
    """A playing agent with a recurrent state, as `Agent` is: reset before each episode.

    `reward=`, that of the step before, is passed if it reads rewards.
    """

    @property
    def reads_rewards(self) -> bool: ...

    def reset(self) -> None: ...


@runtime_checkable
class ChoosingAgent(Protocol):
    """A playing agent, as `Agent` is, that knows the policy of each choice where an action is several."""

    def choice_probabilities(
        self, observation: Any, *, mask: Any = ..., reward: Any = ...
    ) -> Sequence[Float[np.ndarray, " alternatives"]]: ...


class ActionComponent(NamedTuple):
    """A number of an action, and its position between its bounds, from 0 to 1; or the alternative that a choice took,
    and its probability."""

    value: float
    position: float
    probability: float | None = None  # of a choice


class Decision(NamedTuple):
    """The agent's policy and value for an observation, and its action."""

    probabilities: Float[np.ndarray, " actions"] | None
    value: float
    chosen: int | None  # index of the discrete action; None after the end of the episode
    components: Sequence[ActionComponent] = ()  # of one that is no single choice; after the end, of the last action


class ValueHistory:
    """The value estimates of the last HISTORY_SECONDS of an episode."""

    def __init__(self) -> None:
        self.points: deque[tuple[float, float]] = deque()  # (seconds, value)

    def add(self, seconds: float, value: float) -> None:
        """Values that are not finite are left out."""
        if math.isfinite(value):
            self.points.append((seconds, value))
        while self.points and self.points[0][0] < seconds - HISTORY_SECONDS:
            self.points.popleft()


@dataclass(frozen=True, eq=False)
class PlayState:
    """The state of an episode at one of the agent's steps."""

    episode: int
    episodes: int
    step: int
    seconds: float  # in the environment's time, since the episode began
    episode_return: float  # so far
    decision: Decision
    history: ValueHistory
    ended: bool


class Frame(NamedTuple):
    """A frame of an episode and when it is due; it is rendered only when asked for."""

    state: PlayState
    seconds: float  # since the episode began
    render: Render


def play(
    agent: PlayingAgent, rendered: RenderedEnv, episodes: int, seed: int, max_steps: int = MAX_STEPS
) -> Iterator[Frame]:
    """The frames of the episodes, in order; the last one of each episode is marked as its end."""
    env, camera = rendered.env, rendered.camera
    recurrent = agent if isinstance(agent, RecurrentAgent) else None
    chooser = agent if isinstance(agent, ChoosingAgent) else None
    takes_masks = getattr(agent, "reads_masks", True)
    for episode in range(episodes):
        with user_code():
            observation, info = env.reset(seed=seed if episode == 0 else None)
        camera.rewind()
        if recurrent:
            recurrent.reset()
        history, components = ValueHistory(), list[ActionComponent]()
        episode_return, step, ended, reward = 0.0, 0, False, 0.0
        while True:
            seconds = camera.frame / rendered.fps
            given = {"mask": info[MASK]} if takes_masks and MASK in info and not ended else {}
            if recurrent and recurrent.reads_rewards:
                given["reward"] = reward
            probabilities, value = agent.distribution(observation, **given)
            history.add(seconds, value)
            choices: Sequence[Float[np.ndarray, " alternatives"]] = ()
            if chooser and probabilities is None and not ended:
                choices = chooser.choice_probabilities(observation, **given)
            action: Any = None if ended else agent.act(observation, **given)
            chosen = None if ended or probabilities is None else int(action) - rendered.first_action
            if not ended and probabilities is None:
                components = _components(env.action_space, action, choices)
            decision = Decision(probabilities, value, chosen, components)
            state = PlayState(episode, episodes, step, seconds, episode_return, decision, history, ended)
            if ended or camera.frame % rendered.stride == 0:
                yield Frame(state, seconds, rendered.render)
            if ended:
                break
            camera.begin_step()
            with user_code():
                observation, received, terminated, truncated, info = env.step(action)
            reward = float(received)
            for number, render in camera.skipped:
                yield Frame(state, number / rendered.fps, render)
            episode_return += reward
            step += 1
            ended = terminated or truncated or step >= max_steps


def in_real_time(frames: Iterator[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Each frame when it is due, and whether to show it: late ones are dropped, the end of an episode never."""
    start = shown = time.monotonic()
    for frame in frames:
        now = time.monotonic()
        if frame.seconds == 0:
            start = now
        start = max(start, now - frame.seconds - MAX_DELAY_SECONDS)
        wait = start + frame.seconds - now
        time.sleep(max(wait, 0.0))
        show = frame.state.ended or wait > -TOO_LATE_SECONDS or now - shown > LONGEST_SECONDS
        if show:
            shown = now
        yield frame, show
        if frame.state.ended:
            time.sleep(LAST_FRAME_SECONDS)


def _components(
    space: gym.Space[Any], action: Any, choices: Sequence[Float[np.ndarray, " alternatives"]]
) -> list[ActionComponent]:
    """The numbers of an action in order; choices without a known probability are left out."""
    found, remaining = list[ActionComponent](), iter(choices)
    for leaf in leaves(space):
        values, first = np.asarray(leaf.of(action)), lowest(leaf.space)
        if isinstance(leaf.space, gym.spaces.Box) and first is None:
            middle, unit = scale(leaf.space)
            positions = (0.5 + 0.5 * (values - middle) / np.where(unit > 0, unit, 1)).clip(0, 1)
            found += map(ActionComponent, np.ravel(values).tolist(), np.ravel(positions).tolist())
        else:
            indices = np.ravel(values - first).tolist()
            for value, index, probabilities in zip(np.ravel(values).tolist(), indices, remaining, strict=False):
                found.append(ActionComponent(value, 0.0, float(probabilities[index])))
    return found
