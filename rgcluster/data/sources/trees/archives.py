"""Archives read in place: zip, and tar without compression."""

from __future__ import annotations

import lzma
import posixpath
import struct
import tarfile
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath

from rgcluster.data.sources.trees.tree import MAX_FILE_BYTES, Tree, leftover_in, limit_size, limited
from rgcluster.errors import DataError, quoted

__all__ = ["ARCHIVES", "TarTree", "ZipTree", "open_archive"]

_COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz", ".xz", ".txz", ".zst", ".7z", ".rar")
ARCHIVES = (".zip", ".tar", *_COMPRESSED)
OFFICE = (".xlsx", ".ods", ".docx", ".odt", ".pptx", ".odp")
"""Suffixes of documents, which are zip archives, too."""
_ZIP = b"PK\x03\x04"
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07")
"""First bytes of compressed files, in the order of the suffixes."""
_USTAR = slice(257, 262)
"""Where a tar archive says that it is one."""
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, RuntimeError, EOFError, ValueError,
)  # fmt: skip
"""What reading a damaged zip archive raises, beside OSError: its directory, its headers, and each compression."""
NOWHERE = (-1, 0)
"""The place of a link whose file is not in the archive."""


def open_archive(path: Path) -> Tree:
    """Return the zip or tar archive at `path`, by its content; DataError for another file."""
    suffix, head = path.suffix.lower(), _head(path)
    if suffix in _COMPRESSED or head.startswith(_MAGIC):
        raise DataError(f"{path}: cannot be read in place; unpack it and give the folder, or pack it as .zip")
    if head[_USTAR] == b"ustar" or (suffix == ".tar" and not head.startswith(_ZIP)):
        _tar_members(str(path))
        return TarTree(path)
    if suffix in (".zip", ".tar") or (head.startswith(_ZIP) and suffix not in OFFICE):
        _open_zip(str(path))
        return ZipTree(path)
    raise DataError(
        f"{path}: expected a folder, an archive (.zip, .tar) or a table (.csv, .tsv, .jsonl, .parquet)"
    )


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_USTAR.stop)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


class ZipTree:
    """A zip archive; each process opens it once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        entries = _open_zip(str(self.path)).infolist()
        for entry in entries:
            if entry.flag_bits & 1:
                what = f"{self.path}: entry {quoted(entry.filename)} is encrypted"
                raise DataError(f"{what}; pack it again without a password")
        return _checked([entry.filename for entry in entries if not entry.is_dir()], str(self.path))

    def head(self, name: str, count: int) -> bytes:
        return self._read(name, count)

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        # The size in the directory may be wrong, so read no more than allowed.
        return limited(self._read(name, limit + 1), limit)

    def _read(self, name: str, count: int) -> bytes:
        archive = _open_zip(str(self.path))
        try:
            with archive.open(name) as file:
                return file.read(count)
        except KeyError:
            raise FileNotFoundError(f"not in {self.path}") from None
        except _DAMAGED as error:
            raise OSError(f"damaged in {self.path.name}: {error}") from None


class TarTree:
    """A tar archive without compression; each process reads its headers once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        return _checked([name for name, _, _ in _tar_members(str(self.path))], str(self.path))

    def head(self, name: str, count: int) -> bytes:
        offset, size = self._place(name)
        return self._read(offset, min(size, count))

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        offset, size = self._place(name)
        limit_size(size, limit)
        content = self._read(offset, size)
        if len(content) < size:
            raise OSError(f"damaged in {self.path.name}: {len(content)} bytes of {size}")
        return content

    def _place(self, name: str) -> tuple[int, int]:
        place = _tar_places(str(self.path)).get(name)
        if place is None:
            raise FileNotFoundError(f"not in {self.path}")
        if place == NOWHERE:
            raise FileNotFoundError(f"a link to a file that is not in {self.path.name}")
        return place

    def _read(self, offset: int, count: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(count)


def _checked(names: list[str], archive: str) -> list[str]:
    """Return the sorted names of entries, with leftovers as one name each; DataError for invalid or repeated ones."""
    found: set[str] = set()
    left: set[str] = set()
    for name in names:
        parts = PurePosixPath(name).parts
        if "\\" in name:
            what = f"{archive}: entry {quoted(name)} has backslashes, as some Windows programs write them"
            raise DataError(f"{what}; pack it again with another program")
        if name.startswith("/") or ".." in parts or (parts and ":" in parts[0]):
            raise DataError(f"{archive}: entry {quoted(name)} points outside the archive; pack it again")
        if outermost := leftover_in(parts):
            left.add(outermost)
            continue
        if name in found:
            raise DataError(f"{archive}: holds {quoted(name)} twice; pack it again")
        found.add(name)
    return sorted(found | left)


@lru_cache(maxsize=4)
def _open_zip(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (*_DAMAGED, OSError) as error:
        raise DataError(f"{path}: not a readable zip archive ({error}); fetch it again") from None


@lru_cache(maxsize=4)
def _tar_members(path: str) -> list[tuple[str, int, int]]:
    """Return name, offset and size of every file in the order of the archive."""
    try:
        with tarfile.open(path, "r:") as archive:
            return [
                (member.name.removeprefix("./"), *_place_of(member, archive))
                for member in archive
                if member.isfile() or member.islnk() or member.issym()
            ]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path}: not a readable tar archive without compression ({error}); fetch it again"
        ) from None


def _place_of(member: tarfile.TarInfo, archive: tarfile.TarFile) -> tuple[int, int]:
    """Return offset and size of a file, or of the one that a link names; NOWHERE where the archive lacks that."""
    if member.isfile():
        return member.offset_data, member.size
    folder = posixpath.dirname(member.name) if member.issym() else ""
    name = posixpath.normpath(posixpath.join(folder, member.linkname))
    try:
        target = archive.getmember(name)
    except KeyError:
        return NOWHERE
    return (target.offset_data, target.size) if target.isfile() else NOWHERE


@lru_cache(maxsize=4)
def _tar_places(path: str) -> dict[str, tuple[int, int]]:
    return {name: (offset, size) for name, offset, size in _tar_members(path)}
