"""Workers, devices and kernels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rgcluster.config.section import Section

__all__ = ["ClusterConfig"]


class ClusterConfig(Section):
    """How the work is laid over the machines."""

    workers: int = Field(0, ge=0, description="Ray Train workers, 0: one per GPU, or one on CPUs")
    min_workers: int = Field(
        0, ge=0, description="fewer workers do while machines are missing; 0: always as many"
    )
    threads: int = Field(0, ge=0, description="torch threads per worker, 0: the cores divided by the workers")
    gpu: Literal["auto", "never", "always"] = "auto"
    """`auto`: where the cluster has some; `always`: nothing starts without."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    layout: Literal["auto", "contiguous", "channels-last"] = "auto"
    convolutions: Literal["auto", "direct", "winograd"] = "auto"
    """How 3x3 convolutions are computed; `auto` is Winograd's on a CPU in fp32 from 128 channels on."""
    compile: Literal["auto", "never", "always"] = "auto"
    """Whether torch compiles the networks, each on its own; `auto` does so on a GPU."""
    max_failures: int = Field(3, ge=0, description="worker failures a stage survives")
    collective_timeout_s: int = Field(600, gt=0, description="longest wait of a worker for the others")
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Where losses go besides `metrics.jsonl`; the last two are extras to install."""

    @model_validator(mode="after")
    def _elastic(self) -> ClusterConfig:
        if self.min_workers and not self.workers:
            raise ValueError("min_workers needs workers, the most there may be")
        if self.min_workers > max(self.workers, 1):
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}")
        return self
