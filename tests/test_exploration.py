"""Epsilon as it is set on the command line, and where it has no effect."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from troupe.runs.store.checkpoint import read_config
from troupe.runs.store.metrics import read_log
from troupe.runtime.acting.actor_plan import epsilon_schedules

DOCUMENT = Path(__file__).parent.parent / "docs" / "article.md"
DOCUMENTED = re.findall(r"^    troupe (train .*--exploration\.epsilon .*)$", DOCUMENT.read_text(), re.MULTILINE)
SHORT = "--steps 500 --env.delay_seconds 0 --evaluation.final_episodes 1 --evaluation.every_seconds 0 --run-dir run"
SERIAL = f"train CartPole-v1 --preset article --topology serial --actors 1 --learner.count 1 {SHORT}"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def epsilons(command) -> tuple[np.ndarray, np.ndarray]:
    """Of every actor, at the first step and long after."""
    status, _, error = command
    assert status == 0, error
    config = read_config(Path("run"))
    made = epsilon_schedules(config.exploration, config.actor.count, np.random.default_rng(0))
    return np.array([each(0) for each in made]), np.array([each(10**9) for each in made])


def test_the_list_in_the_documents_is_assigned_to_the_actors_and_stays(run_command):
    listed, _ = DOCUMENTED
    first, last = epsilons(run_command(f"{listed} {SHORT}"))
    assert first.tolist() == last.tolist() == [0.1, 0.2, 0.4, 0.6] * 2


def test_the_range_in_the_documents_is_sampled_from_and_stays(run_command):
    _, sampled = DOCUMENTED
    first, last = epsilons(run_command(f"{sampled} {SHORT}"))
    assert first.tolist() == last.tolist()
    assert len(set(first)) == 8
    assert (first >= 0.05).all()
    assert (first <= 0.6).all()


def test_a_decay_of_ones_own_has_an_end_for_each_actor(run_command):
    both = "--exploration.epsilon 0.8,0.6 --exploration.epsilon_end 0.4,0.1"
    first, last = epsilons(run_command(f"train CartPole-v1 --preset article {both} {SHORT}"))
    assert (first.tolist(), last.tolist()) == ([0.8, 0.6] * 4, [0.4, 0.1] * 4)


def test_an_epsilon_that_is_set_replaces_the_decay_of_the_preset(run_command):
    assert run_command(f"{SERIAL} --exploration.epsilon 0.6 --exploration.decay_steps 100")[0] == 0
    played = [row["epsilon"] for row in read_log(Path("run")) if row["kind"] == "report"]
    assert played == pytest.approx([0.6] * len(played))


def test_without_one_the_preset_decays(run_command):
    assert run_command(f"{SERIAL} --exploration.decay_steps 200")[0] == 0
    played = [row["epsilon"] for row in read_log(Path("run")) if row["kind"] == "report"]
    assert 0.1499 < played[-1] < 0.4
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(played))


@pytest.mark.parametrize("setting", ["epsilon", "epsilon_end"])
def test_an_epsilon_that_is_set_where_no_action_is_a_choice_is_refused_in_one_line(run_command, setting):
    status, out, error = run_command(f"train Pendulum-v1 --exploration.{setting} 0.3,0.1 {SHORT}")
    assert (status, out) == (2, "")
    why = "no action is a choice, and a Gaussian explores by its standard deviation (network.log_std); set it to 0"
    assert error == f"troupe: exploration.{setting} = 0.3,0.1: {why}\n"
    assert not Path("run").exists()


def test_an_epsilon_of_a_preset_where_no_action_is_a_choice_is_reported(run_command):
    status, out, error = run_command(f"train Pendulum-v1 --preset article {SHORT}")
    assert status == 0, error
    assert out.count("epsilon has no effect: no action is a choice") == 1


def test_an_epsilon_of_0_fits_every_action(run_command):
    status, out, error = run_command(f"train Pendulum-v1 --exploration.epsilon 0 {SHORT}")
    assert status == 0, error
    assert "epsilon" not in out
