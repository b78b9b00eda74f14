"""The vectors that the store holds, and those it is asked with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rgcluster.model.retrieval import RetrievalEncoder
from rgcluster.translate.device import Device

__all__ = ["query_vectors", "stored_vectors"]


@torch.no_grad()
def query_vectors(
    network: RetrievalEncoder, image: Tensor, content: Tensor, style: Tensor, device: Device
) -> npt.NDArray[np.float32]:
    """Return the queries [B, embedding_size] of images that are to be translated to the style (`RetrievalEncoder`)."""
    with device.autocast():
        return network.query(image, content, style).cpu().numpy()


@torch.no_grad()
def stored_vectors(
    network: RetrievalEncoder, image: Tensor, content: Tensor, style: Tensor, device: Device
) -> npt.NDArray[np.float32]:
    """Return what the store holds [B, embedding_size] of real images (`RetrievalEncoder`)."""
    with device.autocast():
        return network.embed(image, content, style).cpu().numpy()
