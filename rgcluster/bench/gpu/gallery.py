"""Vectors and images in the device's memory, searched exactly by a matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Gallery", "Vectors"]


class Vectors:
    """Vectors [N, d]; rows are found by their distance to queries."""

    def __init__(self, vectors: Tensor) -> None:
        # The nearest x to q has the largest q.x - |x|^2 / 2.
        self._transposed, self._offsets = vectors.T, vectors.square().sum(1)[None] / -2

    def nearest(self, queries: Tensor, k: int, excluded: Tensor | None = None) -> Tensor:
        """Return the rows [B, k] that are nearest to queries [B, d], without rows `excluded` [B]."""
        scores = torch.addmm(self._offsets, queries, self._transposed)
        if excluded is not None:
            scores.scatter_(1, excluded[:, None], -torch.inf)
        return scores.topk(k).indices


class Gallery:
    """Images uint8 [N, h, w, 3] with embeddings [N, d]."""

    def __init__(self, images: Tensor, embeddings: Tensor) -> None:
        self._images, self._vectors = images, Vectors(embeddings)

    def find(self, queries: Tensor, k: int, excluded: Tensor) -> Tensor:
        """Return the nearest images uint8 [B, k, h, w, 3] to queries [B, d], without rows `excluded` [B]."""
        return self._images[self._vectors.nearest(queries, k, excluded)]

    def draw(self, count: int, k: int) -> Tensor:
        """Return random images uint8 [count, k, h, w, 3]."""
        rows = torch.randint(len(self._images), (count, k), device=self._images.device)
        return self._images[rows]
