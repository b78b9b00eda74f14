"""Format of the store on disk.

    manifest.json                    names the built shards; written last
    manifest-<token>.json            the same of a later generation
    versions/                        tell which manifest is current, and who may write (`versions.py`)
    shard-00000-<token>/ids.npy      int64 [n]
    shard-00000-<token>/vectors.npy  float32 [n, d]
    shard-00000-<token>/images.npy   uint8 [n, H, W, C]
    shard-00000-<token>/tags.npy     uint8 [n], the split
    changes/                         changes since, by epoch (`journal.py`)
    indexes/                         approximate indexes of the vectors (`indexes.py`); may be removed

No file changes. A new generation lies beside the old one under another token until a version names its manifest.
Files that no recent version names are removed later (`orphans.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rgcluster.base.storage import Location, digest_json
from rgcluster.errors import CheckpointError, DataError
from rgcluster.store.disk.versions import MANIFEST, SCHEMA, Version, Versions

__all__ = [
    "FILES",
    "MANIFEST",
    "SCHEMA",
    "FileEntry",
    "Manifest",
    "Place",
    "ShardEntry",
    "current",
    "damaged",
    "file_digest",
    "read_manifest",
    "shard_of",
    "verify_shard",
]

_CONTENT = 2
"""Format of the shard files, which the digests include."""
_READABLE = (2, SCHEMA)
_DIRECTORY = re.compile(r"shard-\d{5,}-[0-9a-f]{8}")
_JOURNAL = re.compile(r"(journal-[0-9a-f]{8})?")
FILES = ("ids.npy", "vectors.npy", "images.npy", "tags.npy")

Place = Location | str | os.PathLike[str]


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardEntry:
    """One shard's directory, number of rows, and files."""

    directory: str
    count: int
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Manifest:
    """Contents of a snapshot, and the digests of the networks that embedded it."""

    name: str
    dimension: int
    image_shape: tuple[int, int, int]
    count: int
    digests: dict[str, str]
    shards: tuple[ShardEntry, ...]
    generation: int = 0
    """Grows by one whenever the snapshot at a location is replaced."""
    origin: str = ""
    """Digest of the built snapshot to which changes were applied; empty if there were none."""
    changes_from: int = 0
    """The epoch of the first changes that the shards do not include."""
    journal: str = ""
    """Directory of earlier changes, in a store of format 2."""
    schema: int = SCHEMA

    @property
    def num_shards(self) -> int:
        return len(self.shards)

    @property
    def token(self) -> str:
        """Tells this snapshot from every other, also from one that was built anew under the same generation."""
        return self.shards[0].directory.rpartition("-")[2]

    @property
    def digest(self) -> str:
        """Digest of the content, independent of names and generation."""
        files = [
            [entry.count, {name: asdict(file) for name, file in entry.files.items()}] for entry in self.shards
        ]
        return digest_json([_CONTENT, self.dimension, self.image_shape, self.digests, files])

    @property
    def built_digest(self) -> str:
        """Digest of the snapshot as built, before any changes. Training runs depend on it."""
        return self.origin or self.digest

    @property
    def directories(self) -> set[str]:
        """Names of all directories that belong to this snapshot alone."""
        return {entry.directory for entry in self.shards} | ({self.journal} - {""})

    def to_bytes(self) -> bytes:
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def shard_of(ids: ArrayLike, num_shards: int) -> NDArray[np.int64]:
    """Return the shard [...] of each id [...]: splitmix64 of the id, modulo the number of shards."""
    # The overflow is intended; 0-d arrays would warn about it.
    flat = np.asarray(ids, np.int64)
    mixed = flat.reshape(-1).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(num_shards)).astype(np.int64).reshape(flat.shape)


def current(location: Place) -> tuple[Version, Manifest]:
    """Return the newest version of the store at a location, and its manifest."""
    version = Versions(Location(location)).read()
    return version, read_manifest(location, version.manifest)


def read_manifest(location: Place, file: str | None = None) -> Manifest:
    """Return the manifest of the snapshot at a location, or the one in `file`; CheckpointError if there is none."""
    place = Location(location)
    if file is None:
        file = Versions(place).read().manifest
    try:
        raw = (place / file).read_json()
        if raw["schema"] not in _READABLE:
            raise CheckpointError(
                f"{place}: schema {raw['schema']}, this version reads {SCHEMA}; "
                "rebuild with `rgcluster store build`"
            )
        height, width, channels = raw["image_shape"]
        shards = tuple(
            ShardEntry(
                _checked(_DIRECTORY, entry["directory"]),
                int(entry["count"]),
                {
                    name: FileEntry(int(file["bytes"]), str(file["sha256"]))
                    for name, file in entry["files"].items()
                },
            )
            for entry in raw["shards"]
        )
        return Manifest(
            str(raw["name"]), int(raw["dimension"]), (height, width, channels), int(raw["count"]),
            dict(raw["digests"]), shards, int(raw["generation"]), str(raw["origin"]),
            int(raw.get("changes_from", 0)), _checked(_JOURNAL, raw["journal"]),
        )  # fmt: skip
    except FileNotFoundError:
        raise CheckpointError(f"{place}: no store here; build one with `rgcluster store build`") from None
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{place / file}: damaged ({error}); rebuild with `rgcluster store build`"
        ) from None


def _checked(pattern: re.Pattern[str], name: object) -> str:
    """Return a directory's name; ValueError for one that could lie outside of the snapshot."""
    if not pattern.fullmatch(str(name)):
        raise ValueError(f"directory {str(name)[:60]!r}")
    return str(name)


def verify_shard(place: Location, entry: ShardEntry, *, images: bool = True) -> None:
    """Check the files of one shard; CheckpointError names the first that is missing or differs.

    Without `images`, only their size is checked.
    """
    for name in FILES:
        file, expected = place / entry.directory / name, entry.files.get(name)
        if expected is None or not file.is_file():
            raise CheckpointError(f"{file}: missing; rebuild with `rgcluster store build`")
        read = images or name != "images.npy"
        if file.size() != expected.bytes or (read and file.sha256() != expected.sha256):
            raise damaged(file)


def damaged(file: Path | Location) -> CheckpointError:
    """Return the error for a file that is not the one in the manifest."""
    return CheckpointError(f"{file}: differs from its checksum; rebuild with `rgcluster store build`")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a local file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
