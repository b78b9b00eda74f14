"""Lines and folds of age, and bags under the eyes."""

from __future__ import annotations

from rgcluster.faces.canvas.canvas import rgb
from rgcluster.faces.scene import SIDES, Place, Scene

__all__ = ["paint_wrinkles"]

_CREASE = rgb(150, 110, 100)


def paint_wrinkles(scene: Scene) -> None:
    """Paint wrinkles, folds and bags under the eyes."""
    if scene.has["Bags_Under_Eyes"]:
        _paint_bags(scene, 0.95)
    elif not scene.has["Young"]:
        _paint_bags(scene, 0.55)
    if not scene.has["Young"]:
        _paint_forehead(scene)
        for side in SIDES:
            _paint_crow_feet(scene, side)
            _paint_cheek_fold(scene, side)
            _paint_jowl(scene, side)


def _paint_bags(scene: Scene, strength: float) -> None:
    for side in SIDES:
        u, v, squeeze = scene.place(side * (scene.identity.eye_distance - 0.5), 8.5)
        scene.shadow(u, v, 12 * squeeze, 7, 0.80 * strength)
        scene.glow(u, v - 1.0, 8 * squeeze, 3, 0.45 * strength)
        purple = scene.skin * rgb(146, 108, 122)
        scene.stroke(Place(u, v + 4.0, squeeze), 10, 1.2, purple, strength, bend=-0.024, softness=1.4)


def _paint_forehead(scene: Scene) -> None:
    bend = 0.0035 * (1 + 0.4 * scene.identity.asymmetry)
    for v, length in ((-25, 20), (-33, 23)):
        place = scene.place(0, v)
        scene.stroke(place, length, 1.0, scene.skin * _CREASE, 0.62, bend=bend, softness=1.6)
        scene.glow(place.u, place.v + 4, length * 0.9, 4, 0.22)
    for side in SIDES:
        scene.stroke(scene.place(side * 3.0, -9), 4.5, 0.7, scene.skin * _CREASE, 0.7, tilt=1.45)


def _paint_crow_feet(scene: Scene, side: int) -> None:
    for step in (-1, 0, 1):
        place = scene.place(side * 34, 1 + step * 3.4)
        scene.stroke(place, 5.5, 0.7, scene.skin * _CREASE, 0.75, tilt=side * step * 0.45)


def _paint_cheek_fold(scene: Scene, side: int) -> None:
    """The fold from the nose to the corner of the mouth, wide enough to show from afar."""
    u, v, squeeze = scene.place(side * 17.5, 35)
    scene.shadow(u + side * 0.5, v, 12, 5, 0.60, side * 1.12)
    scene.stroke(
        Place(u, v, 1.0),
        11,
        1.3,
        scene.skin * _CREASE,
        0.85,
        tilt=side * 1.12,
        bend=-side * 0.012,
        softness=1.3,
    )
    scene.glow(u + side * 6 * squeeze, v - 3, 10, 6, 0.20, side * 1.0)


def _paint_jowl(scene: Scene, side: int) -> None:
    u, v, _ = scene.place(side * 19, 54)
    scene.shadow(u, v, 11, 5, 0.60, side * 1.35)
    u, v, _ = scene.place(side * 30, 42)
    scene.shadow(u, v, 12, 6, 0.35, -side * 0.9)
