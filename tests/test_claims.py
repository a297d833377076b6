"""The figures in README.md, docs/results.md and benchmarks/README.md are those of the committed results."""

import json
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

import claim_tables  # noqa: E402
import claims  # noqa: E402
import common  # noqa: E402


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_a_block_has_the_figures_of_its_result_file_and_its_page_the_command(name: str):
    assert claims.wrong(name, claims.CLAIMS[name]) == ""


@pytest.mark.parametrize("page", claims.PAGES)
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
        measured = claim_tables.result(file.get(name, "environments-tuned"))
        runs = measured["environments"][name]["runs"] if name not in file else measured["runs"]
        returns = [run.get("mean_return") or run["evaluation"]["mean_return"] for run in runs]
        assert stated["seeds"] == len(runs)
        assert stated["lowest"] == pytest.approx(min(returns), abs=0.1)
        assert stated["steps"] == pytest.approx(median(run["steps"] for run in runs), abs=1)
        assert stated["seconds"] == pytest.approx(median(run["training_seconds"] for run in runs), abs=0.01)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pages, the scripts and the results of the project, to be changed."""
    for page in {claim.page for claim in claims.CLAIMS.values()}:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text((ROOT / page).read_text())
    (tmp_path / "benchmarks/results").mkdir()
    for file in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "benchmarks/results").glob("*.json")]:
        (tmp_path / file.relative_to(ROOT)).symlink_to(file)
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    monkeypatch.setattr(claim_tables, "RESULTS", tmp_path / "benchmarks/results")
    return tmp_path


def test_a_changed_figure_of_a_page_is_noticed(copied: Path):
    page = copied / claims.CLAIMS["pong"].page
    page.write_text(page.read_text().replace("19.5", "20.5"))
    assert "differs from the results" in claims.wrong("pong", claims.CLAIMS["pong"])


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_a_page_without_the_command_or_the_script_of_a_claim_is_noticed(name: str, copied: Path):
    claim = claims.CLAIMS[name]
    script = copied / claim.command.split()[1]
    script.unlink()
    assert claims.wrong(name, claim) == f"{claim.page} does not name the command of '{name}': {claim.command}"
    script.touch()
    page = copied / claim.page
    page.write_text(page.read_text().replace(claim.command, "python benchmarks/another.py"))
    assert claims.wrong(name, claim) == f"{claim.page} does not name the command of '{name}': {claim.command}"


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_a_result_file_that_is_missing_is_noticed(name: str, copied: Path):
    claim = claims.CLAIMS[name]
    claim_tables.files_read.clear()
    claim.text()
    assert claim_tables.files_read
    for file in sorted(claim_tables.files_read):
        result = copied / f"benchmarks/results/{file}.json"
        result.unlink()
        assert claims.wrong(name, claim) == f"{claim.page}, '{name}': its result file is missing: {file}.json"
        result.symlink_to(ROOT / f"benchmarks/results/{file}.json")


def test_a_result_file_that_has_changed_is_noticed(copied: Path):
    file = copied / "benchmarks/results/atari-pong.json"
    measured = json.loads(file.read_text())
    measured["runs"][0]["evaluation"]["mean_return"] += 1
    file.unlink()
    file.write_text(json.dumps(measured))
    wrong = [name for name, claim in claims.CLAIMS.items() if claims.wrong(name, claim)]
    assert wrong == ["headline", "pong"]


def test_a_benchmark_whose_limits_are_beyond_the_learning_rates_schedule_ends(monkeypatch: pytest.MonkeyPatch):
    config = troupe.TrainConfig(learner=Learner(anneal_steps=200), stop=Stop(steps=300))
    printed = f"CartPole-v1: preset appo\n  {described(annealing(config), config, 0)}\n"
    done = subprocess.CompletedProcess([], 0, stdout=printed, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SystemExit, match=r"its limits are beyond learner\.anneal_steps"):
        common.troupe("train", "CartPole-v1", "--steps", "300")
