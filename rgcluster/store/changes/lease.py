"""The right to write to a store: held by one store at a time, and lost at the latest where another takes it.

The shards of a store share the right, each for its own rows. It is a version of the snapshot that names the store
(`versions.py`). It lasts for some seconds, and writing prolongs it. These seconds only keep stores from taking it
from each other; what makes changes safe is the epoch, so clocks may differ and a process may stop for any time.
"""

from __future__ import annotations

import os
import socket
import time

from rgcluster.base.storage import Location
from rgcluster.errors import StorageError, WriterConflict
from rgcluster.store.changes.journal import Change, encode, epoch_directory
from rgcluster.store.disk.versions import Version, Versions

__all__ = ["LEASE_SECONDS", "Writer", "release"]

LEASE_SECONDS = 20.0


class Writer:
    """Writes the changes of the shard `part` of `parts` of the store `owner`. One thread at a time.

    `restarts` tells the processes of one shard apart: a process that was cut off and replaced may not write.
    """

    def __init__(self, place: Location, owner: str, part: int, parts: int, restarts: int = 0) -> None:
        self._place, self._owner, self._restarts = place, owner, restarts
        self._part, self._parts = part, parts
        self._versions = Versions(place)
        self._version: Version | None = None
        self._epoch, self._number, self._begin_epoch = 0, 0, False
        self.used = False
        """Whether the store has had the right to write since this process began."""

    def has_entered(self) -> bool:
        """Return whether changes can be appended without reading those of other processes first."""
        version = self._version
        return (
            version is not None
            and version.until - time.time() > LEASE_SECONDS / 2
            and version.number == self._versions.newest()
        )

    def enter(self) -> None:
        """Take or prolong the right to write; WriterConflict if another store has it."""
        while True:
            version = self._versions.read()
            mine = version.owner == self._owner
            lasts = version.until - time.time()
            newest = version.restarts.get(str(self._part), 0) if mine else 0
            if version.owner and not mine and lasts > 0:
                raise WriterConflict(
                    f"{self._place}: another store ({version.holder}) writes to this snapshot; write through it, "
                    f"or close it, or wait until it has not written for {LEASE_SECONDS:.0f} s"
                )
            if newest > self._restarts:
                raise WriterConflict(f"{self._place}: this process of shard {self._part} has been replaced")
            if mine and newest == self._restarts and lasts > LEASE_SECONDS / 2 and not self._begin_epoch:
                break
            following = self._versions.follow(
                version,
                owner=self._owner,
                holder=f"{socket.gethostname()}, process {os.getpid()}",
                until=time.time() + LEASE_SECONDS,
                restarts={**(version.restarts if mine else {}), str(self._part): self._restarts},
            )
            if following is not None:
                version = following
                break
        if version.number != self._epoch:
            self._epoch, self._number = version.number, 0
        self._version, self._begin_epoch, self.used = version, False, True

    def leave(self) -> None:
        """Require `enter` before the next change."""
        self._version = None

    def append(self, changes: list[Change]) -> tuple[int, str, bool]:
        """Write changes durably; return their epoch, their file, and whether the epoch is still the newest.

        If it is not, they must not be acknowledged: `enter` again, read what others wrote, and append them again.
        Other processes may read them all the same, and after an error, too.
        """
        assert self._version is not None
        name = f"{self._number:012d}-{self._part:04d}-{self._parts:04d}.npz"
        version, self._version, self._begin_epoch = self._version, None, True
        file = epoch_directory(self._place, self._epoch) / name
        if not file.create(encode(changes)):
            raise StorageError(f"{file}: exists, written by another process; run the same command again")
        self._number += 1
        acknowledged, self._begin_epoch = self._versions.newest() == self._epoch, False
        self._version = version if acknowledged else None
        return self._epoch, name, acknowledged


def release(place: Location, owner: str) -> None:
    """Leave the right to write to others, if the store `owner` has it."""
    versions = Versions(place)
    while (version := versions.read()).owner == owner:
        if versions.follow(version, owner="", holder="", until=0.0, restarts={}) is not None:
            return
