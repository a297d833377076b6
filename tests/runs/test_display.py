"""The display: what a person sees on a terminal, in a file, and when they asked for quiet."""

import io
import re
import sys
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.screens import assert_reads_the_same
from troupe.runs.report import display
from troupe.runs.report import panel as panels
from troupe.runs.report.display import Display
from troupe.runs.report.reporter import bottleneck
from troupe.runs.report.words import Limits, View, bottleneck_words, progress, time_left, training_return

LIMITS = Limits(steps=100_000, target=475.0)


class Terminal(io.TextIOWrapper):
    """Takes what is written as a terminal would; `shown` is that without control sequences."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True

    @property
    def written(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]

    @property
    def shown(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.written).replace("\r", "\n")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "LINES", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(display, "monotonic", clock)
    return clock


def report(seconds: float = 2.0, **changed: Any) -> dict[str, Any]:
    row = {
        "kind": "report", "wall": 1e9, "seconds": seconds, "steps": int(20_000 * seconds), "episodes": 300,
        "return_mean": 120.0, "recent_return": 100.0, "steps_per_s": 20_123.4, "updates_per_s": 310.6,
        "queue_depth": 3, "queue_capacity": 4, "lag_mean": 1.25, "lag_max": 6,
        "shares": {
            "actor": {"env": 0.12, "act": 0.1, "wait": 0.78},
            "learner": {"learn": 0.93, "wait": 0.07},
        },
        "bottleneck": "learner: learn",
    }  # fmt: skip
    return row | changed


def evaluation(mean: float) -> dict[str, Any]:
    return {"kind": "evaluation", "steps": 1, "seconds": 1.0, "purpose": "progress", "mean": mean}


def collapse() -> dict[str, Any]:
    return {"kind": "collapse", "steps": 1, "seconds": 1.0, "mean": 9.0, "answer": "report"}


def panel(*rows: dict[str, Any], limits: Limits = LIMITS, terminal: Terminal | None = None) -> str:
    """The last panel that stands there after the rows."""
    terminal = terminal or Terminal()
    with Display(stream=terminal) as shown:
        for row in rows:
            shown.report(row, limits)
    return re.split(r"[╭+]─*-*  ?\d+", terminal.shown)[-1]


def test_the_panel_tells_all_that_was_asked_for() -> None:
    text = panel(evaluation(301.0), evaluation(250.0), report(1.0, recent_return=20.0), report(), collapse())
    for words in (
        " s of training, at most 3 s to step 100,000",
        "40 %  40,000 of 100,000 steps",
        "training return so far, 20.0 to 100.0",
        "training 100.0 (latest 100 episodes, exploring)",
        "best evaluation 301.0 (greedy)",
        "target 475, to be confirmed by 100 episodes",
        "20,123 steps/s        and 311 updates/s lately; 300 episodes so far",
        "3 of 4 rollouts wait to be learned from",
        "1.2 (max 6)           weight versions from acting to learning, mean",
        "time: █ env 12 %  ▒ act 10 %  · wait 78 %",
        "█ learn 93 %  · wait 7 %",
        "the learner is the bottleneck (learn 93 %): the actors wait 78 % of the time",
    ):
        assert words in text
    assert "best evaluation 5.00 (sampled actions)" in panel(evaluation(5.0), report(), limits=Limits(greedy=False))


def test_in_80_columns_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shares = {"env": 0.12, "env_wait": 0.11, "act": 0.1, "delay": 0.3, "turn": 0.1, "wait": 0.17, "preempted": 0.1}
    changed = {"queue_depth": 28, "queue_capacity": 1032, "lag_mean": 11.9, "lag_max": 204, "steps_per_s": 372_123.0}
    row = report(9_000.0, recent_return=-12_345.6, shares={"actor": shares, "predictor": shares}, **changed)
    limits = Limits(steps=500_000_000, seconds=9_999.0, target=-12_000.0)
    lines = panel(evaluation(-12_300.0), row | {"bottleneck": "actor: turn"}, limits=limits).splitlines()
    text = " ".join(" ".join(line.strip("│ ") for line in lines).split())
    assert max(map(len, lines)) <= 80
    assert "waiting for a turn on one core is the bottleneck (10 % of the time of the actors)" in text
    for words in (
        "28 of 1,032 rollouts wait to be learned from",
        "-12,346 to -12,346",
        "target -12000",
        "372,123 steps/s",
    ):
        assert words in text
    for stage in ("env 12 %", "env wait 11 %", "waiting for a turn 10 %", "no free core 10 %"):
        assert sum(stage in line for line in lines) == 2, stage  # whole, in a line for each part


def test_the_end_of_a_run_is_wrapped_at_words_on_a_terminal_and_whole_in_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal, file = Terminal(), io.StringIO()
    lines = ["solved: mean evaluation return 494.1 over 100 episodes", "  picture " + "long/" * 10 + "learning.png"]
    for stream in (terminal, file):
        with Display("quiet", stream) as shown:
            shown.result(lines)
    assert file.getvalue().splitlines() == lines
    assert terminal.written.splitlines() == [
        "solved: mean evaluation return 494.1", "  over 100 episodes", "  picture", f"    {lines[1].split()[1]}"
    ]  # fmt: skip


def test_progress_is_towards_the_limit_nearest_its_end() -> None:
    assert " s of training, 20 s left" in panel(report(20.0), limits=Limits(steps=10**7, seconds=40.0))
    assert "50 %  20 s of 40 s" in panel(report(20.0), limits=Limits(steps=10**7, seconds=40.0))
    rows = report(1.0, recent_return=0.0), report(2.0, recent_return=380.0)
    assert "80 %  training return 380.0 (from 0.00 to 475)" in panel(*rows)


def test_a_run_without_limits_counts_its_steps() -> None:
    text = panel(report(), limits=Limits())
    assert "40,000 steps" in text
    assert "left" not in text


def test_a_target_above_negative_returns_is_measured_from_the_first() -> None:
    rows = report(1.0, recent_return=-500.0), report(2.0, recent_return=-200.0)
    assert "75 %  training return -200.0 (from -500.0 to -100)" in panel(*rows, limits=Limits(target=-100.0))


def test_the_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert panels._sparkline([0.0, 7.0], 10, "01234567") == "07"
    assert panels._sparkline([float(i) for i in range(80)], 8, "01234567") == "01234567"
    assert panels._sparkline([3.0, 3.0], 10, "01234567") == "00"
    assert panels._sparkline([], 10, "01234567") == ""


def test_the_history_of_a_long_run_stays_small_and_whole() -> None:
    history = display._Returns()
    for i in range(10_000):
        history.add(float(i))
    assert len(history.values) < 256
    assert history.values == sorted(history.values)
    assert history.values[0] < 100
    assert history.values[-1] > 9_800


def test_bars_rounded_together_fill_their_place_exactly() -> None:
    for shares in ([1 / 3, 1 / 3, 1 / 3], [0.0], [1.7], [0.5, 0.9]):
        parts = [(share, "#", "") for share in shares]
        assert len("".join(text for text, _ in panels._bar(parts, 10, "."))) == 10


@pytest.mark.parametrize(("encoding", "characters"), [("utf-8", "█▒▚·"), ("ascii", "#=%.")])
def test_the_stages_in_a_bar_are_told_apart_without_colour(
    encoding: str, characters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal(encoding)
    shares = {"env": 0.25, "act": 0.25, "env_wait": 0.25, "wait": 0.25}
    (line,) = [
        line
        for line in panel(report(shares={"actor": shares}), terminal=terminal).splitlines()
        if "actors" in line[:12]
    ]
    assert "".join(each * 5 for each in characters) in line
    names = ("env", "act", "env wait", "wait")
    assert all(f"{each} {name} 25 %" in line for each, name in zip(characters, names, strict=True))
    assert "\x1b[3" not in terminal.written  # no colour


@pytest.mark.parametrize("width", [1, 5, 12, 30, 59, 300])
def test_the_panel_fits_any_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    terminal = Terminal()
    panel(report(), terminal=terminal)
    assert max(map(len, terminal.shown.splitlines())) <= width


def test_a_terminal_without_unicode_gets_ascii() -> None:
    terminal = Terminal("ascii")
    with Display(stream=terminal) as shown:
        shown.start(["CartPole → v1"])
        shown.report(report(), LIMITS)
        shown.notice("a → b")
    assert "queue     ####" in terminal.shown
    assert "a ? b" in terminal.shown


def test_events_stand_above_the_panel_and_the_cursor_comes_back() -> None:
    terminal = Terminal()
    with pytest.raises(KeyboardInterrupt), Display(stream=terminal) as shown:  # noqa: PT012
        shown.report(report(), LIMITS)
        shown.notice("saved")
        raise KeyboardInterrupt
    assert terminal.shown.index("saved") < terminal.shown.rindex("progress")
    assert terminal.written.rindex("\x1b[?25h") > terminal.written.rindex("\x1b[?25l")


def test_the_panel_is_drawn_four_times_a_second_at_most(clock: Clock) -> None:
    terminal = Terminal()
    with Display(stream=terminal) as shown:
        drawn = []
        for _ in range(100):
            clock.now += 0.01
            before = len(terminal.written)
            shown.report(report(), LIMITS)
            drawn.append(len(terminal.written) > before)
    assert sum(drawn) == 4


def test_plain_lines_are_aligned_and_without_control_characters(clock: Clock) -> None:
    out = io.StringIO()
    with Display("plain", out) as shown:
        shown.start(["CartPole-v1 with appo"])
        for seconds in (1.0, 100.0, 10_000.0):
            clock.now += 60.0
            shown.report(report(seconds, steps=int(seconds) * 10_000), LIMITS)
        shown.report(evaluation(470.5), LIMITS)
        clock.now += 60.0
        shown.report(report(), LIMITS)
    intro, *explained, heading, _, _, _, _ = out.getvalue().splitlines()
    lines = out.getvalue().splitlines()[-4:]
    assert all(f"{name}: " in "\n".join(explained) for name in ("training", "best eval", "steps/s", "queue", "lag"))
    assert intro == "CartPole-v1 with appo"
    assert not re.search(r"[^\x20-\x7e\n]", out.getvalue())
    names = ("time", "steps", "training", "best eval", "queue", "lag")
    ends = [heading.index(name) + len(name) for name in names]
    assert all(line[end - 1] != " " and line[end] == " " for line in lines for end in ends)
    assert "470.5" in lines[-1]
    assert [line.split()[0] for line in lines] == ["0m01s", "1m40s", "2h46m", "0m02s"]
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_a_resumed_run_shows_its_best_evaluation_from_the_first_row_on() -> None:
    """The final evaluation, of weights that were chosen, does not count, as in the run before."""
    final = evaluation(500.0) | {"purpose": "final"}
    before = [report(1.0, recent_return=20.0), evaluation(301.0), evaluation(250.0), final]
    out, terminal = io.StringIO(), Terminal()
    for shown in (Display("plain", out), Display(stream=terminal)):
        with shown:
            shown.resume(before)
            shown.report(report(), LIMITS)
            shown.report(evaluation(290.0), LIMITS)
            shown.report(report(), LIMITS)
    lines = out.getvalue().splitlines()
    assert [line.split()[3] for line in lines if re.match(r" *\dm", line)] == ["301.0"] * len(lines[5:])
    assert "best evaluation 301.0 (greedy)" in terminal.shown
    assert "best evaluation 290.0" not in terminal.shown
    assert "training return so far, 20.0 to 100.0" in terminal.shown


def test_a_resumed_run_in_which_no_episode_has_ended_yet_has_no_training_return() -> None:
    """Not the return of 1,000 steps, with words that no episode has ended: many have, before it was stopped."""
    out = io.StringIO()
    with Display("plain", out) as shown:
        shown.report(report(recent_return=None, return_per_1000_steps=1000.0), LIMITS)
    assert "/1k" not in out.getvalue()
    assert out.getvalue().splitlines()[-1].split()[2] == "-"


def test_plain_lines_become_rarer_and_the_last_report_is_shown(clock: Clock) -> None:
    out = io.StringIO()
    seen: list[float] = []
    start = clock.now
    with Display("plain", out) as shown:
        for tick in range(6_000):
            clock.now = start + tick / 10
            before = out.tell()
            shown.report(report(tick / 10), LIMITS)
            if out.tell() > before:
                seen.append(tick / 10)
        lines = out.getvalue().count("\n")
    pauses = [after - before for before, after in pairwise(seen)]
    assert 1.9 <= pauses[0] <= 2.2
    assert pauses == pytest.approx(sorted(pauses), abs=0.11)
    assert pauses[-1] == pytest.approx(30.0, abs=0.11)
    assert out.getvalue().count("\n") == lines + 1


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_quiet_leaves_events_and_the_result(stream: Callable[[], Any]) -> None:
    out = stream()
    with Display("quiet", out) as shown:
        shown.start(["intro"])
        shown.report(report(), LIMITS)
        shown.notice("a checkpoint was damaged")
        shown.result(["mean 480.0"])
    text = out.written if isinstance(out, Terminal) else out.getvalue()
    assert text == "a checkpoint was damaged\nmean 480.0\n"


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with Display(stream=terminal) as shown:
        shown.report(report(), LIMITS)
    assert "\x1b" not in terminal.written


def test_auto_is_silent_where_nobody_watches(caplog: pytest.LogCaptureFixture) -> None:
    out = io.StringIO()
    with Display("auto", out) as shown:
        shown.start(["intro"])
        shown.report(report(), LIMITS)
        shown.notice("an environment was replaced")
        shown.result(["result"])
    assert out.getvalue() == ""
    assert [record.message for record in caplog.records] == ["an environment was replaced"]


class Notebook:
    """Jupyter as far as the display knows it: a shell with a kernel, and outputs that can be replaced."""

    def __init__(self) -> None:
        self.outputs: list[list[str]] = []

    def get_ipython(self) -> Any:
        return types.SimpleNamespace(kernel=object())

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert (raw, display_id) == (True, True)
        shown = [data["text/plain"]]
        self.outputs.append(shown)
        return types.SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))


def test_a_notebook_shows_the_panel_in_one_place(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as some have it, for their terminals
    with Display() as shown:
        shown.start(["intro"])
        for seconds in (1.0, 2.0):
            clock.now += 10
            shown.report(report(seconds), LIMITS)
        shown.result(["mean evaluation return 480.0"])
    assert capsys.readouterr().out == "intro\nmean evaluation return 480.0\n"
    (updates,) = notebook.outputs
    assert [re.findall(r"steps in (. s) of training", text) for text in updates] == [["1 s"], ["2 s"]]
    assert "40,000 of 100,000 steps" in updates[-1]
    assert "\x1b" not in updates[-1]


def test_only_a_shell_with_a_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not panels.in_notebook()
    for shell, expected in ((None, False), (object(), False), (types.SimpleNamespace(kernel=1), True)):
        package = types.SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", package)  # type: ignore[arg-type]
        assert panels.in_notebook() == expected


@pytest.mark.parametrize("base", [io.StringIO, Terminal])
def test_a_stream_that_goes_away_stops_no_run(base: type[Any]) -> None:
    """Nothing is raised, although it was written to."""
    written: list[str] = []

    class Gone(base):  # type: ignore[misc]
        def write(self, text: str) -> int:
            written.append(text)
            raise BrokenPipeError

    with Display("auto" if base is Terminal else "plain", Gone()) as shown:
        shown.start(["intro"])
        shown.report(report(), LIMITS)
        shown.notice("event")
        shown.result(["result"])
    assert written


def test_a_row_with_only_the_counters_is_enough() -> None:
    bare = {"kind": "report", "seconds": 1.0, "steps": 10, "recent_return": None, "from_the_future": [1]}
    assert "10 steps" in panel(bare, limits=Limits())
    out = io.StringIO()
    with Display("plain", out) as shown:
        shown.report(bare, Limits())
    assert out.getvalue().splitlines()[-1].split() == ["0m01s", "10", "-", "-", "-", "0/0", "-", "-"]


@pytest.mark.parametrize(
    ("bottleneck", "words"),
    [
        ("actor: env", "the actors are the bottleneck (env 12 %): the learner waits 7 % of the time"),
        (
            "actor: env_wait",
            "the environments' own waiting is the bottleneck (80 % of the time of the actors): "
            "the learner waits 7 % of the time",
        ),
        (
            "actor: delay",
            "env.delay_seconds is the bottleneck (15 % of the time of the actors): the learner waits 7 % of the time",
        ),
        ("learner", "the learner is the bottleneck: the actors wait 78 % of the time"),
        ("nothing", "nothing is the bottleneck: every part waits for another most of the time"),
        ("", ""),
    ],
)
def test_the_bottleneck_in_words(bottleneck: str, words: str) -> None:
    row = report(bottleneck=bottleneck)
    row["shares"]["actor"] |= {"env_wait": 0.8, "delay": 0.15}
    assert bottleneck_words(row) == words


def test_a_stage_has_the_colour_of_its_share_of_the_bar() -> None:
    terminal = Terminal()
    shares = {
        "env": 0.4,
        "act": 0.2,
        "delay": 0.1,
        "unheard_of": 0.1,
        "other": 0.1,
        "wait": 0.1,
    }
    panel(report(shares={"actor": shares}), terminal=terminal)
    lines = terminal.written.splitlines()
    first = next(number for number, line in enumerate(lines) if "actors" in line and "█" in line)
    bars = re.findall(r"\x1b\[([0-9;]+)m[█▒░▓▪]+\x1b", lines[first])
    words = re.findall(r"\x1b\[([0-9;]+)m[█▒░▓▪] [a-z ]+ [0-9]+ %", "".join(lines[first : first + 2]))
    assert words == bars  # waiting has no share of the bar
    assert len(words) == 5
    assert len({*words}) == 4  # a stage without a colour has that of acting


@pytest.mark.parametrize(("waits", "words"), [(0.05, ": the learner waits 5 % of the time"), (0.049, "")])
def test_who_waits_less_than_a_twentieth_is_not_named(waits: float, words: str) -> None:
    row = report(shares={"actor": {"env": 0.9}, "learner": {"wait": waits}}, bottleneck="actor: env")
    assert bottleneck_words(row) == f"the actors are the bottleneck (env 90 %){words}"


@pytest.mark.parametrize(("preempted", "named"), [(0.2, False), (0.21, True)])
def test_a_lack_of_cores_is_named_only_where_it_takes_more_than_the_bottleneck(preempted: float, named: bool) -> None:
    row = report(bottleneck="actor: env", shares={"actor": {"env": 0.2, "preempted": preempted}})
    assert ("no core is free" in bottleneck_words(row)) == named


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": 1000}, "1,250.0/1k"),
        ({"steps": 999}, "-"),
        ({"steps": 1000, "episodes": 1}, "-"),
        ({"steps": 1000, "recent_return": 3.0}, "3.00"),
    ],
)
def test_until_an_episode_has_ended_the_return_of_1000_steps_is_shown(changed: dict[str, Any], words: str) -> None:
    row = report(episodes=0, recent_return=None, return_per_1000_steps=1250.0)
    assert training_return(row | changed) == words


def test_a_target_that_the_first_return_has_reached_is_no_way_to_go() -> None:
    view = View(report(), Limits(target=20.0), [20.0, 10.0], None)
    assert progress(view) == (0.0, "0 %  40,000 steps")


def test_progress_stays_between_nothing_and_all() -> None:
    assert progress(View(report(), Limits(target=20.0), [10.0, 5.0], None))[0] == 0.0
    assert progress(View(report(), Limits(target=20.0), [10.0, 45.0], None))[0] == 1.0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(), ""),
        (Limits(steps=50_000), ", 0 s to step 50,000"),
        (Limits(seconds=7.0), ", 5 s left"),
        (Limits(steps=120_000), ", 4 s to step 120,000"),
        (Limits(steps=120_000, seconds=5.0), ", 3 s left"),
        (Limits(steps=120_000, target=1.0), ", at most 4 s to step 120,000"),
    ],
)
def test_the_time_left_is_that_of_the_nearest_limit_at_the_average_speed(limits: Limits, words: str) -> None:
    steps = 60_000 if limits.steps == 50_000 else 40_000
    assert time_left(report(2.0, steps=steps), limits) == words


def test_a_part_has_a_bar_of_what_it_does_and_its_stages_in_words_the_idle_ones_last() -> None:
    shares = {"wait": 0.2, "other": 0.1, "env": 0.5, "act": 0.195, "delay": 0.005, "turn": 0.004}
    lines = panel(report(shares={"actor": shares})).splitlines()
    first = next(number for number, line in enumerate(lines) if "actors" in line and "env" in line)
    _, bar, *words = " ".join(line.strip("│") for line in lines[first : first + 2]).split()
    assert bar == "█" * 9 + "▒" * 4 + "░" + "▪" * 2 + "·" * 4  # the delay's character is one of the longest's
    assert " ".join(words) == "time: █ env 50 % ▒ act 20 % ░ delay 0 % ▪ unaccounted 10 % · wait 20 %"


def test_a_share_above_nothing_has_at_least_one_character() -> None:
    shares = (0.001, 0.0, 0.004, 0.985, 0.01)
    cells = [len(text) for text, _ in panels._bar([(share, "#", "") for share in shares], 10, ".")]
    assert cells == [1, 0, 1, 7, 1, 0]


def test_a_row_has_no_speed_before_there_is_half_a_second_to_measure_it_over() -> None:
    out = io.StringIO()
    for seconds in (0.4, 0.5):
        with Display("plain", out) as shown:
            shown.report(report(seconds), LIMITS)
    rows = [line.split() for line in out.getvalue().splitlines() if re.match(r" *\dm", line)]
    assert [row[4] for row in rows] == ["-", "20,123"]


def test_the_lack_of_a_core_that_takes_more_than_the_bottleneck_itself_is_named() -> None:
    row = report(bottleneck="actor: env", shares={"actor": {"env": 0.2, "preempted": 0.8}})
    assert bottleneck_words(row) == (
        "no core is free for 80 % of the actors' time; otherwise, the actors are the bottleneck (env 20 %)"
    )


def test_the_bottleneck_never_contradicts_the_shares_in_the_panel() -> None:
    """Made-up timings: whoever is named waits for others no longer than anybody else, and no more than half of the
    time."""
    rng = np.random.default_rng(0)
    named = set()
    for _ in range(2_000):
        parts = ("actor", "learner", "predictor")[: rng.integers(1, 4)]
        busy = ("env", "env_wait", "delay", "turn", "act")
        stages = ("wait", *busy, "other", "preempted")
        shares = {part: dict(zip(stages, rng.dirichlet([1.5, *[0.3] * 7]).tolist(), strict=True)) for part in parts}
        row = report(shares=shares, bottleneck=bottleneck(shares))
        part, _, stage = row["bottleneck"].partition(": ")
        words, waits = bottleneck_words(row), [its["wait"] for its in shares.values()]
        named.add(part)
        if part == "nothing":
            assert min(waits) > 0.5
            assert words.startswith("nothing is the bottleneck")
        else:
            assert shares[part]["wait"] == min(waits) <= 0.5
            assert shares[part][stage] == max(
                shares[part][each] for each in ("env", "env_wait", "delay", "turn", "act")
            )
            assert f"{shares[part][stage]:.0%}".replace("%", " %") in words
    assert named == {"actor", "learner", "predictor", "nothing"}


BUSY = report(
    2.0,
    recent_return=-70.5,
    queue_depth=2,
    queue_capacity=3,
    lag_mean=11.25,
    lag_max=204,
    steps_per_s=3_456.7,
    updates_per_s=1_234.5,
    episodes=99,
    shares={
        "actor": {"wait": 0.2, "other": 0.1, "env": 0.3, "env_wait": 0.2, "act": 0.1, "delay": 0.05, "preempted": 0.05},
        "predictor": {"predict": 0.7, "turn": 0.1, "unheard_of": 0.1, "average": 0.1},
        "learner": {"learn": 0.93, "wait": 0.066, "other": 0.004},
    },
    bottleneck="actor: env",
)
NO_EPISODE = report(90.0, episodes=0, recent_return=None, return_per_1000_steps=12.5, queue_capacity=0, shares={})


@pytest.mark.parametrize(
    ("name", "encoding", "columns", "last"),
    [
        ("training", "utf-8", 100, BUSY),
        ("training-without-unicode", "ascii", 72, BUSY),
        ("training-before-an-episode", "utf-8", 100, NO_EPISODE),
    ],
)
def test_the_panel_of_a_run_looks_like_the_reference_screen(
    name: str, encoding: str, columns: int, last: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Positions, characters and colours, which no other test checks, and that the terminal is left as it was."""
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal(encoding)
    with Display(stream=terminal) as shown:
        shown.start(["CartPole-v1 with appo"])
        shown.resume([report(1.0, recent_return=each) for each in (-100.0, -96.0, -91.0, -80.0)] * (last is BUSY))
        shown.report(evaluation(-60.25), Limits(steps=100_000, target=-20.0))
        shown.report(last, Limits(steps=100_000 if last is BUSY else 0, target=-20.0, greedy=last is BUSY))
    assert_reads_the_same(terminal.written, name, tmp_path)


@pytest.mark.parametrize("lines", [30, 24, 16, 6])
def test_the_panel_has_what_matters_most_where_there_are_few_lines(lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setenv("LINES", str(lines))
    terminal = Terminal("ascii")
    with Display(stream=terminal) as shown:
        shown.report(BUSY, Limits(steps=100_000, target=-20.0))
    rows = re.findall(r"^\| (\w+)", terminal.shown, re.MULTILINE)
    order = ("progress", "return", "the", "learner", "actors", "predictors", "queue", "lag", "speed")  # the bottleneck
    there = [name in rows for name in order]
    assert there == sorted(there, reverse=True)
    assert there[:3] == [True] * 3
    assert all(there) == (lines >= 24)


def test_the_rows_of_a_run_look_like_the_reference_screen(clock: Clock, tmp_path: Path) -> None:
    out = io.StringIO()
    with Display("plain", out) as shown:
        for last in (NO_EPISODE, report(100.0), report(3_599.4), report(3_600.0, lag_mean=11.25), BUSY):
            clock.now += 100.0
            shown.report(last, LIMITS)
            shown.report(evaluation(-60.25), LIMITS)
    assert_reads_the_same(out.getvalue(), "rows", tmp_path)
