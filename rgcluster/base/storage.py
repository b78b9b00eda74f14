"""Paths, local or remote (`s3://`, `gs://`), through pyarrow's file systems.

Every file is committed by a rename, or in an object store by the request that ends its upload, so a reader
never sees half of one. Requests that a remote store answers with a server error are repeated (`remote.py`);
where it stays so, the StorageError is one line.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import NativeFile, fs

from rgcluster.base.remote import connect, create_object, explain, persistently
from rgcluster.errors import ConfigError, DataError, StorageError

__all__ = ["Location", "digest_bytes", "digest_json", "readable_size"]

T = TypeVar("T")

_PIECE = 8 << 20
_DIGITS = 16
_CLAIM = ".claim"
_CLAIMS = 10
_CLAIM_SECONDS = 60.0
"""A claim that is older was left by a process that ended."""
_LISTINGS = 100
"""Times a directory that other processes make or remove is listed again."""
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def readable_size(size: int) -> str:
    """Return a number of bytes in GiB, or in MiB where it is small."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"


def digest_bytes(*parts: bytes | memoryview) -> str:
    """Return the first 16 hexadecimal digits of the parts' SHA-256."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.hexdigest()[:_DIGITS]


def digest_json(value: Any) -> str:
    """Return the digest of a JSON value, whatever the order of its keys."""
    return digest_bytes(json.dumps(value, sort_keys=True, default=str).encode())


class Location:
    """A file or directory in a file system; `location / "name"` goes down.

    StorageError where a remote one does not answer, or refuses; ConfigError where its address is wrong.
    """

    def __init__(self, path: str | os.PathLike[str] | Location) -> None:
        self._fs: fs.FileSystem
        self.path: str
        self._options: str = ""  # of the file system: s3://...?endpoint_override=...
        if isinstance(path, Location):
            self._fs, self.path, self._options = path._fs, path.path, path._options
            return
        text = os.fspath(path)
        if "://" in text:
            self._fs, self.path = connect(text)
            self._options = text.partition("?")[2]
        else:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{text!r}: not valid UTF-8; rename what has this name") from None
            self._fs, self.path = fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))

    def __truediv__(self, name: str) -> Location:
        below = Location(self)
        below.path = f"{self.path.rstrip('/')}/{name}"
        return below

    def __str__(self) -> str:
        if self.is_local:
            return self.path
        return f"{self._fs.type_name}://{self.path}" + (f"?{self._options}" if self._options else "")

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"

    @property
    def is_local(self) -> bool:
        return isinstance(self._fs, fs.LocalFileSystem)

    @property
    def for_ray(self) -> dict[str, Any]:
        """`storage_path` and `storage_filesystem` of Ray's run configurations, which write here then."""
        return {"storage_path": self.path, "storage_filesystem": None if self.is_local else self._fs}

    @property
    def _holds_objects(self) -> bool:
        """Whether there are no directories to make, and no file is seen before it is whole."""
        return self._fs.type_name in ("s3", "gcs", "abfs")

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """The directory that holds this; the root of the local disk is its own."""
        above = Location(self)
        above.path = self.path.rstrip("/").rpartition("/")[0] or ("/" if self.is_local else "")
        return above

    def local(self) -> Path:
        """Return the local path; DataError for a remote location."""
        if not self.is_local:
            raise DataError(f"{self} is remote: this needs a local path")
        return Path(self.path)

    def exists(self) -> bool:
        return self._kind() != fs.FileType.NotFound

    def is_file(self) -> bool:
        return self._kind() == fs.FileType.File

    def is_dir(self) -> bool:
        return self._kind() == fs.FileType.Directory

    def size(self) -> int:
        """Return the size in bytes; 0 where there is no file."""
        return self._ask(lambda: self._fs.get_file_info(self.path).size or 0)

    def free_bytes(self) -> int | None:
        """Return the free bytes of the disk that holds, or will hold, this place; None for an object store."""
        if not self.is_local:
            return None
        place = self.local().resolve()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def open_file(self) -> NativeFile:
        """Open for reading at any position."""
        return self._ask(lambda: self._fs.open_input_file(self.path))

    def names(self) -> list[str]:
        """Return the sorted names in this directory; none where it is missing."""
        found = self._listed()
        # An object store may list the directory itself, as an empty object that marks it.
        return sorted({info.base_name for info in found if info.path.rstrip("/") != self.path.rstrip("/")})

    def sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of the files in this directory by name, from one listing."""
        return {info.base_name: info.size for info in self._listed() if info.type == fs.FileType.File}

    def paths_below(self) -> list[str]:
        """Return the sorted paths, relative to this directory, of all files below it; none where it is missing."""
        start = len(self.path.rstrip("/")) + 1
        return sorted(info.path[start:] for info in self._listed(deep=True) if info.type == fs.FileType.File)

    def make_directory(self) -> Location:
        if not self._holds_objects:
            self._fs.create_dir(self.path, recursive=True)
        return self

    def remove(self) -> None:
        """Remove this file, or this directory with all below; fine if missing."""
        kind = self._kind()
        try:
            if kind == fs.FileType.Directory:
                self._ask(lambda: self._fs.delete_dir(self.path))
            elif kind != fs.FileType.NotFound:
                self._ask(lambda: self._fs.delete_file(self.path))
        except FileNotFoundError:  # a request that was repeated because its answer was lost
            if self.is_local:
                raise

    def read_bytes(self, count: int | None = None) -> bytes:
        """Return the content, or no more than its first `count` bytes; FileNotFoundError where there is none."""
        # Room is made for all that is asked for.
        return self.read_with(lambda file: file.read(count and min(count, file.size())))

    def read_with(self, read: Callable[[NativeFile], T]) -> T:
        """Return what `read` makes of the file, opened at any position; FileNotFoundError where there is none."""

        def action() -> T:
            with self._fs.open_input_file(self.path) as file:
                return read(file)

        return self._ask(action)

    def write_bytes(self, content: bytes | memoryview, *, durable: bool = False) -> None:
        """Write the whole file or nothing; StorageError where there is no room for it.

        With `durable` it outlives a crash of the machine as soon as this returns (remote stores promise that
        anyway).
        """
        if self._holds_objects:
            return self._ask(lambda: self._put(content))
        with self._draft(f"{len(content) >> 10} KiB") as draft:
            with self._fs.open_output_stream(draft) as stream:
                stream.write(content)
            if durable and self.is_local:
                _sync(draft)
        if durable and self.is_local:
            _sync(self.parent.path)

    @contextmanager
    def local_draft(self) -> Iterator[Path]:
        """Yield the path of a local file to write, which comes here, whole, where the block ends without an error.

        For a file that is too large for `write_bytes`, with the same errors. Drafts of remote files lie in TMPDIR.
        """
        if self.is_local:
            with self._draft("it") as draft:
                yield Path(draft)
            return
        with tempfile.TemporaryDirectory(prefix="rgcluster-") as directory, _needing_room(directory, "it"):
            file = Path(directory) / self.name
            yield file
            self.upload(file)

    @contextmanager
    def _draft(self, what: str) -> Iterator[str]:
        """Yield the path of a file beside this one, which takes its place where the block ends without an error."""
        self.parent.make_directory()
        # Not a leading dot: some file systems hide such names from listings.
        draft = (self.parent / f"{self.name}.{uuid.uuid4().hex[:8]}.tmp").path
        try:
            with _needing_room(str(self), what):
                yield draft
                self._fs.move(draft, self.path)
        except BaseException:
            if self._fs.get_file_info(draft).type != fs.FileType.NotFound:
                self._fs.delete_file(draft)
            raise

    def create(self, content: bytes) -> bool:
        """Write the whole file durably if there is none; return False, and leave it as it is, if there is one.

        Of several processes that call it at once one is told True. On disks without hard links, and in object stores
        other than S3, they may give way to each other until each gets StorageError. Give content that no other
        process gives.
        """
        if not self.is_local:
            if self._fs.type_name == "s3":
                return self._ask(lambda: create_object(self._fs, self.path, content))
            return self._create_by_claim(content)
        made = [self.parent]  # directories that get an entry
        while not made[-1].exists():
            made.append(made[-1].parent)
        temporary = self.parent / f"{self.name}.{uuid.uuid4().hex[:8]}.tmp"
        temporary.write_bytes(content)
        try:
            _sync(temporary.path)
            os.link(temporary.path, self.path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return self._create_by_claim(content)
        finally:
            temporary.remove()
        for directory in made:
            _sync(directory.path)
        return True

    def _create_by_claim(self, content: bytes) -> bool:
        """Write the file after having seen no other claim beside the own one; StorageError where others insist.

        Directories and object stores list consistently: of two callers at least the second to write its claim sees
        the other's, or the file that the other wrote before it removed its claim.
        """
        claim = self.parent / f"{self.name}.{uuid.uuid4().hex}{_CLAIM}"
        for _ in range(_CLAIMS):
            if self.exists():
                return False
            claim.write_bytes(b"\n")
            try:
                if not self._rivals(claim):
                    if self.exists():
                        return False
                    self.write_bytes(content, durable=True)
                    return True
            finally:
                claim.remove()
            time.sleep(random.uniform(0.1, 1.0))
        raise StorageError(f"{self}: other processes try to create this file; run the same command again")

    def _rivals(self, claim: Location) -> list[str]:
        """Return the names of other recent claims to this file."""
        claims = {
            info.base_name: info.mtime_ns / 1e9
            for info in self.parent._listed()
            if info.base_name.startswith(f"{self.name}.") and info.base_name.endswith(_CLAIM)
        }
        oldest = claims.get(claim.name, time.time()) - _CLAIM_SECONDS
        return [name for name, modified in claims.items() if name != claim.name and modified > oldest]

    def modified(self) -> float:
        """Return when the file was written last, in seconds since 1970; FileNotFoundError where there is none."""
        info = self._ask(lambda: self._fs.get_file_info(self.path))
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(str(self))
        return float(info.mtime_ns) / 1e9

    def modified_below(self) -> float:
        """Return the time (seconds since 1970) at which the newest file here or below was written; 0 for none."""
        found = [self._ask(lambda: self._fs.get_file_info(self.path))]
        if found[0].type == fs.FileType.Directory:
            found += self._listed(deep=True)
        times = [info.mtime_ns for info in found]
        return max((time / 1e9 for time in times if time), default=0.0)

    def upload(self, source: Path) -> None:
        """Copy a local file here, in pieces; name it elsewhere only once this has returned."""
        self.parent.make_directory()

        def copy() -> None:
            with source.open("rb") as stream, self._fs.open_output_stream(self.path) as sink:
                shutil.copyfileobj(stream, sink, _PIECE)

        self._ask(copy)

    def download(self, target: Path) -> str:
        """Copy this file to a local path, in pieces; return its SHA-256, in hexadecimal."""

        def copy() -> str:
            with target.open("wb") as sink:
                return self._read_through(sink.write)

        return self._ask(copy)

    def sha256(self) -> str:
        """Return the SHA-256 of this file, in hexadecimal."""
        return self._ask(lambda: self._read_through(len))

    def digest(self) -> str:
        """Return `digest_bytes` of this file's content, which is read in pieces."""
        return self.sha256()[:_DIGITS]

    def _read_through(self, use: Callable[[bytes], Any]) -> str:
        state = hashlib.sha256()
        with self._fs.open_input_stream(self.path) as stream:
            while piece := stream.read(_PIECE):
                state.update(piece)
                use(piece)
        return state.hexdigest()

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_text(self, content: str) -> None:
        self.write_bytes(content.encode())

    def read_json(self) -> Any:
        try:
            return json.loads(self.read_bytes())
        except ValueError as error:
            raise DataError(f"{self}: not valid JSON ({error}); remove it and run again") from None

    def read_record(self, *keys: str) -> dict[str, Any]:
        """Return the JSON object in this file; DataError where there is another value, or one of `keys` is missing."""
        value = self.read_json()
        if not isinstance(value, dict) or not value.keys() >= set(keys):
            raise DataError(f"{self}: not an object with {', '.join(keys)}; remove it and run again")
        return value

    def write_json(self, value: Any) -> None:
        self.write_text(json.dumps(value, indent=2, sort_keys=False) + "\n")

    def _listed(self, *, deep: bool = False) -> list[fs.FileInfo]:
        """Return what is in this directory, with `deep` all that is below it; nothing where it is missing."""
        inside = fs.FileSelector(self.path, allow_not_found=True, recursive=deep)
        for _ in range(_LISTINGS):
            try:
                return list(self._ask(lambda: self._fs.get_file_info(inside)))
            except FileNotFoundError:
                continue  # another process has just made it, or removed something in it
        raise StorageError(f"{self}: other processes keep removing what is in it; run the same command again")

    def _kind(self) -> fs.FileType:
        return self._ask(lambda: self._fs.get_file_info(self.path).type)

    def _put(self, content: bytes | memoryview) -> None:
        with self._fs.open_output_stream(self.path) as stream:
            stream.write(content)

    def _ask(self, action: Callable[[], T]) -> T:
        """Do it; of a remote file system with patience, and what it raises becomes a StorageError.

        A missing file stays FileNotFoundError.
        """
        if self.is_local:
            return action()
        try:
            return persistently(action)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(explain(str(self), error)) from None


@contextmanager
def _needing_room(place: str, what: str) -> Iterator[None]:
    """Convert the OSError that says that there is no room to a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StorageError(
            f"{place}: no room to write {what} ({os.strerror(error.errno)}); "
            "free some and run the same command again, what is finished is kept"
        ) from None


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
