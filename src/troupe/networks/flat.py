"""A module's weights as one vector: published, pulled, updated and checked by single operations."""

import math
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from troupe.config import UsageError

M = TypeVar("M", bound=nn.Module)


class FlatWeights(Generic[M]):
    """Makes every parameter of `module` a view of `vector`, in the module's own order.

    Copying a vector in changes the module at once, so weights travel as one memcpy and an optimizer
    step is a handful of operations, however many layers there are. `buffers` (running statistics)
    have types of their own and travel beside it.
    """

    def __init__(self, module: M):
        self.module = module
        self.parameters = list(module.parameters())
        self.buffers = list(module.buffers())
        if not any(parameter.requires_grad for parameter in self.parameters):
            raise UsageError("network: it has no parameters that a gradient reaches, so there is nothing to learn")
        for name, parameter in module.named_parameters():
            if parameter.dtype != torch.float32:
                raise UsageError(f"network: parameter '{name}' is {parameter.dtype}; weights are kept in float32")
            if not torch.isfinite(parameter).all():
                raise UsageError(f"network: parameter '{name}' holds values that are not finite")
        self.vector = torch.empty(0)
        self.move_to(torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters]))

    def move_to(self, vector: Float[Tensor, " P"]) -> None:
        """Makes the parameters views of `vector`, whatever is in it and of whichever type it is."""
        self.vector, start = vector, 0
        for parameter in self.parameters:
            end = start + math.prod(parameter.shape)
            parameter.data = vector[start:end].view(parameter.shape)
            start = end

    def place(self, parameter: nn.Parameter) -> slice:
        """Where a parameter of the module lies in the vector."""
        start = 0
        for each in self.parameters:
            if each is parameter:
                return slice(start, start + each.numel())
            start += each.numel()
        raise KeyError("no parameter of this module")

    @property
    def fixed(self) -> list[slice]:
        """Where those parameters lie that no gradient reaches."""
        return [self.place(parameter) for parameter in self.parameters if not parameter.requires_grad]

    def gradient(self, loss: Tensor) -> Float[Tensor, " P"]:
        """A new vector each time: nothing accumulates, and threads do not share `.grad`."""
        learned = [parameter for parameter in self.parameters if parameter.requires_grad]
        gradients = iter(torch.autograd.grad(loss, learned, materialize_grads=True))
        parts = [next(gradients) if each.requires_grad else torch.zeros_like(each) for each in self.parameters]
        return torch.cat([part.reshape(-1) for part in parts])

    def named(self, vector: Float[Tensor, " P"]) -> dict[str, Tensor]:
        return named(self.module, vector)


def named(module: nn.Module, vector: Float[Tensor, " P"]) -> dict[str, Tensor]:
    """A vector of the module's layout cut into named tensors, as its state_dict names them: a parameter
    that is used in two places has two names."""
    parameters = list(module.parameters())
    parts = torch.split(vector, [parameter.numel() for parameter in parameters])
    part_of = {id(parameter): part for parameter, part in zip(parameters, parts, strict=True)}
    return {
        name: part_of[id(parameter)].view(parameter.shape)
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }
