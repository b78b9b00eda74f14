"""Tables of images: a separate file, or tables beside the images of a folder or archive."""

from __future__ import annotations

from itertools import count
from pathlib import PurePosixPath

import pyarrow as pa

from rgcluster.data.sources.embedded import holds_images, read_embedded
from rgcluster.data.sources.files import Files, LeftOut, files_of
from rgcluster.data.sources.matching import match_names
from rgcluster.data.sources.table import ImageTable, reject_repeats, reject_unlisted
from rgcluster.data.sources.tabular import Columns, Sheet, parse_table
from rgcluster.data.sources.trees.places import Place, open_tree
from rgcluster.data.sources.trees.tree import content_of, folder_of
from rgcluster.data.sources.words import split_of
from rgcluster.errors import DataError

__all__ = ["is_metadata", "read_beside", "read_table", "tables_beside", "workbooks"]

METADATA = "metadata"
"""Stem of the tables in Hugging Face's image folders."""
WORKBOOKS = (".xlsx", ".xls", ".ods")
NO_ROW = "images without a row"


def read_table(path: Place, images: Place | None, columns: Columns) -> ImageTable:
    """Read the table at `path`, its files in the folder or archive `images` (the table's own folder if None).

    A Parquet table may hold the images itself.
    """
    if path.name.lower().endswith(".parquet") and holds_images(path):
        return read_embedded(path, [], columns)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {'no such file' if not path.exists() else error.strerror}") from None
    sheet = parse_table(content, path.name, str(path))
    files = files_of(open_tree(images or path.parent))
    own = {path.name} if images is None else set()
    remedy = "remove the row, add the file, or say with --images where the files lie"
    if images is None:  # other files beside the table are ignored
        return _joined(path, files.without(own), sheet, columns, remedy, whole=False)
    return _joined(path, files, sheet, columns, remedy, whole=True)


def tables_beside(files: Files) -> list[str]:
    """Return the tables beside or above the images: Hugging Face's `metadata`, else all tables."""
    tables = files.tables()
    metadata = [name for name in tables if is_metadata(name)]
    if metadata:
        return metadata
    return [name for name in tables if _beside(name, files)]


def is_metadata(table: str) -> bool:
    """Return whether a table has the name by which Hugging Face's image folders call theirs."""
    return PurePosixPath(table).stem.lower() == METADATA


def workbooks(files: Files) -> list[str]:
    """Return the workbooks that lie where a table of the images would."""
    return [name for name in files.others if name.lower().endswith(WORKBOOKS) and _beside(name, files)]


def _beside(table: str, files: Files) -> bool:
    """Return whether every image, or none, lies below the table's folder."""
    above = folder_of(table)
    return len({folder.startswith(above) for folder in files.folders}) < 2


def read_beside(path: Place, files: Files, columns: Columns) -> ImageTable:
    """Read the table, or the tables of the splits, that lie beside the images of a folder or archive."""
    names = tables_beside(files)
    if not names:
        books = workbooks(files)
        if books:
            raise DataError(
                f"{path / books[0]}: a workbook cannot be read as a table; save it as .csv, or give --layout images "
                "if it names none of the images"
            )
        raise DataError(f"{path}: no table there, a .csv, .tsv, .jsonl or .parquet file beside the images")
    if len(names) == 1:
        folder = folder_of(names[0])
        above = all(inner.startswith(folder) for inner in files.folders)
        inside = files.without(names).below(folder if above else "")
        sheet = _sheet(files, names[0])
        way = f", or give the table itself if its rows are all that is wanted: {path / names[0]}"
        return _joined(path, inside, sheet, columns, "remove the row or add the file", whole=True, way=way)
    if not is_metadata(names[0]):
        first = path / names[0]
        folder = folder_of(names[0])
        apart = bool(folder) and not any(inner.startswith(folder) for inner in files.folders)
        how = (
            f"give the one to read, `rgcluster data shard {first} ...{f' --images {path}' if apart else ''}`"
        )
        if not path.is_dir():
            how = f"unpack the one to read and give it, with --images {path}"
        raise DataError(f"{path}: the tables {', '.join(names[:4])} lie beside its images; {how}")
    return _of_splits(path, files, names, columns)


def _sheet(files: Files, name: str) -> Sheet:
    return parse_table(content_of(files.tree, name), name, f"{files.tree}/{name}")


def _of_splits(path: Place, files: Files, names: list[str], columns: Columns) -> ImageTable:
    """Read a table of metadata for each split's folder."""
    parts, splits = [], []
    column = ""
    for name in names:
        folder = name.rpartition("/")[0]
        split = _split_above(folder)
        if split is None:
            raise DataError(
                f"{path / name}: one of several tables, in no folder of a split; give the one to read"
            )
        sheet = _sheet(files, name)
        column, listed = sheet.files(columns)
        paths = pa.array([f"{folder}/{file}" for file in listed])
        parts.append(sheet.rows.set_column(sheet.rows.column_names.index(column), column, paths))
        splits += [split] * len(listed)
    try:
        rows = pa.concat_tables(parts)
    except pa.ArrowException:
        raise DataError(
            f"{path}: the tables {', '.join(names)} have different columns; make them the same"
        ) from None
    sheet = Sheet(rows, str(path), 1)
    return _joined(
        path,
        files.without(names),
        sheet,
        columns,
        "remove the row or add the file",
        whole=True,
        splits=splits,
    )


def _joined(
    path: Place,
    files: Files,
    sheet: Sheet,
    columns: Columns,
    remedy: str,
    *,
    whole: bool,
    way: str = "",
    splits: list[str] | None = None,
) -> ImageTable:
    """Join a table to its files; if it is `whole`, an image without a row is an error."""
    file_column, listed = sheet.files(columns)
    reject_repeats(sheet.source, listed, count(sheet.first_line))
    split_column, own = sheet.splits(columns)
    labels = sheet.labels(columns, [name for name in (file_column, split_column) if name])
    present = files.images + files.others
    found = match_names(listed, present, files.tree, sheet.source, sheet.first_line, remedy)
    reject_repeats(sheet.source, found, count(sheet.first_line))
    used = set(found)
    if whole:
        reject_unlisted(files.tree, files.images, used, sheet.source, way)
    if own is None and splits is None:
        splits = _split_folders(found, sheet.source)
    left_out: LeftOut = files.without(used).left_out()
    rest = tuple(name for name in files.images if name not in used)
    if rest:
        left_out[NO_ROW] = rest
    return ImageTable(
        path, files.tree, "table", labels.names, found, labels.values, own or splits, labels.one_hot, left_out
    )


def _split_folders(names: list[str], source: str) -> list[str] | None:
    """Return the splits that folders of the files name, None where they name fewer than two; DataError if some do."""
    of_folder = {folder: _split_above(folder) for folder in {name.rpartition("/")[0] for name in names}}
    if len(set(of_folder.values())) < 2:
        return None
    odd = next((folder for folder, split in sorted(of_folder.items()) if split is None), None)
    if odd is not None:
        named = min(folder for folder, split in of_folder.items() if split)
        raise DataError(
            f"{source}: lists files in {named}/, which names a split, and in {odd or '.'}/, which does not; add a "
            "column `split` of train, val and test"
        )
    return [of_folder[name.rpartition("/")[0]] or "" for name in names]


def _split_above(folder: str) -> str | None:
    """Return the split that the first folder with the name of one says; None where none has."""
    return next((split for part in folder.split("/") if (split := split_of(part))), None)
