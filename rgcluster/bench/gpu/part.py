"""A part of the program: what it measures, and why it may be left out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from rgcluster.bench.result import Row
from rgcluster.config import Config, load_config
from rgcluster.translate.device import Device, pick_device

__all__ = ["SCALES", "DeviceType", "Part", "Place", "Scale", "Skip", "free"]

DeviceType = Literal["cuda", "cpu"]


class Skip(Exception):
    """A part cannot be measured on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    settings: tuple[str, ...]
    """Overrides of `celeba128`."""
    batch: int
    repeats: int
    """Measured steps of a case, fewer where they take `case_seconds`."""
    case_seconds: float
    vectors: int
    faces: int
    """Drawn faces that are decoded and trained on."""
    looks: int
    """Training steps between two looks at the clock, at which the GPU is waited for."""


SCALES = {
    "full": Scale((), batch=32, repeats=40, case_seconds=15.0, vectors=2_000_000, faces=20_000, looks=25),
    "tiny": Scale(
        (
            "data.image_size=32", "model.width=8", "model.num_residual_blocks=1", "model.style_mlp_width=32",
            "model.retrieval_hidden=64", "translation.steps=3",
            "translation.attention_from=1", "translation.attention_full=2",
        ),
        batch=4, repeats=1, case_seconds=0.0, vectors=2_000, faces=24, looks=1,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """The kind of device, the scale, and where the parts write."""

    kind: DeviceType
    scale: Scale
    results: Path
    temporary: Path
    say: Callable[[str], None] = field(default=lambda line: None)

    def config(self, **cluster: str) -> Config:
        """Return `celeba128` at this scale, with changes of its section `cluster`."""
        steps = [
            f"{stage}.batch_size={self.scale.batch}" for stage in ("translation", "retrieval", "guidance")
        ]
        choices = [f"cluster.{name}={value}" for name, value in cluster.items()]
        return load_config("celeba128", [*self.scale.settings, *steps, *choices])

    def device(self, config: Config) -> Device:
        """Return the device as a worker of the configuration uses it."""
        return pick_device(config.cluster, gpu=self.kind == "cuda")


@dataclass(frozen=True)
class Part:
    """A name, and what measures; its argument is the number of seconds that are left.

    Rows that were yielded before a failure are kept.
    """

    name: str
    measure: Callable[[Place, float], Iterable[Row]]


def free(place: Place) -> None:
    """Give back the memory and the compiled code of a case before the next one."""
    if place.kind == "cuda":
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
