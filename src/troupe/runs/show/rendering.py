"""Environments that are rendered to be shown: at a limited frame rate, and including frames that wrappers skip."""

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from troupe.config import TroupeError, UsageError, one_line
from troupe.environments.stepping.closing import close_and_report
from troupe.runs.show.frames import FrameConverter, RGBImage
from troupe.user_code.guard import user_code

Env = gym.Env[Any, Any]
MakeEnv = Callable[[str], Env]  # of a render mode
Render = Callable[[], RGBImage]

# For environments that have no get_action_meanings().
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


class RenderedEnv:
    """An environment, its title and action names, and its frames at no more than `max_fps` per second.

    A camera is put below all wrappers, so that frames are rendered that a wrapper above skips.
    """

    def __init__(self, env: Env, max_fps: float):
        base = env.unwrapped
        emulator = hasattr(base, "ale")
        frame_skip = float(np.mean(getattr(base, "_frameskip", 1))) if emulator else 1.0
        self.title, self.action_names = _title(env), _action_names(env)
        self.first_action = int(env.action_space.start) if isinstance(env.action_space, gym.spaces.Discrete) else 0
        # ALE's metadata say 30 fps for any frame skip. An Atari has 60 frames per second, pixels of 12:7, and often
        # draws objects in every other frame only: an image combines two frames, so more than 30 would show no more.
        self.fps = 60 / frame_skip if emulator else _frames_per_second(base, env)
        self.pixel_aspect = 12 / 7 if emulator else 1.0
        flickers = emulator and frame_skip == 1
        self.stride = math.ceil(self.fps / (min(max_fps, 30.0) if flickers else max_fps))  # in frames
        bottom = env
        while isinstance(bottom, gym.Wrapper) and isinstance(bottom.env, gym.Wrapper):
            bottom = bottom.env
        wrapped = bottom.env if isinstance(bottom, gym.Wrapper) else env
        self.camera = _Camera(wrapped, self.stride, FrameConverter(self.title), flickers=flickers)
        if isinstance(bottom, gym.Wrapper):
            bottom.env = self.camera
        self.env = env if isinstance(env, gym.Wrapper) else self.camera

    @property
    def shown_fps(self) -> float:
        return self.fps / self.stride

    def render(self) -> RGBImage:
        return self.camera.deflicker(self.camera.render_from(self.env))


@contextmanager
def open_rendered(make_env: MakeEnv, max_fps: float) -> Iterator[RenderedEnv]:
    """Makes the environment and closes it afterwards; raises UsageError where it does not render images."""
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
        yield RenderedEnv(env, max_fps)
    finally:
        close_and_report(env.close, _title(env))


@contextmanager
def without_display() -> Iterator[None]:
    """Keeps SDL from looking for a display and complaining that there is none."""
    before = os.environ.get("SDL_VIDEODRIVER")
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        yield
    finally:
        del os.environ["SDL_VIDEODRIVER"]
        if before is not None:
            os.environ["SDL_VIDEODRIVER"] = before


class _Camera(gym.Wrapper[Any, Any, Any, Any]):
    """Counts the frames of the base environment, and renders those that a wrapper above it skips.

    When a frame begins, the one before is known not to be the last of the agent's step; that last one is rendered
    through the outermost wrapper, which may change it, and only on request.
    """

    def __init__(self, env: Env, stride: int, convert: FrameConverter, *, flickers: bool):
        super().__init__(env)
        self._stride, self._convert, self._flickers = stride, convert, flickers
        self.rewind()

    def rewind(self) -> None:
        """Starts counting at 0, whatever the wrappers did since the reset."""
        self.frame = 0
        self._before: list[RGBImage] = []  # the last two frames before this one, where objects flicker
        self.begin_step()

    def begin_step(self) -> None:
        self.skipped: list[tuple[int, Render]] = []  # every stride-th frame of the agent's step but its last one
        self._first = True

    def step(self, action: Any) -> Any:
        due = not self._first and self.frame % self._stride == 0
        if due or self._flickers:
            now = self.render_from(self.env)
            if due:
                image = self.deflicker(now)
                self.skipped.append((self.frame, lambda: image))
            self._before = [*self._before[-1:], now]
        self._first = False
        self.frame += 1
        return super().step(action)

    def render_from(self, env: Env) -> RGBImage:
        """What `env`, which is the base environment or a wrapper of it, renders now."""
        try:
            with user_code():
                frame: Any = env.render()
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise TroupeError(f"{_title(env)} could not render: {reason}") from error
        return self._convert(frame)

    def deflicker(self, image: RGBImage) -> RGBImage:
        """Where a pixel is as two frames ago, the brighter of it and the frame between: objects alternate."""
        if len(self._before) < 2:
            return image
        earlier, between = self._before
        return np.where(image == earlier, np.maximum(between, image), image)


def action_name(names: Sequence[str], index: int) -> str:
    """The name of an action, or of a component of one; by its number where it has no name."""
    return names[index] if index < len(names) else f"action {index}"


def _frames_per_second(*envs: Env) -> float:
    """As stated by the first of them that states it."""
    return next((float(env.metadata["render_fps"]) for env in envs if env.metadata.get("render_fps")), 30.0)


def _title(env: Env) -> str:
    return one_line(env.spec.id if env.spec else type(env.unwrapped).__name__)


def _action_names(env: Env) -> Sequence[str]:
    """As far as they are known."""
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if meanings:
        words = [one_line(str(word)).lower() for word in meanings()]
        return [" ".join(map(str.strip, re.findall("up|down|left|right|fire|.+", word))) for word in words]
    return _ACTIONS.get(_title(env).partition("-")[0], ())
