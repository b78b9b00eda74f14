"""Does a run use its retrieval? Translates with other neighbours in place of the nearest, and compares.

Everything runs in this process, on a few test images with the mean style of their targets, through the one
network that the run trained. Only the neighbours differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rgcluster.base.rundir import snapshot_of
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.data.stream import ImageSource
from rgcluster.errors import ConfigError
from rgcluster.evaluate.measure.inputs import MEASURE_SEED, columns_of_domain, evaluation_inputs
from rgcluster.evaluate.measure.measure import draw_counterfactuals
from rgcluster.evaluate.metrics.counterfactual import edit_region
from rgcluster.faces import FaceSet
from rgcluster.store.local import LocalStore
from rgcluster.translate.device import Device
from rgcluster.translate.guided import GuidedTranslator, load_models

__all__ = ["K", "content_precision", "edit_error", "probe", "swap_change"]

UInt8Array = npt.NDArray[np.uint8]
Region = npt.NDArray[np.bool_]

K = 10
IMAGES_AT_ONCE = 64
ROWS_AT_ONCE = 256


def swap_change(nearest: UInt8Array, other: UInt8Array, region: Region) -> float:
    """Return the mean change of the pictures in the region, of 255; 0 where the region is empty."""
    return _mean_in(np.abs(nearest.astype(np.int16) - other).mean(axis=3), region)


def edit_error(made: UInt8Array, truth: UInt8Array, region: Region) -> float:
    """Return the mean absolute error in the region on the [0, 1] scale."""
    return swap_change(made, truth, region) / 255


def content_precision(labels: npt.NDArray[np.int8], wanted: npt.NDArray[np.int8]) -> float:
    """Return the share of the neighbours' labels [k, A] that equal the wanted ones [A]."""
    return float((labels == wanted).mean())


@dataclass(frozen=True)
class _Queries:
    """Test images and their targets: rows [B], images [B, h, w, 3], targets [B, n]."""

    rows: npt.NDArray[np.int64]
    images: UInt8Array
    targets: npt.NDArray[np.int8]


def probe(
    config: Config,
    run: Location,
    train: ImageSource,
    test: ImageSource,
    faces: FaceSet | None,
    device: Device,
    count: int = 128,
) -> dict[str, Any]:
    """Return the swap test, the oracle test on drawn faces, and P@10 of content against simple rankings.

    `swap` is the mean change of the picture in the edit region, of 255, with random images, images of other
    domains, or no neighbours in place of the nearest; `contribution` with a random image in place of the nearest
    alone, of the second nearest alone, and so on. `oracle` is the edit error with the true counterfactual as
    every neighbour, and without neighbours. The edit region is where the truth differs from the input or, on
    photographs, where the translation does.
    """
    if "rg-unit" not in config.guidance.variants:
        raise ConfigError(f"{run}: guidance trained no rg-unit, so there is no retrieval to probe")
    columns = columns_of_domain(config, train)
    store = LocalStore(snapshot_of(run))
    model = load_models(run, config, store, device, ("rg-unit",))["rg-unit"]
    queries = _queries(config, train, test, columns, count)
    generator = np.random.Generator(np.random.Philox(key=[MEASURE_SEED, 3000]))
    neighbours = config.guidance.retrieval_count
    near = model.neighbours(queries.images, queries.targets, max(K, neighbours))
    nearest = _translate(model, queries, near.images[:, :neighbours])
    truth = None
    if faces is not None:
        names = [test.index.file_names[row] for row in queries.rows]
        truth = draw_counterfactuals(faces, names, queries.targets, config)
    region = edit_region(queries.images, nearest if truth is None else truth)
    domains = train.index.labels[:, columns]
    random_rows = generator.integers(len(train.index), size=(len(queries.rows), neighbours))
    other_rows = np.stack(
        [
            generator.choice(np.flatnonzero((domains != target).any(axis=1)), neighbours)
            for target in queries.targets
        ]
    )
    none, random = _translate(model, queries, None), _images(train, random_rows)
    swap = {
        "random": swap_change(nearest, _translate(model, queries, random), region),
        "other_domain": swap_change(nearest, _translate(model, queries, _images(train, other_rows)), region),
        "none": swap_change(nearest, none, region),
    }
    contribution = []
    for place in range(neighbours):
        others = near.images[:, :neighbours].copy()
        others[:, place] = random[:, place]
        contribution.append(swap_change(nearest, _translate(model, queries, others), region))
    oracle = None
    if truth is not None:
        with_truth = _translate(model, queries, np.repeat(truth[:, None], neighbours, axis=1))
        oracle = {
            "edit": edit_error(with_truth, truth, region),
            "edit_nearest": edit_error(nearest, truth, region),
            "edit_without": edit_error(none, truth, region),
            "edit_identity": edit_error(queries.images, truth, region),
        }
    return {
        "images": len(queries.rows),
        "swap": swap,
        "contribution": contribution,
        "oracle": oracle,
        "content": _content(train, test, queries, columns, near.ids[:, :K]),
    }


def _queries(
    config: Config, train: ImageSource, test: ImageSource, columns: list[int], count: int
) -> _Queries:
    """Return test images with targets other than their own domain."""
    inputs = evaluation_inputs(config, 0, len(test.index), train.index.labels[:, columns])
    own = test.index.labels[inputs.rows][:, columns]
    changed = np.flatnonzero((own != inputs.targets).any(axis=1))[:count]
    rows = inputs.rows[changed]
    return _Queries(rows, test.images(rows), inputs.targets[changed])


@torch.inference_mode()
def _translate(model: GuidedTranslator, queries: _Queries, neighbours: UInt8Array | None) -> UInt8Array:
    """Translate with the mean style, guided by the given images [B, M, h, w, 3]; None: without f."""
    made = [
        model.guided_by(
            queries.images[start : start + IMAGES_AT_ONCE],
            queries.targets[start : start + IMAGES_AT_ONCE],
            None if neighbours is None else neighbours[start : start + IMAGES_AT_ONCE],
        )
        for start in range(0, len(queries.rows), IMAGES_AT_ONCE)
    ]
    return np.concatenate(made)


def _images(source: ImageSource, rows: npt.NDArray[np.int64]) -> UInt8Array:
    """Return the images [B, M, h, w, 3] of rows [B, M]."""
    return source.images(rows.reshape(-1)).reshape(*rows.shape, source.size, source.size, 3)


def _content(
    train: ImageSource,
    test: ImageSource,
    queries: _Queries,
    columns: list[int],
    retrieved: npt.NDArray[np.int64],
) -> dict[str, float] | None:
    """Return P@10 of the attributes that define no domain, for retrieval and for rankings of the target domain.

    `random_in_domain` takes every training image of the target domain, `pixels` the nearest of them by pixel
    distance, `labels` those that share most of the other attributes, which is the upper bound. None without other
    attributes.
    """
    other = [column for column in range(train.index.labels.shape[1]) if column not in columns]
    if not other:
        return None
    labels, domains = train.index.labels[:, other], train.index.labels[:, columns]
    place = {int(row_id): row for row, row_id in enumerate(train.index.row_ids)}
    members = [np.flatnonzero((domains == target).all(axis=1)) for target in queries.targets]
    pixels = _pixel_distances(train, members, queries.images)
    shares: dict[str, list[float]] = {"retrieval": [], "random_in_domain": [], "pixels": [], "labels": []}
    for row, inside, distances, ids in zip(queries.rows, members, pixels, retrieved, strict=True):
        wanted = test.index.labels[row][other]
        found = [place[int(row_id)] for row_id in ids if int(row_id) in place]
        if not len(inside) or not found:
            continue
        k = min(K, len(inside))
        agreement = (labels[inside] == wanted).mean(axis=1)
        shares["retrieval"].append(content_precision(labels[found], wanted))
        shares["random_in_domain"].append(float(agreement.mean()))
        shares["pixels"].append(content_precision(labels[inside[np.argsort(distances)[:k]]], wanted))
        shares["labels"].append(float(np.sort(agreement)[::-1][:k].mean()))
    return {name: float(np.mean(values)) for name, values in shares.items()} if shares["labels"] else None


def _pixel_distances(
    train: ImageSource, members: list[npt.NDArray[np.int64]], images: UInt8Array
) -> list[npt.NDArray[np.float64]]:
    """Return for each image the mean absolute differences of its members, rows of `train` that are read once."""
    distances = [np.empty(len(inside)) for inside in members]
    needed = np.unique(np.concatenate([*members, np.empty(0, np.int64)]))
    for start in range(0, len(needed), ROWS_AT_ONCE):
        rows = needed[start : start + ROWS_AT_ONCE]
        pictures = train.images(rows).astype(np.int16)
        for image, inside, found in zip(images, members, distances, strict=True):
            first, last = np.searchsorted(inside, (rows[0], rows[-1] + 1))
            near = np.searchsorted(rows, inside[first:last])
            found[first:last] = np.abs(pictures[near] - image).mean(axis=(1, 2, 3))
    return distances


def _mean_in(values: npt.NDArray[np.floating[Any]], region: Region) -> float:
    return float(values[region].mean()) if region.any() else 0.0
