"""Reflection padding and bilinear upsampling whose gradients are slices and sums, without a scatter.

The native kernels are best on a CPU. Compiled for a GPU, their backward becomes atomic additions, which take a
quarter of a step, so there both are written as concatenated slices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ReflectedConv2d", "bilinear_slices", "blur", "reflect", "reflect_slices", "upsample_bilinear"]


class ReflectedConv2d(nn.Conv2d):
    """A convolution that pads by reflection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(reflect(x, int(self.padding[0])), self.weight, self.bias, self.stride)


def blur(x: Tensor) -> Tensor:
    """Smooth [B, C, h, w] along h and w by the filter [1, 2, 1] / 4, the borders reflected."""
    return F.avg_pool2d(F.avg_pool2d(reflect(x, 1), 2, 1), 2, 1)


def reflect(x: Tensor, width: int) -> Tensor:
    """Pad [B, C, h, w] by `width` on every side with its reflection."""
    if _in_slices(x):
        return reflect_slices(x, width)
    return F.pad(x, (width,) * 4, mode="reflect")


def upsample_bilinear(x: Tensor) -> Tensor:
    """Double [B, C, h, w], bilinear, corners not aligned."""
    if _in_slices(x):
        return bilinear_slices(x)
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def reflect_slices(x: Tensor, width: int) -> Tensor:
    """Compute `reflect` by slices."""
    for dim in (2, 3):
        size = x.shape[dim]
        before = x.narrow(dim, 1, width).flip(dim)
        after = x.narrow(dim, size - 1 - width, width).flip(dim)
        x = torch.cat([before, x, after], dim)
    return x


def bilinear_slices(x: Tensor) -> Tensor:
    """Compute `upsample_bilinear` by slices: each output is 3/4 of its pixel and 1/4 of the next one's."""
    for dim in (2, 3):
        size = x.shape[dim]
        left = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, size - 1)], dim)
        right = torch.cat([x.narrow(dim, 1, size - 1), x.narrow(dim, size - 1, 1)], dim)
        both = [torch.lerp(x, left, 0.25), torch.lerp(x, right, 0.25)]
        x = torch.stack(both, dim + 1).flatten(dim, dim + 1)
    return x


def _in_slices(x: Tensor) -> bool:
    return torch.compiler.is_compiling() or x.device.type == "cuda"
