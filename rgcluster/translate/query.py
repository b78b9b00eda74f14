"""The query vector of a content and a style."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rgcluster.model.retrieval import RetrievalEncoder
from rgcluster.translate.device import Device

__all__ = ["query_vectors"]


@torch.no_grad()
def query_vectors(
    network: RetrievalEncoder, content: Tensor, style: Tensor, device: Device
) -> npt.NDArray[np.float32]:
    """Return R(content, style) [B, retrieval_dim] of contents [B, C, h, w] and styles [B, n * style_dim]."""
    with device.autocast():
        return network(content, style.float()).float().cpu().numpy()
