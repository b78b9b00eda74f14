"""Tables that show a run's numbers beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rgcluster.evaluate.metrics.catalogue import METRICS, RETRIEVAL, TRANSLATION, Metric, named_metrics
from rgcluster.evaluate.report.paper import (
    PAPER_ACC_PER_ATTRIBUTE,
    PAPER_COUNTS,
    PAPER_FRACTIONS,
    PAPER_P10_PER_ATTRIBUTE,
    PAPER_RETRIEVAL,
    PAPER_TRANSLATION,
)

__all__ = [
    "MODEL_NAMES",
    "Column",
    "Row",
    "Table",
    "Value",
    "accuracy_table",
    "changed_table",
    "counts_table",
    "fractions_table",
    "p10_table",
    "probe_rows",
    "retrieval_table",
    "translation_columns",
    "translation_table",
]

Results = Mapping[str, Any]
ResultsRow = Mapping[str, Any]

MODEL_NAMES = {
    "identity": "untouched input",
    "gmm-unit": "GMM-UNIT",
    "gmm-unit-continued": "GMM-UNIT continued",
    "rg-unit-random": "RG-UNIT, random neighbours",
    "rg-unit": "RG-UNIT",
    "truth": "true counterfactuals",
    "real": "real images",
}


@dataclass(frozen=True)
class Value:
    """One cell: our value, its spreads over evaluation and over training seeds, the paper's; empty where none."""

    text: str
    spread: str = ""
    paper: str = ""
    training: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table: a metric, or one attribute of it; `key` is where a row has its value."""

    key: str
    heading: str
    metric: Metric

    def value(self, row: ResultsRow, paper: Mapping[str, float]) -> Value:
        """Return the cell of a results row."""
        return Value(
            self._text(row.get(self.key)) or "–",
            self._text(row.get(f"{self.key}_spread")),
            self._text(paper.get(self.key)),
            self._text(row.get(f"{self.key}_training_spread")),
        )

    def _text(self, number: float | None) -> str:
        return "" if number is None else self.metric.number(number)


def _column(metric: Metric, title: str = "") -> Column:
    return Column(metric.key, f"{title or metric.title}\N{NO-BREAK SPACE}{metric.arrow}", metric)


@dataclass(frozen=True)
class Row:
    """A named row of cells."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Table:
    """A table to show; `notes` say why cells are empty and what the units are."""

    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def probe_rows(probe: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what `rgcluster probe` found as rows of test, case and value."""
    change, error = "change of the picture in the edit region, of 255", "edit error, 0 to 1"
    rows = [
        (change, f"{case.replace('_', ' ')} in place of nearest", f"{value:.2f}")
        for case, value in probe["swap"].items()
    ]
    rows += [
        (change, f"random in place of neighbour {place} alone", f"{value:.2f}")
        for place, value in enumerate(probe["contribution"], start=1)
    ]
    rows += [(error, _ORACLE_CASES[case], f"{value:.4f}") for case, value in (probe["oracle"] or {}).items()]
    rows += [
        ("P@10 of content", case.replace("_", " "), f"{value:.3f}")
        for case, value in (probe["content"] or {}).items()
    ]
    return rows


_ORACLE_CASES = {
    "edit": "guided by the true counterfactual",
    "edit_nearest": "guided by the nearest",
    "edit_without": "without neighbours",
    "edit_identity": "untouched input",
}


def translation_table(results: Results) -> Table:
    """Table 2, with the equal-budget baseline, KID and the distance to counterfactuals beside it."""
    return _table(
        "Translation (the paper's Table 2)", "model", _rows(results, "translation"), translation_columns(results),
        _model_name, lambda row: PAPER_TRANSLATION.get(row["model"], {}), (_SPREAD_NOTE, *_empty_notes(results)),
    )  # fmt: skip


def accuracy_table(results: Results) -> Table:
    """Table 7: ACC per attribute."""
    return _per_attribute(
        _rows(results, "translation"), "acc_per_attribute", METRICS["acc"], "ACC per attribute (the paper's Table 7)",
        "model", _model_name, lambda row: PAPER_ACC_PER_ATTRIBUTE.get(row["model"], {}),
    )  # fmt: skip


def changed_table(results: Results) -> Table:
    """ACC of the attributes that the target changes: an attribute that stays is right without any translation."""
    return _per_attribute(
        _rows(results, "translation"), "acc_changed_per_attribute", METRICS["acc_changed"],
        METRICS["acc_changed"].name, "model", _model_name, lambda row: {},
    )  # fmt: skip


def retrieval_table(results: Results) -> Table:
    """Table 1: P@10."""
    columns = [_column(metric, metric.name.removeprefix("P@10 ")) for metric in RETRIEVAL]
    rows = _rows(results, "retrieval")
    spread = (_SPREAD_NOTE.split(";")[0] + ".",) if rows else ()
    missing = sorted({row["p10_content_note"] for row in rows if row.get("p10_content_note")})
    return _table(
        "Retrieval, P@10 (the paper's Table 1)", "negatives", rows, columns, _negatives,
        lambda row: PAPER_RETRIEVAL.get(row["negatives"], {}),
        (*spread, *(f"No P@10 of the content: {note}." for note in missing)),
    )  # fmt: skip


def p10_table(results: Results) -> Table:
    """Table 6: P@10 per attribute."""
    return _per_attribute(
        _rows(results, "retrieval"), "p10_per_attribute", METRICS["p10_attributes"],
        "P@10 per attribute (the paper's Table 6)", "negatives", _negatives,
        lambda row: PAPER_P10_PER_ATTRIBUTE.get(row["negatives"], {}),
    )  # fmt: skip


def fractions_table(results: Results) -> Table:
    """Table 3, from the translation rows of runs with several `data_fraction`."""
    rows = sorted(
        (row for row in _rows(results, "translation") if row["model"] not in ("identity", "truth", "real")),
        key=lambda row: (list(MODEL_NAMES).index(row["model"]), row["data_fraction"]),
    )
    return _table(
        "Share of labelled data (the paper's Table 3)", "model, share", rows, _without_diversity(results),
        lambda row: f"{_model_name(row)}, {row['data_fraction']:.0%}",
        lambda row: PAPER_FRACTIONS.get((row["model"], row["data_fraction"]), {}),
        (_SPREAD_NOTE, *_empty_notes(results)),
    )  # fmt: skip


def counts_table(results: Results) -> Table:
    """Table 4, from runs with several `retrieval_count`: none at equal budget, M nearest, M random."""
    shown = ("gmm-unit-continued", "rg-unit", "rg-unit-random")
    rows = sorted(
        (row for row in _rows(results, "translation") if row["model"] in shown),
        key=lambda row: (shown.index(row["model"]), row["retrieval_count"]),
    )
    return _table(
        "Number of retrieved images (the paper's Table 4)", "M", rows, _without_diversity(results), _count_name,
        lambda row: PAPER_COUNTS.get(row["retrieval_count"], {}) if row["model"] == "rg-unit" else {},
        (_SPREAD_NOTE, *_empty_notes(results)),
    )  # fmt: skip


def translation_columns(results: Results) -> list[Column]:
    """Return the metrics of a translation, named as the protocol names them."""
    metrics, drawn = named_metrics(results), results.get("protocol", {}).get("drawn_faces")
    return [_column(metrics[metric.key]) for metric in TRANSLATION if drawn or not metric.drawn_only]


_SPREAD_NOTE = (
    "± is the standard deviation over the evaluation seeds, ‡ over the training seeds where several were run; "
    "×1000 means printed times 1,000."
)


def _empty_notes(results: Results) -> list[str]:
    notes = sorted({row["fid_note"] for row in _rows(results, "translation") if row.get("fid_note")})
    texts = [f"FID: {note.replace(': ', ', and ', 1)}." for note in notes]
    if results.get("protocol", {}).get("drawn_faces"):
        texts.append(
            "Edit and keep errors are mean absolute errors where the true counterfactual changes the input, and "
            "elsewhere; they and the counterfactual distance are measured with the mean style of the target. "
            "The untouched input is the row to beat, and the judge's accuracy on the true counterfactuals its ceiling."
        )
    return texts


def _rows(results: Results, table: str) -> list[dict[str, Any]]:
    return list(results.get("tables", {}).get(table, []))


def _table(
    caption: str, corner: str, rows: Iterable[ResultsRow], columns: Sequence[Column],
    name: Callable[[ResultsRow], str], paper: Callable[[ResultsRow], Mapping[str, float]], notes: Iterable[str] = (),
    values: Callable[[ResultsRow], ResultsRow] = lambda row: row,
) -> Table:  # fmt: skip
    """Return a table with a row for each of `rows`: its name, and its `values` beside the paper's."""
    shown = (
        Row(name(row), tuple(column.value(values(row), paper(row)) for column in columns)) for row in rows
    )
    return Table(caption, corner, tuple(column.heading for column in columns), tuple(shown), tuple(notes))


def _per_attribute(
    rows: Sequence[ResultsRow], key: str, metric: Metric, caption: str, corner: str,
    name: Callable[[ResultsRow], str], paper: Callable[[ResultsRow], Mapping[str, float]],
) -> Table:  # fmt: skip
    attributes = dict.fromkeys(attribute for row in rows for attribute in row.get(key) or {})
    columns = [Column(attribute, attribute.replace("_", " "), metric) for attribute in attributes]
    caption = f"{caption}{', in ' + metric.unit if metric.unit else ''}, higher is better"
    return _table(caption, corner, rows, columns, name, paper, values=lambda row: _unfolded(row, key))


def _without_diversity(results: Results) -> list[Column]:
    return [column for column in translation_columns(results) if column.key != "diversity"]


def _unfolded(row: ResultsRow, key: str) -> dict[str, Any]:
    """Return the values by attribute, and their spreads, as keys of one row."""
    flat = dict(row.get(key) or {})
    for kind in ("spread", "training_spread"):
        flat |= {f"{name}_{kind}": value for name, value in (row.get(f"{key}_{kind}") or {}).items()}
    return flat


def _model_name(row: ResultsRow) -> str:
    return MODEL_NAMES.get(row["model"], str(row["model"]))


def _count_name(row: ResultsRow) -> str:
    count = row["retrieval_count"]
    return {"gmm-unit-continued": "0 (continued)", "rg-unit-random": f"{count}, random"}.get(
        row["model"], str(count)
    )


def _negatives(row: ResultsRow) -> str:
    return "random images" if row["negatives"] == "random" else str(row["negatives"])
