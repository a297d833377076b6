"""An agent at play in the terminal."""

import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import numpy as np

from troupe.runs.show.frames import Picture
from troupe.runs.show.play import (
    MakeEnv,
    Moment,
    Number,
    Player,
    Thought,
    action_name,
    in_real_time,
    number_name,
    opened,
    play,
    without_display,
)
from troupe.text import format_score, format_value

FASTEST = 25.0  # pictures per second
BAR_LETTERS = 8
LEVELS = {True: " ▁▂▃▄▅▆▇█", False: " .:-=+*#%@"}  # with Unicode, without: from nothing to full


def show_terminal(
    agent: Player, make_env: MakeEnv, episodes: int, seed: int, stream: TextIO | None = None
) -> list[float]:
    """Plays in the terminal at the environment's own speed; where that is too fast, pictures are left out.

    Two pixels make a character: the upper half block in one colour on another. Where the encoding has no
    such block, characters of growing brightness stand for grey. The stream is standard output unless given.
    """
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    unicode = encoding.lower().startswith("utf")
    paint = _half_blocks if unicode else _greys
    returns = []
    with without_display(), opened(make_env, FASTEST) as stage, _full_screen(stream):
        for (moment, _, picture), show in in_real_time(play(agent, stage, episodes, seed)):
            if show:
                columns, lines = shutil.get_terminal_size()
                words = [_state(moment, unicode, columns - 1)]
                words += _policy(moment.thought, stage.actions, unicode, columns - 1, max(1, lines // 6))
                image = paint(picture(), stage.pixel_aspect, columns, lines - len(words))
                below = "\x1b[K\r\n".join(line[: columns - 1] for line in words)
                below = below.encode(encoding, "replace").decode(encoding)
                stream.write(f"\x1b[H{image}{below}\x1b[J")
                stream.flush()
            if moment.ended:
                returns.append(moment.total)
    return returns


@contextmanager
def _full_screen(stream: TextIO) -> Iterator[None]:
    """A screen of its own without a cursor; what was there before comes back, whatever happens."""
    stream.write("\x1b[?1049h\x1b[?25l\x1b[2J")
    try:
        yield
    finally:
        stream.write("\x1b[0m\x1b[?25h\x1b[?1049l")
        stream.flush()


# Below the picture


def _state(moment: Moment, unicode: bool, columns: int) -> str:
    """Where the episode is, and the value: its number, and its last seconds in what room there is."""
    words = (
        f"episode {moment.episode + 1}/{moment.episodes}  step {moment.step:<5} "
        f"score {format_score(moment.total):<7} value {format_value(moment.thought.value):<7}"
    )
    values, room = np.array([value for _, value in moment.history.points]), min(columns - len(words) - 1, 40)
    if room < 8 or len(values) == 0:
        return words
    seen = values[np.linspace(0, len(values) - 1, min(room, len(values))).round().astype(int)]
    shares = (seen - values.min()) / max(np.ptp(values), 1e-9)
    return f"{words} {''.join(_level(share, unicode, least=1) for share in shares)}"


def _policy(thought: Thought, names: Sequence[str], unicode: bool, columns: int, lines: int) -> list[str]:
    """A bar for each action where there is room for all of them, else a character, and the chosen one's name."""
    if thought.probabilities is None:
        return _numbers(thought.numbers, names, unicode, columns)
    shares = thought.probabilities.tolist()
    words = [action_name(names, action) for action in range(len(shares))]
    full, empty, arrow = ("█", "░", "▸") if unicode else ("#", ".", ">")
    widest, cells = max(map(len, words)), []
    for action, (word, share) in enumerate(zip(words, shares, strict=True)):
        filled = round(share * BAR_LETTERS)
        bar = full * filled + empty * (BAR_LETTERS - filled)
        cells.append(f"{arrow if action == thought.chosen else ' '}{word:{widest}} {bar} {100 * share:3.0f} %  ")
    a_line = columns // len(cells[0])
    if a_line and math.ceil(len(cells) / a_line) <= lines:
        return ["".join(cells[start : start + a_line]) for start in range(0, len(cells), a_line)]
    line = f"policy {''.join(_level(share, unicode, least=0) for share in shares)}"
    if thought.chosen is not None:
        line += f"  {arrow}{words[thought.chosen]} {100 * shares[thought.chosen]:.0f} %"
    return [line]


def _numbers(numbers: Sequence[Number], names: Sequence[str], unicode: bool, columns: int) -> list[str]:
    """With their names where there is room, else a character for each."""
    levels = [_level(each.place, unicode, least=0) for each in numbers]
    words = [f"{number_name(names, i)} {format_value(each.value):>6} {levels[i]}" for i, each in enumerate(numbers)]
    line = "  ".join(words)
    if len(line) > columns:
        line = f"action {''.join(levels)}"
    return [line] if numbers else []


def _level(share: float, unicode: bool, least: int) -> str:
    levels = LEVELS[unicode]
    return levels[max(least, round(share * (len(levels) - 1)))]


# The picture


def _shrunk(picture: Picture, width: float, height: float, tall: float) -> Picture:
    """As large as fits, in proportion, where `tall` says how much higher a pixel here is for its width than there."""
    from PIL import Image

    scale = min(width / picture.shape[1], tall * height / picture.shape[0])
    size = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale / tall))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _half_blocks(picture: Picture, aspect: float, columns: int, lines: int) -> str:
    pixels = _shrunk(picture, columns, 2 * lines, tall=aspect)
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


_RAMP = np.array(list(LEVELS[False]))  # dark to light, as on a dark terminal


def _greys(picture: Picture, aspect: float, columns: int, lines: int) -> str:
    pixels = _shrunk(picture, columns, lines, tall=2 * aspect)
    levels = (pixels.mean(axis=2) * (len(_RAMP) - 1) / 255).round().astype(int)
    return "".join("".join(row) + "\x1b[K\r\n" for row in _RAMP[levels])
