"""Exchange of a store's generation without interrupting queries or changes.

1. Begin a new epoch, which seals the changes so far: a shard whose change comes too late writes it again in the new
   epoch, before it acknowledges it.
2. Write the shards with the sealed changes as a new generation beside the old one, and load it in every shard.
   Changes go on meanwhile, to both.
3. Publish the generation by one version. The shards adopt it and drop the old one after its last call.

After a failure at any point, the newest version names one complete generation, which the shards serve.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from rgcluster.base.storage import Location
from rgcluster.errors import RGClusterError, StorageError
from rgcluster.store.changes.journal import change_files
from rgcluster.store.changes.transfer import write_compacted
from rgcluster.store.disk.orphans import remove_orphans
from rgcluster.store.disk.snapshot import current, read_manifest
from rgcluster.store.disk.versions import Versions
from rgcluster.store.disk.writer import discard, publish

__all__ = ["compact"]

_LOAD_SECONDS = 600.0
_ABANDON_SECONDS = 30.0

Everyone = Callable[[str, tuple[Any, ...], float], list[Any]]


def compact(location: Location, everyone: Everyone) -> None:
    """Write, load, publish and adopt the next generation; do nothing if there are no changes.

    StorageError if another process published one first.
    """
    version, manifest = current(location)
    if not change_files(location, manifest):
        return
    sealed = Versions(location).seal()
    if sealed.manifest != version.manifest:
        raise _overtaken(location)
    candidate = write_compacted(location, manifest, sealed.number)
    with ExitStack() as undo:
        undo.callback(discard, location, candidate)
        undo.callback(_abandon, everyone, read_manifest(location, candidate).token)
        everyone("prepare", (candidate,), time.monotonic() + _LOAD_SECONDS)
        undo = undo.pop_all()  # from here on it may have been published, whatever the error
    if not publish(location, candidate, version.manifest):
        undo.close()
        raise _overtaken(location)
    everyone("adopt", (), time.monotonic() + _LOAD_SECONDS)
    remove_orphans(location)


def _abandon(everyone: Everyone, token: str) -> None:
    """Let the shards drop a snapshot; one that cannot be reached drops it when the next one is published."""
    with suppress(RGClusterError):
        everyone("abandon", (token,), time.monotonic() + _ABANDON_SECONDS)


def _overtaken(location: Location) -> StorageError:
    return StorageError(f"{location}: replaced by another process meanwhile; run the same command again")
