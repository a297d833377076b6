"""torch's own threads, of which each of ours has one: they spin at barriers and starve beside any other busy thread."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Here, and in the threads of ours that are started meanwhile, if they `apply_torch_threads`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def apply_torch_threads() -> None:
    """To be called first in a thread: what was set elsewhere holds in it from its first question or large operation on.

    Until then small products (2 to 16 rows) take all cores, and a hundred times as long where one is busy.
    """
    torch.get_num_threads()
