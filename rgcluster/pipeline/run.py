"""A run's stages in order: each is keyed by what it depends on, and a finished one is not repeated.

The same command continues where it stopped; another configuration is refused (`rundir.py`). Runs that share a
directory of stages reuse the stages that another run has finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rgcluster.base.attributes import domain_columns
from rgcluster.base.logs.events import add_event, read_events
from rgcluster.base.progress import task
from rgcluster.base.rundir import (
    CONFIG,
    DATA,
    MANIFEST,
    STAGE,
    binding,
    enter,
    is_finished,
    link_stage,
    refuse_other,
    stage_directory,
    work_once,
)
from rgcluster.base.storage import Location
from rgcluster.config import keys_outside_digest
from rgcluster.errors import ConfigError, Terminated, root_cause
from rgcluster.evaluate.figures.failures import worst_inputs
from rgcluster.evaluate.figures.figures import FIGURES, draw_figures
from rgcluster.evaluate.report.report import write_report
from rgcluster.pipeline.context import RunContext
from rgcluster.pipeline.stages import STAGES, PipelineStage
from rgcluster.train.preflight import check_nodes

__all__ = ["Pipeline", "flatten"]


class Pipeline(RunContext):
    """One run directory and the stages in it."""

    def prepare(self) -> None:
        """Write the run's configuration and manifest; refuse a run begun with other data or another configuration."""
        self._check_domains()
        self.placement()
        enter(self.run, {"seed": self.config.seed, "shards": self.shards.digest}, MANIFEST)
        for name, stage in STAGES.items():
            file = self.run / name / STAGE
            if file.exists() and stage.sections:  # digests of networks are compared at the stage's turn
                record = file.read_json()
                before = {key: value for key, value in record["depends"].items() if key not in STAGES}
                refuse_other(self.run / name, before, binding(record, self._settings(stage)))
        (self.run / CONFIG).write_text(self.config.to_yaml())
        (self.run / DATA).write_json({"shards": self.shards.location, "dataset": self.shards.dataset})

    def finish(self, name: str) -> None:
        """Finish the stage of that name in `STAGES`, and before it every stage that it needs."""
        stage = STAGES[name]
        for needed in stage.needs:
            self.finish(needed)
        depends = self.depends(name)
        directory = self._enter(name, depends)
        self._once(name, directory, depends, lambda: stage.work(self, directory))

    def depends(self, name: str) -> dict[str, Any]:
        """Return what a stage depends on; the stages that it needs must be finished."""
        stage = STAGES[name]
        return stage.depends(self, self._settings(stage))

    def report(self) -> Location:
        """Evaluate, draw the figures, then write `report/index.html`."""
        self.finish("evaluation")
        self._draw_figures()
        return write_report(self.config, self.run)

    def seconds(self) -> dict[str, float]:
        """Return how long each finished stage took, over all its starts."""
        files = {name: stage_directory(self.run, name) / STAGE for name in STAGES}
        return {name: file.read_json()["seconds"] for name, file in files.items() if file.exists()}

    def _draw_figures(self) -> None:
        """Draw the figures, once."""
        done = stage_directory(self.run, "evaluation") / FIGURES / "drawn.json"
        if done.exists():
            return
        faces, test, train = self.shards.faces, self.open("test"), self.open("train")
        with task(self.title("figures")), self.start_store(self.name_of_store("figures")) as store:
            worst, gpu = worst_inputs(self.measuring()), self.placement().gpu
            drawn = draw_figures(self.config, self.run, store, test, train, faces, gpu=gpu, worst=worst)
            done.write_json(drawn)

    def _check_domains(self) -> None:
        """Raise where the shards' attributes are not those of the configuration; say what would fit."""
        data, shards = self.config.data, self.shards
        if shards.one_hot and data.domains != "one-hot":
            names = ",".join(shards.attributes)
            raise ConfigError(
                f"{shards.location}: an image has exactly one of {names}; add --set data.domains=one-hot "
                f"--set data.attributes=[{names}] --set data.exclusive=[]"
            )
        domain_columns(shards.attributes, data.attributes, shards.location)

    def _settings(self, stage: PipelineStage) -> dict[str, Any]:
        """Return the seed, the shards and the settings of the stage's sections that change what it yields."""
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
        """Do a stage's work unless it was finished before; the run's log tells how it went."""
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
