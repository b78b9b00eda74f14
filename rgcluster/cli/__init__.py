"""The `rgcluster` command. Exit status: 0 done, 1 failed, 2 the user's mistake (one line says which)."""

from __future__ import annotations

import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from rgcluster import __version__
from rgcluster.cli.bench import bench_app
from rgcluster.cli.data import data_app
from rgcluster.cli.early import require_cluster, require_free, require_run, require_shards, workers_ahead
from rgcluster.cli.ending import INTERRUPTED, TERMINATED, leave, unwinding_on_sigterm
from rgcluster.cli.exchange import export, import_app
from rgcluster.cli.serve import serve
from rgcluster.cli.store import FitOption, store_app
from rgcluster.cli.study import sweep, table
from rgcluster.cli.submit import submit
from rgcluster.errors import RGClusterError, root_cause

__all__ = ["app", "main"]

app = typer.Typer(
    name="rgcluster",
    help="Retrieval-guided image-to-image translation on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train one stage, with what it depends on, or all.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(store_app, name="store")
app.add_typer(bench_app, name="bench")
app.command("serve")(serve)
app.command("submit", context_settings={"ignore_unknown_options": True})(submit)
app.command("table")(table)
app.command("sweep")(sweep)
app.add_typer(import_app, name="import")
app.command("export")(export)

out = Console(highlight=False)

EVENTS_SHOWN = 6

RunOption = Annotated[
    str,
    typer.Option(
        "--run", help="run directory, local or s3://..., gs://...; the same one continues where it stopped"
    ),
]
DataOption = Annotated[str, typer.Option("--data", help="directory of shards, local or remote")]
PresetOption = Annotated[str, typer.Option("--preset", help="demo, smoke, celeba128, paper or released-2021")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override, e.g. guidance.steps=500")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="print the resolved configuration, start nothing")
]


def main() -> None:
    """Run the command; turn deliberate errors into one line and their exit status."""
    for stream in (sys.stdout, sys.stderr):  # a locale may lack the letters of a name
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with unwinding_on_sigterm():
            app()
    except SystemExit as end:
        code = TERMINATED if end.code == signal.SIGTERM else end.code  # Ray's own handler leaves its number
        if code not in (INTERRUPTED, TERMINATED):
            raise
        what = "interrupted" if code == INTERRUPTED else "terminated"
        _fail(f"{what}; the same command continues where this one stopped", int(code))
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, RGClusterError):
            _fail(str(cause), cause.exit_status)
        if os.environ.get("RGCLUSTER_TRACEBACK"):
            raise
        text = str(cause).strip() or "no message"
        _fail(f"{type(cause).__name__}: {text} (RGCLUSTER_TRACEBACK=1 shows where)", 1)


def _fail(message: str, status: int) -> None:
    print(f"rgcluster: {' '.join(message.split())}", file=sys.stderr, flush=True)
    if status in (INTERRUPTED, TERMINATED):
        leave(status)
    sys.exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights", metavar="NAME=PATH", help="pretrained weights, named as `rgcluster weights` does"
        ),
    ] = None,
) -> None:
    """Retrieval-guided image-to-image translation on Ray."""
    if weights:
        from rgcluster.base.weights import choose

        choose(weights)


@app.command()
def probe(
    run: Annotated[str, typer.Option("--run", help="a finished run, local or remote")],
    count: Annotated[int, typer.Option(min=1, help="test images that are translated")] = 128,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="write the numbers here")
    ] = None,
    dye: Annotated[
        str,
        typer.Option(
            metavar="R,G,B",
            help="do translations follow a copy of the store where drawn hair has this colour?",
        ),
    ] = "",
    attribute: Annotated[
        str, typer.Option(help="the attribute whose stored images get that colour")
    ] = "Blond_Hair",
) -> None:
    """Say whether a run uses retrieval: what changes where other neighbours take the place of the nearest."""
    import json
    from dataclasses import asdict

    colour = _colour(dye) if dye else None
    require_run(run)
    from rgcluster.base.storage import Location
    from rgcluster.cli import commands
    from rgcluster.evaluate.report.tables import probe_rows

    found = commands.probe(run, count)
    table = Table("test", "case", "value", box=None)
    for row in probe_rows(found):
        table.add_row(*row)
    if colour:
        found["following"] = asdict(commands.follow_store(run, attribute, colour))
        moved = found["following"]["moved"]
        table.add_row(
            "following the store", f"share of the way to the new colour of {attribute}", f"{moved:.3f}"
        )
    out.print(table)
    if json_:
        Location(json_).write_text(json.dumps(found, indent=1) + "\n")


def _colour(text: str) -> tuple[int, int, int]:
    """Return `R,G,B` as numbers; a usage error where it is none."""
    try:
        red, green, blue = (int(part) for part in text.split(","))
        bytes((red, green, blue))  # ValueError outside 0 to 255
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no colour: R,G,B, each 0 to 255") from None
    return red, green, blue


@app.command()
def demo(
    run: RunOption = "runs/demo",
    preset: PresetOption = "demo",
    set_: SetOption = None,
    minutes: Annotated[
        float,
        typer.Option(
            min=0, help="train as many of the preset's steps as end within this time; 0: all of them"
        ),
    ] = 15.0,
    dry_run: DryRunOption = False,
) -> None:
    """Draw faces, train the three stages, evaluate, and write the report."""
    require_free(run, dry_run=dry_run)
    require_cluster()
    from rgcluster.config import load_config

    config = load_config(preset, set_ or ())
    if dry_run:
        from rgcluster.pipeline.overview import describe

        describe(config, out, run)
        return
    given = any(override.startswith("translation.steps=") for override in set_ or ())
    with workers_ahead():
        from rgcluster.cli import commands

        report = commands.demo(
            config, run, None if given else minutes, lambda line: out.print(line, soft_wrap=True)
        )
    out.print(f"report: {report}", soft_wrap=True)


def _train(stage: str, data: str, run: str, preset: str, set_: list[str] | None, dry_run: bool) -> None:
    require_free(run, dry_run=dry_run)
    require_cluster()
    from rgcluster.config import load_config

    config = load_config(preset, set_ or ())
    if dry_run:
        from rgcluster.pipeline.overview import describe

        describe(config, out, run, data)
        return
    shards = require_shards(data)
    with workers_ahead():
        from rgcluster.cli import commands

        commands.train(config, shards, run, stage)


@train_app.command("translation")
def train_translation(
    data: DataOption, run: RunOption, preset: PresetOption = "celeba128", set_: SetOption = None,
    dry_run: DryRunOption = False,
) -> None:  # fmt: skip
    """Stage 1: GMM-UNIT."""
    _train("translation", data, run, preset, set_, dry_run)


@train_app.command("retrieval")
def train_retrieval(
    data: DataOption, run: RunOption, preset: PresetOption = "celeba128", set_: SetOption = None,
    dry_run: DryRunOption = False,
) -> None:  # fmt: skip
    """Stage 2: the retrieval network."""
    _train("retrieval", data, run, preset, set_, dry_run)


@train_app.command("guidance")
def train_guidance(
    data: DataOption, run: RunOption, preset: PresetOption = "celeba128", set_: SetOption = None,
    dry_run: DryRunOption = False,
) -> None:  # fmt: skip
    """Stage 3: the translator guided by neighbours."""
    _train("guidance", data, run, preset, set_, dry_run)


@train_app.command("all")
def train_all(
    data: DataOption, run: RunOption, preset: PresetOption = "celeba128", set_: SetOption = None,
    dry_run: DryRunOption = False,
) -> None:  # fmt: skip
    """All three stages."""
    _train("guidance", data, run, preset, set_, dry_run)


@app.command()
def evaluate(run: RunOption) -> None:
    """Measure every model of a finished run; write `evaluation/results.json`, figures and the report."""
    require_free(run)
    require_cluster()
    require_run(run)
    with workers_ahead():
        from rgcluster.cli import commands

        out.print(f"report: {commands.evaluate(run)}", soft_wrap=True)


@app.command()
def report(run: RunOption) -> None:
    """Write `report/index.html` again from what the run holds."""
    require_free(run)
    require_run(run)
    from rgcluster.cli import commands

    out.print(f"report: {commands.report(run)}", soft_wrap=True)


@app.command()
def translate(
    images: Annotated[list[Path], typer.Argument(help="image files")],
    to: Annotated[str, typer.Option("--to", help="target attributes, e.g. Blond_Hair,Male or -Young")],
    target: Annotated[
        Path, typer.Option("--out", help="PNG or JPEG to write, or a folder for several images")
    ],
    run: Annotated[str | None, typer.Option("--run", help="finished run to translate with")] = None,
    url: Annotated[
        str | None,
        typer.Option(help="endpoint to translate with, in place of a run; RGCLUSTER_API_KEY is its key"),
    ] = None,
    samples: Annotated[int, typer.Option(help="translations of each image", min=1, max=64)] = 1,
    seed: Annotated[int, typer.Option(help="chooses the samples", min=0)] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            help="gmm-unit, gmm-unit-continued, rg-unit-random or rg-unit (default); of an endpoint, a name it serves"
        ),
    ] = None,
    fit: FitOption = "auto",
) -> None:
    """Translate images to a target domain with a finished run, or by an endpoint."""
    from rgcluster.cli import finished

    for path in finished.translate(images, run, url, to, target, samples, seed, model, fit):
        out.print(str(path))


@store_app.command("build")
def store_build(
    data: DataOption, run: RunOption, preset: PresetOption = "celeba128", set_: SetOption = None
) -> None:
    """Embed the retrieval set of a run, training what it needs first."""
    _train("store", data, run, preset, set_, False)


@app.command()
def status(run: RunOption) -> None:
    """Show the stages of a run, its last error and its newest events; from any machine that reads the directory."""
    from rgcluster.pipeline.overview import status as look

    found = look(run)
    table = Table("stage", "state", "step", "images/s", "seconds", "left")
    for row in found.rows:
        table.add_row(*row)
    out.print(table)
    if found.holder:
        out.print(f"at work: {found.holder}", markup=False, soft_wrap=True)
    if found.error:
        out.print(f"last error: {found.error.stage}: {found.error.message}", markup=False, soft_wrap=True)
    for event in found.events[-EVENTS_SHOWN:]:
        out.print(str(event), markup=False, soft_wrap=True)


@app.command()
def weights() -> None:
    """Show which pretrained weights were found, and which metric uses what."""
    from rgcluster.base.weights import survey

    for row in survey():
        found = (
            f"{row.weights.path} (sha256 {row.weights.digest[:12]})"
            if row.weights
            else row.problem or "not found"
        )
        out.print(f"[bold]{row.name}[/bold]: {found}")
        out.print(f"  for {row.used_by}; otherwise {row.otherwise}")
        out.print(f"  looked in {', '.join(row.looked_in)}")
    from rgcluster.evaluate.metrics.features import names_in_use

    out.print("[bold]in use[/bold]")
    for metric, name in names_in_use().items():
        out.print(f"  {metric}: {name}")


@app.command("presets")
def list_presets(name: Annotated[str | None, typer.Argument(help="print this one")] = None) -> None:
    """List the presets, or print one, resolved."""
    from rgcluster.config import load_config, presets

    if name is None:
        out.print("\n".join(presets()))
    else:
        out.print(yaml.safe_dump(load_config(name).model_dump(mode="json"), sort_keys=False))
