"""`rgcluster store`: start, inspect, change and copy retrieval stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rgcluster.data.fits import FITS, Fit
from rgcluster.errors import ConfigError

if TYPE_CHECKING:
    from rgcluster.store import Manifest, RayStore

__all__ = ["FitOption", "store_app"]

store_app = typer.Typer(help="The retrieval store.", no_args_is_help=True)
out = Console(highlight=False)

RunOption = Annotated[str | None, typer.Option("--run", help="the store of this run directory")]
AtOption = Annotated[str | None, typer.Option("--at", help="a snapshot, local or s3://..., gs://...")]
NameArgument = Annotated[str, typer.Argument(help="name of a running store (`rgcluster store list`)")]


FitOption = Annotated[
    Fit, typer.Option("--fit", help="; ".join(f"{name}: {text}" for name, text in FITS.items()))
]


@store_app.command("start")
def start(
    run: RunOption = None,
    at: AtOption = None,
    name: Annotated[
        str | None, typer.Option(help="name to serve it under; the run's own if not given")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(help="number of shards; as on disk if not given", min=1)
    ] = None,
    replicas: Annotated[int, typer.Option(help="processes for each shard", min=1)] = 1,
    index: Annotated[str, typer.Option(help="auto, exact, ivf, hnsw or ivfpq")] = "auto",
    recall: Annotated[float, typer.Option(help="recall that an approximate index is tuned to")] = 0.95,
    memory_mib: Annotated[int | None, typer.Option(help="memory limit of a shard's index", min=1)] = None,
) -> None:
    """Serve a snapshot on the running Ray cluster until `rgcluster store stop`."""
    from rgcluster.base.placement import CPUS_PER_SHARD, Claim
    from rgcluster.base.progress import waiting
    from rgcluster.base.session import cluster_session
    from rgcluster.config import StoreConfig
    from rgcluster.store import IndexSettings, RayStore, read_manifest
    from rgcluster.store.index.plan import choose

    place, known = _place(run, at)
    try:
        config = StoreConfig(index=index, recall=recall, memory_mib=memory_mib)  # type: ignore[arg-type]
    except ValueError:
        raise ConfigError(
            f"--index {index} --recall {recall}: auto, exact, ivf, hnsw or ivfpq, and 0 to 1"
        ) from None
    settings, manifest = IndexSettings.of(config), read_manifest(place)
    name, parts = name or known or manifest.name, shards or manifest.num_shards
    plan = choose(settings.kind, -(-manifest.count // parts), manifest.dimension, settings.memory, recall)
    out.print(f"a shard: {plan.describe()}")
    with cluster_session(Claim("store shard", parts * replicas, CPUS_PER_SHARD)):
        with waiting(f"the shards of the store {name}"):
            started = RayStore.start(
                place, name, num_actors=parts, replicas=replicas, index=settings, detached=True
            )
        with started as store:
            measured = min(row["recall"] for row in store.info())
            out.print(f"{name}: {store.count:,} images, recall measured {measured:.4f}")


@store_app.command("list")
def list_() -> None:
    """List the stores that run on the cluster."""
    from rgcluster.base.session import cluster_session
    from rgcluster.store import list_stores

    with cluster_session():
        table = Table("store", "shards")
        for name, count in list_stores().items():
            table.add_row(name, str(count))
    out.print(table)


@store_app.command("info")
def info(
    name: Annotated[str | None, typer.Argument(help="name of a running store")] = None,
    run: RunOption = None,
    at: AtOption = None,
) -> None:
    """Show all processes of a running store, or a snapshot on disk."""
    if name is None:
        from rgcluster.store import read_manifest

        _show_snapshot(read_manifest(_place(run, at)[0]))
        return
    with _running(name) as store:
        rows = store.everyone()
        out.print(_processes(f"{name}: generation {store.manifest.generation}", rows))
        _show_networks(store.manifest)


@store_app.command("query")
def query(
    image: Annotated[Path, typer.Argument(help="image file")],
    run: Annotated[str, typer.Option("--run", help="run directory")],
    to: Annotated[str, typer.Option("--to", help="target attributes")],
    count: Annotated[int, typer.Option("-k", help="neighbours", min=1, max=1000)] = 5,
    target: Annotated[Path | None, typer.Option("--out", help="PNG or JPEG of the neighbours")] = None,
    fit: FitOption = "auto",
) -> None:
    """Show the stored images that would guide a translation."""
    from rgcluster.cli import finished

    table = Table("image", "distance")
    for row, distance in finished.query(image, run, to, count, target, fit):
        table.add_row(str(row), f"{distance:.4f}")
    out.print(table)


@store_app.command("compact")
def compact(name: NameArgument) -> None:
    """Rewrite a running store without removed rows, while it serves queries."""
    with _running(name) as store:
        manifest = store.compact()
        out.print(f"{name}: generation {manifest.generation}, {manifest.count:,} images")


@store_app.command("copy")
def copy(
    source: Annotated[str, typer.Argument(help="snapshot, local or remote")],
    target: Annotated[str, typer.Argument(help="empty location, local or remote")],
    shards: Annotated[int | None, typer.Option(help="number of shards of the copy", min=1)] = None,
) -> None:
    """Copy a store with all its changes, as a backup or to restore one."""
    from rgcluster.base.cluster.job import refuse_relative
    from rgcluster.store import copy_snapshot

    refuse_relative("TARGET", target)
    manifest = copy_snapshot(source, target, shards)
    out.print(
        f"{target}: {manifest.count:,} images on {manifest.num_shards} shards, digest {manifest.digest}"
    )


@store_app.command("verify")
def verify(run: RunOption = None, at: AtOption = None) -> None:
    """Read every file of a store and compare it with its checksum."""
    from rgcluster.store import verify as verify_store

    place, _ = _place(run, at)
    manifest = verify_store(place)
    out.print(f"{place}: {manifest.count:,} images, all files match their checksums")


@store_app.command("stop")
def stop(name: NameArgument) -> None:
    """Stop a running store; its snapshot and all changes stay."""
    from rgcluster.base.session import cluster_session
    from rgcluster.errors import StoreUnavailable
    from rgcluster.store import list_stores, stop_store

    with cluster_session():
        if not stop_store(name):
            running = ", ".join(list_stores()) or "none"
            raise StoreUnavailable(f"no store {name} is running; running: {running}")
    out.print(f"{name}: stopped")


@contextmanager
def _running(name: str) -> Iterator[RayStore]:
    from rgcluster.base.session import cluster_session
    from rgcluster.store import RayStore

    with cluster_session(), RayStore.connect(name) as store:
        yield store


def _place(run: str | None, at: str | None) -> tuple[str, str | None]:
    """Return the location of the snapshot, and the store name of the run."""
    if (run is None) == (at is None):
        raise ConfigError("say which store: --run DIR, or --at PLACE")
    if at is not None:
        return at, None
    from rgcluster.cli import finished

    place, name, _ = finished.run_store(run or "")
    return str(place), name


def _show_snapshot(manifest: Manifest) -> None:
    table = Table(
        title=f"{manifest.count} images, {manifest.dimension} dimensions, digest {manifest.digest}, "
        f"generation {manifest.generation}"
    )
    for column in ("shard", "images", "bytes"):
        table.add_column(column, justify="right")
    for shard in manifest.shards:
        table.add_row(
            shard.directory, str(shard.count), f"{sum(file.bytes for file in shard.files.values()):,}"
        )
    out.print(table)
    _show_networks(manifest)


def _show_networks(manifest: Manifest) -> None:
    for name, digest in manifest.digests.items():
        out.print(f"{name}: {digest}")


def _processes(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    columns = (
        "shard",
        "images",
        "index",
        "recall",
        "index MiB",
        "process MiB",
        "changes",
        "queries",
        "restarts",
    )
    for column in (*columns, "pid", "node"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row['shard']}" + (f" replica {row['replica']}" if row["replica"] else ""),
            f"{row['count']:,}", row["index"], f"{row['recall']:.4f}", f"{row['memory'] / 2**20:.1f}",
            f"{row['resident'] / 2**20:.0f}", str(row["changes"]), f"{row['queries']:,}", str(row["restarts"]),
            str(row["pid"]), row["node"][:8],
        )  # fmt: skip
    return table
