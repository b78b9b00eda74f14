"""The interface between the worker loop and a stage."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from rgcluster.base.storage import Location
from rgcluster.config import Config, StageConfig
from rgcluster.model.losses import Parts
from rgcluster.translate.device import Device

if TYPE_CHECKING:  # streams need Ray, training steps do not
    from rgcluster.data.stream import ImageSource

__all__ = ["Run", "Stage", "Worker"]

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """Arguments of every worker of a stage; plain values that can be pickled."""

    config: Config
    location: str
    stage: str
    source: ImageSource
    upstream: dict[str, str] = field(default_factory=dict)
    """Locations of the networks of earlier stages, and the store's name."""
    gpus_per_generator: float = 0.0
    """Share of a device that stage 2's generators use beside their worker."""

    @property
    def directory(self) -> Location:
        return Location(self.location) / self.stage


@dataclass(frozen=True)
class Worker:
    """A worker's rank in the group, and its device."""

    rank: int
    world: int
    device: Device

    def rows(self, batch: int) -> int:
        """Return this worker's number of rows in a global batch; the workers' numbers differ by at most one."""
        return batch * (self.rank + 1) // self.world - batch * self.rank // self.world


class Stage(ABC):
    """Networks and training step of a stage."""

    settings: StageConfig

    def __init__(self, run: Run, worker: Worker) -> None:
        self.run, self.worker = run, worker
        self.config = run.config
        self._waited_for_data = 0.0

    @abstractmethod
    def inputs(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the input of each step in [start, stop)."""

    @abstractmethod
    def step(self, step: int, item: Any) -> Parts:
        """Update the networks; return detached scalars, whose mean over the workers is that of the batch."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""

    @abstractmethod
    def load(self, state: dict[str, Any], source: str) -> None:
        """Continue from `state`."""

    @abstractmethod
    def hand_over(self, location: Location) -> None:
        """Write the networks for later stages."""

    def samples(self, step: int) -> dict[str, npt.NDArray[np.uint8]]:
        """Return sample pictures uint8 [h, w, 3] by name after `step` steps."""
        return {}

    def rows_of(self, step: int) -> npt.NDArray[np.int64]:
        """Return the rows of the training images in the batch of `step`, over all workers."""
        batch = self.settings.batch_size
        return self.run.source.order(self.order_seed, batch).rows(step * batch, (step + 1) * batch)

    @property
    def order_seed(self) -> int:
        """The seed of the order in which the stage reads its images."""
        return self.config.seed

    def pieces(self, block: dict[str, npt.NDArray[Any]]) -> list[tuple[dict[str, npt.NDArray[Any]], float]]:
        """Cut a step's block into `accumulate` pieces, each with its share.

        A share is the number of rows of the piece over that of an even part of the batch. With these weights, sums
        of mean losses over pieces and workers equal the mean over the batch, however it is cut.
        """
        settings, rows = self.settings, len(next(iter(block.values())))
        even = settings.batch_size / self.worker.world
        cuts = np.array_split(np.arange(rows), min(settings.accumulate, rows))
        return [
            ({name: values[cut[0] : cut[-1] + 1] for name, values in block.items()}, len(cut) / even)
            for cut in cuts
        ]

    def waits(self) -> dict[str, float]:
        """Return the seconds waited since the last call, by cause."""
        waited, self._waited_for_data = self._waited_for_data, 0.0
        return {"data": waited}

    def timed(self, stream: Iterator[T]) -> Iterator[T]:
        """Yield the items of the stream; the time that it takes counts as waiting for data."""
        while True:
            start = time.perf_counter()
            try:
                item = next(stream)
            except StopIteration:
                return
            finally:
                self._waited_for_data += time.perf_counter() - start
            yield item
