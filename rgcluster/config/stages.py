"""The three stages of training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rgcluster.config.losses import LossConfig
from rgcluster.config.section import NotInDigest, Section

__all__ = ["GuidanceConfig", "OptimizerConfig", "RetrievalConfig", "StageConfig", "TranslationConfig"]

Negative = Literal["easy", "medium", "hard", "all"]
Variant = Literal["gmm-unit-continued", "rg-unit-random", "rg-unit"]


class OptimizerConfig(Section):
    """Adam, its rate halved every `halve_every` steps (0: never), or along half a cosine.

    The rate is `learning_rate` for a batch of `rate_of_batch` (0: for whatever batch), and follows the batch
    by `rate_rule`: as its square root, in proportion, or not at all.
    """

    learning_rate: float = Field(1e-4, gt=0)
    rate_of_batch: int = Field(0, ge=0)
    rate_rule: Literal["sqrt", "linear", "none"] = "sqrt"
    betas: tuple[float, float] = (0.5, 0.999)
    halve_every: int = Field(200_000, ge=0)
    schedule: Literal["halving", "cosine"] = "halving"
    """`cosine`: from the full rate to a twentieth of it at the stage's last step."""
    gradient_clip: float = Field(0.0, ge=0, description="largest gradient norm, 0: no clipping")


class StageConfig(Section):
    """What every stage has."""

    steps: int = Field(..., ge=1)
    batch_size: int = Field(..., ge=1, description="over all workers")
    report_every: Annotated[int, NotInDigest] = Field(
        25, ge=1, description="steps between lines of metrics.jsonl"
    )
    checkpoint_every: Annotated[int, NotInDigest] = Field(500, ge=1)
    checkpoint_keep: Annotated[int, NotInDigest] = Field(
        2, ge=1, description="newest checkpoints that are kept"
    )
    checkpoint_best: Annotated[str, NotInDigest] = Field(
        "",
        description="a loss in metrics.jsonl, total or rg-unit/total, whose best checkpoint is kept, too",
    )
    checkpoint_order: Annotated[Literal["min", "max"], NotInDigest] = "min"
    sample_every: Annotated[int, NotInDigest] = Field(500, ge=1)
    accumulate: Annotated[int, NotInDigest] = Field(
        1, ge=1, description="pieces in which a worker takes its part of a batch"
    )
    loss_limit: Annotated[float, NotInDigest] = Field(
        1e6, gt=0, description="a larger loss stops the training"
    )


class TranslationConfig(StageConfig):
    """Stage 1: GMM-UNIT.

    The mask M comes into force between the steps `attention_from` and `attention_full`: before, G paints
    the whole image. From the start, G may settle on M = 0, the input unchanged, which reconstruction and
    cycle reward.
    """

    steps: int = Field(400_000, ge=1)
    batch_size: int = Field(1, ge=1)
    attention_from: int = Field(0, ge=0)
    attention_full: int = Field(0, ge=0)
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    ema: float = Field(0.999, ge=0, lt=1)
    ema_ramp: bool = False
    """Start with a shorter average, min(ema, (1 + step) / (10 + step)), which forgets the first networks."""

    @model_validator(mode="after")
    def _ordered(self) -> TranslationConfig:
        if 0 < self.attention_full < self.attention_from:
            raise ValueError(
                f"attention_full {self.attention_full} comes before attention_from {self.attention_from}"
            )
        return self


class RetrievalConfig(StageConfig):
    """Stage 2: the retrieval network R on generated triplets (eq. 8)."""

    steps: int = Field(40_000, ge=1)
    batch_size: int = Field(32, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.01, betas=(0.9, 0.999), halve_every=10_000)
    kind: Literal["sgd", "adam"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    margin: float = Field(0.2, gt=0)
    negatives: tuple[Negative, ...] = ("all",)
    """One network is trained for each; stage 3 uses the last."""
    easy_style: Literal["own", "target", "either"] = "own"
    """The style of an easy negative, a real image of another domain: its own, as in the paper; the anchor's, so that
    it differs in content alone, as in the other easy triplet of the 2021 code; or either, by chance."""
    generators: Annotated[int, NotInDigest] = Field(1, ge=1, description="actors that generate triplets")

    @model_validator(mode="after")
    def _distinct(self) -> RetrievalConfig:
        if not self.negatives or len(set(self.negatives)) != len(self.negatives):
            raise ValueError("negatives must name at least one kind, each once")
        return self


class GuidanceConfig(StageConfig):
    """Stage 3: the translator guided by neighbours from the store."""

    steps: int = Field(100_000, ge=1)
    batch_size: int = Field(1, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    ema: float = Field(0.999, ge=0, lt=1)
    ema_ramp: bool = False
    """Start with a shorter average, min(ema, (1 + step) / (10 + step)), which forgets the first networks."""
    retrieval_count: int = Field(3, ge=1, description="M, the neighbours of a query")
    exclude_self: bool = True
    fusion_rate: float = Field(1.0, gt=0, description="learning rate of f, in multiples of the others'")
    own_references: Literal["retrieved", "itself"] = "retrieved"
    """What guides reconstruction and cycle, whose result is the image itself: its neighbours, as in the paper,
    or the image itself, shifted and sometimes mirrored. It shows what the style does not carry, so f learns to
    look."""
    mask_contrast: float = Field(
        1.0, gt=0, description="what the logits of stage 1's mask are multiplied with at the start"
    )
    """With a half open mask G paints what cancels the old colour, and a haze of both remains. Not in the paper."""
    fuse_cycle: bool = True
    """Fuse retrieved content into the cycle's outer pass too (2021 code), or not (eq. 5)."""
    variants: tuple[Variant, ...] = ("rg-unit",)
    """Trained side by side on the same batches; `rg-unit` must be among them."""

    @model_validator(mode="after")
    def _guided(self) -> GuidanceConfig:
        if "rg-unit" not in self.variants:
            raise ValueError("variants must contain 'rg-unit'")
        return self
