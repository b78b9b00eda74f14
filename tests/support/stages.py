"""The three stages on images in memory, in this process: everything of training but Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny import ATTRIBUTES, CPU, tiny_config, tiny_discriminator, tiny_translator
from torch import Tensor

from rgcluster.base.checkpoint.tree import network_digest
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.data.index import RowIndex
from rgcluster.data.stream import ImageSource, StreamPlan
from rgcluster.model.handover import encoder_digests, save_networks
from rgcluster.model.retrieval import JointEncoder
from rgcluster.model.translator import Translator
from rgcluster.store.disk.writer import SnapshotWriter
from rgcluster.store.local import LocalStore
from rgcluster.train import loop
from rgcluster.train.stage import Run, Stage, Worker
from rgcluster.train.steps.retrieval import RetrievalStage
from rgcluster.train.steps.translation import TranslationStage
from rgcluster.train.steps.triplet_stream import GenerateTriplets
from rgcluster.translate.device import Device
from rgcluster.translate.tensors import to_images

STAGES = ("translation", "retrieval", "guidance")
ROWS = 40

SETTINGS = {"steps": 20, "report_every": 5, "checkpoint_every": 10, "sample_every": 20}
GOLDEN_SETTINGS = {**SETTINGS, "report_every": 1, "checkpoint_every": 1000}


@dataclass(frozen=True)
class MemorySource(ImageSource):
    """Images of drawn shapes, made here; they count as cached."""

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        return self.cached

    def images(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return self.pixels[rows]


def memory_source(count: int = ROWS, size: int = 32, seed: int = 0) -> MemorySource:
    """Smooth random pictures whose brightness follows their labels, so that there is something to learn."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (count, len(ATTRIBUTES)), np.int8)
    coarse = generator.random((count, 4, 4, 3)).repeat(size // 4, axis=1).repeat(size // 4, axis=2)
    tint = labels[:, None, None, [1, 4, 5]] * 0.5
    pixels = np.clip((coarse * 0.5 + tint) * 255, 0, 255).astype(np.uint8)
    index = RowIndex(
        generator.integers(0, 2**62, count),
        labels,
        [f"{number:06d}.jpg" for number in range(count)],
        np.zeros((count, 2), np.int64),
    )
    shards: Any = SimpleNamespace(attributes=ATTRIBUTES, location="memory", prepared=None)
    return MemorySource(shards, index, 0, size, cached=pixels)


def blocks(source: ImageSource, plan: StreamPlan) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """What `image_stream` yields, made here."""
    for step in range(plan.start, plan.stop):
        first, last = plan.part
        at = step * plan.batch
        rows = source.order(plan.seed, plan.batch).rows(at + first, at + last)
        yield {"step": np.full(len(rows), step), **source.block(rows)}


class Studio:
    """Upstream networks and a store in a directory, and stages built on them."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
        # Whatever the machine multiplies fastest: the curves are of fp32.
        self.directory, self.config = directory, tiny_config("cluster.precision=fp32", *overrides)
        self.source = memory_source(size=self.config.data.image_size)
        self.upstream = _upstream(directory, self.config, self.source)
        store = LocalStore(Location(directory) / "snapshot")
        self.reports: list[dict[str, Any]] = []

        def stream(run: Run, worker: Worker, start: int, stop: int, batch: int, seed: int) -> Iterator[Any]:
            return blocks(run.source, StreamPlan(start, stop, batch, worker.rank, worker.world, seed))

        def triplets(
            source: ImageSource,
            plan: StreamPlan,
            config: Config,
            columns: list[int],
            translator: str,
            gpus: float,
        ) -> Iterator[Any]:
            return map(GenerateTriplets(source, config, columns, translator, False), blocks(source, plan))

        monkeypatch.setattr("rgcluster.train.steps.translation.stream_blocks", stream)
        monkeypatch.setattr("rgcluster.train.steps.guidance.stream_blocks", stream)
        monkeypatch.setattr("rgcluster.train.steps.retrieval.triplet_dataset", triplets)
        monkeypatch.setattr("rgcluster.train.steps.retrieval.batches", lambda dataset, size: iter(dataset))
        monkeypatch.setattr("rgcluster.train.steps.guidance.RayStore.connect", lambda name, timeout: store)
        monkeypatch.setattr("ray.train.report", self.reports.append)

    def stage(
        self,
        name: str,
        run: str = "run",
        *,
        rank: int = 0,
        world: int = 1,
        device: Device = CPU,
        **changes: Any,
    ) -> Stage:
        """A stage in the directory `run`; `changes` are made to its settings."""
        settings = getattr(self.config, name).model_copy(update=changes)
        config = self.config.model_copy(update={name: settings})
        task = Run(config, str(self.directory / run), name, self.source, self.upstream)
        return loop.STAGES[name](task, Worker(rank, world, device))

    def train(self, name: str, run: str = "run", **changes: Any) -> list[dict[str, Any]]:
        """Train a stage in the directory `run` and return the lines of its metrics, without timings."""
        loop.train_stage(self.stage(name, run, **changes))
        return losses(self.directory / run / name)


def losses(directory: Path) -> list[dict[str, Any]]:
    """The lines of a stage's `metrics.jsonl` without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    timings = (
        "seconds_per_step", "images_per_second", "wait_data", "wait_neighbours", "peak_memory_gib"
    )  # fmt: skip
    return [{name: value for name, value in line.items() if name not in timings} for line in lines]


def _upstream(directory: Path, config: Config, source: MemorySource) -> dict[str, str]:
    translator = tiny_translator(config)
    torch.manual_seed(5)
    networks = {name: JointEncoder(config).eval() for name in config.retrieval.negatives}
    here = Location(directory)
    save_networks(
        here / "translation", {"translator": translator, "discriminator": tiny_discriminator(config)}, {}
    )
    save_networks(here / "retrieval", networks, {"trained_against": encoder_digests(translator)})
    _store(directory / "snapshot", config, translator, networks[config.retrieval.negatives[-1]], source)
    return {
        "translation": str(here / "translation"),
        "retrieval": str(here / "retrieval"),
        "store": "a store in this process",
    }


@torch.no_grad()
def _store(
    target: Path, config: Config, translator: Translator, network: JointEncoder, source: MemorySource
) -> None:
    image = to_images(source.pixels, CPU)
    content, style = translator.content_encoder(image), translator.style_encoder(image).mean
    vectors = network.embed(image, content, style).numpy()
    digests = {**encoder_digests(translator), "retrieval": network_digest(network)}
    shape = source.pixels.shape[1:]
    with SnapshotWriter(target, 2, vectors.shape[1], shape, digests) as writer:
        writer.append(source.index.row_ids, vectors, source.pixels)
        writer.commit()


def one_step(stage: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The losses of the first step, and the gradients of all weights."""
    parts = stage.step(0, next(stage.inputs(0, 1)))
    if isinstance(stage, RetrievalStage):
        networks = dict(stage.networks.items())
    else:
        trainers = {"": stage.trainer} if isinstance(stage, TranslationStage) else stage.trainers
        networks = {f"{name}.G": trainer.translator for name, trainer in trainers.items()}
        networks |= {f"{name}.D": trainer.discriminator for name, trainer in trainers.items()}
    gradients = {
        f"{name}.{key}": parameter.grad
        for name, network in networks.items()
        for key, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    return {name: float(value) for name, value in parts.items()}, gradients
