"""An agent at play: in a video file, in a window, or in the terminal.

Each frame is drawn, written and forgotten, so a long episode costs no more memory than a short one.
"""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TextIO

import gymnasium as gym
import numpy as np
from jaxtyping import Float, UInt8

from troupe.config import TroupeError, UsageError
from troupe.runs.plots import output_file

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

Env = gym.Env[Any, Any]
MakeEnv = Callable[[str], Env]  # of a render mode
Picture = UInt8[np.ndarray, "height width 3"]

FASTEST = {".mp4": 60.0, ".gif": 50 / 3}  # frames per second; faster environments are thinned out
TERMINAL_FASTEST = 25.0
LAST_FRAME_SECONDS = 0.6  # how long an episode's end stays to be looked at
MAX_STEPS = 10_000  # an episode without a time limit is left here


class Player(Protocol):
    """What is shown. `Agent` is one."""

    def act(self, observation: Any) -> Any: ...

    def distribution(self, observation: Any) -> tuple[Float[np.ndarray, " actions"], float]:
        """The probability of every action, and the value of the observation."""


def record(
    agent: Player, make_env: MakeEnv, file: Path, episodes: int, seed: int, max_steps: int = MAX_STEPS
) -> list[float]:
    """Writes episodes into an .mp4 or .gif, what the agent thinks below the picture; gives their returns."""
    with output_file(file, tuple(FASTEST)) as unfinished, _drawing(make_env) as env:
        fps = _frames_per_second(env)
        stride = math.ceil(fps / FASTEST[file.suffix.lower()])
        returns = []
        with closing(_Film(unfinished, fps / stride)) as film:
            for moment in _play(agent, env, episodes, seed, max_steps):
                if moment.ended:
                    returns.append(moment.total)
                elif moment.step % stride:
                    continue
                frame = _compose(_picture(env), moment, _thought(agent, env, moment.observation))
                film.add(frame, round(LAST_FRAME_SECONDS * fps / stride) if moment.ended else 1)
        return returns


def has_display() -> bool:
    """Whether a window could be opened here."""
    return not sys.platform.startswith("linux") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def show_window(agent: Player, make_env: MakeEnv, episodes: int, seed: int) -> list[float]:
    """Plays in the environment's own window until it is closed; gives the returns of the whole episodes."""
    instead = "use --terminal, or --video FILE.mp4"
    if not has_display():
        raise UsageError(f"there is no display for a window here; {instead}")
    returns = []
    with _opened(make_env, "human") as env:
        try:
            for moment in _play(agent, env, episodes, seed, MAX_STEPS):
                if moment.ended:
                    returns.append(moment.total)
                if _window_closed():
                    break
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "pygame":
                raise
            raise UsageError(f"no window can be opened here: {error}; {instead}") from error
    return returns


def show_terminal(
    agent: Player, make_env: MakeEnv, episodes: int, seed: int, stream: TextIO | None = None
) -> list[float]:
    """Plays in the terminal at the environment's own speed; where that is too fast, frames are left out.

    Two pixels make a character: the upper half block in one colour on another. Where the encoding has no
    such block, characters of growing brightness stand for grey. The stream is standard output unless given.
    """
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    paint = _half_blocks if encoding.lower().startswith("utf") else _greys
    returns = []
    with _drawing(make_env) as env, _full_screen(stream):
        fps = _frames_per_second(env)
        stride = math.ceil(fps / TERMINAL_FASTEST)
        due = time.monotonic()
        for moment in _play(agent, env, episodes, seed, MAX_STEPS):
            due += 1 / fps
            if moment.ended or (moment.step % stride == 0 and time.monotonic() < due):
                columns, lines = shutil.get_terminal_size()
                picture = paint(_picture(env), columns, lines - 1)
                words = _status(moment, _thought(agent, env, moment.observation))[: columns - 1]
                words = words.encode(encoding, "replace").decode(encoding)
                stream.write(f"\x1b[H{picture}{words}\x1b[J")
                stream.flush()
            if moment.ended:
                returns.append(moment.total)
                due += LAST_FRAME_SECONDS
            time.sleep(max(due - time.monotonic(), 0.0))
            due = max(due, time.monotonic() - 1.0)  # a longer pause is not made up for
    return returns


# Playing


class _Moment(NamedTuple):
    episode: int
    episodes: int
    step: int
    total: float  # the return so far
    observation: Any
    ended: bool


class _Thought(NamedTuple):
    """What the agent makes of an observation."""

    probabilities: Float[np.ndarray, " actions"]
    value: float
    actions: Sequence[str]  # their names; where these end, they go by their numbers

    def name(self, action: int) -> str:
        return self.actions[action] if action < len(self.actions) else str(action)

    @property
    def likeliest(self) -> int:
        return int(np.argmax(self.probabilities))


def _thought(agent: Player, env: Env, observation: Any) -> _Thought:
    return _Thought(*agent.distribution(observation), _actions(env))


def _play(agent: Player, env: Env, episodes: int, seed: int, max_steps: int) -> Iterator[_Moment]:
    """Every observation of the episodes, in order; each episode's last one is marked."""
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        total, step, ended = 0.0, 0, False
        yield _Moment(episode, episodes, step, total, observation, ended)
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            total += float(reward)
            step += 1
            ended = terminated or truncated or step >= max_steps
            yield _Moment(episode, episodes, step, total, observation, ended)


@contextmanager
def _opened(make_env: MakeEnv, mode: str) -> Iterator[Env]:
    try:
        env = make_env(mode)
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        raise UsageError(f"this environment cannot be shown: it takes no render_mode ({error})") from None
    with closing(env):
        modes = env.metadata.get("render_modes") or []
        if mode not in modes and env.render_mode != mode:
            offered = f"only {', '.join(map(str, modes))}" if modes else "nothing"
            raise UsageError(f"{_title(env)} cannot be shown: it has no render mode '{mode}', {offered}")
        yield env


@contextmanager
def _drawing(make_env: MakeEnv) -> Iterator[Env]:
    """Draws into arrays; SDL is kept from looking for a display and complaining that there is none."""
    chosen = os.environ.get("SDL_VIDEODRIVER")
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        with _opened(make_env, "rgb_array") as env:
            yield env
    finally:
        del os.environ["SDL_VIDEODRIVER"]
        if chosen is not None:
            os.environ["SDL_VIDEODRIVER"] = chosen


def _title(env: Env) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def _frames_per_second(env: Env) -> float:
    return float(env.metadata.get("render_fps") or 30)


def _picture(env: Env) -> Picture:
    try:
        frame: Any = env.render()
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise TroupeError(f"{_title(env)} could not draw a picture: {reason}") from error
    picture = np.asarray(frame)
    if picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise UsageError(f"{_title(env)} cannot be shown: its render() gave no picture of height x width x 3")
    return picture[:, :, :3].astype(np.uint8, copy=False)


def _window_closed() -> bool:
    """Whether the person closed the window or pressed Escape or q; Gymnasium's windows do not look."""
    pygame = sys.modules.get("pygame")
    if pygame is None or not pygame.display.get_init():
        return False
    return any(
        event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key in (pygame.K_ESCAPE, pygame.K_q))
        for event in pygame.event.get()
    )


_ACTIONS = {
    "CartPole": ("left", "right"),
    "MountainCar": ("left", "coast", "right"),
    "Acrobot": ("left", "none", "right"),
    "LunarLander": ("none", "left", "main", "right"),
}


def _actions(env: Env) -> Sequence[str]:
    """What the actions are called, as far as it is known."""
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if meanings:
        return [str(word).lower() for word in meanings()]
    return _ACTIONS.get(_title(env).partition("-")[0], ())


# Files


class _Film:
    """Frames, one by one, to ffmpeg; the first one opens the file, as it gives the size."""

    def __init__(self, file: Path, fps: float):
        self._file, self._fps = file, fps
        self._writer: Any = None

    def add(self, frame: Picture, times: int) -> None:
        self._writer = self._writer or self._open(frame)
        for _ in range(times):
            self._writer.send(np.ascontiguousarray(frame))

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def _open(self, frame: Picture) -> Any:
        import imageio_ffmpeg  # type: ignore[import-untyped]

        if self._file.suffix.lower() == ".gif":
            # A palette for each frame: one for the whole film would have ffmpeg hold all of it until the end.
            palette = "palettegen=max_colors=64:stats_mode=single[p];[b][p]paletteuse=new=1:dither=none"
            codec, pixels, quality = "gif", "pal8", None
            extra = ["-filter_complex", f"split[a][b];[a]{palette}"]
        else:
            codec, pixels, quality, extra = "libx264", "yuv420p", 7, ["-movflags", "+faststart"]
        try:
            writer = imageio_ffmpeg.write_frames(
                str(self._file),
                frame.shape[1::-1],
                fps=self._fps,
                codec=codec,
                pix_fmt_out=pixels,
                quality=quality,
                macro_block_size=1,
                output_params=extra,
                ffmpeg_log_level="error",
            )
            writer.send(None)
        except (RuntimeError, OSError) as error:
            raise TroupeError(f"no video can be written: {str(error).partition(chr(10))[0]}") from error
        return writer


# Pictures

PAPER, TRACK, INK, SOFT, LIT = "#171A21", "#2C313C", "#F2F4F8", "#98A1B3", "#56B4E9"
LEAST_WIDTH = 480  # smaller pictures are enlarged, for the words to have room
STRIP_LINES = 5.4  # height of what is below the picture, in heights of a letter


def _compose(picture: Picture, moment: _Moment, thought: _Thought) -> Picture:
    """The picture with a strip below it: where the episode is, and what the agent thinks."""
    from PIL import Image, ImageDraw

    zoom = max(1, round(LEAST_WIDTH / picture.shape[1]))
    image = Image.fromarray(picture).resize(
        (picture.shape[1] * zoom, picture.shape[0] * zoom), Image.Resampling.NEAREST
    )
    width, size = _even(image.width), max(13, image.width // 38)
    whole = Image.new("RGB", (width, _even(image.height + round(STRIP_LINES * size))), PAPER)
    whole.paste(image, (0, 0))
    draw = ImageDraw.Draw(whole)
    _draw_words(draw, image.height + round(1.8 * size), size, moment, thought.value)
    _draw_bars(draw, image.height + round(3.8 * size), size, thought)
    return np.asarray(whole)


def _draw_words(draw: "ImageDraw.ImageDraw", line: int, size: int, moment: _Moment, value: float) -> None:
    """Each at its own place, so that nothing moves when a number grows."""
    width, big, small = draw.im.size[0] - 2 * size, _font(size), _font(round(0.85 * size))
    pairs = (
        ("episode", f"{moment.episode + 1} / {moment.episodes}"),
        ("step", f"{moment.step}"),
        ("return", _number(moment.total)),
        ("value", f"{value:,.1f}"),
    )
    for (label, number), place in zip(pairs, (0.0, 0.28, 0.5, 0.79), strict=True):
        x = size + place * width
        draw.text((x, line), label, SOFT, small, anchor="ls")
        draw.text((x + draw.textlength(f"{label}  ", small), line), number, INK, big, anchor="ls")


def _draw_bars(draw: "ImageDraw.ImageDraw", line: int, size: int, thought: _Thought) -> None:
    """One cell for each action: its name, its probability, and that as a bar."""
    width, font, count = draw.im.size[0] - 2 * size, _font(round(0.85 * size)), len(thought.probabilities)
    gap = min(size, width / (5 * count))
    cell = (width - gap * (count - 1)) / count
    top, bottom = line + round(0.35 * size), line + round(0.8 * size)
    # Names if there is room for all of them, else numbers, else nothing.
    wordings = [[thought.name(action) for action in range(count)], [str(action) for action in range(count)]]
    fitting = (names for names in wordings if max(draw.textlength(name, font) for name in names) <= cell)
    names = next(fitting, [""] * count)
    for action, (name, share) in enumerate(zip(names, thought.probabilities, strict=True)):
        left = size + action * (cell + gap)
        ink, lit = (INK, LIT) if action == thought.likeliest else (SOFT, SOFT)
        percent = f"{100 * share:.0f} %"
        draw.text((left, line), name, ink, font, anchor="ls")
        if draw.textlength(f"{name}  {percent}", font) < cell:
            draw.text((left + cell, line), percent, ink, font, anchor="rs")
        draw.rectangle((left, top, left + max(cell - 1, 0), bottom), TRACK)
        if share * cell >= 1:
            draw.rectangle((left, top, left + share * cell - 1, bottom), lit)


def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _even(pixels: int) -> int:
    """yuv420p halves the picture in both directions."""
    return pixels + pixels % 2


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


# The terminal


@contextmanager
def _full_screen(stream: TextIO) -> Iterator[None]:
    """A screen of its own without a cursor; what was there before comes back, whatever happens."""
    stream.write("\x1b[?1049h\x1b[?25l\x1b[2J")
    try:
        yield
    finally:
        stream.write("\x1b[0m\x1b[?25h\x1b[?1049l")
        stream.flush()


def _status(moment: _Moment, thought: _Thought) -> str:
    likeliest = thought.likeliest
    return (
        f"episode {moment.episode + 1}/{moment.episodes}  step {moment.step:<5} "
        f"return {_number(moment.total):<7} value {thought.value:<7.1f} "
        f"{thought.name(likeliest)} {100 * thought.probabilities[likeliest]:.0f} %"
    )


def _shrunk(picture: Picture, width: int, height: int, tall: int) -> Picture:
    """As large as fits into the pixels, in proportion, where a pixel is `tall` times as high as wide."""
    from PIL import Image

    scale = min(width / picture.shape[1], tall * height / picture.shape[0])
    size = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale / tall))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _half_blocks(picture: Picture, columns: int, lines: int) -> str:
    pixels = _shrunk(picture, columns, 2 * lines, tall=1)
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    colour = _true_colour if os.environ.get("COLORTERM") in ("truecolor", "24bit") else _colour_of_256
    rows = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        row, before = "", None
        for pair in zip(upper, lower, strict=True):
            if pair != before:
                row += f"\x1b[38;{colour(*pair[0])};48;{colour(*pair[1])}m"
                before = pair
            row += "▀"
        rows.append(f"{row}\x1b[0m\x1b[K\r\n")
    return "".join(rows)


def _true_colour(red: int, green: int, blue: int) -> str:
    return f"2;{red};{green};{blue}"


def _colour_of_256(red: int, green: int, blue: int) -> str:
    """The nearest of the 6 x 6 x 6 cube, or of the finer greys where there is no colour."""
    if red == green == blue and 4 < red < 247:
        return f"5;{232 + (red - 3) // 10}"
    r, g, b = (round(level * 5 / 255) for level in (red, green, blue))
    return f"5;{16 + 36 * r + 6 * g + b}"


_RAMP = np.array(list(" .:-=+*#%@"))  # dark to light, as on a dark terminal


def _greys(picture: Picture, columns: int, lines: int) -> str:
    pixels = _shrunk(picture, columns, lines, tall=2)
    levels = (pixels.mean(axis=2) * (len(_RAMP) - 1) / 255).round().astype(int)
    return "".join("".join(row) + "\x1b[K\r\n" for row in _RAMP[levels])
