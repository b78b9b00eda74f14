"""Fits photos of any shape to the shape of training images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rgcluster.config import DataConfig
from rgcluster.data.fits import Fit
from rgcluster.data.images import UInt8Array, load_image, naming, prepare_image

__all__ = ["fit_image", "read_fitted"]


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
