"""Images: what counts as one, and the convolutions that see it."""

import math
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeGuard

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from troupe.config import UsageError
from troupe.networks.layers import orthogonal, orthogonal_

_LEAST_PIXELS = 36  # in height and width, for Nature's convolutions
_LEAST_CELLS = 5  # in height and width, for small ones
_MOST_CHANNELS = 16
_MOST_SPAN = 65535  # between the bounds: 16 bits


class Layout(NamedTuple):
    """How an image lies in its array."""

    height: int
    width: int
    channels: int
    channel_axis: Literal["first", "last", "none"]


def layout(space: gym.Space[Any]) -> Layout | None:
    """Of images: a Box of height, width and at most sixteen channels (first or last) of bytes, of floats or of bools,
    or of bytes without channels. All of its numbers have the same bounds, which are finite, but for bytes, whose
    bounds may differ. None for everything else."""
    if not isinstance(space, gym.spaces.Box) or not (space.dtype == np.uint8 or _is_even(space)):
        return None
    shape = space.shape
    if len(shape) == 2 and space.dtype == np.uint8 and min(shape) >= _LEAST_PIXELS:
        return Layout(*shape, 1, "none")
    if len(shape) != 3:
        return None
    # Height and width are often the same; else the channels are fewest.
    last = shape[0] == shape[1] or (shape[1] != shape[2] and shape[2] <= shape[0])
    found = Layout(*shape, "last") if last else Layout(shape[1], shape[2], shape[0], "first")
    return found if found.channels <= _MOST_CHANNELS else None


def is_image(space: gym.Space[Any]) -> TypeGuard[gym.spaces.Box]:
    return layout(space) is not None


def convolutions_for(space: gym.Space[Any], asked: str) -> str:
    """The convolutions by which `network.encoder` = `asked` sees observations of `space`; empty where it sees a vector.

    Boards of a few cells that hold zeros and ones have small ones. Few bytes with other bounds are a vector, for they
    are as often codes (of MiniGrid's objects) as brightness, and a vector is normalised by what it holds.
    """
    lies = layout(space)
    if lies is None or asked == "flat":
        return ""
    if asked != "auto":
        return asked
    if min(lies.height, lies.width) >= _LEAST_PIXELS:
        return "nature"
    board = min(lies.height, lies.width) >= _LEAST_CELLS and _span(space) == 1
    return "small" if board else ""


def _is_even(space: gym.spaces.Box) -> bool:
    """Floats or bools that all have the same finite bounds."""
    if space.dtype is None or space.dtype.kind not in "fb" or not space.low.size:
        return False
    low, high = float(space.low.flat[0]), float(space.high.flat[0])
    same = bool((space.low == space.low.flat[0]).all() and (space.high == space.high.flat[0]).all())
    return same and 0 < high - low <= _MOST_SPAN


def _span(space: gym.Space[Any]) -> float:
    assert isinstance(space, gym.spaces.Box)
    return float(space.high.max()) - float(space.low.min()) or 1.0


class Images(nn.Module):
    """Convolutions and one hidden layer on images, however they lie: [N, H, W, C], [N, C, H, W] or [N, H, W] ->
    [N, features]. The least that their space allows is 0 to the convolutions, and the most is 1.

    Images whose channels come last are read where they lie: turned round they are what PyTorch calls
    channels_last, which is the order its convolutions are fastest in.
    """

    def __init__(self, space: gym.spaces.Box, kind: str):
        super().__init__()
        lies = layout(space)
        assert lies is not None
        self._channels = lies.channel_axis
        self._low = float(space.low.min())
        self.convolutions, self.features = CONVOLUTIONS[kind](lies.channels, _span(space))
        with torch.no_grad():
            try:
                flat = self.convolutions(torch.zeros(1, lies.channels, lies.height, lies.width)).numel()
            except RuntimeError:
                raise UsageError(
                    f"network.encoder = '{kind}': images of {lies.height} x {lies.width} are too small for it"
                ) from None
        self.hidden = orthogonal(flat, self.features, math.sqrt(2))

    def forward(self, obs: Shaped[Tensor, "N *shape"]) -> Float[Tensor, "N features"]:
        # bfloat16 holds bytes exactly; the division by 255 is done where it costs least, in the first weights.
        images = obs.to(torch.bfloat16 if torch.is_autocast_enabled(obs.device.type) else torch.float32)
        if self._low:
            images = images - self._low
        if self._channels == "last":
            images = images.permute(0, 3, 1, 2)
        elif self._channels == "none":
            images = images.unsqueeze(1)
        features: Tensor = self.hidden(self.convolutions(images).relu().flatten(1))
        return features.relu()


class FromPixels(nn.Conv2d):
    """A convolution on 0..span as if it were 0..1, whose filters sum to zero: it sees differences.

    Nearly all of a picture is the same everywhere and always. With filters that answer to that, the first hundred
    updates of Adam agree on little else, and leave most of them silent for good (docs/algorithms.md, Networks).
    """

    def __init__(self, span: float, inputs: int, outputs: int, size: int, stride: int = 1, padding: int = 0):
        super().__init__(inputs, outputs, size, stride, padding)
        self._scale = 1 / span

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        weight = self.weight.float()  # an actor's copy may be bfloat16, too coarse for a mean to be subtracted in
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) * self._scale
        if images.dtype == torch.bfloat16:
            weight = weight + (_rounded_to_sum_zero(weight.detach()) - weight.detach())
        return nn.functional.conv2d(images, weight.to(images.dtype), self.bias, self.stride, self.padding)


def _rounded_to_sum_zero(filters: Float[Tensor, "D C h w"]) -> Float[Tensor, "D C h w"]:
    """In bfloat16, each filter's smallest weight taking what rounding made of its sum, for it has the finest digits.

    Rounded one by one, they would answer to an even picture by up to a hundredth of their size, anew after each
    update, which is enough to switch on and off what a filter says of everything that does not move.
    """
    rounded = filters.bfloat16().float().flatten(1)
    smallest = rounded.abs().argmin(1, keepdim=True)
    rest = rounded.scatter(1, smallest, 0.0).sum(1, keepdim=True)
    return rounded.scatter(1, smallest, -rest).bfloat16().float().view_as(filters)


def _plain(first: nn.Conv2d, *following: nn.Conv2d) -> nn.Sequential:
    layers: list[nn.Module] = [orthogonal_(first)]
    for layer in following:
        layers += [nn.ReLU(), orthogonal_(layer)]
    return nn.Sequential(*layers)


def _a3c(channels: int, span: float) -> tuple[nn.Module, int]:
    """Mnih et al. 2016, section 5.1, which is the network of Mnih et al. 2013."""
    return _plain(FromPixels(span, channels, 16, 8, 4), nn.Conv2d(16, 32, 4, 2)), 256


def _nature(channels: int, span: float) -> tuple[nn.Module, int]:
    """Mnih et al. 2015, Human-level control through deep reinforcement learning."""
    return _plain(FromPixels(span, channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)), 512


def _impala(channels: int, span: float) -> tuple[nn.Module, int]:
    """The deep network of Espeholt et al. 2018, figure 3, without its LSTM."""
    depths = (16, 32, 32)
    first = FromPixels(span, channels, depths[0], 3, padding=1)
    following = [nn.Conv2d(inputs, depth, 3, padding=1) for inputs, depth in pairwise(depths)]
    sections = [
        nn.Sequential(orthogonal_(layer), nn.MaxPool2d(3, 2, padding=1), Residual(depth), Residual(depth))
        for layer, depth in zip((first, *following), depths, strict=True)
    ]
    return nn.Sequential(*sections), 256


def _small(channels: int, span: float) -> tuple[nn.Module, int]:
    """Young and Tian 2019, MinAtar: for boards of a few cells."""
    return _plain(FromPixels(span, channels, 16, 3, 1)), 128


CONVOLUTIONS = {"small": _small, "a3c": _a3c, "nature": _nature, "impala": _impala}


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, depth: int):
        super().__init__()
        self.first, self.second = (orthogonal_(nn.Conv2d(depth, depth, 3, padding=1)) for _ in range(2))

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        seen: Tensor = self.second(self.first(images.relu()).relu())
        return images + seen
