"""A float image with a face's own coordinates, and the soft shapes painted on it.

Images are planes first, float32 [3, height, width] in 0..1: one mask then
multiplies long contiguous rows. Lengths are pixels. Face coordinates (u, v)
have their origin between the eyes, u to the right and v downwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["HEIGHT", "WIDTH", "Canvas", "Patch", "bell", "oval", "puff", "rgb", "soft", "smoothstep"]

HEIGHT, WIDTH = 218, 178
EYES_X, EYES_Y = 89.0, 111.0  # where CelebA's alignment puts the point between the eyes

_ROWS, _COLUMNS = (grid.astype(np.float32) + 0.5 for grid in np.mgrid[0:HEIGHT, 0:WIDTH])


def rgb(red: int, green: int, blue: int) -> np.ndarray:
    """Return a colour given in 0..255 as float32 [3] in 0..1."""
    return np.array([red, green, blue], np.float32) / np.float32(255)


def soft(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Turn a signed distance into a mask: 1 inside, 0 outside, linear over +-`width`."""
    mask = distance * (-0.5 / width)
    mask += 0.5
    np.maximum(mask, 0, out=mask)
    return np.minimum(mask, 1, out=mask)


def smoothstep(x: np.ndarray, start: float, end: float) -> np.ndarray:
    """Rise smoothly from 0 at `start` to 1 at `end`, which may be the smaller."""
    t = (x - start) * (1 / (end - start))
    np.maximum(t, 0, out=t)
    np.minimum(t, 1, out=t)
    return t * t * (3 - 2 * t)


def bell(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    """A bump of height 1 at `centre` that reaches 0 at `width` from it."""
    t = (x - centre) * (1 / width)
    t *= t
    t = np.maximum(1 - t, 0)
    return t * t


@dataclass
class Patch:
    """A rectangle of the canvas.

    `u`, `v` [height, width] are face coordinates relative to the patch's
    centre; `image` [3, height, width] is a view, so painting changes the canvas.
    """

    u: np.ndarray
    v: np.ndarray
    image: np.ndarray

    def blend(self, mask: np.ndarray, colour: np.ndarray, strength: float = 1.0) -> None:
        """Paint `colour`, [3] or [3, height, width], where `mask` is 1."""
        if strength != 1.0:
            mask = mask * strength
        difference = _as_planes(colour) - self.image
        difference *= mask
        self.image += difference

    def tint(self, mask: np.ndarray, factor: np.ndarray, strength: float = 1.0) -> None:
        """Multiply by `factor` [3] where `mask` is 1: a shadow or a glow."""
        self.image *= 1 + mask * ((_as_planes(factor) - 1) * strength)


def _as_planes(colour: np.ndarray) -> np.ndarray:
    return colour[:, None, None] if colour.ndim == 1 else colour


def _scaled_square_radius(patch: Patch, a: float, b: float, tilt: float) -> np.ndarray:
    u, v = patch.u, patch.v
    if tilt:
        c, s = math.cos(tilt), math.sin(tilt)
        u, v = c * u + s * v, c * v - s * u
    return (u * (1 / a)) ** 2 + (v * (1 / b)) ** 2


def oval(patch: Patch, a: float, b: float, width: float = 1.0, tilt: float = 0.0) -> np.ndarray:
    """Mask of an ellipse with half axes `a` and `b` about the patch's centre."""
    radius = np.sqrt(_scaled_square_radius(patch, a, b, tilt))
    return soft((radius - 1) * min(a, b), width)


def puff(patch: Patch, a: float, b: float, tilt: float = 0.0) -> np.ndarray:
    """Mask that fades smoothly from 1 at the patch's centre to 0 at an ellipse's rim."""
    inside = np.maximum(1 - _scaled_square_radius(patch, a, b, tilt), 0)
    return inside * inside


class Canvas:
    """The picture [3, 218, 178] and the face coordinates `u`, `v` [218, 178] of its pixels."""

    def __init__(self, roll: float, scale: float, shift_x: float, shift_y: float) -> None:
        """Turn the face by `roll` radians, scale it and move it by pixels from CelebA's place."""
        self._x, self._y = EYES_X + shift_x, EYES_Y + shift_y
        self._cos, self._sin, self._scale = math.cos(roll), math.sin(roll), scale
        c, s = self._cos / scale, self._sin / scale
        x, y = _COLUMNS - self._x, _ROWS - self._y
        self.u = c * x + s * y
        self.v = c * y - s * x
        self.image = np.empty((3, HEIGHT, WIDTH), np.float32)

    def whole(self) -> Patch:
        """The entire picture, in face coordinates."""
        return Patch(self.u, self.v, self.image)

    def region(self, window: tuple[slice, slice]) -> Patch:
        """The part of the picture in `window`, in face coordinates."""
        return Patch(self.u[window], self.v[window], self.image[:, *window])

    def window(self, u: float, v: float, half_width: float, half_height: float) -> tuple[slice, slice]:
        """Rows and columns that cover a rectangle given in face coordinates."""
        x = self._x + self._scale * (self._cos * u - self._sin * v)
        y = self._y + self._scale * (self._sin * u + self._cos * v)
        slant = abs(self._sin)
        reach_x = self._scale * (self._cos * half_width + slant * half_height) + 2
        reach_y = self._scale * (self._cos * half_height + slant * half_width) + 2
        return (
            slice(max(0, int(y - reach_y)), max(0, int(y + reach_y) + 1)),
            slice(max(0, int(x - reach_x)), max(0, int(x + reach_x) + 1)),
        )

    def patch(self, u: float, v: float, half_width: float, half_height: float) -> Patch:
        """The part of the picture that covers a rectangle about (`u`, `v`)."""
        window = self.window(u, v, half_width, half_height)
        return Patch(self.u[window] - u, self.v[window] - v, self.image[:, *window])
