"""Metrics of runs as one table: for NumPy, pandas and polars, and as a CSV or Parquet file."""

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from troupe.config import UsageError, checked, did_you_mean
from troupe.extras import need
from troupe.runs.report.curves import flat, read_rows
from troupe.runs.report.labels import read_settings
from troupe.safe_files import output_file, writing

Kind = Literal["report", "evaluation", "collapse", "gap", "resume"]
KINDS = get_args(Kind)
FORMATS = (".csv", ".parquet")
_ABOUT = ("run", "environment", "preset", "seed")  # the first columns


@checked
def read_metrics(
    *runs: str | os.PathLike[str], kind: Kind = "report", frame: Literal["numpy", "pandas", "polars"] = "numpy"
) -> Any:
    """The rows of `kind` (docs/metrics.md) of run directories, or of all runs in folders of them, as columns.

    A dict of NumPy arrays, or a DataFrame of pandas or polars where `frame` asks for one. The first columns are `run`,
    `environment`, `preset` and `seed`, the others metrics by the names of docs/metrics.md ("shares.actor.env"); NaN or
    "" stands for what a row does not have. What a resumed run repeated is in it once. Raises UsageError where there are
    no runs, or the package is missing.
    """
    if frame not in ("numpy", "pandas", "polars"):
        raise UsageError(f"frame = {frame!r}: expected numpy, pandas or polars{did_you_mean(str(frame), _FRAMES)}")
    if kind not in KINDS:
        raise UsageError(f"kind = {kind!r}: expected one of {', '.join(KINDS)}{did_you_mean(str(kind), KINDS)}")
    if not runs:
        raise UsageError("no runs to read: name at least one run directory or folder of runs")
    found: dict[Path, Path] = {}  # each run once, as it was first named
    for run in (run for folder in runs for run in runs_in(Path(folder))):
        found.setdefault(run.resolve(), run)
    rows = [row for run in found.values() for row in _rows(run, kind)]
    names = dict.fromkeys([*_ABOUT, *(name for row in rows for name in row)])
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    if frame == "pandas":
        need("pandas")
        import pandas

        return pandas.DataFrame(columns)
    if frame == "polars":
        need("polars")
        import polars

        return polars.DataFrame(columns)
    return columns


_FRAMES = ("numpy", "pandas", "polars")


def write_metrics(runs: list[Path], file: Path, kind: Kind) -> int:
    """Writes them as FILE.csv or FILE.parquet; returns the number of rows. Raises UsageError and TroupeError."""
    if file.suffix.lower() == ".parquet":
        need("parquet")
    with output_file(file, FORMATS) as unfinished:
        columns = read_metrics(*runs, kind=kind)
        if not len(columns["run"]):
            raise UsageError(f"cannot write {file}: no row of kind {kind} in {', '.join(map(str, runs))}")
        with writing(file):
            if file.suffix.lower() == ".parquet":
                import pyarrow
                from pyarrow import parquet

                arrays = {name: pyarrow.array(column, from_pandas=True) for name, column in columns.items()}
                parquet.write_table(pyarrow.table(arrays), unfinished)
            else:
                _write_csv(columns, unfinished)
    return len(columns["run"])


def runs_in(folder: Path) -> list[Path]:
    """The folder itself if it is a run directory, else all run directories below it. Raises UsageError if there are
    none."""
    found = []
    for path, folders, files in os.walk(folder):
        if "metrics.jsonl" in files:
            found.append(Path(path))
            folders.clear()
    if not found:
        raise UsageError(
            f"'{folder}' is not a run directory and contains none" if folder.is_dir() else f"no folder '{folder}'"
        )
    return sorted(found)


def _rows(run: Path, kind: Kind) -> Iterator[dict[str, Any]]:
    settings = read_settings(run)
    values = str(run), settings.get("env.id", ""), settings.get("preset", ""), settings.get("seed", -1)
    about = dict(zip(_ABOUT, values, strict=True))
    for row in read_rows(run):
        if row.get("kind") == kind:
            yield about | dict(flat({name: value for name, value in row.items() if name != "kind"}))


def _column(values: list[Any]) -> np.ndarray:
    """Integers if all values are, text if any is, floats otherwise."""
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values])
    if all(type(value) is int for value in values):
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _write_csv(columns: Mapping[str, np.ndarray], file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(columns)
        for row in zip(*(column.tolist() for column in columns.values()), strict=True):
            writer.writerow(["" if value != value else value for value in row])
