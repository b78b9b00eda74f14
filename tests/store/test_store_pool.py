"""Slow actors and actors that went down: which calls are sent again, and where. Threads stand for Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from rgcluster.store.actors import pool as pool_module
from rgcluster.store.actors.pool import ActorPool
from rgcluster.store.shard.requests import HostCall, ShardRequest

SLOW = 0.4
"""Seconds of a slow call: longer than the pool's patience, shorter than the time-out."""
TIMEOUT = 1.2

Method = Callable[[ShardRequest], Any]


class Actor:
    """A replica whose calls run in threads, as Ray's do, and are counted."""

    def __init__(self, threads: futures.Executor, call: Method) -> None:
        self._threads, self._call, self.calls = threads, call, 0

    @property
    def call(self) -> Any:
        def remote(request: ShardRequest) -> futures.Future[Any]:
            self.calls += 1
            return self._threads.submit(self._call, request)

        method = SimpleNamespace(remote=remote)
        method.options = lambda **options: method
        return method


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[futures.Executor]:
    def wait(refs: Sequence[futures.Future[Any]], num_returns: int, timeout: float) -> tuple[list[Any], ...]:
        done = futures.wait(refs, timeout)
        return list(done.done), list(done.not_done)

    fake = SimpleNamespace(wait=wait, get=lambda ref: ref.result())
    monkeypatch.setattr(pool_module, "ray", fake)
    monkeypatch.setattr(pool_module, "_MIN_PATIENCE_SECONDS", 0.1)
    with futures.ThreadPoolExecutor(8) as executor:
        yield executor


def slow(request: ShardRequest) -> str:
    time.sleep(SLOW)
    return "slow"


def quick(request: ShardRequest) -> str:
    return "quick"


def call(replicas: list[Actor], method: str) -> Any:
    call = HostCall.of(0, ShardRequest("0badf00d", method))
    return ActorPool("faces", [replicas]).call([call], time.monotonic() + TIMEOUT)[0]  # type: ignore[list-item]


def test_a_slow_write_is_sent_once(threads: futures.Executor) -> None:
    replicas = [Actor(threads, slow), Actor(threads, quick)]
    assert call(replicas, "write") == "slow"
    assert [actor.calls for actor in replicas] == [1, 0]


def test_a_slow_read_is_sent_to_the_next_replica(threads: futures.Executor) -> None:
    replicas = [Actor(threads, slow), Actor(threads, quick)]
    assert call(replicas, "held_version") == "quick"
    assert [actor.calls for actor in replicas] == [1, 1]


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_write_waits_for_the_actor_that_keeps_the_journal(
    threads: futures.Executor, replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restarting(request: ShardRequest) -> str:
        if actors[0].calls < 3:
            raise RayActorError
        return "written"

    actors = [Actor(threads, restarting), Actor(threads, quick)][:replicas]
    monkeypatch.setattr(pool_module, "find_actor", lambda name, part, replica: actors[replica])
    assert call(actors, "write") == "written"
    assert [actor.calls for actor in actors] == [3, 0][:replicas]
