"""The rows of a source, in the form of every layout."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt

from rgcluster.data.sources.files import LeftOut
from rgcluster.data.sources.trees.places import Place
from rgcluster.data.sources.trees.tree import Tree
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
"""The split of images without labels, which can only be retrieved."""
UNKNOWN = -1
"""The label of an unlabelled attribute; 1 means present, 0 absent."""


@dataclass(frozen=True)
class ImageTable:
    """The rows of the source at `origin`, without images.

    `file_names` [N] within `tree`; `labels` int8 [N, A] in {0, 1, UNKNOWN}; `splits` [N], or None if
    the source defines none; `one_hot` if every image has exactly one of the attributes; `left_out` are names of
    ignored files by reason.
    """

    origin: Place
    tree: Tree
    layout: Layout
    attributes: tuple[str, ...]
    file_names: list[str]
    labels: npt.NDArray[np.int8]
    splits: list[str] | None = None
    one_hot: bool = False
    left_out: LeftOut = field(default_factory=dict)
    faces: FaceSet | None = None
    """The face set, if the images are drawn when they are read."""

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def name(self) -> str:
        """Default name of the data set."""
        name = self.origin.name
        return name if self.origin.is_dir() else PurePosixPath(name).stem


def reject_unlisted(
    tree: Tree, images: Sequence[str], listed: Collection[str], source: str, way: str = ""
) -> None:
    """Raise DataError for an image that the table at `source` does not list; `way` is another remedy."""
    extra = next((name for name in images if name not in listed), None)
    if extra is not None:
        raise DataError(f"{tree}/{extra}: has no row in {source}; add the row or remove the file{way}")


def reject_repeats(source: str, names: Sequence[str], lines: Iterable[int]) -> None:
    """Raise DataError for a repeated file; `lines` are the numbers of the names' lines."""
    ordered = sorted(names)  # takes less memory than a set
    if not any(map(operator.eq, ordered, islice(ordered, 1, None))):
        return
    line_of: dict[str, int] = {}
    for line, name in zip(lines, names, strict=False):
        if name in line_of:
            raise DataError(
                f"{source}: line {line} lists {cut(name)} again, after line {line_of[name]}; remove one"
            )
        line_of[name] = line


def require_names(source: str, attributes: Sequence[str]) -> None:
    """Raise DataError for an attribute that `--to A,-B` cannot name."""
    for name in attributes:
        if name != name.strip() or not name or name[0] in "+-" or "," in name or not name.isprintable():
            raise DataError(
                f"{source}: {quoted(name)} cannot name an attribute or class: no commas, no '+' or '-' at the start, "
                "no blanks at its ends; rename it"
            )
