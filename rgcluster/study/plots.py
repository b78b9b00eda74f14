"""A sweep's report: the trials, and for every axis of numbers a plot of each metric against it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rgcluster.base.storage import Location
from rgcluster.evaluate.report.page import details, page, paragraphs, section, simple_table
from rgcluster.evaluate.report.tables import MODEL_NAMES, Column, translation_columns
from rgcluster.model.handover import is_guided

__all__ = ["line_plot", "write_sweep_report"]

Results = Mapping[str, Any]
Point = tuple[float, float, float]
"""x, y and half the length of its bar."""

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 28, 38
COUNT = "guidance.retrieval_count"
PLOTTED = ("kid", "acc", "counterfactual", "content_kept")


def write_sweep_report(directory: Location, results: Results) -> Location:
    """Write `report/index.html` and the plots as SVG files; return the report."""
    rows = [row | {"model": row["model"]} for trial in results["trials"] for row in trial.get("rows", [])]
    shown = {"protocol": results["protocol"], "tables": {"translation": rows}}
    columns = [column for column in translation_columns(shown) if column.key != "fid"]
    plots = []
    for axis in results["axes"]:
        for column in (column for column in columns if column.key in PLOTTED):
            drawn = _plot(results, axis, column)
            if drawn:
                plots.append(drawn)
                (directory / "plots" / f"{axis}-{column.key}.svg").write_text(_standalone(drawn))
    best = results["best"]
    said = f"Best by {results['metric']}: {best}." if best else "No trial has a value to be judged by."
    body = [
        f"<header>\n<h1>Sweep</h1>\n{paragraphs([said, _about(results)])}</header>",
        section(
            "plots", "Plots", f'<div class="panels wide">{"".join(plots)}</div>', paragraphs([_BARS], "note")
        ),
        section("trials", "Trials", _trials(results, columns)),
        section(
            "setup", "How it was measured", details("Protocol", json.dumps(results["protocol"], indent=2))
        ),
    ]
    file = directory / "report" / "index.html"
    file.write_text(page("Sweep", body))
    return file


_BARS = "Bars are the standard deviation over the evaluation seeds; they do not cover other training seeds."


def line_plot(title: str, x_name: str, lines: Mapping[str, Sequence[Point]]) -> str:
    """Return an SVG: a line for each name through its points, with bars; x is logarithmic where it spans tenfold."""
    points = [point for line in lines.values() for point in line]
    xs = sorted({x for x, _, _ in points})
    low, high = min(y - bar for _, y, bar in points), max(y + bar for _, y, bar in points)
    pad = 0.08 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    scale = math.log if xs[0] > 0 and xs[-1] >= 10 * xs[0] else float
    first, last = scale(xs[0]), scale(xs[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        share = (scale(x) - first) / (last - first) if last > first else 0.5
        return (
            LEFT + 10 + (WIDTH - LEFT - RIGHT - 20) * share,
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / (high - low),
        )

    base = HEIGHT - BOTTOM
    parts = [
        f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>',
        f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>',
        *(f'<text x="{place(x, low)[0]:.1f}" y="{base + 15}" text-anchor="middle">{x:g}</text>' for x in xs),
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>',
    ]
    for y in (low + pad, high - pad):
        parts.append(
            f'<text x="{LEFT - 5}" y="{place(xs[0], y)[1] + 4:.1f}" text-anchor="end">{y:.4g}</text>'
        )
    for number, (name, line) in enumerate(lines.items()):
        style, ordered = f"curve s{number % 4}", sorted(line)
        path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y, _ in ordered)
        parts.append(f'<path class="{style}" d="M{path}"><title>{escape(name)}</title></path>')
        for x, y, bar in ordered:
            at, up = place(x, y + bar)
            down = place(x, y - bar)[1]
            parts.append(f'<path class="curve bar s{number % 4}" d="M{at:.1f} {up:.1f}V{down:.1f}"/>')
            parts.append(f'<circle class="dot d{number % 4}" cx="{at:.1f}" cy="{place(x, y)[1]:.1f}" r="3"/>')
    label = escape(f"{title} against {x_name}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _plot(results: Results, axis: str, column: Column) -> str:
    """Return the plot of a metric against an axis, a line for each setting of the other axes and model."""
    lines: dict[str, dict[float, Point]] = {}
    for trial in results["trials"]:
        x = trial["cell"][axis]
        if isinstance(x, bool) or not isinstance(x, int | float):
            return ""
        for row in trial.get("rows", []):
            guided, y = is_guided(row["model"]), row.get(column.key)
            if y is None or (not guided and axis == COUNT):
                continue
            # What looks at no neighbours is the same for every M.
            others = [
                f"{_last(key)} {value:g}" if isinstance(value, float) else f"{_last(key)} {value}"
                for key, value in trial["cell"].items()
                if key != axis and (guided or key != COUNT)
            ]
            bar = (row.get(f"{column.key}_spread") or 0.0) * column.metric.scale
            name = ", ".join([MODEL_NAMES.get(row["model"], row["model"]), *others])
            lines.setdefault(name, {})[float(x)] = (float(x), y * column.metric.scale, bar)
    if not any(len(line) > 1 for line in lines.values()):
        return ""
    legend = "".join(
        f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><path class="curve s{number % 4}" d="M0 4H28"/></svg>'
        f"{escape(name)}</li>"
        for number, name in enumerate(lines)
    )
    drawn = {name: list(line.values()) for name, line in lines.items()}
    plot = line_plot(column.heading, _last(axis).replace("_", " "), drawn)
    return f'<div>{plot}<ul class="legend">{legend}</ul></div>'


def _trials(results: Results, columns: Sequence[Column]) -> str:
    rows = []
    for trial in results["trials"]:
        own: dict[str, Any] = next((row for row in trial.get("rows", []) if row["model"] == "rg-unit"), {})
        values = [column.value(own, {}) for column in columns]
        cells = [f"{value.text} ± {value.spread}" if value.spread else value.text for value in values]
        state = f"{trial['state']}: {trial['why']}" if "why" in trial else trial["state"]
        rows.append(
            [", ".join(f"{_last(key)} {value}" for key, value in trial["cell"].items()), *cells, state]
        )
    heads = ["trial", *(column.heading for column in columns), "state"]
    return simple_table("RG-UNIT in every trial", heads, rows)


def _about(results: Results) -> str:
    counts: dict[str, int] = {}
    for trial in results["trials"]:
        counts[trial["state"]] = counts.get(trial["state"], 0) + 1
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    return (
        f"{len(results['trials'])} trials over {', '.join(results['axes'])} ({results['search']}): {states}."
    )


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _standalone(drawn: str) -> str:
    """Return the plot's SVG as a file of its own."""
    svg = drawn[drawn.index("<svg") : drawn.index("</svg>") + 6]
    style = (
        "<style>text{font:11px sans-serif;fill:#444}.axis{stroke:#bbb;fill:none}.curve{fill:none;stroke-width:1.6}"
        ".s0{stroke:#0b62b8}.s1{stroke:#b4530a}.s2{stroke:#0d7a5f}.s3{stroke:#8a3ab0}"
        ".d0{fill:#0b62b8}.d1{fill:#b4530a}.d2{fill:#0d7a5f}.d3{fill:#8a3ab0}</style>"
    )
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg" style="background:#fff">{style}{rest}'
