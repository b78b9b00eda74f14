"""Nose and mouth."""

from __future__ import annotations

import numpy as np

from rgcluster.faces.canvas.canvas import Patch, oval, puff, rgb, smoothstep, soft
from rgcluster.faces.palette import LIPSTICKS, mix
from rgcluster.faces.scene import SIDES, Place, Scene

__all__ = ["mouth_place", "mouth_width", "paint_mouth", "paint_nose"]


def paint_nose(scene: Scene) -> None:
    """Paint bridge, wings, nostrils and tip."""
    has, identity = scene.has, scene.identity
    width = 6.6 * (1.08 if has["Male"] else 0.95)
    length = identity.nose_length
    if has["Big_Nose"]:
        width *= 1.60
        length += 1.5
    if has["Pointy_Nose"]:
        width *= 0.74
        length += 2.0
    root = scene.place(0, 2, 48)
    tip = scene.place(0, length, 57)
    _paint_bridge(scene, root, tip, width)
    _paint_nose_base(scene, tip, width)
    if has["Big_Nose"]:
        _paint_bulb(scene, tip, width)
    if has["Pointy_Nose"]:
        _paint_point(scene, tip)


def _paint_bridge(scene: Scene, root: Place, tip: Place, width: float) -> None:
    """One flank of the nose in shade, and a gleam along its ridge."""
    dark_side = -1 if scene.identity.light_x > 0 else 1
    length = tip.v - root.v
    patch = scene.patch((root.u + tip.u) / 2, root.v + length / 2, 22, length / 2 + 8)
    down = (patch.v + length / 2) * (1 / length)  # 0 at the root, 1 at the tip
    ridge = (tip.u - root.u) * (down - 0.5)
    spread = 2.8 + (width - 3.4) * np.maximum(down, 0) ** 2
    ends = smoothstep(down, -0.35, 0.1) * smoothstep(down, 1.2, 0.95)
    for side, depth in ((dark_side, 0.62), (-dark_side, 0.24)):
        flank = soft(np.abs(patch.u - ridge - side * spread) - 1.4, 3.2)
        patch.tint(flank * ends, rgb(160, 126, 114), depth)
    pointy = scene.has["Pointy_Nose"]
    gleam = soft(np.abs(patch.u - ridge) - (0.6 if pointy else 1.2), 1.6 if pointy else 2.4)
    bright = np.minimum(scene.skin * 1.22 + 0.04, 1)
    patch.blend(gleam * smoothstep(down, 0, 0.4) * smoothstep(down, 1.05, 0.9), bright, 0.45)


def _paint_nose_base(scene: Scene, tip: Place, width: float) -> None:
    u, v, _ = tip
    scene.shadow(u, v + 7, width * 1.7, 6.5, 0.50)
    scene.glow(u, v - 1.5, 0.55 * width + 1, 4.5, 0.55)
    for side in SIDES:
        wing = Place(u + side * width * 0.98, v + 0.5, 1.0)
        scene.stroke(wing, 4.2, 0.8, scene.skin * rgb(128, 92, 84), 0.62, tilt=side * 1.25, bend=-0.02)
        patch = scene.patch(u + side * width * 0.48, v + 3.4, width * 0.4 + 2, 4)
        patch.blend(oval(patch, width * 0.28, 1.35, 0.9), scene.skin * rgb(70, 42, 40), 0.85)


def _paint_bulb(scene: Scene, tip: Place, width: float) -> None:
    """The round, reddish tip and the flared wings of a big nose."""
    u, v, _ = tip
    patch = scene.patch(u, v - 1, width * 1.3, 9)
    patch.tint(puff(patch, width * 1.3, 9), rgb(255, 206, 196), 0.8)
    scene.glow(u, v - 2, 4.5, 4.5, 0.5)
    for side in SIDES:
        scene.shadow(u + side * width * 1.25, v + 1, 4.5, 7, 0.75)


def _paint_point(scene: Scene, tip: Place) -> None:
    """A narrow tip that overhangs, lit from above and casting a wedge of shadow."""
    u, v, _ = tip
    patch = scene.patch(u, v + 8, 9, 8)
    wedge = soft(np.abs(patch.u) - np.maximum(5.0 - patch.v, 0) * 0.7, 1.2) * smoothstep(patch.v, -4, -1)
    patch.tint(wedge, rgb(150, 110, 102), 0.6)
    patch = scene.patch(u, v + 3.5, 6, 6)
    patch.blend(oval(patch, 2.8, 4.0, 1.2), scene.skin * 0.98)
    scene.glow(u, v + 0.5, 3.0, 6.5, 0.75)


def mouth_place(scene: Scene) -> Place:
    """Where the middle of the mouth appears."""
    return scene.place(0, scene.identity.mouth_height, 50)


def mouth_width(scene: Scene) -> float:
    """Half the width of the mouth in pixels, before the turn of the head."""
    width = scene.identity.mouth_width
    if scene.has["Big_Lips"]:
        width *= 1.06
    return width * (1.28 if scene.has["Smiling"] else 1.0)


def _fullness(scene: Scene) -> float:
    has = scene.has
    fullness = 0.80 if has["Male"] else 1.12
    if has["Big_Lips"]:
        fullness *= 1.95
    return fullness if has["Young"] else fullness * 0.66


def _lip_colour(scene: Scene) -> np.ndarray:
    if scene.has["Wearing_Lipstick"]:
        return LIPSTICKS[scene.identity.lips]
    natural = scene.skin * (rgb(214, 150, 140) if scene.has["Male"] else rgb(216, 118, 122))
    return natural if scene.has["Young"] else mix(natural, scene.skin, 0.3)


def paint_mouth(scene: Scene) -> None:
    """Paint lips, teeth where the mouth is open, and the shadow below."""
    has = scene.has
    place = mouth_place(scene)
    width = mouth_width(scene) * place.squeeze
    fullness = _fullness(scene)
    gap = (7.0 if has["Smiling"] else 5.0) if has["Mouth_Slightly_Open"] else 0.0
    scene.shadow(place.u, place.v + 7.5 + 3.5 * fullness + 0.5 * gap, 13, 5.5, 0.42)

    patch = scene.patch(place.u, place.v, width + 4, 20)
    sideways = patch.u * (1 / width)
    arch = np.maximum(1 - sideways * sideways, 0)
    middle = -0.7 * sideways * sideways
    if has["Smiling"]:
        middle = 3.0 - 8.4 * sideways * sideways
    cupid = np.exp(-((sideways * (1 / 0.17)) ** 2)) * fullness
    upper_inner, lower_inner = middle - 0.42 * gap * arch, middle + 0.62 * gap * arch
    top = upper_inner - 3.5 * fullness * arch**0.75 + 0.9 * cupid
    bottom = lower_inner + 4.4 * fullness * arch**0.65
    _paint_lips(scene, patch, sideways, top, upper_inner, bottom)
    if gap:
        _paint_open_mouth(scene, patch, sideways, upper_inner, lower_inner)
    else:
        line = soft(np.abs(patch.v - middle) - 0.5, 0.8) * (np.abs(sideways) < 1)
        patch.blend(line, _lip_colour(scene) * 0.42, 0.85)
    _paint_corners(scene, place, width)


def _paint_lips(
    scene: Scene, patch: Patch, sideways: np.ndarray, top: np.ndarray, middle: np.ndarray, bottom: np.ndarray
) -> None:
    lips = soft(np.maximum(top - patch.v, patch.v - bottom), 0.9) * (np.abs(sideways) < 1)
    gleam = np.maximum(1 - ((patch.v - bottom) * 0.45 + 1.1) ** 2, 0) * (1 - np.abs(sideways))
    light = 0.80 + 0.20 * soft(middle - patch.v) + 0.22 * gleam
    strength = 0.96 if scene.has["Wearing_Lipstick"] else 0.80
    patch.blend(lips, _lip_colour(scene)[:, None, None] * light, strength)


def _paint_open_mouth(
    scene: Scene, patch: Patch, sideways: np.ndarray, top: np.ndarray, bottom: np.ndarray
) -> None:
    inside = soft(np.maximum(top - patch.v, patch.v - bottom), 0.7) * (np.abs(sideways) < 1)
    patch.blend(inside, rgb(62, 16, 20))
    reach = 0.68 if scene.has["Smiling"] else 0.42
    teeth = inside * soft(patch.v - top - (bottom - top) * reach, 0.6) * (np.abs(sideways) < 0.88)
    gaps = np.minimum(1.6 + 0.65 * np.sin(patch.u * 2.1), 1)
    patch.blend(teeth, rgb(246, 243, 236)[:, None, None] * gaps)


def _paint_corners(scene: Scene, place: Place, width: float) -> None:
    smiling = scene.has["Smiling"]
    for side in SIDES:
        u, v = place.u + side * width, place.v + (-5.4 if smiling else 0.3)
        scene.shadow(u, v, 4, 4, 0.6)
        if smiling:
            fold = Place(u + side * 3.5, v - 3, 1.0)
            scene.stroke(fold, 9, 1.2, scene.skin * rgb(150, 108, 100), 0.65, tilt=side * 1.25, softness=1.8)
            scene.shadow(u + side * 4, v - 1, 4.5, 8, 0.28)
