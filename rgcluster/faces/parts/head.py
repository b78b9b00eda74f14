"""Outline of the head, its skin under the light, ears and the forms of the cheeks."""

from __future__ import annotations

import math

import numpy as np

from rgcluster.faces.canvas.canvas import Patch, bell, oval, puff, rgb, smoothstep, soft
from rgcluster.faces.canvas.polar import CENTRE_V, Curve, curve, mirrored
from rgcluster.faces.scene import SIDES, Scene

__all__ = ["head_curve", "light_on_head", "paint_ears", "paint_face"]

_WOMAN = mirrored(
    [
        (0, 71), (9, 70), (17, 66.5), (24, 60), (31, 50), (36.5, 38), (40.5, 24), (42.5, 6),
        (42.5, -14), (41.5, -30), (37.5, -47), (28.5, -61), (15, -70), (0, -73),
    ]
)  # fmt: skip
_MAN = mirrored(
    [
        (0, 75.5), (11, 74.5), (20, 71), (28, 63.5), (35, 52), (39.5, 38), (42.5, 24), (44, 6),
        (44, -14), (42.5, -30), (38.5, -48), (29.5, -62), (15, -71), (0, -74),
    ]
)  # fmt: skip


def head_curve(scene: Scene) -> Curve:
    """Outline of the face and skull, with neither ears nor hair."""
    has, identity = scene.has, scene.identity
    points = (_MAN if has["Male"] else _WOMAN).copy()
    u, v = points[:, 0], points[:, 1]  # views
    height = v.copy()
    if has["Chubby"]:
        u *= 1 + 0.19 * bell(height, 46, 52)
        v += 2.0 * bell(height, 72, 30)
    if has["Oval_Face"]:
        u *= 1 - 0.085 * bell(height, 50, 60)
        v *= 1 + 0.05 * bell(height, 74, 40)
    if not has["Young"]:
        u *= 1 + 0.085 * bell(height, 58, 22)  # jowls
    u *= identity.head_width
    v *= np.where(v > 0, identity.head_length, 1.0)
    return curve(scene.turned(points))


def light_on_head(scene: Scene, window: tuple[slice, slice]) -> np.ndarray:
    """Brightness of a ball in the head's place, about 0.6 .. 1.1, [height, width] of `window`."""
    identity = scene.identity
    across = scene.canvas.u[window] * (1 / 56) + 0.3 * identity.yaw
    down = (scene.canvas.v[window] - CENTRE_V) * (1 / 92)
    towards = np.sqrt(np.maximum(1 - across * across - down * down, 0.03))
    lit = across * identity.light_x + down * identity.light_y + towards * 0.82 + 0.1
    return identity.ambient + (1.0 - identity.ambient) * np.minimum(np.maximum(lit, 0), 1.15)


def paint_ears(scene: Scene) -> None:
    """Paint the ears that the turn of the head leaves in sight."""
    identity = scene.identity
    for side in SIDES:
        if side * identity.yaw > 0.33:
            continue
        u = side * 44.5 * identity.head_width * (1 - side * identity.yaw * 0.2)
        patch = scene.patch(u, 8, 9, 15)
        patch.blend(oval(patch, 6.0, 11.5, tilt=side * 0.15), scene.skin * 0.86)
        patch.blend(puff(patch, 4.4, 9.0, side * 0.15), scene.skin * rgb(150, 112, 100), 0.9)


def paint_face(scene: Scene, head: Curve) -> None:
    """Paint the skin of the head with its light, blemishes, blush, cheekbones and chin."""
    window = scene.canvas.window(0, CENTRE_V, 62, 92)
    patch = scene.canvas.region(window)
    distance = scene.polar.distance(head, window)
    if scene.has["Double_Chin"]:
        _paint_double_chin(scene, head)
    patch.blend(soft(distance, 0.9), _skin(scene, window, distance))
    _paint_blemishes(scene)
    _paint_forms(scene)
    _paint_blush(scene)
    if scene.has["High_Cheekbones"]:
        _paint_cheekbones(scene)


def _skin(scene: Scene, window: tuple[slice, slice], distance: np.ndarray) -> np.ndarray:
    """Lit and mottled skin, [3, height, width]; its rim is darker since it turns away."""
    has = scene.has
    light = light_on_head(scene, window)
    light *= 1 - 0.20 * smoothstep(distance, -15, 1)
    roughness = 0.02 if has["Attractive"] else 0.05
    light *= 1 + roughness * (scene.speckles[window] - 0.5)
    shade = np.maximum(1 - light, 0)
    planes = np.stack([light, light - 0.10 * shade, light - 0.16 * shade])
    if has["Young"]:
        planes *= 1 + 0.05 * (scene.clouds[window] - 0.5)
    else:
        blotches = (scene.clouds[window] - 0.5) + 0.25 * (scene.speckles[window] - 0.5)
        planes *= 1 + np.array([0.08, 0.15, 0.16], np.float32)[:, None, None] * blotches
    planes *= scene.skin[:, None, None]
    return planes


def _paint_blemishes(scene: Scene) -> None:
    """Moles and age spots: none on the young and attractive."""
    has = scene.has
    if has["Attractive"] and has["Young"]:
        return
    colour = scene.skin * rgb(160, 120, 105)
    for x, y, size in scene.identity.spots[: 4 if has["Young"] else 9].tolist():
        patch = scene.patch((x - 0.5) * 64, (y - 0.38) * 76, 4, 4)
        radius = (0.7 + 0.8 * size) * (1.0 if has["Young"] else 1.5)
        patch.blend(oval(patch, radius, radius), colour, 0.35)


def _paint_forms(scene: Scene) -> None:
    """Hollows of temples and cheeks and the ball of the chin."""
    gaunt = 0.10 if scene.has["Young"] else 0.30
    if scene.has["Chubby"]:
        gaunt = 0.0
    for side in SIDES:
        temple = scene.place(side * 35, -22)
        scene.shadow(temple.u, temple.v, 10 * temple.squeeze, 18, 0.16)
        hollow = scene.place(side * 28, 36)
        scene.shadow(hollow.u, hollow.v, 9 * hollow.squeeze + 1, 20, gaunt, -0.35 * side)
        apple = scene.place(side * 23, 21)
        plump = 0.30 if scene.has["Smiling"] or scene.has["Chubby"] else 0.16
        scene.glow(apple.u, apple.v, 12 * apple.squeeze, 9, plump)
    chin = scene.place(0, 62, 48)
    scene.glow(chin.u, chin.v, 11, 7, 0.22)
    forehead = scene.place(-8 * scene.identity.light_x, -28)
    scene.glow(forehead.u, forehead.v, 24, 14, 0.14)


def _paint_blush(scene: Scene) -> None:
    has = scene.has
    if not (has["Rosy_Cheeks"] or has["Heavy_Makeup"]):
        return
    colour = scene.skin * rgb(255, 128, 132)
    strength = 0.80 if has["Rosy_Cheeks"] else 0.36
    for side in SIDES:
        u, v, squeeze = scene.place(side * 26, 24)
        patch = scene.patch(u, v, 15, 15)
        patch.blend(puff(patch, 14 * squeeze, 12, -0.4 * side), colour, strength)


def _paint_cheekbones(scene: Scene) -> None:
    """A bright ridge below the eye's outer corner over a dark hollow."""
    for side in SIDES:
        u, v, squeeze = scene.place(side * 28, 16)
        scene.glow(u, v, 13 * squeeze, 7, 0.65, -0.5 * side)
        u, v, squeeze = scene.place(side * 29, 32)
        scene.shadow(u, v, 17 * squeeze, 10, 0.45, -0.75 * side)


def _paint_double_chin(scene: Scene, head: Curve) -> None:
    """A second roll of flesh below the jaw; the face, painted over it, leaves a crease."""
    has = scene.has
    width = 35.0 if has["Chubby"] else 29.0
    depth = (27.0 if has["Male"] else 25.0) * scene.identity.head_length
    u, v = math.sin(scene.identity.yaw) * 9, 58.0
    window = scene.canvas.window(u, v + 10, width + 4, 30)
    patch = Patch(scene.canvas.u[window] - u, scene.canvas.v[window] - v, scene.canvas.image[:, *window])
    roundness = (patch.u * (1 / width)) ** 2 + (patch.v * (1 / depth)) ** 2
    light = 1.0 - 0.22 * roundness * roundness
    crease = soft(scene.polar.distance(head, window) - 0.5, 3.0)
    roll = soft((np.sqrt(roundness) - 1) * depth, 1.2)
    fall = soft((np.sqrt(roundness) - 1.12) * depth, 5.0)
    patch.tint(fall, rgb(150, 124, 116), 0.7)
    patch.blend(roll, scene.skin[:, None, None] * light)
    patch.tint(crease * roll, rgb(140, 104, 96), 0.9)
