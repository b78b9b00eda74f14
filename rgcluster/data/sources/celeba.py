"""CelebA as downloaded, from Kaggle, and CelebAMask-HQ: folders or zip archives, a table of attributes, a partition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice, repeat

import numpy as np
import numpy.typing as npt

from rgcluster.base.storage import Location
from rgcluster.data.sources.files import Files, files_of
from rgcluster.data.sources.matching import match_names
from rgcluster.data.sources.table import ImageTable, reject_repeats, reject_unlisted
from rgcluster.data.sources.tabular import Columns, decode_text, lines_of, parse_table
from rgcluster.data.sources.trees.places import Place, open_tree
from rgcluster.data.sources.trees.tree import Tree, content_of, folder_of
from rgcluster.data.sources.words import NUMBERED_SPLITS
from rgcluster.errors import DataError, cut, quoted
from rgcluster.faces.dataset import RECIPE_FILE

__all__ = ["ATTRIBUTES", "is_celeba", "read_celeba"]

ATTRIBUTES = "list_attr_celeba.txt"


@dataclass(frozen=True)
class _Release:
    """Names of a release's folder of images, table of attributes and partition."""

    images: str
    attributes: tuple[str, ...]
    partition: tuple[str, ...] = ()


_CELEBA = _Release(
    "img_align_celeba", (ATTRIBUTES, "list_attr_celeba.csv"),
    ("list_eval_partition.txt", "list_eval_partition.csv"),
)  # fmt: skip
_RELEASES = (_CELEBA, _Release("CelebA-HQ-img", ("CelebAMask-HQ-attribute-anno.txt",)))


def is_celeba(path: Place, files: Files) -> bool:
    """Return whether `path` holds tables or images of a release, or an archive with the tables beside it."""
    return any(_holds(release, path, files) for release in _RELEASES)


def _holds(release: _Release, path: Place, files: Files) -> bool:
    if any(_find(files.others, name) for name in release.attributes):
        return True
    if path.is_file() and not path.name.startswith(release.images):
        return _inside(release, files) is not None
    return (
        path.is_file()
        or _inside(release, files) is not None
        or any(name.endswith(f"{release.images}.zip") for name in files.others)
    )


def _inside(release: _Release, files: Files) -> str | None:
    """Return a folder with files of the release's images, which ends in a slash."""
    for folders in (files.folders, {folder_of(name) for name in files.others}):
        if found := [folder for folder in folders if f"/{release.images}/" in f"/{folder}"]:
            return min(found)
    return None


def read_celeba(path: Place, files: Files | None = None) -> ImageTable:
    """Read the tables of the folder or archive at `path`; DataError names the file, the line and the remedy.

    The images may lie in `img_align_celeba/` or `img_align_celeba.zip`, the tables beside them or, as in the
    published folders, in `Anno/` and `Eval/`, as text or as Kaggle's `.csv`. Without a partition file the split is
    left open.
    """
    if files is None:
        if not path.exists():
            raise DataError(
                f"{path}: no such folder; draw one with `rgcluster data faces {path} --count 4000`"
            )
        files = files_of(open_tree(path))
    release = next((release for release in _RELEASES if _holds(release, path, files)), _CELEBA)
    tables, table_names = files.tree, files.others
    if path.is_file() and not any(_find(table_names, name) for name in release.attributes):
        tables = open_tree(path.parent)  # img_align_celeba.zip itself
        table_names = list(Location(path.parent).sizes())
    attributes_at = _first(table_names, release.attributes)
    partition_at = _first(table_names, release.partition)
    used = [name for name in (attributes_at, partition_at, RECIPE_FILE) if name]
    images = _find_images(path, files.without(used), release)
    if attributes_at is None:
        raise DataError(
            f"{tables}/{release.attributes[0]}: missing; it comes with CelebA, beside {release.images}/"
        )
    source = f"{tables}/{attributes_at}"
    attributes, listed, labels = _read_attributes(source, _text(tables, attributes_at), attributes_at)
    remedy = "remove the row or add the file"
    present = images.images + images.others
    file_names = match_names(listed, present, images.tree, source, 3, remedy)
    known = set(file_names)
    reject_unlisted(images.tree, images.images, known, source)
    splits = None
    if partition_at is not None:
        where = f"{tables}/{partition_at}"
        splits = _read_partition(where, _text(tables, partition_at), partition_at, listed)
    left_out = images.without(known).left_out()
    return ImageTable(path, images.tree, "celeba", attributes, file_names, labels, splits, left_out=left_out)


def _find(names: list[str], wanted: str) -> str | None:
    """Return the shortest path that ends in `wanted`."""
    fitting = [name for name in names if name.rsplit("/", 1)[-1] == wanted]
    return min(fitting, key=lambda name: name.count("/"), default=None)


def _first(names: list[str], wanted: tuple[str, ...]) -> str | None:
    return next((found for name in wanted if (found := _find(names, name))), None)


def _find_images(path: Place, files: Files, release: _Release) -> Files:
    """Return the tree of the images."""
    inside = _inside(release, files)
    if inside is not None:
        # Some archives hold the folder within a folder of the same name: the innermost counts.
        marker = f"{release.images}/"
        return files.below(inside[: inside.rfind(marker) + len(marker)])
    archive = _find(files.others, f"{release.images}.zip")
    if archive is not None and path.is_dir():
        packed = path / archive
        return _find_images(packed, files_of(open_tree(packed)), release)
    if path.is_file() and files.images:
        return files
    there = f", images lie in {', '.join(sorted(files.tops)[:3]) or '.'}" if files.images else ""
    raise DataError(
        f"{path / release.images}: no images there{there}; expected CelebA's layout, {release.images}/000001.jpg and "
        f"so on, or {release.images}.zip"
    )


def _text(tree: Tree, name: str) -> str:
    return decode_text(content_of(tree, name), f"{tree}/{name}")


def _read_attributes(
    source: str, text: str, name: str
) -> tuple[tuple[str, ...], list[str], npt.NDArray[np.int8]]:
    """Return attributes [A], file names [N] and labels [N, A]."""
    if name.endswith(".csv"):
        sheet = parse_table(text.encode(), name, source)
        column, files = sheet.files(Columns())
        reject_repeats(source, files, count(sheet.first_line))
        labels = sheet.labels(Columns(), [column])
        return labels.names, files, labels.values
    (first, number), (second, names) = islice(chain(lines_of(text), repeat((0, ""))), 2)
    rows = sum(1 for _ in _rows(text))
    if (first, second) != (1, 2) or not number.strip().isdecimal() or not rows:
        raise DataError(f"{source}: line 1 must be the number of rows and line 2 the attribute names")
    attributes = tuple(names.split())
    if len(set(attributes)) != len(attributes):
        raise DataError(f"{source}: line 2 names an attribute twice")
    if rows != int(number):
        raise DataError(f"{source}: line 1 says {number.strip()} rows, the file holds {rows}; fetch it again")
    return attributes, *_read_rows(source, text, len(attributes))


def _rows(text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of files."""
    return islice(lines_of(text), 2, None)


def _read_rows(source: str, text: str, columns: int) -> tuple[list[str], npt.NDArray[np.int8]]:
    """Return file names [N] and labels [N, columns]."""
    names: list[str] = []
    signs = bytearray()
    allowed = {"-1", "0", "1"}
    for number, row in _rows(text):
        name, *values = row.split()
        if len(values) != columns:
            raise DataError(
                f"{source}: line {number} ({cut(name)}) has {len(values)} values for {columns} names; "
                "repair the row or fetch the file again"
            )
        if not allowed.issuperset(values):
            bad = next(value for value in values if value not in allowed)
            raise DataError(f"{source}: line {number} ({cut(name)}) holds {quoted(bad)}; expected -1, 0 or 1")
        names.append(name)
        signs += "".join(values).replace("-1", "0").encode()
    reject_repeats(source, names, (number for number, _ in _rows(text)))
    labels = np.frombuffer(signs, np.int8).reshape(-1, columns)
    labels -= ord("0")
    return names, labels


def _read_partition(source: str, text: str, name: str, listed: list[str]) -> list[str]:
    if name.endswith(".csv"):
        sheet = parse_table(text.encode(), name, source)
        _, files = sheet.files(Columns())
        _, splits = sheet.splits(Columns())
        if splits is None:
            raise DataError(f"{source}: no column partition; fetch the file again")
        reject_repeats(source, files, count(sheet.first_line))
        split_of = dict(zip(files, splits, strict=True))
    else:
        split_of = {}
        for number, line in lines_of(text):
            file, *values = line.split()
            if len(values) != 1 or values[0] not in NUMBERED_SPLITS:
                raise DataError(f"{source}: line {number} must be a file name and 0, 1 or 2")
            if file in split_of:
                raise DataError(f"{source}: line {number} lists {cut(file)} again; remove one row")
            split_of[file] = NUMBERED_SPLITS[values[0]]
    missing = next((file for file in listed if file not in split_of), None)
    if missing is not None:
        raise DataError(f"{source}: no row for {cut(missing)}; add it, or remove the file to split at random")
    return [split_of[file] for file in listed]
