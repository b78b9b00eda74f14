"""Beards of every kind."""

from __future__ import annotations

import numpy as np

from rgcluster.faces.canvas.canvas import Patch, rgb, smoothstep, soft
from rgcluster.faces.canvas.polar import Curve, curve, mirrored
from rgcluster.faces.canvas.texture import strands_at
from rgcluster.faces.parts.nose_mouth import mouth_place, mouth_width
from rgcluster.faces.scene import SIDES, Scene

__all__ = ["paint_beard"]

# Inside this curve the face is shaven; the mouth is cut out apart.
_CHEEKS = mirrored(
    [
        (0, 33), (9, 32.5), (15, 34.5), (21, 37), (27, 34), (33, 25), (37, 12), (38.5, 0),
        (60, -6), (50, -60), (0, -90),
    ]
)  # fmt: skip


def paint_beard(scene: Scene, head: Curve) -> None:
    """Paint the beard that the attributes specify.

    A full beard has no name of its own: it is a man's who neither has
    `No_Beard` nor any of the smaller kinds.
    """
    has = scene.has
    stubble, goatee, mustache = has["5_o_Clock_Shadow"], has["Goatee"], has["Mustache"]
    full = has["Male"] and not (has["No_Beard"] or stubble or goatee)
    if has["Sideburns"]:
        _paint_sideburns(scene, head)
    if not (stubble or goatee or mustache or full):
        return
    window = scene.canvas.window(0, 44, 56, 58)
    patch = scene.canvas.region(window)
    hairs = np.minimum(0.78 + 0.30 * scene.grain[window] + 0.3 * strands_at(patch.u + patch.v * 0.1), 1)
    bare_lips = 1 - _mouth_mask(scene, patch)
    if stubble:
        _paint_stubble(scene, patch, window, head, bare_lips)
    if full:
        _paint_full_beard(scene, patch, window, head, bare_lips * hairs)
    if goatee:
        _paint_goatee(scene, patch, bare_lips * hairs)
    if mustache:
        _paint_mustache(scene, patch, hairs)


def _hair(scene: Scene) -> np.ndarray:
    return scene.hair * (0.90 if scene.has["Gray_Hair"] else 0.84)


def _mouth_mask(scene: Scene, patch: Patch) -> np.ndarray:
    u, v, squeeze = mouth_place(scene)
    width = mouth_width(scene) * squeeze
    lift = 2.0 if scene.has["Smiling"] else 0.0
    across, down = (patch.u - u) * (1 / width), (patch.v - v - 1 + lift) * (1 / 6.5)
    return soft((np.sqrt(across * across + down * down) - 1) * 6.5, 2.0)


def _bearded(scene: Scene, window: tuple[slice, slice], head: Curve, length: float) -> np.ndarray:
    """Mask of the lower face outside the shaven cheeks, reaching `length` beyond the jaw."""
    shaven = curve(scene.turned(_CHEEKS))
    outside = scene.polar.distance(shaven, window)
    v = scene.canvas.v[window]
    beyond = length * smoothstep(v, 20, 62)
    return soft(-outside, 2.2) * soft(scene.polar.distance(head, window) - beyond, 1.4)


def _paint_stubble(
    scene: Scene, patch: Patch, window: tuple[slice, slice], head: Curve, bare_lips: np.ndarray
) -> None:
    mask = _bearded(scene, window, head, 0.0) * bare_lips
    colour = rgb(74, 70, 76) * (0.45 + 0.55 * float(scene.skin.mean()))
    patch.blend(mask * (0.50 + 0.50 * scene.grain[window]), colour, 0.68)


def _paint_full_beard(
    scene: Scene, patch: Patch, window: tuple[slice, slice], head: Curve, hairs: np.ndarray
) -> None:
    length = 2 + 6 * scene.identity.beard_length
    ragged = length + 3 * (scene.speckles[window] - 0.5)
    mask = _bearded(scene, window, head, 0.0)
    v = scene.canvas.v[window]
    fringe = soft(scene.polar.distance(head, window) - ragged, 1.4) * smoothstep(v, 40, 62)
    shaded = _hair(scene)[:, None, None] * (0.70 + 0.45 * scene.speckles[window] + 0.25 * strands_at(patch.u))
    patch.blend(np.maximum(mask, fringe) * hairs, shaded, 0.97)


def _paint_goatee(scene: Scene, patch: Patch, hairs: np.ndarray) -> None:
    """A tuft on the chin, joined to the mustache by a ring around the mouth."""
    u, v, squeeze = mouth_place(scene)
    across, down = patch.u - u, patch.v - v
    tuft = np.sqrt((across * (1 / (12 * squeeze))) ** 2 + ((down - 17) * (1 / 12)) ** 2)
    width = mouth_width(scene) * squeeze * 1.12
    ring = np.sqrt((across * (1 / width)) ** 2 + ((down - 1) * (1 / 12)) ** 2)
    mask = np.maximum(soft((tuft - 1) * 11, 1.6), soft(np.abs(ring - 1) * 11 - 2.4, 1.4) * (down > -5))
    patch.blend(mask * hairs, _hair(scene), 0.96)


def _paint_mustache(scene: Scene, patch: Patch, hairs: np.ndarray) -> None:
    u, v, squeeze = mouth_place(scene)
    across = patch.u - u
    length = 19 * squeeze
    taper = np.sqrt(np.maximum(1 - (across * (1 / length)) ** 2, 0))
    middle = v - 7 + 0.018 * across * across - (1.2 if scene.has["Smiling"] else 0.0)
    body = soft(np.abs(patch.v - middle) - 3.7 * taper, 1.0) * (taper > 0)
    parted = 1 - 0.5 * soft(np.abs(across) - 0.4, 0.8)
    patch.blend(body * parted * np.minimum(hairs + 0.15, 1), _hair(scene) * 0.95, 0.97)


def _paint_sideburns(scene: Scene, head: Curve) -> None:
    """Strips of hair before the ears, from the temple down to the jaw."""
    for side in SIDES:
        centre = scene.turned(np.array([[side * 39.0 * scene.identity.head_width, 14.0]]))[0]
        window = scene.canvas.window(float(centre[0]), 14, 12, 30)
        patch = scene.canvas.region(window)
        from_rim = scene.polar.distance(head, window)
        length = 36 + 3 * np.sin(patch.u * 1.1)
        strip = soft(np.abs(from_rim + 4.0) - 5.0, 1.4) * soft(patch.v - length, 2.5)
        strip *= soft(-24 - patch.v, 3.0) * (patch.u * side > 0)
        patch.blend(strip * (0.75 + 0.25 * scene.grain[window]), _hair(scene), 0.97)
