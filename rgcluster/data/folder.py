"""CelebA's layout on disk: `img_align_celeba/`, `list_attr_celeba.txt`, `list_eval_partition.txt`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rgcluster.errors import DataError

__all__ = ["SPLITS", "CelebaFolder", "read_celeba"]

SPLITS = ("train", "val", "test")
IMAGES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"


@dataclass(frozen=True)
class CelebaFolder:
    """A CelebA folder, its tables read: names [N], labels int8 [N, A] in {0, 1}, split [N]."""

    path: Path
    attributes: tuple[str, ...]
    file_names: list[str]
    labels: npt.NDArray[np.int8]
    splits: list[str]

    def image_path(self, index: int) -> Path:
        return self.path / IMAGES / self.file_names[index]


def read_celeba(path: Path) -> CelebaFolder:
    """Read the tables of the folder at `path`; DataError names the file, the line and the remedy.

    Without a partition file the split is decided when the shards are written.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder; draw one with `rgcluster data faces {path} --count 4000`")
    if not (path / IMAGES).is_dir() or not any((path / IMAGES).iterdir()):
        raise DataError(
            f"{path / IMAGES}: no images there; expected CelebA's layout, {IMAGES}/000001.jpg and so on"
        )
    attributes, names, labels = _read_attributes(path / ATTRIBUTES)
    on_disk = {item.name for item in (path / IMAGES).iterdir()}
    missing = next((name for name in names if name not in on_disk), None)
    if missing is not None:
        raise DataError(
            f"{path / ATTRIBUTES}: lists {missing}, which is not in {path / IMAGES}; remove the row or add the file"
        )
    splits = _read_partition(path / PARTITION, names) if (path / PARTITION).exists() else []
    return CelebaFolder(path, attributes, names, labels, splits)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: missing; it comes with CelebA, beside {IMAGES}/") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file; fetch it again") from None


def _read_attributes(path: Path) -> tuple[tuple[str, ...], list[str], npt.NDArray[np.int8]]:
    lines = _read_lines(path)
    if len(lines) < 3 or not lines[0].strip().isdecimal():
        raise DataError(f"{path}: line 1 must be the number of rows and line 2 the attribute names")
    attributes = tuple(lines[1].split())
    if len(set(attributes)) != len(attributes):
        raise DataError(f"{path}: line 2 names an attribute twice")
    rows = [(number, line) for number, line in enumerate(lines[2:], start=3) if line.strip()]
    if len(rows) != int(lines[0]):
        raise DataError(
            f"{path}: line 1 says {lines[0].strip()} rows, the file holds {len(rows)}; fetch it again"
        )
    line_of: dict[str, int] = {}
    labels = np.empty((len(rows), len(attributes)), np.int8)
    for index, (number, row) in enumerate(rows):
        name, *values = row.split()
        if len(values) != len(attributes):
            raise DataError(
                f"{path}: line {number} ({name}) has {len(values)} values for {len(attributes)} names; "
                "repair the row or fetch the file again"
            )
        bad = next((value for value in values if value not in ("-1", "0", "1")), None)
        if bad is not None:
            raise DataError(f"{path}: line {number} ({name}) holds {bad!r}; expected -1, 0 or 1")
        if name in line_of:
            raise DataError(
                f"{path}: line {number} lists {name} again, after line {line_of[name]}; remove one"
            )
        line_of[name] = number
        labels[index] = [value == "1" for value in values]
    return attributes, list(line_of), labels


def _read_partition(path: Path, names: list[str]) -> list[str]:
    split_of = {}
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        name, *values = line.split()
        if len(values) != 1 or values[0] not in ("0", "1", "2"):
            raise DataError(f"{path}: line {number} must be a file name and 0, 1 or 2")
        if name in split_of:
            raise DataError(f"{path}: line {number} lists {name} again; remove one row")
        split_of[name] = SPLITS[int(values[0])]
    missing = next((name for name in names if name not in split_of), None)
    if missing is not None:
        raise DataError(f"{path}: no row for {missing}; add it, or remove the file to split by hash")
    return [split_of[name] for name in names]
