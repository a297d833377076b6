"""An agent at play: every picture of its episodes in the world's own time, with what the agent thinks.

What is shown and how fast is the same for a film, a window and the terminal; those only draw it.
"""

import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from troupe.config import TroupeError, UsageError, one_line
from troupe.environments.actions import scale
from troupe.environments.spaces import MASK
from troupe.environments.stepping.closing import close_and_report
from troupe.runs.show.frames import Picture, Pictures
from troupe.user_code.guard import user_code

Env = gym.Env[Any, Any]
MakeEnv = Callable[[str], Env]  # of a render mode

LAST_PICTURE_SECONDS = 0.6  # how long an episode's end stays to be looked at
MAX_STEPS = 10_000  # an episode without a time limit is left here
HISTORY_SECONDS = 10.0  # for how long values are remembered
TOO_LATE_SECONDS = 0.03  # a picture later than this is left out when playing live,
LONGEST_SECONDS = 0.25  # unless there was none for this long
LATE_SECONDS = 1.0  # playing live is never further behind


class Player(Protocol):
    """What is shown. `Agent` is one. It is told `mask=` where an environment says what is allowed."""

    def act(self, observation: Any, *, mask: Any = ...) -> Any: ...

    def distribution(self, observation: Any, *, mask: Any = ...) -> tuple[Float[np.ndarray, " actions"] | None, float]:
        """The probability of every action, or None where actions cannot be counted; and the value."""


@runtime_checkable
class Remembering(Protocol):
    """A player that remembers what it was shown, as `Agent` is: it is told of each episode that a new one begins, and
    `reward=` of the step before where it reads that."""

    @property
    def reads_rewards(self) -> bool: ...

    def reset(self) -> None: ...


class Number(NamedTuple):
    """One number of an action that is a Box, and where it stands between its bounds: from 0 to 1."""

    value: float
    place: float


class Thought(NamedTuple):
    """What the agent makes of an observation."""

    probabilities: Float[np.ndarray, " actions"] | None
    value: float
    chosen: int | None  # the action it takes; None where the episode is over
    numbers: Sequence[Number] = ()  # of that action, or of the last where the episode is over


class History:
    """The values of the last seconds of an episode."""

    def __init__(self) -> None:
        self.points: deque[tuple[float, float]] = deque()  # (seconds, value)

    def add(self, seconds: float, value: float) -> None:
        """A value that is no number is left out."""
        if math.isfinite(value):
            self.points.append((seconds, value))
        while self.points and self.points[0][0] < seconds - HISTORY_SECONDS:
            self.points.popleft()


@dataclass(frozen=True, eq=False)
class Moment:
    """An observation, from the agent's view."""

    episode: int
    episodes: int
    step: int
    seconds: float  # of the world, since the episode began
    total: float  # the return so far
    thought: Thought
    history: History
    ended: bool


class Shot(NamedTuple):
    """A picture, the moment it belongs to and when it is due; the picture is not drawn before it is asked for."""

    moment: Moment
    seconds: float  # since the episode began
    picture: Callable[[], Picture]


class Stage:
    """An environment that is shown: its pictures at no more than `fastest` a second, and what can be told of it.

    A camera stands below all wrappers, so that the frames are seen that a wrapper above skips.
    """

    def __init__(self, env: Env, fastest: float):
        world = env.unwrapped
        emulator = hasattr(world, "ale")
        repeats = float(np.mean(getattr(world, "_frameskip", 1))) if emulator else 1.0
        self.title, self.actions = _title(env), _action_names(env)
        self.first_action = int(env.action_space.start) if isinstance(env.action_space, gym.spaces.Discrete) else 0
        # ALE's metadata say 30 whatever it repeats. An Atari has 60 frames a second, 12:7 wide pixels, and often
        # draws things in every other frame only: a picture shows those too, and more than 30 would show no more.
        self.fps = 60 / repeats if emulator else _frames_per_second(world, env)
        self.pixel_aspect = 12 / 7 if emulator else 1.0
        flickers = emulator and repeats == 1
        self.stride = math.ceil(self.fps / (min(fastest, 30.0) if flickers else fastest))  # in frames
        self.camera = _Camera(_lowest(env), self.stride, Pictures(self.title), flickers=flickers)
        self.env = _put_below(env, self.camera)

    @property
    def pictures_per_second(self) -> float:
        return self.fps / self.stride

    def picture(self) -> Picture:
        return self.camera.complete(self.camera.draw(self.env))


def play(agent: Player, stage: Stage, episodes: int, seed: int, max_steps: int = MAX_STEPS) -> Iterator[Shot]:
    """Every picture of the episodes, in order; the last moment of each is marked, and always has a picture."""
    env, camera = stage.env, stage.camera
    remembering = agent if isinstance(agent, Remembering) else None
    for episode in range(episodes):
        with user_code():
            observation, info = env.reset(seed=seed if episode == 0 else None)
        camera.rewind()
        if remembering:
            remembering.reset()
        history, numbers = History(), list[Number]()
        total, step, ended, reward = 0.0, 0, False, 0.0
        while True:
            seconds = camera.frame / stage.fps
            told = {"mask": info[MASK]} if MASK in info and not ended else {}
            if remembering and remembering.reads_rewards:
                told["reward"] = reward
            probabilities, value = agent.distribution(observation, **told)
            history.add(seconds, value)
            action: Any = None if ended else agent.act(observation, **told)
            chosen = None if ended or probabilities is None else int(action) - stage.first_action
            numbers = numbers if ended else _numbers(env.action_space, action)
            thought = Thought(probabilities, value, chosen, numbers)
            moment = Moment(episode, episodes, step, seconds, total, thought, history, ended)
            if ended or camera.frame % stage.stride == 0:
                yield Shot(moment, seconds, stage.picture)
            if ended:
                break
            camera.begin_step()
            with user_code():
                observation, received, terminated, truncated, info = env.step(action)
            reward = float(received)
            for frame, picture in camera.between:
                yield Shot(moment, frame / stage.fps, picture)
            total += reward
            step += 1
            ended = terminated or truncated or step >= max_steps


def _numbers(space: gym.Space[Any], action: Any) -> list[Number]:
    if not isinstance(space, gym.spaces.Box):
        return []
    middle, unit = scale(space)
    places = 0.5 + 0.5 * (action - middle) / np.where(unit > 0, unit, 1)
    return [Number(*each) for each in zip(np.ravel(action).tolist(), np.ravel(places).clip(0, 1).tolist(), strict=True)]


def in_real_time(shots: Iterator[Shot]) -> Iterator[tuple[Shot, bool]]:
    """Each shot when it is due, and whether to show it: one that comes late is left out, an episode's end never."""
    start = shown = time.monotonic()
    for shot in shots:
        now = time.monotonic()
        if shot.seconds == 0:
            start = now
        start = max(start, now - shot.seconds - LATE_SECONDS)  # a longer pause is not made up for
        wait = start + shot.seconds - now
        time.sleep(max(wait, 0.0))
        show = shot.moment.ended or wait > -TOO_LATE_SECONDS or now - shown > LONGEST_SECONDS
        if show:
            shown = now
        yield shot, show
        if shot.moment.ended:
            time.sleep(LAST_PICTURE_SECONDS)


@contextmanager
def opened(make_env: MakeEnv, fastest: float) -> Iterator[Stage]:
    """The environment on its stage, closed afterwards; raises UsageError where it draws no pictures."""
    mode = "rgb_array"
    try:
        with user_code():
            env = make_env(mode)
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        raise UsageError(f"this environment cannot be shown: it takes no render_mode ({error})") from None
    try:
        modes = env.metadata.get("render_modes") or []
        if mode not in modes and env.render_mode != mode:
            offered = f"render modes {', '.join(map(str, modes))}" if modes else "no render modes"
            raise UsageError(f"{_title(env)} cannot be shown: it offers {offered} ('{mode}' is needed)")
        yield Stage(env, fastest)
    finally:
        close_and_report(env.close, _title(env))


@contextmanager
def without_display() -> Iterator[None]:
    """SDL is kept from looking for a display and complaining that there is none."""
    chosen = os.environ.get("SDL_VIDEODRIVER")
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        yield
    finally:
        del os.environ["SDL_VIDEODRIVER"]
        if chosen is not None:
            os.environ["SDL_VIDEODRIVER"] = chosen


# The camera


class _Camera(gym.Wrapper[Any, Any, Any, Any]):
    """Counts the frames of a world, and takes a picture of those that a wrapper above it skips.

    Before each frame it knows that the one before was not the last of the agent's step; that last one is
    drawn from above, where other wrappers may have a say in it, and only if it is wanted.
    """

    def __init__(self, env: Env, stride: int, to_picture: Pictures, *, flickers: bool):
        super().__init__(env)
        self._stride, self._to_picture, self._flickers = stride, to_picture, flickers
        self.rewind()

    def rewind(self) -> None:
        """Frame 0 is now, whatever the wrappers did since the reset."""
        self.frame = 0
        self._before: list[Picture] = []  # the last two frames before this one, of a world that flickers
        self.begin_step()

    def begin_step(self) -> None:
        # Of the agent's step without its last frame: every stride-th.
        self.between: list[tuple[int, Callable[[], Picture]]] = []
        self._first = True

    def step(self, action: Any) -> Any:
        due = not self._first and self.frame % self._stride == 0
        if due or self._flickers:
            now = self.draw(self.env)
            if due:
                seen = self.complete(now)
                self.between.append((self.frame, lambda: seen))
            self._before = [*self._before[-1:], now]
        self._first = False
        self.frame += 1
        return super().step(action)

    def draw(self, env: Env) -> Picture:
        """What `env`, which is this world or a wrapper of it, shows now."""
        try:
            with user_code():
                frame: Any = env.render()
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise TroupeError(f"{_title(env)} could not draw a picture: {reason}") from error
        return self._to_picture(frame)

    def complete(self, picture: Picture) -> Picture:
        """With what blinks: where it is as two frames ago, it also shows the brighter of what was between."""
        if len(self._before) < 2:
            return picture
        earlier, between = self._before
        return np.where(picture == earlier, np.maximum(between, picture), picture)


def _lowest(env: Env) -> Env:
    while isinstance(env, gym.Wrapper):
        env = env.env
    return env


def _put_below(env: Env, camera: _Camera) -> Env:
    """The same chain of wrappers with the camera under the last of them."""
    if not isinstance(env, gym.Wrapper):
        return camera
    last = env
    while isinstance(last.env, gym.Wrapper):
        last = last.env
    last.env = camera
    return env


def _frames_per_second(*envs: Env) -> float:
    """As the first of them says that says it."""
    return next((float(env.metadata["render_fps"]) for env in envs if env.metadata.get("render_fps")), 30.0)


# Names


def _title(env: Env) -> str:
    return one_line(env.spec.id if env.spec else type(env.unwrapped).__name__)


_ACTIONS = {
    "CartPole": ("left", "right"),
    "MountainCar": ("left", "coast", "right"),
    "MountainCarContinuous": ("force",),
    "Acrobot": ("left", "none", "right"),
    "Pendulum": ("torque",),
    "LunarLander": ("none", "left", "main", "right"),
    "LunarLanderContinuous": ("main", "sideways"),
    "BipedalWalker": ("hip 1", "knee 1", "hip 2", "knee 2"),
    "Blackjack": ("stick", "hit"),
    "CliffWalking": ("up", "right", "down", "left"),
    "FrozenLake": ("left", "down", "right", "up"),
    "Taxi": ("down", "up", "right", "left", "pick up", "drop off"),
}


def _action_names(env: Env) -> Sequence[str]:
    """What the actions are called, as far as it is known."""
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if meanings:
        words = [one_line(str(word)).lower() for word in meanings()]
        return [" ".join(re.findall("up|down|left|right|fire|.+", word)) for word in words]
    return _ACTIONS.get(_title(env).partition("-")[0], ())


def action_name(names: Sequence[str], action: int) -> str:
    """Where the names end, actions go by their numbers."""
    return names[action] if action < len(names) else f"action {action}"


def number_name(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else f"number {number}"
