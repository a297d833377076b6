"""Limits torch to one intra-op thread per Python thread: more of them spin at barriers and slow each other down."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One torch thread here, and in the threads started inside that call `apply_torch_threads`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def apply_torch_threads() -> None:
    """Call first in a thread: only then does the number that another thread has set apply to it.

    Until then small products (2 to 16 rows) take all cores, and a hundred times as long where one is busy.
    """
    torch.get_num_threads()
