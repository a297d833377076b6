"""Checkpoints: written under another name, flushed, then renamed; never unpickled.

checkpoints/<step>/
  model.safetensors      the weights as they were
  best.safetensors       the best weights so far, by evaluation: what `evaluate` and `watch` show
  optimizer.safetensors  the optimizer's statistics
  state.json             counters, clock, spaces
  novelty.safetensors    of a run with exploration bonuses: each learner's predictor and its statistics
  streams.safetensors    of a serial run: random generators, and the unfinished episodes (docs/reproducibility.md)
  manifest.json          SHA-256 of each of these
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from torch import Tensor

from troupe import safe_files
from troupe.config import TrainConfig, TroupeError, UsageError, from_toml, one_line, reason
from troupe.runs.store import state, tensors, weights
from troupe.runs.store.directory import newest_first, runs_inside, step_of
from troupe.runs.store.state import State

T = TypeVar("T")
KEEP = 3
_STREAMS, _NOVELTY = "streams.safetensors", "novelty.safetensors"
_CONTENTS = ("model.safetensors", "best.safetensors", "optimizer.safetensors", "state.json")


class _Novelty(msgspec.Struct):
    learners: list[dict[str, Any]]


class _Nested(msgspec.Struct):
    nested: str


class _Header(msgspec.Struct):
    """Of a file of nested values."""

    metadata: _Nested = msgspec.field(name="__metadata__")


@dataclass(frozen=True)
class Checkpoint:
    model: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: State
    streams: Mapping[str, Any] | None = None  # nested: plain values and arrays, checked when they are restored
    novelty: Sequence[Mapping[str, Any]] = ()  # likewise, by learner


def save(run: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Writes the checkpoint of `step`, whole or not at all, and removes all but the newest few.

    Those of later steps are removed too: they are damaged, and a resumed run has started from an earlier one.
    """
    folder = safe_files.folder(run / "checkpoints")
    for unfinished in folder.glob(".*.partial"):  # of a run that was killed
        _remove(unfinished)
    path, beside, replaced = folder / str(step), folder / f".{step}.partial", folder / f"{step}.replaced"
    beside.mkdir()
    try:
        contents = {
            "model.safetensors": tensors.save(plain(checkpoint.model)),
            "best.safetensors": tensors.save(plain(checkpoint.best)),
            "optimizer.safetensors": tensors.save(plain(checkpoint.optimizer)),
            "state.json": state.to_json(checkpoint.state),
        }
        if checkpoint.streams is not None:
            contents[_STREAMS] = _packed(checkpoint.streams)
        if checkpoint.novelty:
            contents[_NOVELTY] = _packed({"learners": checkpoint.novelty})
        manifest = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        contents["manifest.json"] = json.dumps(manifest, indent=2).encode()
        for name, data in contents.items():
            write_durably(beside / name, data)
        _flush(beside)
        if path.exists():  # the same step again, after a resume
            _remove(replaced)
            path.rename(replaced)
        beside.rename(path)
        _flush(folder)
    except BaseException:
        _remove(beside)
        raise
    others = [other for other in newest_first(run) if other != path]
    earlier = [other for other in others if other != replaced and step_of(other) < step]
    for old in set(others) - set(earlier[: KEEP - 1]):
        _remove(old)
    return path


def _remove(path: Path) -> None:
    """Deletes a checkpoint and nothing else: directories without a manifest and unknown files stay."""
    if path.is_symlink() or not ((path / "manifest.json").is_file() or path.name.endswith(".partial")):
        return
    for name in (*_CONTENTS, _STREAMS, _NOVELTY, "manifest.json"):
        for file in (path / f".{name}.partial", path / name):
            with suppress(OSError):
                file.unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()


def load(run: Path, warn: Callable[[str], None]) -> Checkpoint:
    """The newest checkpoint that is whole; damaged ones are reported to `warn`.

    Raises UsageError if `run` is not a run directory or holds no whole checkpoint.
    """
    read_config(run)  # raises if this is not a run directory
    paths = newest_first(run)
    for path in paths:
        try:
            return load_one(path)
        except UsageError as error:
            warn(f"{error}{'' if path == paths[-1] else '; trying the one before it'}")
    raise UsageError(f"'{run}' holds no whole checkpoint")


def load_one(path: Path) -> Checkpoint:
    """The checkpoint in the folder `path`. Raises UsageError where it is damaged."""
    try:
        return _read(path)
    except RecursionError:
        raise UsageError(f"checkpoint {path} is damaged (nested too deeply)") from None
    except Exception as error:  # a file from a stranger may raise anything
        raise UsageError(f"checkpoint {path} is damaged ({reason(error)})") from None


def is_checkpoint(path: Path) -> bool:
    """Whether it is the folder of one checkpoint of a run."""
    return path.parent.name == "checkpoints" and (path / "manifest.json").is_file()


def read_config(run: Path) -> TrainConfig:
    """The run's settings. Raises UsageError, naming the file, where it is missing or damaged."""
    file = run / "config.toml"
    if not run.is_dir():
        raise UsageError(f"no run directory '{run}'")
    if is_checkpoint(run):
        raise UsageError(f"'{run}' is a checkpoint: name the run directory, {run.parent.parent}")
    if not file.is_file():
        raise UsageError(f"'{run}' is not a run directory: it has no config.toml{runs_inside(run)}")
    try:
        return from_toml(safe_files.read(file, safe_files.SETTINGS_BYTES).decode())
    except (OSError, ValueError, RecursionError, UsageError) as error:
        raise UsageError(f"{file} is damaged: {reason(error)}") from None


def _read(path: Path) -> Checkpoint:
    manifest: dict[str, str] = _parsed(
        "manifest.json", _bytes(path / "manifest.json"), partial(msgspec.json.decode, type=dict[str, str])
    )
    if set(manifest) - {_STREAMS, _NOVELTY} != set(_CONTENTS):
        raise TroupeError("manifest.json does not list the files of a checkpoint")
    data = {name: _bytes(path / name) for name in manifest}
    for name in manifest:
        if hashlib.sha256(data[name]).hexdigest() != manifest[name]:
            raise TroupeError(f"{name} does not match its hash")
    return Checkpoint(
        model=_weights(data, "model.safetensors"),
        best=_weights(data, "best.safetensors"),
        optimizer=tensors.load(data["optimizer.safetensors"]),
        state=_parsed("state.json", data["state.json"], partial(state.of_json, kind=State)),
        streams=msgspec.convert(_unpacked(data[_STREAMS]), dict[str, Any]) if _STREAMS in data else None,
        novelty=msgspec.convert(_unpacked(data[_NOVELTY]), _Novelty).learners if _NOVELTY in data else (),
    )


def _bytes(file: Path) -> bytes:
    try:
        return safe_files.read(file) if file.suffix == ".json" else weights.read(file)
    except OSError as error:
        raise TroupeError(f"{file.name}: {reason(error)}") from error
    except ValueError as error:  # too large
        raise TroupeError(str(error)) from error


def _parsed(name: str, data: bytes, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(data)
    except msgspec.ValidationError as error:
        raise TroupeError(f"{name}: {one_line(str(error))}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TroupeError(f"{name} is not valid JSON") from error


def _weights(data: Mapping[str, bytes], name: str) -> Mapping[str, Tensor]:
    found = tensors.load(data[name])
    for part, tensor in found.items():
        if tensor.isnan().any():
            raise TroupeError(f"{name} holds NaN in {part}")
    return found


def plain(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies as files take them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in parts.items()}


def _packed(nested: Mapping[str, Any]) -> bytes:
    """One file: the arrays by number, and everything else as JSON with a number in place of each."""
    arrays: dict[str, np.ndarray] = {}

    def without_arrays(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: without_arrays(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [without_arrays(item) for item in value]
        if hasattr(value, "__array__"):
            number = str(len(arrays))
            arrays[number] = np.asarray(value, order="C")
            return {"array": number}
        return value

    return tensors.save_arrays(arrays, {"nested": json.dumps(without_arrays(nested))})


def _unpacked(data: bytes) -> Any:
    header = msgspec.json.decode(tensors.header_of(data), type=_Header)
    arrays = tensors.load_arrays(data)

    def with_arrays(value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() != {"array"}:
                return {name: with_arrays(item) for name, item in value.items()}
            if (number := str(value["array"])) not in arrays:
                raise TroupeError(f"it lacks the array {number}")
            return arrays[number]
        return [with_arrays(item) for item in value] if isinstance(value, list) else value

    return with_arrays(json.loads(header.metadata.nested))


def write_durably(path: Path, data: bytes) -> None:
    """Writes the file whole or not at all: the old one stays until the new one is on the disk."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        with safe_files.create(beside) as file:
            left = memoryview(data)
            while left:  # a disk that is nearly full may write a part only
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _flush(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
