"""Hair of the head: what hangs behind it, and what lies on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rgcluster.faces.canvas.canvas import Patch, bell, rgb, smoothstep, soft
from rgcluster.faces.canvas.polar import curve, mirrored
from rgcluster.faces.canvas.texture import strands_at
from rgcluster.faces.palette import mix
from rgcluster.faces.parts.head import light_on_head
from rgcluster.faces.scene import Scene

__all__ = ["paint_back_hair", "paint_front_hair"]

_SHORT_OUTLINE = [
    (0, 90), (44, 60), (45.5, 20), (46, 4), (47, -14), (46, -32), (41.5, -50), (32.5, -65),
    (17, -75), (0, -78.5),
]  # fmt: skip
_LONG_OUTLINE = [(54, 40), (55, 18), (54, -4), (52, -24), (46.5, -46), (34, -66), (17, -77), (0, -80.5)]

# Hairlines: inside these curves the face is free of hair.
_PARTED = [
    (0, 140), (46, 110), (46, 70), (42.5, 45), (39, 24), (38, 4), (37.5, -14), (33, -29), (22, -40),
    (0, -48),
]  # fmt: skip
_LONG_BANGS = [
    (0, 140), (46, 110), (46, 70), (42.5, 45), (39, 24), (37.5, 4), (35.5, -8), (29, -14), (15, -16),
    (0, -16.5),
]  # fmt: skip
_SHORT = [
    (0, 140), (80, 60), (60, 16), (43, 6), (41, -8), (39.5, -20), (36.5, -30), (27, -38), (13, -40.5),
    (0, -41),
]  # fmt: skip
_SHORT_BANGS = [(0, 140), (80, 60), (60, 16), (43, 6), (40.5, -6), (37, -15), (28, -19), (0, -21)]
_SHORT_RECEDING = [
    (0, 140), (80, 60), (60, 16), (43, 6), (41, -10), (40.5, -24), (38, -40), (33, -53), (24, -61),
    (15, -58), (7, -50), (0, -47),
]  # fmt: skip
_LONG_RECEDING = [
    (0, 140), (46, 110), (46, 70), (42.5, 45), (39.5, 24), (39.5, 4), (39.5, -20), (37, -40), (32, -53),
    (23, -61), (14, -58), (6, -50), (0, -47),
]  # fmt: skip


@dataclass(frozen=True)
class _Style:
    """Where the hair ends: distances in pixels of the pixels of a window."""

    outside: np.ndarray  # to the outline of the hair, negative inside
    inside: np.ndarray  # to the hairline, negative on the free face


def _is_long(scene: Scene) -> bool:
    return not scene.has["Male"]


def _length(scene: Scene) -> float:
    """How far below the eyes long hair reaches."""
    return 54 + 70 * scene.identity.hair_length


def _volume(scene: Scene) -> float:
    volume = 1.0 + 4.5 * scene.identity.hair_volume
    if scene.has["Wavy_Hair"]:
        volume += 4.0
    if scene.has["Straight_Hair"]:
        volume -= 1.5
    return volume


def _waves(scene: Scene, u: np.ndarray, v: np.ndarray) -> np.ndarray | float:
    """Sideways sway of the strands, pixels."""
    phases = scene.identity.phases
    if scene.has["Wavy_Hair"]:
        return 3.4 * np.sin(v * 0.19 + phases[3] + np.sin(u * 0.07 + phases[0]))
    if scene.has["Straight_Hair"]:
        return 0.0
    return 1.1 * np.sin(v * 0.10 + phases[3])


def _either_way(u: np.ndarray) -> np.ndarray:
    """-1 on the left, 1 on the right, with a smooth passage, so that waves leave no notch."""
    return np.minimum(np.maximum(u * (1 / 30), -1), 1)


def _strands(scene: Scene, window: tuple[slice, slice], across: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Colour of hair whose strands run along lines of equal `across`, [3, height, width]."""
    has = scene.has
    v = scene.canvas.v[window]
    flow = across + 2.0 * scene.clouds[window]
    contrast = 0.28 if has["Straight_Hair"] else 0.38
    texture = strands_at(flow) * contrast + 0.16 * (scene.speckles[window] - 0.5)
    if has["Gray_Hair"]:
        texture += 0.10 * (scene.grain[window] - 0.5)
    tone = (0.96 + texture) * light
    gloss = bell(v + 0.012 * scene.canvas.u[window] ** 2, -44, 20) + 0.5 * bell(v, 26, 26)
    gloss *= (0.5 + texture) * (0.13 if has["Straight_Hair"] else 0.08)
    planes = scene.hair[:, None, None] * tone
    planes += gloss * (0.3 + 0.7 * scene.hair[:, None, None])
    return planes


def paint_back_hair(scene: Scene) -> None:
    """Paint the hair that falls behind neck and shoulders."""
    if scene.has["Bald"] or not _is_long(scene):
        return
    length = _length(scene)
    window = scene.canvas.window(0, 12, 80, length + 12)
    patch = scene.canvas.region(window)
    u, v = patch.u, patch.v
    waves = _waves(scene, u, v)
    distance = scene.polar.distance(_long_outline(scene), window) + waves * _either_way(u)
    ends = 3 * np.sin(u * 0.30 + scene.identity.phases[4]) + 2 * strands_at(u)
    distance = np.maximum(distance, (v - length + 0.004 * u * u + ends) * 0.5)
    light = 0.94 - 0.42 * smoothstep(np.abs(u), 48, 24) * smoothstep(v, -10, 40)
    patch.blend(soft(distance, 1.2), _strands(scene, window, u + waves, light))


def _long_outline(scene: Scene) -> np.ndarray:
    length = _length(scene)
    points = mirrored([(0, length + 30), (34, length + 24), (52, length + 6), *_LONG_OUTLINE])
    return curve(_grown(scene, points))


def _grown(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Push the outline outwards by the hair's volume."""
    volume = _volume(scene) * (0.9 if scene.has["Male"] else 1.0)
    grown = points.copy()
    up = smoothstep(points[:, 1], 25, -50)
    grown[:, 0] *= scene.identity.head_width * (1 + 0.016 * volume * np.maximum(up, 0.35 * _is_long(scene)))
    grown[:, 1] -= volume * up * (1.1 if scene.has["Male"] else 0.8)
    return scene.turned(grown)


def _hairline(scene: Scene) -> np.ndarray:
    has, identity = scene.has, scene.identity
    if has["Bangs"]:
        right_half = _LONG_BANGS if _is_long(scene) else _SHORT_BANGS
    elif has["Receding_Hairline"]:
        right_half = _LONG_RECEDING if _is_long(scene) else _SHORT_RECEDING
    else:
        right_half = _PARTED if _is_long(scene) else _SHORT
    points = mirrored(right_half)
    points[:, 0] *= identity.head_width
    if not (has["Bangs"] or has["Receding_Hairline"]):
        high = smoothstep(points[:, 1], -18, -46)
        points[:, 0] += identity.parting * high * (1.0 if _is_long(scene) else 0.35)
    return curve(scene.turned(points))


def paint_front_hair(scene: Scene) -> None:
    """Paint the hair on the skull and around the face, with the shadow it casts."""
    if scene.has["Bald"]:
        shine = scene.place(-12 * scene.identity.light_x, -52)
        scene.glow(shine.u, shine.v, 18, 10, 0.55)
        return
    bottom = min(_length(scene), 74.0) if _is_long(scene) else 22.0
    top = -102.0
    window = scene.canvas.window(0, (top + bottom) / 2, 76, (bottom - top) / 2)
    patch = scene.canvas.region(window)
    u, v = patch.u, patch.v
    waves = _waves(scene, u, v)
    style = _style(scene, window, waves)
    across = _flow(scene, patch, style) + waves
    ragged = strands_at(across) * (1.8 if scene.has["Bangs"] or not _is_long(scene) else 0.8)
    mask = soft(style.outside + 0.5 * ragged, 1.1) * soft(ragged - style.inside, 1.5)
    mask *= _lower_end(scene, u, v, bottom)
    shadow = soft(style.inside * -1.0 - 5, 6) * soft(style.outside + 6, 2) * smoothstep(v, 12, 4)
    patch.tint(shadow, rgb(168, 138, 128), 0.55)
    light = light_on_head(scene, window) * 0.82 + 0.14
    light *= 1 - 0.28 * soft(np.abs(style.inside) - 1, 5)  # roots at the hairline are in shade
    patch.blend(mask, _strands(scene, window, across, light))
    if not scene.has["Young"]:
        _paint_grey_temples(scene, mask, patch)


def _style(scene: Scene, window: tuple[slice, slice], waves: np.ndarray | float) -> _Style:
    u = scene.canvas.u[window]
    if _is_long(scene):
        outline = _long_outline(scene)
    else:
        outline = curve(_grown(scene, mirrored(_SHORT_OUTLINE)))
    sway = waves * _either_way(u) * 0.8
    inside = scene.polar.distance(_hairline(scene), window) + sway * 0.5
    return _Style(outside=scene.polar.distance(outline, window) + sway, inside=inside)


def _flow(scene: Scene, patch: Patch, style: _Style) -> np.ndarray:
    """Place across the strands, pixels.

    Short hair is brushed back, bangs fan out from the crown and hang down,
    other long hair lies around the face.
    """
    u, v = patch.u, patch.v
    if not _is_long(scene):
        offset = u - scene.identity.parting
        return 62 * offset / (np.abs(v - 30) + 0.4 * np.abs(offset))
    if scene.has["Bangs"]:
        return 70 * u / (np.minimum(np.maximum(v + 100, 20), 80) * 0.6 + 22)
    return style.inside + 0.35 * u


def _lower_end(scene: Scene, u: np.ndarray, v: np.ndarray, bottom: float) -> np.ndarray:
    """Where the hair on the sides stops: ragged when long, cropped above the ears when short."""
    if _is_long(scene):
        return soft(v - bottom + 9 + 3 * np.sin(u * 0.5 + scene.identity.phases[1]), 5)
    return soft(v - 4 + 1.5 * np.sin(u * 0.9), 3.5)


def _paint_grey_temples(scene: Scene, mask: np.ndarray, patch: Patch) -> None:
    """Age shows first at the temples and leaves the rest of the hair its colour."""
    sides = soft(37 - np.abs(patch.u), 4) * soft(np.abs(patch.v + 8) - 12, 8)
    streaks = 0.5 + strands_at(patch.u)
    patch.blend(mask * sides * np.maximum(streaks, 0), mix(scene.hair, rgb(190, 190, 194), 0.6), 0.45)
