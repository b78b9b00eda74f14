"""Calls to shard actors and their replicas, with time-outs, failover and retries."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from rgcluster.errors import RGClusterError, StoreUnavailable
from rgcluster.store.actors.connections import PendingResponse, ShardConnections
from rgcluster.store.actors.names import find_actor
from rgcluster.store.shard.requests import HostCall, ShardRequest

__all__ = ["CONCURRENCY", "ActorPool"]

CONCURRENCY = {"control": 4, "writes": 16}
"""Threads of an actor for calls to its host and for changes. Neither waits for reads, nor for each other."""

_RETRY_SECONDS = 0.1
_MIN_PATIENCE_SECONDS = 1.0
_WRITE = "write"
"""The method that only the first replica serves."""


class ActorPool:
    """The actors of a store, `actors[shard][replica]`.

    Reads go to the replicas in turn. The pool tries the next replica immediately if one is down, and after a
    quarter of the remaining time if one does not respond. Writes go to the first replica, which owns the
    journal. A shard without replicas is retried after Ray has restarted it, and so is a write, which may have
    reached the journal before: it is then applied once more. The deadline covers all attempts.

    With `connections`, reads use a socket to shards on this machine. Ray carries all other calls, and repeats
    reads whose connection fails.
    """

    def __init__(
        self,
        name: str,
        actors: Sequence[Sequence[ActorHandle]],
        connections: ShardConnections | None = None,
        first: int = 0,
    ) -> None:
        """`first` is the replica number of the first actor in each row."""
        self.name, self.actors, self._first = name, [list(replicas) for replicas in actors], first
        self._connections, self._turn = connections, itertools.count()

    @property
    def replicas(self) -> int:
        return len(self.actors[0])

    def call(self, calls: Sequence[HostCall], deadline: float) -> list[Any]:
        """Return the result of every call."""
        turn, allowed = next(self._turn), max(0.0, deadline - time.monotonic())
        until = self._patience(deadline)
        pending: dict[int, PendingResponse] = {}
        refs: dict[int, Any] = {}
        for place, call in enumerate(calls):
            response = self._send(call, turn, until)
            if response is None:
                refs[place] = self._submit(call, turn)
            else:
                pending[place] = response
        results: list[Any] = [None] * len(calls)
        try:
            for place, response in pending.items():
                try:
                    results[place] = response.result(until)
                except OSError as error:
                    timed_out = isinstance(error, TimeoutError)
                    refs[place] = self._submit(calls[place], turn + timed_out)
        finally:
            for response in pending.values():
                response.cancel()
        if refs:
            self._collect(calls, results, refs, turn, deadline, allowed)
        return results

    def _collect(
        self,
        calls: Sequence[HostCall],
        results: list[Any],
        refs: dict[int, Any],
        turn: int,
        deadline: float,
        allowed: float,
    ) -> None:
        """Fill in the results of the calls that went through Ray; repeat them, on another replica if there is one."""
        while True:
            slow, down = list[int](), list[int]()
            timeout = max(0.0, self._patience(deadline) - time.monotonic())
            ready = set(ray.wait(list(refs.values()), num_returns=len(refs), timeout=timeout)[0])
            for place, ref in list(refs.items()):
                if ref not in ready:
                    slow.append(place)
                    continue
                try:
                    results[place] = ray.get(ref)
                    del refs[place]
                except RayTaskError as error:
                    raise _typed(error) from None
                except RayActorError:
                    self._require_named(calls[place].part)
                    down.append(place)
                except RayError:  # the result was lost in transit
                    down.append(place)
            if not refs:
                return
            if time.monotonic() >= deadline:
                place = (slow or down)[0]
                what = "did not answer" if slow else "was down"
                raise self._unavailable(calls[place].part, f"{what} within {allowed:.0f} s")
            turn += 1
            if len(down) == len(refs) and (self.replicas == 1 or turn % self.replicas == 0):
                time.sleep(_RETRY_SECONDS)
            # A call to a slow actor is repeated on another replica; if no other may serve it, keep waiting.
            movable = [place for place in slow if self.replicas > 1 and not _writes(calls[place])]
            for place in down + movable:
                refs[place] = self._submit(calls[place], turn)

    def everyone(self, method: str, args: tuple[Any, ...], deadline: float) -> list[Any]:
        """Call every actor; wait for the restart of one that is down."""
        return [
            result
            for pool in self._columns()
            for result in pool.call(_calls_to_all(pool, method, args), deadline)
        ]

    def follow(self, parts: Sequence[int], snapshot: str, deadline: float) -> None:
        """Make the replicas of these shards read the journal."""
        for pool in self._columns()[1:]:
            pool.call([HostCall.of(part, ShardRequest(snapshot, "catch_up")) for part in parts], deadline)

    def close(self) -> None:
        """Close the socket connections."""
        if self._connections is not None:
            self._connections.close()

    def _columns(self) -> list[ActorPool]:
        """Return one pool per replica number, with one actor per shard."""
        columns = zip(*self.actors, strict=True)
        return [
            ActorPool(self.name, [[actor] for actor in column], first=self._first + replica)
            for replica, column in enumerate(columns)
        ]

    def _patience(self, deadline: float) -> float:
        """Return the time at which to try another replica."""
        left = max(0.0, deadline - time.monotonic())
        return (
            deadline
            if self.replicas == 1
            else deadline - left + max(min(_MIN_PATIENCE_SECONDS, left), left / 4)
        )

    def _send(self, call: HostCall, turn: int, until: float) -> PendingResponse | None:
        if self._connections is None or call.request is None:
            return None
        return self._connections.request((call.part, self._first + turn % self.replicas), call.request, until)

    def _submit(self, call: HostCall, turn: int) -> Any:
        replicas, writes = self.actors[call.part], _writes(call)
        method = getattr(replicas[0 if writes else turn % len(replicas)], call.method)
        if writes or call.request is None:
            method = method.options(concurrency_group="writes" if writes else "control")
        return method.remote(*call.args)

    def _require_named(self, part: int) -> None:
        """Raise if the shard was stopped rather than killed; Ray reports both as dead."""
        for replica, actor in enumerate(self.actors[part], self._first):
            if find_actor(self.name, part, replica) == actor:
                return
        raise self._unavailable(part, "has ended and will not come back")

    def _unavailable(self, part: int, what: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"shard {part} of store {self.name} {what}: see `rgcluster store info {self.name}`, or start it again"
        )


def _writes(call: HostCall) -> bool:
    return call.request is not None and call.request.method == _WRITE


def _calls_to_all(pool: ActorPool, method: str, args: tuple[Any, ...]) -> list[HostCall]:
    return [HostCall(part, method, args) for part in range(len(pool.actors))]


def _typed(error: RayTaskError) -> BaseException:
    """Return the typed error that a shard raised, or Ray's error for any other exception."""
    return error.cause if isinstance(error.cause, RGClusterError) else error
