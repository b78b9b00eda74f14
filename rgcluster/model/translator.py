"""The translator E_c, E_s, G (and f in stage 3), and the losses of a generator step that do not involve D.

All generator work of a step is one `forward`, so DistributedDataParallel sees one forward a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgcluster.base.cluster.internals import lerp_all
from rgcluster.config import Config, LossConfig
from rgcluster.model.fusion import Fused, Memory, References, fusion_network
from rgcluster.model.gmm import kl_divergence, prior_mean
from rgcluster.model.losses import Parts, appearance_loss, l1
from rgcluster.model.networks import (
    ContentEncoder,
    Generated,
    Generator,
    Posterior,
    StyleEncoder,
)

__all__ = [
    "Batch",
    "Guide",
    "TranslationObjective",
    "Translator",
    "closest",
    "pasted",
    "style_of",
    "update_ema",
]


@dataclass(frozen=True)
class Batch:
    """Input of a generator step, on the device.

    image [B, 3, h, w] in [-1, 1]; domain and target [B, n] in {0, 1}; target_style and
    posterior_noise [B, n * style_dim]; content and posterior only where the encoders are frozen;
    visible [B, 1, h, w] in {0, 1} if D sees only a part of every image; pasted [B], whether a back-translation begins
    at an image with its nearest reference pasted in, or without references the one in other [B, 3, h, w].
    """

    image: Tensor
    domain: Tensor
    target: Tensor
    target_style: Tensor
    posterior_noise: Tensor
    content: Tensor | None = None
    posterior: Posterior | None = None
    visible: Tensor | None = None
    pasted: Tensor | None = None
    other: Tensor | None = None

    def shown(self, image: Tensor) -> Tensor:
        """Return images [B, 3, h, w] as D sees them, grey where not visible."""
        return image if self.visible is None else image * self.visible


class Guide(Protocol):
    """Provides the references of each pass: the neighbours of its query, or their configured replacement."""

    def translation(self) -> References: ...

    def reconstruction(self) -> References: ...

    def issue_cycle(self, image: Tensor, content: Tensor, style: Tensor) -> None:
        """Issue the cycle's query, of the translation; `cycle` collects the response."""

    def cycle(self) -> References | None:
        """Return the cycle's references, or None for the plain content."""


class Translator(nn.Module):
    """E_c, E_s, G, and f if the translator is guided."""

    def __init__(self, config: Config, *, guided: bool = False) -> None:
        super().__init__()
        self.content_encoder = ContentEncoder(config)
        self.style_encoder = StyleEncoder(config)
        self.generator = Generator(config)
        self.fusion = fusion_network(config) if guided else None

    def encode_references(self, images: Tensor) -> References:
        """Return images [B, M, 3, H, W] with their contents."""
        return References(images, self.content_encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2]))

    def remember(self, references: References | None) -> Memory | None:
        """Return what f computes from the references alone, None where there are none."""
        return None if self.fusion is None or references is None else self.fusion.remember(references)

    def fuse(self, content: Tensor, references: References | Memory | None) -> Fused:
        """Return f(c, references), or c itself where there are none."""
        memory = references if isinstance(references, Memory) else self.remember(references)
        return Fused(content) if self.fusion is None or memory is None else self.fusion(content, memory)

    def forward(
        self, image: Tensor, style: Tensor, references: References | None = None, attention: float = 1.0
    ) -> Generated:
        """Translate images [B, 3, h, w] to styles [B, n * style_dim], guided by M references."""
        return self.generate(self.fuse(self.content_encoder(image), references), style, image, attention)

    def generate(
        self,
        fused: Fused,
        style: Tensor,
        image: Tensor,
        attention: float | Tensor = 1.0,
        own: Tensor | None = None,
    ) -> Generated:
        """Return G's translation of images [B, 3, h, w] with fused contents to styles [B, n * style_dim].

        `own` is E_s's mean of the images, if the caller has computed it.
        """
        # An image's own style is an observation, not a way to a smaller loss.
        own = self.own_style(image) if own is None else own.detach()
        # In fp32, so that a compiled G is the same for sampled styles and those of E_s.
        own = None if own is None else own.float()
        return self.generator(fused.content, style.float(), image, attention, fused.paint, own)

    def own_style(self, image: Tensor) -> Tensor | None:
        """Return E_s's mean of images [B, 3, h, w] as G compares styles with it; None for a G that does not."""
        return self.style_encoder(image).mean.detach() if self.generator.own_style else None

    def freeze_encoders(self) -> None:
        self.content_encoder.requires_grad_(False)
        self.style_encoder.requires_grad_(False)


def style_of(posterior: Posterior, noise: Tensor, config: LossConfig) -> Tensor:
    """Return the posterior's mean, or a sample of it as configured."""
    if config.posterior == "mean":
        return posterior.mean
    return posterior.mean + noise * (0.5 * posterior.log_variance).exp()


class TranslationObjective(nn.Module):
    """The generator's forward: x_hat and every loss of eq. 2-5 and KL, unweighted."""

    def __init__(
        self, translator: Translator, config: Config, loss: LossConfig, perceptual: nn.Module | None
    ) -> None:
        super().__init__()
        self.translator = translator
        self.loss = loss
        self.prior_std, self.style_dim = config.model.prior_std, config.model.style_dim
        # In a tuple, which keeps VGG out of the state dict, the optimiser and DDP.
        self._perceptual = (perceptual,)

    def forward(
        self, batch: Batch, guide: Guide | None = None, attention: float | Tensor = 1.0
    ) -> tuple[Tensor, Parts]:
        """Return x_hat [B, 3, h, w] and the parts."""
        net, x = self.translator, batch.image
        content = net.content_encoder(x) if batch.content is None else batch.content
        posterior = net.style_encoder(x) if batch.posterior is None else batch.posterior
        style = style_of(posterior, batch.posterior_noise, self.loss)

        fused = net.fuse(content, guide.translation() if guide else None)
        made = net.generate(fused, batch.target_style, x, attention, posterior.mean)
        translated = made.image
        content_again = net.content_encoder(translated)
        style_back = style if self.loss.cycle_style == "own" else prior_mean(batch.domain, self.style_dim)
        if guide:  # the store searches while the next three passes run
            guide.issue_cycle(translated, content_again, style_back)
        style_again = net.style_encoder(translated).mean

        own_attention = attention if self.loss.mask_in == "all" else 0.0
        own_references = guide.reconstruction() if guide else None
        own_memory = net.remember(own_references)
        own = net.fuse(content, own_memory)
        reconstructed = net.generate(own, style, x, own_attention, posterior.mean).image

        def cycle_memory() -> Memory | None:
            references = guide.cycle() if guide else None
            return own_memory if references is own_references else net.remember(references)

        if self.loss.cycle_form == "cycle":
            behind_mask = translated if self.loss.cycle_blend == "translated" else x
            again = net.fuse(content_again, cycle_memory())
            cycled = net.generate(again, style_back, behind_mask, own_attention, style_again).image
        else:
            given = translated.detach()
            if batch.pasted is not None:
                nearest = guide.translation().images[:, 0] if guide else batch.other
                assert nearest is not None
                chosen = batch.pasted[:, None, None, None]
                given = torch.where(chosen, pasted(x, nearest, made.mask.detach()).to(given.dtype), given)
                known, given_style = net.content_encoder(given), net.style_encoder(given).mean
            else:
                known = content_again.detach() if batch.content is not None else net.content_encoder(given)
                given_style = style_again
            again = net.fuse(known, cycle_memory())
            cycled = net.generate(again, style_back, given, attention, given_style).image

        wanted_style = batch.target_style if self.loss.style_target == "sampled" else posterior.mean
        parts = {
            "content": l1(content_again, content),
            "style": l1(style_again, wanted_style),
            "image": l1(reconstructed, x),
            "cycle": l1(cycled, x),
        }
        if self.loss.identity:  # weighted by the share of such rows, so that pieces of a batch add up
            kept = (batch.target == batch.domain).all(dim=1).float()
            parts["identity"] = ((translated - x).float().abs().mean((1, 2, 3)) * kept).mean()
        if self.loss.mask:  # keeping what need not change is better than painting it
            parts["mask"] = made.mask.mean()
        if self.loss.appearance and fused.colour is not None:
            parts["appearance"] = appearance_loss(translated, made.mask, fused.colour)
        if batch.posterior is None:  # a frozen E_s needs no KL
            parts["kl"] = kl_divergence(posterior, batch.domain, self.prior_std)
        if self._perceptual[0] is not None:
            parts["perceptual"] = self._perceptual[0](translated, x)
        return translated, parts


def closest(target: Tensor, domain: Tensor) -> Tensor:
    """Return for each row the other row, int64 [B], whose domain differs in the fewest attributes from its target."""
    apart = (target[:, None] - domain[None]).abs().sum(dim=-1)
    return apart.fill_diagonal_(torch.inf).argmin(dim=1)


def pasted(image: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Return images [B, 3, h, w] that show their references where the mask [B, 1, h, w] repaints more than half.

    So do the places within a thirty-second of the side of these, since a mask ends before the hair does.
    """
    wider = image.shape[-1] // 32
    places = F.max_pool2d((mask > 0.5).to(image.dtype), 2 * wider + 1, stride=1, padding=wider)
    return torch.where(places.bool(), reference.to(image.dtype), image)


@torch.no_grad()
def update_ema(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move every parameter of `average` towards `current`: a <- decay * a + (1 - decay) * c."""
    lerp_all(list(average.parameters()), list(current.parameters()), 1 - decay)
