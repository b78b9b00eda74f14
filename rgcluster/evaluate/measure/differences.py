"""The differences between models of a run or a table, with intervals, p-values and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rgcluster.evaluate.measure.reference import Reference
from rgcluster.evaluate.metrics.catalogue import RETRIEVAL, TRANSLATION, Metric, title_of
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

__all__ = [
    "AGAINST",
    "NEGATIVES_AGAINST",
    "Terms",
    "judged",
    "precision_differences",
    "run_differences",
    "translation_differences",
]

AGAINST = ("gmm-unit-continued", "rg-unit-random")
"""The translators with which the report of a run compares RG-UNIT."""
NEGATIVES_AGAINST = {
    "all": ("easy", "random"),
    "hard": ("random",),
    "medium": ("random",),
    "easy": ("random",),
}
"""For each retrieval network, those with which the report of a run compares it."""


Terms = Sequence[tuple[float, Images]]
"""Coefficients and models; a plain difference is (1, ours), (-1, the other)."""


def run_differences(
    models: Mapping[str, Images], queries: Images, reference: Reference, num_test: int, *, drawn: bool
) -> list[dict[str, Any]]:
    """Return the judged differences of one run: of RG-UNIT, and of the retrieval networks' P@10.

    `models` has the measurements of each translator, `queries` those of the retrieval networks.
    """
    records = []
    for other in AGAINST:
        if "rg-unit" in models and other in models:
            terms = [[(1.0, models["rg-unit"]), (-1.0, models[other])]]
            title = title_of("rg-unit", other)
            records += translation_differences(title, terms, reference, num_test, drawn=drawn)
    for ours, others in NEGATIVES_AGAINST.items():
        for other in others:
            records += precision_differences(ours, other, [queries], num_test)
    return judged(records)


def translation_differences(
    title: str, seeds: Sequence[Terms], reference: Reference, num_test: int, *, drawn: bool
) -> list[dict[str, Any]]:
    """Return the records of one comparison of translators: KID, IS, ACC and the other measured metrics.

    FID has no record, because resampled images appear twice, which raises it.
    """
    statistics: dict[str, Statistic] = {"kid": kernel(reference.features), "is": inception}
    statistics |= {metric.key: mean(metric.key) for metric in TRANSLATION if metric.per_image}
    return [
        _record(title, metric, contrast(seeds, statistics[metric.key], num_test))
        for metric in TRANSLATION
        if metric.key in statistics and (drawn or not metric.drawn_only) and _measured(seeds, metric)
    ]


def precision_differences(
    ours: str, other: str, seeds: Sequence[Images], num_test: int
) -> list[dict[str, Any]]:
    """Return the records of one retrieval network against another, from the shares of each query."""
    records = []
    for metric in RETRIEVAL:
        key = metric.key
        if any(f"{name}/{key}" not in queries for queries in seeds for name in (ours, other)):
            continue
        terms = [
            [
                (sign, {"row": queries["row"], key: queries[f"{name}/{key}"]})
                for sign, name in _signs(ours, other)
            ]
            for queries in seeds
        ]
        interval = contrast(terms, mean(key), num_test)
        records.append(_record(title_of(ours, other), metric, interval))
    return records


def _signs(ours: str, other: str) -> list[tuple[float, str]]:
    return [(1.0, ours), (-1.0, other)]


def _measured(seeds: Sequence[Terms], metric: Metric) -> bool:
    """Return whether every model has a value for at least one image."""
    if not metric.per_image:
        return True
    return all(not np.isnan(images[metric.key]).all() for terms in seeds for _, images in terms)


def judged(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a table's records with `p_holm`, corrected over all records, and the resulting `verdict`."""
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
