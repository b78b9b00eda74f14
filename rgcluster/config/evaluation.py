"""What is measured, on how many images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rgcluster.config.section import Section

__all__ = ["EvaluationConfig"]


class EvaluationConfig(Section):
    """Counts and seeds of section 4.1."""

    images: int = Field(10_000, ge=4, description="translations for FID, KID, IS and ACC")
    counterfactuals: int = Field(1000, ge=0, description="translations held against drawn counterfactuals")
    diversity_inputs: int = Field(100, ge=1)
    diversity_samples: int = Field(10, ge=2)
    queries: int = Field(2000, ge=1, description="for P@10")
    seeds: tuple[int, ...] = (0, 1, 2)
    classifier_steps: int = Field(2000, ge=1)
    extractor: Literal["auto", "inception-v3-compat", "efficientnet-lite0"] = "auto"
    perceptual: Literal["auto", "lpips-alex", "lpips-vgg", "efficientnet-lite0"] = "auto"
    """What diversity is measured with; `auto`: LPIPS on AlexNet where its weights are found."""
    figure_rows: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _distinct(self) -> EvaluationConfig:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must name at least one, each once: a repeated one measures nothing new")
        return self
