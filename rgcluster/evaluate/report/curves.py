"""Loss curves: a small chart for each loss, with a line for each network trained side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rgcluster.evaluate.report.chart import Axis, Chart, Point
from rgcluster.evaluate.report.tables import MODEL_NAMES

__all__ = ["loss_charts"]

WIDTH, HEIGHT = 260, 170
MOST_POINTS = 200
LOG_FROM = 30
"""A chart whose largest value is this many times its smallest gets a logarithmic axis."""

_NO_LOSS = {"step", "steps", "seconds_per_step", "images_per_second", "peak_memory_gib"}
_FIRST = ("total", "adversarial", "domain", "d_real", "d_fake", "d_domain")
_ORDER = (*MODEL_NAMES, "easy", "medium", "hard", "all")


def loss_charts(metrics: Sequence[Mapping[str, Any]], stage: str) -> tuple[list[str], list[Chart]]:
    """Return the names of the networks, if they have any, and a chart for each loss of a stage's `metrics.jsonl`.

    A key `variant/loss` is the curve of a variant in the chart of that loss.
    """
    curves = _curves(metrics)
    variants = sorted({name for lines in curves.values() for name in lines}, key=_place_in(_ORDER))
    charts = [_chart(loss, curves[loss], variants, stage) for loss in sorted(curves, key=_place_in(_FIRST))]
    return [MODEL_NAMES.get(name, name) for name in variants if name], charts


def _place_in(order: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    return lambda name: (order.index(name) if name in order else len(order), name)


def _curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Point]]]:
    """Return the points of each loss and variant; an unnamed variant is an empty name."""
    curves: dict[str, dict[str, list[Point]]] = {}
    for line in metrics:
        for key, value in line.items():
            if key in _NO_LOSS or key.startswith("wait_") or not isinstance(value, int | float):
                continue
            if not math.isfinite(value):
                continue
            variant, _, loss = key.rpartition("/")
            curves.setdefault(loss, {}).setdefault(variant, []).append(Point(line["step"], value))
    return curves


def _chart(loss: str, lines: Mapping[str, list[Point]], variants: Sequence[str], stage: str) -> Chart:
    names = {variant: MODEL_NAMES.get(variant, variant) or loss for variant in variants}
    lines = {names[variant]: lines[variant] for variant in variants if variant in lines}
    values = [point.y for line in lines.values() for point in line]
    last_step = max(point.x for line in lines.values() for point in line)
    low, high = min(values), max(values)
    logarithmic = low > 0 and high > LOG_FROM * low
    if not logarithmic and 0 <= low < 0.5 * high:
        low = 0.0
    summary = ", ".join(
        f"{name} from {_number(line[0].y)} to {_number(line[-1].y)}" for name, line in lines.items()
    )
    return Chart(
        f"{loss} (log)" if logarithmic else loss,
        f"{stage}, loss {loss}: {summary}",
        "step",
        {name: _thinned(line) for name, line in lines.items()},
        Axis(0, last_step, {"0": 0, f"{last_step:,.0f}": last_step}),
        Axis(low, high, {_number(low): low, _number(high): high}, logarithmic),
        WIDTH,
        HEIGHT,
        list(names.values()),
    )


def _thinned(line: Sequence[Point]) -> list[Point]:
    """Return at most `MOST_POINTS` points, each the mean of its neighbours."""
    size = -(-len(line) // MOST_POINTS)
    groups = [line[start : start + size] for start in range(0, len(line), size)]
    return [Point(group[-1].x, sum(point.y for point in group) / len(group)) for group in groups]


def _number(value: float) -> str:
    if 0 < abs(value) < 0.01:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{value:.3g}"
