"""Checkpoints: written beside their place, flushed, then renamed; never unpickled.

checkpoints/<step>/
  model.safetensors      the weights as they were
  best.safetensors       the best weights so far, by evaluation: what `evaluate` and `watch` show
  optimizer.safetensors  the optimizer's statistics
  state.json             counters, clock, streams, spaces
  manifest.json          SHA-256 of each of these
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from troupe.config import UsageError

KEEP = 3


@dataclass(frozen=True)
class Checkpoint:
    model: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save(run: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Writes the checkpoint of `step`, whole or not at all, and removes all but the newest few."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    place, beside = folder / str(step), folder / f".{step}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        contents = {
            "model.safetensors": safetensors.torch.save(_plain(checkpoint.model)),
            "best.safetensors": safetensors.torch.save(_plain(checkpoint.best)),
            "optimizer.safetensors": safetensors.torch.save(_plain(checkpoint.optimizer)),
            "state.json": json.dumps(checkpoint.state, indent=2).encode(),
        }
        manifest = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        contents["manifest.json"] = json.dumps(manifest, indent=2).encode()
        for name, data in contents.items():
            write_durably(beside / name, data)
        _flush(beside)
        if place.exists():  # the same step again, after a resume: the old one goes only now
            shutil.rmtree(place)
        beside.rename(place)
        _flush(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    for old in _newest_first(run)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def load(run: Path, warn: Callable[[str], None]) -> Checkpoint:
    """The newest checkpoint that is whole; damaged ones are named through `warn`.

    Raises UsageError when `run` is no run directory or holds no whole checkpoint.
    """
    if not run.is_dir():
        raise UsageError(f"no run directory '{run}'")
    if not (run / "config.toml").is_file():
        raise UsageError(f"'{run}' is not a run directory: it has no config.toml")
    for place in _newest_first(run):
        try:
            return _read(place)
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            warn(f"checkpoint {place} is damaged ({error}); trying the one before it")
    raise UsageError(f"'{run}' holds no whole checkpoint")


def _read(place: Path) -> Checkpoint:
    manifest = json.loads((place / "manifest.json").read_bytes())
    data = {name: (place / name).read_bytes() for name in manifest}
    for name, digest in manifest.items():
        if hashlib.sha256(data[name]).hexdigest() != digest:
            raise ValueError(f"{name} is not what was written")
    return Checkpoint(
        model=safetensors.torch.load(data["model.safetensors"]),
        best=safetensors.torch.load(data["best.safetensors"]),
        optimizer=safetensors.torch.load(data["optimizer.safetensors"]),
        state=json.loads(data["state.json"]),
    )


def _newest_first(run: Path) -> list[Path]:
    folder = run / "checkpoints"
    places = [place for place in folder.iterdir() if place.name.isdigit()] if folder.is_dir() else []
    return sorted(places, key=lambda place: int(place.name), reverse=True)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
