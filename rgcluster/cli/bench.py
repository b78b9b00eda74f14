"""`rgcluster bench`: measurements, as ratios taken in one run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rgcluster.base.progress import console

if TYPE_CHECKING:
    from rgcluster.bench.result import Row

__all__ = ["bench_app"]

bench_app = typer.Typer(help="Measure, as ratios taken in one run.", no_args_is_help=True)
out = Console(highlight=False)

JsonOption = Annotated[Path | None, typer.Option("--json", help="write the rows as JSON here, too")]


@bench_app.command("data")
def data(
    images: Annotated[int, typer.Option(help="JPEG files to make and read", min=1000)] = 40_000,
    folder: Annotated[
        Path | None, typer.Option(help="where to make files and shards; a temporary folder if not given")
    ] = None,
    json_: JsonOption = None,
) -> None:
    """From shards to batches at 128 px, against torch's DataLoader on the files themselves."""
    from rgcluster.base.session import ray_session
    from rgcluster.bench.data import bench_data

    with tempfile.TemporaryDirectory(prefix="rgcluster-bench-") as temporary, ray_session():
        _show("data", bench_data((folder or Path(temporary)).resolve(), images, console.print), json_)


@bench_app.command("serve")
def serve(
    run: Annotated[Path, typer.Option("--run", help="finished run to serve")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8765,
    requests: Annotated[int, typer.Option(help="requests of each client", min=1)] = 40,
    memory_requests: Annotated[
        int, typer.Option(help="requests over which memory is watched; 0: not at all", min=0)
    ] = 10_000,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting of `rgcluster serve`")
    ] = None,
    json_: JsonOption = None,
) -> None:
    """The endpoint over HTTP, against the translators called directly and in full batches."""
    from rgcluster.bench.serve import bench_serve
    from rgcluster.serve.settings import named_runs, settings_of

    settings = settings_of({"runs": named_runs([str(run)])}, set_ or ())
    _show("serve", bench_serve(settings, port, requests, memory_requests, console.print), json_)


@bench_app.command("train")
def train(
    preset: Annotated[str, typer.Option(help="whose networks and losses")] = "celeba128",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override")] = None,
    batch: Annotated[int, typer.Option(help="images a step", min=1)] = 4,
    pairs: Annotated[int, typer.Option(help="plain and other steps in turn, of each case", min=1)] = 5,
    switches: Annotated[
        bool, typer.Option("--switches/--no-switches", help="measure each formulation and kernel choice, too")
    ] = True,
    steps: Annotated[
        int, typer.Option(help="steps of each stage at work; 0: leave the stages out", min=0)
    ] = 8,
    json_: JsonOption = None,
) -> None:
    """A translation step against its plain formulation, switch by switch; the three stages at work."""
    from rgcluster.base.session import ray_session
    from rgcluster.bench.train import bench_stages, bench_step
    from rgcluster.config import load_config

    stages = ("translation", "retrieval", "guidance")
    config = load_config(preset, [*(f"{stage}.batch_size={batch}" for stage in stages), *(set_ or [])])
    rows = bench_step(config, batch, pairs, switches, console.print)
    if steps:
        with tempfile.TemporaryDirectory(prefix="rgcluster-bench-") as temporary, ray_session():
            rows += bench_stages(config, Path(temporary), steps, console.print)
    _show("train", rows, json_)


@bench_app.command("store")
def store(
    vectors: Annotated[int, typer.Option(help="for exact search", min=1000)] = 200_000,
    many: Annotated[int, typer.Option(help="for approximate search; 0 leaves it out", min=0)] = 2_000_000,
    folder: Annotated[
        Path | None, typer.Option(help="where to write snapshots; a temporary folder if not given")
    ] = None,
    json_: JsonOption = None,
) -> None:
    """The store's actors, against FAISS in this process on the same vectors."""
    from rgcluster.base.session import ray_session
    from rgcluster.bench.store import bench_store

    with tempfile.TemporaryDirectory(prefix="rgcluster-bench-") as temporary, ray_session():
        _show(
            "store", bench_store((folder or Path(temporary)).resolve(), vectors, many, console.print), json_
        )


def _show(name: str, rows: list[Row], file: Path | None) -> None:
    from rgcluster.bench.result import as_json, as_table

    out.print(as_table(f"bench {name}", rows))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(as_json(name, rows), indent=2) + "\n")
