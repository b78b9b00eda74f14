"""Contact sheets: many faces in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from rgcluster.faces.dataset import FaceSet

__all__ = ["contact_sheet", "counterfactual_sheet"]

_SET_TO_ONE = (
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Gray_Hair",
    "Smiling",
    "Eyeglasses",
    "Bangs",
    "Wearing_Hat",
    "Pale_Skin",
    "Chubby",
)
_FLIPPED = ("Young", "Male")


def contact_sheet(face_set: FaceSet, rows: int, columns: int) -> Image.Image:
    """Return the first `rows` * `columns` faces, [218 * rows, 178 * columns]."""
    return _tile([[face_set.image(r * columns + c) for c in range(columns)] for r in range(rows)])


def counterfactual_sheet(face_set: FaceSet, rows: int) -> Image.Image:
    """Return the first `rows` faces, each with one change per column.

    Columns: the face itself, black, blond, brown and gray hair, `Young`
    flipped, `Male` flipped, then `Smiling`, `Eyeglasses`, `Bangs`,
    `Wearing_Hat`, `Pale_Skin` and `Chubby` set.
    """
    return _tile([_counterfactual_row(face_set, index) for index in range(rows)])


def _counterfactual_row(face_set: FaceSet, index: int) -> list[np.ndarray]:
    attributes, _ = face_set.face(index)
    changes: list[dict[str, int]] = [{name: 1} for name in _SET_TO_ONE]
    changes[4:4] = [{name: 1 - attributes[name]} for name in _FLIPPED]
    return [face_set.image(index), *(face_set.counterfactual(index, change) for change in changes)]


def _tile(images: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in images], axis=0))
