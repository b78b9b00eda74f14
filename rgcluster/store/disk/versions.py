"""Versions of a store: which manifest is current, and who may write.

    versions/000000000012.json       the newest counts; older ones are removed after a while

A version never changes. The next one is created exclusively under the next number, so each follows the one that
its author has read: taking the right to write, publishing a generation and sealing the changes so far are the
same step. The number is the *epoch* of the changes made under a version. A change is acknowledged only if its
epoch is still the newest after it was written. A process that then lists the changes before a version of its own sees
every acknowledged one.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass, field, replace

from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError, DataError

__all__ = ["MANIFEST", "SCHEMA", "Version", "Versions"]

SCHEMA = 3
MANIFEST = "manifest.json"
_DIRECTORY = "versions"
_NAME = re.compile(r"(\d{12})\.json")
_MANIFEST_NAME = re.compile(r"manifest(-[0-9a-f]{8})?\.json")
_KEPT = 8
"""Number of versions that remain, for processes that are about to read one."""


@dataclass(frozen=True)
class Version:
    """One version; version 0, of a store that never changed, has no file."""

    number: int = 0
    manifest: str = MANIFEST
    """File name of the current manifest."""
    owner: str = ""
    """The store whose shards may write; empty if none may."""
    holder: str = ""
    """Its machine and process, for messages."""
    until: float = 0.0
    """Time (seconds since 1970) until which others leave the right to write to the owner."""
    restarts: dict[str, int] = field(default_factory=dict)
    """Number of restarts of each of the owner's shards that wrote after one; older processes may not write."""
    retired: tuple[tuple[str, float], ...] = ()
    """Replaced manifests, and when each was replaced."""


class Versions:
    """The versions of the store at a location."""

    def __init__(self, place: Location) -> None:
        self._place, self._directory = place, place / _DIRECTORY

    def newest(self) -> int:
        """Return the number of the newest version, with one listing."""
        return max(self._numbers(), default=0)

    def read(self) -> Version:
        """Return the newest version; CheckpointError if it is damaged."""
        while number := self.newest():
            file = self._file(number)
            try:
                raw = file.read_json()
                retired = tuple((str(name), float(at)) for name, at in raw["retired"])
                restarts = {str(part): int(count) for part, count in raw["restarts"].items()}
                manifest = str(raw["manifest"])
                if not all(_MANIFEST_NAME.fullmatch(name) for name in (manifest, *dict(retired))):
                    raise ValueError(f"manifest {manifest}")
                return Version(
                    number,
                    manifest,
                    str(raw["owner"]),
                    str(raw["holder"]),
                    float(raw["until"]),
                    restarts,
                    retired,
                )
            except FileNotFoundError:  # newer ones followed, and it was removed
                continue
            except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
                raise CheckpointError(f"{file}: damaged ({error}); restore the store from a copy") from None
        return Version()

    def follow(self, version: Version, **changes: object) -> Version | None:
        """Create the version after `version` with some values changed; return None if another process was first."""
        following = replace(version, number=version.number + 1, **changes)  # type: ignore[arg-type]
        if following.number == 1:
            self._refuse_older_readers()
        # A token, since each author's content has to be its own.
        content = json.dumps({**asdict(following), "token": secrets.token_hex(8)}, indent=2) + "\n"
        if not self._file(following.number).create(content.encode()):
            return None
        numbers = self._numbers()
        for number in sorted(numbers)[:-_KEPT]:
            self._file(number).remove()
        # The number may have been free only because all of its time have been removed.
        return following if max(numbers) == following.number else None

    def seal(self) -> Version:
        """Begin a new epoch, and change nothing else; return its version."""
        while True:
            sealed = self.follow(self.read())
            if sealed is not None:
                return sealed

    def _file(self, number: int) -> Location:
        return self._directory / f"{number:012d}.json"

    def _numbers(self) -> list[int]:
        return [int(match[1]) for name in self._directory.names() if (match := _NAME.fullmatch(name))]

    def _refuse_older_readers(self) -> None:
        """Raise the format of a store of an earlier one, whose readers would not see the changes to come."""
        raw = (self._place / MANIFEST).read_json()
        if raw["schema"] != SCHEMA:
            content = json.dumps({**raw, "schema": SCHEMA}, indent=2) + "\n"
            (self._place / MANIFEST).write_bytes(content.encode(), durable=True)
