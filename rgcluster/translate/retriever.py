"""Retrieval of similar real images for a content and a style."""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rgcluster.base.checkpoint.tree import network_digest
from rgcluster.config import Config
from rgcluster.model.fusion import References
from rgcluster.model.handover import encoder_digests
from rgcluster.model.retrieval import RetrievalEncoder
from rgcluster.model.translator import Translator
from rgcluster.store.client import Neighbours, Pending, Store
from rgcluster.translate.contents import StoredContents
from rgcluster.translate.device import Device
from rgcluster.translate.query import vectors
from rgcluster.translate.tensors import to_images

__all__ = ["Retriever", "encode_references"]

IntArray = npt.NDArray[np.int64]


class Retriever:
    """Queries the store for the neighbours of what R embeds, or for random images, and encodes them.

    StoreMismatch if other networks embedded the store.
    """

    def __init__(
        self,
        store: Store,
        network: RetrievalEncoder,
        translator: Translator,
        config: Config,
        device: Device,
        *,
        keep_contents: bool = False,
    ) -> None:
        """With `keep_contents`, every stored image is encoded once, if the contents of all fit into memory."""
        self._digests = {**encoder_digests(translator), "retrieval": network_digest(network)}
        store.check(self._digests)
        self.store, self.network, self.translator = store, network, translator
        self.config, self.device = config, device
        self.waited = 0.0
        self._lock = threading.Lock()
        keeps = keep_contents and StoredContents.fit(config, store.count)
        self._contents = StoredContents(translator, device) if keeps else None

    def replace_store(self, store: Store) -> Store:
        """Query another store from now on; return the one before, for the caller to close.

        StoreMismatch, and nothing is replaced, if other networks embedded it.
        """
        store.check(self._digests)
        before, self.store = self.store, store
        return before

    def query(self, image: Tensor, content: Tensor, style: Tensor) -> npt.NDArray[np.float32]:
        """Return the queries of images [B, 3, H, W] that are to be translated to the style (`RetrievalEncoder`)."""
        return vectors(self.network.query, image, content, style, self.device)

    def embed(self, image: Tensor, content: Tensor, style: Tensor) -> npt.NDArray[np.float32]:
        """Return what the store is to hold of real images [B, 3, H, W] (`RetrievalEncoder`)."""
        return vectors(self.network.embed, image, content, style, self.device)

    @torch.no_grad()
    def issue(
        self,
        image: Tensor,
        content: Tensor,
        style: Tensor,
        row_ids: IntArray,
        key: int,
        *,
        random: bool,
        draws: IntArray | None = None,
    ) -> Pending[Neighbours]:
        """Issue the queries of images [B, 3, H, W], contents [B, C, h, w] and styles [B, n * style_dim].

        `row_ids` [B] are the images' own, which are no neighbours of theirs.

        Random neighbours are keyed by `draws` [B], by default by the row ids.
        """
        count = self.config.guidance.retrieval_count
        exclude = row_ids if self.config.guidance.exclude_self else None
        if random:
            return self.store.random_async(row_ids if draws is None else draws, count, exclude, seed=key)
        return self.store.neighbours_async(self.query(image, content, style), count, exclude)

    def references(self, pending: Pending[Neighbours]) -> References:
        """Wait for the neighbours; return them with their contents."""
        start = time.perf_counter()
        neighbours = pending.result()
        with self._lock:
            self.waited += time.perf_counter() - start
        return self.encode(neighbours)

    def encode(self, neighbours: Neighbours) -> References:
        """Return the given neighbours with their contents."""
        if self._contents is None:
            return encode_references(self.translator, neighbours.images, self.device)
        return References(
            _images(neighbours.images, self.device), self._contents(neighbours.ids, neighbours.images)
        )


@torch.no_grad()
def encode_references(translator: Translator, images: npt.NDArray[np.uint8], device: Device) -> References:
    """Return images uint8 [B, M, h, w, 3] as references."""
    with device.autocast():
        return translator.encode_references(_images(images, device))


def _images(images: npt.NDArray[np.uint8], device: Device) -> Tensor:
    """Return [B, M, 3, h, w] from uint8 [B, M, h, w, 3]."""
    return to_images(images.reshape(-1, *images.shape[2:]), device).unflatten(0, images.shape[:2])
