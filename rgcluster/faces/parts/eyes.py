"""Eyes and brows."""

from __future__ import annotations

import math

import numpy as np

from rgcluster.faces.canvas.canvas import Patch, puff, rgb, soft
from rgcluster.faces.canvas.texture import strands_at
from rgcluster.faces.palette import IRISES, WHITE, mix
from rgcluster.faces.scene import SIDES, Place, Scene

__all__ = ["paint_brows", "paint_eyes"]

_LASH = rgb(26, 18, 16)
_EYESHADOWS = [rgb(120, 62, 108), rgb(84, 76, 124), rgb(112, 66, 52)]


def paint_eyes(scene: Scene) -> None:
    """Paint sockets, eyelids, eyeballs and lashes."""
    for side in SIDES:
        place = scene.place(side * scene.identity.eye_distance, 0)
        _paint_socket(scene, place, side)
        _paint_eye(scene, place, side)


def _opening(scene: Scene) -> tuple[float, float]:
    """Heights of the upper and of the lower lid's arch, in pixels."""
    has = scene.has
    upper = 4.3 if has["Male"] else 5.2
    if has["Narrow_Eyes"]:
        upper = 2.4
    elif not has["Young"]:
        upper *= 0.78
    if has["Smiling"]:
        upper *= 0.92
    if has["Attractive"]:
        upper *= 1.06
    upper *= scene.identity.eye_size
    return upper, upper * (0.50 if has["Smiling"] else 0.62)


def _paint_socket(scene: Scene, place: Place, side: int) -> None:
    u, v, squeeze = place
    has = scene.has
    depth = 0.34 if has["Male"] else 0.24
    scene.shadow(u - side * 3, v - 5, 16 * squeeze, 10, depth + (0.0 if has["Young"] else 0.20))
    if has["Heavy_Makeup"]:
        patch = scene.patch(u + side * 1.5, v - 4, 16, 10)
        patch.blend(puff(patch, 15 * squeeze, 9.5, -0.15 * side), _EYESHADOWS[scene.identity.lips], 1.0)


def _paint_eye(scene: Scene, place: Place, side: int) -> None:
    has, identity = scene.has, scene.identity
    patch = scene.patch(place.u, place.v, 15, 13)
    tilt = -side * identity.eye_tilt
    c, s = math.cos(tilt), math.sin(tilt)
    u, v = c * patch.u + s * patch.v, c * patch.v - s * patch.u
    width = 9.4 * identity.eye_size * place.squeeze
    outward = u * (side / width)  # -1 at the inner corner, 1 at the outer
    arch = np.maximum(1 - outward * outward, 0)
    upper, lower = _opening(scene)
    upper_lid = -upper * arch**0.7
    lower_lid = lower * arch
    within = np.abs(outward) < 1

    eye = soft(np.maximum(upper_lid - v, v - lower_lid), 0.7) * within
    _paint_eyeball(scene, patch, eye, u, v, v - upper_lid)
    _paint_lids(scene, patch, outward, v - upper_lid, v - lower_lid)
    if has["Heavy_Makeup"] or not has["Male"]:
        _paint_lashes(scene, patch, outward, v - upper_lid)


def _paint_eyeball(
    scene: Scene, patch: Patch, eye: np.ndarray, u: np.ndarray, v: np.ndarray, below_lid: np.ndarray
) -> None:
    identity = scene.identity
    shade = np.minimum(0.74 + 0.09 * below_lid, 1)  # the upper lid shades the eyeball
    white = rgb(240, 236, 232) if scene.has["Young"] else rgb(226, 214, 200)
    patch.blend(eye, white[:, None, None] * shade)
    gaze = identity.yaw * 3.2
    radius = 4.0 * identity.eye_size
    from_pupil = np.sqrt((u - gaze) ** 2 + (v + 0.5) ** 2)
    glow = 1.5 - 1.0 * (from_pupil * (1 / radius)) ** 2
    patch.blend(eye * soft(from_pupil - radius, 0.8), IRISES[identity.iris][:, None, None] * glow)
    patch.blend(eye * soft(from_pupil - 1.8, 0.7), rgb(10, 8, 8))
    glint = np.sqrt((u - gaze - 1.4) ** 2 + (v + 2.0) ** 2)
    patch.blend(eye * soft(glint - 0.9, 0.6), WHITE)


def _paint_lids(
    scene: Scene, patch: Patch, outward: np.ndarray, below_upper: np.ndarray, below_lower: np.ndarray
) -> None:
    has = scene.has
    near = np.abs(outward) < 1.06
    thickness = (0.55 if has["Male"] else 0.85) + (0.55 if has["Heavy_Makeup"] else 0.0)
    line = soft(np.abs(below_upper) - thickness * (0.7 + 0.35 * outward), 0.7) * near
    patch.blend(line, _LASH, 0.92)
    rim = mix(scene.skin * rgb(176, 130, 122), _LASH, 0.75 if has["Heavy_Makeup"] else 0.15)
    patch.blend(soft(np.abs(below_lower) - 0.35, 0.8) * near, rim, 0.7)
    crease = soft(np.abs(below_upper + 3.0 + 0.6 * outward) - 0.4, 0.9) * (np.abs(outward) < 0.95)
    patch.blend(crease, scene.skin * rgb(150, 112, 104), 0.55)


def _paint_lashes(scene: Scene, patch: Patch, outward: np.ndarray, below_upper: np.ndarray) -> None:
    """Lashes fan out over the outer two thirds of the upper lid."""
    reach = 1.0 + 1.9 * np.maximum(outward, 0)
    hairs = 0.45 + 0.55 * np.sin(outward * 26 + below_upper * 0.8)
    fan = soft(np.abs(below_upper + reach * 0.6) - reach, 0.6) * (outward > -0.5) * (outward < 1.22)
    patch.blend(fan * hairs, _LASH, 0.95 if scene.has["Heavy_Makeup"] else 0.70)


def paint_brows(scene: Scene) -> None:
    """Paint both brows in the colour of the hair, greyer on the old."""
    for side in SIDES:
        _paint_brow(scene, side)


def _paint_brow(scene: Scene, side: int) -> None:
    has, identity = scene.has, scene.identity
    lift = -0.6 if has["Arched_Eyebrows"] else 0.0
    lift += 0.0 if has["Attractive"] else 0.8 * identity.asymmetry * side
    lift += 2.4 if has["Male"] else 0.0
    place = scene.place(side * (identity.eye_distance + 0.8), -identity.brow_height + lift)
    patch = scene.patch(place.u, place.v, 17, 11)
    length = 12.5
    outward = patch.u * (side / (length * place.squeeze))  # -1 at the nose, 1 at the temple
    centre = _brow_line(has["Arched_Eyebrows"], outward)
    thickness = 2.6 if has["Male"] else 1.5
    if has["Bushy_Eyebrows"]:
        thickness += 1.7
    taper = np.minimum(1.05 - 0.7 * np.maximum(outward, 0), 1) * np.sqrt(
        np.clip((1 - outward * outward) * 3, 0, 1)
    )
    body = soft(np.abs(patch.v - centre) - thickness * taper, 1.0) * (np.abs(outward) < 1)
    ragged = 0.26 if has["Bushy_Eyebrows"] else 0.18
    hairs = 1 - ragged + 2 * ragged * strands_at(patch.u * side + patch.v * 0.7)
    patch.blend(body * hairs, _brow_colour(scene), 0.92)


def _brow_line(arched: bool, outward: np.ndarray) -> np.ndarray:
    if arched:
        return 1.4 - 7.2 * (1 - ((outward - 0.25) * 0.85) ** 2) + 1.6 * outward
    return -1.4 * (1 - outward * outward) + 0.4 * outward


def _brow_colour(scene: Scene) -> np.ndarray:
    fair = scene.has["Blond_Hair"] or scene.has["Gray_Hair"]
    return scene.brow * (0.62 if fair else 0.72)
