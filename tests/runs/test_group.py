"""A folder of several runs: what was asked for, what has become of each, and the picture of those that are done."""

import json
from pathlib import Path
from typing import Any

import pytest

from troupe.config import UsageError
from troupe.runs.report import group
from troupe.runs.report.group import Member
from troupe.runs.store.summary import summary_of

MEMBERS = [Member("appo/seed1", "appo", 1), Member("appo/seed2", "appo", 2), Member("impala/seed1", "impala", 1)]
ASKED = {"env": "CartPole-v1", "steps": 200, "target": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    group.begin(tmp_path / "all", ASKED, MEMBERS)
    return tmp_path / "all"


def ran(run: Path, summary: dict[str, Any] | None = None, returns: float | None = 5.0) -> Path:
    """A run that has begun, and has ended if there is a summary."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_text("")
    row = {"kind": "report", "steps": 100, "seconds": 1.0, "episodes": 3, "return_mean": returns}
    (run / "metrics.jsonl").write_text(json.dumps(row))
    if summary is not None:
        (run / "summary.json").write_text(json.dumps(summary))
    return run


def done(run: Path, **more: Any) -> Path:
    return ran(run, {"outcome": "steps", "evaluation": {"mean_return": 5.0}}, **more)


def test_what_was_asked_for_is_kept_as_json_holds_it(folder):
    written = json.loads((folder / "series.json").read_text())
    assert written["asked"] == ASKED
    assert written["runs"] == [each._asdict() for each in MEMBERS]
    assert group.has_begun(folder)
    assert not group.has_begun(folder.parent)
    assert [each for each, _ in group.unfinished(folder)] == MEMBERS


def test_the_same_call_continues_and_may_add_runs_but_settings_stay(folder):
    ran(folder / "appo" / "seed1")
    group.begin(folder, ASKED | {"target": float("nan")}, [*MEMBERS, Member("impala/seed2", "impala", 2)])  # as null
    assert len(group.unfinished(folder)) == 4
    for asked, words in (
        (ASKED | {"steps": 300}, "steps = 200, not steps = 300: repeat"),
        (ASKED | {"seconds": 9}, "no seconds given, not seconds = 9: repeat"),
        ({"env": "CartPole-v1"}, "steps = 200, not no steps given: repeat"),
    ):
        with pytest.raises(UsageError, match=rf"^'{folder}' holds runs with {words}"):
            group.begin(folder, asked, MEMBERS)
    assert json.loads((folder / "series.json").read_text())["asked"] == ASKED


def test_folders_that_hold_something_else_are_refused(tmp_path):
    ran(tmp_path / "all" / "impala" / "seed1")
    with pytest.raises(UsageError, match=rf"^'{tmp_path}/all/impala/seed1' exists already; name another run_dir=$"):
        group.begin(tmp_path / "all", ASKED, MEMBERS)
    with pytest.raises(UsageError, match="already holds a run"):
        group.begin(ran(tmp_path / "run"), ASKED, MEMBERS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        group.begin(tmp_path / "file", ASKED, MEMBERS)
    with pytest.raises(UsageError, match=rf"^run directory '{tmp_path}/file/all' cannot be written: "):
        group.begin(tmp_path / "file" / "all", ASKED, MEMBERS)


@pytest.mark.parametrize(
    "content", ["[]", '{"asked": 3, "runs": []}', '{"asked": {}}', '{"asked": {}, "runs": [{"x": 1}]}']
)
def test_a_series_that_is_damaged_is_none(tmp_path, content):
    (tmp_path / "series.json").write_text(content)
    assert not group.has_begun(tmp_path)
    assert group.unfinished(tmp_path) == []
    assert group.draw(tmp_path, tmp_path / "out.png") == (False, [])


def test_a_series_without_a_run_is_forgotten_and_one_with_a_run_is_kept(folder):
    ran(folder / "appo" / "seed1")
    group.forget(folder)
    assert group.has_begun(folder)
    (folder / "appo" / "seed1" / "config.toml").unlink()
    group.forget(folder)
    assert not (folder / "series.json").exists()
    assert folder.exists()  # there is something in it
    group.begin(folder.parent / "other", ASKED, MEMBERS)
    group.forget(folder.parent / "other")
    assert not (folder.parent / "other").exists()


@pytest.mark.parametrize(
    ("summary", "state"),
    [
        ({"outcome": "solved", "evaluation": {"mean": 1}}, "done"),
        ({"outcome": "steps", "evaluation": {"mean": 1}}, "done"),
        ({"outcome": "time", "evaluation": {"mean": 1}}, "done"),
        ({"outcome": "solved", "evaluation": None}, "interrupted"),
        ({"outcome": "interrupted", "evaluation": {"mean": 1}}, "interrupted"),
        ({"outcome": "failed"}, "failed"),
        (None, "interrupted"),
    ],
)
def test_a_run_is_done_with_its_final_evaluation(tmp_path, summary, state):
    assert group.state_of(tmp_path / "run") == "not started"
    run = ran(tmp_path / "run", summary)
    assert group.state_of(run) == state
    assert summary_of(run).outcome == (summary or {}).get("outcome", "")


def test_runs_that_are_not_done_are_named_by_variant_and_state(folder):
    assert group.unfinished_words(folder) == "appo, seeds 1, 2 (not started); impala, seed 1 (not started)"
    done(folder / "appo" / "seed1")
    ran(folder / "appo" / "seed2")
    ran(folder / "impala" / "seed1", {"outcome": "failed"})
    assert group.unfinished_words(folder) == "appo, seed 2 (interrupted); impala, seed 1 (failed)"
    assert [(each.folder, state) for each, state in group.unfinished(folder)] == [
        ("appo/seed2", "interrupted"), ("impala/seed1", "failed"),
    ]  # fmt: skip
    for each in MEMBERS:
        done(folder / each.folder)
    assert group.unfinished_words(folder) == ""


def test_of_a_single_variant_only_the_seeds_are_named_and_of_many_parts_ten(tmp_path):
    group.begin(tmp_path / "one", {}, [Member(f"seed{seed}", "appo", seed) for seed in (3, 4)])
    assert group.unfinished_words(tmp_path / "one") == "seeds 3, 4 (not started)"
    for count, more in ((10, ""), (12, "; and 2 more")):
        folder = tmp_path / str(count)
        group.begin(folder, {}, [Member(f"{n}/seed0", str(n), 0) for n in range(count)])
        words = group.unfinished_words(folder)
        assert words == "; ".join(f"{n}, seed 0 (not started)" for n in range(10)) + more


@pytest.fixture
def drawn(monkeypatch) -> list[Any]:
    """What pictures would be drawn of."""
    calls: list[Any] = []
    monkeypatch.setattr(group, "plot_runs", lambda runs, out, **more: calls.append((list(runs), out, more)))
    return calls


def test_a_picture_is_of_the_runs_that_are_done_and_names_the_others(folder, drawn):
    done(folder / "appo" / "seed1")
    done(folder / "appo" / "seed2", returns=None)
    ran(folder / "impala" / "seed1")
    assert group.draw(folder, folder / "out.png") == (True, [MEMBERS[1]])
    note = "not drawn: impala, seed 1 (interrupted)"
    assert drawn == [([folder / "appo/seed1"], folder / "out.png", {"names": ["appo"], "note": note})]
    done(folder / "impala" / "seed1")
    assert group.draw(folder, folder / "out.png") == (True, [MEMBERS[1]])
    assert drawn[1][2] == {"names": ["appo", "impala"], "note": ""}
    done(folder / "appo" / "seed1", returns=None)
    done(folder / "impala" / "seed1", returns=None)
    assert group.draw(folder, folder / "out.png") == (False, MEMBERS)
    assert len(drawn) == 2


def test_the_picture_of_a_group_is_drawn_anew_where_there_is_one(folder, drawn, tmp_path):
    run = done(folder / "appo" / "seed1")
    group.redraw(run)
    assert drawn == []
    (folder / "comparison.png").touch()
    group.redraw(run)
    assert [(runs, out) for runs, out, _ in drawn] == [([run], folder / "comparison.png")]
    group.redraw(done(folder / "appo" / "other"))  # no run of it
    assert len(drawn) == 1
    seeds = tmp_path / "seeds"
    group.begin(seeds, {}, [Member("seed12", "appo", 12)])
    run = done(seeds / "seed12")
    (seeds / "learning.png").touch()
    group.redraw(run)
    assert drawn[1][:2] == ([run], seeds / "learning.png")


def test_the_picture_of_a_group_from_an_earlier_version_is_of_all_runs_that_have_one(drawn, tmp_path):
    for picture, folders in (("learning", ("seed2", "seed1")), ("comparison", ("b/seed1", "a/seed1"))):
        runs = [done(tmp_path / picture / each) for each in folders]
        for run in runs:
            (run / "plots").mkdir()
            (run / "plots" / "learning.png").touch()
        (tmp_path / picture / f"{picture}.png").touch()
        group.redraw(runs[0])
        assert drawn.pop()[:2] == (sorted(runs), tmp_path / picture / f"{picture}.png")
