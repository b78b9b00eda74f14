"""WebDataset: tar archives in which the files of a sample share a name, `000123.jpg` and `000123.cls` or `.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from rgcluster.data.sources.files import Files
from rgcluster.data.sources.table import ImageTable
from rgcluster.data.sources.tabular import Columns, Sheet
from rgcluster.data.sources.trees.archives import TarTree
from rgcluster.data.sources.trees.places import Place
from rgcluster.data.sources.trees.tree import MAX_FILE_BYTES, split_name
from rgcluster.data.sources.words import splits_in
from rgcluster.errors import DataError, quoted

__all__ = ["TarsTree", "is_webdataset", "read_webdataset"]

CLASS, VALUES = ".cls", ".json"


class TarsTree:
    """The tar archives `names` of a folder as one tree: `ARCHIVE.tar/MEMBER`."""

    def __init__(self, folder: Path, archives: list[str]) -> None:
        self.folder, self.archives = folder, dict.fromkeys(archives)

    def __str__(self) -> str:
        return str(self.folder)

    def names(self) -> list[str]:
        return [
            f"{archive}/{name}"
            for archive in self.archives
            for name in TarTree(self.folder / archive).names()
        ]

    def head(self, name: str, count: int) -> bytes:
        archive, member = split_name(name, self.archives)
        return TarTree(self.folder / archive).head(member, count)

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        archive, member = split_name(name, self.archives)
        return TarTree(self.folder / archive).read(member, limit)


def is_webdataset(files: Files) -> bool:
    """Return whether the files of tar archives are samples: images with a class or values of the same name."""
    keys = {_key(name) for name in files.others if name.endswith((CLASS, VALUES))}
    return any(_key(name) in keys for name in files.images)


def read_webdataset(path: Place, files: Files, columns: Columns) -> ImageTable:
    """Read the samples of an archive, or of a folder of archives named after splits."""
    by_key: dict[str, str] = {}
    for name in files.images:
        if _key(name) in by_key:
            raise DataError(
                f"{files.tree}/{name}: a second image of its sample, after {by_key[_key(name)]}; remove one"
            )
        by_key[_key(name)] = name
    others = set(files.others)
    kinds = [kind for kind in (CLASS, VALUES) if any(f"{key}{kind}" in others for key in by_key)]
    if not kinds:
        raise DataError(
            f"{path}: no .cls or .json beside its images, so there are no labels; for images without labels use "
            "--layout images"
        )
    rows = []
    for key, name in by_key.items():
        row: dict[str, object] = {}
        for kind in kinds:
            if f"{key}{kind}" not in others:
                raise DataError(f"{files.tree}/{name}: its sample has no {kind}; add it or remove the sample")
            row |= _values(files, f"{key}{kind}", kind)
        rows.append(row)
    names = list(dict.fromkeys(column for row in rows for column in row))
    table = pa.table({name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names})
    sheet = Sheet(table, str(path), 1)
    chosen = columns
    if kinds == [CLASS] and not columns.attributes and not columns.classes:
        chosen = Columns(columns.file, columns.split, (), CLASS[1:])
    split_column, splits = sheet.splits(chosen)
    if splits is None and isinstance(files.tree, TarsTree):
        splits = splits_in(path, [split_name(name, files.tree.archives)[0] for name in files.images])
    labels = sheet.labels(chosen, [split_column] if split_column else [])
    used = {f"{key}{kind}" for key in by_key for kind in kinds}
    left_out = files.without(used).left_out()
    return ImageTable(
        path,
        files.tree,
        "webdataset",
        labels.names,
        files.images,
        labels.values,
        splits,
        labels.one_hot,
        left_out,
    )


def _key(name: str) -> str:
    """Return the key of a sample: the path up to the first dot of the last name."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _values(files: Files, name: str, kind: str) -> dict[str, object]:
    try:
        text = files.tree.read(name).decode()
        if kind == CLASS:
            return {CLASS[1:]: text.strip()}
        values = json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{files.tree}/{name}: cannot be read ({error})") from None
    if not isinstance(values, dict):
        raise DataError(
            f"{files.tree}/{name}: holds {quoted(values)}; expected an object of names and values"
        )
    return values


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
