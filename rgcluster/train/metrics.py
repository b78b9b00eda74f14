"""`metrics.jsonl`: one JSON object a line, cut back to the checkpoint when a stage goes on."""

from __future__ import annotations

import json
from typing import Any

from rgcluster.storage import Location

__all__ = ["METRICS", "MetricsLog", "read_metrics"]

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends lines to `metrics.jsonl`, and the same scalars to TensorBoard where the directory is local."""

    def __init__(self, directory: Location, step: int) -> None:
        self._file = directory / METRICS
        self._lines = [json.dumps(line) for line in read_metrics(directory) if line["step"] <= step]
        self._write_all()
        self._board = None
        if directory.is_local:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(directory.local() / "tensorboard"), purge_step=step + 1)

    def write(self, values: dict[str, Any]) -> None:
        """Add one line; it must hold `step`."""
        line = json.dumps(values)
        self._lines.append(line)
        if self._file.is_local:
            with self._file.local().open("a") as file:
                file.write(line + "\n")
        else:  # object stores cannot append
            self._write_all()
        if self._board:
            for name, value in values.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, values["step"])

    def close(self) -> None:
        if self._board:
            self._board.close()

    def _write_all(self) -> None:
        self._file.write_text("".join(line + "\n" for line in self._lines))


def read_metrics(directory: Location) -> list[dict[str, Any]]:
    """Return the lines of a stage's `metrics.jsonl`; a last line cut short by a crash is left out."""
    file = directory / METRICS
    if not file.exists():
        return []
    lines = []
    for line in file.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
