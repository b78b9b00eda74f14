"""Metrics of a stage as Prometheus gauges, through Ray's exporter on the first worker's node."""

from __future__ import annotations

import ray
from ray.util.metrics import Gauge

from rgcluster.base.rundir import safe_name
from rgcluster.base.storage import Location

__all__ = ["Gauges"]

_LEFT_OUT = ("seconds_per_step",)
_WAIT = "wait_"


class Gauges:
    """Sets gauges from lines of `metrics.jsonl`; tags are the directory names of the run and the stage.

    Losses are labelled by `name`, waiting times by `what`. Without Ray it does nothing.
    """

    def __init__(self, directory: Location) -> None:
        tags = ("run", "stage")
        self._own = {"run": safe_name(directory.parent.name), "stage": safe_name(directory.name)}
        self._on = ray.is_initialized()
        if not self._on:
            return
        self._plain = {
            "step": Gauge("rgcluster_train_step", "Steps done.", tags),
            "steps": Gauge("rgcluster_train_steps", "Steps of the stage.", tags),
            "images_per_second": Gauge(
                "rgcluster_train_images_per_second", "Training images a second, over all workers.", tags
            ),
            "peak_memory_gib": Gauge(
                "rgcluster_train_peak_memory_gib", "Most memory of the first worker since its start.", tags
            ),
        }
        self._wait = Gauge("rgcluster_train_wait_seconds", "Seconds that a step waited.", (*tags, "what"))
        self._loss = Gauge("rgcluster_train_loss", "Mean of a loss since the last report.", (*tags, "name"))

    def log(self, step: int, numbers: dict[str, float]) -> None:
        if not self._on:
            return
        for key, value in {"step": float(step), **numbers}.items():
            if key in self._plain:
                self._plain[key].set(value, self._own)
            elif key.startswith(_WAIT):
                self._wait.set(value, {**self._own, "what": _ascii(key.removeprefix(_WAIT))})
            elif key not in _LEFT_OUT:
                self._loss.set(value, {**self._own, "name": _ascii(key)})

    def close(self) -> None:
        """Gauges end with the process."""


def _ascii(tag: str) -> str:
    """Return a tag as Ray can export it."""
    return tag.encode("ascii", "backslashreplace").decode()
