"""Kinds of files in a source: images, whatever their names; leftovers of other programs; others."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

from rgcluster.data.kinds import HEAD_BYTES, image_kind
from rgcluster.data.sources.trees.tree import SubTree, Tree, folder_of, leftover
from rgcluster.errors import DataError, quoted

__all__ = [
    "IMAGE_SUFFIXES",
    "LEFTOVERS",
    "NO_IMAGES",
    "SHARD_NAME",
    "TABLE_SUFFIXES",
    "Files",
    "LeftOut",
    "files_of",
    "joined",
]

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif",
)  # fmt: skip
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
KNOWN_SUFFIXES = (
    *TABLE_SUFFIXES, ".txt", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".xlsx", ".xls", ".ods", ".cls",
    ".npy", ".npz", ".mat", ".pt", ".pth", ".tar", ".zip", ".gz", ".py", ".ipynb",
)  # fmt: skip
"""Suffixes of files that are no images. Other files are recognised by their first bytes."""

SHARD_NAME = re.compile(r"part-\d{5,}-of-\d{5,}-[0-9a-f]+\.parquet")
"""Names of files that this package writes."""

LeftOut = dict[str, tuple[str, ...]]
"""Names of ignored files by reason."""

NO_IMAGES = "no images"
LEFTOVERS = "leftovers of other programs"
EMPTY = "empty folders"


@dataclass(frozen=True)
class Files:
    """The files of a tree: names of `images`, of `others`, and of leftovers of other programs.

    `elsewhere` is what was left out where these are a part of a larger tree.
    """

    tree: Tree
    images: list[str]
    others: list[str]
    elsewhere: LeftOut = field(default_factory=dict)

    @cached_property
    def folders(self) -> set[str]:
        """The folders of the images, as `folder_of` names them: far fewer than the images."""
        return {folder_of(name) for name in self.images}

    @property
    def tops(self) -> set[str]:
        """The top folders of the images; the empty string for images that lie in none."""
        return {folder.partition("/")[0] for folder in self.folders}

    def tables(self) -> list[str]:
        """Return the tables among the others."""
        return [
            name
            for name in self.others
            if name.lower().endswith(TABLE_SUFFIXES) and not SHARD_NAME.fullmatch(name.rsplit("/", 1)[-1])
        ]

    def without(self, used: Collection[str]) -> Files:
        """Return the files without those of the others that are used."""
        return Files(
            self.tree, self.images, [name for name in self.others if name not in used], self.elsewhere
        )

    def below(self, prefix: str) -> Files:
        """Return the files below a folder, as a tree of their own; what lies elsewhere is left out."""
        cut = len(prefix)
        if not cut:
            return self
        outside = {
            f"images outside {prefix}": tuple(name for name in self.images if not name.startswith(prefix)),
            NO_IMAGES: tuple(name for name in self.others if not name.startswith(prefix)),
        }
        elsewhere = joined(self.elsewhere, {reason: names for reason, names in outside.items() if names})
        return Files(
            SubTree(self.tree, prefix),
            [name[cut:] for name in self.images if name.startswith(prefix)],
            [name[cut:] for name in self.others if name.startswith(prefix)],
            elsewhere,
        )

    def left_out(self) -> LeftOut:
        """Return what is left out where every image is used."""
        return joined(self.elsewhere, {NO_IMAGES: tuple(self.others)} if self.others else {})


def joined(*parts: LeftOut) -> LeftOut:
    """Return all that was left out, by reason."""
    found: LeftOut = {}
    for part in parts:
        for reason, names in part.items():
            found[reason] = (*found.get(reason, ()), *names)
    return found


def files_of(tree: Tree) -> Files:
    """Return the tree's files by kind, recognised by their names or first bytes.

    DataError for an image whose name is not UTF-8, which neither tables nor shards can hold.
    """
    images, others, left, empty = [], [], [], []
    for name in tree.names():
        if leftover(name.rstrip("/").rpartition("/")[2]):
            left.append(name)
        elif name.endswith("/"):
            empty.append(name)
        elif name.lower().endswith(IMAGE_SUFFIXES) or _is_image(tree, name):
            if not _is_text(name):
                raise DataError(
                    f"{tree}: the name {quoted(name)} is not valid UTF-8; rename the file, e.g. with `convmv -t utf8`"
                )
            images.append(name)
        else:
            others.append(name)
    left_out = {reason: tuple(names) for reason, names in ((LEFTOVERS, left), (EMPTY, empty)) if names}
    return Files(tree, images, others, left_out)


def _is_text(name: str) -> bool:
    """Return whether a file's name is text: names in another encoding come with lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_image(tree: Tree, name: str) -> bool:
    if name.lower().endswith(KNOWN_SUFFIXES):
        return False
    try:
        return image_kind(tree.head(name, HEAD_BYTES)) is not None
    except OSError:
        return False
