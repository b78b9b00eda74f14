"""One worker loop for all stages, run by Ray Train."""

from __future__ import annotations

import math
import tempfile
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.train
import torch

from rgcluster import errors
from rgcluster.checkpoint import load_tree, save_tree
from rgcluster.data.images import encode_png
from rgcluster.errors import RGClusterError, TrainingDiverged, root_cause
from rgcluster.inference.device import pick_device
from rgcluster.model.losses import Parts
from rgcluster.storage import Location
from rgcluster.train.guidance import GuidanceStage
from rgcluster.train.metrics import MetricsLog
from rgcluster.train.retrieval import RetrievalStage
from rgcluster.train.stage import Run, Stage, Worker
from rgcluster.train.translation import TranslationStage
from rgcluster.train.translator import mean_over_workers

__all__ = ["FAILURE", "MODEL", "STAGES", "raise_failure", "train_worker"]

STAGES: dict[str, type[Stage]] = {
    "translation": TranslationStage,
    "retrieval": RetrievalStage,
    "guidance": GuidanceStage,
}
MODEL = "model"
"""Directory, below a stage's own, of the networks that it hands on."""
FAILURE = "failure.json"
"""Left by a worker for an error that trying again cannot mend."""


def train_worker(task: dict[str, Any]) -> None:
    """Train one stage as one of the workers; `task` holds the `Run`, `gpu` and `threads`."""
    run: Run = task["run"]
    context = ray.train.get_context()
    if (run.directory / FAILURE).exists():  # the group was restarted after a deliberate error: end it
        return
    torch.set_num_threads(task["threads"])
    try:
        device = pick_device(run.config.cluster, gpu=task["gpu"])
        _train(STAGES[run.stage](run, Worker(context.get_world_rank(), context.get_world_size(), device)))
    except Exception as error:
        cause = root_cause(error)
        if not isinstance(cause, RGClusterError):
            raise
        (run.directory / FAILURE).write_json({"type": type(cause).__name__, "message": str(cause)})
        if context.get_world_size() > 1 and not isinstance(cause, TrainingDiverged):
            raise  # the other workers wait in a collective; a divergence all of them see alike


def raise_failure(directory: Location) -> None:
    """Raise the error that a worker left in the stage's directory, if one did, and clear it."""
    if not (directory / FAILURE).exists():
        return
    failure = (directory / FAILURE).read_json()
    (directory / FAILURE).remove()
    raise getattr(errors, failure["type"])(failure["message"])


def _train(stage: Stage) -> None:
    settings, worker, directory = stage.settings, stage.worker, stage.run.directory
    start = _restore(stage)
    log = MetricsLog(directory, start) if worker.rank == 0 else None
    meter = _Meter(stage)
    inputs = stage.inputs(start, settings.steps)
    for step in range(start, settings.steps):
        meter.add(stage.step(step, next(inputs)))
        done = step + 1
        last = done == settings.steps
        if done % settings.report_every == 0 or last:
            line = meter.report(done)
            if log:
                log.write(line)
        if log and (done % settings.sample_every == 0 or last):
            _save_samples(directory, done, stage.samples(done))
        if done % settings.checkpoint_every == 0 and not last:
            _report(stage, done)
            meter.restart_clock()
    if log:
        stage.hand_over(directory / MODEL)
        log.close()
    # Every rank reports, so none leaves while the first still writes.
    ray.train.report({"step": settings.steps})


def _restore(stage: Stage) -> int:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as directory:
        tree, manifest = load_tree(Location(directory))
        stage.load(tree, str(checkpoint.path))
    return int(manifest["step"])


def _report(stage: Stage, step: int) -> None:
    """Hand a checkpoint to Ray Train, which keeps it and gives it back after a failure."""
    name = f"step-{step:08d}"
    if stage.worker.rank != 0:
        ray.train.report({"step": step}, checkpoint_dir_name=name)
        return
    with tempfile.TemporaryDirectory(prefix="rgcluster-") as directory:
        save_tree(Location(directory), stage.state(), {"kind": stage.run.stage, "step": step})
        checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report({"step": step}, checkpoint=checkpoint, checkpoint_dir_name=name)


def _save_samples(directory: Location, step: int, pictures: dict[str, npt.NDArray[np.uint8]]) -> None:
    for name, picture in pictures.items():
        (directory / "samples" / f"{name}-{step:08d}.png").write_bytes(encode_png(picture))


class _Meter:
    """Sums losses on the device and times a report's span of steps; reads the losses back once a report."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._sums: Parts = {}
        self._steps = 0
        self.restart_clock()

    def restart_clock(self) -> None:
        self._clock = time.perf_counter()

    def add(self, parts: Parts) -> None:
        self._steps += 1
        for name, value in parts.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()

    def report(self, step: int) -> dict[str, Any]:
        """Return the metrics line of the steps since the last; TrainingDiverged where a loss is not finite."""
        worker, settings = self._stage.worker, self._stage.settings
        names = sorted(self._sums)
        sums = torch.stack([self._sums[name].float() for name in names]) / self._steps
        means = mean_over_workers(sums, worker.world).tolist()
        for name, mean in zip(names, means, strict=True):
            if not math.isfinite(mean):
                stage, first = self._stage.run.stage, step - self._steps + 1
                rate = getattr(self._stage.config, stage).optimizer.learning_rate
                raise TrainingDiverged(
                    f"{stage}: loss {name} is {mean} within steps {first} to {step}; remove the stage's directory "
                    f"and train it with a lower {stage}.optimizer.learning_rate than {rate:g}"
                )
        seconds = time.perf_counter() - self._clock
        line = {
            "step": step,
            "steps": settings.steps,
            "seconds_per_step": seconds / self._steps,
            "images_per_second": settings.batch_size * self._steps / seconds,
            **{f"wait_{name}": value / self._steps for name, value in self._stage.waits().items()},
            **dict(zip(names, means, strict=True)),
        }
        self._sums, self._steps = {}, 0
        self.restart_clock()
        return line
