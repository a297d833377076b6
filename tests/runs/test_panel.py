"""The image beside which the agent's thoughts are: what is drawn is what was thought."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.pictures import assert_looks_the_same
from troupe.runs.show import panel as panels
from troupe.runs.show.panel import CHOSEN, OTHER, TRACK, VALUE, ZERO, Panel
from troupe.runs.show.play import ActionComponent, Decision, PlayState, ValueHistory
from troupe.text import format_score, format_value


def state(shares=(0.25, 0.75), values=(1.0,), chosen=0, step=12, total=12.0) -> PlayState:
    history = ValueHistory()
    for number, value in enumerate(values):
        history.add(number / 50, value)
    probabilities = None if shares is None else np.array(shares)
    return PlayState(0, 3, step, len(values) / 50, total, Decision(probabilities, values[-1], chosen), history, False)


def of_colour(image: np.ndarray, colour: str) -> np.ndarray:
    return (image == tuple(bytes.fromhex(colour[1:]))).all(axis=2)


BLACK = np.zeros((400, 600, 3), np.uint8)


def bar_lengths(image: np.ndarray, colour: str) -> list[int]:
    """Of every bar of this colour, from the top."""
    lengths = of_colour(image[:, 640:], colour).sum(axis=1)
    starts = np.flatnonzero((lengths[1:] > 0) & (lengths[:-1] == 0)) + 1
    return [int(lengths[start + 2]) for start in starts]


def test_bars_are_as_long_as_the_probabilities():
    image = Panel("Env", ["left", "right", "up", "down"]).compose(BLACK, state([0.1, 0.2, 0.3, 0.4], chosen=3))
    lengths = bar_lengths(image, OTHER) + bar_lengths(image, CHOSEN)
    assert len(lengths) == 4
    assert np.array(lengths) / sum(lengths) == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.01)


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_the_chosen_action_has_another_colour_and_a_mark_before_its_name(chosen):
    image = Panel("Env").compose(BLACK, state([0.3, 0.3, 0.4], chosen=chosen))
    lines = np.flatnonzero(of_colour(image[:, 600:700], CHOSEN).any(axis=1))
    first = np.flatnonzero(of_colour(image[:, 600:], CHOSEN).any(axis=0))[0]
    others = np.flatnonzero(of_colour(image[:, 600:], OTHER).any(axis=1))
    assert first < 40  # left of the names
    assert len(bar_lengths(image, OTHER)) == 2
    assert (others < lines.min()).any() == (chosen > 0)
    assert (others > lines.max()).any() == (chosen < 2)


def test_nothing_is_marked_where_nothing_was_chosen():
    assert not of_colour(Panel("Env").compose(BLACK, state(chosen=None)), CHOSEN).any()


def test_the_value_is_drawn_from_left_to_right():
    image = Panel("Env").compose(BLACK, state(values=np.linspace(-1.0, 1.0, 501), shares=None))
    chart = of_colour(image, VALUE)
    chart[:126] = False  # the number above it
    columns = np.flatnonzero(chart.any(axis=0))
    heights = [np.flatnonzero(chart[:, column]).mean() for column in columns]
    assert columns[-1] - columns[0] > 200
    assert heights[0] - heights[-1] > 100  # upwards
    assert np.polyfit(columns, heights, 1, full=True)[1][0] / len(columns) < 2.0  # straight


@pytest.mark.parametrize(("values", "drawn"), [([-1.0, 1.0], True), ([1.0, 2.0], False), ([-2.0, -1.0], False)])
def test_a_line_at_zero_is_drawn_where_values_are_on_both_sides_of_it(values, drawn):
    line = of_colour(Panel("Env").compose(BLACK, state(values=values, shares=None)), ZERO)
    assert line.any() == drawn
    assert line.any(axis=1).sum() == drawn  # and it is level


def test_a_fast_swing_of_the_value_is_a_band_with_its_mean_in_it():
    image = Panel("Env").compose(BLACK, state(values=[0.0, 1.0] * 250, shares=None))
    solid = of_colour(image, VALUE)[126:]
    assert solid.any(axis=0).sum() > 200
    assert np.median(solid.sum(axis=0)[solid.any(axis=0)]) < 20  # of some 150


def test_the_numbers_of_an_action_are_bars_from_the_middle_of_their_bounds():
    numbers = [ActionComponent(3.0, 1.0), ActionComponent(0.1, 0.5), ActionComponent(-1.0, 0.25)]
    shown = state(shares=None, chosen=None)
    shown = replace(shown, decision=shown.decision._replace(components=numbers))
    image = Panel("Env", ["gas", "steer", "lift"]).compose(BLACK, shown)
    right, left = bar_lengths(image, CHOSEN)
    assert left / right == pytest.approx(0.5, abs=0.02)
    columns = [np.flatnonzero(row) for row in of_colour(image, CHOSEN) if row.any()]
    assert abs(columns[0].min() - columns[-1].max()) <= 2  # they meet in the middle
    many = replace(shown, decision=shown.decision._replace(components=[ActionComponent(1.0, 1.0)] * 1000))
    assert not of_colour(Panel("Env").compose(BLACK, many), CHOSEN).any()  # there is no room for so many


def test_the_choices_of_an_action_are_bars_as_long_as_their_probabilities():
    choices = [ActionComponent(2, 0.0, 0.9), ActionComponent(0, 0.0, 0.3)]
    shown = state(shares=None, chosen=None)
    shown = replace(shown, decision=shown.decision._replace(components=choices))
    long, short = bar_lengths(Panel("Env", ["gear", "horn"]).compose(BLACK, shown), CHOSEN)
    assert short / long == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("chosen", [0, 150, 399])
def test_of_very_many_actions_the_first_is_on_the_left_and_the_last_on_the_right(chosen):
    shares = np.full(400, 0.2 / 399)
    shares[chosen] = 0.8
    image = Panel("Env").compose(BLACK, state(shares, chosen=chosen))[:, 600:]
    columns = np.flatnonzero(of_colour(image, TRACK).any(axis=0))
    left, right = columns[0], columns[-1] + 1
    marked = np.flatnonzero(of_colour(image, CHOSEN).any(axis=0))
    assert (marked.mean() - left) / (right - left) == pytest.approx((chosen + 0.5) / 400, abs=0.02)


def test_bars_of_very_many_actions_touch_only_where_there_is_no_room_between_them():
    def bars(actions: int) -> np.ndarray:
        return of_colour(Panel("Env").compose(BLACK, state(np.full(actions, 1 / actions), chosen=None)), OTHER).any(
            axis=0
        )

    separate, touching = np.flatnonzero(bars(60)), np.flatnonzero(bars(300))
    gaps = np.diff(separate)[np.diff(separate) > 1]
    assert (len(gaps), set(gaps)) == (59, {2})  # one column is free
    assert (np.diff(touching) == 1).all()


def test_without_probabilities_there_are_no_bars():
    image = Panel("Env").compose(BLACK, state(shares=None, chosen=None))
    assert not of_colour(image, OTHER).any()
    assert of_colour(image, VALUE).any()


@pytest.mark.parametrize("actions", [1, 2, 6, 18, 40, 1000])
@pytest.mark.parametrize("size", [(210, 160), (3, 5), (401, 1001), (10, 3000)])
def test_any_picture_and_any_number_of_actions_give_even_sizes_that_stay(actions, size):
    panel = Panel("An environment with a name that is far too long for it", ["upright and fire"] * actions, 12 / 7)
    small = state(np.full(actions, 1 / actions), chosen=actions - 1)
    large = state(np.eye(actions)[0], values=[0.0, -1e9, np.nan], step=123_456_789, total=-1e12)
    one, other = (panel.compose(np.full((*size, 3), 90, np.uint8), state) for state in (small, large))
    assert one.shape == other.shape
    assert one.shape[0] % 2 == one.shape[1] % 2 == 0
    assert one.shape[0] >= 400


def test_an_ataris_picture_is_enlarged_by_whole_numbers_to_about_four_to_three():
    game = np.random.default_rng(0).integers(0, 255, (210, 160, 3), np.uint8)
    image = Panel("Pong", pixel_aspect=12 / 7).compose(game, state())
    assert image.shape == (630, 1120, 3)
    assert (image[:, :800] == game.repeat(3, axis=0).repeat(5, axis=1)).all()


SWINGS = 4.0 * np.sin(np.arange(400) / 40) + np.where(np.arange(400) > 300, np.arange(400) % 2, 0.0)
FEW, MANY = ["left", "stay", "up and to the right"], ["fire", "wait"]
CONTINUOUS = [ActionComponent(-0.7, 0.15), ActionComponent(0.02, 0.51), ActionComponent(30.0, 1.0)]
CHOICES = [ActionComponent(2, 0.0, 0.9), ActionComponent(0, 0.0, 0.005), ActionComponent(-1.0, 0.0)]


@pytest.mark.parametrize(
    ("name", "actions", "shares", "chosen", "values"),
    [
        ("few-actions", FEW, [0.2, 0.05, 0.75, 0.0], 2, SWINGS),
        ("two-columns", MANY, [1 / 64] * 39 + [25 / 64], 30, SWINGS + 9.0),
        ("many-actions", MANY, np.linspace(0.0, 0.02, 100), 70, SWINGS[:20]),
        ("very-many-actions", MANY, np.linspace(0.002, 0.0, 1000), 999, SWINGS / 4 - 9.0),
        ("continuous-actions", ["gas", "steer"], None, None, [0.001]),
        ("choices", ["gear", "horn"], None, None, [np.nan]),
        ("the-end", ["only"], [1.0], None, [-5.0] * 30),
    ],
)
def test_the_panel_looks_like_the_reference_picture(name, actions, shares, chosen, values, tmp_path):
    """Positions, sizes and colours, which no other test checks."""
    shown = state(shares, values, chosen, step=12_345, total=-67.25)
    if shares is None:
        components = CHOICES if name == "choices" else CONTINUOUS
        shown = replace(shown, decision=shown.decision._replace(components=components))
    frame = np.linspace(0, 250, 70 * 30 * 3).reshape(70, 30, 3).astype(np.uint8)
    image = Panel("An environment with a name that is too long", actions, 12 / 7).compose(frame, shown)
    assert_looks_the_same(image[:, 300:], name, tmp_path)


@pytest.mark.parametrize(
    ("height", "width", "aspect", "preferred", "enlarged", "whole"),
    [
        (70, 30, 12 / 7, 560, (560, 420), (560, 698)),
        (20, 200, 1.0, 560, (120, 1200), (400, 1478)),  # by the width, of 1,280 pixels
        (161, 30, 1.0, 400, (322, 60), (400, 338)),
        (450, 501, 1.0, 400, (450, 501), (450, 778)),  # never reduced
        (250, 854, 1.0, 560, (250, 854), (400, 1132)),  # twice would be more than 1,280 pixels by more than a half
        (451, 30, 0.4, 400, (451, 30), (452, 308)),
    ],
)
def test_a_frame_is_enlarged_by_whole_numbers_and_in_the_middle_of_the_panels_height(
    height, width, aspect, preferred, enlarged, whole
):
    frame = np.full((height, width, 3), 200, np.uint8)
    image = Panel("Env", pixel_aspect=aspect, preferred_height=preferred).compose(frame, state())
    rows, columns = (np.flatnonzero((image[:, : enlarged[1]] == 200).all(axis=2).any(axis=each)) for each in (1, 0))
    assert (image.shape[:2], len(rows), len(columns)) == (whole, *enlarged)
    assert (columns[0], rows[0]) == (0, (image.shape[0] - len(rows)) // 2)
    assert (len(rows), len(columns)) == (rows[-1] - rows[0] + 1, columns[-1] + 1)


def test_a_panel_is_drawn_once_for_the_frames_of_a_state_and_anew_for_another():
    panels._draw.cache_clear()
    panel, one, other = Panel("Env"), state(chosen=0), state(chosen=1)
    drawn = [panel.compose(BLACK, each) for each in (one, one, other)]
    assert panels._draw.cache_info()[:2] == (1, 2)  # found, and drawn
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[1] != drawn[2]).any()
    assert len(panel.compose(np.zeros((500, 9, 3), np.uint8), other)) == 500


def test_a_panel_beside_an_environment_has_its_title_its_actions_and_its_pixels():
    rendered = SimpleNamespace(title="Pong", action_names=["fire", "wait"], pixel_aspect=12 / 7)
    for height in (560, 400):
        made = Panel.beside(rendered, height).compose(BLACK[:70], state())  # type: ignore[arg-type]
        assert (made == Panel("Pong", ["fire", "wait"], 12 / 7, height).compose(BLACK[:70], state())).all()
    tall = np.zeros((102, 30, 3), np.uint8)  # 5.49 times as high as the height that is preferred
    assert len(Panel.beside(rendered).compose(tall, state())) == 510  # type: ignore[arg-type]
    assert Panel("Pong").compose(tall, state()).shape == (510, 428, 3)


@pytest.mark.parametrize(
    ("number", "words"), [(21.0, "21"), (-1234.5, "-1,234.5"), (123456.7, "123,457"), (1e9, "1e+09")]
)
def test_returns_are_short(number, words):
    assert format_score(number) == words


@pytest.mark.parametrize(("number", "words"), [(0.123, "0.12"), (-99.9, "-99.90"), (1234.5, "1,234"), (np.nan, "nan")])
def test_values_are_short(number, words):
    assert format_value(number) == words
