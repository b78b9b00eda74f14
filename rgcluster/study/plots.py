"""The report of a sweep: its trials, and a plot of each metric against every numeric axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rgcluster.base.storage import Location
from rgcluster.evaluate.report.chart import Axis, Chart, Point
from rgcluster.evaluate.report.page import render
from rgcluster.evaluate.report.tables import MODEL_NAMES, Column, translation_columns
from rgcluster.model.handover import is_guided

__all__ = ["write_sweep_report"]

Results = Mapping[str, Any]

WIDTH, HEIGHT = 360, 230
COUNT = "guidance.retrieval_count"
PLOTTED = ("kid", "acc", "counterfactual", "content_kept")


def write_sweep_report(directory: Location, results: Results) -> Location:
    """Write `report/index.html` and the plots as SVG files; return the report."""
    rows = [row for trial in results["trials"] for row in trial.get("rows", [])]
    shown = {"protocol": results["protocol"], "tables": {"translation": rows}}
    columns = [column for column in translation_columns(shown) if column.key != "fid"]
    plots = []
    for axis in results["axes"]:
        for column in (column for column in columns if column.key in PLOTTED):
            drawn = _plot(results, axis, column)
            if drawn:
                plots.append(drawn)
                svg = render("evaluate/report/templates/chart.svg", drawn=drawn)
                (directory / "plots" / f"{axis}-{column.key}.svg").write_text(svg)
    best = results["best"]
    verdict = f"Best by {results['metric']}: {best}." if best else "No trial has a value of this metric."
    text = render(
        "study/templates/sweep.html",
        title="Sweep",
        about=[verdict, _about(results)],
        plots=plots,
        columns=["trial", *(column.heading for column in columns), "state"],
        trials=_trials(results, columns),
        protocol=results["protocol"],
    )
    file = directory / "report" / "index.html"
    file.write_text(text)
    return file


def _plot(results: Results, axis: str, column: Column) -> Chart | None:
    """Return the plot of a metric against an axis, a line for each setting of the other axes and model."""
    lines: dict[str, dict[float, Point]] = {}
    for trial in results["trials"]:
        x = trial["cell"][axis]
        if isinstance(x, bool) or not isinstance(x, int | float):
            return None
        for row in trial.get("rows", []):
            guided, y = is_guided(row["model"]), row.get(column.key)
            if y is None or (not guided and axis == COUNT):
                continue
            # A model without neighbours is the same for every M.
            others = [
                f"{_last(key)} {value:g}" if isinstance(value, float) else f"{_last(key)} {value}"
                for key, value in trial["cell"].items()
                if key != axis and (guided or key != COUNT)
            ]
            spread = (row.get(f"{column.key}_spread") or 0.0) * column.metric.scale
            name = ", ".join([MODEL_NAMES.get(row["model"], row["model"]), *others])
            lines.setdefault(name, {})[x] = Point(x, y * column.metric.scale, spread)
    if not any(len(line) > 1 for line in lines.values()):
        return None
    drawn = {name: [line[x] for x in sorted(line)] for name, line in lines.items()}
    points = [point for line in drawn.values() for point in line]
    xs = sorted({point.x for point in points})
    low, high = min(y - bar for _, y, bar in points), max(y + bar for _, y, bar in points)
    x_name = _last(axis).replace("_", " ")
    return Chart(
        column.heading,
        f"{column.heading} against {x_name}",
        x_name,
        drawn,
        Axis(xs[0], xs[-1], {f"{x:g}": x for x in xs}, logarithmic=0 < 10 * xs[0] <= xs[-1], pad=0.035),
        Axis(low, high, {f"{y:.4g}": y for y in (low, high)}, pad=0.08),
        WIDTH,
        HEIGHT,
        list(drawn),
        markers=True,
    )


def _trials(results: Results, columns: Sequence[Column]) -> list[list[str]]:
    """Return a row for each trial: its settings, RG-UNIT's values and its state."""
    rows = []
    for trial in results["trials"]:
        own: dict[str, Any] = next((row for row in trial.get("rows", []) if row["model"] == "rg-unit"), {})
        values = [column.value(own, {}) for column in columns]
        cells = [f"{value.text} ± {value.spread}" if value.spread else value.text for value in values]
        state = f"{trial['state']}: {trial['why']}" if "why" in trial else trial["state"]
        settings = ", ".join(f"{_last(key)} {value}" for key, value in trial["cell"].items())
        rows.append([settings, *cells, state])
    return rows


def _about(results: Results) -> str:
    counts = Counter(trial["state"] for trial in results["trials"])
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    return (
        f"{len(results['trials'])} trials over {', '.join(results['axes'])} ({results['search']}): {states}."
    )


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]
