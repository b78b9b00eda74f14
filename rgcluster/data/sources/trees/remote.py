"""A folder of an object store, read in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rgcluster.base.storage import Location
from rgcluster.data.sources.trees.tree import MAX_FILE_BYTES, folder_of, leftover_in, limited

__all__ = ["RemoteTree"]


class RemoteTree:
    """A folder of an object store with everything below, known from one listing.

    A store that does not answer, or refuses, raises StorageError, which ends the work: an OSError would count every
    image as unreadable.
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
        here = folder_of(name)
        if here != folder:
            before, left, folder = left, leftover_in(here.split("/")), here
            if left and left != before:
                yield left
        if not left:
            yield name
