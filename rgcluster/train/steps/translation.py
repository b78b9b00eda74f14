"""Stage 1: GMM-UNIT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rgcluster.base.attributes import domain_columns, one_change_each
from rgcluster.base.storage import Location
from rgcluster.config import TranslationConfig
from rgcluster.data.images import grid
from rgcluster.data.stream import StreamPlan, batches, image_stream
from rgcluster.model.gmm import prior_mean
from rgcluster.model.handover import save_networks
from rgcluster.model.losses import Parts, PerceptualDistance
from rgcluster.model.networks import Discriminator
from rgcluster.model.translator import Translator
from rgcluster.train.stage import Run, Stage, Worker
from rgcluster.train.steps.ingest import Ingest
from rgcluster.train.steps.translator import Piece, TranslatorTrainer
from rgcluster.translate.tensors import to_images, to_pixels

__all__ = ["SAMPLE_ROWS", "TranslationStage", "make_ingest", "make_perceptual", "stream_blocks"]

SAMPLE_ROWS = 6


def make_ingest(run: Run, worker: Worker, seed: int) -> Ingest:
    """Return the ingest of the run's domain attributes, with noise keyed by `seed`."""
    columns = domain_columns(
        run.source.shards.attributes, run.config.data.attributes, run.source.shards.location
    )
    return Ingest(run.config, columns, run.source.index.columns(columns), worker.device, seed)


def make_perceptual(run: Run, weight: float, worker: Worker) -> PerceptualDistance | None:
    """Return VGG16's distance where the loss has a weight and the driver found the weights."""
    if not weight or "vgg16" not in run.upstream:
        return None
    return PerceptualDistance(Location(run.upstream["vgg16"]).local()).to(worker.device.torch)


def stream_blocks(
    run: Run, worker: Worker, start: int, stop: int, batch: int, seed: int
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield this worker's blocks of images, one a step, in the order of `seed`."""
    plan = StreamPlan(start, stop, batch, worker.rank, worker.world, seed)
    for part in plan.segments():
        yield from batches(image_stream(run.source, part), part.rows)


class TranslationStage(Stage):
    """Trains E_c, E_s, G and D from scratch."""

    settings: TranslationConfig

    def __init__(self, run: Run, worker: Worker) -> None:
        super().__init__(run, worker)
        self.settings = run.config.translation
        self.ingest = make_ingest(run, worker, run.config.seed)
        torch.manual_seed(run.config.seed)
        self.trainer = TranslatorTrainer(
            Translator(run.config),
            Discriminator(run.config),
            run.config,
            self.settings,
            worker.device,
            worker.world,
            make_perceptual(run, self.settings.loss.perceptual, worker),
        )

    def inputs(self, start: int, stop: int) -> Iterator[list[Piece]]:
        blocks = stream_blocks(self.run, self.worker, start, stop, self.settings.batch_size, self.order_seed)
        for block in self.timed(blocks):
            pieces = self.pieces(block)
            yield [
                Piece(self.ingest.batch(piece, self.settings.loss), None, share) for piece, share in pieces
            ]

    def step(self, step: int, item: list[Piece]) -> Parts:
        return self.trainer.update_in_pieces(step, item)

    def state(self) -> dict[str, Any]:
        return self.trainer.state()

    def load(self, state: dict[str, Any], source: str) -> None:
        self.trainer.load(state, source)

    def hand_over(self, location: Location) -> None:
        networks = {"translator": self.trainer.average, "discriminator": self.trainer.discriminator}
        save_networks(location, networks, {"kind": "translation", "steps": self.settings.steps})

    @torch.inference_mode()
    def samples(self, step: int) -> dict[str, npt.NDArray[np.uint8]]:
        """Return the first training images, each with every attribute changed once."""
        attention = self.trainer.attention(step)
        rows = np.arange(min(SAMPLE_ROWS, len(self.run.source.index)))
        pixels = self.run.source.images(rows)
        image = to_images(pixels, self.worker.device)
        columns = [pixels]
        domains = self.run.source.index.labels[rows][:, self.ingest.columns]
        for target in one_change_each(domains, self.config.data):
            style = prior_mean(torch.from_numpy(target).to(image.device), self.config.model.style_dim)
            columns.append(to_pixels(self.trainer.average(image, style, attention=attention).image))
        return {"translations": grid(np.stack(columns, axis=1))}
