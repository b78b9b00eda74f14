"""A table's files: `results.json`, CSV, LaTeX, and one HTML page that says what the differences say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from rgcluster.base.storage import Location
from rgcluster.evaluate.report.page import details, page, paragraphs, section, simple_table, table
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
    """Return a sentence for each comparison: on what it is better, worse, or not different beyond the interval."""
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
    """Return every difference with its interval and, where several were run, each training seed's."""
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
                record["verdict"],
            ]
        )
    heads = ("comparison", "value", "difference", "95 % interval", "each training seed", "verdict")
    return simple_table("Differences and their bootstrap intervals", heads, rows)


def notes(results: Results) -> list[str]:
    """Return what the intervals cover, and what has none."""
    several = len(results["training_seeds"]) > 1
    covers = (
        "Training seeds and test images were drawn with replacement; with so few seeds the interval is rough."
        if several
        else "Test images were drawn with replacement. One training seed was run: the interval does not cover "
        "how another training would turn out (--seeds 3)."
    )
    texts = [
        f"{covers} A verdict other than “no difference” means that the interval leaves zero out; of twenty such "
        "intervals about one does so by chance."
    ]
    if "translation" in results["tables"]:
        texts.append(
            "KID and IS are of all images at once here, without subsets and splits. FID has no interval: "
            "images drawn twice raise it."
        )
    return texts


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
