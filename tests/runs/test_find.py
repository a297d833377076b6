"""From what a user gives as callbacks to callbacks, and how these are called."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from troupe import Callback, UsageError
from troupe.config import TrainConfig
from troupe.runs.callbacks import find as finding
from troupe.runs.callbacks.callback import Callbacks, Training
from troupe.runs.callbacks.find import find
from troupe.runs.evaluate.scores import Scores
from troupe.runtime.progress import Clock, Progress

FILE = """
import troupe
class Good(troupe.Callback):
    pass
class Other:
    pass
def fails():
    raise ValueError("no\\n way")
"""


def test_objects_are_taken_as_they_are_names_are_called_and_trackers_are_made(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(FILE)
    monkeypatch.setattr(finding, "tracker", lambda name: f"the tracker {name}")
    one = Callback()
    first, second, third = find([one, f"{tmp_path}/own.py:Good", "wandb"])
    assert first is one
    assert (type(second).__name__, third) == ("Good", "the tracker wandb")
    assert find([]) == find(()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("wandb", "callbacks = 'wandb': expected a list"),
        ([Callback], "is not a callback; expected an object of it, Callback() (docs/extending.md)"),
        ([3], "callbacks: 3 is not a callback; expected a troupe.Callback or a name (docs/extending.md)"),
        (["FILE:Other"], "callback own.py:Other: called without arguments it returned a Other, not a troupe.Callback"),
        (["FILE:fails"], "callback own.py:fails: called without arguments it raised ValueError: no way"),
    ],
)
def test_what_is_no_callback_is_refused_in_a_line(tmp_path, given, message):
    (tmp_path / "own.py").write_text(FILE)
    if isinstance(given, list):
        given = [each.replace("FILE", f"{tmp_path}/own.py") if isinstance(each, str) else each for each in given]
    with pytest.raises(UsageError) as caught:
        find(given)
    assert str(caught.value).endswith(message)
    with pytest.raises(UsageError, match="expected a list"):
        find(Callback())  # type: ignore[arg-type]


class Told(Callback):
    """Notes what it is told, and answers and does as it is told."""

    def __init__(self, answer: bool | None = None, does: Any = None):
        self.answer, self.does = answer, does
        self.calls: list[Any] = []

    def _note(self, *call: Any) -> bool | None:
        self.calls.append(call)
        if self.does:
            self.does(call[1])
        return self.answer

    def on_start(self, run):
        return self._note("start", run)

    def on_report(self, run, row):
        row["steps"] = "changed"
        return self._note("report", run)

    def on_evaluation(self, run, row):
        return self._note("evaluation", run, row["steps"])

    def on_checkpoint(self, run, path):
        return self._note("checkpoint", run, path)

    def on_end(self, run):
        return self._note("end", run, run.outcome, run.scores)


def training() -> tuple[Training, list[Any]]:
    asked: list[Any] = []
    clock = Clock()
    source: Any = SimpleNamespace(make=None)
    progress = Progress()
    progress.counts.steps = 40
    made = Training(
        TrainConfig(seed=3), source, progress, clock, lambda: Path("/run"), lambda best: asked.append(best) or "agent",
        lambda: asked.append("save"),
    )  # fmt: skip
    return made, asked


def called(*callbacks: Callback) -> tuple[Callbacks, Training, list[Any]]:
    run, events = training()[0], list[Any]()
    fail = lambda what, error: events.append((what, str(error)))  # noqa: E731
    return Callbacks(callbacks, run, lambda: events.append("end"), fail), run, events


def test_each_is_called_with_the_run_and_what_it_is_about_and_rows_stay_as_they_are():
    one, other = Told(), Told()
    callbacks, run, events = called(one, other)
    callbacks.on_start()
    row = {"kind": "report", "steps": 5}
    assert callbacks.on_row(row) == {"kind": "report", "steps": 5}
    callbacks.on_row({"kind": "evaluation", "steps": 6})
    callbacks.on_row({"kind": "collapse", "steps": 7})
    callbacks.on_checkpoint(Path("five"))
    scores = Scores(np.ones(1), np.ones(1))
    callbacks.on_end("solved", scores)
    assert one.calls == other.calls == [
        ("start", run), ("report", run), ("evaluation", run, 6), ("checkpoint", run, Path("five")),
        ("end", run, "solved", scores),
    ]  # fmt: skip
    assert events == []


def test_false_ends_the_run_and_only_false_does():
    for answer, ends in ((False, ["end"]), (None, []), (True, []), (0, [])):
        callbacks, _, events = called(Told(answer))  # type: ignore[arg-type]
        callbacks.on_start()
        assert events == ends


def test_one_that_raises_fails_the_run_and_the_others_are_called():
    def breaks(run: Any) -> None:
        raise ValueError("no way")

    other = Told()
    callbacks, _, events = called(Told(does=breaks), other)
    callbacks.on_start()
    callbacks.on_row({"kind": "report", "steps": 5})
    assert events == [("callback Told.on_start", "no way"), ("callback Told.on_report", "no way")]
    assert len(other.calls) == 2


def test_what_is_logged_goes_into_the_next_row_and_only_into_that():
    callbacks, run, _ = called(Told(does=lambda run: run.log(x=np.float32(0.5), y=2)))
    run.log(y=1, z=True)
    row = callbacks.on_row({"kind": "report", "steps": 5})
    assert row["own"] == {"y": 2.0, "z": 1.0, "x": 0.5}
    assert {type(each) for each in row["own"].values()} == {float}
    assert "own" not in callbacks.on_row({"kind": "gap", "steps": 5})


def test_a_run_shows_its_counts_time_and_agents_and_saves_when_it_is_asked_to():
    run, asked = training()
    assert (run.config.seed, run.outcome, run.scores, run.path) == (3, None, None, Path("/run"))
    counts = run.counts
    counts.steps = 99
    assert run.counts.steps == 40  # a copy
    assert run.seconds == 0.0
    assert (run.agent(), run.agent(best=True)) == ("agent", "agent")
    run.save()
    assert asked == [False, True, "save"]


def test_a_video_is_of_one_episode_of_the_best_agent_unless_the_newest_is_asked_for(monkeypatch):
    run, asked = training()
    recorded: list[Any] = []
    monkeypatch.setattr("troupe.runs.show.video.record", lambda *given, **named: recorded.append((given, named)))
    run._source.make = lambda mode, *, config: (mode, config)
    run.video("a.mp4")
    run.video(Path("b.gif"), best=False)
    assert asked == [True, False]
    (agent, make, file, episodes), named = recorded[0]
    assert (agent, file, episodes, named) == ("agent", Path("a.mp4"), 1, {"seed": 0})
    assert make("rgb_array") == ("rgb_array", run.config.env)
