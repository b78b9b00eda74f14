"""Conversion between pictures (uint8, channels last) and tensors (float, channels first)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rgcluster.translate.device import Device

__all__ = ["to_images", "to_pixels"]


def to_images(pixels: npt.NDArray[np.uint8] | Tensor, device: Device) -> Tensor:
    """Return float images [..., 3, h, w] in [-1, 1] on the device, from uint8 [..., h, w, 3]."""
    tensor = torch.from_numpy(np.array(pixels)) if isinstance(pixels, np.ndarray) else pixels
    tensor = tensor.to(device.torch, non_blocking=True).movedim(-1, -3)
    image = tensor.float().div_(127.5).sub_(1)
    return image.contiguous(memory_format=device.layout) if image.dim() == 4 else image


def to_pixels(images: Tensor) -> npt.NDArray[np.uint8]:
    """Return uint8 [..., h, w, 3] from float images [..., 3, h, w] in [-1, 1]."""
    pixels = images.detach().float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.movedim(-3, -1).cpu().numpy()
