"""Dynamic batching: requests that arrive while a batch is computed form the next one.

Ray's own batching takes a request out of its queue before the batch ahead of it has ended, so with no
waiting time every batch is of one, and with waiting time an idle server waits in vain. Here a batch is
taken only when the worker is free: a single request never waits, and batches fill under load.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Batcher"]

In = TypeVar("In")
Out = TypeVar("Out")


class Batcher(Generic[In, Out]):
    """Runs `work` on lists of items in one thread; each caller gets the result or the error of its item.

    A batch holds items up to `max_size` by `size`, and at least one. Items whose caller was cancelled are skipped.
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
        self._more = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Number of items that no batch has taken yet."""
        return len(self._waiting)

    async def submit(self, item: In) -> Out:
        """Return the result of the item; all callers share one event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Out] = loop.create_future()
        with self._more:
            self._waiting.append((item, future))
            self._more.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(loop,), name="translator", daemon=True)
            self._thread.start()
        return await future

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        # The thread takes the next batch itself, so that a busy event loop does not leave it idle.
        while True:
            batch = self._take()
            self._observe(sum(self._size(item) for item, _ in batch), len(self._waiting))
            answers: Sequence[Out | Exception]
            try:
                answers = self._work([item for item, _ in batch])
            except Exception as error:  # an unexpected error fails the whole batch
                answers = [error] * len(batch)
            try:
                loop.call_soon_threadsafe(_deliver, [future for _, future in batch], answers)
            except RuntimeError:  # the loop is closed, so no caller is waiting
                return

    def _take(self) -> list[tuple[In, asyncio.Future[Out]]]:
        """Wait for items; return the next batch."""
        batch: list[tuple[In, asyncio.Future[Out]]] = []
        room = self._max_size
        with self._more:
            while not batch:
                self._more.wait_for(lambda: self._waiting)
                while self._waiting:
                    item, future = self._waiting[0]
                    if future.done():  # cancelled by its caller
                        self._waiting.popleft()
                        continue
                    if batch and self._size(item) > room:
                        break
                    room -= self._size(item)
                    batch.append(self._waiting.popleft())
        return batch


def _deliver(futures: Sequence[asyncio.Future[Out]], answers: Sequence[Out | Exception]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
