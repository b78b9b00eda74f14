"""Faces drawn where they are read are the faces that were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rgcluster.data.sources import drawn_table, read_celeba
from rgcluster.faces import FaceSet, write_faces


def test_drawn_and_written_faces_are_the_same_source(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces", 12, 3, workers=1)
    written, drawn = read_celeba(tmp_path / "faces"), drawn_table(FaceSet(3, 12))
    assert (written.name, written.file_names, written.splits) == (drawn.name, drawn.file_names, drawn.splits)
    assert written.attributes == drawn.attributes
    np.testing.assert_array_equal(written.labels, drawn.labels)
    assert written.left_out == {}
    assert all(written.tree.read(name) == drawn.tree.read(name) for name in drawn.file_names)
