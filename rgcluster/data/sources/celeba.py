"""CelebA as downloaded: folders or zip archives, `list_attr_celeba.txt`, `list_eval_partition.txt`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rgcluster.data.sources.table import SPLITS, ImageTable, reject_unlisted
from rgcluster.data.sources.tree import Tree, ZipTree, is_image_name, open_tree
from rgcluster.errors import DataError

__all__ = ["ATTRIBUTES", "is_celeba", "read_celeba"]

IMAGES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"


@dataclass(frozen=True)
class _Images:
    """A folder within a tree, as a tree of its own: names without the folder's."""

    tree: Tree
    prefix: str

    def __str__(self) -> str:
        return f"{self.tree}/{self.prefix}".rstrip("/")

    def names(self) -> list[str]:
        cut = len(self.prefix)
        return [name[cut:] for name in self.tree.names() if name.startswith(self.prefix)]

    def read(self, name: str) -> bytes:
        return self.tree.read(self.prefix + name)


def is_celeba(path: Path) -> bool:
    """Return whether the tables of CelebA lie in the folder or archive at `path`, or beside the archive."""
    if path.is_dir():
        return any((path / below / ATTRIBUTES).exists() for below in ("", "Anno")) or (path / IMAGES).is_dir()
    if path.suffix.lower() != ".zip" or not path.exists():
        return False
    return (path.parent / ATTRIBUTES).exists() or any(
        name.rsplit("/", 1)[-1] == ATTRIBUTES for name in ZipTree(path).names()
    )


def read_celeba(path: Path) -> ImageTable:
    """Read the tables of the folder or archive at `path`; DataError names the file, the line and the remedy.

    The images may lie in `img_align_celeba/` or `img_align_celeba.zip`, the tables beside them or, as in the
    published folders, in `Anno/` and `Eval/`. Without a partition file the split is left open.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder; draw one with `rgcluster data faces {path} --count 4000`")
    tree = open_tree(path)
    names = tree.names()
    tables: Tree = tree
    table_names = names
    if path.is_file() and _find(names, ATTRIBUTES) is None:  # img_align_celeba.zip itself
        tables = open_tree(path.parent)
        table_names = [item.name for item in path.parent.iterdir() if item.is_file()]
    images, on_disk = _find_images(path, tree, names)
    found = _find(table_names, ATTRIBUTES)
    if found is None:
        raise DataError(f"{tables}/{ATTRIBUTES}: missing; it comes with CelebA, beside {IMAGES}/")
    source = f"{tables}/{found}"
    attributes, file_names, labels = _read_attributes(source, _lines(tables, found))
    listed, present = set(file_names), set(on_disk)
    missing = next((name for name in file_names if name not in present), None)
    if missing is not None:
        raise DataError(
            f"{source}: lists {missing}, which is not in {images}; remove the row or add the file"
        )
    reject_unlisted(images, on_disk, listed, source)
    partition = _find(table_names, PARTITION)
    splits = None
    if partition is not None:
        splits = _read_partition(f"{tables}/{partition}", _lines(tables, partition), file_names)
    ignored = tuple(name for name in on_disk if name not in listed)
    return ImageTable(path, images, "celeba", attributes, file_names, labels, splits, ignored)


def _find(names: list[str], wanted: str) -> str | None:
    """Return the path that ends in `wanted`, the shallowest of them."""
    fitting = [name for name in names if name.rsplit("/", 1)[-1] == wanted]
    return min(fitting, key=lambda name: name.count("/"), default=None)


def _find_images(path: Path, tree: Tree, names: list[str]) -> tuple[Tree, list[str]]:
    """Return the tree of images and the names in it."""
    marker = f"{IMAGES}/"
    inside = [name for name in names if f"/{name}".find(f"/{marker}") >= 0]
    if inside:
        # Some archives hold the folder within a folder of the same name: the innermost counts.
        prefix = inside[0][: inside[0].rfind(marker) + len(marker)]
        return _Images(tree, prefix), [name[len(prefix) :] for name in inside if name.startswith(prefix)]
    archive = _find(names, f"{IMAGES}.zip")
    if archive is not None and path.is_dir():
        packed = ZipTree(path / archive)
        return _find_images(packed.path, packed, packed.names())
    if path.is_file() and any(is_image_name(name) for name in names):
        return tree, names
    raise DataError(
        f"{path / IMAGES}: no images there; expected CelebA's layout, {IMAGES}/000001.jpg and so on, "
        f"or {IMAGES}.zip"
    )


def _lines(tree: Tree, name: str) -> list[str]:
    try:
        return tree.read(name).decode().splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{tree}/{name}: not a text file; fetch it again") from None
    except OSError as error:
        raise DataError(f"{tree}/{name}: cannot be read ({error.strerror or error})") from None


def _read_attributes(
    source: str, lines: list[str]
) -> tuple[tuple[str, ...], list[str], npt.NDArray[np.int8]]:
    if len(lines) < 3 or not lines[0].strip().isdecimal():
        raise DataError(f"{source}: line 1 must be the number of rows and line 2 the attribute names")
    attributes = tuple(lines[1].split())
    if len(set(attributes)) != len(attributes):
        raise DataError(f"{source}: line 2 names an attribute twice")
    rows = [(number, line) for number, line in enumerate(lines[2:], start=3) if line.strip()]
    if len(rows) != int(lines[0]):
        raise DataError(
            f"{source}: line 1 says {lines[0].strip()} rows, the file holds {len(rows)}; fetch it again"
        )
    line_of: dict[str, int] = {}
    labels = np.empty((len(rows), len(attributes)), np.int8)
    allowed = {"-1", "0", "1"}
    for index, (number, row) in enumerate(rows):
        name, *values = row.split()
        if len(values) != len(attributes):
            raise DataError(
                f"{source}: line {number} ({name}) has {len(values)} values for {len(attributes)} names; "
                "repair the row or fetch the file again"
            )
        if not allowed.issuperset(values):
            bad = next(value for value in values if value not in allowed)
            raise DataError(f"{source}: line {number} ({name}) holds {bad!r}; expected -1, 0 or 1")
        if name in line_of:
            raise DataError(
                f"{source}: line {number} lists {name} again, after line {line_of[name]}; remove one"
            )
        line_of[name] = number
        labels[index] = [value == "1" for value in values]
    return attributes, list(line_of), labels


def _read_partition(source: str, lines: list[str], names: list[str]) -> list[str]:
    split_of = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *values = line.split()
        if len(values) != 1 or values[0] not in ("0", "1", "2"):
            raise DataError(f"{source}: line {number} must be a file name and 0, 1 or 2")
        if name in split_of:
            raise DataError(f"{source}: line {number} lists {name} again; remove one row")
        split_of[name] = SPLITS[int(values[0])]
    missing = next((name for name in names if name not in split_of), None)
    if missing is not None:
        raise DataError(f"{source}: no row for {missing}; add it, or remove the file to split at random")
    return [split_of[name] for name in names]
