"""Draws docs/faces.jpg, the picture of docs/quickstart.md: faces, and the same ones with another attribute.

python docs/picture.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from rgcluster.faces import FaceSet

FACES = (12, 23, 16)
SET = ("Black_Hair", "Blond_Hair", "Gray_Hair", "Smiling", "Eyeglasses", "Bangs", "Wearing_Hat")
FLIPPED = ("Young", "Male")
SCALE = 0.55


def picture() -> Image.Image:
    """Return a row a face: as it is, with each attribute of SET, with each of FLIPPED the other way."""
    faces = FaceSet(seed=0, count=60)
    rows = []
    for index in FACES:
        own, _ = faces.face(index)
        changes: list[dict[str, int]] = [
            {},
            *({name: 1} for name in SET),
            *({name: 1 - own[name]} for name in FLIPPED),
        ]
        rows.append(np.concatenate([faces.counterfactual(index, change) for change in changes], axis=1))
    whole = Image.fromarray(np.concatenate(rows))
    return whole.resize((round(whole.width * SCALE), round(whole.height * SCALE)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("faces.jpg")
    picture().save(target, quality=85, optimize=True)
