"""f: fuses a content with its references, the retrieved images (eq. 9).

Shapes: content [B, C, h, w] with C = 4 * width; references are M images [B, M, 3, 4h, 4w] in [-1, 1] and
their contents [B, M, C, h, w].
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgcluster.config import Config
from rgcluster.model.kernels.convolution import Conv3x3
from rgcluster.model.layers import draw_values, start_near_zero

__all__ = ["AttentionFusion", "ConvolutionFusion", "Fused", "Memory", "References", "fusion_network"]

POOLING = 4
"""Downsampling factor of the encoders: pixels a side that a place of the content covers."""


class References(NamedTuple):
    """The images that guide a translation, [B, M, 3, H, W], and their contents, [B, M, C, h, w]."""

    images: Tensor
    contents: Tensor


class Memory(NamedTuple):
    """What f computes from the references alone, for every content that it is fused with.

    Eq. 9 has the references' convolved contents as `values` [B, C, h, w]. Where f attends, P = M * h * w places have
    keys [B, P, C / 2], values [B, P, C] and colours [B, P, 3].
    """

    values: Tensor
    keys: Tensor | None = None
    colours: Tensor | None = None


class Fused(NamedTuple):
    """f's output: c_total [B, C, h, w]; colour and paint only where f attends to places of the references.

    colour [B, 3, h, w] are the attended colours of the references; paint [B, width, 4h, 4w] is added to the
    decoder's last features.
    """

    content: Tensor
    colour: Tensor | None = None
    paint: Tensor | None = None


class ConvolutionFusion(nn.Module):
    """Eq. 9: the references' contents, concatenated and convolved, are fused with the content.

    Both convolutions are 3x3, with ReLU in the `literal` form, without in the `linear` one. In the `residual`
    form the outer one has no ReLU, starts at zero and is added to the content, so stage 3 begins as stage 1
    ended.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels, count = 4 * config.model.width, config.guidance.retrieval_count
        self.form = config.model.fusion
        self.inner = Conv3x3(count * channels, channels, "reflect")
        self.outer = Conv3x3(2 * channels, channels, "reflect")
        if self.form == "residual":
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)  # type: ignore[arg-type]

    def remember(self, references: References) -> Memory:
        """Return the inner convolution of the references' contents."""
        return Memory(self.inner(references.contents.flatten(1, 2)))

    def forward(self, content: Tensor, memory: Memory) -> Fused:
        merged = memory.values
        if self.form == "linear":
            return Fused(self.outer(torch.cat([content, merged], dim=1)))
        update = self.outer(torch.cat([content, F.relu(merged)], dim=1))
        return Fused(F.relu(update) if self.form == "literal" else content + update)


class AttentionFusion(nn.Module):
    """Every place of the content attends to all places of all references; not in the paper.

    Queries and keys come from E_c, which is free of the domain, and from a learnt code of the place, so that
    poses align; values come from the references' pixels, whose appearance E_c removes. The result is added to the
    content and, since G's instance norms remove colours from it, to the decoder's last features. Both
    convolutions that feed G start near zero, so stage 3 begins as stage 1 ended. The number of references is free.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, channels, side = config.model.width, 4 * config.model.width, config.data.image_size // POOLING
        self.scale = 1 / math.sqrt(channels // 2)
        self.query = nn.Conv2d(channels, channels // 2, 1)
        self.key = nn.Conv2d(channels, channels // 2, 1)
        self.place = nn.Parameter(torch.empty(1, channels // 2, side, side))
        draw_values(self.place, partial(nn.init.normal_, std=config.model.place_std))
        self.value = nn.Sequential(
            nn.Conv2d(3, 2 * width, 4, 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, channels, 4, 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )
        self.join = nn.Conv2d(2 * channels, channels, 1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        painted = nn.Conv2d(2 * width, width, 3, padding=1)
        self.paint = nn.Sequential(nn.Conv2d(channels + 3, 2 * width, 3, padding=1), nn.ReLU(), painted)
        start_near_zero(self.outer, painted)

    def remember(self, references: References) -> Memory:
        """Return the keys, values and colours of all places of the references."""
        images, (batch, count) = references.images.flatten(0, 1), references.images.shape[:2]

        def places(x: Tensor) -> Tensor:
            """[B * M, C, h, w] -> [B, M * h * w, C]: the places of all references of a row."""
            return x.flatten(2).unflatten(0, (batch, count)).transpose(2, 3).flatten(1, 2)

        keys = places(self.key(references.contents.flatten(0, 1)) + self.place)
        return Memory(places(self.value(images)), keys, places(F.avg_pool2d(images, POOLING).float()))

    def forward(self, content: Tensor, memory: Memory) -> Fused:
        values, keys, colours = memory
        assert keys is not None and colours is not None
        queries = (self.query(content) + self.place).flatten(2).transpose(1, 2)
        weights = torch.softmax(queries @ keys.transpose(1, 2) * self.scale, dim=-1)

        def gathered(x: Tensor) -> Tensor:
            """[B, M * h * w, C] -> [B, C, h, w]: the weighted mean of what each place attends to."""
            return (weights.to(x.dtype) @ x).transpose(1, 2).unflatten(2, content.shape[2:])

        found = gathered(values)
        update = self.outer(F.relu(self.join(torch.cat([content, found], dim=1))))
        colour = gathered(colours)
        paint = self.paint(torch.cat([found, colour.to(found.dtype)], dim=1))
        wide = F.interpolate(paint, scale_factor=POOLING, mode="bilinear", align_corners=False)
        return Fused(content + update, colour, wide)


def fusion_network(config: Config) -> ConvolutionFusion | AttentionFusion:
    """Return the f of the type `model.fusion`."""
    return AttentionFusion(config) if config.model.fusion == "attention" else ConvolutionFusion(config)
