"""Loss curves as inline SVG: a small panel for each loss, a line for each network trained side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rgcluster.evaluate.report.tables import MODEL_NAMES

__all__ = ["loss_panels"]

Line = list[tuple[float, float]]

WIDTH, HEIGHT = 260, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 26, 34
MOST_POINTS = 200
LOG_FROM = 30
"""A panel whose largest value is this many times its smallest gets a logarithmic axis."""

_NO_LOSS = {"step", "steps", "seconds_per_step", "images_per_second", "peak_memory_gib"}
_FIRST = ("total", "adversarial", "domain", "d_real", "d_fake", "d_domain")
_ORDER = (*MODEL_NAMES, "easy", "medium", "hard", "all")
_CLASSES = 4


def loss_panels(metrics: Sequence[Mapping[str, Any]], stage: str) -> str:
    """Return the panels of a stage's `metrics.jsonl`; nothing where there are no losses.

    A key `variant/loss` is the curve of a variant in the panel of that loss.
    """
    curves = _curves(metrics)
    if not curves:
        return ""
    found = {variant for lines in curves.values() for variant in lines}
    variants = sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    order = sorted(curves, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    panels = "\n".join(_panel(name, curves[name], variants, stage) for name in order)
    return f'{_legend(variants)}<div class="panels">\n{panels}\n</div>\n'


def _curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Line]]:
    """Return the points of each loss and variant; an unnamed variant is an empty name."""
    curves: dict[str, dict[str, Line]] = {}
    for line in metrics:
        for key, value in line.items():
            if key in _NO_LOSS or key.startswith("wait_") or not isinstance(value, int | float):
                continue
            if not math.isfinite(value):
                continue
            variant, _, loss = key.rpartition("/")
            curves.setdefault(loss, {}).setdefault(variant, []).append((float(line["step"]), float(value)))
    return curves


def _legend(variants: Sequence[str]) -> str:
    if variants == [""]:
        return ""
    items = "".join(
        '<li><svg viewBox="0 0 28 8" aria-hidden="true">'
        f'<path class="curve s{number % _CLASSES}" d="M0 4H28"/></svg>'
        f"{escape(MODEL_NAMES.get(name, name))}</li>"
        for number, name in enumerate(variants)
    )
    return f'<ul class="legend">{items}</ul>\n'


def _panel(name: str, lines: Mapping[str, Line], variants: Sequence[str], stage: str) -> str:
    lines = {variant: lines[variant] for variant in variants if variant in lines}
    values = [value for line in lines.values() for _, value in line]
    last_step = max(step for line in lines.values() for step, _ in line)
    low, high = min(values), max(values)
    logarithmic = low > 0 and high > LOG_FROM * low
    scale = math.log10 if logarithmic else float
    bottom, top = _ends(scale(low), scale(high), 0.0 if low >= 0 and not logarithmic else None)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last_step

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (scale(value) - bottom) / (top - bottom)

    paths = "".join(
        f'<path class="curve s{variants.index(variant) % _CLASSES}" d="{_path(line, x, y)}"/>'
        for variant, line in lines.items()
    )
    ticks = [10**bottom, 10**top] if logarithmic else [bottom, top]
    summary = ", ".join(
        f"{MODEL_NAMES.get(variant, variant) or name} from {_number(line[0][1])} to {_number(line[-1][1])}"
        for variant, line in lines.items()
    )
    base = HEIGHT - BOTTOM
    title = f"{name} (log)" if logarithmic else name
    label = escape(f"{stage}, loss {name}: {summary}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>'
        f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 4}" y="{base + 3}" text-anchor="end">{_number(ticks[0])}</text>'
        f'<text x="{LEFT - 4}" y="{TOP + 4}" text-anchor="end">{_number(ticks[1])}</text>'
        f'<text x="{LEFT}" y="{base + 14}" text-anchor="middle">0</text>'
        f'<text x="{WIDTH - RIGHT}" y="{base + 14}" text-anchor="end">{last_step:,.0f}</text>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>'
        f"{paths}</svg>"
    )


def _ends(low: float, high: float, floor: float | None) -> tuple[float, float]:
    """Return the axis' ends: from `floor` where the values come near it, and never of no length."""
    if floor is not None and low - floor < 0.5 * (high - floor):
        low = floor
    if high - low < 1e-12:
        return low - 0.5, high + 0.5
    return low, high


def _path(line: Line, x: Any, y: Any) -> str:
    points = [f"{x(step):.1f} {y(value):.1f}" for step, value in _thinned(line)]
    return f"M{points[0]}L{' '.join(points[1:]) or points[0]}"


def _thinned(line: Line) -> Line:
    """Return at most `MOST_POINTS` points, each the mean of its neighbours."""
    size = -(-len(line) // MOST_POINTS)
    groups = [line[start : start + size] for start in range(0, len(line), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _number(value: float) -> str:
    if 0 < abs(value) < 0.01:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{value:.3g}"
