"""Schedules of one's own: functions of the share of the run that is done."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import troupe
from troupe import UsageError
from troupe.algorithm import losses
from troupe.runs.replay import replay
from troupe.runs.store import checkpoint
from troupe.runtime.learning import annealing

TINY = {
    "actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 8, "learner.rollouts": 1, "network.hidden": (8,),
    "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1, "stop.target": "none", "stop.steps": 320,
    "learner.learning_rate": 0.01, "learner.epochs": 1, "learner.minibatches": 1, "actor.auto": False,
}  # fmt: skip
SERIAL = TINY | {"topology": "serial"}
WORKERS = TINY | {"topology": "hogwild", "loss.kind": "a3c", "actor.count": 2, "actor.placement": "process"}


def rows(run: Path) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in every if row["kind"] == "report"]


def weights(run: Path) -> torch.Tensor:
    return checkpoint.load(run, pytest.fail).model["body.policy.weight"]


def test_each_is_a_factor_of_its_setting_by_the_share_of_steps(tmp_path):
    seen: list[dict[str, float]] = []

    def loss(outputs: Any, batch: Any, *, clip: float = 0.0, entropy_coefficient: float = 0.0) -> Any:
        seen.append({"clip": clip, "entropy_coefficient": entropy_coefficient})
        return losses.appo(outputs, batch, clip=clip, entropy_coefficient=entropy_coefficient)

    schedules = {
        "learning_rate": lambda share: 1 - share,
        "clip": lambda share: 1 + share,
        "entropy_coefficient": lambda share: share,
    }
    given = SERIAL | {"loss.clip": 0.2, "loss.entropy_coefficient": 0.1, "loss.entropy_anneal_steps": 10}
    run = troupe.train(
        "CartPole-v1", settings=given, run_dir=tmp_path / "run", loss=loss, schedules=schedules, tuned=False
    )
    _, *called = seen  # the first is the trial's
    clips, entropies = ([each[name] for each in called] for name in ("clip", "entropy_coefficient"))
    assert clips == pytest.approx([0.2 * (1 + each / 0.1) for each in entropies])
    assert entropies == sorted(entropies)
    assert (entropies[0], entropies[-1]) == (pytest.approx(0.1 * 16 / 320), 0.1)
    rates = [row["learning_rate"] for row in rows(run.path)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0.0


@pytest.mark.slow
def test_a_linear_one_is_the_built_in_schedule_bit_for_bit(tmp_path):
    asked = SERIAL | {"loss.entropy_coefficient": 0.1}
    own = {"schedules.learning_rate": lambda share: 1 - share, "schedules.entropy_coefficient": lambda share: 1 - share}
    built_in = {"learner.anneal_steps": 320, "loss.entropy_anneal_steps": 320}
    one, other = (
        troupe.train("CartPole-v1", settings=asked | more, run_dir=tmp_path / str(k), tuned=False)
        for k, more in enumerate((own, built_in))
    )
    assert torch.equal(weights(one.path), weights(other.path))


def test_one_of_a_file_is_remembered_and_resumed_exactly(tmp_path, run_command):
    (tmp_path / "own.py").write_text("def steep(share): return 1.5 - share\ndef flat(share): return 0.4\n")
    words = " ".join(f"--{name} {value}" for name, value in SERIAL.items() if name not in ("network.hidden",))
    command = f"train CartPole-v1 {words} --untuned --schedules.learning_rate {tmp_path}/own.py:steep"
    status, out, error = run_command(f"{command} --run-dir {tmp_path}/run --learner.anneal_steps 9")
    assert (status, error) == (0, "")
    assert "learning rate 0.015, from here on by own.py:steep" in out
    assert "without effect in this run: learner.anneal_steps (schedules.learning_rate is set)" in out
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["schedules"]["learning_rate"] == f"{tmp_path}/own.py:steep"
    assert f"{tmp_path}/own.py" in config["env"]["files"]
    assert run_command(f"resume {tmp_path}/run --steps 640")[0] == 0
    assert rows(tmp_path / "run")[-1]["learning_rate"] == pytest.approx(0.005)
    longer = checkpoint.read_config(tmp_path / "run")
    assert longer.stop.steps == 640
    state = checkpoint.load(tmp_path / "run", pytest.fail).state
    schedule = annealing.resumed(state.annealing, state.counts.steps, longer, longer, given=False)
    assert schedule(320) == pytest.approx(1.0)
    again = f"resume {tmp_path}/run --steps 700 --schedules.learning_rate {tmp_path}/own.py"
    assert run_command(f"{again}:flat")[0] == 0
    assert rows(tmp_path / "run")[-1]["learning_rate"] == pytest.approx(0.004)
    status, _, error = run_command(f"{again}:steeper")
    assert (status, error.count("\n")) == (2, 1)


def test_one_of_python_is_asked_for_again(tmp_path):
    half = lambda share: 0.5  # noqa: E731
    run = troupe.train("CartPole-v1", settings=SERIAL, run_dir=tmp_path / "run", schedules={"clip": half}, tuned=False)
    text = (run.path / "config.toml").read_text()
    (run.path / "config.toml").write_text(text.replace("python:", "python:another_"))
    with pytest.raises(UsageError, match=r"the run's schedule was .*: pass it as schedules=\{'clip': ...\}"):
        troupe.resume(run.path, steps=640)
    assert troupe.resume(run.path, steps=640, schedules={"clip": half}).steps >= 640


@pytest.mark.slow
def test_workers_in_processes_learn_by_it(tmp_path):
    never = {"learning_rate": lambda share: 0.0 * share, "entropy_coefficient": lambda share: 1 - share}
    one, other, learned = (
        troupe.train("CartPole-v1", settings=WORKERS, steps=steps, run_dir=tmp_path / name, tuned=False, **more)
        for name, steps, more in (
            ("one", 320, {"schedules": never}),
            ("other", 16, {"schedules": never}),
            ("learned", 320, {}),
        )
    )
    assert one.updates > other.updates
    assert torch.equal(weights(one.path), weights(other.path))
    assert not torch.equal(weights(one.path), weights(learned.path))


@pytest.mark.parametrize("given", [{"schedules.clip": "own.py:steep"}, {"loss.entropy_anneal_steps": 320}])
def test_a_recorded_run_with_a_schedule_of_the_loss_is_replayed(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def steep(share): return (1 - share) ** 2\n")
    given = TINY | {"record": True, "actor.placement": "thread", "loss.entropy_coefficient": 1.0, **given}
    run = troupe.train("CartPole-v1", settings=given, run_dir=tmp_path / "run", tuned=False)
    assert replay(run.path).diverged is None


OWN = """
def word(share): return "text"
def negative(share): return -share
def breaks(share): raise ValueError("no")
def flat(share): return 1.0
def endless(share): return 1.0 if share < 1 else float("inf")
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--schedules.clip FILE:word", "schedule own.py:word: called with 0.0 it raised ValueError: could not convert"),
        ("--schedules.clip FILE:negative", "schedule own.py:negative: called with 0.5 it gave -0.5; expected a factor"),
        ("--schedules.clip FILE:endless", "schedule own.py:endless: called with 1.0 it gave inf; expected a factor"),
        ("--schedules.learning_rate FILE:breaks", "schedule own.py:breaks: called with 0.0 it raised ValueError: no"),
        ("--schedules.clip FILE:non", "own.py has no callable 'non'"),
        ("--schedules.clip linear", "schedules.clip = 'linear': expected one of none, path/to/file.py:NAME or module"),
        ("--schedules.clp FILE:flat", "unknown argument '--schedules.clp'; did you mean --schedules.clip?"),
        ("--schedules.clip FILE:flat --preset a3c", "schedules.clip: loss a3c takes no clip; set it to none"),
        ("--schedules.clip FILE:flat --stop.steps 0", "schedules.clip: progress is measured in stop.steps, which"),
    ],
)
def test_what_is_no_schedule_is_refused_in_a_line_before_anything_starts(tmp_path, run_command, given, expected):
    (tmp_path / "own.py").write_text(OWN)
    given = given.replace("FILE", f"{tmp_path}/own.py")
    status, _, error = run_command(f"train CartPole-v1 --actors 1 {given} --run-dir {tmp_path}/run")
    assert status == 2
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_two_functions_of_one_name_in_one_process_are_told_apart(tmp_path):
    def made(factor: float) -> Any:
        return lambda share: factor

    def trained(factor: float) -> troupe.Run:
        schedules = {"learning_rate": made(factor)}
        path = tmp_path / str(factor)
        return troupe.train("CartPole-v1", settings=SERIAL, run_dir=path, schedules=schedules, tuned=False)

    runs = {factor: trained(factor) for factor in (1.0, 0.5)}
    for factor, run in runs.items():
        resumed = troupe.resume(run.path, steps=640)
        assert {row["learning_rate"] for row in rows(resumed.path)} == {0.01 * factor}


def test_a_schedule_whose_file_has_moved_is_passed_in_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def half(share): return 0.5\n")
    given = SERIAL | {"schedules.clip": "own.py:half"}
    run = troupe.train("CartPole-v1", settings=given, run_dir=tmp_path / "run", tuned=False)
    (tmp_path / "own.py").rename(tmp_path / "moved.py")
    with pytest.raises(UsageError, match=r"if it moved, pass schedules=\{'clip': ...\} in Python$"):
        troupe.resume(run.path, steps=640)
    assert troupe.resume(run.path, steps=640, schedules={"clip": "moved.py:half"}).steps >= 640
