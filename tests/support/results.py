"""A made-up `results.json` of equal models."""

from __future__ import annotations

from typing import Any

from rgcluster.evaluate.measure.differences import AGAINST, NEGATIVES_AGAINST
from rgcluster.evaluate.metrics.catalogue import RETRIEVAL, TRANSLATION, title_of

DOMAINS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")


MODELS = ("identity", "gmm-unit", "gmm-unit-continued", "rg-unit-random", "rg-unit")


def translation_row(model: str, spread: float | None = 0.001, **values: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": model, "steps": 22, "retrieval_count": 3, "data_fraction": 1.0,
        "acc_per_attribute": dict.fromkeys(DOMAINS, 0.9),
        "acc_changed_per_attribute": dict.fromkeys(DOMAINS, 0.8), "fid": None,
        "fid_note": "48 images: below 2,048 FID mostly measures their number",
    }  # fmt: skip
    numbers = {
        "kid": 0.01,
        "is": 2.5,
        "acc": 0.9,
        "diversity": 0.02,
        "counterfactual": 0.07,
        "acc_changed": 0.8,
        "edit": 0.12,
        "keep": 0.02,
        "content_kept": 0.95,
    }
    for key, value in (numbers | values).items():
        row |= {key: value, f"{key}_spread": spread}
    return row


def made_results(spread: float | None = 0.001, **values: Any) -> dict[str, Any]:
    """Equal models, but for `values` of rg-unit; with a spread, differences beyond twice of it have a verdict."""
    rows = [translation_row(name, spread) for name in MODELS[:-1]] + [
        translation_row("rg-unit", spread, **values)
    ]
    real = {"model": "real", "acc": 0.97, "acc_per_attribute": dict.fromkeys(DOMAINS, 0.97), "is": 3.0}
    precision = {"random": 0.6, "easy": 0.7, "medium": 0.72, "hard": 0.8, "all": 0.9}
    found = [
        {
            "negatives": name, "p10_attributes": value, "p10_attributes_spread": spread, "p10_content": None,
            "p10_average": None, "p10_content_note": "no attributes beyond the domain's",
            "p10_per_attribute": dict.fromkeys(DOMAINS, value),
        }
        for name, value in precision.items()
    ]  # fmt: skip
    kid = "KID (efficientnet-lite0)"
    return {
        "protocol": {
            "extractor": {"name": "efficientnet-lite0"},
            "names": {"kid": kid, "fid": "FID (efficientnet-lite0)", "is": "IS (efficientnet-lite0)"},
            "image_size": 32, "gallery": 144, "test_images": 16, "seeds": [0, 1, 2], "drawn_faces": True,
            "versions": {"ray": "2.60.0"},
        },
        "tables": {"translation": [*rows, real], "retrieval": found},
        "differences": _differences([*rows, *found], 2 * spread) if spread else [],
    }  # fmt: skip


def _differences(rows: list[dict[str, Any]], reach: float) -> list[dict[str, Any]]:
    by_name = {row.get("model", row.get("negatives")): row for row in rows}
    pairs = [("rg-unit", other, TRANSLATION) for other in AGAINST]
    pairs += [(ours, other, RETRIEVAL) for ours, others in NEGATIVES_AGAINST.items() for other in others]
    records = []
    for ours, other, metrics in pairs:
        for metric in metrics:
            a, b = by_name[ours].get(metric.key), by_name[other].get(metric.key)
            if a is None or b is None:
                continue
            verdict = "better" if (a < b) == metric.lower_is_better else "worse"
            record = {"comparison": title_of(ours, other), "metric": metric.key, "difference": a - b}
            records.append({**record, "verdict": verdict if abs(a - b) > reach else "no difference"})
    return records


def made_probe(random: float) -> dict[str, Any]:
    """What a probe finds where random neighbours change the pictures by so many levels of 255."""
    return {
        "images": 128,
        "swap": {"random": random, "other_domain": 2 * random, "none": random / 2},
        "contribution": [random / 4, random / 5, random / 6],
        "oracle": {"edit": 0.08, "edit_nearest": 0.09, "edit_without": 0.11, "edit_identity": 0.18},
        "content": {"retrieval": 0.77, "random_in_domain": 0.73, "pixels": 0.75, "labels": 0.86},
    }
