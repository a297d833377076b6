"""A picture of the game and a panel beside it: the score, the value over time, the policy as bars.

Everything has its own place, so that nothing moves when a number grows, and every picture of a film has one
size. Colours are of Okabe and Ito's set, which colour-blind people can tell apart; the chosen action has a mark too.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from troupe.runs.show.frames import Picture
from troupe.runs.show.play import HISTORY_SECONDS, History, Moment, Thought, action_name, number_name
from troupe.text import format_score, format_value

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER, TRACK, INK, SOFT = "#14171E", "#222733", "#F2F4F8", "#98A1B3"
VALUE, CHOSEN, OTHER, ZERO = "#56B4E9", "#E69F00", "#6B7A94", "#414959"
GREAT_WIDTH = 1280  # pixels, that no picture is enlarged beyond
LEAST_HEIGHT = 400  # pixels, of the whole
LETTERS_HIGH = 42  # the whole, in heights of a letter, unless a letter were smaller than
LEAST_LETTER = 13  # pixels
STRETCH_SECONDS = HISTORY_SECONDS / 100
LEAST_RANGE = 0.1  # of the value's size: smaller changes of it are not blown up to fill the chart


class Panel:
    """Puts pictures and panels together. `actions` are the actions' names, as far as they are known.

    Pictures of another height than `good_height` are enlarged to what is nearest to it, not reduced.
    """

    def __init__(self, title: str, actions: Sequence[str] = (), pixel_aspect: float = 1.0, good_height: int = 560):
        self._title, self._actions, self._aspect, self._good_height = title, actions, pixel_aspect, good_height
        self._moment: Moment | None = None
        self._drawn: Picture = np.zeros((0, 0, 3), np.uint8)  # the panel of that moment

    def compose(self, picture: Picture, moment: Moment) -> Picture:
        """The picture, enlarged by whole numbers, with the panel to its right."""
        across, down = self._zoom(picture.shape[1], picture.shape[0])
        wide = picture.repeat(across, axis=1)
        height, width = down * len(wide), wide.shape[1]
        panel = self._panel(moment, _even(max(height, LEAST_HEIGHT)))
        whole = np.zeros((len(panel), _even(width + panel.shape[1]), 3), np.uint8)
        top = (len(whole) - height) // 2
        for line in range(down):
            whole[top + line : top + height : down, :width] = wide
        whole[:, -panel.shape[1] :] = panel
        return whole

    def _panel(self, moment: Moment, height: int) -> Picture:
        """Several pictures may be of one moment."""
        if self._moment is not moment or len(self._drawn) != height:
            self._moment, self._drawn = moment, np.asarray(_draw(moment, self._title, self._actions, height))
        return self._drawn

    def _zoom(self, width: int, height: int) -> tuple[int, int]:
        down = max(1, min(round(self._good_height / height), round(GREAT_WIDTH / (width * self._aspect))))
        return max(1, round(down * self._aspect)), down


def _even(pixels: int) -> int:
    """MP4's colours have half the resolution of its brightness, in both directions."""
    return pixels + pixels % 2


def _draw(moment: Moment, title: str, actions: Sequence[str], height: int) -> "Image.Image":
    from PIL import Image, ImageDraw

    letter = max(LEAST_LETTER, round(height / LETTERS_HIGH))
    panel = Image.new("RGB", (round(letter * 64 / 3), height), PAPER)
    draw = ImageDraw.Draw(panel)
    bars, edge = _bars(moment.thought, actions), round(1.4 * letter)
    left, right, bottom = edge, panel.width - edge, height - edge
    top = round(9.7 * letter)
    grid = _grid(len(bars), bottom - top - 6.4 * letter, letter)
    shown = bool(bars) and (grid.columns > 0 or moment.thought.probabilities is not None)
    end = min(top + round(15 * letter), bottom - (round(grid.height + 2.2 * letter) if shown else 0))

    _draw_words(draw, left, right, letter, title, moment)
    _draw_history(panel, (left, top, right, end), letter, moment.history)
    if shown:
        line = end + round(1.8 * letter)
        heading = "action" if moment.thought.probabilities is None else "policy"
        draw.text((left, line), heading, SOFT, _font(round(0.9 * letter)), anchor="ls")
        corner = left, line + round(0.4 * letter), right
        if grid.columns:
            _draw_bars(draw, corner, letter, grid, bars)
        else:
            _draw_histogram(draw, corner, letter, grid, moment.thought, actions)
    return panel


def _draw_words(draw: "ImageDraw.ImageDraw", left: int, right: int, letter: int, title: str, moment: Moment) -> None:
    small, normal, big = _font(round(0.9 * letter)), _font(round(1.1 * letter)), _font(round(1.8 * letter))
    episode = f"episode {moment.episode + 1} / {moment.episodes}"
    draw.text((right, 2.4 * letter), episode, SOFT, small, anchor="rs")
    room = right - left - draw.textlength(episode, small) - letter
    draw.text((left, 2.4 * letter), _cut(draw, title, normal, room), INK, normal, anchor="ls")
    for x, label, number in (
        (left, "score", format_score(moment.total)),
        ((left + right) / 2, "step", f"{moment.step:,}"),
    ):
        draw.text((x, 4.7 * letter), label, SOFT, small, anchor="ls")
        draw.text((x, 6.7 * letter), number, INK, big, anchor="ls")
    draw.text((left, 9.2 * letter), f"value, last {HISTORY_SECONDS:.0f} s", SOFT, small, anchor="ls")
    draw.text((right, 9.2 * letter), format_value(moment.thought.value), VALUE, _font(round(1.3 * letter)), anchor="rs")


# The value


def _draw_history(panel: "Image.Image", box: tuple[int, int, int, int], letter: int, history: History) -> None:
    """The line ends at the right edge, now; it is drawn larger and reduced, for its slopes to be smooth."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = box
    draw = ImageDraw.Draw(panel)
    draw.rectangle((left, top, right - 1, bottom - 1), TRACK)
    if not history.points:
        return
    points, (low, high) = _thinned(history), _range(history)
    first, last = top + 1.6 * letter, bottom - 1.6 * letter  # where the ends of the range are
    room = right - left - 0.6 * letter

    def height(value: float) -> float:
        return last - (last - first) * (value - low) / (high - low)

    if low < 0 < high:
        draw.line((left, round(height(0)), right - 1, round(height(0))), ZERO)
    xs = [2 * room * (1 - (history.points[-1][0] - seconds) / HISTORY_SECONDS) for seconds, *_ in points]
    means, lows, highs = (
        list(zip(xs, [2 * (height(value) - top) for value in values], strict=True))
        for values in zip(*(values for _, *values in points), strict=True)
    )
    ink = Image.new("L", (2 * (right - left), 2 * (bottom - top)), 0)
    pen = ImageDraw.Draw(ink)
    if len(points) > 1:
        pen.polygon([(xs[0], ink.height), *means, (xs[-1], ink.height)], fill=40)
        pen.polygon([*lows, *reversed(highs)], fill=100)
        pen.line(means, fill=255, width=max(3, round(letter / 3.5)), joint="curve")
    pen.circle(means[-1], round(0.5 * letter), fill=255)
    panel.paste(VALUE, (left, top), ink.reduce(2))
    for y, value in ((top + 1.2 * letter, high), (bottom - 0.5 * letter, low)):
        draw.text((left + 0.5 * letter, y), format_value(value), SOFT, _font(round(0.8 * letter)), anchor="ls")


def _thinned(history: History) -> list[tuple[float, float, float, float]]:
    """Time, mean, least and greatest of short stretches: a fast swing would be a blot, and is drawn as a band."""
    stretches = groupby(history.points, lambda point: int(point[0] / STRETCH_SECONDS))
    thinned = []
    for _, stretch in stretches:
        seconds, values = zip(*stretch, strict=True)
        thinned.append((seconds[-1], sum(values) / len(values), min(values), max(values)))
    return thinned


def _range(history: History) -> tuple[float, float]:
    values = [value for _, value in history.points]
    low, high = min(values), max(values)
    wider = max(LEAST_RANGE * max(abs(low), abs(high)), 0.01) - (high - low)
    return (low - wider / 2, high + wider / 2) if wider > 0 else (low, high)


# The policy


class _Bar(NamedTuple):
    """`begin` and `end` are shares of the room there is for it."""

    name: str
    begin: float
    end: float
    number: str
    colour: str
    chosen: bool = False


def _bars(thought: Thought, names: Sequence[str]) -> list[_Bar]:
    """One for each action and its probability; or for each number of an action, from the middle of its bounds."""
    if thought.probabilities is None:
        return [
            _Bar(number_name(names, i), min(0.5, each.place), max(0.5, each.place), format_value(each.value), CHOSEN)
            for i, each in enumerate(thought.numbers)
        ]
    return [
        _Bar(action_name(names, i), 0.0, share, f"{100 * share:.0f} %", CHOSEN if chosen else OTHER, chosen)
        for i, share in enumerate(thought.probabilities.tolist())
        for chosen in [i == thought.chosen]
    ]


class _Grid(NamedTuple):
    """Where the bars go: columns of lines, or, without columns, upright side by side."""

    columns: int
    lines: int
    height: float


def _grid(count: int, room: float, letter: int) -> _Grid:
    for columns in (1, 2):
        lines = math.ceil(count / columns)
        if room >= 0.8 * letter * lines:
            return _Grid(columns, lines, min(room, 2.1 * letter * lines))
    return _Grid(0, 0, min(room, 8 * letter))


def _draw_bars(
    draw: "ImageDraw.ImageDraw", corner: tuple[int, int, int], letter: int, grid: _Grid, bars: Sequence[_Bar]
) -> None:
    """A bar a line: its name, itself, its number. Of two columns only the bars have room for no more."""
    left, top, right = corner
    cell, pitch = (right - left + letter) / grid.columns - letter, grid.height / grid.lines
    font, mark = _font(round(min(0.9 * letter, pitch))), 0.9 * letter
    words = [_cut(draw, bar.name, font, 0.55 * cell) for bar in bars]
    start = mark + max(draw.textlength(word, font) for word in words) + 0.6 * letter
    numbers = grid.columns == 1
    length = cell - start - (3.2 * letter if numbers else 0)
    thick = min(0.8 * letter, 0.7 * pitch)
    for place, (word, bar) in enumerate(zip(words, bars, strict=True)):
        column, line = divmod(place, grid.lines)
        x, y = left + column * (cell + letter), top + (line + 0.5) * pitch
        ink = INK if bar.chosen else SOFT
        if bar.chosen:
            h = 0.32 * letter
            draw.polygon([(x, y - h), (x + 1.6 * h, y), (x, y + h)], CHOSEN)
        draw.text((x + mark, y), word, ink, font, anchor="lm")
        upper, lower = round(y - thick / 2), round(y + thick / 2)
        draw.rectangle((x + start, upper, x + start + length - 1, lower), TRACK)
        if (bar.end - bar.begin) * length >= 1:
            first, last = x + start + bar.begin * length, x + start + bar.end * length - 1
            draw.rectangle((first, upper, last, lower), bar.colour)
        if numbers:
            draw.text((x + cell, y), bar.number, ink, font, anchor="rm")


def _draw_histogram(
    draw: "ImageDraw.ImageDraw",
    corner: tuple[int, int, int],
    letter: int,
    grid: _Grid,
    thought: Thought,
    names: Sequence[str],
) -> None:
    """Very many actions, side by side, the likeliest as high as there is room; only the chosen one has its name."""
    assert thought.probabilities is not None
    left, top, right = corner
    bottom, width = top + grid.height - 1.6 * letter, (right - left) / len(thought.probabilities)
    scale = (bottom - top) / max(float(thought.probabilities.max()), 1e-9)
    draw.rectangle((left, top, right - 1, bottom), TRACK)
    for action, share in enumerate(thought.probabilities.tolist()):
        x, chosen = left + action * width, action == thought.chosen
        if share * scale >= 1:
            far = x + max(width - (2 if width >= 3 else 1), 0)
            draw.rectangle((x, bottom - share * scale, far, bottom), CHOSEN if chosen else OTHER)
        if chosen:
            middle, h = x + width / 2, 0.3 * letter
            draw.polygon(
                [(middle - h, bottom + 2 + 1.6 * h), (middle, bottom + 2), (middle + h, bottom + 2 + 1.6 * h)], CHOSEN
            )
            font = _font(round(0.9 * letter))
            words = f"{action_name(names, action)}  {100 * share:.0f} %"
            words = _cut(draw, words, font, right - left)
            place = min(max(middle - draw.textlength(words, font) / 2, left), right - draw.textlength(words, font))
            draw.text((place, bottom + 1.7 * letter), words, INK, font, anchor="ls")


# Words


@lru_cache
def _font(size: int) -> "Font":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _cut(draw: "ImageDraw.ImageDraw", words: str, font: "Font", room: float) -> str:
    """As much of the words as there is room for."""
    if draw.textlength(words, font) <= room:
        return words
    while words and draw.textlength(f"{words}…", font) > room:
        words = words[:-1]
    return f"{words}…"
