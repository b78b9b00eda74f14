"""Fits photos of any shape to the shape of training images."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np
from PIL import Image

from rgcluster.config import DataConfig
from rgcluster.data.fits import Fit
from rgcluster.data.images import UNREADABLE, UInt8Array, load_image, naming, prepare_image
from rgcluster.errors import DataError

__all__ = ["fit_image", "image_sizes", "read_fitted", "require_fitting_crop"]

FAR_LARGER = 3.0
"""Of an image whose shorter side is this many crops, the crop shows a ninth at most."""


def image_sizes(contents: Iterable[bytes | memoryview]) -> list[tuple[int, int]]:
    """Return width and height of the encoded images that can be opened, from their headers."""
    sizes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decoded
        for content in contents:
            with suppress(*UNREADABLE), Image.open(io.BytesIO(content)) as image:
                sizes.append(image.size)
    return sizes


def require_fitting_crop(sizes: Sequence[tuple[int, int]], crop: int, where: str, option: str) -> None:
    """Raise DataError where most images are so large that the centre crop would show a small part of them."""
    far = [size for size in sizes if crop and min(size) >= FAR_LARGER * crop]
    if 2 * len(far) > len(sizes):
        width, height = sorted(far)[len(far) // 2]
        raise DataError(
            f"{where}: most images are far larger than the crop of {crop} pixels, such as {width} x {height}: it would "
            f"keep a small part of each; {option} takes the largest square, or resize the images first"
        )


def read_fitted(content: bytes, data: DataConfig, fit: Fit, name: str) -> UInt8Array:
    """Decode and fit an encoded photo; DataError where it cannot be read."""
    with naming(name):
        return fit_image(load_image(content), data, fit)


def fit_image(image: Image.Image, data: DataConfig, fit: Fit) -> UInt8Array:
    """Return an RGB image of any shape as uint8 [size, size, 3]."""
    short, size = min(image.size), data.image_size
    if fit == "auto":
        fit = "crop" if data.crop and short < 1.5 * data.crop else "cover"
    if fit == "crop":
        return prepare_image(image, data.crop, size)
    if fit == "cover":
        return prepare_image(image, 0, size)
    if fit == "stretch":
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    over, under = (size - height) // 2, size - height - (size - height) // 2
    left, right = (size - width) // 2, size - width - (size - width) // 2
    return np.pad(pixels, ((over, under), (left, right), (0, 0)), mode="edge")
