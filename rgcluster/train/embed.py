"""Embeds the retrieval set into a store snapshot: R of every image with E_c(r), E_s(r). Labels are not read.

Images go from the readers to the embedders and on to the writers of the shards, wherever Ray has placed these. The
driver passes references on. Pieces of rows are numbered, and shards are written in this order, so the snapshot does
not depend on the number of processes or on interruptions.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from rgcluster.base.checkpoint.tree import network_digest
from rgcluster.base.placement import CPUS_PER_EMBEDDER, CPUS_PER_READER, GPUS_PER_EMBEDDER
from rgcluster.base.storage import Location, digest_bytes, digest_json
from rgcluster.config import Config
from rgcluster.data.stream import ROWS_PER_READ, ImageSource
from rgcluster.errors import RGClusterError, StoreUnavailable
from rgcluster.model.handover import encoder_digests, load_retrieval, load_translator
from rgcluster.store.disk.shard_writer import ShardWriter
from rgcluster.store.disk.snapshot import shard_of
from rgcluster.store.disk.writer import SnapshotWriter, as_rows
from rgcluster.store.index.rows import tag_of
from rgcluster.translate.device import pick_device
from rgcluster.translate.query import vectors
from rgcluster.translate.tensors import to_images

__all__ = ["Embedder", "build_store", "store_digests"]

SAVE_SECONDS = 15.0
BATCH = 128
ATTEMPTS = 3
log = logging.getLogger(__name__)


class Embedder:
    """Embeds rows of images for each of `shards` shards."""

    def __init__(self, config: Config, translator: str, retrieval: str, gpu: bool) -> None:
        torch.set_num_threads(1)
        self.config, self.device = config, pick_device(config.cluster, gpu=gpu)
        self.translator = load_translator(Location(translator), config)
        networks = load_retrieval(Location(retrieval), config, self.translator)
        self.network = networks[config.retrieval.negatives[-1]].to(self.device.torch)
        self.translator.to(self.device.torch)

    def embed(self, ids: npt.NDArray[np.int64], images: npt.NDArray[np.uint8], tag: int) -> Any:
        """Return what each shard's `ShardWriter.append` takes of rows [N], images uint8 [N, H, W, 3]."""
        shards, size = self.config.store.shards, self.config.data.image_size
        batches = [self._vectors(images[start : start + BATCH]) for start in range(0, len(ids), BATCH)]
        columns = as_rows(
            ids, np.concatenate(batches), images, np.full(len(ids), tag), self.config.embedding_size,
            (size, size, 3),
        )  # fmt: skip
        owners = shard_of(ids, shards)
        parts = [tuple(column[owners == shard] for column in columns) for shard in range(shards)]
        return parts if shards > 1 else parts[0]

    @torch.inference_mode()
    def _vectors(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        image = to_images(images, self.device)
        with self.device.autocast():
            content = self.translator.content_encoder(image)
            style = self.translator.style_encoder(image).mean
        return vectors(self.network.embed, image, content, style, self.device)


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
    for _ in range(ATTEMPTS):
        try:
            return _build(config, sources, translator, retrieval, target, embedders, gpu, progress)
        except RayTaskError as error:
            cause = error.cause
            while isinstance(cause, RayTaskError):  # of a task on which another depended
                cause = cause.cause
            raise (cause if isinstance(cause, RGClusterError) else error) from None
        except RayActorError as error:
            reason = str(error).splitlines()[0]
            log.warning("a process that builds the store ended (%s); going on with what was saved", reason)
    raise StoreUnavailable(
        f"{target}: processes that build the store ended {ATTEMPTS} times, perhaps for lack of memory; "
        "run the same command again, what was saved is kept"
    )


def _build(
    config: Config,
    sources: Mapping[str, ImageSource],
    translator: str,
    retrieval: str,
    target: Location,
    embedders: int,
    gpu: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    shape = (config.data.image_size, config.data.image_size, 3)
    digests = store_digests(config, translator, retrieval)
    rows = np.concatenate([source.index.row_ids for source in sources.values()])
    expected = np.bincount(shard_of(rows, config.store.shards), minlength=config.store.shards).tolist()
    pieces = [
        (split, start, min(start + ROWS_PER_READ, len(source.index)))
        for split, source in sources.items()
        for start in range(0, len(source.index), ROWS_PER_READ)
    ]
    with (
        SnapshotWriter(
            target, config.store.shards, config.embedding_size, shape, digests, name="store", replace=True,
            resume=_work_digest(config, sources, digests), expected=expected,
        ) as writer,
        # They wait for the disk most of the time, and reserve no CPUs.
        _actors(ShardWriter, [(plan, SAVE_SECONDS) for plan in writer.plans], num_cpus=0) as shards,
        _actors(
            Embedder, [(config, translator, retrieval, gpu)] * min(embedders, len(pieces)),
            num_cpus=CPUS_PER_EMBEDDER, num_gpus=GPUS_PER_EMBEDDER if gpu else 0, max_restarts=ATTEMPTS,
            max_task_retries=ATTEMPTS,
        ) as workers,
    ):  # fmt: skip

        def each(method: str) -> list[Any]:
            return ray.get([getattr(shard, method).remote() for shard in shards])

        first = min(each("pieces"))
        done = sum(stop - start for _, start, stop in pieces[:first])
        held = {split: ray.put(source) for split, source in sources.items()}
        # In a sweep's trial, tasks without a strategy would have to fit into the reservation of its driver.
        read: Any = ray.remote(_read).options(
            num_cpus=CPUS_PER_READER, num_returns=2, scheduling_strategy="SPREAD"
        )
        appending = deque[tuple[int, list[Any]]]()
        # Enough to keep all cores and embedders busy.
        most = max(2 * len(workers), int(ray.cluster_resources().get("CPU", 1)))
        for number, (split, start, stop) in enumerate(pieces[first:], first):
            embed = workers[number % len(workers)].embed.options(num_returns=len(shards))
            parts = embed.remote(*read.remote(held[split], start, stop), tag_of(split))
            parts = parts if len(shards) > 1 else [parts]
            # An actor runs the calls of one driver in their order.
            appended = [shard.append.remote(part, number) for shard, part in zip(shards, parts, strict=True)]
            appending.append((stop - start, appended))
            while len(appending) > (most if number + 1 < len(pieces) else 0):
                count, appended = appending.popleft()
                ray.get(appended)
                done += count
                if progress:
                    progress(done, len(rows))
        writer.commit(each=each)


@contextmanager
def _actors(kind: type, arguments: Sequence[tuple[Any, ...]], **options: Any) -> Iterator[list[Any]]:
    """Start an actor with each of the arguments, spread over the nodes; they end with the body."""
    remote: Any = ray.remote(kind).options(scheduling_strategy="SPREAD", **options)  # type: ignore[attr-defined]
    started = [remote.remote(*each) for each in arguments]
    try:
        yield started
    finally:
        for actor in started:
            ray.kill(actor)


def _read(source: ImageSource, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Return the ids [N] and images uint8 [N, H, W, 3] of a range of rows."""
    rows = np.arange(start, stop)
    return source.index.row_ids[rows], source.images(rows)


def _work_digest(config: Config, sources: Mapping[str, ImageSource], digests: Mapping[str, str]) -> str:
    """Return the digest of everything that the snapshot's rows depend on."""
    images = {
        split: [source.shards.digest, source.crop, source.size, digest_bytes(source.index.row_ids.tobytes())]
        for split, source in sources.items()
    }
    return digest_json([dict(digests), images, config.store.shards])
