"""From encoded bytes to a training image, and back to a picture."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from rgcluster.errors import DataError

__all__ = ["UNREADABLE", "UInt8Array", "decode_image", "encode_png", "grid", "prepare_image"]

UInt8Array = npt.NDArray[np.uint8]

UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for content that is no image; SyntaxError is its word for a broken PNG."""


def prepare_image(image: Image.Image, crop: int, size: int) -> UInt8Array:
    """Crop the centre (`crop` pixels, 0 or too large: the largest square), resize; uint8 [size, size, 3]."""
    image = image.convert("RGB")
    side = min(image.width, image.height, crop or max(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def decode_image(content: bytes, crop: int, size: int, name: str) -> UInt8Array:
    """Decode and prepare one encoded image; DataError names it where it cannot be read."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return prepare_image(image, crop, size)
    except UNREADABLE as error:
        raise DataError(f"{name}: not a readable image ({str(error).splitlines()[0]})") from None


def encode_png(image: UInt8Array) -> bytes:
    """Return `image` [h, w, 3] as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def grid(images: npt.NDArray[np.uint8], gap: int = 2) -> npt.NDArray[np.uint8]:
    """Return one picture of images [rows, columns, h, w, 3], with white gaps."""
    rows, columns, height, width, _ = images.shape
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = images[row, column]
    return sheet
