"""The terminal: pictures in characters, and the agent's thoughts below them."""

import io
import re

import numpy as np
import pytest

import troupe
from helpers.screens import assert_reads_the_same
from troupe.runs.show import play, terminal


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "9")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setattr(play, "LAST_FRAME_SECONDS", 0.0)


@pytest.fixture
def shown(countdown, decided):
    """Plays and gives the returns and what was written."""

    def show(encoding="utf-8"):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
        returns = terminal.show_terminal(decided(), countdown, episodes=2, seed=0, stream=stream)
        stream.flush()
        return returns, raw.getvalue().decode(encoding)

    return show


def lines_of(written):
    """The last screen without its colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.split("\x1b[H")[-1]).split("\r\n")


def test_half_blocks_fill_the_width_in_proportion(shown):
    returns, written = shown()
    last = written.split("\x1b[H")[-1]
    assert returns == [5.0, 5.0]
    assert "\x1b[38;2;100;100;100;48;2;100;100;100m" + "▀" * 20 in last
    assert last.count("▀") == 20 * 7  # 41 of 61 pixels high: 13 of 20, in pairs
    assert "episode 2/2" in last


def test_a_bar_for_each_action_and_the_value_where_there_is_room(shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    *_, state, policy = lines_of(shown()[1])
    assert "score 5" in state
    assert "value 12.50" in state
    assert [word.strip() for word in re.findall("[█░]+ +[0-9]+ %", policy)] == [
        "██░░░░░░  25 %", "██████░░  75 %", "░░░░░░░░   0 %",
    ]  # fmt: skip


def test_the_chosen_action_is_marked(shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    first = shown()[1].split("\x1b[H")[1]
    assert "▸action 1" in first
    assert " action 0" in first


def test_without_room_an_action_is_a_character(shown):
    _, written = shown()
    assert lines_of(written)[-1].startswith("policy ▂▆")
    assert max(map(len, lines_of(written)[-2:])) < 20


def test_without_true_colour_the_256_are_used(shown, monkeypatch):
    monkeypatch.delenv("COLORTERM")
    _, written = shown()
    assert "\x1b[38;5;241;48;5;241m" in written
    assert "38;2;" not in written


def test_without_unicode_characters_stand_for_grey(shown):
    _, written = shown("ascii")
    rows = re.findall(r"^[^\x1b]*", written.split("\x1b[H")[-1], re.MULTILINE)
    assert "=" * 20 in rows or "-" * 20 in rows or "+" * 20 in rows


def test_the_terminal_comes_back_after_an_interruption(countdown, decided):
    class Interrupted(decided):
        def act(self, observation):
            raise KeyboardInterrupt

    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        terminal.show_terminal(Interrupted(), countdown, 1, 0, out)
    assert out.getvalue().endswith("\x1b[0m\x1b[?25h\x1b[?1049l")


def test_it_plays_at_the_environments_speed_and_drops_pictures_when_late(countdown, decided, clock):
    """With a clock of our own: steps take 0.02 s, a picture 0.1 s."""

    class Slow(countdown):
        def render(self):
            clock.now += 0.1
            return super().render()

    env = Slow(render_mode="rgb_array", length=100)
    terminal.show_terminal(decided(), lambda mode: env, 1, 0, io.StringIO())
    assert clock.now == pytest.approx(101 * 0.02, abs=0.13)
    assert 12 <= env.rendered <= 22


def test_a_run_is_watched_in_the_environment_that_it_was_trained_in(countdown, tmp_path, capsys):
    settings = {"topology": "serial", "actor.count": 1, "actor.environments": 2, "evaluation.final_episodes": 1}
    settings |= {"env.max_steps": 3, "stop.target": "none"}
    run = troupe.train(countdown, steps=40, run_dir=tmp_path / "run", settings=settings)
    assert troupe.watch(run.path, env=countdown, episodes=2, terminal=True) == [3.0, 3.0]
    assert "episode 2/2" in capsys.readouterr().out


def test_the_numbers_of_an_action_have_their_names_where_there_is_room():
    decision = play.Decision(None, 0.0, None, [play.ActionComponent(-1.25, 0.0), play.ActionComponent(30.0, 1.0)])
    assert terminal._policy(decision, ["gas"], True, 60, 2) == ["gas  -1.25    action 1  30.00 █"]
    assert terminal._policy(decision, ["gas"], False, 12, 2) == ["action  @"]
    assert terminal._policy(decision._replace(components=[]), ["gas"], True, 60, 2) == []
    choice = decision._replace(components=[play.ActionComponent(2, 0.0, 0.9)])
    assert terminal._policy(choice, ["gear"], True, 60, 2) == ["gear 2  90 % ▇"]


def test_a_value_that_is_no_number_has_no_history():
    state = play.PlayState(0, 1, 3, 0.1, 2.0, play.Decision(None, np.nan, None), play.ValueHistory(), False)
    assert terminal._status(state, True, 100).split() == ["episode", "1/1", "step", "3", "score", "2", "value", "nan"]


ONE = ["left", "stay", "up and to the right"]


@pytest.mark.parametrize(
    ("name", "encoding", "colours", "columns", "lines", "actions", "shares"),
    [
        ("playing", "utf-8", "truecolor", 100, 12, ONE, (0.24, 0.76, 0.0)),
        ("playing-in-256-colours", "utf-8", "", 70, 18, ONE, (0.24, 0.76, 0.0)),
        ("playing-in-greys", "ascii", "24bit", 46, 11, ONE, (0.24, 0.76, 0.0)),
        ("playing-many-actions", "utf-8", "24bit", 46, 7, ["fire", "wait"], np.linspace(0.0, 1.0, 9)),
    ],
)
def test_the_screen_looks_like_the_reference_screen(
    name, encoding, colours, columns, lines, actions, shares, countdown, decided, clock, monkeypatch, tmp_path
):
    """Positions, characters and colours, which no other test checks: a picture of several colours, in proportion; the
    values of the episode; the policy."""
    for variable, value in (("COLORTERM", colours), ("COLUMNS", str(columns)), ("LINES", str(lines))):
        monkeypatch.setenv(variable, value)

    class Painted(countdown):
        def render(self):
            across, down = np.meshgrid(np.linspace(0, 255, 24), np.linspace(0, 255, 10))
            return np.stack([across, down, np.full_like(down, 50 * self.step_number)], axis=2).round().astype(np.uint8)

        def get_action_meanings(self):
            return actions

    raw, screens = io.BytesIO(), []

    class Swinging(decided):
        step = 0

        def distribution(self, observation):
            self.step += 1
            screens.append(raw.getvalue().count(b"\x1b[H"))
            return np.array(shares), 100.0 * np.sin(self.step)

    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    env = Painted(render_mode="rgb_array", length=12)
    assert terminal.show_terminal(Swinging(), lambda mode: env, 1, 0, stream) == [12.0]
    assert screens == [(step + 1) // 2 for step in range(13)]  # each, of every second step, is there before the next
    begin, *_, screen, last = raw.getvalue().decode(encoding).split("\x1b[H")
    end = "".join(last.splitlines(keepends=True)[-4:])
    assert_reads_the_same(f"{begin}\n{screen}\nin the end\n{end}", name, tmp_path)
