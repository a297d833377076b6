"""The figures in README.md and docs/results.md are those of the committed results."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from statistics import median

import pytest

import troupe
from troupe.config.settings import Learner, Stop
from troupe.runtime.learning.annealing import annealing, described

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import claims  # noqa: E402
import common  # noqa: E402


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_a_block_has_the_figures_of_its_result_file_and_its_page_the_command(name: str):
    assert claims.wrong(name, claims.CLAIMS[name]) == ""


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_no_table_of_figures_stands_outside_of_a_block(page: str):
    text = re.sub(claims._BLOCK.format(".*?"), "", (ROOT / page).read_text(), flags=re.DOTALL)
    assert re.findall(r"^\|.*\d[\d.,]*\d.*\|$", text, re.MULTILINE) == []


@pytest.mark.parametrize("preset", ["appo", "impala"])
def test_what_troupe_envs_prints_of_tuned_settings_is_what_was_measured(preset: str):
    """`verified` in a preset's file has the lowest evaluation, and the medians of steps and training seconds."""
    tuned = tomllib.loads((ROOT / f"src/troupe/presets/{preset}.toml").read_text())["tuned"]
    verified = {name: each["verified"] for name, each in tuned.items() if "verified" in each}
    assert verified
    for name, stated in verified.items():
        file = {"CartPole-v1": f"cartpole{'' if preset == 'appo' else '-preset-impala'}", "ALE/Pong-v5": "atari-pong"}
        measured = claims.result(file.get(name, "environments-tuned"))
        runs = measured["environments"][name]["runs"] if name not in file else measured["runs"]
        returns = [run.get("mean_return") or run["evaluation"]["mean_return"] for run in runs]
        assert stated["seeds"] == len(runs)
        assert stated["lowest"] == pytest.approx(min(returns), abs=0.1)
        assert stated["steps"] == pytest.approx(median(run["steps"] for run in runs), abs=1)
        assert stated["seconds"] == pytest.approx(median(run["training_seconds"] for run in runs), abs=0.01)


def test_a_changed_figure_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    claim = claims.CLAIMS["pong"]
    changed = (ROOT / claim.page).read_text().replace("19.5", "20.5")
    (tmp_path / "docs").mkdir()
    (tmp_path / claim.page).write_text(changed)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    assert "differs from the results" in claims.wrong("pong", claim)


def test_a_benchmark_whose_limits_are_beyond_the_learning_rates_schedule_ends(monkeypatch: pytest.MonkeyPatch):
    config = troupe.TrainConfig(learner=Learner(anneal_steps=200), stop=Stop(steps=300))
    printed = f"CartPole-v1: preset appo\n  {described(annealing(config), config, 0)}\n"
    done = subprocess.CompletedProcess([], 0, stdout=printed, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SystemExit, match=r"its limits are beyond learner\.anneal_steps"):
        common.troupe("train", "CartPole-v1", "--steps", "300")
