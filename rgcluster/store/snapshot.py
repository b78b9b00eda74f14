"""The store on disk, which is the truth that shards load from.

    manifest.json                 written last; without it there is no store
    shard-00000/ids.npy           int64 [n]
    shard-00000/vectors.npy       float32 [n, d]
    shard-00000/images.npy        uint8 [n, H, W, C]

Files are never changed once they are in place.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rgcluster.errors import CheckpointError, DataError
from rgcluster.storage import Location, digest_json

__all__ = [
    "FILES",
    "MANIFEST",
    "SCHEMA",
    "FileEntry",
    "Manifest",
    "ShardEntry",
    "file_digest",
    "read_manifest",
    "shard_of",
    "verify",
    "verify_shard",
]

SCHEMA = 1
MANIFEST = "manifest.json"
FILES = ("ids.npy", "vectors.npy", "images.npy")


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
    """What a snapshot holds, and the digests of the networks that embedded it."""

    name: str
    dimension: int
    image_shape: tuple[int, int, int]
    count: int
    digests: dict[str, str]
    shards: tuple[ShardEntry, ...]
    schema: int = SCHEMA

    @property
    def num_shards(self) -> int:
        return len(self.shards)

    @property
    def digest(self) -> str:
        """Digest of the content; the name does not enter."""
        return digest_json({key: value for key, value in asdict(self).items() if key != "name"})


def shard_of(ids: ArrayLike, num_shards: int) -> NDArray[np.int64]:
    """Return the shard [...] of each id [...]: splitmix64 of the id, modulo the number of shards."""
    # 0-d arrays would warn of the overflow that is meant here.
    flat = np.asarray(ids, np.int64)
    mixed = flat.reshape(-1).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(num_shards)).astype(np.int64).reshape(flat.shape)


def read_manifest(location: Location | str | os.PathLike[str]) -> Manifest:
    """Return the manifest of the snapshot at a location; CheckpointError where there is none."""
    place = Location(location)
    if not (place / MANIFEST).exists():
        raise CheckpointError(f"{place}: no store here; build one with `rgcluster store build`")
    try:
        raw = (place / MANIFEST).read_json()
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
            dict(raw["digests"]), shards,
        )  # fmt: skip
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{place / MANIFEST}: damaged ({error}); rebuild with `rgcluster store build`"
        ) from None


def verify(location: Location | str | os.PathLike[str]) -> Manifest:
    """Return the manifest if every file has its size and SHA-256; CheckpointError names the first without."""
    manifest = read_manifest(location)
    for number in range(manifest.num_shards):
        verify_shard(location, manifest, number)
    return manifest


def verify_shard(location: Location | str | os.PathLike[str], manifest: Manifest, number: int) -> None:
    """Check the files of one shard against the manifest; CheckpointError names the first that differs."""
    entry = manifest.shards[number]
    for name in FILES:
        path = Location(location).local() / entry.directory / name
        expected = entry.files.get(name)
        if expected is None or not path.is_file():
            raise CheckpointError(f"{path}: missing; rebuild with `rgcluster store build`")
        if path.stat().st_size != expected.bytes or file_digest(path) != expected.sha256:
            raise CheckpointError(f"{path}: differs from its checksum; rebuild with `rgcluster store build`")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a local file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
