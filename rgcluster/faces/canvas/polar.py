"""Closed curves around the head, given by a few points and measured along rays from its centre.

A curve is a table of radii over the direction of the ray, so that the signed
distance of every pixel to any curve costs one look-up and one subtraction.
Directions are numbered along a diamond instead of a circle, which orders them
alike and needs no arcus tangent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["CENTRE_V", "Curve", "PolarField", "curve", "mirrored"]

CENTRE_V = 5.0  # the rays start this far below the eyes
_BINS = 1024
_SMOOTHING = np.hanning(45)[1:-1] / np.hanning(45).sum()
_BIN_CENTRES = (np.arange(_BINS) + 0.5) / _BINS * 4 - 2

Curve = np.ndarray
"""Radii in pixels, float32 [1024], by direction: down, left, up, right, down."""


def mirrored(right_half: Sequence[tuple[float, float]]) -> np.ndarray:
    """Complete the points (u, v) of a curve's right half by their mirror images, [count, 2]."""
    points = np.array(right_half, float)
    return np.concatenate([points, points[::-1] * (-1, 1)])


def curve(points: np.ndarray) -> Curve:
    """Lay a smooth closed curve through `points` [count, 2], face coordinates, in any order."""
    u, v = points[:, 0], points[:, 1] - CENTRE_V
    direction = (1 - v / (np.abs(u) + np.abs(v) + 1e-9)) * np.where(u < 0, -1, 1)
    radii = np.interp(_BIN_CENTRES, direction, np.hypot(u, v), period=4)
    reach = len(_SMOOTHING) // 2
    wrapped = np.concatenate([radii[-reach:], radii, radii[:reach]])
    return np.convolve(wrapped, _SMOOTHING, "valid").astype(np.float32)


class PolarField:
    """Radius and direction of every pixel, [218, 178] like the face coordinates it is made of."""

    def __init__(self, u: np.ndarray, v: np.ndarray) -> None:
        v = v - CENTRE_V
        self.radius = np.sqrt(u * u + v * v)
        direction = v / (np.abs(u) + np.abs(v) + 1e-6)
        np.subtract(1, direction, out=direction)
        np.copysign(direction, u, out=direction)
        direction += 2
        direction *= _BINS / 4
        self._bin = np.minimum(direction.astype(np.intp), _BINS - 1)

    def radii(self, of: Curve, window: tuple[slice, slice]) -> np.ndarray:
        """Radius of the curve in the direction of every pixel of `window`."""
        return of.take(self._bin[window])

    def distance(self, to: Curve, window: tuple[slice, slice]) -> np.ndarray:
        """Distance along the ray, negative inside the curve, of every pixel of `window`."""
        return self.radius[window] - self.radii(to, window)
