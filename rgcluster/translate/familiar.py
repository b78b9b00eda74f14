"""How unlike the training images a picture is: the distance of its content to the nearest of theirs.

Retrieval distances would not tell: R is trained to bring images of the same style together, whatever is on
them. E_c's content tells noise, flat colour and shifted or enlarged faces from faces.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Familiarity"]

SIDE = 8
"""Contents are pooled to at most this size, so that a few hundred are a few MiB."""
QUANTILE = 0.99


class Familiarity:
    """Knows the contents of some training images, and how far apart such images usually are."""

    def __init__(self, known: Tensor, others: Tensor) -> None:
        """Take contents [K, C, h, w] to compare with and others [L, C, h, w] to learn from what is usual."""
        self._known = _flat(known)
        # Computed anew, they would cost more than the product.
        self._squares = self._known.square().sum(dim=1)
        self._usual = 1.0
        self._usual = float(torch.quantile(self.distance(others), QUANTILE).clamp(min=1e-6))

    def distance(self, content: Tensor) -> Tensor:
        """Return how far contents [B, C, h, w] lie from the nearest known one: up to 1 is usual [B]."""
        flat = _flat(content)
        nearest = torch.addmm(self._squares, flat, self._known.T, alpha=-2).min(dim=1).values
        return (nearest + flat.square().sum(dim=1)).clamp(min=0).sqrt().cpu() / self._usual


def _flat(content: Tensor) -> Tensor:
    pooled = F.adaptive_avg_pool2d(content.float(), SIDE) if content.shape[-1] > SIDE else content.float()
    return pooled.flatten(1)
