"""Backdrop, neck, clothes and what is worn around the neck."""

from __future__ import annotations

import math

import numpy as np

from rgcluster.faces.canvas.canvas import HEIGHT, WIDTH, Patch, puff, rgb, soft
from rgcluster.faces.canvas.polar import Curve
from rgcluster.faces.palette import WHITE, mix
from rgcluster.faces.scene import Scene

__all__ = ["paint_backdrop", "paint_body", "paint_neckwear"]

_BODY_TOP = 50.0
_DOWN = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None]
_ACROSS = np.linspace(0, 1, WIDTH, dtype=np.float32)[None, :]


def paint_backdrop(scene: Scene) -> None:
    """Fill the picture with an out-of-focus place."""
    identity = scene.identity
    colours = identity.backdrop_colours
    top, bottom = colours[0] * 0.55 + 0.25, colours[1] * 0.6 + 0.15
    if identity.backdrop == 0:  # a pale wall
        top, bottom = top * 0.5 + 0.45, bottom * 0.5 + 0.42
    image = scene.canvas.image
    np.multiply((bottom - top)[:, None, None], _DOWN, out=image)
    image += top[:, None, None]
    if identity.backdrop == 1:
        _paint_lamps(scene)
    elif identity.backdrop == 2:
        _paint_curtain(scene)
    elif identity.backdrop == 3:
        image *= 0.6 + 0.4 * scene.clouds
    image += 0.12 * (scene.clouds - 0.5)
    image *= 0.55  # half-way to grey: a backdrop must not outshine the face
    image += 0.45 / 0.55 * image.mean(axis=0)


def _paint_lamps(scene: Scene) -> None:
    colours = scene.identity.backdrop_colours
    numbers = colours.ravel().tolist()
    for i, phase in enumerate(scene.identity.phases[:5].tolist()):
        u, v = (phase / math.tau - 0.5) * WIDTH, (numbers[i] - 0.5) * HEIGHT
        radius = 14 + 22 * numbers[i + 5]
        patch = scene.patch(u, v, radius + 7, radius + 7)
        distance = np.sqrt(patch.u * patch.u + patch.v * patch.v) - radius
        patch.blend(soft(distance, 7), colours[i % 4] * 0.7 + 0.25, 0.55)


def _paint_curtain(scene: Scene) -> None:
    identity = scene.identity
    colours = identity.backdrop_colours
    folds = np.sin(_ACROSS * WIDTH / (9 + 14 * float(colours[2, 0])) + identity.phases[0])
    scene.canvas.whole().blend(0.2 + 0.2 * folds, colours[2])


def neck_width(scene: Scene) -> float:
    """Half the width of the neck below the jaw, in pixels."""
    return (30.5 if scene.has["Male"] else 23.0) + (5.0 if scene.has["Chubby"] else 0.0)


def _neck_u(scene: Scene) -> float:
    return math.sin(scene.identity.yaw) * 5


def paint_body(scene: Scene, head: Curve) -> None:
    """Paint neck and shoulders, the shadow of the jaw, and a shirt."""
    window = scene.canvas.window(0, _BODY_TOP + 40, 140, 40)
    u, v = scene.canvas.u[window] - _neck_u(scene), scene.canvas.v[window]
    patch = Patch(u, v, scene.canvas.image[:, *window])
    sideways = np.abs(u)
    width = neck_width(scene)
    slope = 2.6 if scene.has["Male"] else 3.0
    shoulders = width + 52 * np.maximum((v - 62) * (1 / 45), 0) ** slope
    body = soft(sideways - shoulders, 1.2) * (v > _BODY_TOP)
    light = 0.92 + 0.10 * scene.identity.light_x * u * (1 / 60)
    patch.blend(body, scene.skin[:, None, None] * light)
    patch.tint(body * soft(np.abs(sideways - width), 9), rgb(190, 165, 155), 0.35)
    jaw_shadow = soft(scene.polar.distance(head, window) - 7, 9) * body
    patch.tint(jaw_shadow, rgb(166, 142, 134), 0.85)
    _paint_shirt(scene, patch, shoulders)


def _paint_shirt(scene: Scene, patch: Patch, shoulders: np.ndarray) -> None:
    identity = scene.identity
    u, v = patch.u, patch.v
    if scene.has["Male"]:
        neckline = 86 + 4 * identity.neckline - 0.016 * u * u
    else:
        neckline = 95 + 9 * identity.neckline - 0.020 * u * u
    shirt = soft(neckline - v) * soft(np.abs(u) - shoulders - 2.5, 1.2)
    colour = identity.cloth * 0.55 + 0.10 + 0.16 * float(identity.cloth.mean())
    folds = np.sin((v - 0.2 * np.abs(u)) * 0.35 + identity.phases[0])
    light = 0.90 + 0.09 * folds + identity.light_x * u * (1 / 500)
    patch.blend(shirt, colour[:, None, None] * light)
    patch.tint(shirt * soft(np.abs(v - neckline - 1), 3), WHITE * 0.7, 0.6)


def paint_neckwear(scene: Scene) -> None:
    """Paint collar and tie, or a necklace, high enough to stay in a square crop."""
    if scene.has["Wearing_Necktie"]:
        _paint_necktie(scene)
    if scene.has["Wearing_Necklace"]:
        _paint_necklace(scene)


def _paint_necktie(scene: Scene) -> None:
    width = neck_width(scene)
    patch = scene.patch(_neck_u(scene), 86, width + 16, 26)
    sideways = np.abs(patch.u)
    opening = 1 - sideways * (1 / width)  # the collar closes from the neck's sides to the knot
    collar = soft(-13 + 17 * opening - patch.v, 0.8) * soft(sideways - width - 7 - patch.v * 0.35, 1.0)
    patch.blend(collar, rgb(240, 241, 244))
    fold = np.abs(sideways - 9 - 0.75 * np.maximum(-patch.v, -6)) - 0.5
    patch.blend(collar * soft(fold, 0.9), rgb(186, 188, 198), 0.8)
    colour = scene.identity.backdrop_colours[3] * 0.62 + 0.05
    knot = np.maximum(sideways - (7.5 - 0.18 * (patch.v + 6)), np.abs(patch.v + 2) - 7)
    tie = np.maximum(sideways - (4.6 + 0.16 * np.maximum(patch.v - 4, 0)), 4 - patch.v)
    stripes = 0.97 + 0.13 * np.sin((patch.u + patch.v) * 0.9)
    patch.blend(soft(tie), colour[:, None, None] * stripes)
    patch.blend(soft(knot), colour * 1.12)
    patch.tint(soft(tie) * soft(np.abs(patch.v - 5.5) - 0.5), WHITE * 0.6, 0.8)


def _paint_necklace(scene: Scene) -> None:
    """Pearls, or beads of gold, close around the neck, and a pendant."""
    width = neck_width(scene)
    pearls = scene.identity.lips == 0
    colour = rgb(250, 246, 238) if pearls else rgb(250, 212, 92)
    spacing = 5.6 if pearls else 4.4
    patch = scene.patch(_neck_u(scene), 77, width + 3, 20)
    inside = soft(np.abs(patch.u) - width, 1.0)
    across = patch.v + 0.022 * patch.u * patch.u - 8
    along = patch.u - spacing * np.rint(patch.u * (1 / spacing))
    radius = np.sqrt(across * across + along * along)
    patch.tint(soft(np.abs(across - 2.5) - 2.5, 2.0) * inside, WHITE * 0.5, 0.7)
    gleam = 1.06 - 0.06 * radius * radius
    patch.blend(soft(radius - spacing * 0.54, 0.8) * inside, colour[:, None, None] * gleam)
    pendant = scene.patch(_neck_u(scene), 91, 7, 8)
    gem = mix(rgb(190, 30, 60), scene.identity.cloth, 0.5)
    pendant.blend(puff(pendant, 7, 8), gem, 1.0)
