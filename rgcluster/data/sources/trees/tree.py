"""Files of a source by relative names: a folder, or a part of another tree."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rgcluster.errors import DataError

__all__ = [
    "MAX_FILE_BYTES", "FolderTree", "SubTree", "Tree", "content_of", "folder_of", "leftover", "leftover_in",
    "limit_size", "limited", "split_name",
]  # fmt: skip

MAX_FILE_BYTES = 64 << 20
"""Larger files are no training images; reading them could exhaust the memory."""
MAX_TABLE_BYTES = 8 << 30
"""A row of 40 attributes takes 130 bytes: a table of 60 million rows."""

_LEFTOVERS = frozenset(
    (
        "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "@recycle", "@recently-snapshot",
        "#recycle", "#snapshot", "~snapshot", "$recycle.bin", "system volume information", "lost+found",
        "__macosx", "__pycache__",
    )
)  # fmt: skip
"""Lower-case names of files and folders that file managers, NAS devices, archivers and interpreters create."""


def leftover(part: str) -> bool:
    """Return whether a file or folder of this name is hidden or a leftover of another program."""
    return part.startswith((".", "~$")) or part.casefold() in _LEFTOVERS


def leftover_in(parts: Sequence[str]) -> str:
    """Return the outermost leftover on a path, a folder with a slash at its end; the empty string without one."""
    place = next((number for number, part in enumerate(parts) if leftover(part)), None)
    return "" if place is None else "/".join(parts[: place + 1]) + "/" * (place + 1 < len(parts))


def folder_of(name: str) -> str:
    """Return the folder of a file, with a slash at its end; the empty string for a file in none."""
    return name[: name.rfind("/") + 1]


def split_name(name: str, files: Container[str]) -> tuple[str, str]:
    """Return which of the `files`, each with names of its own below it, a name begins with, and the rest of it."""
    ends = (at for at, letter in enumerate(name) if letter == "/")
    end = next(at for at in ends if name[:at] in files)
    return name[:end], name[end + 1 :]


class Tree(Protocol):
    """Files by relative names with forward slashes."""

    def names(self) -> list[str]:
        """Return the name of every file, sorted; a leftover of another program, or an empty folder, is one name.

        Names of folders end in a slash. DataError where the tree cannot be walked.
        """

    def head(self, name: str, count: int) -> bytes:
        """Return one file's first `count` bytes; OSError says why they cannot be read."""

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """Return one file's content; OSError says why it cannot be read, or that it has more than `limit` bytes."""

    def __str__(self) -> str: ...


def content_of(tree: Tree, name: str) -> bytes:
    """Return the content of a table; DataError names the file where it cannot be read."""
    try:
        return tree.read(name, MAX_TABLE_BYTES)
    except OSError as error:
        raise DataError(f"{tree}/{name}: cannot be read ({error.strerror or error})") from None


def limit_size(size: int, limit: int) -> None:
    """Raise OSError for a file of more than `limit` bytes."""
    if size > limit:
        raise OSError(f"{size >> 20} MiB, the limit is {limit >> 20}")


def limited(content: bytes, limit: int) -> bytes:
    """Return what was read of a file whose size was unknown; OSError for more than `limit` bytes."""
    if len(content) > limit:
        raise OSError(f"more than {limit >> 20} MiB")
    return content


class FolderTree:
    """A folder with everything below; symbolic links are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        return sorted(self._walk(self.path, "", ()))

    def head(self, name: str, count: int) -> bytes:
        with open(self.path / name, "rb") as file:
            return file.read(count)

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        path = self.path / name
        limit_size(path.stat().st_size, limit)
        return path.read_bytes()

    def _walk(self, folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        try:
            status = folder.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                raise DataError(f"{folder}: a symbolic link to a folder above it; remove the link")
            empty = True
            with os.scandir(folder) as entries:  # one at a time: a list of them outweighs their names
                for entry in entries:
                    empty = False
                    if not _is_directory(entry):
                        yield prefix + entry.name
                    elif leftover(entry.name):
                        yield f"{prefix}{entry.name}/"
                    else:
                        yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
        except OSError as error:
            raise DataError(f"{folder}: cannot be listed ({error.strerror}); give read permission") from None
        if empty and prefix:
            yield prefix


@dataclass(frozen=True)
class SubTree:
    """A folder within a tree, as a tree of its own: names without the folder's `prefix`, which ends in a slash."""

    tree: Tree
    prefix: str

    def __str__(self) -> str:
        return f"{self.tree}/{self.prefix}".rstrip("/")

    def names(self) -> list[str]:
        cut = len(self.prefix)
        return [name[cut:] for name in self.tree.names() if name.startswith(self.prefix)]

    def head(self, name: str, count: int) -> bytes:
        return self.tree.head(self.prefix + name, count)

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        return self.tree.read(self.prefix + name, limit)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be read
        return False
