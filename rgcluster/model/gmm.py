"""The style prior (eq. 1): one diagonal Gaussian per domain."""

from __future__ import annotations

import torch
from torch import Tensor

from rgcluster.model.networks import Posterior

__all__ = ["kl_divergence", "prior_mean", "sample_style"]


def prior_mean(domain: Tensor, style_dim: int) -> Tensor:
    """Return the component means [B, n * style_dim] of domains [B, n] in {0, 1}: 2 * d_i - 1, repeated."""
    return (2 * domain.float() - 1).repeat_interleave(style_dim, dim=1)


def sample_style(domain: Tensor, noise: Tensor, std: float) -> Tensor:
    """Return styles [B, n * style_dim] of the domains' components, from standard normal `noise` of that shape."""
    return prior_mean(domain, noise.shape[1] // domain.shape[1]) + std * noise


def kl_divergence(posterior: Posterior, domain: Tensor, std: float) -> Tensor:
    """Return KL(E_s(x) || component of x's domain), summed over the style, mean over the batch; in nats."""
    variance = std * std
    mean = prior_mean(domain, posterior.mean.shape[1] // domain.shape[1])
    squared = (posterior.mean.float() - mean).square()
    log_ratio = torch.log(torch.tensor(variance)) - posterior.log_variance.float()
    terms = log_ratio + (posterior.log_variance.float().exp() + squared) / variance - 1
    return 0.5 * terms.sum(dim=1).mean()
