"""An agent plays in the terminal."""

import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import numpy as np

from troupe.runs.show.frames import RGBImage
from troupe.runs.show.play import ActionComponent, Decision, PlayingAgent, PlayState, in_real_time, play
from troupe.runs.show.rendering import MakeEnv, action_name, open_rendered, without_display
from troupe.text import format_score, format_value

MAX_FPS = 25.0
BAR_CELLS = 8
LEVELS = {True: " ▁▂▃▄▅▆▇█", False: " .:-=+*#%@"}  # with Unicode, without: from empty to full


def show_terminal(
    agent: PlayingAgent, make_env: MakeEnv, episodes: int, seed: int, stream: TextIO | None = None
) -> list[float]:
    """Plays in the terminal at the environment's own speed; if that is too fast, frames are dropped.

    A character shows two pixels, as the upper half block in one colour on another. Where the encoding has no such
    block, frames are grey, in characters of growing brightness. The stream is standard output unless given.
    """
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    unicode = encoding.lower().startswith("utf")
    paint = _half_blocks if unicode else _greys
    returns = []
    with without_display(), open_rendered(make_env, MAX_FPS) as rendered, _full_screen(stream):
        for (state, _, render), show in in_real_time(play(agent, rendered, episodes, seed)):
            if show:
                columns, lines = shutil.get_terminal_size()
                text = [_status(state, unicode, columns - 1)]
                text += _policy(state.decision, rendered.action_names, unicode, columns - 1, max(1, lines // 6))
                image = paint(render(), rendered.pixel_aspect, columns, lines - len(text))
                below = "\x1b[K\r\n".join(line[: columns - 1] for line in text)
                below = below.encode(encoding, "replace").decode(encoding)
                stream.write(f"\x1b[H{image}{below}\x1b[J")
                stream.flush()
            if state.ended:
                returns.append(state.episode_return)
    return returns


@contextmanager
def _full_screen(stream: TextIO) -> Iterator[None]:
    """The alternate screen without a cursor; what was there before comes back, whatever happens."""
    stream.write("\x1b[?1049h\x1b[?25l\x1b[2J")
    try:
        yield
    finally:
        stream.write("\x1b[0m\x1b[?25h\x1b[?1049l")
        stream.flush()


# Below the frame


def _status(state: PlayState, unicode: bool, columns: int) -> str:
    """The progress of the episode, and the value: its number and, if there is room, its last seconds."""
    text = (
        f"episode {state.episode + 1}/{state.episodes}  step {state.step:<5} "
        f"score {format_score(state.episode_return):<7} value {format_value(state.decision.value):<7}"
    )
    values, room = np.array([value for _, value in state.history.points]), min(columns - len(text) - 1, 40)
    if room < 8 or len(values) == 0:
        return text
    sampled = values[np.linspace(0, len(values) - 1, min(room, len(values))).round().astype(int)]
    fractions = (sampled - values.min()) / max(np.ptp(values), 1e-9)
    return f"{text} {''.join(_level(fraction, unicode, least=1) for fraction in fractions)}"


def _policy(decision: Decision, names: Sequence[str], unicode: bool, columns: int, lines: int) -> list[str]:
    """A bar for each action where there is room for all; else a character, and the chosen one's name."""
    if decision.probabilities is None:
        return _components(decision.components, names, unicode, columns)
    probabilities = decision.probabilities.tolist()
    words = [action_name(names, action) for action in range(len(probabilities))]
    full, empty, arrow = ("█", "░", "▸") if unicode else ("#", ".", ">")
    widest, cells = max(map(len, words)), []
    for action, (word, probability) in enumerate(zip(words, probabilities, strict=True)):
        filled = round(probability * BAR_CELLS)
        bar = full * filled + empty * (BAR_CELLS - filled)
        cells.append(f"{arrow if action == decision.chosen else ' '}{word:{widest}} {bar} {100 * probability:3.0f} %  ")
    per_line = columns // len(cells[0])
    if per_line and math.ceil(len(cells) / per_line) <= lines:
        return ["".join(cells[start : start + per_line]) for start in range(0, len(cells), per_line)]
    line = f"policy {''.join(_level(probability, unicode) for probability in probabilities)}"
    if decision.chosen is not None:
        line += f"  {arrow}{words[decision.chosen]} {100 * probabilities[decision.chosen]:.0f} %"
    return [line]


def _components(components: Sequence[ActionComponent], names: Sequence[str], unicode: bool, columns: int) -> list[str]:
    """With names and values where there is room, else a character for each."""
    levels = [_level(each.position if each.probability is None else each.probability, unicode) for each in components]
    words = []
    for i, (value, _, probability) in enumerate(components):
        number = f"{format_value(value):>6}" if probability is None else f"{value:g} {100 * probability:3.0f} %"
        words.append(f"{action_name(names, i)} {number} {levels[i]}")
    line = "  ".join(words)
    if len(line) > columns:
        line = f"action {''.join(levels)}"
    return [line] if components else []


def _level(fraction: float, unicode: bool, least: int = 0) -> str:
    levels = LEVELS[unicode]
    return levels[max(least, round(fraction * (len(levels) - 1)))]


# The frame


def _scaled(image: RGBImage, width: float, height: float, aspect: float) -> RGBImage:
    """As large as fits, in proportion; `aspect` is the height of a cell here, divided by its width and the image's."""
    from PIL import Image

    scale = min(width / image.shape[1], aspect * height / image.shape[0])
    size = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale / aspect))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _half_blocks(image: RGBImage, aspect: float, columns: int, lines: int) -> str:
    pixels = _scaled(image, columns, 2 * lines, aspect)
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


def _greys(image: RGBImage, aspect: float, columns: int, lines: int) -> str:
    pixels = _scaled(image, columns, lines, 2 * aspect)
    ramp = np.array(list(LEVELS[False]))  # dark to light, as on a dark terminal
    levels = (pixels.mean(axis=2) * (len(ramp) - 1) / 255).round().astype(int)
    return "".join("".join(row) + "\x1b[K\r\n" for row in ramp[levels])
