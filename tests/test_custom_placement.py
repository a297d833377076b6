"""An actor placement of the user's, from a file and from Python."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

import troupe
from helpers import slow_unless
from troupe.cli import run
from troupe.config import resolve
from troupe.environments import find
from troupe.runtime.execution.placements import PLACEMENTS, placement_of

EXAMPLE = Path(__file__).parent.parent / "examples" / "custom_placement.py"
SHORT = ["--steps", "500", "--actors", "2", "--target", "none", "--evaluation.final_episodes", "5", "--run-dir", "run"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("preset", slow_unless(["appo"], ["appo", "a3c", "ga3c"]))
def test_a_placement_of_a_file_trains_and_is_resumed(folder, preset, capsys):
    named = ["--actor.placement", "custom_placement.py:in_threads"]
    assert run(["train", "CartPole-v1", "--preset", preset, *named, *SHORT]) == 0
    assert "environments in placement " in capsys.readouterr().out
    assert (
        tomllib.loads(Path("run/config.toml").read_text())["actor"]["placement"]
        == f"{folder / EXAMPLE.name}:in_threads"
    )
    assert run(["resume", "run", "--steps", "1500"]) == 0
    assert json.loads(Path("run/summary.json").read_text())["steps"] >= 1500


def test_a_placement_passed_from_python_gets_the_plans(tmp_path):
    seen = []

    def threads(plans, context):
        from troupe.runtime.execution.runner import ThreadRunner

        seen.extend(plan.number for plan in plans)
        return [ThreadRunner(plan, context) for plan in plans]

    settings = {"actor.count": 3, "evaluation.final_episodes": 5, "stop.target": "none"}
    trained = troupe.train("CartPole-v1", placement=threads, steps=2000, settings=settings, run_dir=tmp_path / "run")
    assert trained.steps >= 2000
    assert seen == [0, 1, 2]


def test_attributes_of_a_placement_tell_how_it_runs_actors():
    def elsewhere(plans, context):
        raise NotImplementedError

    elsewhere.in_processes, elsewhere.rollouts_per_actor = True, 3
    config = resolve("CartPole-v1", settings={"actor.placement": PLACEMENTS.named(elsewhere)})
    placement = placement_of(config, find("CartPole-v1"))
    assert (placement.in_processes, placement.rollouts_per_actor) == (True, 3)
    assert placement.plural.endswith("elsewhere")


def test_training_begins_with_the_first_rollout_of_runners_that_do_not_say_that_they_are_ready():
    code = (
        "from custom_placement import Runner\ndef quiet(plans, context): return [Runner(p, context) for p in plans]\n"
    )
    Path("quiet.py").write_text(f"{code}quiet.in_processes = True\n")
    assert run(["train", "CartPole-v1", "--actor.placement", "quiet.py:quiet", "--time", "60s", *SHORT]) == 0
    assert json.loads(Path("run/summary.json").read_text())["outcome"] == "steps"


def test_a_placement_in_the_run_directory_is_not_executed(capsys):
    named = ["--actor.placement", "custom_placement.py:in_threads"]
    assert run(["train", "CartPole-v1", *named, *SHORT]) == 0
    Path("run/evil.py").write_text("raise SystemExit('executed')")
    config = Path("run/config.toml")
    config.write_text(config.read_text().replace("custom_placement.py:in_threads", "run/evil.py:in_threads"))
    capsys.readouterr()
    assert run(["resume", "run", "--steps", "1500"]) == 2
    assert "the placement of 'run' is code in the run directory itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("def place(plans, context): return []", r"made 0 runners for 2 actors; it must make one for each plan"),
        ("def place(plans, context): raise OSError('no cluster')", r"failed: no cluster|failed: OSError: no cluster"),
        ("place = 3", r"place\.py has no callable 'place'"),
    ],
)
def test_a_placement_that_makes_no_runners_is_refused_in_one_line(code, wrong, capsys):
    Path("place.py").write_text(code)
    assert run(["train", "CartPole-v1", "--actor.placement", "place.py:place", *SHORT]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(wrong, error)
    assert not Path("run").exists()


def test_an_unknown_placement_is_refused_with_those_known(capsys):
    assert run(["train", "CartPole-v1", "--actor.placement", "proces", *SHORT]) == 2
    error = capsys.readouterr().err
    assert "expected one of auto | thread | process" in error
    assert "did you mean process?" in error


def test_topology_serial_takes_no_placement(capsys):
    serial = ["--topology", "serial", "--actor.placement", "custom_placement.py:in_threads"]
    assert run(["train", "CartPole-v1", *serial, *SHORT, "--actors", "1"]) == 2
    assert "topology serial has one thread for everything" in capsys.readouterr().err
