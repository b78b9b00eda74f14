"""Arrays of images: validation, batches, normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from rgcluster.errors import DataError

__all__ = ["Images", "batches", "check_images", "normalised"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Images(Protocol):
    """An array of images, or what reads them when it is indexed by a slice or by rows."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...


def check_images(images: Images) -> None:
    """Raise DataError unless `images` is uint8 [N, H, W, 3] with at least one image."""
    if images.dtype != np.uint8:
        raise DataError(f"images are {images.dtype}: convert them to uint8, 0 to 255")
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise DataError(f"images have shape {list(images.shape)}, expected [N, H, W, 3] with N at least 1")


def batches(images: Images, size: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield `images`, uint8 [N, H, W, 3], as uint8 [B, 3, H, W] in channels-last memory, B <= `size`."""
    check_images(images)
    for start in range(0, len(images), size):
        part = np.ascontiguousarray(images[start : start + size])
        if not part.flags.writeable:
            part = part.copy()
        # A permuted view of [B, H, W, 3] already lies in channels-last order.
        yield torch.from_numpy(part).to(device).permute(0, 3, 1, 2)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Return `images`, [B, 3, H, W] on the scale 0 to 255, with ImageNet's mean and deviation, float32."""
    mean = torch.tensor(_IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(_IMAGENET_STD, device=images.device).view(1, 3, 1, 1) * 255
    return (images.float() - mean) / std
