"""Overview of a run: its expected cost before it starts, and its progress."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rgcluster.base.locks.lease import Holder, holder_of
from rgcluster.base.logs.events import Event, last_error, read_events
from rgcluster.base.placement import Placement, describe_nodes, place
from rgcluster.base.progress import duration
from rgcluster.base.rundir import STAGE, open_run, stage_directory
from rgcluster.base.session import cluster_nodes, ray_session, this_machine
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.data.shards import open_shards
from rgcluster.faces import FaceSet
from rgcluster.pipeline.checks import Check, check_run, faces_of, network_sizes, require
from rgcluster.pipeline.run import Pipeline
from rgcluster.pipeline.stages import STAGES
from rgcluster.train.records.metrics import read_metrics

__all__ = ["Status", "describe", "status"]


def describe(config: Config, console: Console, run: str, data: str | None = None) -> None:
    """Print the resolved configuration, the networks' sizes, an estimate of memory, the placement and every check.

    Nothing is started. The placement is that on the cluster of RAY_ADDRESS, else on this machine. `data` is a
    directory of shards, the configuration's drawn faces if None. ConfigError where something does not fit.
    """
    console.print(config.to_yaml())
    sizes = network_sizes(config)
    for name, size in sizes.items():
        console.print(f"{name}: {size / 1e6:.2f} M parameters")
    # Weights, gradients, two moments and the average, 4 bytes each, for every variant trained side by side.
    variants = len(config.guidance.variants)
    states = 20 * (variants * (sizes["E_c, E_s, G"] + sizes["D"] + sizes["f"]) + sizes["R"])
    # Activations of about 16 passes over feature maps of the first width at full size.
    pixels = config.data.image_size**2 * config.translation.batch_size
    activations = 16 * 12 * config.model.width * pixels * 4
    console.print(f"memory of stage 3, roughly: {(states + activations) / 2**30:.1f} GiB a worker")
    if os.environ.get("RAY_ADDRESS"):
        with ray_session(needs=None):
            where, nodes = f"the cluster at {os.environ['RAY_ADDRESS']}", cluster_nodes()
    else:
        where, nodes = "this machine", this_machine()
    console.print(_placement_table(place(config, nodes), where))
    checks = _checks(config, Location(run), data)
    table = Table(title="checks", title_justify="left")
    for column in ("check", "passed", "found"):
        table.add_column(column)
    for check in checks:
        table.add_row(check.name, "yes" if check.passed else "no", escape(check.found))
    console.print(table)
    require(checks)


def _checks(config: Config, run: Location, data: str | None) -> list[Check]:
    if data is not None:
        return Pipeline(run, config, open_shards(Location(data))).checks()
    faces = FaceSet(config.faces.seed, config.faces.count)
    return check_run(config, faces_of(faces, CELEBA_ATTRIBUTES, config), run)


def _placement_table(placed: Placement, where: str) -> Table:
    cpus, gpus = sum(node.cpus for node in placed.nodes), sum(node.gpus for node in placed.nodes)
    table = Table(title=f"placement on {where}: {describe_nodes(placed.nodes)}", title_justify="left")
    for column in ("stage", "processes"):
        table.add_column(column)
    for column in ("CPUs", "left to read", "GPUs"):
        table.add_column(column, justify="right")
    for stage in placed.stages.values():
        claims = "\n".join(
            f"{claim} CPU" + (f" + {claim.gpus:.4g} GPU" if claim.gpus else "") for claim in stage.claims
        )
        table.add_row(
            stage.name, claims, f"{stage.cpus:.4g} of {cpus:g}", f"{stage.left:.4g}",
            f"{stage.gpus:.4g} of {gpus:g}",
        )  # fmt: skip
    return table


@dataclass(frozen=True)
class Status:
    """The state of a run: a row for each stage (stage, state, step, images/s, seconds, time left), and its events."""

    rows: list[tuple[str, str, str, str, str, str]]
    events: list[Event]
    holder: Holder | None
    """The process at work on the run, if there is one."""

    @property
    def error(self) -> Event | None:
        """The failure that stopped the run, if any."""
        return last_error(self.events)


def status(run: str) -> Status:
    """Return the state of a run from its directory; it may be running on another machine."""
    _, location = open_run(run)
    rows = []
    for name in STAGES:
        directory = stage_directory(location, name)
        file = directory / STAGE
        if not file.exists():
            rows.append((name, "not begun", "", "", "", ""))
            continue
        record, lines = file.read_json(), read_metrics(directory)
        last = lines[-1] if lines else {}
        step = f"{last['step']}/{last['steps']}" if last else ""
        speed = f"{last['images_per_second']:.0f}" if last else ""
        left = ""
        if last and not record["finished"]:
            left = duration((last["steps"] - last["step"]) * last["seconds_per_step"])
        state = "finished" if record["finished"] else "begun"
        rows.append((name, state, step, speed, f"{record['seconds']:.0f}", left))
    return Status(rows, read_events(location), holder_of(location))
