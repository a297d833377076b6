"""docs/metrics.md names every key that runs write, and no other."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from troupe import cli
from troupe.runs.evaluate.collapse import CollapseWatch
from troupe.runs.report.curves import read_curve
from troupe.runs.store import tensorboard
from troupe.runs.store.curve_descriptions import description, stage_name
from troupe.runs.store.metrics import MetricsLog, read_log

PAGE = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
FEW = (
    "--steps 256 --quiet --target none --evaluation.every_steps 200 --evaluation.every_seconds 0 "
    "--evaluation.episodes 1 --evaluation.final_episodes 1 --actor.rollout_steps 16"
)
NOVEL = "--preset appo --novelty.coefficient 0.5"
RUNS = {  # every topology
    "serial": f"{NOVEL} --topology serial --actor.environments 4",
    "async": f"{NOVEL} --actors 2 --actor.environments 4",
    "queue": "--preset article --actors 2",
    "ga3c": "--preset ga3c --actor.count 2 --adjust.every_seconds 0",
    "hogwild": "--preset a3c --actor.count 2",
}
KINDS = {
    "report": "Reports",
    "evaluation": "Evaluations",
    "collapse": "Collapses",
    "gap": "Gaps",
    "resume": "Resumptions",
}
ONLY_WITH_NOVELTY = {"bonus", "bonus_value_loss"}


def keys_of(section: str) -> set[str]:
    """The names in the first column of the section's first table."""
    text = re.split(r"^##+ ", PAGE.split(f"# {section}\n")[1], flags=re.MULTILINE)[0]
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}


def names(row: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Of all numbers and texts, with a dot between the levels; stages stand under one name."""
    for name, value in row.items():
        if name in ("shares", "stage_seconds"):
            yield f"{name}.PART.STAGE"
        elif isinstance(value, Mapping):
            yield from names(value, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("metrics")
    for name, words in RUNS.items():
        command = f"train CartPole-v1 --run-dir {folder / name} {words} {FEW}"
        assert cli.run(command.split()) == 0, name
    return {name: folder / name for name in RUNS}


@pytest.mark.parametrize("kind", ["report", "evaluation"])
def test_every_row_of_every_topology_has_the_keys_of_the_page(runs: dict[str, Path], kind: str) -> None:
    """All of them, in the first row as in the last."""
    expected = keys_of(KINDS[kind])
    for name, run in runs.items():
        learned = ONLY_WITH_NOVELTY & expected
        for row in (row for row in read_log(run) if row["kind"] == kind):
            assert expected - learned == set(names(row)) - learned, name
    found = {key for run in runs.values() for row in read_log(run) for key in names(row)}
    assert expected <= found


def test_every_curve_in_tensorboard_has_a_description(runs: dict[str, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = set()
    for run in runs.values():
        events = EventAccumulator(str(run))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            assert events.SummaryMetadata(tag).summary_description == description(tag) != "", tag
            tags.add(tag)
    assert {
        "episode/training_return",
        "loss/bonus",
        "policy/epsilon",
        "time/fraction/actor/wait",
        "time/training_seconds",
        "queue/lag_mean",
    } <= tags
    assert {"time/fraction/actor/unaccounted", "update/learning_rate"} <= tags
    stages = [stage_name(stage) for stage in keys_of("Stages")]
    unknown = [stage for stage in stages if description(f"time/fraction/a/{stage}").endswith(f" {stage}.")]
    assert not unknown


def test_every_stage_is_on_the_page(runs: dict[str, Path]) -> None:
    reports = [row for run in runs.values() for row in read_log(run) if row["kind"] == "report"]
    found = {stage for row in reports for stages in row["stage_seconds"].values() for stage in stages}
    assert found <= keys_of("Stages")
    assert keys_of("Stages") - found <= {"preempted", "env_wait", "predict", "average"}  # not in every run


def test_what_is_learned_is_in_the_last_report_with_an_update_of_every_topology(runs: dict[str, Path]) -> None:
    for name, run in runs.items():
        *_, last = (row for row in read_log(run) if row.get("policy_loss") is not None)
        for key in ("learning_rate", "gradient_norm", "approx_kl", "explained_variance", "entropy", "epsilon"):
            assert last[key] is not None, (name, key)
        assert (last["clip_fraction"] is None) == (name in ("queue", "ga3c", "hogwild")), name  # loss a3c clips none
        assert (last["epsilon"] > 0) == (name == "queue"), name
        assert (last["numbers"]["predictors"] > 0) == (name == "ga3c"), name


def test_summary_json_has_the_keys_of_the_page(runs: dict[str, Path]) -> None:
    for name, run in runs.items():
        summary = json.loads((run / "summary.json").read_bytes())
        assert set(names(summary)) | {"evaluation"} == keys_of("summary.json"), name


def test_a_gap_a_resumption_and_a_collapse_have_the_keys_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MetricsLog(tmp_path, pytest.fail) as log:
        log.resume(steps=500, seconds=60.0)
    for row in read_log(tmp_path):
        assert set(names(row)) == keys_of(KINDS[row["kind"]])
    assert [row["kind"] for row in read_log(tmp_path)] == ["gap", "resume"]
    see = CollapseWatch.see
    monkeypatch.setattr(CollapseWatch, "see", lambda watch, *scores: see(watch, *scores) or True)
    assert cli.run(f"train CartPole-v1 --run-dir {tmp_path / 'run'} {RUNS['serial']} {FEW} --quiet".split()) == 0
    collapse = next(row for row in read_log(tmp_path / "run") if row["kind"] == "collapse")
    assert set(names(collapse)) == keys_of("Collapses")


def test_the_lines_that_drop_superseded_rows_keep_what_pictures_show(tmp_path: Path) -> None:
    """Steps go back where a killed run was resumed from an earlier checkpoint."""
    kinds = [(1000, "report"), (1000, "evaluation"), (2000, "report"), (2500, "evaluation"), (3000, "report")]
    again = [(2000, "report"), (2200, "evaluation"), (2400, "report")]
    written = [
        {"kind": kind, "steps": steps, "seconds": 1.0, "episodes": 9, "return_mean": 1.0, "mean": 2.0}
        for steps, kind in kinds + again
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in written))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(code.replace("RUN", str(tmp_path)), found)
    reports = [row["steps"] for row in found["rows"] if row["kind"] == "report"]
    evaluations = [row["steps"] for row in found["rows"] if row["kind"] == "evaluation"]
    curve = read_curve(tmp_path)
    assert reports == curve.steps.tolist() == [1000, 2000, 2000, 2400]
    assert evaluations == curve.evaluations.steps.tolist() == [1000, 2200]


@pytest.mark.parametrize("updates", [True, False])
def test_the_lines_of_troubleshooting_print_every_column_that_the_page_uses(
    runs: dict[str, Path], updates: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a run whose first batch is never full."""
    page = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text()
    run = runs["serial"] if updates else tmp_path / "run"
    if not updates:
        command = f"train CartPole-v1 --run-dir {run} --topology serial --time 0.1 --learner.rollouts 4096 {FEW}"
        assert cli.run(command.split()) == 0
    code, used = re.search(r"```python\n(.*?)```", page, flags=re.DOTALL), re.sub(r"```.*?```", "", page, flags=re.S)
    assert code
    capsys.readouterr()
    exec(code[1].replace("RUN", str(run)), {})
    printed = capsys.readouterr().out
    reports = [line for line in printed.splitlines() if line.startswith("report")]
    columns = {name for name in re.findall(r"`(\w+)`", used) if name in keys_of("Reports")}
    assert len(columns) >= 12
    for name in columns:
        assert all(f" {name} " in line for line in reports), name
    assert any(" updates 0 " not in line for line in reports) == updates
    assert reports
    assert ("evaluation steps" in printed and " mean " in printed) or not updates


def test_the_groups_of_tensorboard_are_those_of_the_page_and_returns_and_losses_come_first() -> None:
    assert sorted(tensorboard.GROUPS)[:2] == ["episode", "loss"]  # TensorBoard sorts groups, and opens the first two
    for group, listed in re.findall(r"^\| `(\w+)/` \| (.*) \|$", PAGE, flags=re.MULTILINE):
        keys = f"{tensorboard.GROUPS[group]} {tensorboard.IF_CHANGED.get(group, '')}".split()
        names = {tensorboard.NAMES.get(key, key) for key in keys}
        if group == "episode":
            names |= {*tensorboard.EVALUATION.values(), tensorboard.FINAL.partition("/")[2]}
            names |= {"return_mean", "recent_return", "length_mean", "episodes"}  # what four of the names stand for
        if group == "time":
            names |= {"seconds", "shares"}  # what two of the names stand for
        assert set(re.findall(r"`(\w+)`", listed)) == names, group
    curves = {
        key
        for groups in (tensorboard.GROUPS, tensorboard.IF_CHANGED)
        for keys in groups.values()
        for key in keys.split()
    }
    assert curves | tensorboard.NO_CURVES == {key.partition(".")[0] for key in keys_of("Reports")}
