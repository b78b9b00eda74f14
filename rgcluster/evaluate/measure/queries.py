"""P@10 of every retrieval network (Tables 1 and 6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from ray.data import ActorPoolStrategy
from safetensors.numpy import load, save

from rgcluster.base.placement import CPUS_PER_EMBEDDER, GPUS_PER_EMBEDDER
from rgcluster.base.rundir import networks_of
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.data.stream import ImageSource, batches, rows_dataset
from rgcluster.evaluate.measure.inputs import MEASURE_SEED, columns_of_domain
from rgcluster.evaluate.measure.reference import Progress
from rgcluster.evaluate.metrics.averages import averaged
from rgcluster.evaluate.metrics.catalogue import RETRIEVAL
from rgcluster.evaluate.metrics.precision import query_shares, random_shares
from rgcluster.model.gmm import prior_mean
from rgcluster.model.handover import load_retrieval, load_translator
from rgcluster.translate.device import pick_device
from rgcluster.translate.query import vectors
from rgcluster.translate.tensors import to_images

__all__ = ["load_precision", "measure_precision"]

Block = dict[str, npt.NDArray[Any]]
Shares = npt.NDArray[np.float64]

ROWS, QUERIES = "rows.json", "queries.safetensors"
K = 10


class Asked(NamedTuple):
    """The queries of S evaluation seeds, by row of the images."""

    targets: npt.NDArray[np.int8]
    """[S, rows, n]: the domains whose mean styles are looked for."""
    chosen: npt.NDArray[np.bool_]
    """[S, rows]: whether the seed asks for the row at all."""

    def of(self, rows: npt.NDArray[np.int64]) -> Asked:
        return Asked(self.targets[:, rows], self.chosen[:, rows])


class EmbedAll:
    """Adds each network's embeddings: [N, d] with the image's own style, or [N, S, d] as `asked`."""

    def __init__(self, config: Config, run: str, asked: Asked | None, gpu: bool) -> None:
        torch.set_num_threads(1)
        self.config, self.asked = config, asked
        self.device = pick_device(config.cluster, gpu=gpu)
        self.translator = load_translator(networks_of(Location(run), "translation"), config)
        found = networks_of(Location(run), "retrieval")
        networks = load_retrieval(found, config, self.translator)
        self.networks = {name: network.to(self.device.torch) for name, network in networks.items()}
        self.translator.to(self.device.torch)

    @torch.inference_mode()
    def __call__(self, block: Block) -> Block:
        image = to_images(block["image"], self.device)
        with self.device.autocast():
            content = self.translator.content_encoder(image)
        if self.asked is not None:
            return {"row": block["row"], **self._queries(image, content, self.asked.of(block["row"]))}
        with self.device.autocast():
            style = self.translator.style_encoder(image).mean.float()
        found = {
            name: vectors(network.embed, image, content, style, self.device)
            for name, network in self.networks.items()
        }
        return {"row": block["row"], **found}

    def _queries(self, image: torch.Tensor, content: torch.Tensor, asked: Asked) -> Block:
        shape = (len(image), len(asked.targets), self.config.embedding_size)
        found = {name: np.zeros(shape, np.float32) for name in self.networks}
        for index, (targets, chosen) in enumerate(zip(asked.targets, asked.chosen, strict=True)):
            if not chosen.any():
                continue
            there = torch.from_numpy(chosen).to(self.device.torch)
            target = torch.from_numpy(targets[chosen]).to(self.device.torch)
            style = prior_mean(target, self.config.model.style_dim)
            for name, network in self.networks.items():
                asks = vectors(network.query, image[there], content[there], style, self.device)
                found[name][chosen, index] = asks
        return found


def measure_precision(
    config: Config, run: Location, target: Location, train: ImageSource, test: ImageSource, gpu: bool,
    progress: Progress,
) -> None:  # fmt: skip
    """Write the table's rows - random neighbours, then each trained strategy - and the shares of every query.

    A query is the content of a test image with the attributes of another one, which each evaluation seed draws
    anew. The gallery is the whole training split.
    """
    columns = columns_of_domain(config, train)
    content = [column for column in range(len(train.shards.attributes)) if column not in columns]
    count = min(config.evaluation.queries, len(test.index))
    gallery = _embed(config, run, train, None, gpu, progress)
    chosen, donors = [], []
    for seed in config.evaluation.seeds:
        generator = np.random.Generator(np.random.Philox(key=[MEASURE_SEED, 2000 + seed]))
        donors.append(generator.permutation(len(test.index)))
        chosen.append(np.sort(generator.permutation(len(test.index))[:count]))
    # Every image is read once, for all seeds.
    images = np.unique(np.concatenate(chosen))
    targets = np.stack([test.index.labels[donor[images]][:, columns] for donor in donors])
    asked = Asked(targets, np.stack([np.isin(images, rows) for rows in chosen]))
    queries = _embed(config, run, test.take(images), asked, gpu)
    found: dict[str, list[Shares]] = {}
    for index, rows in enumerate(chosen):
        wanted, places = test.index.labels[rows], np.searchsorted(images, rows)
        wanted[:, columns] = targets[index, places]
        found.setdefault("random", []).append(random_shares(train.index.labels, wanted))
        for strategy in config.retrieval.negatives:
            near, asking = min(K, len(train.index)), queries[strategy][places, index]
            shares = query_shares(gallery[strategy], train.index.labels, asking, wanted, near)
            found.setdefault(strategy, []).append(shares)
    queried = {"row": np.concatenate(chosen)}
    for name, by_seed in found.items():
        for key, values in _summed(np.concatenate(by_seed), columns, content).items():
            queried[f"{name}/{key}"] = values.astype(np.float32)
    (target / QUERIES).write_bytes(save(queried))
    table = [
        _row(name, np.stack([shares.mean(axis=0) for shares in by_seed]), columns, content, config)
        for name, by_seed in found.items()
    ]
    (target / ROWS).write_json(table)


def load_precision(location: Location) -> tuple[list[dict[str, Any]], dict[str, npt.NDArray[Any]]]:
    """Return the rows, and the values of each query by `strategy/value`; `row` is its row in the test split."""
    return (location / ROWS).read_json(), load((location / QUERIES).read_bytes())


def _summed(shares: Shares, columns: list[int], content: list[int]) -> dict[str, Shares]:
    """Return each query's P@10 of the attributes and, where there are other attributes, of the content; their mean."""
    attributes = shares[:, columns].mean(axis=1)
    if not content:
        return {"p10_attributes": attributes}
    other = shares[:, content].mean(axis=1)
    return {"p10_attributes": attributes, "p10_content": other, "p10_average": (attributes + other) / 2}


def _embed(
    config: Config, run: Location, source: ImageSource, asked: Asked | None, gpu: bool,
    progress: Progress | None = None,
) -> dict[str, npt.NDArray[np.float32]]:  # fmt: skip
    embedded = rows_dataset(source).map_batches(
        EmbedAll,
        fn_constructor_args=(config, str(run), asked, gpu),
        batch_size=128,
        compute=ActorPoolStrategy(size=1),
        num_cpus=CPUS_PER_EMBEDDER,
        num_gpus=GPUS_PER_EMBEDDER if gpu else None,
    )
    shape: tuple[int, ...] = (len(source.index), config.embedding_size)
    if asked is not None:
        shape = (len(source.index), len(asked.chosen), config.embedding_size)
    result: dict[str, npt.NDArray[np.float32]] = {
        name: np.empty(shape, np.float32) for name in config.retrieval.negatives
    }
    done = 0
    for block in batches(embedded, 1024):
        for name, found in result.items():
            found[block["row"]] = block[name]
        done += len(block["row"])
        if progress:
            progress(done, len(source.index), "embedding the gallery")
    return result


def _row(
    name: str, shares: npt.NDArray[np.float64], columns: list[int], content: list[int], config: Config
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for seed in shares:
        values = {key: float(value[0]) for key, value in _summed(seed[None], columns, content).items()}
        by_name = dict(zip(config.data.attributes, seed[columns].tolist(), strict=True))
        rows.append(values | {"p10_per_attribute": by_name})
    unknown = {key: None for metric in RETRIEVAL for key in (metric.key, f"{metric.key}_spread")}
    note = {} if content else {"p10_content_note": "no attributes beyond the domain's"}
    return {"negatives": name, **unknown, **note, **averaged(rows, "_spread")}
