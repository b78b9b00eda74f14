"""What the program has found so far, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rgcluster.base.versions import package_versions
from rgcluster.bench.gpu.training import GRID
from rgcluster.bench.result import Row, as_json, device_name

__all__ = ["Found"]


@dataclass
class Found:
    """By the names of the parts: seconds, rows, and why a part was skipped or failed."""

    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def all_rows(self) -> list[Row]:
        return [row for rows in self.rows.values() for row in rows]

    def as_json(self) -> dict[str, Any]:
        """Return the rows as other benchmarks write them, and what was skipped or failed."""
        more = {"seconds": self.seconds, "skipped": self.skipped, "failed": self.failed}
        return {**as_json("gpu", self.all_rows), **more}

    def as_page(self) -> str:
        """Return a page in Markdown: a table for each part, and the grid where there is one."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
        yield from ("# Measured on one machine", "", f"{device_name()}; {versions}.")
        for name, seconds in self.seconds.items():
            yield from ("", f"## {name[0].upper()}{name[1:]}", "")
            if name in self.rows:
                yield from _table(self.rows[name])
            for missing, why in (("Skipped", self.skipped.get(name)), ("Failed", self.failed.get(name))):
                if why:
                    yield from ("", f"{missing}: {why}")
            yield from ("", f"{seconds:.0f} s in all.")
        for name in self.skipped.keys() - self.seconds.keys():
            yield from ("", f"## {name[0].upper()}{name[1:]}", "", f"Skipped: {self.skipped[name]}")
        if any(row.case.startswith("training") for row in self.all_rows):
            text = "Each row is a training image, then the same with one attribute changed at a time."
            yield from ("", f"![Translations]({GRID})", "", text)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| case | metric | value | baseline | ratio |"
    yield "|---|---|---|---|---|"
    for row in rows:
        held = f"{row.baseline}: {row.baseline_value:.4g} {row.unit}" if row.baseline else ""
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        yield f"| {row.case} | {row.metric} | {row.value:.4g} {row.unit} | {held} | {ratio} |"
