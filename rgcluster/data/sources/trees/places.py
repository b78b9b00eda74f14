"""Where a source lies: a path of this machine, or a location in an object store; and what is there."""

from __future__ import annotations

import os
from pathlib import Path

from rgcluster.base.storage import Location
from rgcluster.data.sources.trees.archives import ARCHIVES, open_archive
from rgcluster.data.sources.trees.remote import RemoteTree
from rgcluster.data.sources.trees.tree import FolderTree, Tree
from rgcluster.errors import DataError

__all__ = ["Place", "open_tree", "place_of"]

Place = Path | Location


def place_of(address: str | os.PathLike[str]) -> Place:
    """Return the place at a path, `s3://...` or `gs://...`."""
    text = os.fspath(address)
    if "://" not in text:
        return Path(text)
    location = Location(text)
    return location.local() if location.is_local else location


def open_tree(place: Place) -> Tree:
    """Return the folder, zip or tar archive at `place`, by its content; DataError for anything else."""
    if isinstance(place, Location):
        return _open_remote(place)
    if place.is_dir():
        return FolderTree(place)
    if not place.exists():
        raise DataError(f"{place}: no such folder or file")
    return open_archive(place)


def _open_remote(location: Location) -> RemoteTree:
    if location.is_dir():
        return RemoteTree(location)
    if not location.exists():
        raise DataError(f"{location}: no such bucket or folder; correct the address")
    if location.name.lower().endswith(ARCHIVES):
        raise DataError(
            f"{location}: archives in an object store cannot be read in place; unpack it there, or copy it to a disk"
        )
    raise DataError(f"{location}: expected a folder of images or a table (.csv, .tsv, .jsonl, .parquet)")
