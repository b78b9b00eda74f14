"""The live table of a sweep: state, step and loss of every trial, and finally its value."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.live import Live
from rich.table import Table

from rgcluster.base.progress import console
from rgcluster.study.cells import Study
from rgcluster.study.trials import Trial, finished_results

__all__ = ["LiveTable"]


class LiveTable:
    """A table that is redrawn on a terminal; elsewhere, a line for each change of state."""

    def __init__(self, study: Study, metric: str) -> None:
        self.study, self.metric = study, metric
        self._live = (
            Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
        )
        self._states: dict[int, str] = {}
        self._values: dict[int, str] = {}

    def __enter__(self) -> LiveTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, trials: Sequence[Trial]) -> None:
        """Draw the trials."""
        changed = [n for n, trial in enumerate(trials) if self._states.get(n) != trial.state]
        for number in changed:
            trial = trials[number]
            self._states[number] = trial.state
            if trial.state in ("finished", "ended") and number not in self._values:
                self._values[number] = self._value(trial)
            if not self._live:
                console.print(f"trial {number + 1}/{len(trials)} {_named(trial)}: {trial.state}")
        if self._live:
            self._live.update(self._table(trials), refresh=True)

    def _table(self, trials: Sequence[Trial]) -> Table:
        table = Table(*trials[0].cell, "state", "step", "loss", self.metric)
        for number, trial in enumerate(trials):
            loss = "" if trial.loss is None else f"{trial.loss:.4g}"
            step = str(trial.step or "")
            table.add_row(
                *map(_text, trial.cell.values()), trial.state, step, loss, self._values.get(number, "")
            )
        return table

    def _value(self, trial: Trial) -> str:
        results = finished_results(self.study, trial.cell)
        rows = results["tables"]["translation"] if results else []
        return next(
            (f"{row[self.metric]:.4g}" for row in rows if row["model"] == "rg-unit" and row[self.metric]), ""
        )


def _named(trial: Trial) -> str:
    return ", ".join(f"{key} {_text(value)}" for key, value in trial.cell.items())


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
