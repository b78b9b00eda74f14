"""Draws one face from its attributes and its seed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageFilter

from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.errors import DataError
from rgcluster.faces.identity import Identity
from rgcluster.faces.parts.beard import paint_beard
from rgcluster.faces.parts.extras import paint_earrings, paint_glasses, paint_hat
from rgcluster.faces.parts.eyes import paint_brows, paint_eyes
from rgcluster.faces.parts.hair import paint_back_hair, paint_front_hair
from rgcluster.faces.parts.head import head_curve, paint_ears, paint_face
from rgcluster.faces.parts.nose_mouth import paint_mouth, paint_nose
from rgcluster.faces.parts.surroundings import paint_backdrop, paint_body, paint_neckwear
from rgcluster.faces.parts.wrinkles import paint_wrinkles
from rgcluster.faces.scene import Scene

__all__ = ["draw_face"]

_GRAIN = 0.022
_SOFTNESS = 0.12  # share that each pixel gives to every neighbour
_BLUR = 2.6


def draw_face(
    attributes: Mapping[str, bool | int], seed: int, dye: tuple[int, int, int] | None = None
) -> np.ndarray:
    """Draw the face of `seed` with `attributes`.

    `dye` is a colour of hair, 0 to 255 each, that takes the place of the attributes'.

    Missing names count as 0. Equal arguments give equal pixels, and other
    attributes change nothing but their own parts of the picture.

    Returns uint8 [218, 178, 3], RGB, aligned as CelebA's faces are.
    """
    scene = Scene(_all_attributes(attributes), Identity.from_seed(seed), dye)
    _paint(scene)
    return _developed(scene)


def _all_attributes(attributes: Mapping[str, bool | int]) -> dict[str, bool]:
    for name in attributes:
        if name not in CELEBA_ATTRIBUTES:
            nearest = difflib.get_close_matches(name, CELEBA_ATTRIBUTES, n=1, cutoff=0.0)
            raise DataError(f"unknown attribute {name!r}: did you mean {nearest[0]!r}?")
    return {name: bool(attributes.get(name, 0)) for name in CELEBA_ATTRIBUTES}


def _paint(scene: Scene) -> None:
    """Paint from the back to the front."""
    has = scene.has
    head = head_curve(scene)
    paint_backdrop(scene)
    paint_back_hair(scene)
    paint_body(scene, head)
    paint_neckwear(scene)
    paint_ears(scene)
    paint_face(scene, head)
    paint_nose(scene)
    paint_eyes(scene)
    paint_brows(scene)
    paint_mouth(scene)
    paint_wrinkles(scene)
    paint_beard(scene, head)
    paint_front_hair(scene)
    if has["Wearing_Earrings"]:
        paint_earrings(scene)
    if has["Eyeglasses"]:
        paint_glasses(scene)
    if has["Wearing_Hat"]:
        paint_hat(scene)


def _developed(scene: Scene) -> np.ndarray:
    """Apply exposure, the lens's softness and the film's grain; uint8 [218, 178, 3]."""
    identity = scene.identity
    image = scene.canvas.image
    balance = np.array([1 + identity.warmth, 1, 1 - identity.warmth], np.float32) * np.float32(255)
    image *= (balance * np.float32(identity.exposure))[:, None, None]
    _soften(image, axis=1)
    _soften(image, axis=2)
    image += (scene.grain - 0.5) * (255 * _GRAIN) + 0.5
    np.maximum(image, 0, out=image)
    np.minimum(image, 255, out=image)
    pixels = np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))
    if not scene.has["Blurry"]:
        return pixels
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(_BLUR)))


def _soften(image: np.ndarray, axis: int) -> None:
    """Mix every pixel but the outermost with its two neighbours along `axis`, in place."""
    rows = image.swapaxes(1, axis)
    neighbours = rows[:, :-2] + rows[:, 2:]
    neighbours *= _SOFTNESS
    rows[:, 1:-1] *= 1 - 2 * _SOFTNESS
    rows[:, 1:-1] += neighbours
