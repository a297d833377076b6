"""A frame with a panel beside it: the score, the value over time, the policy as bars.

Everything has a fixed position, so that nothing moves when a number grows, and all images of a video have one size.
The colours are Okabe and Ito's, which colour-blind people can tell apart; the chosen action has a mark as well.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from troupe.runs.show.frames import RGBImage
from troupe.runs.show.play import HISTORY_SECONDS, Decision, PlayState, ValueHistory
from troupe.runs.show.rendering import RenderedEnv, action_name
from troupe.text import format_score, format_value

if TYPE_CHECKING:
    from PIL import Image, ImageFont

BACKGROUND, TRACK, INK, SOFT = "#14171E", "#222733", "#F2F4F8", "#98A1B3"
VALUE, CHOSEN, OTHER, ZERO = "#56B4E9", "#E69F00", "#6B7A94", "#414959"
MAX_WIDTH = 1280  # pixels, to which frames are enlarged
MIN_HEIGHT = 400  # pixels, of the whole image
EMS_PER_HEIGHT = 42  # an em is the size of a letter, and the unit of the layout
MIN_EM = 13  # pixels
STRETCH_SECONDS = HISTORY_SECONDS / 100
MIN_RANGE = 0.1  # of the value's size: smaller changes are not enlarged to fill the chart


class Panel:
    """Puts a panel beside each frame. `actions` are the actions' names, as far as they are known.

    Frames are enlarged to the nearest whole multiple of `preferred_height`, never reduced.
    """

    def __init__(self, title: str, actions: Sequence[str] = (), pixel_aspect: float = 1.0, preferred_height: int = 560):
        self._title, self._actions, self._aspect, self._height = title, tuple(actions), pixel_aspect, preferred_height

    @classmethod
    def beside(cls, rendered: RenderedEnv, preferred_height: int = 560) -> "Panel":
        return cls(rendered.title, rendered.action_names, rendered.pixel_aspect, preferred_height)

    def compose(self, frame: RGBImage, state: PlayState) -> RGBImage:
        """The frame, enlarged by whole numbers, with the panel to its right."""
        down = max(1, min(round(self._height / len(frame)), round(MAX_WIDTH / (frame.shape[1] * self._aspect))))
        enlarged = frame.repeat(down, axis=0).repeat(max(1, round(down * self._aspect)), axis=1)
        height, width = enlarged.shape[:2]
        panel = np.asarray(_draw(state, self._title, self._actions, _even(max(height, MIN_HEIGHT))))
        whole = np.zeros((len(panel), _even(width + panel.shape[1]), 3), np.uint8)
        top = (len(whole) - height) // 2
        whole[top : top + height, :width] = enlarged
        whole[:, -panel.shape[1] :] = panel
        return whole


def _even(pixels: int) -> int:
    """MP4 has colours at half the resolution of brightness, in both directions."""
    return pixels + pixels % 2


class _Pen:
    """Draws on an image; sizes of text are in em."""

    def __init__(self, image: "Image.Image", em: int):
        from PIL import ImageDraw

        self.image, self.em, self.draw = image, em, ImageDraw.Draw(image)

    def text(self, x: float, y: float, text: str, colour: str = SOFT, size: float = 0.9, anchor: str = "ls") -> None:
        self.draw.text((x, y), text, colour, _font(round(size * self.em)), anchor=anchor)

    def width(self, text: str, size: float = 0.9) -> float:
        return self.draw.textlength(text, _font(round(size * self.em)))

    def cut(self, text: str, room: float, size: float = 0.9) -> str:
        """As much of the text as there is room for."""
        if self.width(text, size) <= room:
            return text
        while text and self.width(f"{text}…", size) > room:
            text = text[:-1]
        return f"{text}…"


@lru_cache
def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)


@lru_cache(1)  # several frames have one state
def _draw(state: PlayState, title: str, actions: tuple[str, ...], height: int) -> "Image.Image":
    from PIL import Image

    em = max(MIN_EM, round(height / EMS_PER_HEIGHT))
    pen = _Pen(Image.new("RGB", (round(em * 64 / 3), height), BACKGROUND), em)
    decision = state.decision
    bars, edge = _bars(decision, actions), round(1.4 * em)
    left, right, bottom = edge, pen.image.width - edge, height - edge
    top = round(9.7 * em)
    grid = _grid(len(bars), bottom - top - 6.4 * em, em)
    has_policy = bool(bars) and (grid.columns > 0 or decision.probabilities is not None)
    end = min(top + round(15 * em), bottom - (round(grid.height + 2.2 * em) if has_policy else 0))

    _draw_text(pen, left, right, title, state)
    _draw_history(pen, (left, top, right, end), state.history)
    if has_policy:
        line = end + round(1.8 * em)
        chosen = any(each.probability is not None for each in decision.components)
        title = "action, and the probability of each choice" if chosen else "action"
        pen.text(left, line, title if decision.probabilities is None else "policy")
        corner = left, line + round(0.4 * em), right
        if grid.columns:
            _draw_bars(pen, corner, grid, bars)
        else:
            _draw_histogram(pen, corner, grid, decision, actions)
    return pen.image


def _draw_text(pen: _Pen, left: int, right: int, title: str, state: PlayState) -> None:
    em, episode = pen.em, f"episode {state.episode + 1} / {state.episodes}"
    pen.text(right, 2.4 * em, episode, anchor="rs")
    pen.text(left, 2.4 * em, pen.cut(title, right - left - pen.width(episode) - em, 1.1), INK, 1.1)
    score, step = format_score(state.episode_return), f"{state.step:,}"
    for x, label, number in ((left, "score", score), ((left + right) / 2, "step", step)):
        pen.text(x, 4.7 * em, label)
        pen.text(x, 6.7 * em, number, INK, 1.8)
    pen.text(left, 9.2 * em, f"value, last {HISTORY_SECONDS:.0f} s")
    pen.text(right, 9.2 * em, format_value(state.decision.value), VALUE, 1.3, "rs")


# The value


def _draw_history(pen: _Pen, box: tuple[int, int, int, int], history: ValueHistory) -> None:
    """A line that ends at the right edge, now; drawn at twice the size and reduced, for smooth slopes."""
    from PIL import Image, ImageDraw

    em, (left, top, right, bottom) = pen.em, box
    pen.draw.rectangle((left, top, right - 1, bottom - 1), TRACK)
    if not history.points:
        return
    points, (low, high) = _thinned(history), _range(history)
    first, last = top + 1.6 * em, bottom - 1.6 * em  # where the ends of the range are
    room = right - left - 0.6 * em

    def height(value: float) -> float:
        return last - (last - first) * (value - low) / (high - low)

    if low < 0 < high:
        pen.draw.line((left, round(height(0)), right - 1, round(height(0))), ZERO)
    xs = [2 * room * (1 - (history.points[-1][0] - seconds) / HISTORY_SECONDS) for seconds, *_ in points]
    means, lows, highs = (
        list(zip(xs, [2 * (height(value) - top) for value in values], strict=True))
        for values in zip(*(values for _, *values in points), strict=True)
    )
    mask = Image.new("L", (2 * (right - left), 2 * (bottom - top)), 0)
    chart = ImageDraw.Draw(mask)
    if len(points) > 1:
        chart.polygon([(xs[0], mask.height), *means, (xs[-1], mask.height)], fill=40)
        chart.polygon([*lows, *reversed(highs)], fill=100)
        chart.line(means, fill=255, width=max(3, round(em / 3.5)), joint="curve")
    chart.circle(means[-1], round(0.5 * em), fill=255)
    pen.image.paste(VALUE, (left, top), mask.reduce(2))
    for y, value in ((top + 1.2 * em, high), (bottom - 0.5 * em, low)):
        pen.text(left + 0.5 * em, y, format_value(value), size=0.8)


def _thinned(history: ValueHistory) -> list[tuple[float, float, float, float]]:
    """Time, mean, minimum and maximum of short stretches: fast swings are drawn as a band."""
    thinned = []
    for _, stretch in groupby(history.points, lambda point: int(point[0] / STRETCH_SECONDS)):
        seconds, values = zip(*stretch, strict=True)
        thinned.append((seconds[-1], sum(values) / len(values), min(values), max(values)))
    return thinned


def _range(history: ValueHistory) -> tuple[float, float]:
    values = [value for _, value in history.points]
    low, high = min(values), max(values)
    wider = max(MIN_RANGE * max(abs(low), abs(high)), 0.01) - (high - low)
    return (low - wider / 2, high + wider / 2) if wider > 0 else (low, high)


# The policy


class _Bar(NamedTuple):
    """`begin` and `end` are fractions of a full bar."""

    name: str
    begin: float
    end: float
    number: str
    colour: str
    chosen: bool = False


def _bars(decision: Decision, names: Sequence[str]) -> list[_Bar]:
    """One for each action and its probability; or for each component of an action: of a number from the middle of its
    bounds, of a choice the probability of what was chosen."""
    if decision.probabilities is None:
        return [
            _Bar(action_name(names, i), min(0.5, position), max(0.5, position), format_value(value), CHOSEN)
            if probability is None
            else _Bar(f"{action_name(names, i)}: {value:g}", 0.0, probability, f"{100 * probability:.0f} %", CHOSEN)
            for i, (value, position, probability) in enumerate(decision.components)
        ]
    return [
        _Bar(action_name(names, i), 0.0, p, f"{100 * p:.0f} %", CHOSEN if chosen else OTHER, chosen)
        for i, p in enumerate(decision.probabilities.tolist())
        for chosen in [i == decision.chosen]
    ]


class _Grid(NamedTuple):
    """The layout of the bars: one or two columns of lines, or a histogram (no columns)."""

    columns: int
    lines: int
    height: float


def _grid(count: int, room: float, em: int) -> _Grid:
    for columns in (1, 2):
        lines = math.ceil(count / columns)
        if room >= 0.8 * em * lines:
            return _Grid(columns, lines, min(room, 2.1 * em * lines))
    return _Grid(0, 0, min(room, 8 * em))


def _draw_bars(pen: _Pen, corner: tuple[int, int, int], grid: _Grid, bars: Sequence[_Bar]) -> None:
    """A line for each bar: its name, the bar, its number where there is a single column."""
    em, (left, top, right) = pen.em, corner
    cell, pitch = (right - left + em) / grid.columns - em, grid.height / grid.lines
    size, mark = min(0.9, pitch / em), 0.9 * em
    names = [pen.cut(bar.name, 0.55 * cell, size) for bar in bars]
    start = mark + max(pen.width(name, size) for name in names) + 0.6 * em
    numbered = grid.columns == 1
    length = cell - start - (3.2 * em if numbered else 0)
    thickness = min(0.8 * em, 0.7 * pitch)
    for index, (name, bar) in enumerate(zip(names, bars, strict=True)):
        column, line = divmod(index, grid.lines)
        x, y = left + column * (cell + em), top + (line + 0.5) * pitch
        ink = INK if bar.chosen else SOFT
        if bar.chosen:
            h = 0.32 * em
            pen.draw.polygon([(x, y - h), (x + 1.6 * h, y), (x, y + h)], CHOSEN)
        pen.text(x + mark, y, name, ink, size, "lm")
        upper, lower = round(y - thickness / 2), round(y + thickness / 2)
        pen.draw.rectangle((x + start, upper, x + start + length - 1, lower), TRACK)
        if (bar.end - bar.begin) * length >= 1:
            first, last = x + start + bar.begin * length, x + start + bar.end * length - 1
            pen.draw.rectangle((first, upper, last, lower), bar.colour)
        if numbered:
            pen.text(x + cell, y, bar.number, ink, size, "rm")


def _draw_histogram(
    pen: _Pen, corner: tuple[int, int, int], grid: _Grid, decision: Decision, names: Sequence[str]
) -> None:
    """For very many actions: the most probable one has the full height; only the chosen one has its name."""
    assert decision.probabilities is not None
    em, (left, top, right) = pen.em, corner
    bottom, width = top + grid.height - 1.6 * em, (right - left) / len(decision.probabilities)
    scale = (bottom - top) / max(float(decision.probabilities.max()), 1e-9)
    pen.draw.rectangle((left, top, right - 1, bottom), TRACK)
    for action, probability in enumerate(decision.probabilities.tolist()):
        x, chosen = left + action * width, action == decision.chosen
        if probability * scale >= 1:
            far = x + max(width - (2 if width >= 3 else 1), 0)
            pen.draw.rectangle((x, bottom - probability * scale, far, bottom), CHOSEN if chosen else OTHER)
        if chosen:
            middle, h, tip = x + width / 2, 0.3 * em, bottom + 2
            pen.draw.polygon([(middle - h, tip + 1.6 * h), (middle, tip), (middle + h, tip + 1.6 * h)], CHOSEN)
            label = pen.cut(f"{action_name(names, action)}  {100 * probability:.0f} %", right - left)
            room = pen.width(label)
            pen.text(min(max(middle - room / 2, left), right - room), bottom + 1.7 * em, label, INK)
