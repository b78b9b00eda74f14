"""State shared by the painters of the parts: canvas, person, colours, pose and shape of the head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rgcluster.faces.canvas.canvas import Canvas, Patch, puff, rgb, smoothstep, soft
from rgcluster.faces.canvas.polar import PolarField
from rgcluster.faces.canvas.texture import CLOUDS, GRAIN, SPECKLES, cut
from rgcluster.faces.identity import Identity
from rgcluster.faces.palette import hair_colour, mix, skin_colour

__all__ = ["SIDES", "Place", "Scene"]

SIDES = (-1, 1)
_FACE_DEPTH = 48.0
_SHADOW = np.array([0.62, 0.52, 0.49], np.float32)


class Place(NamedTuple):
    """Where a point of the face appears: face coordinates, and how much the turn narrows it."""

    u: float
    v: float
    squeeze: float


class Scene:
    """One portrait while it is painted."""

    def __init__(
        self, has: Mapping[str, bool], identity: Identity, dye: tuple[int, int, int] | None = None
    ) -> None:
        self.has = has
        self.identity = identity
        self.canvas = Canvas(identity.roll, identity.scale, identity.shift_x, identity.shift_y)
        self.polar = PolarField(self.canvas.u, self.canvas.v)
        self.skin = skin_colour(has, identity)
        self.hair = hair_colour(has, identity) if dye is None else rgb(*dye)
        self.brow = self.hair if has["Young"] else mix(self.hair, rgb(186, 184, 182), 0.55)
        self.clouds = cut(CLOUDS, identity.clouds_at)
        self.speckles = cut(SPECKLES, identity.speckles_at)
        self.grain = cut(GRAIN, identity.grain_at)

    def place(self, u: float, v: float, depth: float | None = None) -> Place:
        """Turn the head: where the point (`u`, `v`) of the face appears.

        `depth` in pixels towards the viewer defaults to the rounding of the face.
        """
        yaw, pitch = self.identity.yaw, self.identity.pitch
        if depth is None:
            depth = _FACE_DEPTH * math.sqrt(max(0.0, 1 - 0.9 * (u / _FACE_DEPTH) ** 2))
        bow = math.copysign(min(1.0, abs(u) / _FACE_DEPTH), u)
        return Place(
            u * math.cos(yaw) + (depth - 30) * math.sin(yaw) * 0.62,
            v + (depth - 38) * pitch * 0.5,
            max(0.35, math.cos(yaw) - 0.9 * bow * math.sin(yaw)),
        )

    def turned(self, points: np.ndarray) -> np.ndarray:
        """Turn the points [count, 2] of a curve around the head."""
        forward = smoothstep(points[:, 1], -60, 70)
        shift = math.sin(self.identity.yaw) * (4 + 6 * forward)
        return np.stack([points[:, 0] + shift, points[:, 1]], axis=1)

    def patch(self, u: float, v: float, half_width: float, half_height: float) -> Patch:
        """The part of the canvas that covers a rectangle about (`u`, `v`)."""
        return self.canvas.patch(u, v, half_width, half_height)

    def shadow(self, u: float, v: float, a: float, b: float, strength: float, tilt: float = 0.0) -> None:
        """Darken an ellipse, most at its centre, towards the warm colour of shaded skin."""
        patch = self.patch(u, v, *_reach(a, b, tilt))
        patch.tint(puff(patch, a, b, tilt), _SHADOW, strength)

    def glow(self, u: float, v: float, a: float, b: float, strength: float, tilt: float = 0.0) -> None:
        """Lighten an ellipse of skin, most at its centre."""
        patch = self.patch(u, v, *_reach(a, b, tilt))
        patch.blend(puff(patch, a, b, tilt), np.minimum(self.skin * 1.17 + 0.03, 1), strength)

    def stroke(
        self,
        place: Place,
        length: float,
        thickness: float,
        colour: np.ndarray,
        strength: float,
        *,
        bend: float = 0.0,
        tilt: float = 0.0,
        softness: float = 0.9,
    ) -> None:
        """Draw a line that tapers to both ends.

        `length` and `thickness` are halves in pixels; the line follows
        `bend` * x^2 and is turned by `tilt` radians, clockwise.
        """
        reach = length + abs(bend) * length * length + thickness + softness
        patch = self.patch(place.u, place.v, reach, reach if tilt else thickness + 3 + abs(bend) * length**2)
        c, s = math.cos(tilt), math.sin(tilt)
        u = patch.u * (1 / place.squeeze)
        along, across = (c * u + s * patch.v, c * patch.v - s * u) if tilt else (u, patch.v)
        taper = np.maximum(1 - (along * (1 / length)) ** 2, 0)
        distance = np.abs(across - bend * along * along) - thickness * np.sqrt(taper)
        patch.blend(soft(distance, softness) * np.minimum(taper * 4, 1), colour, strength)


def _reach(a: float, b: float, tilt: float) -> tuple[float, float]:
    """Half width and half height that hold an ellipse with half axes `a` and `b`."""
    return (max(a, b), max(a, b)) if tilt else (a, b)
