"""Metrics of runs as one table: read_metrics and export-metrics."""

import csv
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import troupe
from troupe import UsageError
from troupe.config import resolve, to_toml


def report(steps: int, **more: Any) -> dict[str, Any]:
    return {"kind": "report", "wall": 1e9, "seconds": steps / 10, "steps": steps, "bottleneck": "", **more}


def evaluation(steps: int) -> dict[str, Any]:
    return {"kind": "evaluation", "purpose": "final", "wall": 1e9, "seconds": 1.0, "steps": steps, "mean": 2.5}


def write(run: Path, env: str, preset: str, seed: int, *rows: dict[str, Any]) -> Path:
    run.mkdir(parents=True)
    (run / "config.toml").write_text(to_toml(resolve(env, preset, {"seed": seed})))
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shares = {"shares": {"actor": {"env": 0.5}}}
    again = report(20, return_mean=1.0)  # what a resumed run repeats
    write(tmp_path / "runs/one", "CartPole-v1", "appo", 3, report(10, return_mean=None), again, again, evaluation(20))
    write(tmp_path / "runs/several/seed7", "Acrobot-v1", "impala", 7, report(5, bottleneck="actor: env", **shares))
    return tmp_path / "runs"


def test_a_folder_of_runs_is_one_table_with_their_environments_presets_and_seeds(folder):
    table = troupe.read_metrics(folder)
    assert list(table)[:4] == ["run", "environment", "preset", "seed"]
    assert {len(column) for column in table.values()} == {4}
    assert table["run"].tolist() == [str(folder / "one")] * 3 + [str(folder / "several" / "seed7")]
    assert table["environment"].tolist() == ["CartPole-v1"] * 3 + ["Acrobot-v1"]
    assert table["preset"].tolist() == ["appo"] * 3 + ["impala"]
    assert table["seed"].tolist() == [3, 3, 3, 7]
    assert table["steps"].dtype == np.int64
    assert table["bottleneck"].tolist() == ["", "", "", "actor: env"]
    np.testing.assert_array_equal(table["return_mean"], [np.nan, 1.0, 1.0, np.nan])
    np.testing.assert_array_equal(table["shares.actor.env"], [np.nan, np.nan, np.nan, 0.5])


def test_rows_of_other_kinds_and_runs_one_by_one(folder):
    several, one = folder / "several" / "seed7", folder / "one"
    assert troupe.read_metrics(several, one)["seed"].tolist() == [7, 3, 3, 3]
    assert troupe.read_metrics(one, kind="evaluation")["mean"].tolist() == [2.5]
    nothing = troupe.read_metrics(folder, kind="gap")
    assert {name: len(column) for name, column in nothing.items()} == dict.fromkeys(
        ["run", "environment", "preset", "seed"], 0
    )


def test_a_run_that_is_named_twice_is_in_it_once(folder):
    again = folder / "several" / ".." / "one"
    assert troupe.read_metrics(folder, folder / "one", again)["seed"].tolist() == [3, 3, 3, 7]


def test_what_a_resumed_run_repeated_is_in_it_once(tmp_path):
    run = write(tmp_path / "run", "CartPole-v1", "appo", 0, report(10), report(20), report(15), report(30))
    assert troupe.read_metrics(run)["steps"].tolist() == [10, 15, 30]


@pytest.mark.slow
def test_a_real_run_has_every_metric_of_its_last_row(tmp_path):
    run = troupe.train("CartPole-v1", steps=200, run_dir=tmp_path / "run", target="none", settings={
        "topology": "serial", "evaluation.final_episodes": 1, "evaluation.every_seconds": 0.0,
    })  # fmt: skip
    table = troupe.read_metrics(run)
    assert table["steps"][-1] == run.steps
    assert {"policy_loss", "numbers.actors", "bottleneck"} <= table.keys()


@pytest.mark.parametrize("frame", ["pandas", "polars"])
def test_data_frames(folder, frame):
    library = pytest.importorskip(frame)
    table = troupe.read_metrics(folder, frame=frame)
    assert isinstance(table, library.DataFrame)
    assert list(table["seed"]) == [3, 3, 3, 7]


def pretended(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A package that is installed, with no more in it than that."""
    module = ModuleType(name)
    vars(module).update(content, __spec__=ModuleSpec(name, None))
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("frame", ["pandas", "polars"])
def test_a_data_frame_is_made_of_the_columns(folder, frame, monkeypatch):
    pretended(monkeypatch, frame, DataFrame=lambda columns: [frame, *columns])
    assert troupe.read_metrics(folder, frame=frame) == [frame, *troupe.read_metrics(folder)]


@pytest.mark.parametrize("name", ["all.parquet", "all.Parquet"])
def test_a_parquet_file_has_the_columns_with_nothing_where_a_number_is_missing(folder, name, monkeypatch, run_command):
    def array(column: np.ndarray, *, from_pandas: bool) -> Any:
        assert from_pandas  # so that NaN is nothing
        return column.tolist()

    def write_table(table: dict[str, Any], file: Path) -> None:
        file.write_text(json.dumps(table["seed"]))

    parquet = ModuleType("parquet")
    parquet.write_table = write_table  # type: ignore[attr-defined]
    pretended(monkeypatch, "pyarrow", array=array, table=dict, parquet=parquet)
    assert run_command(f"export-metrics {folder} -o {folder}/{name}")[0] == 0
    assert json.loads((folder / name).read_text()) == [3, 3, 3, 7]


def test_export_as_csv(folder, run_command):
    file = folder / "all.csv"
    assert run_command(f"export-metrics {folder} -o {file}") == (0, f"wrote {file}: 4 rows\n", "")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["return_mean"] for row in rows] == ["", "1.0", "1.0", ""]
    assert [row["seed"] for row in rows] == ["3", "3", "3", "7"]
    assert run_command(f"export-metrics {folder} -o {file} --kind evaluation")[0] == 0
    assert file.read_text().count("\n") == 2


def test_export_as_parquet(folder, run_command):
    parquet = pytest.importorskip("pyarrow.parquet")
    file = folder / "all.parquet"
    assert run_command(f"export-metrics {folder} -o {file}")[0] == 0
    table = parquet.read_table(file)
    assert table["return_mean"].to_pylist() == [None, 1.0, 1.0, None]
    assert table["bottleneck"].to_pylist() == ["", "", "", "actor: env"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("FOLDER/nothing -o FOLDER/all.csv", "no folder 'FOLDER/nothing'"),
        ("FOLDER/empty -o FOLDER/all.csv", "'FOLDER/empty' is not a run directory and contains none"),
        ("FOLDER -o FOLDER/all.xls", "cannot write FOLDER/all.xls: its name must end in .csv or .parquet"),
        ("FOLDER -o FOLDER/none/all.csv", "cannot write FOLDER/none/all.csv: there is no folder FOLDER/none"),
        ("FOLDER -o FOLDER/all.csv --kind gap", "cannot write FOLDER/all.csv: no row of kind gap in FOLDER"),
        ("FOLDER -o FOLDER/all.csv --kind reports", "kind = 'reports': expected one of report, evaluation, collapse"),
    ],
)
def test_bad_input_is_one_line(folder, run_command, words, expected):
    (folder / "empty").mkdir()
    status, _, error = run_command(f"export-metrics {words}".replace("FOLDER", str(folder)))
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"troupe: {expected}".replace("FOLDER", str(folder)))
    assert not (folder / "all.csv").exists()


def test_missing_packages_and_unknown_frames_are_named(folder, monkeypatch, run_command):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    status, _, error = run_command(f"export-metrics {folder} -o {folder}/all.parquet")
    assert status == 2
    assert error.startswith("troupe: pyarrow is not installed: pip install 'pyarrow")
    with pytest.raises(UsageError, match="polars is not installed: pip install polars"):
        troupe.read_metrics(folder, frame="polars")
    with pytest.raises(UsageError, match=r"frame = 'panda': expected numpy, pandas or polars; did you mean pandas\?"):
        troupe.read_metrics(folder, frame="panda")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no runs to read"):
        troupe.read_metrics()
