"""The catalogue of metrics: how values are named and printed, and what takes its description from there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from results import made_results

from rgcluster.errors import ConfigError
from rgcluster.evaluate.measure.differences import precision_differences, translation_differences
from rgcluster.evaluate.measure.measured import SINGLE
from rgcluster.evaluate.metrics.catalogue import METRICS, RETRIEVAL, TRANSLATION, named_metrics
from rgcluster.evaluate.report.tables import translation_columns
from rgcluster.study.sweep import SweepOptions, sweep

DRAWN_ONLY = {"edit", "keep", "counterfactual"}


def test_keys_are_unique_and_every_value_of_a_row_is_described() -> None:
    assert len(METRICS) == len(TRANSLATION) + len(RETRIEVAL)
    row = made_results()["tables"]["translation"][0]
    assert {key for key in row if f"{key}_spread" in row} | {"fid"} == {metric.key for metric in TRANSLATION}


def test_errors_and_distances_are_better_when_lower() -> None:
    lower = {key for key, metric in METRICS.items() if metric.direction == "min"}
    assert lower == {"kid", "fid", "edit", "keep", "counterfactual"}
    assert all((metric.arrow == "↓") == (key in lower) for key, metric in METRICS.items())


def test_values_differences_and_spreads_are_printed_with_scale_digits_and_unit() -> None:
    acc = METRICS["acc"]
    assert acc.title == "ACC, %" and acc.number(0.9123) == "91.2" and acc.difference(-0.01) == "-1.00"
    assert acc.text({"acc": 0.9, "acc_spread": 0.01}) == "90.0 ± 1.0\N{NO-BREAK SPACE}%"
    assert METRICS["edit"].text({"edit": 0.12, "edit_spread": None}) == "0.1200"


@pytest.mark.parametrize(
    ("kid", "title", "number"),
    [(0.01, "KID (efficientnet-lite0) ×1000", "10.00"), (2.5, "KID (efficientnet-lite0)", "2.50")],
)
def test_kid_is_printed_times_a_thousand_unless_it_is_large(kid: float, title: str, number: str) -> None:
    metric = named_metrics(made_results(kid=kid))["kid"]
    assert metric.title == title and metric.number(kid) == number


def test_columns_are_the_catalogues_and_photographs_lack_counterfactuals() -> None:
    results, keys = made_results(), [metric.key for metric in TRANSLATION]
    assert [column.key for column in translation_columns(results)] == keys
    results["protocol"]["drawn_faces"] = False
    assert set(keys) - {column.key for column in translation_columns(results)} == DRAWN_ONLY


def test_values_of_single_images_are_kept_for_every_metric_that_is_a_mean() -> None:
    assert set(SINGLE) == {metric.key for metric in TRANSLATION} - {"kid", "fid", "is"}


def measured(shift: float) -> dict[str, Any]:
    features = np.random.default_rng(0).normal(shift, 1, (20, 4))
    values = {key: np.full(20, 0.5 + shift) for key in SINGLE}
    return {"row": np.arange(20), "features": features, "logits": features, **values}


def test_a_comparison_has_a_record_for_every_metric_but_fid() -> None:
    reference: Any = SimpleNamespace(features=measured(0)["features"])
    terms = [(1.0, measured(0.1)), (-1.0, measured(0.0))]
    drawn = translation_differences("a − b", [terms], reference, 20, drawn=True)
    assert [record["metric"] for record in drawn] == [m.key for m in TRANSLATION if m.key != "fid"]
    assert all(record["lower_is_better"] == METRICS[record["metric"]].lower_is_better for record in drawn)
    photographs = translation_differences("a − b", [terms], reference, 20, drawn=False)
    assert not DRAWN_ONLY & {record["metric"] for record in photographs}


def test_a_comparison_leaves_out_missing_metrics() -> None:
    reference: Any = SimpleNamespace(features=measured(0)["features"])
    without = measured(0.0) | {"diversity": np.full(20, np.nan)}
    found = translation_differences(
        "a − b", [[(1.0, measured(0.1)), (-1.0, without)]], reference, 20, drawn=True
    )
    assert "diversity" not in {record["metric"] for record in found}
    queries = {"row": np.arange(5), "all/p10_attributes": np.ones(5), "easy/p10_attributes": np.zeros(5)}
    (record,) = precision_differences("all", "easy", [queries], 5)
    assert record["metric"] == "p10_attributes" and record["difference"] == 1


def test_a_sweep_offers_the_metrics_of_a_translation() -> None:
    with pytest.raises(
        ConfigError, match="--metric speed: choose kid, fid, is, acc, acc_changed, edit, keep"
    ):
        sweep(None, "nowhere", None, (), SweepOptions((), metric="speed"))
