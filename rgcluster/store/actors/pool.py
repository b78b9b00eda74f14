"""Calls to shard actors and their replicas: who is asked, for how long, and who is asked next."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from rgcluster.errors import RGClusterError, StoreUnavailable
from rgcluster.store.actors.lines import Asked, Lines
from rgcluster.store.actors.names import find_actor
from rgcluster.store.shard.requests import HostCall, ShardRequest

__all__ = ["ActorPool"]

_RETRY_SECONDS = 0.1
_LEAST_PATIENCE = 1.0
_ON_FIRST_ALONE = "write"


class ActorPool:
    """The actors of a store, `actors[shard][replica]`.

    Reads go to the replicas in turn, and to the next one at once if one is down, or if it is silent for a
    quarter of the time that is left. Writes go to the first alone: it keeps the journal. A shard without
    replicas is asked again when Ray has restarted it. All within the deadline.

    With `lines`, reads take a line to the shard's process where it is on this machine; what does not come over
    a line comes over Ray.
    """

    def __init__(
        self,
        name: str,
        actors: Sequence[Sequence[ActorHandle]],
        lines: Lines | None = None,
        first: int = 0,
    ) -> None:
        """`first`: which replica of its shard the first of each row is."""
        self.name, self.actors, self._first = name, [list(replicas) for replicas in actors], first
        self._lines, self._turn = lines, itertools.count()

    @property
    def replicas(self) -> int:
        return len(self.actors[0])

    def call(self, calls: Sequence[HostCall], deadline: float) -> list[Any]:
        """Return the answer to every call."""
        turn, allowed = next(self._turn), max(0.0, deadline - time.monotonic())
        until = self._patience(deadline)
        lines: dict[int, Asked] = {}
        refs: dict[int, Any] = {}
        for place, call in enumerate(calls):
            line = self._on_line(call, turn, until)
            if line is None:
                refs[place] = self._ask(call, turn)
            else:
                lines[place] = line
        answers: list[Any] = [None] * len(calls)
        try:
            for place, line in lines.items():
                try:
                    answers[place] = line.result(until)
                except OSError as error:
                    silent = isinstance(error, TimeoutError)
                    refs[place] = self._ask(calls[place], turn + silent)
        finally:
            for line in lines.values():
                line.drop()
        if refs:
            self._collect(calls, answers, refs, turn, deadline, allowed)
        return answers

    def _collect(
        self,
        calls: Sequence[HostCall],
        answers: list[Any],
        refs: dict[int, Any],
        turn: int,
        deadline: float,
        allowed: float,
    ) -> None:
        """Put the answers that Ray brings in their places."""
        patience = self._patience(deadline) - time.monotonic()
        try:
            # The common case: every shard answers.
            brought = ray.get(list(refs.values()), timeout=max(0.0, patience))
        except RayTaskError as error:
            raise _typed(error) from None
        except (GetTimeoutError, RayError):
            self._persist(calls, answers, refs, turn, deadline, allowed)
            return
        for place, answer in zip(refs, brought, strict=True):
            answers[place] = answer

    def _persist(
        self,
        calls: Sequence[HostCall],
        answers: list[Any],
        asked: dict[int, Any],
        turn: int,
        deadline: float,
        allowed: float,
    ) -> None:
        """Collect what there is and ask for the rest again, elsewhere if there is an elsewhere."""
        until = 0.0
        while True:
            silent: list[int] = []
            down: list[int] = []
            ready = self._ready(list(asked.values()), until)
            for place, ref in list(asked.items()):
                if ref not in ready:
                    silent.append(place)
                    continue
                try:
                    answers[place] = ray.get(ref)
                    del asked[place]
                except RayTaskError as error:
                    raise _typed(error) from None
                except RayActorError:
                    self._require_named(calls[place].part)
                    down.append(place)
                except RayError:  # the answer was lost on its way
                    down.append(place)
            if not asked:
                return
            if time.monotonic() >= deadline:
                place = (silent or down)[0]
                what = "did not answer" if silent else "was down"
                raise self._unavailable(calls[place].part, f"{what} within {allowed:.0f} s")
            turn += 1
            if len(down) == len(asked) and (self.replicas == 1 or turn % self.replicas == 0):
                time.sleep(_RETRY_SECONDS)
            # One that is merely silent is asked elsewhere; with nowhere to go, it is waited for.
            again = down if self.replicas == 1 else down + silent
            for place in again:
                asked[place] = self._ask(calls[place], turn)
            until = self._patience(deadline)

    def everyone(self, method: str, args: tuple[Any, ...], deadline: float) -> list[Any]:
        """Call every actor; one that is down is waited for."""
        return [
            answer for pool in self._columns() for answer in pool.call(_for_all(pool, method, args), deadline)
        ]

    def follow(self, parts: Sequence[int], generation: int, deadline: float) -> None:
        """Let the replicas of these shards read the journal."""
        for pool in self._columns()[1:]:
            pool.call([HostCall.of(part, ShardRequest(generation, "catch_up")) for part in parts], deadline)

    def close(self) -> None:
        """Let go of the lines."""
        if self._lines is not None:
            self._lines.close()

    def _columns(self) -> list[ActorPool]:
        """Return for each replica a pool of that one of every shard."""
        columns = zip(*self.actors, strict=True)
        return [
            ActorPool(self.name, [[actor] for actor in column], first=self._first + replica)
            for replica, column in enumerate(columns)
        ]

    def _patience(self, deadline: float) -> float:
        """Return until when an answer is waited for before another replica is asked."""
        left = max(0.0, deadline - time.monotonic())
        return deadline if self.replicas == 1 else deadline - left + max(min(_LEAST_PATIENCE, left), left / 4)

    def _on_line(self, call: HostCall, turn: int, until: float) -> Asked | None:
        if self._lines is None or call.request is None:
            return None
        return self._lines.ask((call.part, self._first + turn % self.replicas), call.request, until)

    def _ask(self, call: HostCall, turn: int) -> Any:
        replicas = self.actors[call.part]
        first = call.request is not None and call.request.method == _ON_FIRST_ALONE
        return getattr(replicas[0 if first else turn % len(replicas)], call.method).remote(*call.args)

    def _ready(self, refs: Sequence[Any], until: float) -> set[Any]:
        timeout = max(0.0, until - time.monotonic())
        return set(ray.wait(list(refs), num_returns=len(refs), timeout=timeout)[0])

    def _require_named(self, part: int) -> None:
        """Raise if the shard was stopped, rather than killed: Ray calls both dead."""
        for replica, actor in enumerate(self.actors[part], self._first):
            if find_actor(self.name, part, replica) == actor:
                return
        raise self._unavailable(part, "has ended and will not come back")

    def _unavailable(self, part: int, what: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"shard {part} of store {self.name} {what}: see `rgcluster store info {self.name}`, or start it again"
        )


def _for_all(pool: ActorPool, method: str, args: tuple[Any, ...]) -> list[HostCall]:
    return [HostCall(part, method, args) for part in range(len(pool.actors))]


def _typed(error: RayTaskError) -> BaseException:
    """Return the deliberate error that a shard raised, or what Ray made of another."""
    return error.cause if isinstance(error.cause, RGClusterError) else error
