"""Parquet files with images, as Hugging Face writes them: `{bytes, path}` beside the labels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rgcluster.base.storage import Location
from rgcluster.data.sources.files import Files
from rgcluster.data.sources.table import ImageTable
from rgcluster.data.sources.tabular import Columns, Sheet
from rgcluster.data.sources.trees.places import Place
from rgcluster.data.sources.trees.tree import MAX_FILE_BYTES, limit_size, split_name
from rgcluster.data.sources.words import splits_in
from rgcluster.errors import DataError

__all__ = ["ParquetTree", "holds_images", "read_embedded"]


class ParquetTree:
    """The images in a column of Parquet `files` below a folder: `FILE/ROW`, and `FILE/ROW/NAME` where it has one."""

    def __init__(self, folder: Path, column: str, files: Iterable[str], images: list[str]) -> None:
        self.folder, self.column, self._files, self._images = folder, column, frozenset(files), images

    def __str__(self) -> str:
        return str(self.folder)

    def __reduce__(self) -> tuple[Any, ...]:
        # Names of images are sent with the rows that need them.
        return ParquetTree, (self.folder, self.column, self._files, [])

    def names(self) -> list[str]:
        return self._images

    def head(self, name: str, count: int) -> bytes:
        return self.read(name)[:count]

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        file, rest = split_name(name, self._files)
        row = int(rest.split("/", 1)[0])
        path = str(self.folder / file)
        starts = _group_starts(path)
        group = next(number for number in reversed(range(len(starts))) if starts[number] <= row)
        value = _group(path, group, self.column)[row - starts[group]].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise OSError("no bytes in this row")
        limit_size(len(content), limit)
        return bytes(content)


def holds_images(place: Place) -> bool:
    """Return whether a Parquet file holds images, rather than names of files."""
    try:
        with Location(place).open_file() as file:
            return bool(_image_columns(pq.read_schema(file)))
    except (OSError, pa.ArrowException):
        return False  # the reader of tables reports the reason


def read_embedded(path: Place, names: list[str], columns: Columns, files: Files | None = None) -> ImageTable:
    """Read the Parquet files called `names` below the folder `path`, or the one file `path` if there are none.

    The split is that in the files' or folders' names, unless a column has it.
    """
    if isinstance(path, Location):
        raise DataError(f"{path}: Parquet files that hold images are read from a disk; copy them there")
    folder = path if names else path.parent
    parts, images, counts = [], [], []
    column = ""
    for name in names or [path.name]:
        try:
            schema = pq.read_schema(folder / name)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{folder / name}: cannot be read as Parquet ({error}); fetch it again") from None
        found = _image_columns(schema)
        if columns.file and columns.file not in found or not found:
            raise DataError(
                f"{folder / name}: no column of images {columns.file or ''}".rstrip()
                + _HAS % ", ".join(schema.names)
            )
        if len(found) > 1 and not columns.file:
            raise DataError(
                f"{folder / name}: columns {' and '.join(found)} hold images; choose with --file-column"
            )
        column = columns.file or found[0]
        others = [field.name for field in schema if field.name != column]
        parts.append(pq.ParquetFile(folder / name).read(columns=others) if others else None)
        paths = _paths(folder / name, schema, column)
        images += [f"{name}/{row}" + (f"/{path}" if path else "") for row, path in enumerate(paths)]
        counts.append(len(paths))
    if not images:
        raise DataError(f"{path}: no rows")
    tables = [part for part in parts if part is not None]
    if not tables:
        raise DataError(
            f"{path}: no column but the images'; for images without labels unpack them into a folder"
        )
    try:
        rows = pa.concat_tables(tables)
    except pa.ArrowException:
        raise DataError(
            f"{path}: its files have different columns; give one of them, or one folder of them"
        ) from None
    sheet = Sheet(rows, str(path), 1, _class_names(rows.schema))
    split_column, own = sheet.splits(columns)
    if own is None and names and (of_file := splits_in(folder, names)):
        own = [split for split, count in zip(of_file, counts, strict=True) for _ in range(count)]
    labels = sheet.labels(columns, [split_column] if split_column else [])
    tree = ParquetTree(folder, column, names or [path.name], images)
    left_out = files.without(names).left_out() if files else {}
    return ImageTable(path, tree, "table", labels.names, images, labels.values, own, labels.one_hot, left_out)


_HAS = "; it has %s"


def _image_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _holds_bytes(field.type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _paths(path: Path, schema: pa.Schema, column: str) -> list[str | None]:
    """Return the name that each row gives its image, or none."""
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        rows = pq.ParquetFile(path).read(columns=[f"{column}.path"])[column]
        return [value and value.get("path") for value in rows.to_pylist()]
    return [None] * pq.read_metadata(path).num_rows


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes of each column that has them in the metadata of `datasets`."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about.get("info", {}).get("features", {})
        return {
            name: tuple(kind["names"]) for name, kind in features.items() if kind.get("_type") == "ClassLabel"
        }
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}


@lru_cache(maxsize=64)
def _group_starts(path: str) -> list[int]:
    metadata = pq.read_metadata(path)
    starts = [0]
    for group in range(metadata.num_row_groups - 1):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return starts


@lru_cache(maxsize=2)
def _group(path: str, group: int, column: str) -> pa.ChunkedArray:
    try:
        return pq.ParquetFile(path).read_row_group(group, columns=[column])[column]
    except pa.ArrowException as error:
        raise OSError(f"damaged: {str(error).splitlines()[0]}") from None
