"""The search space of a sweep: lists of values, and ranges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rgcluster.config import parse_override
from rgcluster.errors import ConfigError

if TYPE_CHECKING:
    from rgcluster.study.cells import Cell

__all__ = ["Axis", "cells_of", "parse_axis"]


@dataclass(frozen=True)
class Axis:
    """A key with its values, or with a range [low, high], drawn uniformly or log-uniformly."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False

    def draw(self, generator: np.random.Generator) -> Any:
        """Return one random value."""
        if self.values:
            return self.values[int(generator.integers(len(self.values)))]
        if not self.logarithmic:
            return float(generator.uniform(self.low, self.high))
        return float(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))


def parse_axis(text: str) -> Axis:
    """Return the axis of `key=1,3,10`, `key=0.1..0.9` or `key=1e-5..1e-3:log`; ConfigError for anything else."""
    key, value = text.partition("=")[::2]
    if not value:
        raise ConfigError(f"--over {text}: expected key=value,value or key=low..high")
    low, dots, high = value.partition("..")
    if not dots:
        values = tuple(parse_override(f"{key}={part}")[1] for part in value.split(","))
        if len(set(map(str, values))) != len(values):
            raise ConfigError(f"--over {text}: a value is repeated")
        return Axis(key.strip(), values)
    high, _, kind = high.partition(":")
    try:
        axis = Axis(key.strip(), (), float(low), float(high), kind == "log")
    except ValueError:
        raise ConfigError(f"--over {text}: a range is low..high, or low..high:log") from None
    if kind not in ("", "log") or not axis.low < axis.high or (axis.logarithmic and axis.low <= 0):
        raise ConfigError(f"--over {text}: a range is low..high, or low..high:log with low above 0")
    return axis


def cells_of(axes: Iterable[Axis], search: str, samples: int, seed: int) -> list[Cell]:
    """Return the distinct cells of a sweep: all combinations (`grid`), or `samples` random ones (`random`)."""
    axes = list(axes)
    if not axes:
        raise ConfigError(
            "nothing to sweep over: give --retrieval-count, --data-fraction or --over key=values"
        )
    keys = [axis.key for axis in axes]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"the sweep names {twice} twice; give all its values at once")
    if search == "grid":
        ranges = [axis.key for axis in axes if not axis.values]
        if ranges:
            raise ConfigError(
                f"a grid needs values, {ranges[0]} has a range: list values or use --search random"
            )
        return [
            dict(zip(keys, chosen, strict=True)) for chosen in itertools.product(*(a.values for a in axes))
        ]
    generator = np.random.default_rng(seed)
    drawn: dict[str, Mapping[str, Any]] = {}
    for _ in range(samples):
        cell = {axis.key: axis.draw(generator) for axis in axes}
        drawn.setdefault(str(cell), cell)
    return list(drawn.values())
