"""One shard of the store, without Ray: an index over the snapshot's rows, and the changes since."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rgcluster.base.storage import Location
from rgcluster.config import StoreConfig
from rgcluster.errors import CheckpointError, UnknownId
from rgcluster.store.changes.journal import Change, Journal
from rgcluster.store.changes.transfer import local_copy
from rgcluster.store.disk.indexes import INDEXES, make_index
from rgcluster.store.disk.snapshot import FILES, Manifest, ShardEntry, shard_of, verify_shard
from rgcluster.store.index.exact import ExactIndex, Found64, nearest_first
from rgcluster.store.index.plan import IndexKind, choose
from rgcluster.store.index.rows import AddedRows, FileRows, PickedRows, Positions, Rows

__all__ = ["IndexSettings", "Shard"]


@dataclass(frozen=True)
class IndexSettings:
    """Settings of a shard's index."""

    kind: IndexKind | Literal["auto"] = "auto"
    memory: int | None = None
    """Limit of the index in bytes, per shard."""
    recall: float = 0.95
    gpu: bool = False

    @classmethod
    def of(cls, config: StoreConfig) -> IndexSettings:
        """Return the settings of a configuration."""
        memory = None if config.memory_mib is None else config.memory_mib << 20
        return cls(config.index, memory, config.recall)


class Shard:
    """Part `part` of `parts` of a store: the rows whose id hashes there.

    `parts` may differ from the number of shards on disk. Searches, reads and changes may run concurrently.
    CheckpointError if a file is unreadable or, with `verify`, if the checksum of any but the images differs. Copies
    of remote snapshots were verified as they came.
    """

    def __init__(
        self,
        location: Location,
        manifest: Manifest,
        part: int = 0,
        parts: int = 1,
        settings: IndexSettings | None = None,
        *,
        verify: bool = False,
    ) -> None:
        self.part, self.parts, self.manifest = part, parts, manifest
        settings, verify = settings or IndexSettings(), verify and location.is_local
        # With as many shards as on disk, one file set holds all rows of this shard.
        mine = [
            entry
            for number, entry in enumerate(manifest.shards)
            if parts != manifest.num_shards or number == part
        ]
        files = local_copy(location, manifest, mine)
        # `_base` indexes the snapshot; only removals change it. `_delta` indexes the rows added since, whose
        # positions follow those of the snapshot.
        self._delta = ExactIndex(manifest.dimension)
        self._searching, self._reading = threading.Lock(), threading.Lock()
        self._journal = Journal(location, manifest, part, parts)
        self.version = 0
        ids, tags, vectors, images = self._read(files, mine, verify)
        self._positions, self._first_added = Positions(ids), len(ids)
        self._vectors, self._images = (vectors, AddedRows()), (images, AddedRows())
        plan = choose(settings.kind, len(ids), manifest.dimension, settings.memory, settings.recall)
        name = f"{manifest.digest}-{plan.kind}-{part}-{parts}.faiss"
        self._base = make_index(
            plan, ids, tags, vectors, files / INDEXES / name,
            remote=None if location.is_local else location / INDEXES, verify=verify, gpu=settings.gpu,
        )  # fmt: skip
        self.catch_up()

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def changed(self) -> int:
        """Number of rows added since the snapshot, also of those removed again, and of its rows removed."""
        return self._first_added - len(self._base) + self._images[1].count

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        exclude: NDArray[np.int64] | None = None,
        tags: Sequence[int] | None = None,
    ) -> Found64:
        """Return squared distances [B, k] and ids [B, k] nearest first, padded with infinity and -1.

        exclude [B, E] are ids that each row's result omits. tags are the allowed tags.
        """
        with self._searching:
            found = self._base.nearest(queries, k, exclude, tags)
            if not len(self._delta):
                return found
            added = self._delta.nearest(queries, k, exclude, tags)
        return nearest_first(np.hstack([found[0], added[0]]), np.hstack([found[1], added[1]]), k)

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images [n, H, W, C] of ids [n]; UnknownId for an unknown id."""
        return self._rows(ids, *self._images, np.dtype(np.uint8), self.manifest.image_shape)

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors [n, d] of ids [n]; UnknownId for an unknown id."""
        return self._rows(ids, *self._vectors, np.dtype(np.float32), (self.manifest.dimension,))

    def ids(self) -> tuple[int, NDArray[np.int64]]:
        """Return the version, and every id [N] held at that version, ascending."""
        with self._reading:
            return self.version, self._positions.ids()

    def held_version(self) -> int:
        """Return the number of changes applied."""
        return self.version

    def catch_up(self) -> int:
        """Apply the changes in the journal that are new; return how many of their ids existed before.

        Not from two threads at once, nor during `apply`.
        """
        return sum(self._apply(change) for change in self._journal.news())

    def apply(self, changes: Sequence[Change], epoch: int, file: str) -> list[int]:
        """Make changes visible that this shard wrote to a file; return how many ids of each existed before."""
        self._journal.wrote(epoch, file)
        return [self._apply(change) for change in changes]

    def info(self) -> dict[str, Any]:
        """Return statistics: images, kind of index, memory, measured recall, changes since the snapshot."""
        base, delta = self._base, self._delta
        image_bytes = int(np.prod(self.manifest.image_shape))
        return {
            "shard": self.part,
            "count": len(self),
            "bytes": len(self) * (image_bytes + 4 * self.manifest.dimension),
            "memory": base.memory + delta.memory + len(delta) * image_bytes,
            "index": base.kind,
            "recall": getattr(base, "measured_recall", 1.0),
            "changes": self.version,
            "generation": self.manifest.generation,
        }

    def _read(
        self, place: Path, entries: Sequence[ShardEntry], verify: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8], Rows, Rows]:
        """Return the ids, tags, vectors and images of this part's rows of the files."""
        ids, tags = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
        rows, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        files: tuple[list[Rows], list[Rows]] = [], []
        for entry in entries:
            if verify:
                verify_shard(Location(place), entry, images=False)
            directory = place / entry.directory
            try:
                held, labels = (
                    np.load(directory / name, allow_pickle=False) for name in (FILES[0], FILES[3])
                )
                vectors, images = FileRows(directory / FILES[1]), FileRows(directory / FILES[2])
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{directory}: unreadable ({error}); rebuild the store") from None
            if not len(held) == len(labels) == len(vectors) == len(images) == entry.count:
                raise CheckpointError(
                    f"{directory}: not the {entry.count} rows it should hold; rebuild the store"
                )
            mine = np.flatnonzero(shard_of(held, self.parts) == self.part)
            ids.append(held[mine])
            tags.append(labels[mine])
            rows.append(mine)
            numbers.append(np.full(len(mine), len(files[0])))
            files[0].append(vectors)
            files[1].append(images)
        where = np.concatenate(numbers), np.concatenate(rows)
        picked = [PickedRows(each, *where) for each in files]
        return np.concatenate(ids), np.concatenate(tags), picked[0], picked[1]

    def _rows(
        self,
        ids: NDArray[np.int64],
        stored: Rows,
        added: AddedRows,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
    ) -> NDArray[Any]:
        with self._reading:
            at = self._positions.find(ids)
            if (at < 0).any():
                raise UnknownId(f"the image {ids[at < 0][0]} is not in the store: take ids from a search")
            later = at >= self._first_added
            new = added.read(at[later] - self._first_added)
        if not new:
            return stored.read(at)
        out = np.empty((len(ids), *shape), dtype)
        out[later] = new
        if len(new) < len(ids):
            out[~later] = stored.read(at[~later])
        return out

    def _apply(self, change: Change) -> int:
        with self._searching, self._reading:
            at = self._positions.find(change.ids)
            held = at[at >= 0]
            added = held[held >= self._first_added] - self._first_added
            self._base.remove(held[held < self._first_added])
            self._delta.remove(added)
            for _, rows in (self._vectors, self._images):
                rows.remove(added)
            self._positions.remove(change.ids[at >= 0])
            if change.vectors is not None and change.images is not None and change.tags is not None:
                self._delta.append(change.ids, change.vectors, change.tags)
                self._positions.add(change.ids)
                self._vectors[1].add(change.vectors)
                self._images[1].add(change.images)
            self.version += 1
            return len(held)
