"""`troupe train --config FILE.toml`: settings of a file, of another run for instance."""

import json
import tomllib
from pathlib import Path

import pytest

FEW = """
preset = "impala"
tuned = false
seed = 7

[env]
id = "CartPole-v1"

[learner]
learning_rate = 0.002

[loss]
gamma = 0.9

[stop]
steps = 100
target = "none"
"""
QUICK = (
    "--topology serial --actors 1 --actor.environments 2 --actor.rollout_steps 8 --evaluation.every_seconds 0 "
    "--evaluation.final_episodes 1 --quiet"
)


def config_of(run: Path) -> dict:
    return tomllib.loads((run / "config.toml").read_text())


def test_a_file_has_environment_preset_seed_and_settings_of_which_the_command_line_replaces_some(tmp_path, run_command):
    (tmp_path / "few.toml").write_text(FEW)
    command = f"train --config {tmp_path}/few.toml {QUICK} --loss.gamma 0.8 --run-dir {tmp_path}/run"
    assert run_command(command)[::2] == (0, "")
    made = config_of(tmp_path / "run")
    assert (made["env"]["id"], made["preset"], made["seed"], made["tuned"]) == ("CartPole-v1", "impala", 7, False)
    assert (made["learner"]["learning_rate"], made["loss"]["gamma"], made["stop"]["steps"]) == (0.002, 0.8, 100)


@pytest.mark.slow
def test_a_runs_own_file_repeats_a_serial_run_bit_for_bit_and_another_environment_may_be_named(tmp_path, run_command):
    first = f"train CartPole-v1 {QUICK} --steps 100 --target none --seed 3 --untuned"
    assert run_command(f"{first} --run-dir {tmp_path}/one")[0] == 0
    again = f"train --config {tmp_path}/one/config.toml --quiet --run-dir {tmp_path}/two"
    assert run_command(again)[0] == 0
    assert config_of(tmp_path / "two") == config_of(tmp_path / "one")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two")]
    assert summaries[0]["evaluation"] == summaries[1]["evaluation"]
    other = f"train Acrobot-v1 --config {tmp_path}/one/config.toml --seed 5 --quiet --run-dir {tmp_path}/three"
    assert run_command(other)[0] == 0
    made = config_of(tmp_path / "three")
    assert (made["env"]["id"], made["seed"], made["stop"]["steps"]) == ("Acrobot-v1", 5, 100)


def test_of_several_runs_too(tmp_path, run_command, monkeypatch):
    asked = []

    def compare(env, presets, seeds, run_dir, *, vary, **options):
        asked.append((env, presets, list(seeds), vary, options))
        return 0

    monkeypatch.setattr("troupe.comparison.compare", compare)
    (tmp_path / "few.toml").write_text(FEW)
    command = f"compare --config {tmp_path}/few.toml --vary loss.lam=0.9,1 --seeds 2 --loss.gamma 0.8 --track mlflow"
    assert run_command(command)[::2] == (0, "")
    ((env, presets, seeds, vary, options),) = asked
    assert (env, presets, seeds, vary) == ("CartPole-v1", ["impala"], [7, 8], {"loss.lam": ["0.9", "1"]})
    assert (options["tuned"], options["callbacks"]) == (False, ["mlflow"])
    assert {"learner.learning_rate": 0.002, "loss.gamma": "0.8"}.items() <= options["settings"].items()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("learner.learning_rat = 1", "FILE: no setting 'learner.learning_rat'; did you mean learner.learning_rate?"),
        ("[learner]\nlearning_rate = -1", "FILE: learner.learning_rate = -1: expected a number above 0"),
        ("learner = [", "FILE: not a TOML file: "),
        (None, "FILE: no such file or directory"),
        ("loss.gamma = 0.9", "the following arguments are required: ENV (troupe train --help)"),
    ],
)
def test_bad_files_are_refused_in_a_line(tmp_path, run_command, content, expected):
    file = tmp_path / "few.toml"
    if content is not None:
        file.write_text(content)
    status, _, error = run_command(f"train --config {file} --run-dir {tmp_path}/run")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"troupe: {expected.replace('FILE', str(file))}")
    assert not (tmp_path / "run").exists()
