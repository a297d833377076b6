"""What render() gives, made into pictures of bytes that are all of one size."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from troupe.config import UsageError

Picture = UInt8[np.ndarray, "height width 3"]
_EXPECTED = "expected is an array of height x width x 3"


class Pictures:
    """Converts the frames of one environment, called `title` in errors.

    Bytes are taken as they are. Of other numbers the range decides: up to 1, bools included, they are scaled to 255;
    once one is above 1, all that follow are taken as 0 to 255 (16 bits unsigned: as 0 to 65,535). Grey becomes RGB, and
    transparency is left out. A frame of another size than the first is scaled to fit, with black bars where its
    proportions differ: a film and a window have one size.
    """

    def __init__(self, title: str):
        self._title = title
        self._unit = True  # nothing above 1 so far
        self._size: tuple[int, int] | None = None  # height and width of the first

    def __call__(self, frame: Any) -> Picture:
        """Raises UsageError, in one line, for what is no picture."""
        picture = self._to_bytes(self._to_rgb(frame))
        height, width = picture.shape[:2]
        self._size = self._size or (height, width)
        return picture if self._size == (height, width) else _fitted(picture, *self._size)

    def _to_rgb(self, frame: Any) -> np.ndarray:
        if frame is None:
            raise self._unfit("None")
        listed = isinstance(frame, list | tuple)
        try:
            array = np.asarray(frame)
        except ValueError:  # a list of frames of several sizes
            raise self._unfit(f"a {type(frame).__name__} of {len(frame)}") from None
        if array.dtype.kind not in "buif" and not listed:
            raise self._unfit(f"{type(frame).__name__} of type {array.dtype}")
        if array.ndim == 2:
            array = array[:, :, None]
        if array.dtype.kind not in "buif" or array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
            found = f"a {type(frame).__name__} of {len(frame)}" if listed else f"an array of shape {np.shape(frame)}"
            raise self._unfit(found)
        return array.repeat(3, axis=2) if array.shape[2] == 1 else array[:, :, :3]

    def _to_bytes(self, array: np.ndarray) -> Picture:
        if array.dtype == np.uint8:
            return array
        if array.dtype == np.uint16:
            return (array >> 8).astype(np.uint8)
        numbers = np.nan_to_num(array.astype(np.float64))
        self._unit = self._unit and bool(numbers.max() <= 1)
        scaled: Picture = (numbers * (255 if self._unit else 1)).round().clip(0, 255).astype(np.uint8)
        return scaled

    def _unfit(self, found: str) -> UsageError:
        return UsageError(f"{self._title} cannot be shown: its render() gave no picture but {found}; {_EXPECTED}")


def _fitted(picture: Picture, height: int, width: int) -> Picture:
    """Scaled to fit into height x width, in the middle of black."""
    from PIL import Image

    scale = min(height / picture.shape[0], width / picture.shape[1])
    down, across = (max(1, round(scale * side)) for side in picture.shape[:2])
    whole = np.zeros((height, width, 3), np.uint8)
    top, left = (height - down) // 2, (width - across) // 2
    whole[top : top + down, left : left + across] = np.asarray(Image.fromarray(picture).resize((across, down)))
    return whole
