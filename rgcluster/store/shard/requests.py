"""Calls to a shard, as values that travel between processes."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["READS", "HostCall", "ShardRequest"]

READS = frozenset({"search", "fetch", "vectors", "ids", "held_version"})
"""Methods of `Shard` that change nothing."""


class ShardRequest(NamedTuple):
    """A method of `Shard`, for the snapshot with this token."""

    snapshot: str
    method: str
    args: tuple[Any, ...] = ()

    @property
    def is_read(self) -> bool:
        return self.method in READS


class HostCall(NamedTuple):
    """A method of the `Host` of one shard."""

    part: int
    method: str
    args: tuple[Any, ...] = ()

    @classmethod
    def of(cls, part: int, request: ShardRequest) -> HostCall:
        """Return the call that carries a request to the shard `part`."""
        return cls(part, "call", (request,))

    @property
    def request(self) -> ShardRequest | None:
        """The request that the call carries; None if it is addressed to the host itself."""
        return self.args[0] if self.method == "call" else None
