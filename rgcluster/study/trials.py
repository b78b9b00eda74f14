"""Ray Tune over the cells of a sweep. A trial trains what no other trial shares, stage 3 at least, and measures.

Finished work is found on disk, so the same command continues a sweep whose driver died. A sweep that is asked to stop
says so in a file, which the driver of every trial polls: trials that train end with a checkpoint, and the others,
which would only repeat what they measure, end with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from rgcluster.base.placement import CPUS_PER_DRIVER, place
from rgcluster.base.progress import follow
from rgcluster.base.rundir import RESULTS, STAGE, stage_directory
from rgcluster.base.session import cluster_nodes
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.data.shards import ShardSet
from rgcluster.errors import ConfigError, RGClusterError, Terminated, root_cause
from rgcluster.pipeline.context import Shared, SourceKey
from rgcluster.pipeline.run import Pipeline
from rgcluster.study.cells import Cell, Study
from rgcluster.train.preemption import STOPPED, request_stop, stoppable
from rgcluster.train.records.metrics import read_metrics

__all__ = ["Plan", "Trial", "concurrency", "finished_results", "run_trials"]

NOTES = "sweep/trials"
"""Folder of the study with a file for every trial that ended without results, and the reason."""
STOP = "sweep/stop"
"""File of the study that asks its trials to stop."""


@dataclass(frozen=True)
class Plan:
    """Arguments of the trials' drivers: plain values and object references."""

    root: Location
    config: Config
    shards: ShardSet
    sources: dict[SourceKey, Any]
    trials: int
    loss: str
    """The key of `metrics.jsonl` by which ASHA ranks trials; lower is better."""

    def study(self) -> Study:
        shared = Shared(self.root / "stages", self.root, dict(self.sources), self.trials)
        return Study(self.root, self.config, self.shards, shared)


@dataclass
class Trial:
    """The state of one cell."""

    cell: Cell
    state: str = "waiting"
    step: int = 0
    loss: float | None = None


def concurrency(config: Config, most: int | None = None) -> int:
    """Return the number of trials that may run at once; ConfigError where the cluster cannot run even one.

    A trial occupies its driver, its store's shards and its workers, and needs room to read data beside them.
    Without this limit, drivers could occupy what their own workers wait for.
    """
    nodes = cluster_nodes()
    wanted = config.cluster.workers or 1
    gpus = sum(int(node.gpus) for node in nodes) if config.cluster.gpu != "never" else 0
    limit = (gpus or int(sum(node.cpus for node in nodes))) // wanted
    for number in range(min(limit, most or limit), 1, -1):
        with suppress(ConfigError):
            place(config, nodes, number)
            return number
    place(config, nodes)
    return 1


def run_trials(
    plan: Plan, cells: Sequence[Cell], *, asha: bool, grace: int, report: Callable[[list[Trial]], None]
) -> list[Trial]:
    """Run the cells without results; return every trial's state. `report` is called at every change.

    Terminated after SIGTERM, once the trials that train have written a checkpoint.
    """
    study = plan.study()
    trials = [Trial(cell, _state(study.pipeline(cell), plan.root, asha)) for cell in cells]
    report(trials)
    # ASHA compares with earlier trials, so finished ones report their values again.
    open_ = [number for number, trial in enumerate(trials) if trial.state == "waiting" or asha]
    if not any(trials[number].state == "waiting" for number in open_):
        return trials
    steps = [study.pipeline(cell).config.guidance.steps for cell in cells]
    # One step more than any trial has: at max_t ASHA stops a trial, which has yet to measure.
    scheduler = (
        ASHAScheduler(time_attr="step", metric="loss", mode="min", max_t=max(steps) + 1, grace_period=grace)
        if asha
        else None
    )
    stop = _Stop(plan.root / STOP, trials)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_drive, plan=plan, cells=list(cells)), {"cpu": CPUS_PER_DRIVER}
        ),
        param_space={"cell": tune.grid_search(open_)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=plan.trials, scheduler=scheduler, reuse_actors=False
        ),
        run_config=tune.RunConfig(
            name="tune",
            **(plan.root / "sweep").for_ray,
            verbose=0,
            stop=stop,
            callbacks=[_Watch(trials, steps, report)],
        ),
    )
    _quiet()
    with stop, stoppable(stop.request):
        found = tuner.fit()
    for result in (found[at] for at in range(len(found))):
        number = result.config["cell"] if result.config else None
        if number is not None and result.error:
            trials[number].state = "failed"
            _note(plan.root, study.pipeline(cells[number]).run.name, "failed", _first_line(result.error))
    if stop.requested:
        raise Terminated(f"sweep: {STOPPED}; the same command continues its trials where they stopped")
    for trial, total in zip(trials, steps, strict=True):
        pipeline = study.pipeline(trial.cell)
        if _finished(pipeline):
            trial.state = "finished"
        elif trial.state == "ended":
            trial.state = "stopped" if asha else "failed"
            why = f"by ASHA, at step {trial.step} of {total}" if asha else "ended without results"
            _note(plan.root, pipeline.run.name, trial.state, why)
    report(trials)
    return trials


def finished_results(study: Study, cell: Cell) -> dict[str, Any] | None:
    """Return the results of a finished cell."""
    pipeline = study.pipeline(cell)
    if not _finished(pipeline):
        return None
    return dict((stage_directory(pipeline.run, "evaluation") / RESULTS).read_json())


def _drive(setting: dict[str, Any], plan: Plan, cells: list[Cell]) -> dict[str, Any] | None:
    """Run one trial: train, report stage 3's loss to Tune, then measure; None where it was asked to stop."""
    stop = plan.root / STOP
    if stop.exists():
        return None
    pipeline = plan.study().pipeline(cells[setting["cell"]])
    reported: dict[str, Any] = {"step": 0}

    def report_loss() -> None:
        for line in read_metrics(stage_directory(pipeline.run, "guidance")):
            if line["step"] > reported["step"] and plan.loss in line:
                reported.update(step=line["step"], loss=line[plan.loss])
                tune.report(dict(reported))

    def poll() -> None:
        with suppress(OSError, RGClusterError):  # the workers, which need the storage, report it
            if stop.exists():
                _stop_training(pipeline.run)
            report_loss()

    if (plan.root / NOTES / f"{pipeline.run.name}.json").exists():  # stopped earlier
        report_loss()
        return reported
    try:
        with follow(poll):
            pipeline.finish("guidance")
        report_loss()
        if "loss" not in reported:
            raise ConfigError(
                f"--loss {plan.loss}: guidance/metrics.jsonl of {pipeline.run} has no such line"
            )
        pipeline.finish("evaluation")
    except Terminated:
        return None
    except Exception as error:
        raise root_cause(error) from None
    return reported


def _stop_training(run: Location) -> None:
    """Ask the run's stage at work for a checkpoint, after which it ends."""
    for stage in ("translation", "retrieval", "guidance"):
        directory = stage_directory(run, stage)
        if (directory / STAGE).exists() and not (directory / STAGE).read_record("finished")["finished"]:
            request_stop(directory)


class _Stop(tune.Stopper):
    """Ends the experiment once a stop is requested and no trial trains any more."""

    def __init__(self, file: Location, trials: list[Trial]) -> None:
        self.file, self.trials = file, trials
        self.requested = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as of `_Watch`

    def __enter__(self) -> _Stop:
        self.file.remove()
        return self

    def __exit__(self, *error: object) -> None:
        self.file.remove()

    def request(self) -> None:
        """Ask every trial to stop."""
        self.requested = True
        self.file.write_bytes(b"\n")

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.requested and not any(trial.state == "training" for trial in self.trials)


class _Watch(tune.Callback):
    """Updates the states of the live table."""

    def __init__(
        self, trials: list[Trial], steps: Sequence[int], report: Callable[[list[Trial]], None]
    ) -> None:
        self.trials, self.steps, self.report = trials, steps, report

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks to disk; this one holds the state of this process

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._set(trial, "training")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["cell"]
        own = self.trials[number]
        own.step, own.loss = int(result.get("step", own.step)), result.get("loss", own.loss)
        self._set(trial, "measuring" if own.step >= self.steps[number] else "training")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._set(trial, "ended")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._set(trial, "failed")

    def _set(self, trial: Any, state: str) -> None:
        own = self.trials[trial.config["cell"]]
        if own.state not in ("finished", "stopped"):
            own.state = state
        self.report(self.trials)


def _state(pipeline: Pipeline, root: Location, asha: bool) -> str:
    if _finished(pipeline):
        return "finished"
    note = root / NOTES / f"{pipeline.run.name}.json"
    if note.exists() and asha and note.read_json()["state"] == "stopped":
        return "stopped"
    note.remove()
    return "waiting"


def _finished(pipeline: Pipeline) -> bool:
    file = stage_directory(pipeline.run, "evaluation") / STAGE
    return file.exists() and bool(file.read_record("finished")["finished"])


def _note(root: Location, name: str, state: str, why: str) -> None:
    (root / NOTES / f"{name}.json").write_json({"state": state, "why": why})


def _first_line(error: BaseException) -> str:
    cause = root_cause(error)
    return f"{type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}"


def _quiet() -> None:
    # Ctrl-C should end the sweep, which can be continued, not each trial separately.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # Tune's own files of every trial are not needed.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
