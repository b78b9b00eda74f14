"""The metrics of `results.json`: name, direction, and how values are printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = ["METRICS", "RETRIEVAL", "TRANSLATION", "Metric", "named_metrics", "title_of"]


@dataclass(frozen=True)
class Metric:
    """A metric: its key in `results.json`, its name, its direction, and the scale, digits and unit in print.

    `per_image` metrics are means over images; `drawn_only` ones need the true counterfactuals of drawn faces.
    """

    key: str
    name: str
    lower_is_better: bool = False
    scale: float = 1.0
    digits: int = 3
    unit: str = ""
    per_image: bool = True
    drawn_only: bool = False

    @property
    def arrow(self) -> str:
        return "↓" if self.lower_is_better else "↑"

    @property
    def direction(self) -> Literal["min", "max"]:
        return "min" if self.lower_is_better else "max"

    @property
    def title(self) -> str:
        """The name with the unit, as at the head of a column."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def number(self, value: float) -> str:
        """Return a value in print, without its unit."""
        return f"{value * self.scale:.{self.digits}f}"

    def difference(self, value: float) -> str:
        """Return a difference of two values in print, with its sign and one more digit."""
        return f"{value * self.scale:+.{self.digits + 1}f}"

    def text(self, row: Mapping[str, Any]) -> str:
        """Return a row's value with its spread over the evaluation seeds and its unit."""
        spread = row.get(f"{self.key}_spread")
        known = "" if spread is None else f" ± {self.number(spread)}"
        unit = f"\N{NO-BREAK SPACE}{self.unit}" if self.unit else ""
        return f"{self.number(row[self.key])}{known}{unit}"


TRANSLATION = (
    Metric("kid", "KID", True, 1000, 2, per_image=False),
    Metric("fid", "FID", True, 1, 2, per_image=False),
    Metric("is", "IS", digits=3, per_image=False),
    Metric("acc", "ACC", scale=100, digits=1, unit="%"),
    Metric("acc_changed", "ACC of changed attributes", scale=100, digits=1, unit="%"),
    Metric("edit", "edit error", True, digits=4, drawn_only=True),
    Metric("keep", "keep error", True, digits=4, drawn_only=True),
    Metric("diversity", "diversity", digits=4),
    Metric("counterfactual", "counterfactual distance", True, digits=4, drawn_only=True),
    Metric("content_kept", "content kept", scale=100, digits=1, unit="%"),
)
"""The metrics of a translation, in the order of tables; KID stands first."""

RETRIEVAL = (
    Metric("p10_attributes", "P@10 attributes"),
    Metric("p10_content", "P@10 content"),
    Metric("p10_average", "P@10 average"),
)
"""The metrics of retrieval."""

METRICS = {metric.key: metric for metric in (*TRANSLATION, *RETRIEVAL)}
"""All metrics by key."""


def named_metrics(results: Mapping[str, Any]) -> dict[str, Metric]:
    """Return `METRICS` named as the protocol of the results names them, after the features that they use.

    KID is printed times 1,000, and says so, unless a value is 1 or more.
    """
    names = results.get("protocol", {}).get("names", {})
    metrics = {key: replace(metric, name=names.get(key, metric.name)) for key, metric in METRICS.items()}
    rows = results.get("tables", {}).get("translation", [])
    kid = metrics["kid"]
    if any(row.get("kid") is not None and row["kid"] >= 1 for row in rows):  # untrained, or other features
        return metrics | {"kid": replace(kid, scale=1.0)}
    return metrics | {"kid": replace(kid, name=f"{kid.name} ×{kid.scale:.0f}")}


def title_of(ours: str, other: str) -> str:
    """Return the name of the comparison of two models."""
    return f"{ours} − {other}"
