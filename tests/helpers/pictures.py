"""Reference pictures: committed after a person has looked at them; what is drawn later must look the same."""

from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent.parent / "data" / "pictures"
BLOCK = 2  # pixels to a side, of which the mean is kept: processors may round edges a little differently
TOLERANCE = 6  # of 255


def assert_looks_the_same(image: np.ndarray, name: str, written_to: Path) -> None:
    """As the reference picture NAME.png, which holds the mean of each block; the new one is written into a folder."""
    assert image.dtype == np.uint8
    height, width = (pixels - pixels % BLOCK for pixels in image.shape[:2])
    blocks = image[:height, :width, :3].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).mean(axis=(1, 3))
    new = blocks.round().astype(np.uint8)
    reference, written = FOLDER / f"{name}.png", written_to / f"{name}.png"
    Image.fromarray(new).save(written)
    advice = f"{written} differs from {reference}; if it is meant to, look at it and copy it there"
    assert reference.exists(), advice
    with Image.open(reference) as opened:
        old = np.asarray(opened)
    assert new.shape == old.shape, advice
    assert np.abs(new.astype(int) - old).max() <= TOLERANCE, advice
