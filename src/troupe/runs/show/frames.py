"""What render() returns, converted to 8-bit RGB images of one size."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from troupe.config import UsageError

RGBImage = UInt8[np.ndarray, "height width 3"]
_EXPECTED = "expected an array of height x width x 3"


class FrameConverter:
    """Converts the frames of one environment, called `title` in errors.

    uint8 is taken as it is, uint16 as 0 to 65,535. For other types the range decides: up to 1 (bools included) they are
    scaled to 255; once a number is above 1, all following frames are taken as 0 to 255. Grey becomes RGB, and
    transparency is dropped. A frame of another size than the first is scaled to fit, with black bars if its proportions
    differ: a video and a window have one size.
    """

    def __init__(self, title: str):
        self._title = title
        self._unit_range = True  # nothing above 1 so far
        self._size: tuple[int, int] | None = None  # height and width of the first frame

    def __call__(self, frame: Any) -> RGBImage:
        """Raises UsageError, in one line, for anything that is not an image."""
        image = self._to_bytes(self._to_rgb(frame))
        height, width = image.shape[:2]
        self._size = self._size or (height, width)
        return image if self._size == (height, width) else _fitted(image, *self._size)

    def _to_rgb(self, frame: Any) -> np.ndarray:
        if frame is None:
            raise self._no_image("None")
        listed = isinstance(frame, list | tuple)
        found = f"a {type(frame).__name__} of {len(frame)}" if listed else ""
        try:
            array = np.asarray(frame)
        except ValueError:  # a list of frames of several sizes
            raise self._no_image(found) from None
        numeric = array.dtype.kind in "buif"
        if not numeric and not listed:
            raise self._no_image(f"{type(frame).__name__} of type {array.dtype}")
        if array.ndim == 2:
            array = array[:, :, None]
        if not numeric or array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
            raise self._no_image(found or f"an array of shape {np.shape(frame)}")
        return array.repeat(3, axis=2) if array.shape[2] == 1 else array[:, :, :3]

    def _to_bytes(self, array: np.ndarray) -> RGBImage:
        if array.dtype == np.uint8:
            return array
        if array.dtype == np.uint16:
            return (array >> 8).astype(np.uint8)
        numbers = np.nan_to_num(array.astype(np.float64))
        self._unit_range = self._unit_range and bool(numbers.max() <= 1)
        scaled: RGBImage = (numbers * (255 if self._unit_range else 1)).round().clip(0, 255).astype(np.uint8)
        return scaled

    def _no_image(self, found: str) -> UsageError:
        return UsageError(f"{self._title} cannot be shown: its render() returned {found}, not an image; {_EXPECTED}")


def _fitted(image: RGBImage, height: int, width: int) -> RGBImage:
    """Scaled to fit into height x width, centred on black."""
    from PIL import Image

    scale = min(height / image.shape[0], width / image.shape[1])
    rows, columns = (max(1, round(scale * side)) for side in image.shape[:2])
    fitted = np.zeros((height, width, 3), np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    fitted[top : top + rows, left : left + columns] = np.asarray(Image.fromarray(image).resize((columns, rows)))
    return fitted
