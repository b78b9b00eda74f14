"""The store as a pool of Ray actors, one a shard, found by name."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
)
from ray.util import list_named_actors

from rgcluster.errors import ConfigError, RGClusterError, StoreUnavailable
from rgcluster.storage import Location
from rgcluster.store.client import Call, Store
from rgcluster.store.shard import ShardActor
from rgcluster.store.snapshot import Manifest, read_manifest

__all__ = ["NAMESPACE", "RayStore", "list_stores", "stop_store"]

NAMESPACE = "rgcluster"

_START_SECONDS = 600.0
_STOP_SECONDS = 30.0
_RETRY_SECONDS = 0.2


class RayStore(Store):
    """A snapshot served by Ray actors; make one with `start` or `connect`.

    A copy sent to another process connects by name. Whoever started the store
    stops it by `close`, unless it is detached.
    """

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        actors: Sequence[ActorHandle],
        timeout: float,
        max_in_flight: int,
        owner: bool,
    ) -> None:
        super().__init__(manifest, len(actors), timeout, max_in_flight)
        self.name, self._actors, self._owner = name, list(actors), owner

    @classmethod
    def start(
        cls,
        location: Location | str | os.PathLike[str],
        name: str,
        *,
        num_actors: int | None = None,
        detached: bool = False,
        verify: bool = True,
        timeout: float = 60.0,
        max_in_flight: int = 16,
    ) -> RayStore:
        """Start one actor a shard, by default as many as on disk, and wait until every one has loaded.

        The location must be readable on every node. The actors end with this
        driver unless `detached`. ConfigError if the name is taken,
        CheckpointError if there is no snapshot or a checksum differs.
        """
        if not re.fullmatch(r"[\w.-]+", name):
            raise ConfigError(f"{name!r} cannot name a store: use letters, digits, '.', '_' and '-'")
        if num_actors is not None and num_actors < 1:
            raise ConfigError(f"{num_actors} actors: a store needs 1 or more")
        if name in list_stores():
            raise ConfigError(
                f"a store {name} is running: stop it with `rgcluster store stop {name}`, or take its name"
            )
        path = str(Location(location).local())
        manifest = read_manifest(path)
        parts = num_actors or manifest.num_shards
        actors: list[ActorHandle] = []
        try:
            for part in range(parts):
                options: dict[str, Any] = {
                    "name": _actor_name(name, part),
                    "namespace": NAMESPACE,
                    "scheduling_strategy": "SPREAD",
                }
                if detached:
                    options["lifetime"] = "detached"
                actors.append(
                    ShardActor.options(**options).remote(path, part, parts, manifest.digest, verify)
                )
            everyone: list[Call] = [(part, "ping", ()) for part in range(parts)]
            _call(name, actors, everyone, time.monotonic() + _START_SECONDS)
        except BaseException:
            _kill(actors)
            raise
        return cls(name, manifest, actors, timeout, max_in_flight, owner=not detached)

    @classmethod
    def connect(cls, name: str, *, timeout: float = 60.0, max_in_flight: int = 16) -> RayStore:
        """Find a running store by its name; StoreUnavailable if there is none or it does not answer."""
        deadline = time.monotonic() + timeout
        first = [_find(name, 0)]
        manifest, parts = _call(name, first, [(0, "origin", ())], deadline)[0]
        actors = first + [_find(name, part) for part in range(1, parts)]
        return cls(name, manifest, actors, timeout, max_in_flight, owner=False)

    def close(self) -> None:
        """Let go, and stop the actors if this object started them and they are not detached."""
        super().close()
        if self._owner:
            _kill(self._actors)
            _await_freed(self.name)

    def _scatter(self, calls: Sequence[Call], deadline: float) -> list[Any]:
        return _call(self.name, self._actors, calls, deadline)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconnect, (self.name, self.timeout, self._max_in_flight)


def list_stores() -> dict[str, int]:
    """Return the number of running shards of every store in the cluster, by name."""
    found: dict[str, int] = {}
    for name, _ in _running():
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def stop_store(name: str) -> int:
    """Stop a store, detached or not, free its names and return how many shards it had."""
    parts = [part for running, part in _running() if running == name]
    _kill([_find(name, part) for part in parts])
    _await_freed(name)
    return len(parts)


def _reconnect(name: str, timeout: float, max_in_flight: int) -> RayStore:
    return RayStore.connect(name, timeout=timeout, max_in_flight=max_in_flight)


def _actor_name(name: str, part: int) -> str:
    return f"store-{name}-{part}"


def _running() -> list[tuple[str, int]]:
    pairs = []
    for actor in list_named_actors(all_namespaces=True):
        match = re.fullmatch(r"store-(.+)-(\d+)", actor["name"])
        if match and actor["namespace"] == NAMESPACE:
            pairs.append((match[1], int(match[2])))
    return pairs


def _find(name: str, part: int) -> ActorHandle:
    try:
        return ray.get_actor(_actor_name(name, part), namespace=NAMESPACE)
    except ValueError:
        raise StoreUnavailable(
            f"no shard {part} of a store {name} is running: see `rgcluster store list`, or start it"
        ) from None


def _call(name: str, actors: Sequence[ActorHandle], calls: Sequence[Call], deadline: float) -> list[Any]:
    """Return the answer to every call, asking restarted shards again until the deadline."""
    allowed = deadline - time.monotonic()
    answers: list[Any] = [None] * len(calls)
    waiting = list(range(len(calls)))
    while waiting:
        refs = [
            getattr(actors[calls[position][0]], calls[position][1]).remote(*calls[position][2])
            for position in waiting
        ]
        _, late = ray.wait(refs, num_returns=len(refs), timeout=max(0.0, deadline - time.monotonic()))
        if late:
            shards = [calls[position][0] for position, ref in zip(waiting, refs, strict=True) if ref in late]
            raise _unavailable(name, shards[0], f"did not answer within {allowed:.0f} s")
        again = []
        for position, ref in zip(waiting, refs, strict=True):
            shard = calls[position][0]
            try:
                answers[position] = ray.get(
                    ref, timeout=max(0.0, deadline - time.monotonic()) + _RETRY_SECONDS
                )
            except (ActorUnavailableError, ObjectLostError):
                again.append(position)
            except RayActorError:
                # Ray says "died" of an actor killed more often than a call is retried, too.
                if not _still_named(name, shard, actors[shard]):
                    raise _unavailable(name, shard, "has ended and will not come back") from None
                again.append(position)
            except GetTimeoutError:
                raise _unavailable(name, shard, f"did not answer within {allowed:.0f} s") from None
            except RayTaskError as error:
                if isinstance(error.cause, RGClusterError):
                    raise error.cause from None
                raise
        if again:
            if time.monotonic() > deadline:
                raise _unavailable(name, calls[again[0]][0], f"was down for {allowed:.0f} s")
            time.sleep(_RETRY_SECONDS)
        waiting = again
    return answers


def _unavailable(name: str, shard: int, what: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"shard {shard} of store {name} {what}: see `rgcluster store info {name}`, or start it again"
    )


def _still_named(name: str, part: int, actor: ActorHandle) -> bool:
    try:
        return _find(name, part) == actor
    except StoreUnavailable:
        return False


def _kill(actors: Sequence[ActorHandle]) -> None:
    for actor in actors:
        ray.kill(actor)


def _await_freed(name: str) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    while name in list_stores():
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"store {name} did not stop within {_STOP_SECONDS:.0f} s: stop its Ray cluster"
            )
        time.sleep(0.05)
