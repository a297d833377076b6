"""What becomes of the learning rate's schedule when a run is resumed with another limit."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch

import troupe
from troupe import cli
from troupe.algorithm.schedules import CONSTANT, LinearSchedule
from troupe.config import Learner, Stop
from troupe.runtime.learning.annealing import annealing, described, resumed, state_of

SMALL = {
    "topology": "serial", "network.hidden": (8,), "actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 8,
    "actor.auto": False, "learner.rollouts": 1, "learner.minibatches": 1, "learner.epochs": 1,
    "learner.learning_rate": 0.01, "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1,
}  # fmt: skip


def trained(folder: Path, steps: int, anneal: int | str) -> Path:
    settings = SMALL | {"learner.anneal_steps": anneal}
    return troupe.train("CartPole-v1", steps=steps, run_dir=folder, settings=settings, tuned=False, target="none").path


def rates(run: Path) -> list[tuple[int, float]]:
    """Steps and learning rate of every report."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["steps"], row["learning_rate"]) for row in rows if row["kind"] == "report"]


def weights(run: Path) -> torch.Tensor:
    checkpoint = max((run / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    return safetensors.torch.load((checkpoint / "model.safetensors").read_bytes())["body.policy.weight"]


def test_a_schedule_that_has_run_out_is_refused_in_one_line_and_nothing_is_changed(tmp_path, capsys):
    run = trained(tmp_path / "run", 400, 400)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert cli.run(["resume", str(run), "--steps", "1200"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "fallen to 0 at step 400" in error
    assert "--anneal-steps" in error
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file() if file in before}


@pytest.mark.parametrize(("given", "rate"), [("1600", 0.01 / 4), ("0", 0.01), ("auto", 0.01 / 4)])
def test_with_a_schedule_given_anew_it_learns(given, rate, tmp_path, capsys):
    run = trained(tmp_path / "run", 400, 400)
    before = weights(run)
    capsys.readouterr()
    assert cli.run(["resume", str(run), "--steps", "1200", "--anneal-steps", given]) == 0
    assert not torch.equal(before, weights(run))
    steps, last = rates(run)[-1]
    assert last == pytest.approx(rate, rel=(steps - 1200) / 400 + 1e-6)
    if given == "1600":
        assert "falling linearly to 0 at step 1,600" in capsys.readouterr().out


def test_a_longer_limit_leaves_the_learning_rate_where_it_was_and_lets_it_fall_on_to_a_quarter(tmp_path):
    run = trained(tmp_path / "run", 400, "auto")
    troupe.resume(run, steps=800)
    troupe.resume(run, steps=1200)
    seen = rates(run)
    assert all(after <= before for (_, before), (_, after) in pairwise(seen))
    assert {rate for steps, rate in seen if steps >= 400} == {0.0025}


def test_a_schedule_goes_on_from_where_it_is_to_a_quarter_at_the_new_limit():
    """At step 200 of 400 62.5 % are left; at 500, half way from there to 800, (62.5 + 25) / 2 = 43.75 %."""
    before = troupe.TrainConfig(learner=Learner(anneal_steps="auto"), stop=Stop(steps=400))
    longer = replace(before, stop=Stop(steps=800))
    saved = state_of(annealing(before))
    schedule = resumed(saved, 200, before, longer, given=False)
    assert [schedule(steps) for steps in (200, 500, 800, 900)] == pytest.approx([0.625, 0.4375, 0.25, 0.25])
    assert resumed(saved, 200, before, before, given=False) == annealing(before), (
        "the same limit: exactly as if never stopped"
    )
    assert resumed(None, 200, before, longer, given=False) == schedule  # an earlier version's


TO_ZERO = "learning rate 0.005, falling linearly to 0 at step 200"
FOR_NOTHING = ", after which nothing is learned (learner.anneal_steps)"


@pytest.mark.parametrize(
    ("schedule", "limit", "words"),
    [
        (CONSTANT, 400, ""),
        (LinearSchedule(0, 200, 1.0, 0.0), 0, TO_ZERO + FOR_NOTHING),
        (LinearSchedule(0, 200, 1.0, 0.0), 201, TO_ZERO + FOR_NOTHING),
        (LinearSchedule(0, 200, 1.0, 0.0), 200, TO_ZERO),
        (LinearSchedule(0, 200, 1.0, 0.5), 400, "learning rate 0.0075, falling linearly to 0.005 at step 200"),
        (LinearSchedule(0, 100, 1.0, 0.25), 400, "learning rate 0.0025, constant from here on"),
    ],
)
def test_a_schedule_in_words_says_that_nothing_is_learned_only_where_steps_are_left(schedule, limit, words):
    config = troupe.TrainConfig(learner=Learner(learning_rate=0.01), stop=Stop(steps=limit))
    assert described(schedule, config, 100) == words


def test_the_learning_rate_that_falls_to_zero_before_the_limit_is_announced(tmp_path, capsys):
    asked = ["train", "CartPole-v1", "--untuned", "--steps", "300", "--learner.anneal_steps", "200", "--run-dir"]
    asked += [str(tmp_path / "run"), "--topology", "serial", "--evaluation.final_episodes", "1"]
    assert cli.run(asked) == 0
    shown = capsys.readouterr().out
    assert "falling linearly to 0 at step 200, after which nothing is learned (learner.anneal_steps)" in shown
