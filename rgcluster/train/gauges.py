"""A stage's numbers as Prometheus gauges, through Ray's exporter on the first worker's node."""

from __future__ import annotations

import ray
from ray.util.metrics import Gauge

from rgcluster.storage import Location

__all__ = ["Gauges"]

_PLAIN = {
    "step": ("rgcluster_train_step", "steps done"),
    "steps": ("rgcluster_train_steps", "steps of the stage"),
    "images_per_second": ("rgcluster_train_images_per_second", "training images a second, over all workers"),
    "peak_memory_gib": (
        "rgcluster_train_peak_memory_gib",
        "most memory of the first worker since its start, GiB",
    ),
}
_LEFT_OUT = ("seconds_per_step",)
_WAIT = "wait_"


class Gauges:
    """Takes the lines of `metrics.jsonl`; tags are the run and the stage, by the names of their directories.

    Losses are told apart by `name`, waiting by `what` it was for. Outside of Ray it does nothing.
    """

    def __init__(self, directory: Location) -> None:
        tags = ("run", "stage")
        self._own = {"run": directory.parent.name, "stage": directory.name}
        self._on = ray.is_initialized()
        if self._on:
            self._plain = {key: Gauge(name, about, tag_keys=tags) for key, (name, about) in _PLAIN.items()}
            self._wait = Gauge(
                "rgcluster_train_wait_seconds", "seconds a step waited", tag_keys=(*tags, "what")
            )
            self._loss = Gauge(
                "rgcluster_train_loss", "mean of a loss since the last report", tag_keys=(*tags, "name")
            )

    def log(self, step: int, numbers: dict[str, float]) -> None:
        if not self._on:
            return
        for key, value in {"step": float(step), **numbers}.items():
            if key in self._plain:
                self._plain[key].set(value, self._own)
            elif key.startswith(_WAIT):
                self._wait.set(value, {**self._own, "what": key.removeprefix(_WAIT)})
            elif key not in _LEFT_OUT:
                self._loss.set(value, {**self._own, "name": key})

    def close(self) -> None:
        """Gauges end with the process."""
