"""Processes that write to and compact one snapshot, and die doing so: run by test_store_writers.py."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
from stores import images_of

from rgcluster.errors import StorageError, WriterConflict
from rgcluster.store import LocalStore
from rgcluster.store.changes import compaction, lease

MOMENTS = ("change_files", "write_compacted", "publish", "remove_orphans")
"""Functions that a compaction calls, in order; it dies before one of them."""
THREADS, BURST = 4, 100


def vectors_of(ids: np.ndarray) -> np.ndarray:
    return np.stack([np.random.default_rng(row).normal(size=8) for row in ids.tolist()]).astype(np.float32)


def acknowledged(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().splitlines()] if log.exists() else []


def add_all(place: Path, ids: np.ndarray, log: Path) -> None:
    """Add each row that the log does not name by one of four threads, and log it once it is acknowledged."""
    lease.LEASE_SECONDS = 3.0
    todo = [row for row in ids.tolist() if row not in set(acknowledged(log))]
    while todo:
        burst, todo = todo[:BURST], todo[BURST:]
        with LocalStore(place, num_shards=1 + len(todo) // BURST % 2) as store:
            threads = [
                threading.Thread(target=_add, args=(store, burst[first::THREADS], log))
                for first in range(THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


def _add(store: LocalStore, ids: list[int], log: Path) -> None:
    for row in ids:
        one = np.array([row])
        while True:
            try:
                store.add(one, vectors_of(one), images_of(one))
                break
            except WriterConflict:
                time.sleep(0.02)
        with log.open("a") as file:
            file.write(f"{row}\n")


def compact_once(place: Path, moment: str | None) -> None:
    """Compact; die before `moment`. Another process may be first, which is an error of its own kind."""
    if moment is not None:
        setattr(compaction, moment, lambda *given: os.kill(os.getpid(), signal.SIGKILL))
    try:
        with LocalStore(place) as store:
            store.compact()
    except StorageError as error:
        assert "replaced by another process meanwhile" in str(error), error
