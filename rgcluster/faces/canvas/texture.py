"""Fixed noise, from which each face takes its own cut-out."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rgcluster.faces.canvas.canvas import HEIGHT, WIDTH

__all__ = ["NOISE_ROOM", "CLOUDS", "GRAIN", "SPECKLES", "cut", "strands_at"]

_SIDE = 512
_RNG = np.random.default_rng(20150727)

NOISE_ROOM = _SIDE - HEIGHT
"""Offsets into the noise lie in 0 .. NOISE_ROOM - 1."""


def _smooth_noise(cell: int) -> np.ndarray:
    """Noise in about 0..1 whose features are `cell` pixels wide, [512, 512]."""
    coarse = _RNG.random((_SIDE // cell + 3, _SIDE // cell + 3), dtype=np.float32)
    size = (coarse.shape[1] * cell, coarse.shape[0] * cell)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))[:_SIDE, :_SIDE].copy()


def _strands() -> np.ndarray:
    """Brightness about 0 along a line across the hair: fine strands on broad locks, [4096]."""
    fine = _RNG.random(_STRAND_COUNT) - 0.5
    locks = np.convolve(np.r_[fine[-8:], fine, fine[:8]], np.hanning(19)[1:-1], "valid")
    strands = 0.55 * fine + 0.7 * locks / np.abs(locks).max()
    steps = np.arange(_STRAND_COUNT * _STRAND_STEPS) / _STRAND_STEPS
    return np.interp(steps, np.arange(_STRAND_COUNT), strands, period=_STRAND_COUNT).astype(np.float32)


CLOUDS = _smooth_noise(26)
SPECKLES = _smooth_noise(3)
GRAIN = _RNG.random((_SIDE, _SIDE), dtype=np.float32)
_STRAND_COUNT = 1024
_STRAND_STEPS = 4  # table entries per strand
_STRAND_WIDTH = 0.45  # pixels
_STRANDS = _strands()


def cut(noise: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """A view of `noise` as large as the picture, [218, 178]."""
    row, column = offset
    return noise[row : row + HEIGHT, column : column + WIDTH]


def strands_at(across: np.ndarray) -> np.ndarray:
    """Brightness, about -0.6 .. 0.6, of the strands at the places `across` the hair, in pixels."""
    index = (across * (_STRAND_STEPS / _STRAND_WIDTH)).astype(np.intp)
    index &= _STRAND_COUNT * _STRAND_STEPS - 1
    return _STRANDS.take(index)
