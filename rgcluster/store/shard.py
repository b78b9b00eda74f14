"""One shard of the store: its vectors in an index, its images memory-mapped."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray._private.state import actors as actor_table

from rgcluster.errors import CheckpointError, DataError
from rgcluster.storage import Location
from rgcluster.store.index import ExactIndex
from rgcluster.store.snapshot import FILES, Manifest, read_manifest, shard_of, verify_shard

__all__ = ["Shard", "ShardActor"]


class Shard:
    """Part `part` of `parts` of a snapshot: the rows whose id hashes there.

    `parts` may differ from the number of shards on disk. CheckpointError if the
    snapshot is not the one with `digest`, or, with `verify`, if a checksum differs.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        part: int = 0,
        parts: int = 1,
        digest: str | None = None,
        *,
        verify: bool = False,
    ) -> None:
        manifest = read_manifest(location)
        self.part, self.parts, self.manifest = part, parts, manifest
        if digest is not None and manifest.digest != digest:
            raise CheckpointError(
                f"{location}: the snapshot changed under the running store; stop it and start again"
            )
        self._index = ExactIndex(manifest.dimension)
        self._images: list[NDArray[np.uint8]] = []
        self._queries, self._lock, self._started = 0, threading.Lock(), time.time()
        ids, rows, files = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number, entry in enumerate(manifest.shards):
            if verify and number % parts == part:
                verify_shard(location, manifest, number)
            directory = Location(location).local() / entry.directory
            try:
                held, vectors, images = (
                    np.load(directory / name, mmap_mode="r", allow_pickle=False) for name in FILES
                )
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{directory}: unreadable ({error}); rebuild the store") from None
            if not len(held) == len(vectors) == len(images) == entry.count:
                raise CheckpointError(
                    f"{directory}: not the {entry.count} rows it should hold; rebuild the store"
                )
            mine = np.flatnonzero(shard_of(held, parts) == part)
            self._index.add(held[mine], vectors[mine])
            self._images.append(images)
            ids.append(held[mine])
            rows.append(mine)
            files.append(np.full(len(mine), number))
        self._ids, self._rows, self._files = np.concatenate(ids), np.concatenate(rows), np.concatenate(files)
        self._order = np.argsort(self._ids)

    def search(
        self, queries: NDArray[np.float32], k: int, exclude: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return squared distances [B, k] and ids [B, k] nearest first, padded with infinity and -1."""
        with self._lock:
            self._queries += len(queries)
        return self._index.nearest(queries, k, exclude)

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images [n, H, W, C] of ids [n]; DataError for an id that is not here."""
        positions = self._positions(ids)
        out = np.empty((len(positions), *self.manifest.image_shape), np.uint8)
        files = self._files[positions]
        for number in np.unique(files):
            wanted = files == number
            out[wanted] = self._images[number][self._rows[positions[wanted]]]
        return out

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors [n, d] of ids [n]; DataError for an id that is not here."""
        return self._index.vectors(self._positions(ids))

    def ids(self) -> NDArray[np.int64]:
        """Return every id [N] held here, ascending."""
        return self._ids[self._order]

    def info(self) -> dict[str, Any]:
        """Return one row for people: count, bytes, queries answered, process, node, time of start."""
        image_bytes = len(self._ids) * int(np.prod(self.manifest.image_shape))
        return {
            "shard": self.part,
            "count": len(self._ids),
            "bytes": image_bytes + len(self._ids) * self._index.dimension * 4,
            "queries": self._queries,
            "pid": os.getpid(),
            "node": socket.gethostname(),
            "started": self._started,
            "restarts": 0,
        }

    def ping(self) -> int:
        """Return the shard's number."""
        return self.part

    def _positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        wanted = np.asarray(ids, np.int64)
        if not len(self._ids):
            found = np.zeros(len(wanted), np.int64)
            missing = np.ones(len(wanted), bool)
        else:
            at = np.searchsorted(self._ids, wanted, sorter=self._order)
            found = self._order[np.minimum(at, len(self._ids) - 1)]
            missing = self._ids[found] != wanted
        if missing.any():
            raise DataError(f"the image {wanted[missing][0]} is not in the store: take ids from a search")
        return found


class ShardProcess:
    """A shard in its own process; Ray restarts it, and it loads from disk again.

    It loads on its first call, not in its constructor: an error there would end
    the actor for good and lose its type on the way.
    """

    def __init__(self, location: str, part: int, parts: int, digest: str, verify: bool) -> None:
        self._settings = (location, part, parts, digest)
        self._verify = verify
        self._shard: Shard | None = None
        self._lock = threading.Lock()

    def search(
        self, queries: NDArray[np.float32], k: int, exclude: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return self._loaded().search(queries, k, exclude)

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._loaded().fetch(ids)

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._loaded().vectors(ids)

    def ids(self) -> NDArray[np.int64]:
        return self._loaded().ids()

    def info(self) -> dict[str, Any]:
        """Return the shard's row with the number of times Ray restarted it."""
        return self._loaded().info() | {"restarts": self._restarts()}

    def ping(self) -> int:
        return self._loaded().ping()

    def origin(self) -> tuple[Manifest, int]:
        """Return the snapshot's manifest and the number of shards it is spread over."""
        shard = self._loaded()
        return shard.manifest, shard.parts

    def _loaded(self) -> Shard:
        with self._lock:
            if self._shard is None:
                # The files never change, so a restart need not read every image again.
                self._shard = Shard(*self._settings, verify=self._verify and not self._restarts())
            return self._shard

    def _restarts(self) -> int:
        # Ray's public API says only whether, not how often.
        return int(actor_table(ray.get_runtime_context().get_actor_id())["NumRestarts"])


# FAISS and file reads let go of the interpreter, so two calls can run at once.
_ACTOR: dict[str, Any] = {"num_cpus": 0.1, "max_restarts": -1, "max_task_retries": 3, "max_concurrency": 2}

ShardActor: Any = ray.remote(**_ACTOR)(ShardProcess)
