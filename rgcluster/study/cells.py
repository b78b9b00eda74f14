"""A study: a directory of runs that differ in a few settings and share their common stages.

    DIR/cells/<name>/       a run directory, whose stages are links
    DIR/stages/<digest>/    the stages, each once, by the digest of what it depends on
    DIR/measured/           the models' measurements, each once

If DIR is itself a run, its finished stages are reused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rgcluster.base.storage import Location, digest_json
from rgcluster.config import Config, with_values
from rgcluster.data.shards import ShardSet
from rgcluster.errors import ConfigError
from rgcluster.evaluate.measure.protocol import difference
from rgcluster.pipeline.checks import require
from rgcluster.pipeline.context import Shared
from rgcluster.pipeline.run import Pipeline

__all__ = ["Cell", "Study", "cell_name"]

Cell = Mapping[str, Any]
"""The settings of a run that differ from the study's, by `section.key`."""


class Study:
    """The runs of a directory, created on demand."""

    def __init__(
        self, root: Location, config: Config, shards: ShardSet, shared: Shared | None = None
    ) -> None:
        self.root, self.config, self.shards = root, config, shards
        self.shared = shared or Shared(root / "stages", root)

    def check(self, cells: Iterable[Cell]) -> None:
        """Raise ConfigError for the first cell whose run would be refused; nothing is written."""
        for cell in cells:
            require(self._run(cell).checks())

    def require_comparable(self, cells: Sequence[Cell]) -> None:
        """Raise ConfigError where the runs of two cells would be measured by different protocols."""
        first, *others = (self._run(cell).protocol() for cell in cells)
        for protocol in others:
            apart = difference(first, protocol)
            if apart:
                raise ConfigError(
                    f"the study would measure its runs by different protocols ({apart}), so nothing could compare "
                    "them; give them the same value, or train each in a --run of its own"
                )

    def pipeline(self, cell: Cell) -> Pipeline:
        """Prepare the directory of a cell's run and return the run."""
        pipeline = self._run(cell)
        pipeline.prepare()
        return pipeline

    def _run(self, cell: Cell) -> Pipeline:
        config = with_values(self.config, cell, "the study")
        return Pipeline(self.root / "cells" / cell_name(config, cell), config, self.shards, self.shared)


def cell_name(config: Config, cell: Cell) -> str:
    """Return a name made of the cell's settings and a digest of the configuration, which makes it unique."""
    said = [f"{key.rsplit('.', 1)[-1]}-{_short(value)}" for key, value in cell.items() if key != "seed"]
    digest = digest_json(config.model_dump(mode="json"))[:8]
    return re.sub(r"[^\w.-]+", "_", "-".join([f"seed-{config.seed}", *said]))[:80] + f"-{digest}"


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
