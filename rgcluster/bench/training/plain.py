"""A straightforward training step: the baseline of `rgcluster bench train`, and the reference of a test.

It uses fp32, contiguous tensors, separate fakes for D and G, separate passes of D for real and fake images,
`F.instance_norm`, upsampling followed by convolution, and torch's default Adam. It computes the same as
`TranslatorTrainer`, on copies of the same networks. Each optimised formulation can be switched on alone to measure
its gain.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgcluster.config import Config
from rgcluster.model.gmm import kl_divergence
from rgcluster.model.layers import UpsampleConv, instance_norm
from rgcluster.model.losses import Parts, domain_loss
from rgcluster.model.networks import Discriminator, Posterior
from rgcluster.model.translator import Batch, Translator, update_ema
from rgcluster.train.steps.optimizer import learning_rate

__all__ = ["PlainTrainer", "Switches"]


@dataclass(frozen=True)
class Switches:
    """The optimised formulations that the plain step uses."""

    group_norms: bool = False
    parity_upsampling: bool = False
    winograd: bool = False
    one_fake: bool = False


class PlainTrainer:
    """E_c, E_s, G and D in training on images without neighbours."""

    def __init__(
        self,
        translator: Translator,
        discriminator: Discriminator,
        config: Config,
        switches: Switches | None = None,
    ) -> None:
        self.config, self.switches = config, switches or Switches()
        self.net: Any = copy.deepcopy(translator)  # its layers are accessed by name
        self.d: Any = copy.deepcopy(discriminator)
        self.average = copy.deepcopy(self.net)
        optimizer = config.translation.optimizer
        rate = learning_rate(optimizer, 0, config.translation.batch_size)
        self._net_adam = torch.optim.Adam(self.net.parameters(), rate, optimizer.betas)
        self._d_adam = torch.optim.Adam(self.d.parameters(), rate, optimizer.betas)

    def update(self, batch: Batch) -> Parts:
        """Update D, then the translator; return the detached parts of both losses."""
        loss, kind = self.config.translation.loss, self.config.data.domains
        real, fake = float(loss.real_label), float(1 - loss.real_label)
        x, s_t = batch.image, batch.target_style
        parts: Parts = {}

        made = self.generator(self.content(x), s_t, x) if self.switches.one_fake else None
        if made is None:
            with torch.no_grad():
                x_hat = self.generator(self.content(x), s_t, x)
        else:
            x_hat = made.detach()
        scores, logits = self.judge(x)
        parts["d_real"] = (scores - real).square().mean()
        parts["d_domain"] = domain_loss(logits, batch.domain, kind)
        parts["d_fake"] = (self.judge(x_hat)[0] - fake).square().mean()
        self._d_adam.zero_grad()
        d_total = loss.adversarial * (parts["d_real"] + parts["d_fake"]) + loss.domain * parts["d_domain"]
        d_total.backward()
        self._d_adam.step()

        c, posterior = self.content(x), self.style(x)
        x_hat = self.generator(c, s_t, x) if made is None else made
        c_hat = self.content(x_hat)
        parts["content"] = (c_hat - c).abs().mean()
        parts["style"] = (self.style(x_hat).mean - s_t).abs().mean()
        parts["image"] = (self.generator(c, posterior.mean, x) - x).abs().mean()
        parts["cycle"] = (self.generator(c_hat, posterior.mean, x_hat) - x).abs().mean()
        parts["kl"] = kl_divergence(posterior, batch.domain, self.config.model.prior_std)
        scores, logits = self.judge(x_hat)
        parts["adversarial"] = (scores - real).square().mean()
        parts["domain"] = domain_loss(logits, batch.target, kind)
        weighted = [getattr(loss, name) * value for name, value in parts.items() if not name.startswith("d_")]
        parts["total"] = torch.stack(weighted).sum()
        self._net_adam.zero_grad()
        parts["total"].backward()
        self._net_adam.step()
        update_ema(self.average, self.net, self.config.translation.ema)
        return {name: value.detach() for name, value in parts.items()}

    def content(self, x: Tensor) -> Tensor:
        first, second, third, *blocks = self.net.content_encoder.layers
        for block in (first, second, third):
            x = F.relu(self._norm(self._conv(block.conv, x)))
        for block in blocks:
            y = F.relu(self._norm(self._conv(block.first.conv, x)))
            x = x + self._norm(self._conv(block.second.conv, y))
        return x

    def style(self, x: Tensor) -> Posterior:
        encoder = self.net.style_encoder
        for block in encoder.layers:
            x = F.relu(self._conv(block.conv, x))
        pooled = x.mean(dim=(2, 3))
        return Posterior(encoder.mean(pooled), encoder.log_variance(pooled))

    def generator(self, content: Tensor, style: Tensor, image: Tensor) -> Tensor:
        net, x = self.net.generator, content
        if net.own_style:
            style = torch.cat([style, style - self.style(image).mean.detach()], dim=1)
        parameters = net.style_mlp(style).unflatten(1, (len(net.blocks), 2, 2, content.shape[1]))
        for index, block in enumerate(net.blocks):
            shift, scale = parameters[:, index, :, 0], parameters[:, index, :, 1] + net.scale_offset
            y = F.relu(self._norm(self._conv(block.first, x)) * _map(scale[:, 0]) + _map(shift[:, 0]))
            x = x + self._norm(self._conv(block.second, y)) * _map(scale[:, 1]) + _map(shift[:, 1])
        for layer in net.decoder:
            if isinstance(layer, UpsampleConv):
                x = self._upsampled(layer, x)
            elif isinstance(layer, nn.ReLU):
                x = F.relu(x)
            else:
                x = self._layer_norm(layer, x)
        if net.join is not None:
            x = net.join(torch.cat([x, image], dim=1))
        picture, gate = net.heads(x).split((3, 1), dim=1)
        raw = torch.tanh(picture)
        if net.fill is not None:
            raw = net.fill(raw, x, image)
        if not net.attention:
            return raw
        mask = torch.sigmoid(gate)
        return raw * mask + image * (1 - mask)

    def judge(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.d.layers:
            x = F.leaky_relu(self._conv(block.conv, x), block.slope)
        return self.d.source(x), self.d.domain(x).flatten(1)

    def _conv(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        if self.switches.winograd:
            return conv(x)
        padding = int(conv.padding[0])
        mode = "reflect" if conv.padding_mode == "reflect" else "constant"
        return F.conv2d(F.pad(x, (padding,) * 4, mode=mode), conv.weight, conv.bias, conv.stride)

    def _norm(self, x: Tensor) -> Tensor:
        if self.switches.group_norms or x.shape[-1] * x.shape[-2] <= 4:
            return instance_norm(x)
        return F.instance_norm(x)

    def _layer_norm(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self.switches.group_norms:
            return layer(x)
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        variance = x.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        return (x - mean) / (variance + 1e-5).sqrt() * _map(weight[None]) + _map(bias[None])

    def _upsampled(self, layer: UpsampleConv, x: Tensor) -> Tensor:
        if self.switches.parity_upsampling:
            return layer(x)
        return layer.conv(F.interpolate(x, scale_factor=2, mode=layer.mode))


def _map(values: Tensor) -> Tensor:
    return values[:, :, None, None]
