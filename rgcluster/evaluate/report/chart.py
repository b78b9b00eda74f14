"""Line charts, which `templates/pieces.html` draws as SVG.

matplotlib's SVG has fixed colours, which do not follow a reader's dark mode, and no text for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Axis", "Chart", "Point"]

STYLES = 4
"""Number of line styles in `style.css`."""


class Point(NamedTuple):
    """A value at x, and half the length of its error bar."""

    x: float
    y: float
    spread: float = 0.0


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`, with `ticks` by their texts.

    `pad` widens it at both ends, as a share of its length.
    """

    low: float
    high: float
    ticks: Mapping[str, float]
    logarithmic: bool = False
    pad: float = 0.0

    def share(self, value: float) -> float:
        """Return where a value lies on the axis, 0 at its start and 1 at its end."""
        first, last, here = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        room = self.pad * (last - first) if last > first else abs(last) * 0.05 or 0.5
        return (here - first + room) / (last - first + 2 * room)


@dataclass(frozen=True)
class Chart:
    """A chart of `width` x `height` with a line for each name; `markers` adds a dot and an error bar to every point.

    A name's style is its place in `order`.
    """

    title: str
    label: str
    x_name: str
    lines: Mapping[str, Sequence[Point]]
    x: Axis
    y: Axis
    width: int
    height: int
    order: Sequence[str]
    markers: bool = False

    left, top = 54, 27

    @property
    def right(self) -> int:
        return self.width - 12

    @property
    def bottom(self) -> int:
        return self.height - 36

    def across(self, value: float) -> float:
        """Return the horizontal coordinate of a value."""
        return round(self.left + (self.right - self.left) * self.x.share(value), 1)

    def up(self, value: float) -> float:
        """Return the vertical coordinate of a value."""
        return round(self.bottom - (self.bottom - self.top) * self.y.share(value), 1)

    def path(self, line: Sequence[Point]) -> str:
        """Return the line as the path of an SVG element."""
        return "M" + "L".join(f"{self.across(point.x)} {self.up(point.y)}" for point in line)

    def style(self, name: str) -> int:
        """Return the number of the line's style."""
        return self.order.index(name) % STYLES
