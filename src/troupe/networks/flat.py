"""A module's weights as one vector: published, pulled, updated and checked by single operations."""

import math
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from troupe.config import UsageError

M = TypeVar("M", bound=nn.Module)


class FlatWeights(Generic[M]):
    """Makes every parameter of `module` a view of `vector`, in the module's own order, and after them its float32
    buffers, such as the running statistics of batch normalisation: whoever has the weights has those that belong to
    them.

    Copying a vector in changes the module at once, so weights travel as one memcpy and an optimizer
    step is a handful of operations, however many layers there are.
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
        self.vector = torch.empty(0)
        self.move_to(torch.cat([each.detach().reshape(-1) for each in (*self.parameters, *self.buffers)]))

    def move_to(self, vector: Float[Tensor, " P"]) -> None:
        """Makes parameters and buffers views of `vector`, whatever is in it and of whichever type it is."""
        self.vector, start = vector, 0
        for each in (*self.parameters, *self.buffers):
            end = start + math.prod(each.shape)
            each.data = vector[start:end].view(each.shape)
            start = end

    def slice_of(self, parameter: nn.Parameter) -> slice:
        """Where a parameter of the module lies in the vector."""
        start = 0
        for each in self.parameters:
            if each is parameter:
                return slice(start, start + each.numel())
            start += each.numel()
        raise KeyError("no parameter of this module")

    @property
    def fixed(self) -> list[slice]:
        """Where that lies which no gradient reaches: frozen parameters, and the buffers."""
        frozen = [self.slice_of(parameter) for parameter in self.parameters if not parameter.requires_grad]
        return [*frozen, self.running]

    @property
    def running(self) -> slice:
        """Where the buffers lie, which a pass in train mode may change."""
        return slice(len(self.vector) - sum(each.numel() for each in self.buffers), len(self.vector))

    def gradient(self, loss: Tensor) -> Float[Tensor, " P"]:
        """A new vector each time: nothing accumulates, and threads do not share `.grad`."""
        learned = [parameter for parameter in self.parameters if parameter.requires_grad]
        gradients = iter(torch.autograd.grad(loss, learned, materialize_grads=True))
        parts = [next(gradients) if each.requires_grad else torch.zeros_like(each) for each in self.parameters]
        return torch.cat([part.reshape(-1) for part in (*parts, *map(torch.zeros_like, self.buffers))])

    def named(self, vector: Float[Tensor, " P"]) -> dict[str, Tensor]:
        return named(self.module, vector)


def named(module: nn.Module, vector: Float[Tensor, " P"]) -> dict[str, Tensor]:
    """A vector of the module's layout cut into named tensors, as its state_dict names them: a parameter
    that is used in two places has two names."""
    flat = [*module.parameters(), *float_buffers(module)]
    parts = torch.split(vector, [each.numel() for each in flat])
    part_of = {id(each): part.view(each.shape) for each, part in zip(flat, parts, strict=True)}
    return {name: part_of[id(each)] for name, each in module.state_dict(keep_vars=True).items() if id(each) in part_of}


def float_buffers(module: nn.Module) -> list[Tensor]:
    """What of a module's buffers is kept in the vector, after the parameters."""
    return [buffer for buffer in module.buffers() if buffer.dtype == torch.float32]
