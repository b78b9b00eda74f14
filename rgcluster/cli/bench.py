"""`rgcluster bench`: benchmarks, each against a baseline that is measured in the same run."""

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

bench_app = typer.Typer(
    help="Run benchmarks, each against a baseline that is measured in the same run.", no_args_is_help=True
)
out = Console(highlight=False)

JsonOption = Annotated[Path | None, typer.Option("--json", help="also write the rows to this JSON file")]


@bench_app.command("data")
def data(
    images: Annotated[int, typer.Option(help="number of JPEG files to generate and read", min=1000)] = 40_000,
    worlds: Annotated[
        str | None,
        typer.Option(
            metavar="N,...",
            help="instead, count what worlds of so many readers read, and compare their batches",
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(help="instead, measure the index and order of so many rows without images", min=0)
    ] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="folder for files and shards; by default a temporary one")
    ] = None,
    json_: JsonOption = None,
) -> None:
    """Compare reading shards as batches of 128 px with torch's DataLoader on the original files."""
    from rgcluster.base.session import ray_session
    from rgcluster.bench.data import bench_data
    from rgcluster.bench.rows import bench_rows
    from rgcluster.bench.worlds import bench_worlds, worlds_of

    sizes = worlds_of(worlds) if worlds is not None else None
    with tempfile.TemporaryDirectory(prefix="rgcluster-bench-") as temporary, ray_session():
        where = (folder or Path(temporary)).resolve()
        if rows:
            found = bench_rows(where, rows, console.print)
        elif sizes is None:
            found = bench_data(where, images, console.print)
        else:
            found = bench_worlds(where, images, sizes, console.print)
        _show("data", found, json_)


@bench_app.command("serve")
def serve(
    run: Annotated[Path, typer.Option("--run", help="finished run to serve")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8765,
    requests: Annotated[int, typer.Option(help="number of requests of each client", min=1)] = 40,
    memory_requests: Annotated[
        int, typer.Option(help="number of requests over which memory is measured; 0: skip", min=0)
    ] = 10_000,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting of `rgcluster serve`")
    ] = None,
    json_: JsonOption = None,
) -> None:
    """Compare the endpoint over HTTP with direct calls of its translators."""
    from rgcluster.bench.serve import bench_serve
    from rgcluster.serve.settings import named_runs, settings_of

    settings = settings_of({"runs": named_runs([str(run)])}, set_ or ())
    _show("serve", bench_serve(settings, port, requests, memory_requests, console.print), json_)


@bench_app.command("train")
def train(
    preset: Annotated[str, typer.Option(help="preset of the networks and losses")] = "celeba128",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override")] = None,
    batch: Annotated[int, typer.Option(help="images in a step", min=1)] = 4,
    pairs: Annotated[
        int, typer.Option(help="alternate measurements of the plain and the other step in each case", min=1)
    ] = 5,
    switches: Annotated[
        bool,
        typer.Option("--switches/--no-switches", help="also measure each formulation and choice of kernels"),
    ] = True,
    steps: Annotated[int, typer.Option(help="training steps of each stage; 0: skip the stages", min=0)] = 8,
    json_: JsonOption = None,
) -> None:
    """Compare a translation step with its plain formulation, and measure the three stages in training."""
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
    vectors: Annotated[int, typer.Option(help="number of vectors for exact search", min=1000)] = 200_000,
    many: Annotated[
        int, typer.Option(help="number of vectors for approximate search; 0: skip", min=0)
    ] = 2_000_000,
    folder: Annotated[
        Path | None, typer.Option(help="folder for snapshots; by default a temporary one")
    ] = None,
    json_: JsonOption = None,
) -> None:
    """Compare the store's actors with FAISS in this process on the same vectors."""
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
