"""Losses and speed of steps; between reports nothing is read back from the device."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from torch import Tensor

from rgcluster.model.losses import Parts
from rgcluster.train.guards import check_losses
from rgcluster.train.stage import Stage
from rgcluster.train.workers import mean_over_workers

__all__ = ["Meter"]


class Meter:
    """Collects losses on the device and reads them back once for each report."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._names: list[str] = []
        self._rows: list[Tensor] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        self._clock = time.perf_counter()

    def add(self, parts: Parts) -> None:
        """Add the losses of one step, scalars on the device."""
        self._names = sorted(parts)
        self._rows.append(torch.stack([parts[name].float() for name in self._names]))

    def is_finite(self) -> bool:
        """Return whether this worker's losses since the last report are finite numbers."""
        return all(bool(row.isfinite().all()) for row in self._rows)

    def report(self, step: int) -> dict[str, Any]:
        """Return the metrics line of the steps since the last one; TrainingDiverged where a loss is out of bounds."""
        worker, settings, count = self._stage.worker, self._stage.settings, len(self._rows)
        losses = mean_over_workers(torch.stack(self._rows), worker).cpu()
        seconds = time.perf_counter() - self._clock
        check_losses(self._stage, step - count, self._names, losses)
        line = {
            "step": step,
            "steps": settings.steps,
            "seconds_per_step": seconds / count,
            "images_per_second": settings.batch_size * count / seconds,
            **{f"wait_{name}": value / count for name, value in self._stage.waits().items()},
            **_peak_memory(worker.device.torch),
            **dict(zip(self._names, losses.mean(dim=0).tolist(), strict=True)),
        }
        self._rows = []
        self.restart_clock()
        return line


def _peak_memory(device: torch.device) -> dict[str, float]:
    """Return the peak memory in GiB since the start: of tensors on a GPU, of this process on a CPU."""
    if device.type == "cuda":
        return {"peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
    return {"peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
