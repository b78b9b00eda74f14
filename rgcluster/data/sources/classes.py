"""A folder for each class, as in AFHQ. Classes are one-hot domains."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from rgcluster.data.sources.files import Files
from rgcluster.data.sources.table import ImageTable
from rgcluster.data.sources.tabular import one_hot
from rgcluster.data.sources.words import resembles_split, split_and_domain, split_of
from rgcluster.errors import DataError

__all__ = ["common_folder", "looks_like_classes", "read_classes", "require_no_doubt"]

IMAGES = frozenset(("image", "images", "img", "imgs", "jpegimages"))
"""Names of folders that say nothing of their images."""


def common_folder(files: Files) -> str:
    """Return the prefix of the deepest folder that holds all images.

    A folder that names a split does not count, because its name is a label of the images.
    """
    prefix = ""
    paths = [name.split("/") for name in files.images]
    depth = 0
    while paths and all(len(path) > depth + 2 and path[depth] == paths[0][depth] for path in paths):
        top = paths[0][depth]
        if split_of(top) or split_and_domain(top):
            break
        prefix += f"{top}/"
        depth += 1
    return prefix


def looks_like_classes(files: Files) -> bool:
    """Return whether the images, those below the folder that holds them all, lie in a folder for each class."""
    folders = files.tops
    return "" not in folders and (len(folders) > 1 or any(map(split_of, folders)))


def require_no_doubt(files: Files, source: Path) -> None:
    """Raise DataError where some folders could be classes, or splits, and something beside them is neither.

    `files` are those below the folder that holds them all.
    """
    folders = files.tops - {""}
    loose = next((name for name in files.images if "/" not in name), None)
    if loose is not None and (len(folders) > 1 or any(map(split_of, folders))):
        raise DataError(
            f"{source}: {loose} lies beside the folders {' and '.join(sorted(folders)[:2])}; move it into one if they "
            "are classes, or give --layout images if none of the images has a label"
        )
    splits = sorted(name for name in folders if split_of(name) or split_and_domain(name))
    others = sorted(folders - set(splits))
    if splits and others:
        raise DataError(
            f"{source}: {splits[0]} names a split and {others[0]} does not; rename {others[0]} if it is one too, "
            "remove it, or give --layout classes if each folder is a class"
        )
    if len(folders) < 2:
        return
    first, second = sorted(folders)[:2]
    if all(map(resembles_split, folders)) and not (
        all(map(split_of, folders)) or all(map(split_and_domain, folders))
    ):
        raise DataError(
            f"{source}: {first} and {second} could name splits; rename them like train/CLASS and test/CLASS, or trainA "
            "and testA, or give --layout classes if each folder is a class"
        )
    if plain := next((name for name in sorted(folders) if name.casefold() in IMAGES), None):
        other = min(folders - {plain})
        raise DataError(
            f"{source}: {plain} hardly names a class, so {other} beside it may be none either; move away what is not "
            "to be trained on, or give --layout classes if each folder is a class"
        )
    inner = {
        top: {name.split("/")[1] for name in files.images if name.startswith(f"{top}/")} for top in folders
    }
    shared = set.intersection(*inner.values())
    if (
        all(name.count("/") > 1 for name in files.images)
        and len(shared) > 1
        and not any(map(split_of, folders | shared))
    ):
        raise DataError(
            f"{source}: the folders {' and '.join(sorted(shared)[:2])} lie in each of {first} and {second}; give "
            f"--layout classes if {first} and {second} are the classes, or swap the folders"
        )


def read_classes(path: Path, files: Files) -> ImageTable:
    """Read `CLASS/...`, `train/CLASS/...`, `CLASS/train/...` or `trainA/...`; the attributes are the classes."""
    if not files.images:
        raise DataError(f"{path}: no images there; expected a folder of images for each class")
    files = files.below(common_folder(files))
    tops = files.tops
    loose = next((name for name in files.images if "/" not in name), None)
    if loose is not None:
        raise DataError(f"{path / loose}: lies in no class folder; move it into one")
    splits: list[str] | None
    paths = [name.split("/")[:-1] for name in files.images]
    if all(map(split_of, tops)):
        splits, of_row = _below_splits(path, files.images)
    elif all(map(split_and_domain, tops)):
        pairs = [split_and_domain(path[0]) or ("", "") for path in paths]
        splits, of_row = [split for split, _ in pairs], [domain for _, domain in pairs]
    else:
        of_row = [path[0] for path in paths]
        inner = [split_of(path[1]) if len(path) > 1 else None for path in paths]
        splits = [split for split in inner if split] if all(inner) else None
    # Systems encode the same accented name in different ways.
    of_row = [unicodedata.normalize("NFC", name) for name in of_row]
    labels = one_hot(of_row, sorted(set(of_row)), str(path))
    return ImageTable(
        path, files.tree, "classes", labels.names, files.images, labels.values, splits, labels.one_hot,
        files.left_out(),
    )  # fmt: skip


def _below_splits(path: Path, images: list[str]) -> tuple[list[str], list[str]]:
    """Return split and class of images in `SPLIT/CLASS/...`; `SPLIT/SPLIT` and `SPLIT/images` count as one folder."""
    wrapped: dict[str, bool] = {}
    for name in images:
        top, *rest = name.split("/")[:-1]
        idle = len(rest) > 1 and (split_of(rest[0]) == split_of(top) or rest[0].casefold() in IMAGES)
        wrapped[top] = wrapped.get(top, True) and idle
    splits, classes = [], []
    for name in images:
        top, *rest = name.split("/")[:-1]
        rest = rest[wrapped[top] :]
        if not rest:
            raise DataError(
                f"{path / name}: lies in the folder of a split, but in no class folder; move it into one, "
                "give a table of labels, or --layout images if the images have none"
            )
        splits.append(split_of(top) or "")
        classes.append(rest[0])
    return splits, classes
