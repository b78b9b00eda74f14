"""`rgcluster import` and `rgcluster export`: networks in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

__all__ = ["export", "import_app"]

import_app = typer.Typer(help="Networks that were trained elsewhere.", no_args_is_help=True)
out = Console(highlight=False)


@import_app.callback()
def _imports() -> None:
    """Networks that were trained elsewhere."""


@import_app.command("published")
def published(
    generator: Annotated[Path, typer.Option(help="the authors' 2021 generator, a state dict saved by torch")],
    run: Annotated[str, typer.Option("--run", help="run directory to begin with it")],
    attention: Annotated[
        bool,
        typer.Option(
            "--attention/--no-attention", help="whether it was trained with the mask: no file says it"
        ),
    ],
    discriminator: Annotated[
        Path | None,
        typer.Option(help="its discriminator; without it stage 3 begins with a new one"),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override")] = None,
) -> None:
    """Make published networks a run's finished stage 1, from which stages 2 and 3 continue."""
    from rgcluster.base.cluster.job import refuse_relative
    from rgcluster.base.locks.lease import Lease
    from rgcluster.base.storage import Location
    from rgcluster.config import load_config
    from rgcluster.pipeline.exchange import import_published

    config = load_config("released-2021", [f"model.attention={attention}", *(set_ or [])])
    refuse_relative("--run", run)
    with Lease(Location(run)):
        import_published(generator, discriminator, config, Location(run))
    out.print(f"{run}: stage 1 is there. Go on with:")
    out.print(
        f"rgcluster train all --data SHARDS --run {run} --preset released-2021 "
        + " ".join(f"--set {word}" for word in (f"model.attention={str(attention).lower()}", *(set_ or []))),
        soft_wrap=True,
    )


def export(
    run: Annotated[str, typer.Option("--run", help="run directory")],
    target: Annotated[Path, typer.Option("--out", help="file to write; what it takes goes to FILE.json")],
    format_: Annotated[Literal["onnx", "torch"], typer.Option("--format")] = "onnx",
    model: Annotated[
        str, typer.Option(help="gmm-unit, gmm-unit-continued, rg-unit-random or rg-unit")
    ] = "rg-unit",
) -> None:
    """Write a trained translator as one ONNX or torch.export file, checked against the original."""
    from rgcluster.base.cluster.job import refuse_relative
    from rgcluster.base.rundir import open_run
    from rgcluster.pipeline import exchange

    refuse_relative("--out", target)
    config, location = open_run(run)
    done = exchange.export(location, config, model, format_, target)
    out.print(
        f"{target}: {', '.join(f'{name} {shape}' for name, shape in done.inputs.items())} -> "
        f"{done.outputs['translation']}; differs from the original by {done.largest_difference:.1g} at most",
        markup=False,
        soft_wrap=True,
    )
