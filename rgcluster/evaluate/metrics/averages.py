"""Means and standard deviations of results over seeds; None is left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["averaged", "deviation", "mean"]


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the known values; None where there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def deviation(values: Sequence[float | None]) -> float | None:
    """Return the sample standard deviation of the known values; None for fewer than two."""
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def averaged(rows: Sequence[Mapping[str, Any]], suffix: str, same: Collection[str] = ()) -> dict[str, Any]:
    """Return one row: the mean of every number, and its deviation under the key with `suffix`.

    Dictionaries are averaged by key. Spreads are averaged without a deviation of their own. Keys in `same`,
    and those whose first value is no float, are taken from the first row.
    """
    row: dict[str, Any] = {}
    for key, first in rows[0].items():
        values: list[Any] = [other.get(key) for other in rows]
        spread: Any
        if isinstance(first, dict):
            by_name = {name: [value[name] for value in values] for name in first}
            row[key] = {name: mean(column) for name, column in by_name.items()}
            spread = {name: deviation(column) for name, column in by_name.items()}
        elif isinstance(first, float) and key not in same:
            row[key], spread = mean(values), deviation(values)
        else:
            row[key] = first
            continue
        if not key.endswith("_spread"):
            row[f"{key}{suffix}"] = spread
    return row
