"""The reference of an evaluation: the judge of attributes, and the features of real images.

It depends only on the data and the protocol, so runs with other settings and training seeds share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.data import ActorPoolStrategy
from safetensors.numpy import load, save

from rgcluster.base.placement import CPUS_PER_ACTOR, GPUS_PER_ACTOR
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.data.stream import ImageSource, batches
from rgcluster.evaluate.measure.inputs import MEASURE_SEED, LazyImages, hashed_order
from rgcluster.evaluate.metrics.classifier import AttributeClassifier, train_classifier
from rgcluster.evaluate.metrics.features import best_extractor
from rgcluster.translate.device import pick_device

__all__ = [
    "CHUNK",
    "Progress",
    "Reference",
    "load_reference",
    "make_reference",
    "read_judge",
]

JUDGE = "classifier.safetensors"
REAL = "real.safetensors"
CHUNK = 64

Block = dict[str, npt.NDArray[Any]]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Reference:
    """Features [R, D] and logits [R, C] of real training images; the judge's answers on test images [T, A]."""

    judge: bytes
    features: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    on_test: npt.NDArray[np.bool_]


def make_reference(
    config: Config, target: Location, train: ImageSource, test: ImageSource, *, gpu: bool, workers: int,
    progress: Progress,
) -> None:  # fmt: skip
    """Train the judge on all labelled training images and measure the real images; write both at `target`.

    The real images are the first `evaluation.images` of `hashed_order`.
    """
    if not (target / JUDGE).exists():
        (target / JUDGE).write_bytes(_train_judge(config, train, gpu, workers, progress))
    judge = AttributeClassifier.from_bytes(read_judge(target))
    count = min(len(train.index), config.evaluation.images)
    rows = np.sort(hashed_order(train.index.row_ids)[:count])
    measured = ray.data.from_items(
        [{"start": start, "stop": min(start + CHUNK, count)} for start in range(0, count, CHUNK)],
        override_num_blocks=-(-count // CHUNK),
    ).map_batches(
        _MeasureReal,
        fn_constructor_args=(config, ray.put(train), ray.put(rows), gpu),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers, -(-count // CHUNK))),
        num_cpus=CPUS_PER_ACTOR,
        num_gpus=GPUS_PER_ACTOR if gpu else None,
    )
    blocks = []
    for block in batches(measured, None):
        blocks.append(block)
        progress(sum(len(block["index"]) for block in blocks), count, "measuring real images")
    joined = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    order = np.argsort(joined["index"], kind="stable")
    real = {key: np.ascontiguousarray(joined[key][order]) for key in ("features", "logits")}
    real["on_test"] = judge.predict(LazyImages(test)).astype(np.uint8)
    (target / REAL).write_bytes(save(real))


def load_reference(location: Location) -> Reference:
    """Return what `make_reference` wrote."""
    real = load((location / REAL).read_bytes())
    return Reference(read_judge(location), real["features"], real["logits"], real["on_test"].astype(bool))


def read_judge(location: Location) -> bytes:
    """Return the bytes of the judge."""
    return (location / JUDGE).read_bytes()


def _train_judge(config: Config, train: ImageSource, gpu: bool, threads: int, progress: Progress) -> bytes:
    if gpu and not torch.cuda.is_available():  # the driver has no GPU, a worker does
        remote = ray.remote(num_cpus=CPUS_PER_ACTOR, num_gpus=1)(_judge)
        return ray.get(remote.remote(config, train, "cuda", threads, None))
    return _judge(config, train, "cuda" if gpu else "cpu", threads, progress)


def _judge(config: Config, train: ImageSource, device: str, threads: int, progress: Progress | None) -> bytes:
    torch.set_num_threads(max(1, threads))
    classifier = train_classifier(
        LazyImages(train),
        train.index.labels,
        train.shards.attributes,
        steps=config.evaluation.classifier_steps,
        seed=MEASURE_SEED,
        device=device,
        progress=(lambda done, total, loss: progress(done, total, "training the judge"))
        if progress
        else None,
    )
    return classifier.cpu().to_bytes()


class _MeasureReal:
    """The Ray Data actor that maps spans of `rows` to the features and logits of these training images."""

    def __init__(self, config: Config, train: Any, rows: Any, gpu: bool) -> None:
        torch.set_num_threads(1)
        self.train: ImageSource = ray.get(train)
        self.rows: npt.NDArray[np.int64] = ray.get(rows)
        device = pick_device(config.cluster, gpu=gpu)
        self.extractor = best_extractor(
            config.evaluation.extractor, image_size=config.data.image_size, device=device.torch
        )

    def __call__(self, chunk: Block) -> Block:
        rows = self.rows[int(chunk["start"][0]) : int(chunk["stop"][0])]
        features, logits = self.extractor.features_and_logits(self.train.images(rows))
        return {"index": rows, "features": features, "logits": logits}
