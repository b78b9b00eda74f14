"""The networks of Table 5: E_c, E_s, G and D.

At full width (`width` 64) and 128 px the layers are the tables'. Images are
float [B, 3, h, w] in [-1, 1]; contents are [B, 4 * width, h/4, w/4]; styles are
[B, n * style_dim].
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgcluster.config import Config
from rgcluster.model.fill import Fill
from rgcluster.model.layers import (
    AdaptiveResidualBlock,
    ConvBlock,
    ResidualBlock,
    UpsampleConv,
    initialise,
    layer_norm,
)

__all__ = [
    "ContentEncoder",
    "Discriminator",
    "Generated",
    "Generator",
    "Posterior",
    "StyleEncoder",
]


class Posterior(NamedTuple):
    """E_s's Gaussian: mean and log-variance, each [B, n * style_dim]."""

    mean: Tensor
    log_variance: Tensor


class Generated(NamedTuple):
    """G's output: the image [B, 3, h, w], the mask M [B, 1, h, w] and the picture before blending."""

    image: Tensor
    mask: Tensor
    raw: Tensor


class ContentEncoder(nn.Module):
    """E_c: image [B, 3, h, w] -> content [B, 4 * width, h/4, w/4] (Table 5)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.model.width
        self.layers = nn.Sequential(
            ConvBlock(3, width, 7, norm=True),
            ConvBlock(width, 2 * width, 4, 2, norm=True),
            ConvBlock(2 * width, 4 * width, 4, 2, norm=True),
            *(ResidualBlock(4 * width) for _ in range(config.model.num_residual_blocks)),
        )
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class StyleEncoder(nn.Module):
    """E_s (E_z in Table 8): image [B, 3, h, w] -> posterior over styles [B, n * style_dim]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.model.width
        self.layers = nn.Sequential(
            ConvBlock(3, width, 7),
            ConvBlock(width, 2 * width, 4, 2),
            ConvBlock(2 * width, 4 * width, 4, 2),
            ConvBlock(4 * width, 4 * width, 4, 2),
            ConvBlock(4 * width, 4 * width, 4, 2),
        )
        self.mean = nn.Linear(4 * width, config.style_size)
        self.log_variance = nn.Linear(4 * width, config.style_size)
        initialise(self)

    def forward(self, image: Tensor) -> Posterior:
        pooled = self.layers(image).mean(dim=(2, 3))
        return Posterior(self.mean(pooled), self.log_variance(pooled))


class Generator(nn.Module):
    """G: content, style and the pass's input image -> image (Table 5).

    The output is raw * M + input * (1 - M), with M = 1 where the configuration has no attention.
    `attention` in [0, 1], perhaps a tensor [], is the strength of the mask: M is replaced by
    1 - attention * (1 - M). `paint` [B, width, H, W], which f gathered from references, is added to the decoder's
    features. `own` [B, n * style_dim] is the image's style, which only a G with `model.own_style` uses.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, width = config.model, config.model.width
        self.attention, self.own_style = model.attention, model.own_style
        self.scale_offset = 1.0 if model.adain_scale == "residual" else 0.0
        self.blocks = nn.ModuleList(
            AdaptiveResidualBlock(4 * width) for _ in range(model.num_residual_blocks)
        )
        self.style_mlp = nn.Sequential(
            nn.Linear((1 + model.own_style) * config.style_size, model.style_mlp_width),
            nn.ReLU(),
            nn.Linear(model.style_mlp_width, model.style_mlp_width),
            nn.ReLU(),
            nn.Linear(model.style_mlp_width, model.num_residual_blocks * 4 * 4 * width),
        )
        self.decoder = nn.Sequential(
            UpsampleConv(4 * width, 2 * width, model.upsampling),
            layer_norm(2 * width, model.layer_norm),
            nn.ReLU(),
            UpsampleConv(2 * width, width, model.upsampling),
            layer_norm(width, model.layer_norm),
            nn.ReLU(),
        )
        self.join = (
            nn.Sequential(nn.Conv2d(width + 3, width, 3, padding=1), nn.ReLU()) if model.skip else None
        )
        # One convolution for both heads, 3 channels of picture and 1 of mask: the same sums, half the passes.
        self.heads = nn.Conv2d(width, 4, 7, padding=3)
        initialise(self)
        self.fill = Fill(width) if model.fill else None
        if model.mask_bias:
            nn.init.constant_(self.heads.bias[3:], model.mask_bias)  # type: ignore[index]

    def forward(
        self,
        content: Tensor,
        style: Tensor,
        image: Tensor,
        attention: float | Tensor = 1.0,
        paint: Tensor | None = None,
        own: Tensor | None = None,
    ) -> Generated:
        if self.own_style:
            assert own is not None, "this G compares the style with the image's own"
            style = torch.cat([style, style - own], dim=1)
        parameters = self.style_mlp(style).unflatten(1, (len(self.blocks), 2, 2, content.shape[1]))
        offset = parameters.new_tensor([0.0, self.scale_offset])[:, None]
        x = content
        for index, block in enumerate(self.blocks):
            x = block(x, parameters[:, index] + offset)
        features = self.decoder(x)
        if paint is not None:
            features = features + paint
        if self.join is not None:
            features = self.join(torch.cat([features, image.to(features.dtype)], dim=1))
        picture, gate = self.heads(features).float().split((3, 1), dim=1)
        raw = torch.tanh(picture)
        if self.fill is not None:
            raw = self.fill(raw, features, image)
        if not self.attention or (isinstance(attention, float) and not attention):
            return Generated(raw, torch.ones_like(gate), raw)
        mask = 1 - attention * (1 - torch.sigmoid(gate))
        return Generated(raw * mask + image * (1 - mask), mask, raw)

    @torch.no_grad()
    def sharpen(self, contrast: float) -> None:
        """Multiply the mask's logits: where it is more than half open it opens more, elsewhere it closes more."""
        for parameter in self.heads.parameters():
            parameter[3:] *= contrast


class Discriminator(nn.Module):
    """D: image -> real/fake map and domain logits [B, n] (Table 5); 2.92 M parameters at 128 px.

    The map is [B, scales, h/16, w/16] with four layers. Each further scale sees the image at half the size; its map
    is resized to the first one's, and its logits are averaged with the others'.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        model = config.model
        scales = [_ScaleDiscriminator(config, scale) for scale in range(model.discriminator_scales)]
        # One scale, the paper's, keeps its layers at the top of the state dict.
        self.scales: nn.ModuleList | None = None
        if len(scales) == 1:
            self.layers, self.source, self.domain = scales[0].layers, scales[0].source, scales[0].domain
        else:
            self.scales = nn.ModuleList(scales)
        initialise(self, partial(nn.init.normal_, std=0.02))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        if self.scales is None:
            return _judge(self, image)
        maps: list[Tensor] = []
        logits: list[Tensor] = []
        for scale in self.scales:
            found, classes = _judge(scale, image)
            maps.append(F.interpolate(found, size=maps[0].shape[-2:]) if maps else found)
            logits.append(classes)
            image = F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
        return torch.cat(maps, dim=1), torch.stack(logits).mean(dim=0)


class _ScaleDiscriminator(nn.Module):
    """The layers of D for the image halved `scale` times."""

    def __init__(self, config: Config, scale: int) -> None:
        super().__init__()
        model = config.model
        width = model.discriminator_width or model.width
        widths = [3, *(min(2**layer, 8) * width for layer in range(model.discriminator_layers))]
        self.layers = nn.Sequential(
            *(
                ConvBlock(
                    before,
                    after,
                    4,
                    2,
                    activation="leaky",
                    slope=model.discriminator_slope,
                    blurred=model.discriminator_blur,
                )
                for before, after in itertools.pairwise(widths)
            )
        )
        side = config.data.image_size // 2 ** (scale + model.discriminator_layers)
        self.source = nn.Conv2d(widths[-1], 1, 1)
        self.domain = nn.Conv2d(widths[-1], config.num_attributes, side, bias=model.class_bias)


def _judge(network: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    x = network.layers(image)
    return network.source(x).float(), network.domain(x).flatten(1).float()
