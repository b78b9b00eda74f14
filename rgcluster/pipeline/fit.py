"""Training of one stage by Ray Train: starts it, shows its progress, and reports a failure in one line."""

from __future__ import annotations

import ray
from ray.train import LoggingConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import FailureConfig, RunConfig

from rgcluster.base.cluster.internals import without_idle_actors
from rgcluster.base.logs.events import add_event
from rgcluster.base.logs.notices import read_notices
from rgcluster.base.placement import Resources
from rgcluster.base.progress import Update, console, follow, task
from rgcluster.base.rundir import FAILURE
from rgcluster.base.session import interruptible
from rgcluster.base.storage import Location
from rgcluster.errors import DataError, OutOfMemory, StorageError, root_cause
from rgcluster.train.guards import is_out_of_memory, memory_advice
from rgcluster.train.loop import raise_failure, train_worker
from rgcluster.train.preemption import clear_requests, request_stop, stoppable
from rgcluster.train.records.metrics import read_metrics
from rgcluster.train.stage import Run
from rgcluster.train.watch import WorkerWatch

__all__ = ["fit"]


def fit(stage: Run, share: Resources, run: Location, title: str) -> None:
    """Train a stage to its end on the workers of `share`; what happens is logged in the directory of `run`.

    DataError where a batch is larger than the data, OutOfMemory with what to lower, otherwise the error that
    stopped the workers.
    """
    name, settings = stage.stage, getattr(stage.config, stage.stage)
    if settings.batch_size > len(stage.source.index):
        raise DataError(
            f"{name}.batch_size = {settings.batch_size} is larger than the "
            f"{len(stage.source.index)} training images; "
            "lower it or add images"
        )
    trainer = _trainer(stage, share, run)
    without_idle_actors(trainer, by_driver=ray.get_runtime_context().get_actor_id() is None)
    directory = stage.directory
    (directory / FAILURE).remove()
    clear_requests(directory)
    shown = len(read_notices(directory))
    with (
        task(title) as update,
        follow(lambda: _show(directory, update), 0.7 if directory.is_local else 5.0),
    ):
        try:
            with interruptible(), stoppable(lambda: request_stop(directory)):
                trainer.fit()
        except Exception as error:
            raise_failure(directory)
            if is_out_of_memory(error):
                raise OutOfMemory(memory_advice(name, settings)) from None
            raise root_cause(error) from None
        finally:
            for notice in read_notices(directory)[shown:]:
                console.print(f"{name}: {notice}", soft_wrap=True)
                add_event(run, name, "notice", notice)
        raise_failure(directory)


def _trainer(stage: Run, share: Resources, run: Location) -> TorchTrainer:
    cluster = stage.config.cluster
    return TorchTrainer(
        train_worker,
        train_loop_config={"run": stage, "gpu": share.gpu, "threads": share.threads},
        torch_config=TorchConfig(
            backend="nccl" if share.gpu else "gloo", timeout_s=cluster.collective_timeout_s
        ),
        scaling_config=ScalingConfig(
            num_workers=share.range,  # type: ignore[arg-type]
            use_gpu=share.gpu,
            resources_per_worker=share.per_worker,
        ),
        run_config=RunConfig(  # type: ignore[arg-type]
            name="ray",
            **stage.directory.for_ray,
            failure_config=FailureConfig(max_failures=cluster.max_failures, controller_failure_limit=3),
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=[WorkerWatch(str(run), stage.stage)],
        ),
    )


def _show(directory: Location, update: Update) -> None:
    try:
        lines = read_metrics(directory)
    except StorageError:  # the workers, which need the storage, report it
        return
    if lines:
        last = lines[-1]
        update(last["step"], last["steps"], f"{last['images_per_second']:.0f} images/s")
