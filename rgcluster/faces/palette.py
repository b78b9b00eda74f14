"""Colours of skin, hair, eyes and lips, each float32 [3] in 0..1."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rgcluster.faces.canvas.canvas import rgb
from rgcluster.faces.identity import Identity

__all__ = ["IRISES", "LIPSTICKS", "WHITE", "hair_colour", "mix", "skin_colour"]

WHITE = np.ones(3, np.float32)

_SKINS = [
    rgb(248, 218, 195),
    rgb(240, 199, 170),
    rgb(226, 179, 145),
    rgb(203, 149, 112),
    rgb(170, 114, 80),
    rgb(128, 82, 57),
    rgb(96, 61, 43),
]
_PALE_SKIN = rgb(252, 238, 231)

_HAIRS: dict[str, list[np.ndarray]] = {
    "Black_Hair": [rgb(26, 22, 24), rgb(34, 27, 27), rgb(19, 19, 26)],
    "Brown_Hair": [rgb(92, 56, 32), rgb(106, 67, 39), rgb(80, 48, 29)],
    "Blond_Hair": [rgb(228, 193, 122), rgb(238, 210, 150), rgb(212, 172, 98)],
    "Gray_Hair": [rgb(172, 173, 178), rgb(200, 200, 205), rgb(152, 153, 160)],
}
_OTHER_HAIR = [rgb(166, 76, 36), rgb(186, 98, 48), rgb(146, 50, 34)]
_SHAVED = rgb(84, 62, 48)

IRISES = [rgb(66, 44, 28), rgb(96, 68, 40), rgb(82, 124, 156), rgb(96, 130, 88), rgb(50, 34, 24)]
LIPSTICKS = [rgb(190, 26, 50), rgb(208, 66, 98), rgb(146, 26, 46)]


def mix(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    """Return `start` with `share` of it replaced by `end`."""
    return start + (end - start) * np.float32(share)


def skin_colour(has: Mapping[str, bool], identity: Identity) -> np.ndarray:
    """Colour of lit skin; old skin is less saturated."""
    depth = identity.skin_depth * (len(_SKINS) - 1.001)
    step = int(depth)
    skin = _PALE_SKIN if has["Pale_Skin"] else mix(_SKINS[step], _SKINS[step + 1], depth - step)
    if has["Young"]:
        return skin
    return mix(skin, skin.mean() * rgb(255, 246, 236), 0.30)


def hair_colour(has: Mapping[str, bool], identity: Identity) -> np.ndarray:
    """Colour of the hair, and of brows and beard, which the shaved keep."""
    for name, shades in _HAIRS.items():
        if has[name]:
            return shades[identity.hair_shade]
    return _SHAVED if has["Bald"] else _OTHER_HAIR[identity.hair_shade]
