"""3x3 convolutions by Winograd's minimal filtering, F(4x4, 3x3), on CPUs where it is faster.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): outputs are computed in tiles of
4x4 from 6x6 inputs, Y = A^T [(G g G^T) * (B^T d B)] A, with 36 instead of 144 products per output tile and
channel pair. All three transforms and the products are matrix products here. In fp32 the mean error is 1e-6
of the values' deviation at the paper's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgcluster.model.kernels.resampling import reflect

__all__ = ["Conv3x3", "Convolutions", "conv3x3", "convolutions", "use_convolutions", "winograd_conv3x3"]

Convolutions = Literal["auto", "direct", "winograd"]

TILE = 4
FEWEST_CHANNELS = 128
"""With fewer channels, transforms cost more than the products that they save."""

FAST_DIRECT = "AVX512"
"""CPUs of this capability multiply twice as fast within a direct convolution as in matrix products."""

_chosen: Convolutions = "auto"


def use_convolutions(kind: Convolutions) -> Convolutions:
    """Choose how this process computes 3x3 convolutions, and return the previous choice.

    `auto` uses Winograd's on CPUs without AVX-512, in fp32, where it is faster.
    """
    global _chosen
    before, _chosen = _chosen, kind
    return before


@contextmanager
def convolutions(kind: Convolutions) -> Iterator[None]:
    """Compute 3x3 convolutions in this way for the duration of the block."""
    before = use_convolutions(kind)
    try:
        yield
    finally:
        use_convolutions(before)


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution of stride 1 that keeps the size: [B, inputs, h, w] -> [B, outputs, h, w]."""

    def __init__(self, inputs: int, outputs: int, padding: Literal["zeros", "reflect"] = "zeros") -> None:
        super().__init__(inputs, outputs, 3, padding=1, padding_mode=padding)

    def forward(self, x: Tensor) -> Tensor:
        return conv3x3(x, self.weight, self.bias, self.padding_mode)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None, padding: str = "zeros") -> Tensor:
    """Convolve x [B, C, h, w] with weight [K, C, 3, 3], stride 1, to [B, K, h, w]; `padding` zeros or reflect."""
    if _pays(x, weight):
        padded = reflect(x, 1) if padding == "reflect" else F.pad(x, (1, 1, 1, 1))
        return winograd_conv3x3(padded, weight, bias)
    if padding == "reflect":
        return F.conv2d(reflect(x, 1), weight, bias)
    return F.conv2d(x, weight, bias, padding=1)


def winograd_conv3x3(padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve fp32 [B, C, h + 2, w + 2] without padding, to [B, K, h, w]; h and w are multiples of 4."""
    return _Winograd.apply(padded, weight, bias)


def _pays(x: Tensor, weight: Tensor) -> bool:
    if _chosen == "direct" or torch.compiler.is_compiling():
        return False
    if _chosen == "auto" and not _gains(x.device, min(weight.shape[:2])):
        return False
    fits = x.dtype == weight.dtype == torch.float32 and x.shape[-1] % TILE == x.shape[-2] % TILE == 0
    return fits and not torch.is_autocast_enabled(x.device.type)


def _gains(device: torch.device, channels: int) -> bool:
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == FAST_DIRECT:
        return False
    return channels >= FEWEST_CHANNELS


class _Winograd(torch.autograd.Function):
    """Keeps the transformed inputs for the weights' gradient, which takes 2.25 times the input's memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        batch, inputs, height, width = x.shape
        outputs, rows, columns = len(weight), (height - 2) // TILE, (width - 2) // TILE
        of_input, of_weight, of_output = _transforms(x.device)
        b, c, h, w = x.stride()
        # Overlapping 6x6 tiles, their places first, so that a transform is one matrix product.
        tiles = x.as_strided((6, 6, inputs, batch, rows, columns), (h, w, c, b, TILE * h, TILE * w))
        transformed = (of_input @ tiles.reshape(36, -1)).view(36, inputs, -1)
        filters = (of_weight @ weight.reshape(-1, 9).t()).view(36, outputs, inputs)
        products = torch.bmm(filters, transformed)
        made = (of_output @ products.view(36, -1)).view(TILE, TILE, outputs, batch, rows, columns)
        result = x.new_empty(batch, outputs, rows, TILE, columns, TILE)
        if bias is None:
            result.copy_(_in_place(made))
        else:
            torch.add(_in_place(made), bias[:, None, None, None, None], out=result)
        ctx.save_for_backward(transformed, filters)
        ctx.sizes = batch, inputs, outputs, rows, columns
        return result.view(batch, outputs, TILE * rows, TILE * columns)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,) = gradients
        transformed, filters = ctx.saved_tensors
        batch, inputs, outputs, rows, columns = ctx.sizes
        of_input, of_weight, of_output = _transforms(gradient.device)
        tiles = gradient.reshape(batch, outputs, rows, TILE, columns, TILE).permute(3, 5, 1, 0, 2, 4)
        products = (of_output.t() @ tiles.reshape(TILE * TILE, -1)).view(36, outputs, -1)
        of_x = of_filters = of_bias = None
        if ctx.needs_input_grad[0]:
            back = of_input.t() @ torch.bmm(filters.transpose(1, 2), products).view(36, -1)
            of_x = _overlap(back.view(6, 6, inputs, batch, rows, columns))
        if ctx.needs_input_grad[1]:
            back = of_weight.t() @ torch.bmm(products, transformed.transpose(1, 2)).view(36, -1)
            of_filters = back.t().reshape(outputs, inputs, 3, 3)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=(0, 2, 3))
        return of_x, of_filters, of_bias


def _in_place(tiles: Tensor) -> Tensor:
    """Return tiles [4, 4, C, B, rows, columns] as [B, C, rows, 4, columns, 4]."""
    return tiles.permute(3, 2, 4, 0, 5, 1)


def _overlap(tiles: Tensor) -> Tensor:
    """Add up tiles [6, 6, C, B, rows, columns], each 4 apart, to [B, C, 4 * rows + 2, 4 * columns + 2]."""
    _, _, channels, batch, rows, columns = tiles.shape
    whole = tiles.new_zeros(batch, channels, rows + 1, TILE, columns + 1, TILE)
    whole[:, :, :rows, :, :columns] = _in_place(tiles[:TILE, :TILE])
    whole[:, :, :rows, :, 1:, :2] += _in_place(tiles[:TILE, TILE:])
    whole[:, :, 1:, :2, :columns] += _in_place(tiles[TILE:, :TILE])
    whole[:, :, 1:, :2, 1:, :2] += _in_place(tiles[TILE:, TILE:])
    flat = whole.view(batch, channels, TILE * (rows + 1), TILE * (columns + 1))
    return flat[:, :, : TILE * rows + 2, : TILE * columns + 2]


@lru_cache(maxsize=4)
def _transforms(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the transforms of inputs [36, 36], weights [36, 9] and outputs [16, 36], flattened tiles to tiles."""
    of_input = [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
    of_weight = [
        [6, 0, 0],
        [-4, -4, -4],
        [-4, 4, -4],
        [1, 2, 4],
        [1, -2, 4],
        [0, 0, 24],
    ]
    of_output = [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
    with torch.inference_mode(False):
        matrices = [torch.tensor(rows, dtype=torch.float64) for rows in (of_input, of_weight, of_output)]
        matrices[1] /= 24
        a, b, c = (torch.kron(matrix, matrix).float().to(device) for matrix in matrices)
    return a, b, c
