"""One worker loop for all stages, run by Ray Train."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import ray.train
import torch

from rgcluster import errors
from rgcluster.base.logs.notices import add_notice
from rgcluster.base.rundir import FAILURE, MODEL
from rgcluster.base.storage import Location
from rgcluster.data.images import encode_png
from rgcluster.errors import CollectiveStalled, RGClusterError, Terminated, TrainingDiverged, root_cause
from rgcluster.train.checkpoints import Checkpoints
from rgcluster.train.guards import explained
from rgcluster.train.meter import Meter
from rgcluster.train.preemption import STOPPED, PreemptionWatch
from rgcluster.train.records.metrics import MetricsLog
from rgcluster.train.stage import Run, Stage, Worker
from rgcluster.train.steps.guidance import GuidanceStage
from rgcluster.train.steps.retrieval import RetrievalStage
from rgcluster.train.steps.translation import TranslationStage
from rgcluster.train.workers import from_first
from rgcluster.translate.device import pick_device

__all__ = ["STAGES", "raise_failure", "train_stage", "train_worker"]

STAGES: dict[str, type[Stage]] = {
    "translation": TranslationStage,
    "retrieval": RetrievalStage,
    "guidance": GuidanceStage,
}


def train_worker(task: dict[str, Any]) -> None:
    """Train one stage as one of the workers; `task` holds the `Run`, `gpu` and `threads`."""
    run: Run = task["run"]
    cluster, settings = run.config.cluster, getattr(run.config, run.stage)
    context = ray.train.get_context()
    if (run.directory / FAILURE).exists():  # the group was restarted after a deliberate error: end it
        return
    torch.set_num_threads(task["threads"])
    try:
        with explained(run.stage, settings, cluster.collective_timeout_s):
            device = pick_device(cluster, gpu=task["gpu"])
            worker = Worker(context.get_world_rank(), context.get_world_size(), device)
            train_stage(STAGES[run.stage](run, worker))
    except Exception as error:
        cause = root_cause(error)
        if not isinstance(cause, RGClusterError) or isinstance(cause, CollectiveStalled):
            raise  # another attempt may succeed
        (run.directory / FAILURE).write_json({"type": type(cause).__name__, "message": str(cause)})
        if context.get_world_size() > 1 and not isinstance(cause, TrainingDiverged):
            raise  # the other workers wait in a collective, except for a divergence, which all workers see


def raise_failure(directory: Location) -> None:
    """Raise the error that a worker recorded in the stage's directory, if any, and remove the record."""
    if not (directory / FAILURE).exists():
        return
    failure = (directory / FAILURE).read_json()
    (directory / FAILURE).remove()
    raise getattr(errors, failure["type"])(failure["message"])


def train_stage(stage: Stage) -> None:
    """Train from the newest intact checkpoint to the stage's last step, then write the networks."""
    settings, worker, directory = stage.settings, stage.worker, stage.run.directory
    checkpoints = Checkpoints(directory, stage.run.stage, settings)
    start = _restore(stage, checkpoints)
    log = MetricsLog(directory, start, stage.config.cluster.trackers) if worker.rank == 0 else None
    meter = Meter(stage)
    inputs = stage.inputs(start, settings.steps)
    line: dict[str, Any] = {}
    with PreemptionWatch(directory, worker.rank) as watch:
        for step in range(start, settings.steps):
            meter.add(stage.step(step, next(inputs)))
            done = step + 1
            last = done == settings.steps
            save = done % settings.checkpoint_every == 0 and not last
            if (
                done % settings.report_every == 0 or last or save
            ):  # no checkpoint of losses that nobody looked at
                line = meter.report(done)
                if log:
                    log.write(line)
            if log and (done % settings.sample_every == 0 or last):
                with worker.device.autocast():
                    pictures = stage.samples(done)
                _save_samples(directory, done, pictures)
            if save:
                if log:
                    log.flush()
                    checkpoints.save(done, stage.state(), line)
                ray.train.report(_reported(line))
                meter.restart_clock()
            why = watch.requested() if log and not last else None
            if log and why:
                if not save and meter.is_finite():
                    # The first worker alone: it has the whole state, and others may be gone the next moment.
                    log.flush()
                    checkpoints.save(done, stage.state(), {})
                    checkpoints.wait()  # the notice tells of what is there
                    add_notice(directory, f"checkpoint of step {done}: {why}")
                checkpoints.wait()
                watch.answered()
                if why == STOPPED:
                    raise Terminated(
                        f"{stage.run.stage}: {why}; the same command continues after step {done}"
                    )
    checkpoints.close()
    if log:
        stage.hand_over(directory / MODEL)
        log.close()
    # Every rank reports, so that none exits while the first still writes.
    ray.train.report(_reported(line))


def _restore(stage: Stage, checkpoints: Checkpoints) -> int:
    """Load the newest checkpoint, which the first worker alone reads; return the number of finished steps."""
    worker = stage.worker
    found = from_first(checkpoints.latest() if worker.rank == 0 else None, worker)
    if found is None:
        return 0
    step, tree = found
    stage.load(tree, checkpoints.place(step))
    return step


def _reported(line: dict[str, Any]) -> dict[str, Any]:
    return line or {"step": 0}


def _save_samples(directory: Location, step: int, pictures: dict[str, npt.NDArray[np.uint8]]) -> None:
    for name, picture in pictures.items():
        (directory / "samples" / f"{name}-{step:08d}.png").write_bytes(encode_png(picture))
