"""The differences that the tables are about, with their intervals, p-values and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rgcluster.evaluate.measure.reference import Reference
from rgcluster.evaluate.metrics.intervals import (
    LEVEL,
    Images,
    Interval,
    Statistic,
    contrast,
    holm,
    inception,
    kernel,
    mean,
)

__all__ = ["Terms", "judged", "precision_differences", "translation_differences"]

Terms = Sequence[tuple[float, Images]]
"""Coefficients and models; a plain difference is (1, ours), (-1, the other)."""


@dataclass(frozen=True)
class Metric:
    """A value, which direction is better, and the statistic that it is."""

    key: str
    lower_is_better: bool
    statistic: Statistic


def translation_differences(
    title: str, seeds: Sequence[Terms], reference: Reference, num_test: int, *, drawn: bool
) -> list[dict[str, Any]]:
    """Return the records of one comparison of translators: KID, IS, ACC and what else was measured.

    FID has none: resampled images come twice, which raises FID.
    """
    metrics = [
        Metric("kid", True, kernel(reference.features)),
        Metric("is", False, inception),
        Metric("acc", False, mean("acc")),
        Metric("diversity", False, mean("diversity")),
        Metric("content_kept", False, mean("content_kept")),
    ]
    if drawn:
        metrics.insert(3, Metric("counterfactual", True, mean("counterfactual")))
        metrics.insert(4, Metric("edit", True, mean("edit")))
    return [
        _record(title, metric, contrast(seeds, metric.statistic, num_test))
        for metric in metrics
        if _measured(seeds, metric.key)
    ]


def precision_differences(
    ours: str, other: str, seeds: Sequence[Images], num_test: int
) -> list[dict[str, Any]]:
    """Return the records of one retrieval network against another, by each query's shares."""
    records = []
    for key in ("p10_attributes", "p10_content", "p10_average"):
        if any(f"{ours}/{key}" not in queries for queries in seeds):
            continue
        terms = [
            [
                (sign, {"row": queries["row"], key: queries[f"{name}/{key}"]})
                for sign, name in _signs(ours, other)
            ]
            for queries in seeds
        ]
        interval = contrast(terms, mean(key), num_test)
        records.append(_record(f"{ours} − {other}", Metric(key, False, mean(key)), interval))
    return records


def _signs(ours: str, other: str) -> list[tuple[float, str]]:
    return [(1.0, ours), (-1.0, other)]


def _measured(seeds: Sequence[Terms], key: str) -> bool:
    """Return whether every model has the value for some image."""
    if key in ("kid", "is"):
        return True
    return all((images[key] == images[key]).any() for terms in seeds for _, images in terms)


def judged(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a table's records with `p_holm`, corrected over all of them, and the `verdict` that follows from it."""
    adjusted = holm([record["p"] for record in records])
    return [
        {**record, "p_holm": p, "verdict": _verdict(record, p)}
        for record, p in zip(records, adjusted, strict=True)
    ]


def _verdict(record: dict[str, Any], p: float) -> str:
    if not p < 1 - record["level"]:
        return "no difference"
    return "better" if (record["difference"] < 0) == record["lower_is_better"] else "worse"


def _record(title: str, metric: Metric, interval: Interval) -> dict[str, Any]:
    return {
        "comparison": title,
        "metric": metric.key,
        "lower_is_better": metric.lower_is_better,
        "difference": interval.difference,
        "low": interval.low,
        "high": interval.high,
        "level": LEVEL,
        "per_training_seed": interval.per_training_seed,
        "p": interval.p,
    }
