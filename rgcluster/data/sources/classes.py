"""A folder for each class, as in AFHQ. Classes are one-hot domains."""

from __future__ import annotations

import unicodedata

from rgcluster.data.sources.files import Files
from rgcluster.data.sources.table import ImageTable
from rgcluster.data.sources.tabular import one_hot
from rgcluster.data.sources.trees.places import Place
from rgcluster.data.sources.trees.tree import folder_of
from rgcluster.data.sources.words import resembles_split, split_and_domain, split_of
from rgcluster.errors import DataError

__all__ = ["common_folder", "looks_like_classes", "read_classes", "require_no_doubt"]

IMAGES = frozenset(("image", "images", "img", "imgs", "jpegimages"))
"""Names of folders that say nothing of their images."""


def common_folder(files: Files) -> str:
    """Return the prefix of the deepest folder that holds all images.

    A folder that names a split does not count, because its name is a label of the images.
    """
    if not files.images:
        return ""
    # In alphabetical order all others lie between these two, and share the folders that these share.
    first, last = min(files.folders).split("/"), max(files.folders).split("/")
    depth = min(folder.count("/") for folder in files.folders)
    prefix = ""
    for top, same, _ in zip(first, last, range(depth - 1), strict=False):  # at least one folder remains
        if top != same or split_of(top) or split_and_domain(top):
            break
        prefix += f"{top}/"
    return prefix


def looks_like_classes(files: Files) -> bool:
    """Return whether the images, those below the folder that holds them all, lie in a folder for each class."""
    folders = files.tops
    return "" not in folders and (len(folders) > 1 or any(map(split_of, folders)))


def require_no_doubt(files: Files, source: Place) -> None:
    """Raise DataError where some folders could be classes, or splits, and something beside them is neither.

    `files` are those below the folder that holds them all.
    """
    folders = files.tops - {""}
    loose = _loose(files)
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
    if any(folder.count("/") < 2 for folder in files.folders):
        return
    inner: dict[str, set[str]] = {}
    for folder in files.folders:
        top, below, *_ = folder.split("/")
        inner.setdefault(top, set()).add(below)
    shared = set.intersection(*inner.values())
    if len(shared) > 1 and not any(map(split_of, folders | shared)):
        raise DataError(
            f"{source}: the folders {' and '.join(sorted(shared)[:2])} lie in each of {first} and {second}; give "
            f"--layout classes if {first} and {second} are the classes, or swap the folders"
        )


def read_classes(path: Place, files: Files) -> ImageTable:
    """Read `CLASS/...`, `train/CLASS/...`, `CLASS/train/...` or `trainA/...`; the attributes are the classes."""
    if not files.images:
        raise DataError(f"{path}: no images there; expected a folder of images for each class")
    files = files.below(common_folder(files))
    loose = _loose(files)
    if loose is not None:
        raise DataError(f"{path / loose}: lies in no class folder; move it into one")
    if all(map(split_of, files.tops)):
        of_folder = _below_splits(path, files)
    elif all(map(split_and_domain, files.tops)):
        of_folder = {
            folder: split_and_domain(folder.partition("/")[0]) or ("", "") for folder in files.folders
        }
    else:
        of_folder = {folder: _class_above_split(folder) for folder in files.folders}
    # Systems encode the same accented name in different ways.
    of_folder = {
        folder: (split, unicodedata.normalize("NFC", name)) for folder, (split, name) in of_folder.items()
    }
    classes = sorted({name for _, name in of_folder.values()})
    labels = one_hot((of_folder[folder_of(name)][1] for name in files.images), classes, str(path))
    splits = None
    if all(split for split, _ in of_folder.values()):
        splits = [of_folder[folder_of(name)][0] for name in files.images]
    return ImageTable(
        path, files.tree, "classes", labels.names, files.images, labels.values, splits, labels.one_hot,
        files.left_out(),
    )  # fmt: skip


def _loose(files: Files) -> str | None:
    """Return an image that lies in no folder."""
    return next((name for name in files.images if "/" not in name), None) if "" in files.folders else None


def _class_above_split(folder: str) -> tuple[str, str]:
    """Return split, or the empty string, and class of the images in a folder `CLASS/SPLIT/...` or `CLASS/...`."""
    name, below, *_ = folder.split("/")
    return split_of(below) or "", name


def _below_splits(path: Place, files: Files) -> dict[str, tuple[str, str]]:
    """Return split and class of the images in each folder `SPLIT/CLASS/...`.

    `SPLIT/SPLIT` and `SPLIT/images` count as one folder where all images of the split lie there.
    """
    wrapped: dict[str, bool] = {}
    for folder in files.folders:
        top, *rest = folder.split("/")[:-1]
        idle = len(rest) > 1 and (split_of(rest[0]) == split_of(top) or rest[0].casefold() in IMAGES)
        wrapped[top] = wrapped.get(top, True) and idle
    found = {}
    for folder in files.folders:
        top, *rest = folder.split("/")[:-1]
        found[folder] = split_of(top) or "", "".join(rest[wrapped[top] :][:1])
    name = next((name for name in files.images if not found[folder_of(name)][1]), None)
    if name is not None:
        raise DataError(
            f"{path / name}: lies in the folder of a split, but in no class folder; move it into one, "
            "give a table of labels, or --layout images if the images have none"
        )
    return found
