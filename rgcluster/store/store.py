"""The store as named Ray actors, one per shard and replica."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

import ray
from ray.actor import ActorHandle
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rgcluster.base.placement import CPUS_PER_SHARD, GPUS_PER_SHARD
from rgcluster.base.storage import Location
from rgcluster.errors import ConfigError, RGClusterError, StoreUnavailable
from rgcluster.store.actors.actor import ShardActor
from rgcluster.store.actors.connections import ShardConnections
from rgcluster.store.actors.names import NAMESPACE, actor_name, find_actor, require_name, running_actors
from rgcluster.store.actors.pool import ActorPool
from rgcluster.store.actors.telemetry import ClientMeter
from rgcluster.store.client import Store
from rgcluster.store.disk.snapshot import Manifest, Place, read_manifest
from rgcluster.store.shard.requests import HostCall
from rgcluster.store.shard.shard import IndexSettings
from rgcluster.store.view import View

__all__ = ["NAMESPACE", "RayStore", "list_stores", "stop_store"]

_START_SECONDS = 3600.0
"""Building an approximate index of many millions of vectors takes long."""
_PLACE_SECONDS = 60.0
_STOP_SERVING_SECONDS = 1.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05
_GROUP = "store-"


class _NameTaken(ConfigError):
    """A store of this name is running or starting."""


class _NotRunning(Exception):
    """A shard of a store has no process; never leaves this module."""


class RayStore(Store):
    """A snapshot served by Ray actors; make one with `start`, `connect` or `share`.

    Unpickling in another process connects by name. `close` stops the store if this object started it, unless
    it is detached.
    """

    def __init__(
        self,
        pool: ActorPool,
        location: Location,
        manifest: Manifest,
        timeout: float,
        group: PlacementGroup | None = None,
    ) -> None:
        """With `group`, the resources of the actors, `close` stops the store."""
        super().__init__(location, manifest, len(pool.actors), timeout)
        self.name, self._pool, self._group = pool.name, pool, group
        self._meter = ClientMeter(pool.name)

    @classmethod
    def start(
        cls,
        location: Place,
        name: str,
        *,
        num_actors: int | None = None,
        replicas: int = 1,
        index: IndexSettings | None = None,
        detached: bool = False,
        timeout: float = 60.0,
    ) -> RayStore:
        """Start an actor for each shard (by default as many as on disk) and replica; wait until all have loaded.

        The actors are spread over the nodes; each node must be able to read the location. They end with this
        driver unless `detached`. ConfigError if the name is taken or invalid, CheckpointError if there is no
        snapshot or a checksum differs, StoreUnavailable if the cluster lacks resources.
        """
        require_name(name)
        for count, what in ((num_actors, "actors"), (replicas, "replicas")):
            if count is not None and count < 1:
                raise ConfigError(f"{count} {what}: a store needs 1 or more")
        place = Location(location)
        manifest = read_manifest(place)
        parts = num_actors or manifest.num_shards
        settings = index or IndexSettings()
        lifetime = "detached" if detached else None
        key = secrets.token_hex(16)
        group = _reserve(name, parts * replicas, settings.gpu, lifetime)
        actors: list[list[ActorHandle]] = []
        try:
            for part in range(parts):
                actors.append([])
                for replica in range(replicas):
                    options: dict[str, Any] = {
                        "name": actor_name(name, part, replica),
                        "namespace": NAMESPACE,
                        "lifetime": lifetime,
                        "scheduling_strategy": PlacementGroupSchedulingStrategy(
                            group, part * replicas + replica
                        ),
                        "num_gpus": GPUS_PER_SHARD if settings.gpu else 0,
                    }
                    # Of several drivers that start a store, the one whose first actor gets the name starts it.
                    actors[part].append(
                        ShardActor.options(**options).remote(
                            name, str(place), (part, parts), (replica, replicas), settings, key
                        )
                    )
            _await_room(group, name, settings.gpu)
            pool = ActorPool(name, actors, ShardConnections(key))
            pool.everyone("ping", (), time.monotonic() + _START_SECONDS)
        except BaseException as error:
            _kill([actor for replicas_ in actors for actor in replicas_])
            remove_placement_group(group)
            if isinstance(error, ValueError) and not any(actors):
                raise _NameTaken(
                    f"a store {name} is running: stop it with `rgcluster store stop {name}`, or take its name"
                ) from None
            raise
        return cls(pool, place, manifest, timeout, None if detached else group)

    @classmethod
    def connect(cls, name: str, *, timeout: float = 60.0) -> RayStore:
        """Connect to a running store; StoreUnavailable if there is none or it does not respond."""
        try:
            return cls._connect(name, timeout)
        except _NotRunning as error:
            raise StoreUnavailable(str(error)) from None

    @classmethod
    def _connect(cls, name: str, timeout: float) -> RayStore:
        """Connect to a running store, or raise _NotRunning."""
        deadline = time.monotonic() + timeout
        held = [replica for running, part, replica in running_actors() if (running, part) == (name, 0)]
        if not held:
            raise _not_running(name, 0)
        first = ActorPool(name, [[_find(name, 0, replica) for replica in held]])
        location, manifest, parts, replicas, key = first.call([HostCall(0, "describe_store")], deadline)[0]
        actors = [
            [_find(name, part, replica, deadline) for replica in range(replicas)] for part in range(parts)
        ]
        pool = ActorPool(name, actors, ShardConnections(key))
        return cls(pool, Location(location), manifest, timeout)

    @classmethod
    def share(cls, location: Place, name: str, *, timeout: float = 60.0, **options: Any) -> RayStore:
        """Connect to the store of that name, or start it. Training, evaluation and serving can share one store.

        Of several that call it at once, one starts the store and the others wait for it.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                store = cls._connect(name, timeout)
                store.reload()  # the snapshot may have been rebuilt since the store started
                return store
            except StoreUnavailable:
                if name in list_stores():
                    raise
            except _NotRunning as error:
                if name in list_stores():  # another process has begun to start it since
                    if time.monotonic() > deadline:
                        raise StoreUnavailable(str(error)) from None
                    time.sleep(_POLL_SECONDS)
                    continue
            with suppress(_NameTaken):
                return cls.start(location, name, timeout=timeout, **options)

    @property
    def replicas(self) -> int:
        return self._pool.replicas

    def close(self) -> None:
        """Disconnect; stop the actors if this object started them and they are not detached."""
        super().close()
        self._pool.close()
        if self._group is not None:
            _kill([actor for replicas in self._pool.actors for actor in replicas])
            remove_placement_group(self._group)
            _await_freed(self.name)

    def everyone(self) -> list[dict[str, Any]]:
        """Return `info` of every actor, including replicas."""
        return self._everyone("info", (), time.monotonic() + self.timeout)

    def ping(self) -> None:
        """Wait until one replica of every shard responds; StoreUnavailable after the time-out."""
        calls = [HostCall(part, "ping") for part in range(len(self._pool.actors))]
        self._pool.call(calls, time.monotonic() + self.timeout)

    def _scatter(self, calls: Sequence[HostCall], deadline: float) -> list[Any]:
        start = time.perf_counter()
        try:
            results = self._pool.call(calls, deadline)
        except RGClusterError:
            self._meter.failed()
            raise
        self._meter.succeeded(time.perf_counter() - start)
        return results

    def _everyone(self, method: str, args: tuple[Any, ...], deadline: float) -> list[Any]:
        return self._pool.everyone(method, args, deadline)

    def _follow(self, parts: Sequence[int], view: View) -> None:
        self._pool.follow(parts, view.snapshot, view.deadline)

    def __enter__(self) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconnect, (self.name, self.timeout)


def list_stores() -> dict[str, int]:
    """Return the number of running shards of every store in the cluster, by name."""
    found: dict[str, int] = {}
    for name, _, replica in running_actors():
        found[name] = found.get(name, 0) + (replica == 0)
    return found


def stop_store(name: str) -> int:
    """Stop a store, detached or not, and return its number of shards."""
    held = [(part, replica) for running, part, replica in running_actors() if running == name]
    groups = _groups(name)  # before the name is free for the next store, which reserves its own
    _kill([actor for part, replica in held if (actor := find_actor(name, part, replica)) is not None])
    for group in groups:
        remove_placement_group(group)
    _await_freed(name)
    return sum(replica == 0 for _, replica in held)


def _reconnect(name: str, timeout: float) -> RayStore:
    return RayStore.connect(name, timeout=timeout)


def _bundle(gpu: bool) -> dict[str, float]:
    return {"CPU": CPUS_PER_SHARD} | ({"GPU": GPUS_PER_SHARD} if gpu else {})


def _reserve(name: str, count: int, gpu: bool, lifetime: str | None) -> PlacementGroup:
    """Begin to reserve resources for `count` actors, spread over the nodes."""
    own = f"{_GROUP}{name}:{secrets.token_hex(4)}"  # several drivers may be about to start the store
    return placement_group([_bundle(gpu)] * count, strategy="SPREAD", name=own, lifetime=lifetime)


def _await_room(group: PlacementGroup, name: str, gpu: bool) -> None:
    """Wait until the resources are reserved; StoreUnavailable if there are not enough."""
    if not group.wait(_PLACE_SECONDS):
        free = {key: value for key, value in ray.available_resources().items() if key in ("CPU", "GPU")}
        raise StoreUnavailable(
            f"no room for the store {name}: {group.bundle_count} shards ask for {_bundle(gpu)} each, "
            f"and {free} is free; stop something, or take fewer shards"
        )


def _groups(name: str) -> list[PlacementGroup]:
    return [
        PlacementGroup(ray.PlacementGroupID.from_hex(key))
        for key, row in placement_group_table().items()
        if row["name"].rpartition(":")[0] == f"{_GROUP}{name}" and row["state"] != "REMOVED"
    ]


def _find(name: str, part: int, replica: int, deadline: float = 0.0) -> ActorHandle:
    """Return an actor of a running store, whose driver may be about to start it; _NotRunning if there is none."""
    while True:
        actor = find_actor(name, part, replica)
        if actor is not None:
            return actor
        if time.monotonic() > deadline or find_actor(name, 0, 0) is None:
            raise _not_running(name, part)
        time.sleep(_POLL_SECONDS)


def _not_running(name: str, part: int) -> _NotRunning:
    return _NotRunning(
        f"no shard {part} of a store {name} is running: see `rgcluster store list`, or start it"
    )


def _kill(actors: Sequence[ActorHandle]) -> None:
    # A killed process takes a moment to end, and would serve its socket until then.
    stopping: list[Any] = [
        actor.stop_serving.options(concurrency_group="control").remote() for actor in actors
    ]
    if stopping:
        ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_SERVING_SECONDS)
    for actor in actors:
        ray.kill(actor)


def _await_freed(name: str) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    while name in list_stores():
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"store {name} did not stop within {_STOP_SECONDS:.0f} s: stop its Ray cluster"
            )
        time.sleep(_POLL_SECONDS)
