"""Format of the store on disk.

    manifest.json                    names everything else; written last, replaced by one rename
    shard-00000-<token>/ids.npy      int64 [n]
    shard-00000-<token>/vectors.npy  float32 [n, d]
    shard-00000-<token>/images.npy   uint8 [n, H, W, C]
    shard-00000-<token>/tags.npy     uint8 [n], the split
    journal-<token>/                 changes since (`journal.py`)
    indexes/                         approximate indexes of the vectors (`built.py`); may be removed

Shard files never change. A new generation lies beside the old one under another token until the manifest is
replaced.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rgcluster.base.storage import Location, digest_json
from rgcluster.errors import CheckpointError, DataError

__all__ = [
    "FILES",
    "MANIFEST",
    "SCHEMA",
    "FileEntry",
    "Manifest",
    "Place",
    "ShardEntry",
    "file_digest",
    "read_manifest",
    "shard_of",
    "verify",
    "verify_shard",
]

SCHEMA = 2
MANIFEST = "manifest.json"
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
    journal: str
    """Directory of the changes since."""
    generation: int = 0
    """Grows by one whenever the snapshot at a location is replaced."""
    origin: str = ""
    """Digest of the built snapshot to which changes were applied; empty if there were none."""
    schema: int = SCHEMA

    @property
    def num_shards(self) -> int:
        return len(self.shards)

    @property
    def digest(self) -> str:
        """Digest of the content, independent of names and generation."""
        files = [
            [entry.count, {name: asdict(file) for name, file in entry.files.items()}] for entry in self.shards
        ]
        return digest_json([self.schema, self.dimension, self.image_shape, self.digests, files])

    @property
    def built_digest(self) -> str:
        """Digest of the snapshot as built, before any changes. Training runs depend on it."""
        return self.origin or self.digest


def shard_of(ids: ArrayLike, num_shards: int) -> NDArray[np.int64]:
    """Return the shard [...] of each id [...]: splitmix64 of the id, modulo the number of shards."""
    # The overflow is intended; 0-d arrays would warn about it.
    flat = np.asarray(ids, np.int64)
    mixed = flat.reshape(-1).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(num_shards)).astype(np.int64).reshape(flat.shape)


def read_manifest(location: Place, file: str = MANIFEST) -> Manifest:
    """Return the manifest of the snapshot at a location; CheckpointError if there is none."""
    place = Location(location)
    if not (place / file).exists():
        raise CheckpointError(f"{place}: no store here; build one with `rgcluster store build`")
    try:
        raw = (place / file).read_json()
        if raw["schema"] != SCHEMA:
            raise CheckpointError(
                f"{place}: schema {raw['schema']}, this version reads {SCHEMA}; "
                "rebuild with `rgcluster store build`"
            )
        height, width, channels = raw["image_shape"]
        shards = tuple(
            ShardEntry(
                str(entry["directory"]),
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
            dict(raw["digests"]), shards, str(raw["journal"]), int(raw["generation"]), str(raw["origin"]),
        )  # fmt: skip
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{place / file}: damaged ({error}); rebuild with `rgcluster store build`"
        ) from None


def verify(location: Place) -> Manifest:
    """Return the manifest if all local files match it; CheckpointError names the first file that differs."""
    manifest = read_manifest(location)
    for entry in manifest.shards:
        verify_shard(Location(location).local(), entry)
    return manifest


def verify_shard(place: Path, entry: ShardEntry) -> None:
    """Check the files of one shard; CheckpointError names the first that differs."""
    for name in FILES:
        path = place / entry.directory / name
        expected = entry.files.get(name)
        if expected is None or not path.is_file():
            raise CheckpointError(f"{path}: missing; rebuild with `rgcluster store build`")
        if path.stat().st_size != expected.bytes or file_digest(path) != expected.sha256:
            raise CheckpointError(f"{path}: differs from its checksum; rebuild with `rgcluster store build`")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a local file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
