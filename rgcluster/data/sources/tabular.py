"""A CSV or Parquet table: a column of files, columns of attributes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from rgcluster.base.attributes import nearest
from rgcluster.data.sources.table import SPLITS, ImageTable, reject_repeats, reject_unlisted
from rgcluster.data.sources.tree import open_tree
from rgcluster.errors import DataError

__all__ = ["Columns", "TABLE_SUFFIXES", "read_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
FILE_COLUMNS = ("file", "file_name", "filename", "image", "image_id", "image_path", "path")
SPLIT_COLUMNS = ("split", "partition")
SPLIT_WORDS = {
    "train": "train", "training": "train", "0": "train", "val": "val", "valid": "val", "validation": "val",
    "1": "val", "test": "test", "2": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Which columns mean what; what is not given is found by its usual name."""

    file: str | None = None
    split: str | None = None
    attributes: tuple[str, ...] = ()


def read_table(path: Path, images: Path | None, columns: Columns) -> ImageTable:
    """Read the table at `path`, its files in the folder or archive `images` (the table's own folder if None)."""
    table = _read(path)
    names = table.column_names
    file_column = columns.file or next((name for name in FILE_COLUMNS if name in names), None)
    if file_column is None:
        raise DataError(
            f"{path}: no column {' or '.join(FILE_COLUMNS)}; name the column of files with --file-column"
        )
    split_column = columns.split or next((name for name in SPLIT_COLUMNS if name in names), None)
    others = [name for name in names if name not in (file_column, split_column)]
    attributes = columns.attributes or tuple(others)
    for name in (file_column, *((split_column,) if split_column else ()), *attributes):
        if name not in names:
            raise DataError(f"{path}: no column {name!r}{nearest(name, names)}; it has {', '.join(names)}")
    if not attributes:
        raise DataError(f"{path}: no column of attributes; for images without labels use --layout images")
    files = [str(value) for value in table[file_column].to_pylist()]
    if not files:
        raise DataError(f"{path}: no rows")
    reject_repeats(str(path), files, first_line=2)
    tree = open_tree(images or path.parent)
    on_disk = tree.names()
    present = set(on_disk)
    missing = next((line for line, name in enumerate(files, start=2) if name not in present), None)
    if missing is not None:
        where = f"{path}: line {missing} lists {files[missing - 2]}, which is not in {tree}"
        raise DataError(f"{where}; remove the row, add the file, or say with --images where the files lie")
    listed = set(files)
    if images is not None:
        reject_unlisted(tree, on_disk, listed, str(path))
    labels = np.stack([_labels(path, table, name) for name in attributes], axis=1)
    splits = _splits(path, table, split_column) if split_column else None
    ignored = tuple(name for name in on_disk if name not in listed and name != path.name)
    return ImageTable(path, tree, "table", tuple(attributes), files, labels, splits, ignored)


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return pyarrow.parquet.read_table(path)
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        table = pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter=separator))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: cannot be read as a table ({str(error).splitlines()[0]}); write it again"
        ) from None
    repeated = {name for name in table.column_names if table.column_names.count(name) > 1}
    if repeated:
        raise DataError(f"{path}: the column {sorted(repeated)[0]!r} comes twice; remove one")
    return table


def _labels(path: Path, table: pa.Table, name: str) -> npt.NDArray[np.int8]:
    column = table[name]
    if not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise DataError(
            f"{path}: column {name!r} holds {column.type}, an attribute -1, 0 or 1; "
            "choose the columns with --attributes"
        )
    values = pc.cast(column, pa.int64())
    bad = pc.invert(pc.fill_null(pc.is_in(values, pa.array([-1, 0, 1])), False))
    rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False) if isinstance(bad, pa.Array) else bad.to_numpy())
    if rows.size:
        raise DataError(
            f"{path}: line {rows[0] + 2}, column {name!r} holds {values[int(rows[0])]}; expected -1, 0 or 1"
        )
    return (values.to_numpy() == 1).astype(np.int8)


def _splits(path: Path, table: pa.Table, name: str) -> list[str]:
    splits = []
    for line, value in enumerate(table[name].to_pylist(), start=2):
        split = SPLIT_WORDS.get(str(value).lower())
        if split is None:
            raise DataError(
                f"{path}: line {line}, column {name!r} holds {value!r}; expected {', '.join(SPLITS)}"
            )
        splits.append(split)
    return splits
