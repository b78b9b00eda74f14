"""The losses of eq. 2-8. Each returns a scalar; composed losses return `(total, parts)`."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgcluster.config import LossConfig
from rgcluster.model.layers import instance_norm

__all__ = [
    "Parts",
    "PerceptualDistance",
    "adversarial_loss",
    "appearance_loss",
    "conditional_scores",
    "discriminator_loss",
    "domain_loss",
    "generator_adversarial_loss",
    "gradient_penalty",
    "is_penalised",
    "l1",
    "triplet_loss",
    "weighted_sum",
]

Parts = dict[str, Tensor]


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference over all elements."""
    return (a.float() - b.float()).abs().mean()


def adversarial_loss(scores: Tensor, *, real: bool, config: LossConfig) -> Tensor:
    """Return D's loss on its map [B, 1, h, w] of images that are `real` or not (eq. 6, 7 in least squares)."""
    scores = scores.float()
    if config.adversarial_form == "least-squares":
        label = config.real_label if real else 1 - config.real_label
        return (scores - label).square().mean()
    towards = -scores if real else scores
    return (F.relu(1 + towards) if config.adversarial_form == "hinge" else F.softplus(towards)).mean()


def generator_adversarial_loss(scores: Tensor, config: LossConfig) -> Tensor:
    """Return G's loss on D's map [B, 1, h, w] of its images: D's own for real ones, but linear in the hinge form."""
    if config.adversarial_form == "hinge":
        return -scores.float().mean()
    return adversarial_loss(scores, real=True, config=config)


def conditional_scores(scores: Tensor, logits: Tensor, domain: Tensor, config: LossConfig) -> Tensor:
    """Return D's map [B, 1, h, w] of images together with their domains [B, n] in {0, 1}.

    The mean agreement of the logits with the domain is added to the map, a projection discriminator whose
    embedding of a domain is its sign (Miyato and Koyama 2018, eq. 4). Unlike a classifier of real images alone,
    it also sees generated images of the domain.
    """
    if not config.conditional:
        return scores
    agreement = (logits * (2 * domain - 1)).mean(dim=1)
    return scores + config.conditional * agreement[:, None, None, None]


def is_penalised(config: LossConfig, step: int) -> bool:
    """Return whether D's loss at `step` has a gradient penalty."""
    return bool(config.gradient_penalty) and step % config.gradient_penalty_every == 0


def gradient_penalty(scores: Tensor, image: Tensor) -> Tensor:
    """Return R1: the squared norm of the gradient of D's averaged map at `image` [B, 3, h, w], a mean over B.

    The gradient keeps its graph, so the penalty can be minimised (Mescheder et al. 2018, eq. 9).
    """
    (gradient,) = torch.autograd.grad(scores.float().mean((1, 2, 3)).sum(), image, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


def domain_loss(logits: Tensor, domain: Tensor, kind: str, weights: Tensor | None = None) -> Tensor:
    """Return the classification loss of logits [B, n] against domains [B, n] in {0, 1}.

    Independent attributes take binary cross-entropy, each times its weight if there are `weights` [n]; one-hot
    domains softmax cross-entropy.
    """
    if kind == "one-hot":
        return F.cross_entropy(logits.float(), domain.argmax(dim=1))
    return F.binary_cross_entropy_with_logits(logits.float(), domain.float(), weights)


def discriminator_loss(
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    domain: Tensor,
    target: Tensor,
    config: LossConfig,
    kind: str,
    step: int = 0,
) -> tuple[Tensor, Parts]:
    """Return D's loss on real images with their domains and on fakes [B, 3, h, w] with their targets.

    D sees both in one forward.

    The gradient penalty is computed every `gradient_penalty_every` steps, multiplied by this number, so that its
    average over steps equals that of a penalty at every step.
    """
    every, penalised = config.gradient_penalty_every, is_penalised(config, step)
    if penalised:
        real = real.detach().requires_grad_()
    scores, logits = discriminator(torch.cat([real, fake.detach()]))
    real_logits, fake_logits = logits.chunk(2)
    plain_scores, fake_scores = scores.chunk(2)
    real_scores = conditional_scores(plain_scores, real_logits, domain, config)
    fake_scores = conditional_scores(fake_scores, fake_logits, target, config)
    parts = {
        "d_real": adversarial_loss(real_scores, real=True, config=config),
        "d_fake": adversarial_loss(fake_scores, real=False, config=config),
        "d_domain": domain_loss(real_logits, domain, kind),
    }
    total = config.adversarial * (parts["d_real"] + parts["d_fake"]) + config.domain * parts["d_domain"]
    if config.fake_domain:
        parts["d_fake_domain"] = domain_loss(fake_logits, domain, kind)
        total = total + config.domain * config.fake_domain * parts["d_fake_domain"]
    if config.mismatched:
        wrong = (target != domain).any(dim=1).float()
        refused = conditional_scores(plain_scores, real_logits, target, config)
        each = torch.stack([adversarial_loss(one, real=False, config=config) for one in refused])
        parts["d_mismatched"] = (each * wrong).mean()
        total = total + config.mismatched * parts["d_mismatched"]
    if config.gradient_penalty:
        penalty = gradient_penalty(real_scores, real) * every if penalised else real.new_zeros(())
        parts["d_penalty"] = penalty
        total = total + config.gradient_penalty / 2 * penalty
    return total, parts


def weighted_sum(parts: Parts, config: LossConfig) -> Tensor:
    """Return the sum of the parts, weighted by the weights of the same names."""
    terms = [getattr(config, name) * value for name, value in parts.items()]
    return torch.stack(terms).sum()


def appearance_loss(image: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
    """Return the distance of a translation's colours from those of its references, where the mask repaints.

    image [B, 3, H, W] and mask [B, 1, H, W] are averaged over the places of colour [B, 3, h, w], which f
    gathered from the references. The mask is a detached weight, so repainting less does not lower the loss.
    """
    side = image.shape[-1] // colour.shape[-1]
    weight = F.avg_pool2d(mask.detach().float(), side)
    return (weight * (F.avg_pool2d(image.float(), side) - colour).abs()).mean()


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> tuple[Tensor, Parts]:
    """Return max(0, margin + d(a, p) - d(a, n)), Euclidean d, on embeddings [B, retrieval_dim] (eq. 8)."""
    near = F.pairwise_distance(anchor, positive)
    far = F.pairwise_distance(anchor, negative)
    loss = F.relu(margin + near - far).mean()
    return loss, {"near": near.mean(), "far": far.mean(), "ordered": (near < far).float().mean()}


class PerceptualDistance(nn.Module):
    """Domain-invariant perceptual loss: distance of instance-normalised VGG16 relu5_3 features."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torchvision.models import vgg16

        network = vgg16()
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.layers = network.features[:30].eval().requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the mean squared distance between the features of a and b [B, 3, h, w] in [-1, 1]."""
        return F.mse_loss(self._features(a), self._features(b))

    def _features(self, image: Tensor) -> Tensor:
        return instance_norm(self.layers(((image + 1) / 2 - self.mean) / self.std))
