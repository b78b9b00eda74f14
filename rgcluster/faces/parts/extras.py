"""Earrings, glasses and hats."""

from __future__ import annotations

import numpy as np

from rgcluster.faces.canvas.canvas import oval, rgb, soft
from rgcluster.faces.canvas.polar import curve, mirrored
from rgcluster.faces.palette import WHITE
from rgcluster.faces.parts.head import light_on_head
from rgcluster.faces.scene import SIDES, Place, Scene

__all__ = ["paint_earrings", "paint_glasses", "paint_hat"]

_GOLD = rgb(252, 224, 130)
_FRAMES = [rgb(20, 20, 22), rgb(72, 42, 26), rgb(116, 116, 126), rgb(122, 22, 32)]
_HAT = [(0, 60), (52, 30), (59, -6), (58.5, -26), (54, -50), (43, -71), (25, -86), (0, -92)]


def paint_earrings(scene: Scene) -> None:
    """Hang a ring or a drop from every ear in sight, over the hair."""
    identity = scene.identity
    for side in SIDES:
        if side * identity.yaw > 0.33:
            continue
        u = side * 45 * identity.head_width * (1 - side * identity.yaw * 0.2)
        patch = scene.patch(u, 29, 9, 13)
        if identity.lips == 0:
            patch.blend(oval(patch, 3.4, 8.0), _GOLD * (0.95 if identity.hair_shade else 1.0))
        else:
            radius = np.sqrt(patch.u * patch.u + (0.8 * patch.v) ** 2)
            patch.blend(soft(np.abs(radius - 6.0) - 1.6), _GOLD)


def paint_glasses(scene: Scene) -> None:
    """Paint round or square glasses."""
    colour = _FRAMES[scene.identity.glasses]
    lenses = [scene.place(side * scene.identity.eye_distance, 1.0, 46) for side in SIDES]
    for side, lens in zip(SIDES, lenses, strict=True):
        _paint_lens(scene, lens, colour)
        _paint_bar(scene, lens.u + side * 14 * lens.squeeze, side * 46.0, lens.v - 3, colour)
    left, right = lenses
    _paint_bar(scene, left.u + 13 * left.squeeze, right.u - 13 * right.squeeze, left.v - 2.2, colour)


def _paint_lens(scene: Scene, lens: Place, colour: np.ndarray) -> None:
    patch = scene.patch(lens.u, lens.v, 19, 15)
    across, down = patch.u * (1 / (14.4 * lens.squeeze)), patch.v * (1 / 11.5)
    across *= across
    down *= down
    square = scene.identity.glasses % 2 == 0
    radius = np.sqrt(np.sqrt(across * across + down * down)) if square else np.sqrt(across + down)
    distance = (radius - 1) * 11.5
    thickness = 0.9 if scene.identity.glasses == 2 else 1.5
    glass = soft(distance)
    patch.blend(glass, WHITE, 0.08)
    patch.blend(soft(np.abs(patch.u * 0.7 + patch.v + 5) - 1.2, 1.2) * glass, WHITE, 0.25)
    patch.blend(soft(np.abs(distance) - thickness, 0.8), colour, 0.97)


def _paint_bar(scene: Scene, start: float, end: float, v: float, colour: np.ndarray) -> None:
    """A horizontal piece of the frame, given by its ends."""
    middle, half = (start + end) / 2, abs(end - start) / 2
    patch = scene.patch(middle, v, half + 1, 3)
    patch.blend(soft(np.maximum(np.abs(patch.v) - 1.1, np.abs(patch.u) - half), 0.8), colour, 0.95)


def paint_hat(scene: Scene) -> None:
    """Paint a knitted cap, a round hat or one with a wide brim; hair shows at the sides."""
    window = scene.canvas.window(0, -56, 90, 54)
    patch = scene.canvas.region(window)
    outside = scene.polar.distance(curve(scene.turned(mirrored(_HAT))), window)
    edge = -31 - 0.0012 * patch.u * patch.u
    colour = scene.identity.cloth[::-1] * 0.72 + 0.12
    light = 0.62 + 0.42 * light_on_head(scene, window) + 0.12 * (scene.clouds[window] - 0.5)
    patch.tint(soft(np.abs(patch.v - edge) - 4, 5) * soft(outside + 10, 3), WHITE * 0.6, 0.7)
    if scene.identity.hat == 0:
        light *= 0.96 + 0.10 * np.sin(patch.u * 1.1)
    crown = soft(outside, 1.2) * soft(patch.v - edge)
    patch.blend(crown, colour[:, None, None] * light)
    if scene.identity.hat == 0:
        cuff = soft(np.abs(patch.v - edge + 5) - 6, 0.9) * soft(outside - 2)
        patch.blend(cuff, colour[:, None, None] * light * 0.72)
    else:
        brim = 58.0 if scene.identity.hat == 1 else 80.0
        across, down = patch.u * (1 / brim), (patch.v - edge + 1) * (1 / 6)
        patch.blend(soft((np.sqrt(across * across + down * down) - 1) * 6), colour * 0.6)
