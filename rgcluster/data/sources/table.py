"""The rows of a source, as every layout yields them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from rgcluster.data.sources.files import LeftOut
from rgcluster.data.sources.tree import Tree
from rgcluster.errors import DataError, cut, quoted
from rgcluster.faces.dataset import FaceSet

__all__ = [
    "UNKNOWN",
    "UNLABELLED",
    "ImageTable",
    "Layout",
    "reject_repeats",
    "reject_unlisted",
    "require_names",
]

Layout = Literal["celeba", "classes", "table", "webdataset", "images"]

UNLABELLED = "unlabelled"
"""The split of images without labels; they can be retrieved, and nothing else."""
UNKNOWN = -1
"""The label of an attribute that nobody looked at; 1 has it, 0 has it not."""


@dataclass(frozen=True)
class ImageTable:
    """The rows of the source at `origin` before an image is read.

    `file_names` [N] within `tree`; `labels` int8 [N, A] in {0, 1, UNKNOWN}; `splits` [N], or none where the
    source has no say; `one_hot` where an image has exactly one of the attributes by construction; `left_out` are
    names of files that are no rows, by reason.
    """

    origin: Path
    tree: Tree
    layout: Layout
    attributes: tuple[str, ...]
    file_names: list[str]
    labels: npt.NDArray[np.int8]
    splits: list[str] | None = None
    one_hot: bool = False
    left_out: LeftOut = field(default_factory=dict)
    faces: FaceSet | None = None
    """What the images are drawn from, where they are drawn as they are read."""

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def name(self) -> str:
        """What the data set is called if nobody says otherwise."""
        return self.origin.name if self.origin.is_dir() else self.origin.stem


def reject_unlisted(
    tree: Tree, images: Sequence[str], listed: Collection[str], source: str, way: str = ""
) -> None:
    """Raise DataError for an image of the tree that the table at `source` does not list; `way` is one more remedy."""
    extra = next((name for name in images if name not in listed), None)
    if extra is not None:
        raise DataError(f"{tree}/{extra}: has no row in {source}; add the row or remove the file{way}")


def reject_repeats(source: str, names: Sequence[str], first_line: int) -> None:
    """Raise DataError for a file that is listed twice; `names` start at line `first_line`."""
    line_of: dict[str, int] = {}
    for line, name in enumerate(names, start=first_line):
        if name in line_of:
            raise DataError(
                f"{source}: line {line} lists {cut(name)} again, after line {line_of[name]}; remove one"
            )
        line_of[name] = line


def require_names(source: str, attributes: Sequence[str]) -> None:
    """Raise DataError for an attribute that `--to A,-B` could not name."""
    for name in attributes:
        if name != name.strip() or not name or name[0] in "+-" or "," in name or not name.isprintable():
            raise DataError(
                f"{source}: {quoted(name)} cannot name an attribute or class: no commas, no '+' or '-' at the start, "
                "no blanks at its ends; rename it"
            )
