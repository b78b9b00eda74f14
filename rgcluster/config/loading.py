"""The presets that come with the package, and changes of single keys."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from rgcluster.config.config import Config
from rgcluster.config.text import assign, parse_override, parse_yaml
from rgcluster.config.validation import AnySection, meant, validated
from rgcluster.errors import ConfigError

__all__ = ["load_config", "overridden", "presets", "with_values"]


def presets() -> list[str]:
    """Return the names of the presets that come with the package."""
    folder = resources.files("rgcluster") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_config(preset: str, overrides: Iterable[str] = ()) -> Config:
    """Return preset `preset` with `section.key=value` overrides on top; ConfigError names the fault."""
    names = presets()
    if preset not in names:
        raise ConfigError(f"no preset {preset!r}{meant(preset, names)}; there are {', '.join(names)}")
    text = (resources.files("rgcluster") / "presets" / f"{preset}.yaml").read_text()
    tree = parse_yaml(text, f"preset {preset}")
    tree["preset"] = preset
    return overridden(Config, tree, overrides, f"preset {preset}")


def overridden(
    model: type[AnySection], tree: Mapping[str, Any], overrides: Iterable[str], source: str
) -> AnySection:
    """Return the section that `tree` describes, with `section.key=value` overrides on top."""
    changed = copy.deepcopy(dict(tree))
    for override in (overrides := list(overrides)):
        assign(changed, *parse_override(override))
    return validated(model, changed, "--set" if overrides else source)


def with_values(config: Config, values: Mapping[str, Any], source: str = "--set") -> Config:
    """Return the configuration with `section.key` values in place of its own; ConfigError names the fault."""
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        assign(tree, key, value)
    return validated(Config, tree, source)
