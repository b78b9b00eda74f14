"""The vectors that the store holds, and those it is asked with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rgcluster.translate.device import Device

__all__ = ["vectors"]


@torch.no_grad()
def vectors(
    embed: Callable[[Tensor, Tensor, Tensor], Tensor],
    image: Tensor,
    content: Tensor,
    style: Tensor,
    device: Device,
) -> npt.NDArray[np.float32]:
    """Return vectors [B, embedding_size] by `RetrievalEncoder.embed` for the store, or by its `query` to ask it."""
    with device.autocast():
        return embed(image, content, style).cpu().numpy()
