"""Where images come from: CelebA, class folders, tables, folders without labels; each yields an `ImageTable`."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np

from rgcluster.data.sources.celeba import is_celeba, read_celeba
from rgcluster.data.sources.classes import is_classes, read_classes
from rgcluster.data.sources.drawn import drawn_table
from rgcluster.data.sources.table import SPLITS, UNKNOWN, UNLABELLED, ImageTable, Layout
from rgcluster.data.sources.tabular import TABLE_SUFFIXES, Columns, read_table
from rgcluster.data.sources.tree import FolderTree, Tree, ZipTree, image_names, open_tree
from rgcluster.errors import ConfigError, DataError

__all__ = [
    "SPLITS",
    "UNKNOWN",
    "UNLABELLED",
    "Columns",
    "FolderTree",
    "ImageTable",
    "Layout",
    "Tree",
    "ZipTree",
    "guess_layout",
    "read_celeba",
    "read_images",
    "drawn_table",
    "read_source",
]


def read_source(
    path: Path, layout: str = "auto", images: Path | None = None, columns: Columns | None = None
) -> ImageTable:
    """Read the source at `path`, of a `layout` or the one it looks like."""
    if layout not in ("auto", *get_args(Layout)):
        raise ConfigError(f"--layout {layout}: expected auto, {', '.join(get_args(Layout))}")
    chosen = guess_layout(path) if layout == "auto" else layout
    if chosen != "table" and (images or columns not in (None, Columns())):
        raise ConfigError(f"{path}: --images and the columns belong to a table, a .csv or .parquet file")
    if chosen == "table":
        return read_table(path, images, columns or Columns())
    return {"celeba": read_celeba, "classes": read_classes, "images": read_images}[chosen](path)


def guess_layout(path: Path) -> Layout:
    """Return the layout that `path` has."""
    if path.suffix.lower() in TABLE_SUFFIXES and not path.is_dir():
        return "table"
    if not path.exists() or is_celeba(path):
        return "celeba"  # whose reader says what is missing
    return "classes" if is_classes(open_tree(path).names()) else "images"


def read_images(path: Path) -> ImageTable:
    """Read a folder or archive of images without labels, for the retrieval set."""
    tree = open_tree(path)
    images, ignored = image_names(tree)
    if not images:
        raise DataError(f"{path}: no images there, nor tables that name them")
    labels = np.empty((len(images), 0), np.int8)
    return ImageTable(path, tree, "images", (), images, labels, [UNLABELLED] * len(images), ignored)
