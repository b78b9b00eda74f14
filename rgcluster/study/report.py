"""The files of a table: `results.json`, CSV, LaTeX, and an HTML page with the verdicts on the differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rgcluster.base.rundir import RESULTS
from rgcluster.base.storage import Location
from rgcluster.evaluate.metrics.catalogue import Metric, named_metrics
from rgcluster.evaluate.report.page import render
from rgcluster.evaluate.report.reading import counted, inflated_inception
from rgcluster.evaluate.report.tables import (
    Table,
    accuracy_table,
    counts_table,
    fractions_table,
    p10_table,
    retrieval_table,
    translation_table,
)
from rgcluster.study.writing import as_csv, as_latex

__all__ = ["difference_rows", "shown_tables", "verdicts", "write_table"]

Results = Mapping[str, Any]

_SHOWN = {
    1: (retrieval_table, p10_table), 2: (translation_table, accuracy_table), 3: (fractions_table,),
    4: (counts_table,), 6: (p10_table, retrieval_table), 7: (accuracy_table, translation_table),
}  # fmt: skip


def shown_tables(results: Results) -> list[Table]:
    """Return the tables that the results are shown as, the requested one first."""
    return [make(results) for make in _SHOWN[results["table"]]]


def write_table(directory: Location, results: Results) -> Location:
    """Write `results.json`, `table.csv`, `table.tex` and `report/index.html`; return the report."""
    tables = shown_tables(results)
    (directory / RESULTS).write_json(results)
    (directory / "table.csv").write_text(as_csv(tables[0]))
    (directory / "table.tex").write_text(as_latex(tables[0]))
    seeds = results["training_seeds"]
    about = (
        f"The paper's Table {results['table']} on {_data(results)}, {counted(len(seeds), 'training seed')} "
        f"({', '.join(map(str, seeds))}). The small grey numbers are the paper's, measured on CelebA at "
        "128 × 128 pixels: they are shown side by side with ours but do not compare."
    )
    text = render(
        "study/templates/table.html",
        title=f"Table {results['table']}",
        about=[about],
        verdicts=verdicts(results),
        tables=tables,
        differences=difference_rows(results),
        notes=notes(results),
        protocol=results["protocol"],
        cells=results["cells"],
    )
    file = directory / "report" / "index.html"
    file.write_text(text)
    return file


_WORDS = {"better": "better on", "worse": "worse on", "no difference": "undecided on"}


def verdicts(results: Results) -> list[str]:
    """Return a sentence for each comparison: the metrics on which it is better, worse, or undecided."""
    metrics = named_metrics(results)
    comparisons: dict[str, dict[str, list[str]]] = {}
    for record in results["differences"]:
        by_verdict = comparisons.setdefault(record["comparison"], {verdict: [] for verdict in _WORDS})
        by_verdict[record["verdict"]].append(_text(metrics[record["metric"]], record))
    sentences = []
    for title, by_verdict in comparisons.items():
        parts = (f"{_WORDS[verdict]} {', '.join(texts)}" for verdict, texts in by_verdict.items() if texts)
        sentences.append(f"{title}: {'; '.join(parts)}.")
    return sentences


def difference_rows(results: Results) -> list[list[str]]:
    """Return every difference with its interval, each training seed's, and its corrected p-value."""
    rows, metrics = [], named_metrics(results)
    for record in results["differences"]:
        metric = metrics[record["metric"]]
        rows.append(
            [
                record["comparison"],
                f"{metric.title} {metric.arrow}",
                metric.difference(record["difference"]),
                f"[{metric.difference(record['low'])}, {metric.difference(record['high'])}]",
                ", ".join(map(metric.difference, record["per_training_seed"])),
                _p_value(record.get("p_holm")),
                record["verdict"],
            ]
        )
    return rows


def _p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def notes(results: Results) -> list[str]:
    """Return notes on what the intervals cover."""
    count, cells = len(results["training_seeds"]), len(results["differences"])
    covers = (
        f"Intervals and p-values are Student's t over the differences of {count} training seeds, each pooled over "
        "the evaluation seeds, on the same test images."
        if count > 1
        else "One training seed was run: intervals and p-values come from resampled test images, pooled over the "
        "evaluation seeds, and do not cover another training seed (--seeds 3)."
    )
    texts = [
        f"{covers} Intervals are not corrected. A verdict other than “no difference” means a p-value below 0.05 after "
        f"Holm's correction over the {counted(cells, 'difference')} of this table, so an interval that excludes zero "
        "is not enough."
    ]
    if "translation" in results["tables"]:
        texts.append(
            "KID and IS are computed on all images at once here, without subsets and splits; ACC of changed "
            "attributes is the mean of the images' shares, not the share of all changes. FID has no interval: "
            "resampled images appear twice, which raises it."
        )
    return texts + inflated_inception(results)


def _text(metric: Metric, record: Mapping[str, Any]) -> str:
    difference, low, high = (metric.difference(record[key]) for key in ("difference", "low", "high"))
    return f"{metric.title} ({difference}, {low} to {high})"


def _data(results: Results) -> str:
    protocol = results["protocol"]
    kind = "drawn faces" if protocol["drawn_faces"] else "the data of this run"
    return (
        f"{kind} at {protocol['image_size']} × {protocol['image_size']} pixels, {protocol['gallery']:,} training "
        f"and {protocol['test_images']:,} test images"
    )
