"""Callbacks: what a run tells them, and what they may do."""

import json
import threading
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import troupe
from helpers import slow_unless
from troupe import Callback, TroupeError, UsageError
from troupe.runs.store import checkpoint

TINY = {
    "topology": "serial", "actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 8, "learner.rollouts": 1,
    "network.hidden": (8,), "evaluation.every_seconds": 0.0, "evaluation.every_steps": 64, "evaluation.episodes": 1,
    "evaluation.final_episodes": 2, "stop.target": "none", "stop.steps": 200,
}  # fmt: skip
ENDLESS = TINY | {"stop.steps": 0, "topology": "async", "actor.auto": False, "evaluation.every_steps": 0}
WORDS = " ".join(f"--{name} {value}" for name, value in TINY.items() if name != "network.hidden")


def train(folder: Path, *callbacks: Any, **settings: Any) -> troupe.Run:
    settings = TINY | settings
    return troupe.train("CartPole-v1", settings=settings, run_dir=folder / "run", tuned=False, callbacks=callbacks)


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in every if row["kind"] == kind]


class Recorder(Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def note(self, text: str) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.calls.append(text)

    def on_start(self, run):
        self.note("start")
        assert (run.counts.steps, run.seconds, run.outcome) == (0, 0.0, None)
        assert run.path.is_absolute()
        assert run.config.network.hidden == (8,)

    def on_report(self, run, row):
        self.note("report")
        assert row["kind"] == "report"
        assert run.counts.steps >= row["steps"]

    def on_evaluation(self, run, row):
        self.note(row["purpose"])

    def on_checkpoint(self, run, path):
        self.note("checkpoint")
        assert checkpoint.load_one(path).state.counts.steps == int(path.name)

    def on_end(self, run):
        self.note("end")
        assert (run.path / "summary.json").is_file()
        assert {row["kind"] for row in run.rows} == {"report", "evaluation"}
        self.outcome, self.scores = run.outcome, run.scores


def test_callbacks_are_called_in_the_main_thread_at_every_moment_of_a_run_and_of_its_resumption(tmp_path):
    seen, other = Recorder(), Recorder()
    run = train(tmp_path, seen, other)
    kept = [call for number, call in enumerate(seen.calls) if call != "report" or seen.calls[number - 1] != "report"]
    assert kept[0] == "start"
    assert {"report", "progress"} <= set(kept[1:-3])
    assert kept[-3:] == ["final", "checkpoint", "end"]
    assert other.calls == seen.calls
    assert (seen.outcome, seen.scores) == ("steps", run.scores)

    class Again(Callback):
        def on_start(self, run):
            self.began = run.counts.steps, len(run.rows)

    again = Again()
    troupe.resume(run.path, steps=300, callbacks=[again])
    assert again.began[0] >= 200
    assert again.began[1] == len(seen.calls) - 3 + 1  # all but start, checkpoint and end are of rows; and "resume"


def test_a_run_with_callbacks_learns_the_same_bit_for_bit(tmp_path):
    class Busy(Callback):
        def on_report(self, run, row):
            run.agent().act(np.zeros(4, np.float32), greedy=False)
            run.log(one=1)
            run.save()

    weights = []
    for name, callbacks in (("without", ()), ("with", (Busy(), Recorder()))):
        run = train(tmp_path / name, *callbacks)
        weights.append(checkpoint.load(run.path, pytest.fail).model)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_a_callback_logs_is_in_the_row_it_is_about_and_in_tensorboard(tmp_path):
    class Logs(Callback):
        def on_start(self, run):
            run.log(first=np.float32(0.5))

        def on_report(self, run, row):
            run.log(twice=2 * row["steps"])

        def on_evaluation(self, run, row):
            run.log(**{"half.mean": row["mean"] / 2})

    run = train(tmp_path, Logs())
    reports, evaluations = rows(run.path, "report"), rows(run.path, "evaluation")
    assert [row["own"]["twice"] for row in reports] == [2 * row["steps"] for row in reports]
    assert [row["own"]["half.mean"] for row in evaluations] == [row["mean"] / 2 for row in evaluations]
    first = min(reports + evaluations, key=lambda row: row["wall"])
    assert [row for row in reports + evaluations if "first" in row["own"]] == [first]
    events = EventAccumulator(str(run.path))
    events.Reload()
    assert {"own/twice", "own/half.mean"} <= set(events.Tags()["scalars"])
    assert [each.value for each in events.Scalars("own/twice")] == sorted({2.0 * row["steps"] for row in reports})


def test_false_ends_the_run_and_a_checkpoint_is_written_when_one_is_asked_for(tmp_path, run_command):
    class Ends(Recorder):
        agents = ()

        def on_report(self, run, row):
            if not self.agents and run.counts.updates:
                self.agents = run.agent(), run.agent(best=True)
                run.save()

        def on_checkpoint(self, run, path):
            self.note(str(path))
            return False

    ends = Ends()
    run = train(tmp_path, ends, **ENDLESS)
    assert (run.outcome, ends.outcome) == ("callback", "callback")
    written = [Path(call) for call in ends.calls if "checkpoints" in call]
    assert len(written) == 2  # of then, and of the end; of the same step, maybe
    assert written[-1] == checkpoint.newest_first(run.path)[0]
    assert "ended by a callback: mean evaluation return" in repr(run)
    assert json.loads((run.path / "summary.json").read_text())["outcome"] == "callback"
    newest = ends.agents[0]
    assert newest.act(np.zeros(4, np.float32)) in (0, 1)
    assert newest.network.state_dict().keys() == run.agent.network.state_dict().keys()
    assert run_command(f"resume {run.path} --steps {run.steps + 10} --quiet")[0] == 0


def test_false_before_the_start_ends_a_run_that_has_learned_nothing(tmp_path):
    class Never(Callback):
        def on_start(self, run):
            return False

    run = train(tmp_path, Never(), **ENDLESS)
    assert (run.outcome, run.steps, run.updates) == ("callback", 0, 0)


@pytest.mark.parametrize(
    "method",
    slow_unless(["on_report", "on_end"], ["on_start", "on_report", "on_evaluation", "on_checkpoint", "on_end"]),
)
def test_one_that_raises_ends_the_run_which_is_saved_and_its_traceback_is_named(tmp_path, run_command, method):
    (tmp_path / "own.py").write_text(
        "import troupe\n"
        "class Breaks(troupe.Callback):\n"
        f"    def {method}(self, *about): raise SystemExit(3) if 'end' in '{method}' else ValueError('spilt')\n"
        "class Sees(troupe.Callback):\n"
        "    def on_end(self, run): (run.path / 'seen.txt').write_text(run.outcome)\n"
    )
    run = tmp_path / "run"
    status, _, error = run_command(
        f"train CartPole-v1 {WORDS} --untuned --quiet --run-dir {run} "
        f"--callbacks {tmp_path}/own.py:Breaks --callbacks {tmp_path}/own.py:Sees"
    )
    assert status == 1
    what = "ExitAttempt: sys.exit(3)" if method == "on_end" else "ValueError: spilt"
    assert error.startswith(f"troupe: callback Breaks.{method} failed: {what.removeprefix('ExitAttempt: ')}")
    assert f"traceback in {run}/error.txt; weights saved in {run}/checkpoints/" in error
    assert error.count("\n") == 1
    assert "own.py" in (run / "error.txt").read_text()
    assert (run / "seen.txt").read_text() == ("steps" if method == "on_end" else "failed")
    assert troupe.load(run).act(np.zeros(4, np.float32)) in (0, 1)


def test_the_traceback_of_a_failure_is_gone_when_the_run_was_resumed_and_ended(tmp_path):
    class Breaks(Callback):
        def on_report(self, run, row):
            raise ValueError("spilt")

    with pytest.raises(TroupeError):
        train(tmp_path, Breaks())
    assert (tmp_path / "run" / "error.txt").is_file()
    troupe.resume(tmp_path / "run", steps=300)
    assert not (tmp_path / "run" / "error.txt").exists()


@pytest.mark.slow
def test_callbacks_of_a_file_by_the_command_line_are_called_with_several_seeds_each(tmp_path, run_command):
    (tmp_path / "own.py").write_text(
        "import troupe\n"
        "class Writes(troupe.Callback):\n"
        "    def on_end(self, run):\n"
        "        (run.path / 'seed.txt').write_text(str(run.config.seed))\n"
    )
    command = f"train CartPole-v1 {WORDS} --untuned --quiet --seeds 2 --callbacks {tmp_path}/own.py:Writes"
    assert run_command(f"{command} --run-dir {tmp_path}/runs")[0] == 0
    assert [(tmp_path / "runs" / f"seed{k}" / "seed.txt").read_text() for k in (0, 1)] == ["0", "1"]
    assert "callbacks" not in tomllib.loads((tmp_path / "runs" / "seed0" / "config.toml").read_text())


class Misspelt(Callback):
    def on_checkpont(self, run, path):
        pass


class ForAnotherLibrary(Callback):
    def on_step(self):
        pass


OWN = """
from troupe import Callback
class Needs(Callback):
    def __init__(self, much): pass
def number(): return 3
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FILE:Neds", "own.py has no callable 'Neds'; did you mean Needs?"),
        ("FILE:Needs", "callback own.py:Needs: called without arguments it raised TypeError"),
        ("FILE:number", "callback own.py:number: called without arguments it returned a int, not a troupe.Callback"),
        ("nothing.py:One", "no file 'nothing.py' to take the callback 'One' from"),
        ("One", "callbacks: 'One' is not module:Callback or path/to/file.py:Callback"),
    ],
)
def test_what_is_no_callback_is_refused_in_a_line_before_anything_starts(tmp_path, run_command, name, expected):
    (tmp_path / "own.py").write_text(OWN)
    given = name.replace("FILE", f"{tmp_path}/own.py")
    status, _, error = run_command(f"train CartPole-v1 {WORDS} --run-dir {tmp_path}/run --callbacks {given}")
    assert status == 2
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([Recorder], r"callbacks: .*Recorder.* is not a callback; expected an object of it, Recorder\(\)"),
        ([3], "callbacks: 3 is not a callback; expected a troupe.Callback or a name"),
        ("own.py:Name", "callbacks = 'own.py:Name': expected a list"),
        (Recorder(), "expected a list"),
        (None, "callbacks = None: expected a list"),
        (
            [Misspelt()],
            r"callback Misspelt: no run calls on_checkpont; did you mean on_checkpoint\?",
        ),
        ([ForAnotherLibrary()], r"callback ForAnotherLibrary: no run calls on_step"),
    ],
)
def test_in_python_too(tmp_path, given, expected):
    with pytest.raises(UsageError, match=expected):
        troupe.train("CartPole-v1", run_dir=tmp_path / "run", callbacks=given)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_is_no_number_fails_where_it_is_logged(tmp_path):
    class Logs(Callback):
        def on_report(self, run, row):
            run.log(name="text")

    with pytest.raises(TroupeError, match=r"callback Logs\.on_report failed: ValueError: could not convert string"):
        train(tmp_path, Logs())


def test_the_callback_on_the_page_about_extending_runs(tmp_path, run_command, capsys):
    page = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
    code = page[page.index("    class Stopper") :].partition("\n\n    run =")[0]
    (tmp_path / "own.py").write_text("import troupe\n" + "\n".join(line[4:] for line in code.splitlines()))
    status, out, error = run_command(
        f"train CartPole-v1 {WORDS} --untuned --quiet --run-dir {tmp_path}/run --callbacks {tmp_path}/own.py:Stopper"
    )
    assert (status, error) == (0, "")
    assert "steps Scores(" in out or "callback Scores(" in out
    assert rows(tmp_path / "run", "report")[-1]["own"]["steps_per_episode"] > 1
