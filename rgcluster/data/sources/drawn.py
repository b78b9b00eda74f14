"""Faces that are drawn when they are read: a source without files, equal on every machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.data.sources.table import ImageTable
from rgcluster.data.sources.trees.tree import MAX_FILE_BYTES
from rgcluster.data.sources.words import SPLITS
from rgcluster.faces.dataset import FaceSet

__all__ = ["DrawnTree", "drawn_table"]


class DrawnTree:
    """The files that `write_faces` would write, drawn when they are read."""

    def __init__(self, faces: FaceSet) -> None:
        self.faces = faces

    def __str__(self) -> str:
        return f"drawn faces (seed {self.faces.seed})"

    def names(self) -> list[str]:
        return [self.faces.file_name(index) for index in range(self.faces.count)]

    def head(self, name: str, count: int) -> bytes:
        return self.read(name)[:count]

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        return self.faces.jpeg(int(name.partition(".")[0]) - 1)


def drawn_table(faces: FaceSet) -> ImageTable:
    """Return the rows of the written faces, as `read_celeba` would."""
    tree = DrawnTree(faces)
    labels = np.empty((faces.count, len(CELEBA_ATTRIBUTES)), np.int8)
    for index in range(faces.count):
        attributes, _ = faces.face(index)
        labels[index] = [attributes[name] for name in CELEBA_ATTRIBUTES]
    splits = [SPLITS[faces.partition(index)] for index in range(faces.count)]
    return ImageTable(
        Path("faces"), tree, "celeba", tuple(CELEBA_ATTRIBUTES), tree.names(), labels, splits, faces=faces
    )
