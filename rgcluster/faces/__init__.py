"""Drawn faces: pictures like CelebA's, whose attributes are known and can be changed.

Everything that is not an attribute comes from the seed, so drawing the same
seed with other attributes gives an exact counterfactual.
"""

from __future__ import annotations

from rgcluster.faces.dataset import FaceSet, load_face_set, write_faces
from rgcluster.faces.drawing import draw_face
from rgcluster.faces.sampling import sample_attributes, with_changes
from rgcluster.faces.sheet import contact_sheet, counterfactual_sheet

__all__ = [
    "FaceSet",
    "contact_sheet",
    "counterfactual_sheet",
    "draw_face",
    "load_face_set",
    "sample_attributes",
    "with_changes",
    "write_faces",
]
