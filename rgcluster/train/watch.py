"""Records lost workers in the run's events; called by Ray Train's controller."""

from __future__ import annotations

from typing import Any

from ray.train.v2.api.callback import UserCallback

from rgcluster.base.logs.events import add_event
from rgcluster.base.storage import Location
from rgcluster.errors import RGClusterError, root_cause

__all__ = ["WorkerWatch"]


class WorkerWatch(UserCallback):
    """`run` is the run's directory as text, which can be pickled."""

    def __init__(self, run: str, stage: str) -> None:
        self._run, self._stage = run, stage

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in sorted(worker_exceptions.items()):
            cause = root_cause(error)
            line = next((line for line in str(cause).splitlines() if line.strip()), "no message")
            kind = "worker failed" if isinstance(cause, RGClusterError) else "worker lost"
            add_event(
                Location(self._run), self._stage, kind, f"rank {rank}: {type(cause).__name__}: {line[:300]}"
            )
