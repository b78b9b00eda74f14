"""Layers that the networks share; every one takes and returns [B, C, h, w]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgcluster.model.kernels.convolution import Conv3x3, conv3x3
from rgcluster.model.kernels.resampling import ReflectedConv2d, blur, upsample_bilinear

__all__ = [
    "AdaptiveInstanceNorm",
    "AdaptiveResidualBlock",
    "ConvBlock",
    "LayerNorm2d",
    "ReleasedLayerNorm",
    "ResidualBlock",
    "UpsampleConv",
    "draw_values",
    "initialise",
    "instance_norm",
    "layer_norm",
    "start_near_zero",
]

EPSILON = 1e-5


def instance_norm(x: Tensor) -> Tensor:
    """Normalise each channel of each image; no affine, no running statistics.

    A 1x1 map would become zero and a 2x2 map nearly so; both pass unchanged.
    """
    if x.shape[-1] * x.shape[-2] <= 4:
        return x
    # Group norm of one channel a group is the same, and three to ten times as fast as instance_norm on a CPU.
    return F.group_norm(x, x.shape[1], eps=EPSILON)


class LayerNorm2d(nn.Module):
    """Normalise each image over C, h, w; scale and shift per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 1, self.weight, self.bias, EPSILON)


class ReleasedLayerNorm(LayerNorm2d):
    """The layer norm of the 2021 code: divides by the unbiased deviation plus epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=(1, 2, 3), keepdim=True)
        count = x[0].numel()
        deviation = (centred.square().sum(dim=(1, 2, 3), keepdim=True) / (count - 1)).sqrt()
        scaled = centred / (deviation + EPSILON)
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]


def layer_norm(channels: int, kind: str) -> LayerNorm2d:
    """Return a layer norm of the type `model.layer_norm`."""
    return ReleasedLayerNorm(channels) if kind == "released" else LayerNorm2d(channels)


class ConvBlock(nn.Module):
    """Convolution that keeps or halves the size, then norm, then activation.

    `norm` is False, True for instance norm, or a module. `blurred` smooths the input before the convolution, as
    anti-aliased networks do (Zhang 2019).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        norm: bool | nn.Module = False,
        activation: str = "relu",
        slope: float = 0.01,
        blurred: bool = False,
    ) -> None:
        super().__init__()
        self.conv: nn.Conv2d
        if kernel == 3 and stride == 1:
            self.conv = Conv3x3(inputs, outputs, "reflect")
        else:
            padding = (kernel - 1) // 2 if stride == 1 else 1
            self.conv = ReflectedConv2d(inputs, outputs, kernel, stride, padding)
        self.norm = norm
        self.activation, self.slope, self.blurred = activation, slope, blurred

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(blur(x) if self.blurred else x)
        if isinstance(self.norm, nn.Module):
            x = self.norm(x)
        elif self.norm:
            x = instance_norm(x)
        if self.activation == "relu":
            return F.relu(x)
        if self.activation == "leaky":
            return F.leaky_relu(x, self.slope)
        return x


class ResidualBlock(nn.Module):
    """x + IN(conv(ReLU(IN(conv(x))))); no ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels, 3, norm=True)
        self.second = ConvBlock(channels, channels, 3, norm=True, activation="none")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


Draw = Callable[[Tensor], Tensor]
"""Fills a tensor with random values."""


def initialise(network: nn.Module, draw: Draw = nn.init.kaiming_normal_) -> None:
    """Draw the weights of all convolutions and linear layers, by default from Kaiming's normal; biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw_values(module.weight, draw)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def start_near_zero(*layers: nn.Conv2d) -> None:
    """Draw the weights of convolutions small, biases zero: what they add is learnt from almost nothing."""
    for layer in layers:
        draw_values(layer.weight, partial(nn.init.normal_, std=0.01))
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def draw_values(weight: Tensor, draw: Draw) -> None:
    """Draw the values of a weight that has any: one on torch's meta device would have torch import its compiler."""
    if not weight.is_meta:
        draw(weight)


class AdaptiveInstanceNorm(nn.Module):
    """Instance norm, then a shift and a scale [B, C] that are computed from the style."""

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(shift[..., None, None], instance_norm(x), scale[..., None, None])


class AdaptiveResidualBlock(nn.Module):
    """Residual block whose two norms are adaptive; convolutions pad with zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Conv3x3(channels, channels)
        self.second = Conv3x3(channels, channels)
        self.adain = AdaptiveInstanceNorm()

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Take `parameters` [B, 2, 2, C]: for each norm its shift, then its scale."""
        y = F.relu(self.adain(self.first(x), parameters[:, 0, 0], parameters[:, 0, 1]))
        return x + self.adain(self.second(y), parameters[:, 1, 0], parameters[:, 1, 1])


class UpsampleConv(nn.Module):
    """Double the size, then a 5x5 convolution with zero padding [B, inputs, h, w] -> [B, outputs, 2h, 2w].

    After nearest upsampling each output of one parity sees only 3x3 source pixels, so the pair is computed
    as one 3x3 convolution to four parities, shuffled into place: the same sums with 36 instead of 100
    products per source pixel, and a backward without scatter.
    """

    def __init__(self, inputs: int, outputs: int, mode: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 5, padding=2)
        self.mode = mode
        # Row p, k: which of the 5 taps fall on source pixel k - 1 for an output of parity p.
        taps = [
            [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
            [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]],
        ]
        self.register_buffer("taps", torch.tensor(taps, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "bilinear":
            return self.conv(upsample_bilinear(x))
        weight = torch.einsum("oiyx,pky,qlx->opqikl", self.conv.weight, self.taps, self.taps).flatten(0, 2)
        bias = self.conv.bias.repeat_interleave(4) if self.conv.bias is not None else None
        return F.pixel_shuffle(conv3x3(x, weight, bias), 2)
