"""A table's files: `results.json`, CSV, LaTeX, and one HTML page that says what the differences say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from rgcluster.base.storage import Location
from rgcluster.evaluate.report.page import details, page, paragraphs, section, simple_table, table
from rgcluster.evaluate.report.reading import inflated_inception
from rgcluster.evaluate.report.tables import (
    Table,
    accuracy_table,
    counts_table,
    fractions_table,
    kid_scale,
    p10_table,
    retrieval_table,
    translation_table,
)
from rgcluster.study.writing import as_csv, as_latex

__all__ = ["difference_table", "shown_tables", "verdicts", "write_table"]

Results = Mapping[str, Any]

_SHOWN = {
    1: (retrieval_table, p10_table), 2: (translation_table, accuracy_table), 3: (fractions_table,),
    4: (counts_table,), 6: (p10_table, retrieval_table), 7: (accuracy_table, translation_table),
}  # fmt: skip
_DIGITS = {"kid": 3, "is": 3, "acc": 2, "content_kept": 2, "counterfactual": 5, "edit": 5, "diversity": 5}
_SCALES = {"acc": 100.0, "content_kept": 100.0}
_NAMES = {
    "acc": "ACC, %", "content_kept": "content kept, %", "counterfactual": "counterfactual distance",
    "edit": "edit error",
    "p10_attributes": "P@10 attributes", "p10_content": "P@10 content", "p10_average": "P@10 average",
}  # fmt: skip


def shown_tables(results: Results) -> list[Table]:
    """Return what is shown of a table's results, the table itself first."""
    return [make(results) for make in _SHOWN[results["table"]]]


def write_table(directory: Location, results: Results) -> Location:
    """Write `results.json`, `table.csv`, `table.tex` and `report/index.html`; return the report."""
    tables = shown_tables(results)
    (directory / "results.json").write_json(results)
    (directory / "table.csv").write_text(as_csv(tables[0]))
    (directory / "table.tex").write_text(as_latex(tables[0]))
    title = f"Table {results['table']}"
    seeds = results["training_seeds"]
    about = (
        f"The paper's Table {results['table']} on {_data(results)}, {_count(len(seeds), 'training seed')} "
        f"({', '.join(map(str, seeds))}). In smaller grey stand the paper's numbers, measured on CelebA at "
        "128 × 128 pixels: they stand beside ours and do not compare."
    )
    body = [
        f"<header>\n<h1>{escape(title)}</h1>\n{paragraphs([about])}</header>",
        section("reading", "What the differences say", _list(verdicts(results))),
        section("numbers", "Numbers", *(table(shown) for shown in tables)),
        section("differences", "Differences", difference_table(results), paragraphs(notes(results), "note")),
        section("setup", "How it was measured", details("Protocol", _json(results["protocol"])),
                details("Runs", "\n".join(results["cells"]))),
    ]  # fmt: skip
    file = directory / "report" / "index.html"
    file.write_text(page(title, body))
    return file


_WORDS = {"better": "better on", "worse": "worse on", "no difference": "undecided on"}


def verdicts(results: Results) -> list[str]:
    """Return a sentence for each comparison: on what it is better, worse, or undecided after Holm's correction."""
    by_title: dict[str, list[Mapping[str, Any]]] = {}
    for record in results["differences"]:
        by_title.setdefault(record["comparison"], []).append(record)
    sentences = []
    for title, records in by_title.items():
        said = [
            f"{word} {', '.join(names)}"
            for verdict, word in _WORDS.items()
            if (names := [_text(results, record) for record in records if record["verdict"] == verdict])
        ]
        sentences.append(f"{title}: {'; '.join(said)}.")
    return sentences


def difference_table(results: Results) -> str:
    """Return every difference with its interval, each training seed's, and its corrected p-value."""
    rows = []
    for record in results["differences"]:
        scale, digits, name = _how(results, record["metric"])
        rows.append(
            [
                record["comparison"],
                f"{name} {'↓' if record['lower_is_better'] else '↑'}",
                f"{record['difference'] * scale:+.{digits}f}",
                f"[{record['low'] * scale:+.{digits}f}, {record['high'] * scale:+.{digits}f}]",
                ", ".join(f"{value * scale:+.{digits}f}" for value in record["per_training_seed"]),
                _p_value(record.get("p_holm")),
                record["verdict"],
            ]
        )
    heads = (
        "comparison",
        "value",
        "difference",
        "95 % interval",
        "each training seed",
        "p (Holm)",
        "verdict",
    )
    return simple_table("Differences and their intervals", heads, rows)


def _p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def notes(results: Results) -> list[str]:
    """Return what the intervals cover, and what has none."""
    count, cells = len(results["training_seeds"]), len(results["differences"])
    covers = (
        f"Intervals and p-values are Student's t over the differences of {count} training seeds, each pooled over "
        "the evaluation seeds, on the same test images."
        if count > 1
        else "One training seed was run: intervals and p-values come from resampled test images, pooled over the "
        "evaluation seeds, and do not cover another training seed (--seeds 3)."
    )
    texts = [
        f"{covers} Each interval stands for itself. A verdict other than “no difference” means a p-value below 0.05 "
        f"after Holm's correction over the {_count(cells, 'difference')} of this table, so an interval that leaves "
        "zero out is not enough."
    ]
    if "translation" in results["tables"]:
        texts.append(
            "KID and IS are computed on all images at once here, without subsets and splits. FID has no interval: "
            "resampled images appear twice, which raises it."
        )
    return texts + inflated_inception(results)


def _text(results: Results, record: Mapping[str, Any]) -> str:
    scale, digits, name = _how(results, record["metric"])
    low, high = record["low"] * scale, record["high"] * scale
    return f"{name} ({record['difference'] * scale:+.{digits}f}, {low:+.{digits}f} to {high:+.{digits}f})"


def _how(results: Results, metric: str) -> tuple[float, int, str]:
    """Return the factor, the digits and the name with which a value is printed."""
    if metric == "kid":
        name, scale = kid_scale(results)
        return scale, _DIGITS[metric], name
    name = results["protocol"]["names"].get(metric, _NAMES.get(metric, metric))
    return _SCALES.get(metric, 1.0), _DIGITS.get(metric, 4), _NAMES.get(metric, name)


def _data(results: Results) -> str:
    protocol = results["protocol"]
    kind = "drawn faces" if protocol["drawn_faces"] else "the data of this run"
    return (
        f"{kind} at {protocol['image_size']} × {protocol['image_size']} pixels, {protocol['gallery']:,} training "
        f"and {protocol['test_images']:,} test images"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _list(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>\n" for text in texts)
    return f'<ul class="reading">\n{items}</ul>\n'


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
