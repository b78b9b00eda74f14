"""Results of a benchmark: values beside their baselines, as JSON and as a table."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from rgcluster.base.versions import package_versions

__all__ = ["Row", "as_json", "as_table", "device_name"]


@dataclass(frozen=True)
class Row:
    """One value; `baseline` names what it is compared with, measured in the same run."""

    case: str
    metric: str
    value: float
    unit: str
    baseline: str | None = None
    baseline_value: float | None = None

    @property
    def ratio(self) -> float | None:
        """value / baseline_value."""
        return self.value / self.baseline_value if self.baseline_value else None


def as_json(bench: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the machine-readable result."""
    return {
        "bench": bench,
        "device": device_name(),
        "versions": package_versions(),
        "rows": [{**vars(row), "ratio": row.ratio} for row in rows],
    }


def as_table(title: str, rows: Sequence[Row]) -> Table:
    """Return the rows as a table, each value beside its baseline."""
    table = Table("case", "metric", "value", "baseline", "ratio", title=title)
    for row in rows:
        held = f"{row.baseline}: {row.baseline_value:.4g} {row.unit}" if row.baseline else ""
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        table.add_row(row.case, row.metric, f"{row.value:.4g} {row.unit}", held, ratio)
    return table


def device_name() -> str:
    """Return the name of the GPU, or the CPU and the number of torch threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
