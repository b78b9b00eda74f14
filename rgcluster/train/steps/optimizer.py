"""Optimisers whose learning rate is a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rgcluster.config import OptimizerConfig, RetrievalConfig

__all__ = ["Optimizer", "learning_rate"]


def learning_rate(config: OptimizerConfig, step: int, batch: int = 0, steps: int = 0) -> float:
    """Return the rate at `step` of `steps` for batches of `batch`, by the configured schedule.

    Where `rate_of_batch` names the batch that `learning_rate` is for, the rate follows the batch by
    `rate_rule`: "sqrt" suits Adam, whose steps do not grow with the gradient; "linear" suits SGD.
    """
    power = {"sqrt": 0.5, "linear": 1.0, "none": 0.0}[config.rate_rule]
    scale = (batch / config.rate_of_batch) ** power if config.rate_of_batch and batch else 1.0
    if config.schedule == "cosine":
        return config.learning_rate * scale * (0.525 + 0.475 * math.cos(math.pi * step / max(steps, 1)))
    halvings = step // config.halve_every if config.halve_every else 0
    return config.learning_rate * scale * 0.5**halvings


class Optimizer:
    """Adam (or SGD with momentum for R), with the rate of each step and optional clipping."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        config: OptimizerConfig,
        sgd: RetrievalConfig | None = None,
        *,
        batch: int = 0,
        steps: int = 0,
        faster: Iterable[nn.Parameter] = (),
        factor: float = 1.0,
    ) -> None:
        """Train `parameters`, and those of `faster` at `factor` times the rate."""
        self.config, self.batch, self.steps = config, batch, steps
        groups = [
            {"params": [parameter for parameter in group if parameter.requires_grad], "factor": share}
            for group, share in ((parameters, 1.0), (faster, factor))
        ]
        groups = [group for group in groups if group["params"]]
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
        if sgd is not None and sgd.kind == "sgd":
            self.inner: torch.optim.Optimizer = torch.optim.SGD(groups, config.learning_rate, sgd.momentum)
        else:
            self.inner = torch.optim.Adam(groups, config.learning_rate, config.betas, fused=True)

    def zero_grad(self) -> None:
        self.inner.zero_grad(set_to_none=True)

    def step(self, step: int) -> None:
        """Update the parameters with their gradients, at the rate of `step`."""
        for group in self.inner.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.config, step, self.batch, self.steps)
        if self.config.gradient_clip:
            nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        self.inner.step()

    def state(self) -> dict[str, dict[str, Tensor]]:
        return {str(index): values for index, values in self.inner.state_dict()["state"].items()}

    def load(self, state: dict[str, dict[str, Tensor]]) -> None:
        whole = self.inner.state_dict()
        whole["state"] = {
            int(index): {
                name: _laid_out_as(self.parameters[int(index)], value) for name, value in values.items()
            }
            for index, values in state.items()
        }
        self.inner.load_state_dict(whole)


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the parameter's strides, because fused Adam pairs elements by their place in memory."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
