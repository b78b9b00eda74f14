"""YAML files and `section.key=value` overrides as trees of keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rgcluster.errors import ConfigError

__all__ = ["assign", "parse_override", "parse_yaml", "read_yaml"]


def read_yaml(file: Path) -> dict[str, Any]:
    """Return a YAML file's tree of keys; ConfigError where it cannot be read."""
    try:
        return parse_yaml(file.read_text(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {getattr(error, 'strerror', None) or 'not a text file'}") from None


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Return the tree of keys of a YAML text; ConfigError names `source` where it has none."""
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.MarkedYAMLError as error:  # whose own text quotes the file, which may hold a key
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{source}: not valid YAML: {line}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: expected sections of keys and values")
    return tree


def parse_override(override: str) -> tuple[str, Any]:
    """Return key and value of `section.key=value`; ConfigError where it is something else."""
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected section.key=value")
    return key.strip(), _scalar(value)


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    # YAML 1.1 reads 1e-4 as a string: people who type it mean a number.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set the value of a dotted key in a tree, and the sections that it lies in."""
    *path, last = dotted.split(".")
    node = tree
    for name in path:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {dotted}: {name} is a value, not a section")
    node[last] = value
