"""The unlikeness of a picture to the training images: the distance of its content to the nearest of theirs.

Retrieval distances are no measure of it, because R is trained to bring images of the same style together, whatever
they show. E_c's content distinguishes faces from noise, flat colour and shifted or enlarged faces.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Familiarity"]

SIDE = 8
"""Contents are pooled to at most this size, so that a few hundred take a few MiB."""
QUANTILE = 0.99


class Familiarity:
    """Contents of some training images, and their usual distance from each other."""

    def __init__(self, known: Tensor, others: Tensor) -> None:
        """Compare with contents [K, C, h, w]; `others` [L, C, h, w] determine the usual distance."""
        self._known = _flat(known)
        # Recomputing them would take longer than the product.
        self._squares = self._known.square().sum(dim=1)
        self._usual = 1.0
        self._usual = float(torch.quantile(self.distance(others), QUANTILE).clamp(min=1e-6))

    def distance(self, content: Tensor) -> Tensor:
        """Return the distance [B] of contents [B, C, h, w] to the nearest known one, in multiples of the usual one."""
        flat = _flat(content)
        nearest = torch.addmm(self._squares, flat, self._known.T, alpha=-2).min(dim=1).values
        return (nearest + flat.square().sum(dim=1)).clamp(min=0).sqrt().cpu() / self._usual


def _flat(content: Tensor) -> Tensor:
    pooled = F.adaptive_avg_pool2d(content.float(), SIDE) if content.shape[-1] > SIDE else content.float()
    return pooled.flatten(1)
