"""A folder of an object store, read in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rgcluster.base.storage import Location
from rgcluster.data.sources.trees.tree import MAX_FILE_BYTES, leftover, limited

__all__ = ["RemoteTree"]


class RemoteTree:
    """A folder of an object store with everything below, known from one listing.

    Where the store does not answer, or refuses, that is a StorageError, which ends the work: an OSError would make
    each image a faulty one.
    """

    def __init__(self, location: Location) -> None:
        self.location = location

    def __str__(self) -> str:
        """The address without its options, so that a name can follow."""
        return str(self.location).partition("?")[0]

    def names(self) -> list[str]:
        return list(_folded(self.location.paths_below()))

    def head(self, name: str, count: int) -> bytes:
        return (self.location / name).read_bytes(count)

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        return limited((self.location / name).read_bytes(limit + 1), limit)


def _folded(names: Iterable[str]) -> Iterator[str]:
    """Yield sorted names, with all that a leftover folder holds as one, which ends in a slash."""
    folder, left = "", ""
    for name in names:
        here = name[: name.rfind("/") + 1]
        if here != folder:
            before, left, folder = left, _leftover_folder(here), here
            if left and left != before:
                yield left
        if not left:
            yield name


def _leftover_folder(folder: str) -> str:
    """Return the outermost leftover folder in a path, with a slash at its end; the empty string without one."""
    parts = folder.split("/")
    place = next((number for number, part in enumerate(parts) if leftover(part)), None)
    return "" if place is None else "/".join(parts[: place + 1]) + "/"
