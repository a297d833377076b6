"""One run from start to end, in this process: what it leaves, how it fails, how it goes on."""

import errno
import io
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import troupe
from helpers import PATIENCE_SECONDS
from troupe import TroupeError, UsageError, conclusion, preparation, signals, trainer
from troupe.environments import find
from troupe.environments.stepping import pool
from troupe.runs.evaluate import judge
from troupe.runs.evaluate.evaluation import Evaluator
from troupe.runs.evaluate.scores import Scores
from troupe.runs.report.plots import plot_runs
from troupe.runs.store import checkpoint, directory
from troupe.runs.store.metrics import MetricsLog, read_log
from troupe.runtime.execution import interruption
from troupe.session import Reporter, Session

# No evaluation by the clock: on a busy machine one would come before the end, also where only the last one can end.
SMALL = {
    "actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 8, "evaluation.final_episodes": 3,
    "evaluation.every_seconds": 0.0,
}  # fmt: skip


class Env(gym.Env):
    """Ten steps an episode; `bad(steps so far)` is called before each step and may break anything."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, bad=lambda env: None):
        self.bad, self.steps = bad, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 10
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.left -= 1
        return self.bad(self) or (np.zeros(2, np.float32), 1.0, self.left == 0, False, {})


def part() -> str:
    return threading.current_thread().name.partition("-")[0]


def judging_last() -> bool:
    return threading.current_thread().name == "MainThread-evaluation"


def small(folder: Path, env=Env, **more):
    settings = SMALL | {name: more.pop(name) for name in list(more) if "." in name or name == "topology"}
    return troupe.train(env, run_dir=folder / "run", settings=settings, **({"steps": 200, "target": "none"} | more))


def strict(file: Path):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(file.read_text(), parse_constant=refuse)


# What a run leaves


@pytest.mark.usefixtures("pictures")
def test_everything_is_in_the_run_directory_and_nothing_is_printed(tmp_path, capfd):
    run = small(tmp_path)
    assert capfd.readouterr() == ("", "")
    names = {file.name for file in run.path.iterdir() if "tfevents" not in file.name}
    assert names == {"config.toml", "metrics.jsonl", "summary.json", "checkpoints", "plots"}
    assert (run.path / "plots" / "learning.png").exists()
    assert (run.outcome, run.signal) == ("steps", 0)
    assert run.steps >= 200
    assert run.agent.act(np.zeros(2)) in (0, 1)


def test_the_summary_has_its_keys(tmp_path):
    run = small(tmp_path)
    summary = strict(run.path / "summary.json")
    assert summary.keys() == {
        "outcome", "environment", "preset", "tuned", "seed", "target", "evaluation", "steps", "played", "episodes",
        "measured", "updates", "skipped_updates", "stale", "restarts", "failures", "best_steps", "collapses",
        "rollbacks",
        "training_seconds", "total_seconds", "steps_per_s", "peak_memory_mb", "versions",
    }  # fmt: skip
    assert summary["evaluation"] == {
        "episodes": 3, "mean_return": 10.0, "std_return": 0.0, "min_return": 10.0, "max_return": 10.0,
        "mean_length": 10.0, "cut_off": 0, "unfinished": 0,
    }  # fmt: skip
    assert summary["steps"] == run.steps
    assert summary["versions"].keys() == {"python", "troupe", "torch", "gymnasium", "numpy"}


def test_the_weights_a_run_ends_with_can_be_the_best_and_are_saved_as_such(tmp_path):
    """All are worth the same in this environment, and of two equals the newer are kept."""
    run = small(tmp_path, topology="serial", **{"evaluation.every_steps": 150, "learner.average_decay": 0.0})
    judged = [row["steps"] for row in read_log(run.path) if row.get("purpose") == "progress"]
    assert len(judged) == 2
    saved = checkpoint.load(run.path, print)
    assert judged[-1] == run.steps == saved.state.best_steps == strict(run.path / "summary.json")["best_steps"]
    for name, best in saved.best.items():
        torch.testing.assert_close(best, saved.model[name], rtol=0, atol=0)


def test_the_best_weights_are_not_the_last(tmp_path, monkeypatch):
    """By a script the second evaluation is the best: what is saved as such, given back and evaluated last are its
    weights, also after a resume in which nothing better comes."""
    means, judged = [5.0, 9.0, 7.0, 8.0], []

    def scripted(self, network, episodes, seeds, **how):
        judged.append({name: each.clone() for name, each in network.state_dict().items()})
        return Scores(np.full(episodes, means.pop(0) if means else 2.0), np.ones(episodes))

    monkeypatch.setattr(Evaluator, "run", scripted)
    settings = {"evaluation.every_steps": 20, "loss.normalize_reward": False, "topology": "serial"}
    run = small(tmp_path, steps=70, **settings)
    for steps in (70, 100):
        run = run if run.steps >= steps else troupe.resume(run.path, steps=steps, env=Env)
        saved, agent = checkpoint.load(run.path, pytest.fail), troupe.load(run.path)
        _, second, *later = [row for row in read_log(run.path) if row.get("purpose") == "progress"]
        assert (saved.state.best_steps, saved.state.best_score) == (second["steps"], 9.0)
        for best in (saved.best, agent.network.state_dict(), run.agent.network.state_dict(), judged[-1]):
            assert all(torch.equal(best[name], judged[1][name]) for name in judged[1])
        assert not torch.equal(saved.model["body.policy.weight"], saved.best["body.policy.weight"])
        assert later


def test_a_run_prints_as_a_few_lines(tmp_path):
    run = small(tmp_path)
    first, judged, made = repr(run).splitlines()
    assert first == f"Run {tmp_path / 'run'}"
    assert judged == "  step limit reached: mean evaluation return 10.0 over 3 greedy episodes"
    assert made.startswith(f"  {run.steps:,} steps and {run.updates:,} updates in ")
    assert str(run) == repr(run)


def test_the_curve_of_a_run_is_arrays(tmp_path):
    run = small(tmp_path, **{"evaluation.every_steps": 64})
    curve, rows = run.curve, read_log(run.path)
    reports = [row for row in rows if row["kind"] == "report" and row["return_mean"] is not None]
    assert curve.steps.dtype == np.int64
    assert curve.steps.tolist() == [row["steps"] for row in reports]
    assert curve.seconds.tolist() == [row["seconds"] for row in reports]
    assert curve.returns.tolist() == [row["return_mean"] for row in reports]
    *judged, last = [row for row in rows if row["kind"] == "evaluation"]
    assert curve.evaluations.steps.tolist() == [row["steps"] for row in judged]
    assert curve.evaluations.returns.tolist() == [row["mean"] for row in judged]
    best = strict(run.path / "summary.json")["best_steps"]
    assert (curve.final.steps.tolist(), curve.final.returns.tolist()) == ([run.steps], [last["mean"]])
    assert curve.final.weights_steps.tolist() == [best]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_progress_is_shown_on_a_terminal_and_nowhere_else_unless_asked(tmp_path, monkeypatch, stream, shown):
    monkeypatch.setenv("TERM", "xterm")
    out = stream()
    monkeypatch.setattr("sys.stdout", out)
    run = small(tmp_path)
    troupe.resume(run.path, steps=400, env=Env)
    text = out.getvalue()
    assert ("of 200 steps" in text) == ("of 400 steps" in text) == ("step limit reached" in text) == shown
    assert shown or text == ""


def test_reported_returns_are_raw(tmp_path):
    run = small(tmp_path, **{"loss.reward_scale": 0.001, "evaluation.every_steps": 64})
    rows = read_log(run.path)
    assert {row["return_mean"] for row in rows if row["kind"] == "report"} - {None} == {10.0}
    assert {row["mean"] for row in rows if row["kind"] == "evaluation"} == {10.0}
    assert rows[-1]["purpose"] == "final"


def test_metrics_stay_json_when_numbers_are_not_finite(tmp_path, monkeypatch):
    """A loss that is not finite is refused, but reported."""
    from troupe.runtime.learning.learner import Learner

    learn = Learner.learn

    def learn_nothing(self, batch):
        learn(self, batch)
        self._progress.metrics.add({"entropy": torch.tensor(float("nan"))}, 1)

    monkeypatch.setattr(Learner, "learn", learn_nothing)
    run = small(tmp_path)
    text = (run.path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert '"entropy": null' in text


@pytest.mark.usefixtures("pictures")
def test_a_run_in_which_no_episode_ends_is_a_run(tmp_path):
    run = small(tmp_path, lambda: Env(lambda env: (np.zeros(2, np.float32), 1.0, False, judging_last(), {})))
    assert run.outcome == "steps"
    assert not (run.path / "plots" / "learning.png").exists()


def test_without_a_limit_on_time_the_final_evaluation_has_all_the_time_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "_LEAST_FINAL_SECONDS", 0.0)
    scores = small(tmp_path).scores
    assert (len(scores.returns), scores.unfinished) == (3, 0)


def test_a_run_of_no_time_for_a_single_update_is_a_run(tmp_path):
    run = small(tmp_path, steps=None, seconds=1e-6)
    assert run.outcome == "time"
    assert troupe.load(run.path)


def test_two_runs_of_the_same_second_have_a_directory_each(tmp_path, monkeypatch):
    class Stopped(directory.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2030, 1, 2, 3, 4, 5)

    monkeypatch.setattr(directory, "datetime", Stopped)
    monkeypatch.chdir(tmp_path)
    runs = [troupe.train("CartPole-v1", steps=50, target="none", settings=SMALL, seed=6) for _ in range(2)]
    assert [run.path.name for run in runs] == ["2030-01-02_030405_seed6", "2030-01-02_030405_seed6_2"]


def test_training_works_in_a_thread_that_is_not_the_main_one(tmp_path):
    runs, handlers = [], [signal.getsignal(number) for number in signals.ENDING]
    thread = threading.Thread(target=lambda: runs.append(small(tmp_path)))
    thread.start()
    thread.join()
    assert runs[0].outcome == "steps"
    assert [signal.getsignal(number) for number in signals.ENDING] == handlers


def test_handlers_and_threads_are_as_before(tmp_path):
    handlers = [signal.getsignal(number) for number in signals.ENDING]
    threads, torch_threads = set(threading.enumerate()), torch.get_num_threads()
    small(tmp_path)
    assert [signal.getsignal(number) for number in signals.ENDING] == handlers
    assert set(threading.enumerate()) == threads
    assert torch.get_num_threads() == torch_threads


def test_a_signal_at_any_moment_takes_no_lock(tmp_path):
    """The handler runs in the main thread, which may hold any lock: here it holds the one of the wait."""
    session = Session(trainer.configuration.resolve("x", settings=SMALL), find(Env), None, "silent")
    locks = (session._supervisor._ended._cond, session._topology.gate._open._cond)
    for lock in locks:
        with lock:
            session._interrupt(signal.SIGINT)  # for ever, if it wanted the lock
    assert session._interrupted()


# Before anything starts


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (lambda: None, "the factory returned NoneType, not a gymnasium.Env"),
        (lambda: 1 / 0, "cannot be made: ZeroDivisionError"),
        ("CartPol-v1", "did you mean CartPole-v1"),
    ],
)
def test_an_environment_that_cannot_be_made_leaves_nothing(tmp_path, env, words):
    with pytest.raises(UsageError, match=words):
        small(tmp_path, env)
    assert not (tmp_path / "run").exists()


def test_an_environment_that_fails_in_its_first_reset_leaves_nothing(tmp_path):
    class Stuck(Env):
        def reset(self, **given):
            raise ValueError("no\nroad")

    with pytest.raises(TroupeError, match="reset raised ValueError: no road"):
        small(tmp_path, Stuck, **{"actor.placement": "thread"})
    assert not (tmp_path / "run").exists()


def test_a_directory_that_holds_a_run_or_is_a_file_is_refused(tmp_path):
    small(tmp_path)
    with pytest.raises(
        UsageError, match=r"already holds a run; to continue: troupe\.resume\('.*'\), or name another run_dir="
    ):
        small(tmp_path)
    with pytest.raises(UsageError, match="run_dir= is empty"):
        troupe.train(Env, run_dir="")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file; run_dir= names a directory"):
        troupe.train(Env, run_dir=tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        troupe.train(Env, run_dir=tmp_path / "file" / "run")


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl"])
def test_a_directory_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, name):
    def opened(path, flags, *more, **named):
        if name in str(path) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return open_(path, flags, *more, **named)

    open_ = os.open
    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(UsageError, match=r"run directory '.*run' cannot be written: Read-only file system"):
        small(tmp_path)


# While it runs


def nan_obs(env):
    return (np.full(2, np.nan, np.float32), 1.0, False, False, {}) if env.steps == 30 else None


def infinite_reward(env):
    return (np.zeros(2, np.float32), float("-inf"), False, False, {}) if env.steps == 30 else None


def wrong_shape(env):
    return (np.zeros(3, np.float32), 1.0, False, False, {}) if env.steps == 30 else None


def wrong_reward(env):
    return (np.zeros(2, np.float32), "much", False, False, {}) if env.steps == 30 else None


def raises(env):
    if env.steps == 30:
        raise ValueError("broken\n  wheel")


def leaves(env):
    if env.steps == 30:
        raise SystemExit("bye")


def raises_in_the_evaluation(env):
    if part() == "learner":
        raise ValueError("broken wheel")


def raises_in_the_end(env):
    if judging_last():
        raise TimeoutError("broken wheel")


def leaves_in_the_end(env):
    if judging_last():
        raise SystemExit("bye")


@pytest.mark.parametrize(
    ("bad", "who", "words"),
    [
        # The 30th step is the 32nd of the batch, in which resets count.
        (nan_obs, "actor-0", r"\[0\], step 32: the observation holds nan"),
        (infinite_reward, "actor-0", r"\[0\], step 32: reward is -inf"),
        (wrong_shape, "actor-0", r"\[0\], step 32: the observation has shape \(3,\), its space \(2,\)"),
        (wrong_reward, "actor-0", r"\[0\], step 32: step returned the reward 'much' \(str\): expected a number"),
        (raises, "actor-0", r"step raised ValueError: broken wheel \(step 32\)"),
        (leaves, "actor-0", r"step raised sys\.exit\('bye'\), where"),
        (raises_in_the_evaluation, "learner-0", "step raised ValueError: broken wheel"),
        (raises_in_the_end, "the final evaluation", "step raised TimeoutError: broken wheel"),
        (leaves_in_the_end, "the final evaluation", r"step raised sys\.exit\('bye'\), where"),
    ],
)
def test_an_environment_that_breaks_is_one_line_a_traceback_and_a_checkpoint(tmp_path, bad, who, words):
    threads = set(threading.enumerate())
    with pytest.raises(
        TroupeError, match=f"^{who} failed: .*{words}.*traceback in .*error.txt; weights saved in "
    ) as e:
        small(tmp_path, lambda: Env(bad), **{"evaluation.every_steps": 64})
    assert "\n" not in str(e.value)
    assert not isinstance(e.value, UsageError)
    assert "Traceback (most recent call last)" in (tmp_path / "run" / "error.txt").read_text()
    assert strict(tmp_path / "run" / "summary.json")["outcome"] == "failed"
    assert troupe.load(tmp_path / "run").act(np.zeros(2)) in (0, 1)
    assert set(threading.enumerate()) == threads


class Fragile(nn.Module):
    """A network that works `calls` times, forward or backward."""

    def __init__(self, calls: int, backward: bool):
        super().__init__()
        self.layer, self.calls, self.backward = nn.Linear(2, 3), calls, backward

    def forward(self, obs):
        out = self.layer(obs)
        if self.backward and out.requires_grad:
            out.register_hook(self.count)
        elif not self.backward:
            self.count(out)
        return out[:, :2], out[:, 2]

    def count(self, _):
        self.calls -= 1
        if self.calls < 0:
            raise ValueError("worn out")


@pytest.mark.parametrize("topology", ["serial", "async"])
@pytest.mark.parametrize(("backward", "who"), [(True, "learner-0"), (False, "actor-0")])
def test_a_network_that_breaks_ends_the_run_in_order(tmp_path, topology, backward, who):
    who = "serial" if topology == "serial" else who
    with pytest.raises(TroupeError, match=f"^{who} failed: ValueError: worn out"):
        small(tmp_path, network=Fragile(20, backward), steps=100_000, topology=topology)
    assert "worn out" in (tmp_path / "run" / "error.txt").read_text()
    assert troupe.load(tmp_path / "run", nn.Sequential(Fragile(20, False))[0])


def test_an_environment_that_cannot_be_closed_costs_nothing(tmp_path, caplog):
    class Clings(Env):
        def close(self):
            if self.steps:
                raise ValueError("no\nend")

    run = small(tmp_path, Clings)
    assert run.outcome == "steps"
    assert [record.getMessage().partition(": close")[2] for record in caplog.records] == [" raised ValueError: no end"]


@pytest.mark.slow
def test_an_environment_that_never_closes_is_left_behind(tmp_path, monkeypatch):
    class Clings(Env):
        def close(self):
            if self.steps:
                threading.Event().wait()

    monkeypatch.setattr(conclusion, "_CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(interruption, "_PATIENCE_SECONDS", 0.1)
    assert small(tmp_path, Clings).outcome == "steps"


# Whatever the main thread raises


def breaks_after(monkeypatch, folder, error):
    """The main thread raises `error` in its first report after something was learned."""
    report = Reporter.report

    def reported(self, seconds):
        row = report(self, seconds)
        if row["updates"]:
            monkeypatch.setattr(Reporter, "report", report)
            raise error
        return row

    monkeypatch.setattr(Reporter, "report", reported)
    return small(folder, steps=0)


def test_what_the_main_thread_raises_fails_the_run_after_it_is_saved(tmp_path, monkeypatch):
    threads = set(threading.enumerate())
    with pytest.raises(
        TroupeError, match=r"^the main thread failed: ZeroDivisionError: x .*error.txt; weights saved in "
    ):
        breaks_after(monkeypatch, tmp_path, ZeroDivisionError("x"))
    assert checkpoint.load(tmp_path / "run", pytest.fail).state.counts.updates > 0
    assert strict(tmp_path / "run" / "summary.json")["outcome"] == "failed"
    assert set(threading.enumerate()) == threads


@pytest.mark.parametrize("error", [SystemExit(5), KeyboardInterrupt("of somebody else's")])
def test_what_would_end_the_program_still_does_after_the_run_is_saved(tmp_path, monkeypatch, error):
    with pytest.raises(type(error)) as caught:
        breaks_after(monkeypatch, tmp_path, error)
    assert caught.value is error
    assert checkpoint.load(tmp_path / "run", pytest.fail).state.counts.updates > 0


def test_a_thread_that_cannot_be_started_for_a_replacement_is_named_and_the_run_saved(tmp_path, monkeypatch):
    start, started = threading.Thread.start, []

    def start_once(self):
        started.append(self.name)
        if started.count("actor-0") > 1:
            raise RuntimeError("can't start new thread")
        start(self)

    hanging = threading.Event()

    def hangs(env):
        if part() == "actor" and env.steps == 30:
            hanging.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(threading.Thread, "start", start_once)
    try:
        with pytest.raises(
            TroupeError, match=r"^the main thread failed: RuntimeError: can't start new thread .*saved in "
        ):
            small(tmp_path, lambda: Env(hangs), **{"actor.placement": "thread", "actor.hang_seconds": 0.2})
    finally:
        hanging.set()
    assert troupe.load(tmp_path / "run")


def test_a_second_signal_in_the_middle_of_saving_loses_nothing(tmp_path, monkeypatch):
    save = checkpoint.save

    def interrupted_once(*what):
        monkeypatch.setattr(checkpoint, "save", save)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", interrupted_once)
    with pytest.raises(KeyboardInterrupt) as stop:
        small(tmp_path, signalling(signal.SIGINT), steps=0, **{"actor.placement": "thread"})
    assert stop.value.run.outcome == "interrupted"
    assert troupe.load(tmp_path / "run")


# Signals, in Python


def signalling(number):
    """Makes environments of which the first to get to its 40th step in training sends this process a signal: of two
    signals, the second has its ordinary effect."""
    sent: list[int] = []

    def kill(env):
        if env.steps == 40 and part() == "actor" and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    return lambda: Env(kill)


@pytest.mark.parametrize(
    ("number", "kind", "status"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143), (signal.SIGHUP, SystemExit, 129)],
)
def test_a_signal_saves_and_is_raised_with_the_run_and_no_other_run_begins(tmp_path, number, kind, status):
    def train_three():
        for seed in range(3):
            small(tmp_path / str(seed), signalling(number), steps=0, **{"actor.placement": "thread"})

    with pytest.raises(kind) as stop:
        train_three()
    assert [each.name for each in tmp_path.iterdir()] == ["0"]
    assert getattr(stop.value, "code", None) == status
    run = stop.value.run
    assert (run.outcome, run.signal, run.scores) == ("interrupted", number, None)
    assert run.agent.act(np.zeros(2)) in (0, 1)
    assert troupe.load(run.path)
    with pytest.raises(kind) as again:
        troupe.resume(run.path, env=signalling(number))
    assert again.value.run.steps > run.steps


# The disk


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_that_fails_while_training_is_reported_once_and_the_run_continues(tmp_path, monkeypatch, caplog):
    save = checkpoint.save
    tried = []

    def save_later(run, step, taken):
        tried.append(step)
        return full() if len(tried) <= 3 else save(run, step, taken)

    monkeypatch.setattr(checkpoint, "save", save_later)

    def until_five_were_tried(env):
        while env.steps == 50 and part() == "actor" and len(tried) < 5:
            time.sleep(0.01)

    settings = {"checkpoint.every_seconds": 0.01, "actor.placement": "thread"}
    run = small(tmp_path, lambda: Env(until_five_were_tried), **settings)
    assert run.outcome == "steps"
    assert troupe.load(run.path)
    assert [record.getMessage() for record in caplog.records] == [
        "no checkpoint could be written: no space left on device; the run continues"
    ]


def test_a_disk_that_is_full_in_the_end_is_a_plain_error(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(TroupeError, match=r"^saving failed: no space left on device .*checkpoint: none\)$"):
        small(tmp_path)


def test_a_disk_that_fills_up_during_the_final_evaluation_is_a_plain_error(tmp_path, monkeypatch):
    save, saved = checkpoint.save, []

    def save_once(*given):
        if saved:
            return full()
        saved.append(save(*given))
        return saved[0]

    monkeypatch.setattr(checkpoint, "save", save_once)
    monkeypatch.setattr("troupe.runs.evaluate.judge.Judge.evaluate_newest", lambda *given: True)  # the best so far
    with pytest.raises(TroupeError, match=r"^saving failed: no space left on device .*; weights saved in ") as failed:
        small(tmp_path)
    assert str(failed.value).endswith(f"weights saved in {saved[0]})")


def test_a_failure_on_a_full_disk_is_still_the_failure(tmp_path, monkeypatch):
    write = checkpoint.write_durably
    monkeypatch.setattr(checkpoint, "save", full)
    monkeypatch.setattr(
        checkpoint, "write_durably", lambda path, data: write(path, data) if path.name == "config.toml" else full()
    )
    with pytest.raises(TroupeError, match=r"^actor-0 failed: .*broken wheel.*\(--debug shows where; newest checkpoint"):
        small(tmp_path, lambda: Env(raises))


def test_a_summary_that_cannot_be_written_is_a_plain_error(tmp_path, monkeypatch):
    write = checkpoint.write_durably
    monkeypatch.setattr(
        checkpoint, "write_durably", lambda path, data: full() if path.name == "summary.json" else write(path, data)
    )
    with pytest.raises(TroupeError, match=r"cannot be written to the end: no space left on device; weights saved in "):
        small(tmp_path)
    assert troupe.load(tmp_path / "run")


# The run directory


@pytest.mark.parametrize("fate", ["moved", "deleted", "replaced", "emptied"])
def test_a_run_whose_directory_goes_leaves_a_whole_one(tmp_path, caplog, fate):
    folder, done = tmp_path / "run", []

    def happens(env):
        if part() == "actor" and env.steps == 50 and not done:
            done.append(fate)
            if fate in ("moved", "replaced"):
                folder.rename(tmp_path / "moved")
            elif fate == "deleted":
                shutil.rmtree(folder)
            else:
                (folder / "config.toml").unlink()
            if fate == "replaced":
                folder.mkdir()
                (folder / "mine").touch()

    run = small(tmp_path, lambda: Env(happens), **{"actor.placement": "thread"})
    warned = [record.getMessage() for record in caplog.records]
    if fate == "emptied":
        assert warned == [f"config.toml was missing in '{folder}', and has been written again"]
    else:
        assert warned == [f"'{folder}' has been moved or deleted; continuing in a new directory, {run.path}"]
    assert run.path == (tmp_path / "run_2" if fate == "replaced" else folder)
    assert troupe.load(run.path)
    assert troupe.resume(run.path, steps=run.steps + 100, env=Env).path == run.path
    assert strict(run.path / "summary.json")["outcome"] == "steps"
    if fate == "replaced":
        assert [file.name for file in folder.iterdir()] == ["mine"]


def test_two_trainings_that_both_found_the_directory_free_do_not_share_it(tmp_path, monkeypatch):
    small(tmp_path)
    monkeypatch.setattr(trainer, "check_free", lambda folder: None)  # it looked before the other one began
    before = sorted(tmp_path.glob("run/**/*"))
    with pytest.raises(UsageError, match="already holds a run"):
        small(tmp_path)
    assert sorted(tmp_path.glob("run/**/*")) == before


@pytest.mark.slow
def test_a_disk_that_was_full_for_a_moment_leaves_a_gap_that_the_picture_shows(tmp_path, monkeypatch):
    append, refused = MetricsLog._append, []

    def refuses_some(self, row):
        if row["kind"] == "report" and row["updates"] and len(refused) < 2:
            refused.append(row)
            full()
        append(self, row)

    monkeypatch.setattr(MetricsLog, "_append", refuses_some)
    run = small(tmp_path, steps=1000, **{"checkpoint.every_seconds": 0.01})
    gaps = [row for row in read_log(run.path) if row["kind"] == "gap"]
    assert gaps
    assert sum(gap["rows"] for gap in gaps) >= len(refused) >= 1
    plot_runs([run.path], tmp_path / "picture.svg")
    assert "metrics could not be written" in (tmp_path / "picture.svg").read_text()


# Going on


def test_a_resumed_run_keeps_its_counters_and_appends(tmp_path):
    first = small(tmp_path, env="CartPole-v1", steps=300)
    rows = read_log(first.path)
    again = troupe.resume(first.path, steps=600)
    assert again.steps >= 600
    assert again.updates > first.updates
    assert again.seconds > first.seconds
    new = read_log(first.path)
    assert new[: len(rows)] == rows
    later = [row for row in new[len(rows) :] if row["kind"] == "report"]
    assert all(row["steps"] >= first.steps and row["seconds"] >= first.seconds for row in later)
    assert [row["steps"] for row in later] == sorted(row["steps"] for row in later)
    assert "steps = 600" in (first.path / "config.toml").read_text()
    plot_runs([first.path], tmp_path / "both.png")


@pytest.mark.skipif(not pool.installed(), reason="needs envpool")
def test_the_backend_that_was_chosen_is_that_of_the_run_from_then_on(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "measure_backends", lambda *_: {"native": 2.0, "sync": 3.0, "envpool": 1.0})
    run = small(tmp_path, env="CartPole-v1", steps=300)
    assert 'backend = "envpool"' in (run.path / "config.toml").read_text()
    assert troupe.resume(run.path, steps=600).steps >= 600
    monkeypatch.setattr(pool, "installed", lambda: False)
    assert len(troupe.evaluate(run.path, episodes=5).returns) == 5
    with pytest.raises(UsageError, match=r"EnvPool is not installed: pip install 'envpool>=1.2'$"):
        troupe.resume(run.path, steps=900)


def test_a_backend_that_the_environment_has_not_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(UsageError, match=r"^env\.backend = 'native': MountainCar-v0 has no vector version of its own"):
        small(tmp_path, env="MountainCar-v0", **{"env.backend": "native"})
    assert not (tmp_path / "run").exists()


def test_a_run_at_its_limit_says_what_it_needs(tmp_path):
    run = small(tmp_path, env="CartPole-v1", steps=300)
    before = (run.path / "config.toml").read_text()
    with pytest.raises(UsageError, match=r"^steps=100 is not more than the 3\d\d it has run; name a larger total$"):
        troupe.resume(run.path, steps=100)
    for more in ({}, {"seconds": 1e-9}):
        with pytest.raises(UsageError, match=r"has already run 3\d\d steps and \d s, up to its limit; raise the limit"):
            troupe.resume(run.path, **more)
    assert (run.path / "config.toml").read_text() == before


def test_a_solved_run_can_go_on(tmp_path):
    run = small(tmp_path, env="CartPole-v1", steps=100_000, target=1, **{"evaluation.every_steps": 64})
    assert run.outcome == "solved"
    again = troupe.resume(run.path)
    assert again.outcome == "solved"
    assert again.steps > run.steps


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_goes_on(tmp_path, caplog):
    first = small(tmp_path, env="CartPole-v1", steps=100)
    troupe.resume(first.path, steps=300)
    older, newest = sorted((first.path / "checkpoints").iterdir(), key=lambda path: int(path.name))
    (newest / "best.safetensors").write_bytes(b"")
    assert troupe.load(first.path)
    assert troupe.evaluate(first.path, episodes=2)
    run = troupe.resume(first.path, steps=200)
    assert int(older.name) < run.steps < int(newest.name) + 100
    assert len(caplog.records) == 3
    assert all(f"{newest} is damaged" in record.getMessage() for record in caplog.records)


def test_a_run_of_which_nothing_whole_is_left_is_refused(tmp_path):
    run = small(tmp_path, env="CartPole-v1", steps=100)
    for file in run.path.glob("checkpoints/*/manifest.json"):
        file.unlink()
    for use in (troupe.load, troupe.evaluate, troupe.resume):
        with pytest.raises(UsageError, match="holds no whole checkpoint"):
            use(run.path)
