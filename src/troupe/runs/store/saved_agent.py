"""What an agent is loaded from: a run directory, one of its checkpoints, or a file that `Agent.save` wrote."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from torch import Tensor

from troupe import safe_files
from troupe.config import TrainConfig, UsageError, from_toml, reason, to_toml
from troupe.environments.packing import MaskSource
from troupe.environments.spaces import Space
from troupe.runs.store import checkpoint, tensors, weights
from troupe.runs.store.state import AgentState, of_json, to_json
from troupe.user_code.files import without_folder

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class SavedAgent:
    """Weights, and what the network is made from; `path` is the run directory, or the file."""

    path: Path
    config: TrainConfig
    weights: Mapping[str, Tensor]
    observation_space: Space
    action_space: Space
    masked: MaskSource
    custom_network: bool
    about: Mapping[str, str]  # the run it comes from


class _Saved(msgspec.Struct):
    config: str
    state: str
    about: str


class _Header(msgspec.Struct):
    """Of the file of an agent."""

    metadata: _Saved = msgspec.field(name="__metadata__")


def read(path: Path, warn: Callable[[str], None]) -> SavedAgent:
    """The best agent of a run directory, that of a checkpoint folder as it was at that step, or the agent of a file.
    Nothing is executed or unpickled.

    Damaged checkpoints of a run are reported to `warn`. Raises UsageError if `path` is none of these.
    """
    if path.suffix == SUFFIX and path.is_file():
        return _read_file(path)
    if checkpoint.is_checkpoint(path):
        run = path.parent.parent
        saved = checkpoint.load_one(path)
        weights = saved.model
    else:
        run, saved = path, checkpoint.load(path, warn)
        weights = saved.best
    config = checkpoint.read_config(run)
    return _of(run, config, weights, saved.state, origin(run, config))


def read_config(path: Path) -> TrainConfig:
    """The settings of the run that `path`, as `read` takes it, comes from."""
    if path.suffix == SUFFIX and path.is_file():
        return _read_file(path).config
    return checkpoint.read_config(path.parent.parent if checkpoint.is_checkpoint(path) else path)


def origin(run: Path, config: TrainConfig) -> dict[str, str]:
    """Where an agent comes from: the run's name, without its path."""
    return {"run": run.resolve().name, "environment": without_folder(config.env.id)}


def _of(
    path: Path, config: TrainConfig, weights: Mapping[str, Tensor], state: AgentState, about: Mapping[str, str]
) -> SavedAgent:
    spaces = state.observation_space, state.action_space
    return SavedAgent(path, config, weights, *spaces, state.masked, state.custom_network, about)


def write(file: Path, agent: SavedAgent) -> None:
    """Writes the agent as one file. Raises UsageError for a name that cannot be written, TroupeError for a failure."""
    state = AgentState(
        observation_space=agent.observation_space, action_space=agent.action_space, masked=agent.masked,
        custom_network=agent.custom_network,
    )  # fmt: skip
    about = json.dumps(dict(agent.about))
    metadata = {"config": to_toml(agent.config), "state": to_json(state).decode(), "about": about}
    data = tensors.save(checkpoint.plain(agent.weights), metadata)
    with safe_files.output_file(file, (SUFFIX,)) as unfinished, safe_files.writing(file):
        unfinished.write_bytes(data)


def _read_file(file: Path) -> SavedAgent:
    try:
        data = weights.read(file)
        header = msgspec.json.decode(tensors.header_of(data), type=_Header)
        saved = header.metadata
        about = msgspec.json.decode(saved.about, type=dict[str, str])
        state = of_json(saved.state, AgentState)
        return _of(file, from_toml(saved.config), tensors.load(data), state, about)
    except RecursionError:
        raise UsageError(f"'{file}' is not a file that Agent.save wrote: it is nested too deeply") from None
    except Exception as error:  # a file from a stranger may raise anything
        raise UsageError(f"'{file}' is not a file that Agent.save wrote, or is damaged: {reason(error)}") from None
