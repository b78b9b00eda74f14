"""Drawn faces as encoded files, and their attributes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rgcluster.bench.gpu.part import Place
from rgcluster.faces import FaceSet, write_faces
from rgcluster.faces.dataset import IMAGE_FOLDER

__all__ = ["EncodedFaces", "drawn_faces"]


@dataclass(frozen=True)
class EncodedFaces:
    """JPEG files of one size, and the values int8 [N, n] of the attributes that span the domains."""

    files: list[bytes]
    domains: npt.NDArray[np.int8]


def drawn_faces(place: Place) -> EncodedFaces:
    """Draw the faces of the scale with every core, unless an earlier part did."""
    count, folder = place.scale.faces, place.temporary / "faces"
    place.say(f"{count:,} faces")
    write_faces(folder, count, seed=0, workers=None if count > 1000 else 1)
    faces, attributes = FaceSet(0, count), place.config().data.attributes
    domains = [[faces.face(index)[0][name] for name in attributes] for index in range(count)]
    files = [(folder / IMAGE_FOLDER / faces.file_name(index)).read_bytes() for index in range(count)]
    return EncodedFaces(files, np.array(domains, np.int8))
