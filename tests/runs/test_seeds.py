"""Several seeds: each in its own folder, one that fails does not stop the others, one table, one picture."""

import json
import re

import numpy as np
import pytest

from troupe import UsageError, cli
from troupe.series import train_seeds

SETTINGS = {"actor.count": 1, "actor.environments": 2, "actor.placement": "thread", "evaluation.final_episodes": 2}
ASKED = {"steps": 200, "target": "none", "settings": SETTINGS, "display": "silent"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def failing_in(env_where):
    """An environment that fails, or does `what`, in the runs with these seeds."""

    def make(seeds, what="raise ValueError('no wheels')"):
        return env_where(what, *(f"seed{seed}" for seed in seeds))

    return make


@pytest.mark.slow
def test_a_table_a_picture_and_a_folder_for_each(tmp_path, capsys):
    assert train_seeds("CartPole-v1", range(4, 7), "out", **ASKED) == 0
    out, err = capsys.readouterr()
    assert err == ""
    table = [line.split() for line in out.splitlines() if line[:4].strip().isdigit()]
    assert [(line[0], line[1]) for line in table] == [("4", "steps"), ("5", "steps"), ("6", "steps")]
    assert "3 of 3 runs: mean evaluation return" in out
    assert "picture out/learning.png" in out
    assert (tmp_path / "out" / "learning.png").read_bytes().startswith(b"\x89PNG")
    assert all((tmp_path / "out" / f"seed{seed}" / "summary.json").exists() for seed in (4, 5, 6))


@pytest.mark.usefixtures("pictures")
@pytest.mark.slow
def test_a_resumed_seed_draws_the_picture_of_all_of_them_anew(tmp_path, capsys):
    assert train_seeds("CartPole-v1", range(2), "out", **ASKED) == 0
    picture = tmp_path / "out" / "learning.png"
    picture.write_bytes(b"old")
    assert cli.run(["resume", "out/seed1", "--steps", "400", "--quiet"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    assert cli.run(["resume", "out/seed1", "--steps", "600", "--quiet"]) == 0
    assert not picture.exists()  # no picture of a group that has none


def test_the_table_has_the_figures_of_the_runs_own_summaries(tmp_path, run_command):
    few = "--actor.count 1 --actor.environments 2 --actor.placement thread --evaluation.final_episodes 3 --untuned"
    command = f"train CartPole-v1 --seed 4 --seeds 3 {few} --steps 200 --target none --run-dir out --quiet"
    status, out, _ = run_command(command)
    assert status == 0
    lines = out.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.split()[:2] == ["seed", "outcome"])
    rows = [line.replace(",", "").split() for line in lines[heading + 1 : heading + 4]]
    summaries = [json.loads((tmp_path / "out" / f"seed{seed}" / "summary.json").read_text()) for seed in (4, 5, 6)]
    figures = []
    for row, summary, seed in zip(rows, summaries, (4, 5, 6), strict=True):
        assert row[:2] == [str(seed), "steps"] == [str(summary["seed"]), summary["outcome"]]
        evaluation, seconds = summary["evaluation"], summary["training_seconds"]
        expected = [evaluation[f"{name}_return"] for name in ("mean", "min", "max")]
        assert [float(cell) for cell in row[2:5]] == pytest.approx(expected, abs=0.051)
        assert int(row[5]) == summary["steps"]
        assert float(row[6]) == pytest.approx(seconds, abs=0.006)
        assert float(row[7]) == pytest.approx(summary["steps_per_s"], rel=0.02, abs=1)
        figures.append((evaluation["mean_return"], summary["steps"], seconds))
    means, steps, seconds = (list(each) for each in zip(*figures, strict=True))
    assert len(set(means)) > 1
    numbers = re.match(
        r"3 of 3 runs: mean evaluation return ([\d.]+), lowest ([\d.]+); "
        r"medians: ([\d,]+) steps, ([\d.]+) s of training \(longest ([\d.]+) s\)$",
        lines[heading + 4],
    )
    assert numbers is not None
    shown = [float(each.replace(",", "")) for each in numbers.groups()]
    expected = [np.mean(means), min(means), np.median(steps), np.median(seconds), max(seconds)]
    assert shown == pytest.approx(expected, abs=0.051)


def test_one_that_fails_is_reported_and_the_others_continue(tmp_path, capsys, failing_in):
    assert train_seeds(failing_in([1]), range(3), "out", **ASKED) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("troupe: seed 1: ")
    assert "ValueError: no wheels" in line
    assert "2 of 3 runs: mean evaluation return" in out


def test_when_all_fail_there_is_no_table(tmp_path, capsys, failing_in):
    assert train_seeds(failing_in([0, 1]), range(2), "out", **ASKED) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2


def test_a_signal_ends_the_runs_and_what_is_done_is_shown(tmp_path, capsys, failing_in):
    once = "pathlib.Path('sent').exists() or pathlib.Path('sent').touch() or os.kill(os.getpid(), signal.SIGINT)"
    assert train_seeds(failing_in([1], once), range(3), "out", **ASKED) == 130
    out = capsys.readouterr().out
    assert "1 of 3 runs: mean evaluation return" in out
    assert "picture out/learning.png" in out
    assert not (tmp_path / "out" / "seed2").exists()


@pytest.mark.slow
def test_the_same_command_continues_and_other_settings_are_refused(tmp_path, run_command, failing_in):
    once = "pathlib.Path('sent').exists() or pathlib.Path('sent').touch() or os.kill(os.getpid(), signal.SIGINT)"
    few = " ".join(f"--{name} {value}" for name, value in SETTINGS.items())
    command = f"train {failing_in([1], once)} --seeds 3 --run-dir out --quiet --target none {few} --steps"
    status, out, _ = run_command(f"{command} 200")
    assert (status, "1 of 3 runs: mean" in out) == (130, True)
    assert out.endswith(
        "not done: seed 1 (interrupted); seed 2 (not started)\nto continue: the same command with --run-dir out\n"
    )
    status, _, err = run_command(f"{command} 300")
    assert status == 2
    assert "'out' holds runs with stop.steps = 200, not stop.steps = 300: " in err
    status, out, _ = run_command(f"{command} 200")
    assert (status, "3 of 3 runs: mean" in out, out.startswith("1 of 3 runs are done already\n")) == (0, True, True)
    assert [json.loads((tmp_path / f"out/seed{seed}/summary.json").read_text())["outcome"] for seed in range(3)] == [
        "steps", "steps", "steps"
    ]  # fmt: skip


def test_a_run_that_was_stopped_in_its_final_evaluation_is_evaluated_when_it_continues(tmp_path, capsys):
    assert train_seeds("CartPole-v1", range(1), "out", **ASKED) == 0
    summary = tmp_path / "out" / "seed0" / "summary.json"
    before = json.loads(summary.read_text())
    summary.write_text(json.dumps(before | {"evaluation": None}))
    assert train_seeds("CartPole-v1", range(1), "out", **ASKED) == 0
    after = json.loads(summary.read_text())
    assert (after["outcome"], after["steps"], after["updates"]) == ("steps", before["steps"], before["updates"])
    assert after["evaluation"]["episodes"] == 2


def test_runs_without_an_episode_have_no_picture_and_that_is_no_failure(capsys):
    one_step = {"topology": "serial", "actor.count": 1, "actor.rollout_steps": 1}  # others would play on meanwhile
    options = ASKED | {"steps": 1, "settings": SETTINGS | one_step}
    assert train_seeds("CartPole-v1", range(2), "out", **options) == 0
    out, err = capsys.readouterr()
    assert "2 of 2 runs" in out
    assert err.splitlines() == [f"troupe: seed {seed}: not in the picture: no episode ended" for seed in range(2)]


def test_folders_that_exist_are_refused_before_anything_starts(tmp_path):
    (tmp_path / "out" / "seed2").mkdir(parents=True)
    with pytest.raises(UsageError, match="out/seed2' exists already"):
        train_seeds("CartPole-v1", range(3), "out", **ASKED)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["seed2"]


def test_wrong_usage_is_reported_once():
    with pytest.raises(UsageError, match="no preset"):
        train_seeds("CartPole-v1", range(3), "out", **ASKED, preset="apo")
