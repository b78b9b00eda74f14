"""Files of a source: a folder, or a zip archive read in place."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

from rgcluster.errors import DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_FILE_BYTES",
    "FolderTree",
    "Tree",
    "ZipTree",
    "image_names",
    "is_image_name",
    "open_tree",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_FILE_BYTES = 64 << 20
"""A file above this is no training image; read in full it could take all memory."""


class Tree(Protocol):
    """Files under relative names with forward slashes."""

    def names(self) -> list[str]:
        """Return the name of every file, sorted; DataError where the tree cannot be walked."""

    def read(self, name: str) -> bytes:
        """Return one file's content; OSError says why it cannot be read."""

    def __str__(self) -> str: ...


class FolderTree:
    """A folder with everything below; symbolic links are followed, hidden files left out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        return sorted(self._walk(self.path, "", ()))

    def read(self, name: str) -> bytes:
        path = self.path / name
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise OSError(f"{size >> 20} MiB, the limit is {MAX_FILE_BYTES >> 20}")
        return path.read_bytes()

    def _walk(self, folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        try:
            status = folder.stat()
            entries = list(os.scandir(folder))
        except OSError as error:
            raise DataError(f"{folder}: cannot be listed ({error.strerror}); give read permission") from None
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise DataError(f"{folder}: a symbolic link to a folder above it; remove the link")
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_directory(entry):
                yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
            else:
                yield prefix + entry.name


class ZipTree:
    """A zip archive; each process opens it once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        found: set[str] = set()
        for entry in _open_archive(str(self.path)).infolist():
            name = entry.filename
            parts = PurePosixPath(name).parts
            if name.startswith("/") or "\\" in name or ".." in parts or (parts and ":" in parts[0]):
                raise DataError(f"{self.path}: entry {name!r} points outside the archive; pack it again")
            if entry.flag_bits & 1:
                raise DataError(f"{self.path}: entry {name!r} is encrypted; pack it again without a password")
            if entry.is_dir() or any(part.startswith((".", "__MACOSX")) for part in parts):
                continue
            if name in found:
                raise DataError(f"{self.path}: holds {name!r} twice; pack it again")
            found.add(name)
        return sorted(found)

    def read(self, name: str) -> bytes:
        archive = _open_archive(str(self.path))
        try:
            with archive.open(name) as file:
                # The size in the directory may lie: read no more than allowed.
                content = file.read(MAX_FILE_BYTES + 1)
        except KeyError:
            raise FileNotFoundError(f"not in {self.path}") from None
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
            raise OSError(f"damaged in {self.path.name}: {error}") from None
        if len(content) > MAX_FILE_BYTES:
            raise OSError(f"more than {MAX_FILE_BYTES >> 20} MiB")
        return content


def open_tree(path: Path) -> Tree:
    """Return the folder or zip archive at `path`; DataError where it is neither."""
    if path.is_dir():
        return FolderTree(path)
    if not path.exists():
        raise DataError(f"{path}: no such folder or file")
    if path.suffix.lower() == ".zip":
        _open_archive(str(path))
        return ZipTree(path)
    raise DataError(f"{path}: neither a folder nor a .zip")


def is_image_name(name: str) -> bool:
    """Return whether a file's name ends as an image's does; what is in it is another question."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def image_names(tree: Tree) -> tuple[list[str], tuple[str, ...]]:
    """Return the tree's names of images, and its other names."""
    names = tree.names()
    return [name for name in names if is_image_name(name)], tuple(
        name for name in names if not is_image_name(name)
    )


@lru_cache(maxsize=4)
def _open_archive(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: not a readable zip archive ({error}); fetch it again") from None


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be read
        return False
