"""A module's weights as one vector: published, pulled, updated and checked by single operations."""

from itertools import accumulate, pairwise
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from troupe.config import UsageError

M = TypeVar("M", bound=nn.Module)


class FlatWeights(Generic[M]):
    """Makes every parameter of `module` a view of `vector`, in the module's own order, followed by its float32 buffers,
    such as the running statistics of batch normalisation, which belong to the weights.

    Copying into the vector changes the module at once, so weights are copied by one memcpy and an optimizer step is a
    handful of operations, however many layers there are.
    """

    def __init__(self, module: M):
        self.module = module
        self.parameters = list(module.parameters())
        self.buffers = float_buffers(module)
        if not any(parameter.requires_grad for parameter in self.parameters):
            raise UsageError("network: it has no parameters that a gradient reaches, so there is nothing to learn")
        for name, parameter in module.named_parameters():
            if parameter.dtype != torch.float32:
                raise UsageError(f"network: parameter '{name}' is {parameter.dtype}; weights are kept in float32")
            if not torch.isfinite(parameter).all():
                raise UsageError(f"network: parameter '{name}' holds values that are not finite")
        self._tensors = [*self.parameters, *self.buffers]
        ends = accumulate((each.numel() for each in self._tensors), initial=0)
        self._slices = [slice(*bounds) for bounds in pairwise(ends)]
        self.vector = torch.empty(0)
        self.move_to(torch.cat([each.detach().reshape(-1) for each in self._tensors]))

    def move_to(self, vector: Float[Tensor, " P"]) -> None:
        """Makes parameters and buffers views of `vector`, whatever its values and its dtype."""
        self.vector = vector
        for each, part in zip(self._tensors, self._slices, strict=True):
            each.data = vector[part].view(each.shape)

    def slice_of(self, parameter: nn.Parameter) -> slice:
        """The slice of the vector that holds a parameter of the module."""
        return next(part for each, part in zip(self._tensors, self._slices, strict=True) if each is parameter)

    @property
    def fixed(self) -> list[slice]:
        """The slices that no gradient reaches: frozen parameters, and the buffers."""
        frozen = [self.slice_of(parameter) for parameter in self.parameters if not parameter.requires_grad]
        return [*frozen, self.running]

    @property
    def running(self) -> slice:
        """The slice of the buffers, which a forward pass in train mode may change."""
        return slice(len(self.vector) - sum(each.numel() for each in self.buffers), len(self.vector))

    def gradient(self, loss: Tensor) -> Float[Tensor, " P"]:
        """A new vector each time: nothing accumulates, and threads do not share `.grad`."""
        learned = [parameter for parameter in self.parameters if parameter.requires_grad]
        gradients = iter(torch.autograd.grad(loss, learned, materialize_grads=True))
        parts = [next(gradients) if each.requires_grad else torch.zeros_like(each) for each in self._tensors]
        return torch.cat([part.reshape(-1) for part in parts])

    def named(self, vector: Float[Tensor, " P"]) -> dict[str, Tensor]:
        return named(self.module, vector)


def named(module: nn.Module, vector: Float[Tensor, " P"]) -> dict[str, Tensor]:
    """A vector with the module's layout as tensors named as in its state_dict: a parameter that is used twice has two
    names."""
    tensors = [*module.parameters(), *float_buffers(module)]
    parts = torch.split(vector, [each.numel() for each in tensors])
    part_of = {id(each): part.view(each.shape) for each, part in zip(tensors, parts, strict=True)}
    return {name: part_of[id(each)] for name, each in module.state_dict(keep_vars=True).items() if id(each) in part_of}


def float_buffers(module: nn.Module) -> list[Tensor]:
    """The buffers that are kept in the vector, after the parameters."""
    return [buffer for buffer in module.buffers() if buffer.dtype == torch.float32]
