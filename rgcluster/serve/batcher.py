"""Requests that arrive while a batch is computed form the next one.

Ray's own batching takes a request out of its queue before the batch ahead of it has ended, so with no
waiting time every batch is of one, and with waiting time an idle server waits in vain. Here a batch is
taken only when the worker is free: alone a request never waits, under load batches fill by themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Batcher"]

In = TypeVar("In")
Out = TypeVar("Out")


class Batcher(Generic[In, Out]):
    """Runs `work` on lists of items in one thread; each item's answer, or its own error, goes to its caller.

    A batch holds items up to `max_size` by `size`, and at least one. Items whose caller has gone are left out.
    """

    def __init__(
        self,
        work: Callable[[Sequence[In]], Sequence[Out | Exception]],
        size: Callable[[In], int],
        max_size: int,
        observe: Callable[[int, int], None] = lambda size, waiting: None,
    ) -> None:
        self._work, self._size, self._max_size, self._observe = work, size, max_size, observe
        self._waiting: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="translator")
        self._runner: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Number of items that no batch has taken yet."""
        return len(self._waiting)

    async def submit(self, item: In) -> Out:
        """Return the item's answer."""
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take():
            self._observe(sum(self._size(item) for item, _ in batch), len(self._waiting))
            try:
                answers = await loop.run_in_executor(self._thread, self._work, [item for item, _ in batch])
            except Exception as error:  # what the work did not expect befalls the whole batch
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _take(self) -> list[tuple[In, asyncio.Future[Out]]]:
        batch: list[tuple[In, asyncio.Future[Out]]] = []
        room = self._max_size
        while self._waiting:
            item, future = self._waiting[0]
            if future.done():  # its caller gave up
                self._waiting.popleft()
                continue
            if batch and self._size(item) > room:
                break
            room -= self._size(item)
            batch.append(self._waiting.popleft())
        return batch
