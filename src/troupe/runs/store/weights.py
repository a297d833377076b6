"""Weights in files, which may come from a stranger: no more is read than they hold, and no more is made than fits."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from troupe import safe_files
from troupe.config import UsageError
from troupe.networks.actor_critic import ActorCritic
from troupe.runs.store import tensors

_MOST_ADDED = 2**16  # numbers of what earlier versions did not have, and `load_state_dict` may fill in


def read(file: Path) -> bytes:
    """The content of a safetensors file, as large as its header says. Raises OSError and ValueError for others."""
    with safe_files.open_to_read(file) as opened:
        size = int.from_bytes(opened.read(8), "little")
        try:
            header = msgspec.json.decode(opened.read(min(size, tensors.HEADER_BYTES)), type=dict[str, tensors.Entry])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise ValueError(f"{file.name} does not begin as a safetensors file") from None
    held = 8 + size + max((entry.data_offsets[1] for entry in header.values()), default=0)
    return safe_files.read(file, min(held, safe_files.WEIGHTS_BYTES))


def check_sizes(run: Path, weights: Mapping[str, Tensor], make: Callable[[], ActorCritic]) -> None:
    """Raises UsageError if the weights of `run` are not those of the network that `make` makes, which takes no memory
    here: the settings may ask for one that is larger than the machine."""
    with torch.device("meta"):
        expected = make().state_dict()
    for name, tensor in expected.items():
        if name in weights and weights[name].shape != tensor.shape:
            raise _unfit(run, f"{name} is {list(weights[name].shape)}, and not {list(tensor.shape)}")
        if name not in weights and tensor.numel() > _MOST_ADDED:
            raise _unfit(run, f"{name} is missing")


def put(run: Path, weights: Mapping[str, Tensor], network: ActorCritic) -> None:
    """Puts the weights of `run` into the network; raises UsageError where they do not fit."""
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise _unfit(run, str(error).splitlines()[-1].strip()) from None


def _unfit(run: Path, why: str) -> UsageError:
    return UsageError(f"the weights of '{run}' do not fit the network: {why}")
