"""The stages of a run in order. Each is keyed by its dependencies, and finished stages are not repeated.

The same command continues where it stopped; another configuration is refused (`rundir.py`). Runs that share a
directory of stages reuse the stages that another run has finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rgcluster.base.logs.events import add_event, read_events
from rgcluster.base.progress import task
from rgcluster.base.rundir import (
    CONFIG,
    DATA,
    MANIFEST,
    STAGE,
    binding,
    enter,
    is_blank,
    is_finished,
    link_stage,
    refuse_other,
    stage_directory,
    work_once,
)
from rgcluster.base.storage import Location
from rgcluster.config import keys_outside_digest
from rgcluster.errors import RunConflict, Terminated, root_cause
from rgcluster.evaluate.figures.failures import worst_inputs
from rgcluster.evaluate.figures.figures import FIGURES, draw_figures
from rgcluster.evaluate.report.report import write_report
from rgcluster.pipeline.checks import Check, check_run, images_of, require
from rgcluster.pipeline.context import RunContext
from rgcluster.pipeline.stages import STAGES, PipelineStage
from rgcluster.train.preflight import check_nodes

__all__ = ["Pipeline", "flatten"]


class Pipeline(RunContext):
    """One run directory and the stages in it."""

    def require(self) -> None:
        """Raise ConfigError where settings, data, disk and what is installed do not fit each other.

        RunConflict for a run begun with other data, or with a stage made by another configuration; a stage that has
        trained nothing takes new settings. Needs no Ray, writes nothing.
        """
        require(check_run(self.config, images_of(self.shards, self.config), self.run))
        self._refuse_other_run()

    def prepare(self) -> None:
        """Check the run (`require`) and that the cluster can hold it, then write its configuration and manifest."""
        self.require()
        self.placement()
        enter(self.run, self._identity(), MANIFEST)
        (self.run / CONFIG).write_text(self.config.to_yaml())
        (self.run / DATA).write_json({"shards": self.shards.location, "dataset": self.shards.dataset})

    def finish(self, name: str) -> None:
        """Finish the stage of that name in `STAGES`, after every stage that it needs."""
        stage = STAGES[name]
        for needed in stage.needs:
            self.finish(needed)
        depends = self.depends(name)
        directory = self._enter(name, depends)
        self._once(name, directory, depends, lambda: stage.work(self, directory))

    def depends(self, name: str) -> dict[str, Any]:
        """Return the dependencies of a stage; the stages that it needs must be finished."""
        stage = STAGES[name]
        return stage.depends(self, self._settings(stage))

    def report(self) -> Location:
        """Evaluate, draw the figures, then write `report/index.html`."""
        for needed in STAGES["evaluation"].needs:
            self.finish(needed)
        with self.one_store():
            self.finish("evaluation")
            self._draw_figures()
        return write_report(self.config, self.run)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each finished stage, over all its starts."""
        files = {name: stage_directory(self.run, name) / STAGE for name in STAGES}
        return {name: file.read_record("seconds")["seconds"] for name, file in files.items() if file.exists()}

    def _draw_figures(self) -> None:
        """Draw the figures, once."""
        done = stage_directory(self.run, "evaluation") / FIGURES / "drawn.json"
        if done.exists():
            return
        faces, test, train = self.shards.faces, self.measured("test"), self.measured("train")
        with task(self.title("figures")), self.start_store(self.name_of_store("figures")) as store:
            worst, gpu = worst_inputs(self.measuring()), self.placement().gpu
            drawn = draw_figures(self.config, self.run, store, test, train, faces, gpu=gpu, worst=worst)
            done.write_json(drawn)

    def checks(self) -> list[Check]:
        """Return every check of `prepare`, without writing anything."""
        found = check_run(self.config, images_of(self.shards, self.config), self.run)
        try:
            self._refuse_other_run()
        except RunConflict as error:
            return [*found, Check("run directory", str(error), passed=False)]
        begun = (self.run / MANIFEST).exists()
        return [*found, Check("run directory", "continues this run" if begun else "new")]

    def _identity(self) -> dict[str, Any]:
        """Return the context of the run's stages."""
        return {"seed": self.config.seed, "shards": self.shards.digest}

    def _refuse_other_run(self) -> None:
        """Raise RunConflict where the directory holds a run or a stage with other settings."""
        manifest = self.run / MANIFEST
        if manifest.exists():
            refuse_other(self.run, manifest.read_record("depends")["depends"], self._identity())
        for name, stage in STAGES.items():
            file = self.run / name / STAGE
            if not file.exists() or not stage.sections:
                continue
            record = file.read_record("depends", "finished")
            if not is_blank(self.run / name, record):
                # Digests of networks and the protocol are compared when the stage starts.
                later = {*STAGES, "protocol"}
                before = {key: value for key, value in record["depends"].items() if key not in later}
                refuse_other(self.run / name, before, binding(record, self._settings(stage)))

    def _settings(self, stage: PipelineStage) -> dict[str, Any]:
        """Return the seed, the shards and the settings of the stage's sections that affect its output."""
        dump = self.config.model_dump(mode="json")
        values = flatten({name: dump[name] for name in stage.sections})
        outside = keys_outside_digest()
        return {
            "seed": self.config.seed,
            "shards": self.shards.digest,
            **{key: value for key, value in values.items() if key not in outside},
        }

    def _enter(self, stage: str, depends: Mapping[str, Any]) -> Location:
        """Return the stage's directory, shared or the run's own."""
        if self.shared is None:
            return self.run / stage
        place = self.shared.place(stage, depends)
        link_stage(self.run, stage, place)
        return place

    def _once(
        self, name: str, directory: Location, depends: Mapping[str, Any], work: Callable[[], None]
    ) -> None:
        """Do a stage's work unless it is finished; the run's events record the outcome."""
        if is_finished(directory, depends):
            return

        def checked() -> None:
            check_nodes(directory, STAGES[name].weights_in_use(self.config))
            work()

        start = time.monotonic()
        begun = any(event.stage == name for event in read_events(self.run))
        add_event(self.run, name, "resumed" if begun else "begun")
        try:
            work_once(directory, depends, checked)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit | Terminated)
            add_event(
                self.run, name, "interrupted" if interrupted else "failed", str(root_cause(error))[:1000]
            )
            raise
        add_event(self.run, name, "finished", f"in {time.monotonic() - start:.0f} s")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
