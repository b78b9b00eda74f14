"""The Ray Data actor that translates and measures chunks of the evaluation's inputs with every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from PIL import Image

from rgcluster.base.attributes import change_domain
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.data.images import UInt8Array, prepare_image
from rgcluster.data.stream import ImageSource
from rgcluster.evaluate.measure.inputs import (
    IDENTITY,
    MEASURE_SEED,
    TRUTH,
    EvaluationInputs,
    columns_of_domain,
    evaluation_inputs,
)
from rgcluster.evaluate.metrics.classifier import AttributeClassifier
from rgcluster.evaluate.metrics.counterfactual import (
    content_kept,
    edit_and_keep_errors,
    mean_absolute_difference,
)
from rgcluster.evaluate.metrics.features import best_extractor, best_perceptual
from rgcluster.evaluate.metrics.scores import pairwise_diversity
from rgcluster.faces import FaceSet
from rgcluster.model.handover import is_guided
from rgcluster.model.noise import Draw, keyed_normal
from rgcluster.store.store import RayStore
from rgcluster.translate.device import pick_device
from rgcluster.translate.guided import GuidedTranslator, load_models

__all__ = ["Measure", "Task", "draw_counterfactuals"]

Block = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Task:
    """Arguments of an evaluation actor; sources are object references."""

    config: Config
    run: str
    store: str
    train: Any
    test: Any
    classifier: bytes
    faces: FaceSet | None
    gpu: bool
    models: tuple[str, ...]


class Measure:
    """Maps chunks (`seed`, `start`, `stop`) to one row for each image and model."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(1)
        self.task, self.config = task, task.config
        self.train: ImageSource = ray.get(task.train)
        self.test: ImageSource = ray.get(task.test)
        self.columns = columns_of_domain(self.config, self.train)
        self.content = [
            column for column in range(len(self.train.shards.attributes)) if column not in self.columns
        ]
        device = pick_device(self.config.cluster, gpu=task.gpu)
        store = RayStore.connect(task.store) if any(map(is_guided, task.models)) else None
        painted = tuple(name for name in task.models if name not in (IDENTITY, TRUTH))
        self.models = load_models(Location(task.run), self.config, store, device, painted) if painted else {}
        self.classifier = AttributeClassifier.from_bytes(task.classifier).to(device.torch)
        settings, size = self.config.evaluation, self.config.data.image_size
        self.extractor = best_extractor(settings.extractor, image_size=size, device=device.torch)
        self.perceptual = best_perceptual(settings.perceptual, image_size=size, device=device.torch)
        self._inputs: dict[int, EvaluationInputs] = {}

    def __call__(self, chunk: Block) -> Block:
        seed, start, stop = (int(chunk[name][0]) for name in ("seed", "start", "stop"))
        inputs = self._of_seed(seed)
        span = slice(start, stop)
        rows, targets, noise = inputs.rows[span], inputs.targets[span], inputs.noise[span]
        images = self.test.images(rows)
        before = self.classifier.predict(images)
        truth = self._counterfactuals(rows, targets, start)
        known = 0 if truth is None else len(truth)
        blocks = []
        if IDENTITY in self.task.models:
            block = self._rows(IDENTITY, seed, start, images, before)
            blocks.append(block | self._errors(images, images[:known], truth))
        if TRUTH in self.task.models and truth is not None:
            block = self._rows(TRUTH, seed, start, truth, before[:known])
            blocks.append(block | self._errors(images[:known], truth, truth))
        for name, model in self.models.items():
            ids, numbers = self.test.index.row_ids[rows], np.arange(start, start + len(rows))
            made = model.translate(images, targets, noise, ids, seed, numbers).image
            block = self._rows(name, seed, start, made, before)
            block["diversity"] = self._diversity(model, images, rows, seed, start)
            if truth is not None:  # with the mean style, so that less diversity alone does not lower an error
                made = model.translate(
                    images[:known], targets[:known], None, ids[:known], seed, numbers[:known]
                ).image
                block |= self._errors(images, made, truth)
            blocks.append(block)
        return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}

    def _of_seed(self, seed: int) -> EvaluationInputs:
        if seed not in self._inputs:
            domains = self.train.index.labels[:, self.columns]
            self._inputs[seed] = evaluation_inputs(self.config, seed, len(self.test.index), domains)
        return self._inputs[seed]

    def _rows(
        self,
        model: str,
        seed: int,
        start: int,
        images: UInt8Array,
        before: npt.NDArray[np.bool_],
    ) -> Block:
        count, after = len(images), self.classifier.predict(images)
        features, logits = self.extractor.features_and_logits(images)
        kept = content_kept(before, after, self.content)
        return {
            "model": np.array([model] * count),
            "seed": np.full(count, seed),
            "index": np.arange(start, start + count),
            "features": features,
            "logits": logits,
            "predicted": after.astype(np.int8),
            "content_kept": np.full(count, np.nan) if kept is None else kept,
            **{key: np.full(count, np.nan) for key in ("counterfactual", "edit", "keep", "diversity")},
        }

    def _errors(self, inputs: UInt8Array, made: UInt8Array, truth: UInt8Array | None) -> Block:
        """Return the errors [N] of translations against their truths, NaN for inputs without a drawn truth."""
        errors = {key: np.full(len(inputs), np.nan) for key in ("counterfactual", "edit", "keep")}
        if truth is not None:
            known = slice(len(truth))
            errors["counterfactual"][known] = mean_absolute_difference(made, truth)
            errors["edit"][known], errors["keep"][known] = edit_and_keep_errors(inputs[known], made, truth)
        return errors

    def _counterfactuals(
        self, rows: npt.NDArray[np.int64], targets: npt.NDArray[np.int8], start: int
    ) -> UInt8Array | None:
        """Draw the truths of the first `evaluation.counterfactuals` inputs; None where the data are no drawn faces."""
        count = min(len(rows), max(0, self.config.evaluation.counterfactuals - start))
        if self.task.faces is None or not count:
            return None
        names = [self.test.index.file_names[row] for row in rows[:count]]
        return draw_counterfactuals(self.task.faces, names, targets[:count], self.config)

    def _diversity(
        self, model: GuidedTranslator, images: UInt8Array, rows: npt.NDArray[np.int64], seed: int, start: int
    ) -> npt.NDArray[np.float64]:
        """Return for each input the mean distance of its samples within a domain, averaged over domains."""
        settings, samples = self.config.evaluation, self.config.evaluation.diversity_samples
        values = np.full(len(images), np.nan)
        for place in range(min(len(images), max(0, settings.diversity_inputs - start))):
            own = self.test.index.labels[rows[place : place + 1]][:, self.columns]
            names = self.config.data.attributes
            targets = [change_domain(own, name, self.config.data) for name in names]
            numbers = np.arange(samples) + 10**6 * (start + place)
            keys = np.concatenate([numbers + 10**3 * number for number in range(len(names))])
            noise = keyed_normal(MEASURE_SEED, Draw.POSTERIOR, 10**9 + seed, keys, self.config.style_size)
            made = model.translate(
                np.repeat(images[place : place + 1], len(keys), axis=0),
                np.repeat(np.concatenate(targets), samples, axis=0),
                noise,
                np.repeat(self.test.index.row_ids[rows[place]], len(keys)),
                seed,
                keys,
            ).image
            features = self.perceptual.perceptual(made)
            values[place] = pairwise_diversity(np.split(features, len(names)))
        return values


def draw_counterfactuals(
    faces: FaceSet,
    file_names: Sequence[str],
    targets: npt.NDArray[np.int8],
    config: Config,
    dye: tuple[int, int, int] | None = None,
) -> UInt8Array:
    """Return the drawn faces of these files with the target domains [N, n] and hair of `dye`, as training images."""
    drawn = []
    for name, target in zip(file_names, targets.tolist(), strict=True):
        # Attributes that are set come last, because they clear those that contradict them.
        changes = dict(sorted(zip(config.data.attributes, target, strict=True), key=lambda item: item[1]))
        face = faces.counterfactual(int(Path(name).stem) - 1, changes, dye)
        drawn.append(prepare_image(Image.fromarray(face), config.data.crop, config.data.image_size))
    return np.stack(drawn)
