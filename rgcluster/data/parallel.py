"""Runs many Ray tasks, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

__all__ = ["as_completed"]

IN_FLIGHT_PER_CPU = 2

T = TypeVar("T")


def as_completed(submit: Callable[[T], Any], items: Sequence[T]) -> Iterator[tuple[int, Any]]:
    """Yield the number of an item and its task's result as tasks end; `submit` returns the reference of a task."""
    limit = max(2, int(ray.cluster_resources().get("CPU", 1)) * IN_FLIGHT_PER_CPU)
    waiting = iter(enumerate(items))
    pending: dict[Any, int] = {}
    while True:
        while len(pending) < limit and (item := next(waiting, None)) is not None:
            pending[submit(item[1])] = item[0]
        if not pending:
            return
        (first,), _ = ray.wait(list(pending), num_returns=1)
        yield pending.pop(first), ray.get(first)
