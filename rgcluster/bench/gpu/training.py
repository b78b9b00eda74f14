"""Stage 1 of `celeba128` on drawn faces for the time that is left, with a grid of its translations."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rgcluster.base.attributes import one_change_each
from rgcluster.bench.gpu.decoding import decode_all
from rgcluster.bench.gpu.faces import drawn_faces
from rgcluster.bench.gpu.part import Place
from rgcluster.bench.result import Row
from rgcluster.bench.training.step import now
from rgcluster.config import Config, with_values
from rgcluster.data.images import encode_png, grid
from rgcluster.model.gmm import prior_mean
from rgcluster.model.networks import Discriminator
from rgcluster.model.translator import Translator
from rgcluster.pipeline.ladder import IN_TRAINING, scaled, seconds_per_step
from rgcluster.train.steps.ingest import Ingest
from rgcluster.train.steps.translator import TranslatorTrainer
from rgcluster.translate.device import Device
from rgcluster.translate.tensors import to_images, to_pixels

__all__ = ["GRID", "training"]

GRID = "translations.png"
GRID_ROWS = 6
RESERVE = 15.0
"""Seconds that are left for the grid."""

UInt8Array = npt.NDArray[np.uint8]


def training(place: Place, left: float) -> Iterator[Row]:
    """Train for `left` seconds, or the preset's steps; write the grid beside the page."""
    end = time.perf_counter() + left - RESERVE
    faces = drawn_faces(place)
    pixels = decode_all(place, faces.files, len(os.sched_getaffinity(0)))
    config = place.config()
    device = place.device(config)
    config = _fitted(config, device, end)
    torch.manual_seed(config.seed)
    trainer = TranslatorTrainer(
        Translator(config), Discriminator(config), config, config.translation, device, 1
    )
    ingest = Ingest(config, range(faces.domains.shape[1]), faces.domains, device)
    place.say(f"{config.translation.steps} steps in {max(0.0, end - time.perf_counter()):.0f} s")
    blocks = _blocks(pixels, faces.domains, place.scale.batch, config.seed)
    step, first, start = 0, 0.0, time.perf_counter()
    for step in range(config.translation.steps):
        parts = trainer.update(step, ingest.batch(next(blocks), config.translation.loss))
        if step == 0:
            first = now(device)
        elif step % place.scale.looks == 0 and now(device) >= end:
            break
    later = now(device) - first
    (place.results / GRID).write_bytes(
        encode_png(_translations(trainer, step, pixels, faces.domains, device))
    )
    case = "training, stage 1"
    yield Row(case, "first step", first - start, "s")
    yield Row(case, "steps", step + 1, "")
    yield Row(case, "speed", step * place.scale.batch / later, "images/s")
    yield from (Row(case, f"loss: {name}", float(value), "") for name, value in sorted(parts.items()))


def _fitted(config: Config, device: Device, end: float) -> Config:
    """Return the configuration with as many steps as end in time, the mask and the rate in proportion."""
    start = time.perf_counter()
    per_step = IN_TRAINING * seconds_per_step(config, device)
    # Steps without the mask are compiled separately, and take as long to compile as those that were timed.
    end -= time.perf_counter() - start
    share = (end - time.perf_counter()) / (per_step * config.translation.steps)
    return config if share >= 1 else with_values(config, scaled(config, max(share, 0.0)))


def _blocks(
    pixels: UInt8Array, labels: npt.NDArray[np.int8], batch: int, seed: int
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield blocks of random images without end, each image once an epoch."""
    generator, step = np.random.default_rng(seed), 0
    while True:
        order = generator.permutation(len(pixels))
        for first in range(0, len(order) - batch + 1, batch):
            rows = order[first : first + batch]
            yield {
                "image": pixels[rows],
                "labels": labels[rows],
                "row_id": rows.astype(np.int64),
                "step": np.full(batch, step, np.int64),
            }
            step += 1


@torch.inference_mode()
def _translations(
    trainer: TranslatorTrainer,
    step: int,
    pixels: UInt8Array,
    domains: npt.NDArray[np.int8],
    device: Device,
) -> UInt8Array:
    """Return the first images, each with every attribute changed once, as one picture."""
    config, attention = trainer.config, trainer.attention(step)
    shown = pixels[:GRID_ROWS]
    image = to_images(shown, device)
    columns = [shown]
    for target in one_change_each(domains[:GRID_ROWS], config.data):
        style = prior_mean(torch.from_numpy(target).to(device.torch), config.model.style_dim)
        columns.append(to_pixels(trainer.average(image, style, attention=attention).image))
    return grid(np.stack(columns, axis=1))
