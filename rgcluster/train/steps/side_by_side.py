"""Updates of independent networks at the same time, one core each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TypeVar

import torch

from rgcluster.train.stage import Worker
from rgcluster.translate.device import Device

__all__ = ["SideBySide"]

T = TypeVar("T")


class SideBySide:
    """Calls functions at the same time if that is faster, otherwise one after the other.

    A small network keeps one core busy, not two: 180 ms for a step of the demo on one core, 136 ms on two, so two
    networks side by side take two thirds of the time. The operating system shares the cores among the functions.
    """

    def __init__(self, count: int, worker: Worker) -> None:
        # Collective operations of several threads would meet in another order on every worker.
        together = count > 1 and worker.world == 1 and worker.device.torch.type == "cpu"
        self._pool = (
            ThreadPoolExecutor(count, "side-by-side", torch.set_num_threads, (1,))
            if together and torch.get_num_threads() > 1
            else None
        )
        self.device: Device = replace(worker.device, caches_casts=False) if self._pool else worker.device
        """The device of the networks. Threads share one cache of cast weights and would empty it for each other."""

    def __call__(self, functions: Sequence[Callable[[], T]]) -> list[T]:
        """Return the functions' results in order, or raise the first one's error after all have ended."""
        if self._pool is None:
            return [function() for function in functions]
        futures = [self._pool.submit(function) for function in functions]
        wait(futures)
        return [future.result() for future in futures]
