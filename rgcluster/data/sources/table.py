"""The rows of a source, as every layout yields them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from rgcluster.data.sources.tree import Tree, is_image_name
from rgcluster.errors import DataError
from rgcluster.faces.dataset import FaceSet

__all__ = ["SPLITS", "UNKNOWN", "UNLABELLED", "ImageTable", "Layout", "reject_repeats", "reject_unlisted"]

Layout = Literal["celeba", "classes", "table", "images"]

SPLITS = ("train", "val", "test")
UNLABELLED = "unlabelled"
"""The split of images without labels; they can be retrieved, and nothing else."""
UNKNOWN = -1
"""The label of an attribute that nobody looked at; 1 has it, 0 has it not."""


@dataclass(frozen=True)
class ImageTable:
    """The rows of the source at `origin` before an image is read.

    `file_names` [N] within `tree`; `labels` int8 [N, A] in {0, 1, UNKNOWN}; `splits` [N], or none where the
    source has no say; `ignored` are files that are no images by their name.
    """

    origin: Path
    tree: Tree
    layout: Layout
    attributes: tuple[str, ...]
    file_names: list[str]
    labels: npt.NDArray[np.int8]
    splits: list[str] | None = None
    ignored: tuple[str, ...] = ()
    faces: FaceSet | None = None
    """What the images are drawn from, where they are drawn as they are read."""

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def name(self) -> str:
        """What the data set is called if nobody says otherwise."""
        return self.origin.name if self.origin.is_dir() else self.origin.stem

    @property
    def one_hot(self) -> bool:
        """Whether an image has exactly one of the attributes by construction."""
        return self.layout == "classes"


def reject_unlisted(tree: Tree, on_disk: Sequence[str], listed: set[str], source: str) -> None:
    """Raise DataError for an image in the tree that the table at `source` does not list."""
    extra = next((name for name in on_disk if name not in listed and is_image_name(name)), None)
    if extra is not None:
        raise DataError(f"{tree}/{extra}: has no row in {source}; add the row or remove the file")


def reject_repeats(source: str, names: Sequence[str], first_line: int) -> None:
    """Raise DataError for a file that is listed twice; `names` start at line `first_line`."""
    line_of: dict[str, int] = {}
    for line, name in enumerate(names, start=first_line):
        if name in line_of:
            raise DataError(
                f"{source}: line {line} lists {name} again, after line {line_of[name]}; remove one"
            )
        line_of[name] = line
