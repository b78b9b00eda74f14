"""Embeds the retrieval set into a store snapshot: R(E_c(r), E_s(r)) of every image. Labels are not read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray.data import ActorPoolStrategy

from rgcluster.base.checkpoint import network_digest
from rgcluster.base.placement import CPUS_PER_EMBEDDER, GPUS_PER_EMBEDDER
from rgcluster.base.storage import Location, digest_bytes, digest_json
from rgcluster.config import Config
from rgcluster.data.stream import ROWS_PER_READ, ImageSource, batches, rows_dataset
from rgcluster.model.handover import encoder_digests, load_retrieval, load_translator
from rgcluster.store.disk.writer import SnapshotWriter
from rgcluster.store.index.rows import tag_of
from rgcluster.translate.device import pick_device
from rgcluster.translate.query import query_vectors
from rgcluster.translate.tensors import to_images

__all__ = ["Embedder", "build_store", "store_digests"]

Block = dict[str, npt.NDArray[Any]]

SAVE_SECONDS = 15.0
BATCH = 128


class Embedder:
    """Adds `vector` [B, retrieval_dim] to blocks of images."""

    def __init__(self, config: Config, translator: str, retrieval: str, gpu: bool) -> None:
        torch.set_num_threads(1)
        self.device = pick_device(config.cluster, gpu=gpu)
        self.translator = load_translator(Location(translator), config)
        networks = load_retrieval(Location(retrieval), config, self.translator)
        self.network = networks[config.retrieval.negatives[-1]].to(self.device.torch)
        self.translator.to(self.device.torch)

    @torch.inference_mode()
    def __call__(self, block: Block) -> Block:
        image = to_images(block["image"], self.device)
        with self.device.autocast():
            content = self.translator.content_encoder(image)
            style = self.translator.style_encoder(image).mean
        vector = query_vectors(self.network, content, style, self.device)
        return {"row_id": block["row_id"], "vector": vector, "image": block["image"]}


def store_digests(config: Config, translator: str, retrieval: str) -> dict[str, str]:
    """Return the digests of the networks that embed: E_c, E_s and R."""
    networks = load_translator(Location(translator), config)
    found = encoder_digests(networks)
    chosen = load_retrieval(Location(retrieval), config, networks)[config.retrieval.negatives[-1]]
    return {**found, "retrieval": network_digest(chosen)}


def build_store(
    config: Config,
    sources: Mapping[str, ImageSource],
    translator: str,
    retrieval: str,
    target: Location,
    embedders: int = 1,
    gpu: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Embed every image of `sources` (by split) with an actor pool and commit the snapshot at `target`.

    An interrupted build with the same networks and images continues after the last saved rows.
    """
    shape = (config.data.image_size, config.data.image_size, 3)
    digests = store_digests(config, translator, retrieval)
    total = sum(len(source.index) for source in sources.values())
    with SnapshotWriter(
        target, config.store.shards, config.model.retrieval_dim, shape, digests, name="store", replace=True,
        resume=_work_digest(config, sources, digests),
    ) as writer:  # fmt: skip
        done, saved = len(writer.held), time.monotonic()
        for split, source in sources.items():
            todo = np.flatnonzero(~np.isin(source.index.row_ids, writer.held))
            if not len(todo):
                continue
            # Rows are read and saved in order, so the missing rows are the last ones.
            embedded = rows_dataset(source, int(todo[0])).map_batches(
                Embedder,
                fn_constructor_args=(config, translator, retrieval, gpu),
                batch_size=BATCH,
                compute=ActorPoolStrategy(size=min(embedders, -(-len(todo) // ROWS_PER_READ))),
                num_cpus=CPUS_PER_EMBEDDER,
                num_gpus=GPUS_PER_EMBEDDER if gpu else None,
            )
            for block in batches(embedded, BATCH):
                rows = len(block["row_id"])
                writer.append(
                    block["row_id"], block["vector"], block["image"], np.full(rows, tag_of(split), np.uint8)
                )
                done += rows
                if time.monotonic() - saved > SAVE_SECONDS:
                    writer.save()
                    saved = time.monotonic()
                if progress:
                    progress(done, total)
        if done != total:
            raise RuntimeError(f"embedded {done} of {total} images")
        writer.commit()


def _work_digest(config: Config, sources: Mapping[str, ImageSource], digests: Mapping[str, str]) -> str:
    """Return the digest of everything that the snapshot's rows depend on."""
    images = {
        split: [source.shards.digest, source.crop, source.size, digest_bytes(source.index.row_ids.tobytes())]
        for split, source in sources.items()
    }
    return digest_json([dict(digests), images, config.store.shards])
