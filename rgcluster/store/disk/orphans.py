"""Removal of what no recent version of a store names: replaced generations, and leftovers of killed writers.

A replaced generation stays for an hour, since a process may have read its manifest and be about to open its
files. What was never named stays for a day, since its writer may still be at work.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress

from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError
from rgcluster.store.disk.indexes import INDEXES
from rgcluster.store.disk.snapshot import Manifest, read_manifest
from rgcluster.store.disk.versions import MANIFEST, Versions

__all__ = ["RETIRED_SECONDS", "remove_orphans"]

RETIRED_SECONDS = 3600.0
ORPHAN_SECONDS = 24 * 3600.0
_OURS = re.compile(r"manifest-[0-9a-f]{8}\.json|shard-\d{5,}-[0-9a-f]{8}|journal-[0-9a-f]{8}")


def remove_orphans(place: Location) -> None:
    """Remove files of the store at a location that have been without a name for long."""
    now, live = time.time(), dict[str, Manifest]()
    try:
        version = Versions(place).read()
        recent = {version.manifest} | {name for name, at in version.retired if now - at < RETIRED_SECONDS}
        if (place / MANIFEST).exists():
            live = {name: read_manifest(place, name) for name in recent}
    except CheckpointError:  # of a damaged store, nothing is known to be unused
        return
    kept = set(live).union(*(manifest.directories for manifest in live.values()))
    expired = _expired(place, {name for name, _ in version.retired} - recent)
    if live and MANIFEST in expired and not expired[MANIFEST].directories <= kept:
        # It would name files that are gone.
        (place / MANIFEST).write_bytes(live[version.manifest].to_bytes(), durable=True)
    replaced = set(expired).union(*(manifest.directories for manifest in expired.values())) - {MANIFEST}
    for name in place.names():
        if not _OURS.fullmatch(name) or name in kept:
            continue
        if (live and name in replaced) or now - (place / name).modified_below() > ORPHAN_SECONDS:
            (place / name).remove()
    if live:
        _remove_beside(place, live)


def _expired(place: Location, names: set[str]) -> dict[str, Manifest]:
    found = {}
    for name in names:
        with suppress(CheckpointError):  # removed before
            found[name] = read_manifest(place, name)
    return found


def _remove_beside(place: Location, live: dict[str, Manifest]) -> None:
    """Remove the changes that all of these include, and the indexes of other snapshots."""
    first = min(manifest.changes_from for manifest in live.values())
    for epoch in (place / "changes").names():
        if epoch.isdigit() and int(epoch) < first:
            (place / "changes" / epoch).remove()
    digests = tuple(manifest.digest for manifest in live.values())
    indexes = place / INDEXES
    for name in indexes.names():
        if not name.startswith(digests) and time.time() - (indexes / name).modified_below() > RETIRED_SECONDS:
            (indexes / name).remove()
