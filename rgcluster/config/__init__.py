"""Typed, strict configuration: presets in YAML, `--set section.key=value` on top.

A key that is not declared here is refused, with the key that was probably meant.
"""

from rgcluster.config.cluster import ClusterConfig
from rgcluster.config.config import Config, keys_outside_digest
from rgcluster.config.data import DataConfig, FacesConfig
from rgcluster.config.evaluation import EvaluationConfig
from rgcluster.config.loading import load_config, overridden, presets, with_values
from rgcluster.config.losses import LossConfig
from rgcluster.config.model import ModelConfig
from rgcluster.config.section import Section
from rgcluster.config.stages import (
    GuidanceConfig,
    OptimizerConfig,
    RetrievalConfig,
    StageConfig,
    TranslationConfig,
)
from rgcluster.config.store import StoreConfig
from rgcluster.config.text import parse_override, read_yaml

__all__ = [
    "ClusterConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "FacesConfig",
    "GuidanceConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RetrievalConfig",
    "Section",
    "StageConfig",
    "StoreConfig",
    "TranslationConfig",
    "keys_outside_digest",
    "load_config",
    "overridden",
    "parse_override",
    "presets",
    "read_yaml",
    "with_values",
]
