"""A short selection of benchmarks/fuzz.py: changed runs, in this process; and some of its trials as it makes them."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import troupe
from helpers import PATIENCE_SECONDS
from troupe import TroupeError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import fuzz  # noqa: E402
import mutations  # noqa: E402


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "run"
    settings = fuzz.TINY | fuzz.RUNS["novelty"]
    return troupe.train("CartPole-v1", settings=settings, run_dir=folder, tuned=False, display="silent").path


@pytest.mark.parametrize("part", range(4))
def test_a_changed_run_is_loaded_or_refused_in_one_line_and_nothing_is_executed(source, tmp_path, monkeypatch, part):
    mark = tmp_path / "executed"
    for name in ("canary_module.py", "canary_file.py"):
        (tmp_path / name).write_text(fuzz.CANARY.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    refused = 0
    for number in range(part, 100, 4):
        run = tmp_path / "copy"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(source, run)
        dice = random.Random(f"test {number}")
        canary = dice.choice(["canary_module:make", f"{tmp_path}/canary_file.py:make"])
        what = mutations.mutate(run, dice, "load", canary)
        if number // 4 % 2:
            mutations.mend(run)
        told = ""
        try:
            agent = troupe.load(run)
            agent.act(agent.observation_space.sample())
        except TroupeError as error:
            told = f"troupe: {error}"
        if told:
            refused += 1
            assert fuzz.judged({"status": 2, "seconds": 0.0, "text": told}) == "fine", (number, what, told)
            assert "\n" not in told
        assert not mark.exists(), (number, what)
    assert refused > 5


def test_mutations_are_the_same_for_the_same_seed_and_mended_hashes_fit(source, tmp_path):
    made = []
    for folder in ("one", "two"):
        run = shutil.copytree(source, tmp_path / folder / "run")
        what = mutations.mutate(run, random.Random(7), "load", "x:y")
        made.append((what, sorted(file.name for file in run.rglob("*"))))
    assert made[0] == made[1]
    run = shutil.copytree(source, tmp_path / "run")
    (state,) = run.glob("checkpoints/*/state.json")
    known = json.loads(state.read_text())
    state.write_text(json.dumps(known | {"seconds": "x"}))
    with pytest.raises(TroupeError, match="holds no whole checkpoint"):
        troupe.load(run)
    mutations.mend(run)
    with pytest.raises(TroupeError, match="holds no whole checkpoint"):
        troupe.load(run)
    state.write_text(json.dumps(known | {"seconds": 1.0}))
    mutations.mend(run)
    troupe.load(run)


def test_trials_of_several_sittings_add_up_and_a_trial_counts_once():
    def series(seed: int, commit: str, *numbers: int) -> dict[str, object]:
        row = {"outcome": "fine", "executed": False, "slow": False, "large": False, "mended": False, "mb": 1}
        rows = [row | {"number": number, "command": "load", "commit": commit, "seconds": 0.1} for number in numbers]
        (made,) = fuzz.series_of(rows, seed)
        return made

    first, second = series(1, "a", 0, 1, 2, 5), series(1, "b", 3, 4)
    assert (first["trials"], first["runs"], first["commands"]["load"]["fine"]) == ("0-2 5", 4, 4)
    assert fuzz.merged([first], [second]) == [first, second]
    assert fuzz.merged([first, second], [series(2, "b", 0)]) == [first, second, series(2, "b", 0)]
    again = series(1, "c", 1)
    assert fuzz.merged([first, second], [again]) == [second, again]


def test_time_that_other_programs_had_is_not_a_command_s_own():
    assert fuzz.own_seconds(clock=5.0, cpu=1.0, without_core=3.5) == 1.5  # half a second waited for something else
    assert fuzz.own_seconds(clock=5.0, cpu=1.0, without_core=0.0) == 5.0  # asleep
    assert fuzz.own_seconds(clock=5.0, cpu=8.0, without_core=4.0) == 5.0  # its own threads had the cores


@pytest.mark.slow
def test_some_trials_of_the_benchmark_are_fine(tmp_path):
    script = [sys.executable, ROOT / "benchmarks/fuzz.py"]
    options = ["--trials", "60", "--seed", "1", "--folder", tmp_path]
    subprocess.run([*script, "run", *options], check=True, timeout=PATIENCE_SECONDS)
    rows = fuzz.rows_of(tmp_path, 1)
    assert len({row["number"] for row in rows}) == 60
    assert [row for row in rows if "text" in row and not row["slow"]] == []
