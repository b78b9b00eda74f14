"""The modes of fitting a photo. The command line imports this module, so it imports nothing heavy."""

from __future__ import annotations

from typing import Literal

__all__ = ["FITS", "Fit"]

Fit = Literal["auto", "crop", "cover", "contain", "stretch"]
FITS: dict[str, str] = {
    "auto": "`crop` for images of about the size of training images, else `cover`",
    "crop": "the centre crop of training, in pixels",
    "cover": "the largest centred square",
    "contain": "the whole image, padded to a square by repeating its edges",
    "stretch": "the whole image, resized to a square",
}
