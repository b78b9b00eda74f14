"""Experiment trackers: TensorBoard, MLflow, Weights & Biases; written by the first worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

from rgcluster.base.storage import Location, digest_bytes
from rgcluster.errors import ConfigError

__all__ = ["Tracker", "open_trackers"]


class Tracker(Protocol):
    """Receives the values of a report."""

    def log(self, step: int, numbers: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `tensorboard/` below the stage's directory."""

    def __init__(self, directory: Location, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory.local() / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run of the experiment `rgcluster` at MLFLOW_TRACKING_URI, which is reused when a stage continues."""

    def __init__(self, directory: Location, step: int) -> None:
        self._mlflow = _imported("mlflow")
        self._mlflow.set_experiment("rgcluster")
        name = _name(directory)
        found = self._mlflow.search_runs(
            filter_string=f"tags.rgcluster_run = '{_key(directory)}'", output_format="list", max_results=1
        )
        if step and found:
            self._mlflow.start_run(run_id=found[0].info.run_id)
        else:
            self._mlflow.start_run(run_name=name, tags={"rgcluster_run": _key(directory)})

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._mlflow.log_metrics(numbers, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class WeightsAndBiases:
    """A run of the project `rgcluster`, configured by WANDB_MODE and WANDB_API_KEY, reused when a stage continues."""

    def __init__(self, directory: Location, step: int) -> None:
        folder = str(directory.local()) if directory.is_local else None
        self._run = _imported("wandb").init(
            project="rgcluster", name=_name(directory), id=_key(directory), dir=folder, resume="allow"
        )

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log(numbers, step=step)

    def close(self) -> None:
        self._run.finish()


KINDS: dict[str, Callable[[Location, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


def open_trackers(
    names: Sequence[str], directory: Location, step: int, failed: Callable[[str, Exception], None]
) -> list[Tracker]:
    """Return the trackers for a stage that continues after `step`; ConfigError where one is not installed.

    `failed` is told of others that cannot be opened. TensorBoard needs a local directory and is left out elsewhere.
    """
    opened = []
    for name in names:
        if name == "tensorboard" and not directory.is_local:
            continue
        try:
            opened.append(KINDS[name](directory, step))
        except ConfigError:
            raise
        except Exception as error:  # what watches a training never ends it
            failed(name, error)
    return opened


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ConfigError(
            f"cluster.trackers names {name}, which is not installed; pip install 'rgcluster[{name}]', or leave it out"
        ) from None


def _name(directory: Location) -> str:
    run, stage = str(directory).rstrip("/").rsplit("/", 2)[-2:]
    return f"{run}-{stage}"


def _key(directory: Location) -> str:
    return digest_bytes(str(directory).encode())
