"""The whole configuration of a run."""

from __future__ import annotations

import yaml
from pydantic import model_validator

from rgcluster.base.storage import digest_json
from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.config.cluster import ClusterConfig
from rgcluster.config.data import DataConfig, FacesConfig
from rgcluster.config.evaluation import EvaluationConfig
from rgcluster.config.model import ModelConfig
from rgcluster.config.section import NotInDigest, Section, all_fields
from rgcluster.config.stages import GuidanceConfig, RetrievalConfig, TranslationConfig
from rgcluster.config.store import StoreConfig
from rgcluster.config.text import parse_yaml
from rgcluster.config.validation import validated

__all__ = ["Config", "keys_outside_digest"]


class Config(Section):
    """Everything that a run depends on."""

    preset: str = "paper"
    seed: int = 0
    faces: FacesConfig = FacesConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    translation: TranslationConfig = TranslationConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    store: StoreConfig = StoreConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _room_for_content(self) -> Config:
        if self.model.retrieval == "split" and self.model.retrieval_dim <= self.style_size:
            raise ValueError(
                f"model.retrieval_dim {self.model.retrieval_dim} leaves no room for the content beside "
                f"{self.style_size} numbers of style"
            )
        return self

    @model_validator(mode="after")
    def _effective_losses(self) -> Config:
        """Refuse a weight that nothing would be multiplied with."""
        if self.translation.loss.appearance:
            raise ValueError(
                "translation.loss.appearance has no effect: stage 1 has no references; set guidance.loss.appearance"
            )
        if self.model.retrieval_colour_weight != 1 and not self.model.retrieval_colours:
            raise ValueError(
                "model.retrieval_colour_weight has no effect with model.retrieval_colours = 0; set that, too"
            )
        guidance = self.guidance
        if guidance.loss.appearance and self.model.fusion != "attention":
            raise ValueError(
                f"guidance.loss.appearance = {guidance.loss.appearance:g} has no effect with model.fusion = "
                f"{self.model.fusion}; set model.fusion=attention, or guidance.loss.appearance=0"
            )
        if self.model.attention:
            self._mask_in_force()
        else:
            self._no_mask()
        for stage, loss in (("translation", self.translation.loss), ("guidance", guidance.loss)):
            for name in loss.domain_of:
                # A preset weighs attributes of CelebA that a run may not translate.
                if name not in self.data.attributes and name not in CELEBA_ATTRIBUTES:
                    raise ValueError(
                        f"{stage}.loss.domain_of names '{name}', which is neither one of data.attributes "
                        f"({', '.join(self.data.attributes)}) nor one of CelebA's"
                    )
            if loss.pasted and loss.cycle_form != "back-translation":
                raise ValueError(
                    f"{stage}.loss.pasted = {loss.pasted:g} has no effect with {stage}.loss.cycle_form = "
                    f"{loss.cycle_form}; set back-translation, or {stage}.loss.pasted=0"
                )
        return self

    def _mask_in_force(self) -> None:
        """Refuse a stage 1 that ends before its mask is in force, which the later stages rely on."""
        stage = self.translation
        full = max(stage.attention_full, stage.attention_from + 1)
        if full > stage.steps:
            raise ValueError(
                f"translation.attention_from = {stage.attention_from} and attention_full = {stage.attention_full}: the "
                f"mask is not in force after translation.steps = {stage.steps}, and later stages rely on it; "
                f"set translation.attention_from={stage.steps * 35 // 100} and "
                f"translation.attention_full={stage.steps * 37 // 100}, or train longer"
            )

    def _no_mask(self) -> None:
        """Refuse what works through the mask, all at once."""
        set_here = {
            "model.mask_bias": (self.model.mask_bias, 0),
            "translation.loss.mask": (self.translation.loss.mask, 0),
            "translation.loss.pasted": (self.translation.loss.pasted, 0),
            "guidance.mask_contrast": (self.guidance.mask_contrast, 1),
            "guidance.loss.mask": (self.guidance.loss.mask, 0),
            "guidance.loss.pasted": (self.guidance.loss.pasted, 0),
        }
        useless = [f"{key}={without}" for key, (value, without) in set_here.items() if value != without]
        if useless:
            raise ValueError(
                "with model.attention = false G has no mask, and what works through it has no effect; set "
                f"{', '.join(useless)}"
            )

    @property
    def num_attributes(self) -> int:
        return len(self.data.attributes)

    @property
    def style_size(self) -> int:
        """Length of a style vector: n x 8, 40 for five attributes."""
        return self.num_attributes * self.model.style_dim

    @property
    def embedding_size(self) -> int:
        """Length of what R embeds, and the store holds: its own numbers and those of mean colours."""
        return self.model.retrieval_dim + 3 * self.model.retrieval_colours**2

    def digest(self, *sections: str) -> str:
        """Return the digest of the named sections."""
        dump = self.model_dump(mode="json")
        return digest_json({name: dump[name] for name in ("seed", *sections)})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, source: str) -> Config:
        return validated(cls, parse_yaml(text, source), source)


def keys_outside_digest() -> set[str]:
    """Return the dotted keys that are marked with `NotInDigest`."""
    return {key for key, field in all_fields(Config) if NotInDigest in field.metadata}
