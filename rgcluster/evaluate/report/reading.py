"""The results of a run in plain sentences, computed from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rgcluster.evaluate.metrics.catalogue import METRICS, Metric, named_metrics, title_of
from rgcluster.evaluate.report.tables import MODEL_NAMES

__all__ = ["Comparison", "compare", "counted", "inflated_inception", "limits", "reading"]

Results = Mapping[str, Any]

COMPARED = ("kid", "acc", "edit", "keep", "counterfactual", "diversity")
"""The metrics on which two translators are compared in a sentence."""

NO_INTERVALS = "these results hold no intervals; remove `evaluation/` and run `rgcluster evaluate` again"

LOOKS = 2.0
"""Below this mean change of the pictures, of 255, the network hardly uses its neighbours."""


@dataclass(frozen=True)
class Comparison:
    """One metric of one model against another's: the verdict, and the numbers as text."""

    metric: Metric
    verdict: Literal["better", "worse", "no difference", "not judged"]
    numbers: str


def compare(results: Results, kind: str, ours: str, other: str, metric: Metric) -> Comparison | None:
    """Compare two models of a table, `translation` or `retrieval`; None where a value is missing.

    The verdict is that of the interval in `differences`, with Holm's correction; results without one are not judged.
    """
    key = "model" if kind == "translation" else "negatives"
    rows = {row[key]: row for row in results["tables"][kind]}
    if any(rows[name].get(metric.key) is None for name in (ours, other)):
        return None
    numbers = f"{metric.text(rows[ours])} against {metric.text(rows[other])}"
    verdicts = [
        record["verdict"]
        for record in results.get("differences", ())
        if (record["comparison"], record["metric"]) == (title_of(ours, other), metric.key)
    ]
    return Comparison(metric, verdicts[0] if verdicts else "not judged", numbers)


def reading(results: Results) -> list[str]:
    """Return sentences on retrieval against none, nearest against random neighbours, and the negatives."""
    models = {row["model"] for row in results.get("tables", {}).get("translation", [])}
    return [
        *_against_baseline(results, models),
        *_against_random(results, models),
        *_use_of_retrieval(results.get("probe")),
        *_negatives(results),
        *inflated_inception(results),
    ]


def inflated_inception(results: Results) -> list[str]:
    """Return a sentence on the models whose IS is above that of real images, where it no longer means quality."""
    rows = {row["model"]: row for row in results.get("tables", {}).get("translation", [])}
    real = rows.get("real", {}).get("is")
    if real is None:
        return []
    above = [
        f"{MODEL_NAMES.get(name, name)} ({row['is']:.3f})"
        for name, row in rows.items()
        if name not in ("identity", "truth", "real") and row.get("is") is not None and row["is"] > real
    ]
    if not above:
        return []
    name = named_metrics(results)["is"].name
    return [
        f"{name} is meaningless for {_listed(above)}. It is above that of real images ({real:.3f}), so a higher value "
        "no longer means more realistic images; read KID and ACC of changed attributes instead."
    ]


def _against_baseline(results: Results, models: set[str]) -> list[str]:
    if "rg-unit" not in models:
        return ["RG-UNIT was not measured, so these results say nothing about retrieval."]
    if "gmm-unit-continued" not in models:
        return [
            "It is unknown whether retrieval helps: GMM-UNIT was not continued without retrieval (add "
            "gmm-unit-continued to guidance.variants), so further training alone may explain a difference."
        ]
    judged = _judged(results, "gmm-unit-continued")
    lead = "RG-UNIT against GMM-UNIT continued for the same number of steps without retrieval"
    return [f"{_baseline_verdict(judged)} {lead}: {_list_verdicts(judged)}."] if judged else []


def _baseline_verdict(judged: Sequence[Comparison]) -> str:
    better, worse = _named(judged, "better"), _named(judged, "worse")
    if all(item.verdict == "not judged" for item in judged):
        return f"It is not judged whether retrieval helps: {NO_INTERVALS}."
    if better and worse:
        return f"Retrieval is a trade in this run: better on {better}, worse on {worse}."
    if better:
        return f"Retrieval helps in this run: better on {better}."
    if worse:
        return f"Retrieval does not help in this run: better on nothing, worse on {worse}."
    return "Retrieval does not help in this run: no interval of a difference leaves zero out."


def _against_random(results: Results, models: set[str]) -> list[str]:
    if not {"rg-unit", "rg-unit-random"} <= models:
        return []
    judged = _judged(results, "rg-unit-random")
    if not judged:
        return []
    return [f"{_random_verdict(judged)} Nearest against random: {_list_verdicts(judged)}."]


def _random_verdict(judged: Sequence[Comparison]) -> str:
    better, worse = _named(judged, "better"), _named(judged, "worse")
    if all(item.verdict == "not judged" for item in judged):
        return "It is not judged either whether nearest neighbours guide better than random ones."
    if better and worse:
        return f"Nearest neighbours guide better than random ones on {better} and worse on {worse}."
    if better:
        return f"Nearest neighbours guide better than random ones on {better}."
    if worse:
        return f"Nearest neighbours guide no better than random ones, and worse on {worse}."
    return "Nearest neighbours guide no better than random ones."


def _use_of_retrieval(probe: Mapping[str, Any] | None) -> list[str]:
    """Return a sentence on whether the network uses its neighbours, which need not improve the results."""
    if not probe:
        return []
    random, none = probe["swap"]["random"], probe["swap"]["none"]
    numbers = (
        f"In the edit region, replacing the nearest images by random ones changes its pictures by {random:.1f} of 255 "
        f"on average, removing them by {none:.1f}."
    )
    used = "RG-UNIT uses its neighbours" if random >= LOOKS else "RG-UNIT hardly uses its neighbours"
    return [f"{used}. {numbers}"]


def _negatives(results: Results) -> list[str]:
    rows = {row["negatives"] for row in results.get("tables", {}).get("retrieval", [])}
    best = next((name for name in ("all", "hard", "medium", "easy") if name in rows), "")
    pairs = [(ours, other) for ours, other in ((best, "random"), ("all", "easy")) if {ours, other} <= rows]
    metric = METRICS["p10_attributes"]
    judged = [(*pair, compare(results, "retrieval", *pair, metric)) for pair in pairs]
    return [_precision(item, ours, other) for ours, other, item in judged if item]


def _precision(item: Comparison, ours: str, other: str) -> str:
    kinds = "all kinds of" if ours == "all" else ours
    against = "random images" if other == "random" else "one trained with easy negatives alone"
    show = " show them" if other == "random" else ""
    how = {
        "better": f"finds the target attributes more often than {against}{show}",
        "worse": f"finds the target attributes less often than {against}{show}",
        "no difference": f"finds the target attributes as often as {against}{show}, as far as these queries tell",
        "not judged": f"is not judged against {against}: {NO_INTERVALS}",
    }[item.verdict]
    return f"A retrieval network trained with {kinds} negatives {how}. P@10 is {item.numbers}."


def limits(results: Results) -> list[str]:
    """Return the limits of the numbers: other data, one training seed, missing FID, other features."""
    rows = results.get("tables", {}).get("translation", [])
    protocol = results.get("protocol", {})
    names = protocol.get("names", {})
    extractor = protocol.get("extractor", {}).get("name", "an unknown extractor")
    size = protocol.get("image_size")
    drawn = protocol.get("drawn_faces")
    data = "drawn faces" if drawn else "the data set of this run"
    apart = "do not compare" if drawn else "compare only as far as data and protocol are the same"
    seeds = len(protocol.get("seeds", []))
    notes = [
        f"The paper's numbers are for photographs (CelebA) at 128 pixels, ours for {data}"
        f"{f' at {size} pixels' if size else ''}: they are shown side by side but {apart}.",
        f"Every model was trained once, from one training seed: spreads cover {counted(seeds, 'evaluation seed')} and "
        "verdicts the test images only, so another training seed could reverse a small difference.",
    ]
    reasons = sorted({row["fid_note"] for row in rows if row.get("fid") is None and row.get("fid_note")})
    if reasons:
        notes.append(
            f"FID is missing: {'; '.join(reasons).replace(': ', ', and ')}. KID is shown in its place."
        )
    kid = names.get("kid", "KID")
    if extractor in kid:
        notes.append(
            f"{kid} and {names.get('is', 'IS')} are computed on the features of {extractor}, not of the "
            "Inception network that the paper's FID and IS use."
        )
    else:
        notes.append(f"KID, FID and IS are computed with {extractor}.")
    return notes


def _judged(results: Results, other: str) -> list[Comparison]:
    named = named_metrics(results)
    found = (compare(results, "translation", "rg-unit", other, named[key]) for key in COMPARED)
    return [item for item in found if item is not None]


def _named(judged: Sequence[Comparison], verdict: str) -> str:
    return _listed([item.metric.name.removesuffix(" ×1000") for item in judged if item.verdict == verdict])


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _list_verdicts(judged: Sequence[Comparison]) -> str:
    return "; ".join(f"{item.metric.name} {item.verdict} ({item.numbers})" for item in judged)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, e.g. `3 evaluation seeds`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
