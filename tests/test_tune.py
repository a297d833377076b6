"""`troupe tune`: the space it searches, the score of a trial, and a whole search that is killed and continues."""

import json
import re
import signal
import subprocess
import sys
import tomllib
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import PATIENCE_SECONDS
from troupe import UsageError
from troupe.config import fields, resolve
from troupe.tuning.space import Choices, Range, default_space, read_space
from troupe.tuning.trial import PARTS, Score


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("learner.learning_rat = [1]", "no setting 'learner.learning_rat'; did you mean learner.learning_rate?"),
        ("loss.gamma = 0.9", "loss.gamma = 0.9: expected a list of values, or { low = ..., high = ... }"),
        ("loss.gamma = []", "loss.gamma = []: expected a list of values, or"),
        ("loss.gamma = [0.9, 2.0]", "loss.gamma = 2.0: expected a number of at most 1"),
        ("loss.gamma = { low = 0.9 }", "loss.gamma = {'low': 0.9}: expected a list of values, or"),
        ("loss.gamma = { low = 0.9, high = 0.1 }", "expected numbers, low below high"),
        ("loss.gamma = { low = 0, high = 1, log = true }", "expected numbers, low below high, and above 0 with log"),
        ('loss.gamma = { low = "a", high = 1 }', "expected numbers"),
        ("loss.gamma = { low = 0.1, high = 3 }", "loss.gamma = 3.0: expected a number of at most 1"),
        ("", "it names no setting"),
        ("loss = [", "not a TOML file"),
    ],
)
def test_a_space_that_is_none_is_refused_in_a_line_that_names_the_file(tmp_path, content, expected):
    file = tmp_path / "space.toml"
    file.write_text(content)
    with pytest.raises(UsageError, match=re.escape(f"{file}: ")) as caught:
        read_space(file)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_space_has_ranges_of_the_settings_own_kind_and_choices_that_may_be_lists(tmp_path):
    file = tmp_path / "space.toml"
    file.write_text(
        '"learner.learning_rate" = { low = 1e-4, high = 1e-2, log = true }\n'
        "[network]\nhidden = [[64], [64, 64]]\n[learner]\nepochs = { low = 1, high = 9, step = 2 }\n"
    )
    space = read_space(file)
    assert space["learner.learning_rate"] == Range(1e-4, 1e-2, log=True)
    assert space["learner.epochs"] == Range(1, 9, step=2)
    assert [space["learner.epochs"].holds(value) for value in (1, 2, 9, 11)] == [True, False, True, False]
    hidden = space["network.hidden"]
    assert hidden == Choices(([64], [64, 64]))
    assert [hidden.decoded(hidden.encoded(value)) for value in hidden.ends()] == hidden.ends()
    assert (hidden.holds([64, 64]), hidden.holds([32])) == (True, False)


@pytest.mark.parametrize(
    ("preset", "there", "not_there"),
    [
        ("appo", {"loss.clip", "learner.epochs"}, set()),
        ("impala", {"learner.learning_rate", "loss.lam"}, {"loss.clip"}),
        ("a3c", {"learner.learning_rate", "loss.entropy_coefficient"}, {"loss.clip", "learner.epochs"}),
    ],
)
def test_what_is_varied_is_what_the_preset_uses(preset, there, not_there):
    space = default_space(resolve("CartPole-v1", preset, tuned=False))
    assert there <= space.keys() <= fields().keys()
    assert not not_there & space.keys()


def report(steps: int, episodes: int, mean: float | None) -> dict[str, Any]:
    return {"steps": steps, "episodes": episodes, "return_mean": mean}


def test_the_score_is_the_mean_over_the_parts_of_a_run_each_weighted_by_its_episodes():
    sent: list[tuple[int, float]] = []
    score = Score(lambda part, value: sent.append((part, value)) or True)
    run = SimpleNamespace(config=resolve("CartPole-v1", settings={"stop.steps": 1000}))
    for row in (report(50, 0, None), report(90, 1, 10.0), report(110, 4, 30.0), report(150, 4, None)):
        assert score.on_report(run, row)
    assert sent == [(1, pytest.approx((1 * 10 + 3 * 30) / 4))]
    score.on_report(run, report(430, 6, 5.0))  # three parts at once
    assert sent[-1] == (4, pytest.approx((25 + 3 * 5) / 4))
    score.on_report(run, report(510, 6, None))  # nothing ended: the last known
    assert sent[-1] == (5, pytest.approx((25 + 4 * 5) / 5))
    score.on_report(run, report(1010, 7, 65.0))
    assert sent[-1] == (PARTS, score.score)
    score.on_report(run, report(1020, 8, 900.0))  # beyond the end
    assert len(sent) == 4


def test_a_run_without_episodes_has_no_score_and_the_answer_ends_a_run():
    run = SimpleNamespace(config=resolve("CartPole-v1", settings={"stop.steps": 1000}))
    silent = Score(lambda part, value: False)
    assert silent.on_report(run, report(1000, 0, None))
    assert silent.score is None
    assert not Score(lambda part, value: False).on_report(run, report(100, 1, 1.0))


def test_without_optuna_the_pip_command_is_named(run_command, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    status, _, error = run_command("tune CartPole-v1")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith("troupe: optuna is not installed: pip install 'optuna")


@pytest.fixture
def no_optuna(monkeypatch):
    """Up to the place where a study would be opened."""
    monkeypatch.setattr("troupe.cli.need", lambda extra: None)
    monkeypatch.setattr("troupe.tuning.search.need", lambda extra: None)


@pytest.mark.usefixtures("no_optuna")
def test_an_interrupt_names_the_folder_to_go_on_with(tmp_path, run_command, monkeypatch):
    def interrupted(*about):
        raise KeyboardInterrupt(signal.SIGINT)

    monkeypatch.setattr("troupe.tuning.search._opened", interrupted)
    folder = tmp_path / "search"
    status, _, error = run_command(f"tune CartPole-v1 --run-dir {folder}")
    again = f"to continue: the same command with --run-dir {folder}"
    assert (status, error) == (128 + signal.SIGINT, f"troupe: interrupted; {again}\n")
    run_command(f"tune CartPole-v1 --run-dir {folder}")  # it is not refused, although the lock is in it
    assert (tmp_path / "search").is_dir()


@pytest.mark.usefixtures("no_optuna")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--run-dir FOLDER", "'FOLDER' is not empty; name another --run-dir"),
        ("--callbacks nothing.py:One", "no file 'nothing.py' to take the callback 'One' from"),
        ("--space FOLDER/space.toml --loss.gamma 0.9", "loss.gamma: it is given, and varied by FOLDER/space.toml"),
    ],
)
def test_what_cannot_be_searched_is_one_line(tmp_path, run_command, words, expected):
    (tmp_path / "space.toml").write_text("loss.gamma = [0.9, 0.99]")
    status, _, error = run_command(f"tune CartPole-v1 {words.replace('FOLDER', str(tmp_path))}")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"troupe: {expected.replace('FOLDER', str(tmp_path))}")


# Whole searches

QUICK = "--trials 3 --steps 1500 --seeds 2 --jobs 2"


@pytest.mark.slow
def test_a_search_that_is_killed_continues_and_its_winner_is_trained_by_its_file(tmp_path, run_command):
    optuna = pytest.importorskip("optuna")
    folder = tmp_path / "search"
    words = f"tune CartPole-v1 {QUICK} --run-dir {folder}"
    process = subprocess.Popen([sys.executable, "-m", "troupe", *words.split()], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("trial"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_SECONDS)
    status, out, error = run_command(words)
    assert (status, error) == (0, "")
    study = optuna.load_study(study_name="troupe", storage=f"sqlite:///{folder}/study.db")
    states = [trial.state.name for trial in study.trials]
    assert sum(state in ("COMPLETE", "PRUNED") for state in states) == 3
    assert "RUNNING" not in states
    assert re.search(r"best: trial \d+, score [\d.]+; with 2 fresh seeds:\n  mean score", out)
    best = tomllib.loads((folder / "best.toml").read_text())
    assert best["learner"]["learning_rate"] == pytest.approx(study.best_params["learner.learning_rate"])
    assert "steps" not in best.get("stop", {})
    few = "--steps 300 --target none --quiet --evaluation.final_episodes 1 --evaluation.every_seconds 0"
    assert best["env"] == {"id": "CartPole-v1"}
    train = f"train --config {folder}/best.toml {few} --run-dir {tmp_path}/run"
    assert run_command(train)[::2] == (0, "")
    made = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert made["loss"]["gamma"] == best["loss"]["gamma"]
    assert run_command(words)[0] == 0  # all is done: nothing is trained again
    assert len(optuna.load_study(study_name="troupe", storage=f"sqlite:///{folder}/study.db").trials) == len(states)
    assert json.loads(study.user_attrs["asked"])["preset"] == "appo"
    status, _, error = run_command(f"{words} --preset impala")
    assert (status, error) == (
        2, f"troupe: '{folder}' holds another search: its environment, settings or space differ\n"
    )  # fmt: skip


@pytest.mark.slow
def test_a_search_whose_trials_all_fail_says_why(tmp_path, run_command):
    pytest.importorskip("optuna")
    (tmp_path / "own.py").write_text(
        "import gymnasium as gym\n"
        "class Endless(gym.Env):\n"
        "    observation_space = action_space = gym.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None): return 0, {}\n"
        "    def step(self, action): return 0, 0.0, False, False, {}\n"
    )
    command = f"tune {tmp_path}/own.py:Endless --trials 1 --steps 500 --jobs 1 --run-dir {tmp_path}/search"
    status, _, error = run_command(f"{command} --evaluation.max_steps 10")
    assert (status, error) == (1, "troupe: no trial has a score: no episode ended\n")
