"""One folder a class, as AFHQ comes: the class is the domain, one-hot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rgcluster.data.sources.table import ImageTable
from rgcluster.data.sources.tree import image_names, is_image_name, open_tree
from rgcluster.errors import DataError

__all__ = ["is_classes", "read_classes"]

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def is_classes(names: list[str]) -> bool:
    """Return whether every image among the names lies in a folder, and there are two folders or more."""
    folders = {name.split("/", 1)[0] if "/" in name else "" for name in names if is_image_name(name)}
    return len(folders) > 1 and "" not in folders or set(SPLIT_FOLDERS) >= folders > {""}


def read_classes(path: Path) -> ImageTable:
    """Read `CLASS/...` or `train/CLASS/...`, `val/CLASS/...`; the attributes are the classes, in their order."""
    tree = open_tree(path)
    images, ignored = image_names(tree)
    if not images:
        raise DataError(f"{path}: no images there; expected a folder of images for each class")
    tops = {name.split("/", 1)[0] for name in images}
    with_splits = tops <= set(SPLIT_FOLDERS)
    depth = 2 if with_splits else 1
    loose = next((name for name in images if name.count("/") < depth), None)
    if loose is not None:
        raise DataError(f"{path / loose}: lies in no class folder; move it into one")
    of_row = [name.split("/")[depth - 1] for name in images]
    classes = tuple(sorted(set(of_row)))
    if len(classes) < 2:
        raise DataError(
            f"{path}: one class alone, {classes[0]!r}; a translator needs two, or use --layout images"
        )
    labels = (np.array(of_row)[:, None] == np.array(classes)[None]).astype(np.int8)
    splits = [SPLIT_FOLDERS[name.split("/", 1)[0]] for name in images] if with_splits else None
    return ImageTable(path, tree, "classes", classes, images, labels, splits, ignored)
