"""`rgcluster bench`: benchmarks, each against a baseline that is measured in the same run."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
ThoroughOption = Annotated[
    bool,
    typer.Option("--thorough", help="measure more and longer"),
]

IMAGES, IMAGES_OF_CELEBA = 40_000, 202_599
MEMORY_REQUESTS, MANY_MEMORY_REQUESTS = 3_000, 10_000
CASE_SECONDS, NEIGHBOURS_SECONDS = 30.0, 60.0
SAMPLES, MANY_SAMPLES = 1, 3


@bench_app.command("data")
def data(
    images: Annotated[
        int | None,
        typer.Option(help="number of JPEG files to generate and read: 40,000, thoroughly 202,599", min=1000),
    ] = None,
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
    peers: Annotated[
        bool, typer.Option("--peers", help="instead, compare prepared shards with other libraries' files")
    ] = False,
    thorough: ThoroughOption = False,
    json_: JsonOption = None,
) -> None:
    """Compare reading shards as batches of 128 px with torch's DataLoader on the files, or with other libraries."""
    from rgcluster.base.session import ray_session
    from rgcluster.bench.data import bench_data
    from rgcluster.bench.rows import bench_rows
    from rgcluster.bench.worlds import bench_worlds, worlds_of

    sizes = worlds_of(worlds) if worlds is not None else None
    with tempfile.TemporaryDirectory(prefix="rgcluster-bench-") as temporary, ray_session():
        where, count = (
            (folder or Path(temporary)).resolve(),
            images or (IMAGES_OF_CELEBA if thorough else IMAGES),
        )
        if peers:
            from rgcluster.bench.peers.reading import bench_readers

            found = bench_readers(where, count, console.print)
        elif rows:
            found = bench_rows(where, rows, console.print)
        elif sizes is None:
            found = bench_data(where, count, console.print)
        else:
            found = bench_worlds(where, count, sizes, console.print)
        _show("data", found, json_)


@bench_app.command("serve")
def serve(
    run: Annotated[Path, typer.Option("--run", help="finished run to serve")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8765,
    requests: Annotated[int, typer.Option(help="number of requests of each client", min=1)] = 40,
    memory_requests: Annotated[
        int | None,
        typer.Option(
            help="number of requests over which memory is measured: 3,000, thoroughly 10,000; 0: skip", min=0
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting of `rgcluster serve`")
    ] = None,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers", help="instead, compare the endpoint with other servers of the same translators"
        ),
    ] = False,
    thorough: ThoroughOption = False,
    json_: JsonOption = None,
) -> None:
    """Compare the endpoint over HTTP with direct calls of its translators, or with other servers."""
    from rgcluster.bench.serve import bench_serve
    from rgcluster.serve.settings import named_runs, settings_of

    settings = settings_of({"runs": named_runs([str(run)])}, set_ or ())
    if peers:  # a server's library takes seconds to import
        from rgcluster.bench.peers.serving import bench_servers

        _show("serve", bench_servers(settings, port, requests, console.print), json_)
        return
    if memory_requests is None:
        memory_requests = MANY_MEMORY_REQUESTS if thorough else MEMORY_REQUESTS
    _show("serve", bench_serve(settings, port, requests, memory_requests, console.print), json_)


@bench_app.command("train")
def train(
    preset: Annotated[str, typer.Option(help="preset of the networks and losses")] = "celeba128",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override")] = None,
    batch: Annotated[int, typer.Option(help="images in a step", min=1)] = 4,
    pairs: Annotated[
        int,
        typer.Option(
            help="alternate measurements of the plain and the other step in each case, fewer where they take "
            "half a minute",
            min=1,
        ),
    ] = 5,
    switches: Annotated[
        bool | None,
        typer.Option(
            "--switches/--no-switches",
            help="also measure each formulation and choice of kernels; by default only thoroughly",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="training steps of each stage; 0: skip the stages", min=0)] = 8,
    thorough: ThoroughOption = False,
    json_: JsonOption = None,
) -> None:
    """Compare a translation step with its plain formulation, and measure the three stages in training."""
    from rgcluster.base.session import ray_session
    from rgcluster.bench.training.stages import bench_stages
    from rgcluster.bench.training.step import bench_step
    from rgcluster.config import load_config

    stages = ("translation", "retrieval", "guidance")
    config = load_config(preset, [*(f"{stage}.batch_size={batch}" for stage in stages), *(set_ or [])])
    rows = bench_step(
        config, batch, pairs, thorough if switches is None else switches, console.print,
        math.inf if thorough else CASE_SECONDS,
    )  # fmt: skip
    if steps:
        with tempfile.TemporaryDirectory(prefix="rgcluster-bench-") as temporary, ray_session():
            limit = math.inf if thorough else NEIGHBOURS_SECONDS
            rows += bench_stages(config, Path(temporary), steps, console.print, limit)
    _show("train", rows, json_)


@bench_app.command("store")
def store(
    vectors: Annotated[
        int | None,
        typer.Option(help="vectors for exact search; by default 200,000, beside peers 50,000", min=1000),
    ] = None,
    many: Annotated[
        int, typer.Option(help="number of vectors for approximate search; 0: skip", min=0)
    ] = 2_000_000,
    folder: Annotated[
        Path | None, typer.Option(help="folder for snapshots; by default a temporary one")
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="instead, compare the store with other vector libraries")
    ] = False,
    thorough: ThoroughOption = False,
    json_: JsonOption = None,
) -> None:
    """Compare the store's actors with FAISS in this process on the same vectors, or with other libraries."""
    from rgcluster.base.session import ray_session
    from rgcluster.bench.peers.vectors import bench_peers
    from rgcluster.bench.store import bench_store

    with tempfile.TemporaryDirectory(prefix="rgcluster-bench-") as temporary, ray_session():
        place, times = (folder or Path(temporary)).resolve(), MANY_SAMPLES if thorough else SAMPLES
        if peers:
            _show("store", bench_peers(place, vectors or 50_000, console.print), json_)
            return
        _show("store", bench_store(place, vectors or 200_000, many, console.print, times), json_)


@bench_app.command("gpu")
def gpu(
    target: Annotated[
        Path, typer.Option("--out", help="folder for gpu.json, gpu.md and a grid of translations")
    ],
    device: Annotated[Literal["cuda", "cpu"], typer.Option(help="cpu: a rehearsal")] = "cuda",
    scale: Annotated[Literal["full", "tiny"], typer.Option(help="tiny: seconds of everything")] = "full",
    minutes: Annotated[
        float, typer.Option(help="training on drawn faces takes what the other parts leave", min=0.1)
    ] = 25.0,
) -> None:
    """Measure what a GPU does: training steps, search, decoding, then as much training as the time allows.

    It runs without Ray.
    """
    from rgcluster.bench.gpu.program import PAGE, run_program

    _show("gpu", run_program(target, device, scale, minutes, console.print), None)
    out.print(f"page: {target / PAGE}", soft_wrap=True)


def _show(name: str, rows: list[Row], file: Path | None) -> None:
    from rgcluster.bench.result import as_json, as_table

    out.print(as_table(f"bench {name}", rows))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(as_json(name, rows), indent=2) + "\n")
