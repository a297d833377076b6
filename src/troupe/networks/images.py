"""Image observations: which spaces are images, and their convolutional encoders."""

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

_MIN_PIXELS = 36  # height and width, for Nature's convolutions
_MIN_CELLS = 5  # height and width, for those of small boards
_MAX_CHANNELS = 16
_MAX_SPAN = 65535  # between the bounds: 16 bits


class Layout(NamedTuple):
    """The axes of an image."""

    height: int
    width: int
    channels: int
    channel_axis: Literal["first", "last", "none"]


def layout(space: gym.Space[Any]) -> Layout | None:
    """The layout of an image, None for any other space.

    An image is a Box of bytes, floats or bools with height, width and at most sixteen channels (first or last), or of
    bytes with height and width only. Floats and bools must all have the same finite bounds; bytes need not.
    """
    if not isinstance(space, gym.spaces.Box) or not (space.dtype == np.uint8 or _has_equal_bounds(space)):
        return None
    shape = space.shape
    if len(shape) == 2 and space.dtype == np.uint8 and min(shape) >= _MIN_PIXELS:
        return Layout(*shape, 1, "none")
    if len(shape) != 3:
        return None
    # Height and width are often equal; otherwise the channels are fewest.
    last = shape[0] == shape[1] or (shape[1] != shape[2] and shape[2] <= shape[0])
    found = Layout(*shape, "last") if last else Layout(shape[1], shape[2], shape[0], "first")
    return found if found.channels <= _MAX_CHANNELS else None


def is_image(space: gym.Space[Any]) -> TypeGuard[gym.spaces.Box]:
    return layout(space) is not None


def convolutions_for(space: gym.Space[Any], encoder: str) -> str:
    """The convolutions that `network.encoder` = `encoder` uses for `space`; "" where observations are a vector.

    With auto, small boards of zeros and ones get the small ones. Other small images of bytes are read as vectors: their
    bytes are as often codes (MiniGrid's objects) as brightness, and vectors are normalised by running statistics.
    """
    image = layout(space)
    if image is None or encoder == "flat":
        return ""
    if encoder != "auto":
        return encoder
    shorter = min(image.height, image.width)
    if shorter >= _MIN_PIXELS:
        return "nature"
    return "small" if shorter >= _MIN_CELLS and _span(space) == 1 else ""


def _has_equal_bounds(space: gym.spaces.Box) -> bool:
    """Whether it holds floats or bools that all have the same finite bounds."""
    if space.dtype is None or space.dtype.kind not in "fb" or not space.low.size:
        return False
    low, high = float(space.low.flat[0]), float(space.high.flat[0])
    return bool((space.low == low).all() and (space.high == high).all()) and 0 < high - low <= _MAX_SPAN


def _span(space: gym.Space[Any]) -> float:
    assert isinstance(space, gym.spaces.Box)
    return float(space.high.max()) - float(space.low.min()) or 1.0


class Images(nn.Module):
    """Convolutions and one hidden layer for images [N, H, W, C], [N, C, H, W] or [N, H, W] -> [N, features]. The bounds
    of the space are scaled to 0 and 1.

    Channels that come last are permuted, not copied: that is PyTorch's channels_last layout, the fastest one.
    """

    def __init__(self, space: gym.spaces.Box, kind: str):
        super().__init__()
        image = layout(space)
        assert image is not None
        self._channels = image.channel_axis
        self._low = float(space.low.min())
        self.convolutions, self.features = CONVOLUTIONS[kind](image.channels, _span(space))
        with torch.no_grad():
            try:
                flat = self.convolutions(torch.zeros(1, image.channels, image.height, image.width)).numel()
            except RuntimeError:
                raise UsageError(
                    f"network.encoder = '{kind}': images of {image.height} x {image.width} are too small for it"
                ) from None
        self.hidden = orthogonal(flat, self.features, math.sqrt(2))

    def forward(self, obs: Shaped[Tensor, "N *shape"]) -> Float[Tensor, "N features"]:
        # bfloat16 holds bytes exactly; the division by 255 is in the first layer's weights, where it is cheapest.
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
    """A convolution of images in 0..span, scaled to 0..1, whose filters sum to zero: they react to differences only.

    Most of an image is uniform and the same in every frame. If filters react to that, it dominates the gradients of the
    first hundred updates, and Adam's steps leave most filters dead (docs/algorithms.md, Networks).
    """

    def __init__(self, span: float, inputs: int, outputs: int, size: int, stride: int = 1, padding: int = 0):
        super().__init__(inputs, outputs, size, stride, padding)
        self._scale = 1 / span

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        weight = self.weight.float()  # an actor's copy may be bfloat16, too coarse to subtract a mean in
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) * self._scale
        if images.dtype == torch.bfloat16:
            weight = weight + (_rounded_to_sum_zero(weight.detach()) - weight.detach())
        return nn.functional.conv2d(images, weight.to(images.dtype), self.bias, self.stride, self.padding)


def _rounded_to_sum_zero(filters: Float[Tensor, "D C h w"]) -> Float[Tensor, "D C h w"]:
    """Rounded to bfloat16 with sums of zero: each filter's smallest weight, which has the finest resolution, absorbs
    the rounding errors of the others.

    Otherwise filters would react to a uniform image by up to a hundredth of their norm, differently after each update:
    enough to switch units on and off everywhere in the background.
    """
    rounded = filters.bfloat16().float().flatten(1)
    smallest = rounded.abs().argmin(1, keepdim=True)
    rest = rounded.scatter(1, smallest, 0.0).sum(1, keepdim=True)
    return rounded.scatter(1, smallest, -rest).bfloat16().float().view_as(filters)


def _with_relu(*layers: nn.Conv2d) -> nn.Sequential:
    """The layers with orthogonal weights, and ReLU between them."""
    parts = [part for layer in layers for part in (orthogonal_(layer), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def _a3c(channels: int, span: float) -> tuple[nn.Module, int]:
    """Mnih et al. 2016, section 5.1, which is the network of Mnih et al. 2013."""
    return _with_relu(FromPixels(span, channels, 16, 8, 4), nn.Conv2d(16, 32, 4, 2)), 256


def _nature(channels: int, span: float) -> tuple[nn.Module, int]:
    """Mnih et al. 2015, Human-level control through deep reinforcement learning."""
    return _with_relu(FromPixels(span, channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)), 512


def _impala(channels: int, span: float) -> tuple[nn.Module, int]:
    """The deep network of Espeholt et al. 2018, figure 3, without the LSTM, which their Atari agents do not have."""
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
    return _with_relu(FromPixels(span, channels, 16, 3, 1)), 128


CONVOLUTIONS = {"small": _small, "a3c": _a3c, "nature": _nature, "impala": _impala}


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, depth: int):
        super().__init__()
        self.first, self.second = (orthogonal_(nn.Conv2d(depth, depth, 3, padding=1)) for _ in range(2))

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        change: Tensor = self.second(self.first(images.relu()).relu())
        return images + change
