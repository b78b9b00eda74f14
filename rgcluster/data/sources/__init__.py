"""Sources of images: CelebA, class folders, tables, WebDataset, plain images; each yields an `ImageTable`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import numpy as np

from rgcluster.data.sources.celeba import is_celeba, read_celeba
from rgcluster.data.sources.classes import (
    common_folder,
    looks_like_classes,
    read_classes,
    require_no_doubt,
)
from rgcluster.data.sources.drawn import drawn_table
from rgcluster.data.sources.embedded import holds_images, read_embedded
from rgcluster.data.sources.files import (
    NO_IMAGES,
    SHARD_NAME,
    TABLE_SUFFIXES,
    Files,
    LeftOut,
    files_of,
    joined,
)
from rgcluster.data.sources.table import UNKNOWN, UNLABELLED, ImageTable, Layout, require_names
from rgcluster.data.sources.tables import is_metadata, read_beside, read_table, tables_beside, workbooks
from rgcluster.data.sources.tabular import Columns
from rgcluster.data.sources.trees.archives import ARCHIVES, TarTree, ZipTree
from rgcluster.data.sources.trees.places import Place, open_tree, place_of
from rgcluster.data.sources.trees.tree import FolderTree, Tree
from rgcluster.data.sources.webdataset import TarsTree, is_webdataset, read_webdataset
from rgcluster.data.sources.words import SPLITS
from rgcluster.errors import ConfigError, DataError

__all__ = [
    "NO_IMAGES",
    "SHARD_NAME",
    "SPLITS",
    "UNKNOWN",
    "UNLABELLED",
    "Columns",
    "FolderTree",
    "ImageTable",
    "Layout",
    "LeftOut",
    "TarTree",
    "Tree",
    "ZipTree",
    "drawn_table",
    "guess_layout",
    "joined",
    "read_celeba",
    "read_images",
    "read_source",
]


def read_source(
    source: str | os.PathLike[str],
    layout: str = "auto",
    images: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
) -> ImageTable:
    """Read the source at a path, `s3://...` or `gs://...` in the given or recognised `layout`.

    DataError where it is ambiguous, or there is none.
    """
    if layout not in ("auto", *get_args(Layout)):
        raise ConfigError(f"--layout {layout}: expected auto, {', '.join(get_args(Layout))}")
    path, chosen_columns = place_of(source), columns or Columns()
    if _is_table(path):
        if layout not in ("auto", "table"):
            raise ConfigError(f"--layout {layout}: {path} is a table; give the folder, or leave --layout out")
        table = read_table(path, place_of(images) if images else None, chosen_columns)
    else:
        if isinstance(path, Path) and not path.exists():
            return read_celeba(path)  # which says how to get one
        files = _files(path)
        chosen = guess_layout(path, files) if layout == "auto" else layout
        if images is not None or (chosen not in ("table", "webdataset") and chosen_columns != Columns()):
            raise ConfigError(
                f"{path}: --images and the columns belong to a table, a .csv, .tsv, .jsonl or .parquet file; "
                "give the table itself"
            )
        table = _read(path, chosen, files, chosen_columns)
    require_names(str(path), table.attributes)
    return table


def guess_layout(path: Place, files: Files | None = None) -> Layout:
    """Return the layout of `path`; DataError where it is ambiguous."""
    if _is_table(path):
        return "table"
    files = files or _files(path)
    if is_celeba(path, files):
        return "celeba"
    if isinstance(files.tree, TarTree | TarsTree) and is_webdataset(files):
        return "webdataset"
    tables = tables_beside(files)
    if not files.images:
        return "table" if tables else "images"
    inner = files.below(common_folder(files))
    if not tables:
        require_no_doubt(inner, path)
        if looks_like_classes(inner):
            return "classes"
        return (
            "table" if workbooks(inner) else "images"
        )  # the reader of tables says what to do with workbooks
    if not is_metadata(tables[0]) and looks_like_classes(inner):
        raise DataError(
            f"{path}: {tables[0]} lies beside folders that could be classes; give --layout table to read the table, "
            "or --layout classes to leave it out"
        )
    return "table"


def read_images(source: str | os.PathLike[str]) -> ImageTable:
    """Read a folder or archive of images without labels, for the retrieval set."""
    path = place_of(source)
    return _read(path, "images", _files(path), Columns())


def _is_table(path: Place) -> bool:
    return path.name.lower().endswith(TABLE_SUFFIXES) and not path.is_dir()


def _files(path: Place) -> Files:
    """Return the files at `path`; for a folder of only tar archives, the files in them."""
    files = files_of(open_tree(path))
    archives = [name for name in files.others if name.lower().endswith(".tar")]
    if isinstance(files.tree, FolderTree) and archives and not files.images and not files.tables():
        inside = files_of(TarsTree(files.tree.path, archives))
        left_out = joined(files.without(archives).left_out(), inside.elsewhere)
        return Files(inside.tree, inside.images, inside.others, left_out)
    return files


def _read(path: Place, layout: str, files: Files, columns: Columns) -> ImageTable:
    if layout == "celeba":
        return read_celeba(path, files)
    if layout == "classes":
        return read_classes(path, files)
    if layout == "webdataset":
        return read_webdataset(path, files, columns)
    if layout == "table":
        parquet = [name for name in files.tables() if name.lower().endswith(".parquet")]
        if not files.images and parquet and not path.is_dir():
            raise DataError(
                f"{path}: Parquet files that hold images are read from a folder; unpack the archive"
            )
        if not files.images and parquet and holds_images(path / parquet[0]):
            return read_embedded(path, parquet, columns, files)
        return read_beside(path, files, columns)
    if not files.images:
        if any(SHARD_NAME.fullmatch(name) for name in files.others):
            raise DataError(f"{path}: holds shards already; train with `--data {path}`")
        archives = [name for name in files.others if name.lower().endswith(ARCHIVES)]
        if archives:
            way = " or give it alone" if isinstance(path, Path) else ""
            raise DataError(f"{path}: no images there, but archives; unpack {archives[0]}{way}")
        raise DataError(f"{path}: no images there, nor tables that name them")
    labels = np.empty((len(files.images), 0), np.int8)
    splits = [UNLABELLED] * len(files.images)
    return ImageTable(path, files.tree, "images", (), files.images, labels, splits, left_out=files.left_out())
