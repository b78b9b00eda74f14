"""P@10 of every retrieval network (Tables 1 and 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray.data import ActorPoolStrategy

from rgcluster.config import Config
from rgcluster.data.attributes import domain_columns
from rgcluster.data.stream import ImageSource, batches, rows_dataset
from rgcluster.evaluate.retrieval import precision_at_k, random_baseline
from rgcluster.inference.device import pick_device
from rgcluster.inference.tensors import to_images
from rgcluster.model.gmm import prior_mean
from rgcluster.model.handover import load_retrieval, load_translator
from rgcluster.storage import Location

__all__ = ["retrieval_rows"]

Block = dict[str, npt.NDArray[Any]]
K = 10
CPUS_PER_EMBEDDER = 0.3


class EmbedAll:
    """Adds each network's embedding: of the image's own style, or of the style of `targets` by row."""

    def __init__(self, config: Config, run: str, targets: npt.NDArray[np.int8] | None, gpu: bool) -> None:
        torch.set_num_threads(1)
        self.config, self.targets = config, targets
        self.device = pick_device(config.cluster, gpu=gpu)
        self.translator = load_translator(Location(run) / "translation" / "model", config)
        networks = load_retrieval(Location(run) / "retrieval" / "model", config, self.translator)
        self.networks = {name: network.to(self.device.torch) for name, network in networks.items()}
        self.translator.to(self.device.torch)

    @torch.inference_mode()
    def __call__(self, block: Block) -> Block:
        image = to_images(block["image"], self.device)
        with self.device.autocast():
            content = self.translator.content_encoder(image)
            if self.targets is None:
                style = self.translator.style_encoder(image).mean.float()
            else:
                target = torch.from_numpy(self.targets[block["row"]]).to(self.device.torch)
                style = prior_mean(target, self.config.model.style_dim)
            vectors = {name: network(content, style) for name, network in self.networks.items()}
        return {"row": block["row"], **{name: vector.cpu().numpy() for name, vector in vectors.items()}}


def retrieval_rows(
    config: Config, run: Location, train: ImageSource, test: ImageSource, gpu: bool
) -> list[dict[str, Any]]:
    """Return the table's rows: random, then each trained strategy.

    A query is a test image's content with the attributes of a random other test image; the gallery is the
    training split; each evaluation seed draws other attributes.
    """
    attributes = train.shards.attributes
    columns = domain_columns(attributes, config.data.attributes, train.shards.location)
    content = [column for column in range(len(attributes)) if column not in columns]
    gallery = _embed(config, run, train, None, gpu)
    count = min(config.evaluation.queries, len(test.index))
    measured: dict[str, list[npt.NDArray[np.float64]]] = {}
    for seed in config.evaluation.seeds:
        generator = np.random.Generator(np.random.Philox(key=[config.seed % 2**64, 2000 + seed]))
        donors = generator.permutation(len(test.index))
        wanted = test.index.labels.copy()
        wanted[:, columns] = test.index.labels[donors][:, columns]
        queries = _embed(config, run, test, wanted[:, columns], gpu)
        chosen = generator.permutation(len(test.index))[:count]
        measured.setdefault("random", []).append(random_baseline(train.index.labels, wanted[chosen]))
        for name in config.retrieval.negatives:
            shares = precision_at_k(
                gallery[name],
                train.index.labels,
                queries[name][chosen],
                wanted[chosen],
                min(K, len(train.index)),
            )
            measured.setdefault(name, []).append(shares)
    return [_row(name, np.stack(shares), columns, content, config) for name, shares in measured.items()]


def _embed(
    config: Config, run: Location, source: ImageSource, targets: npt.NDArray[np.int8] | None, gpu: bool
) -> dict[str, npt.NDArray[np.float32]]:
    embedded = rows_dataset(source).map_batches(
        EmbedAll,
        fn_constructor_args=(config, str(run), targets, gpu),
        batch_size=128,
        compute=ActorPoolStrategy(size=1),
        num_cpus=CPUS_PER_EMBEDDER,
        num_gpus=0.1 if gpu else None,
    )
    result: dict[str, npt.NDArray[np.float32]] = {}
    for block in batches(embedded, 1024):
        for name in config.retrieval.negatives:
            vectors = result.setdefault(
                name, np.empty((len(source.index), config.model.retrieval_dim), np.float32)
            )
            vectors[block["row"]] = block[name]
    return result


def _row(
    name: str, shares: npt.NDArray[np.float64], columns: list[int], content: list[int], config: Config
) -> dict[str, Any]:
    attributes = shares[:, columns].mean(axis=1)
    other = shares[:, content].mean(axis=1) if content else None
    average = None if other is None else (attributes + other) / 2
    row: dict[str, Any] = {"negatives": name}
    for key, values in (("attributes", attributes), ("content", other), ("average", average)):
        row[f"p10_{key}"] = None if values is None else float(values.mean())
        row[f"p10_{key}_spread"] = None if values is None or len(values) < 2 else float(values.std(ddof=1))
    if not content:
        row["p10_content_note"] = "no attributes beyond the domain's"
    row["p10_per_attribute"] = {
        attribute: float(shares[:, column].mean())
        for attribute, column in zip(config.data.attributes, columns, strict=True)
    }
    return row
