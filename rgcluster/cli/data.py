"""`rgcluster data`: draws faces, writes shards, checks sources and shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from rgcluster.cli.early import require_cluster

if TYPE_CHECKING:
    from rgcluster.data.sources import Columns
    from rgcluster.data.survey import Survey

__all__ = ["data_app"]

data_app = typer.Typer(help="Draw faces, write shards, check them.", no_args_is_help=True)
out = Console(highlight=False)

LISTED = 20

LayoutOption = Annotated[
    str,
    typer.Option(
        help="celeba, classes (a folder for each), table (.csv, .parquet), webdataset, images (without labels), or auto"
    ),
]
ImagesOption = Annotated[
    str | None,
    typer.Option("--images", help="folder or zip of a table's images; by default the table's own folder"),
]
FileColumnOption = Annotated[str | None, typer.Option(help="a table's column of file names")]
SplitColumnOption = Annotated[str | None, typer.Option(help="a table's column of train, val and test")]
ClassColumnOption = Annotated[
    str | None, typer.Option(help="a table's column of class names, in place of attributes")
]
AttributesOption = Annotated[
    str | None, typer.Option(help="a table's columns of attributes, A,B,C; by default all other columns")
]


@data_app.command("faces")
def faces(
    target: Annotated[Path, typer.Argument(help="folder to write, in CelebA's layout")],
    count: Annotated[int, typer.Option(help="number of faces", min=1)] = 4000,
    seed: Annotated[int, typer.Option(help="seed of the faces", min=0)] = 0,
    sheet: Annotated[Path | None, typer.Option(help="also write a contact sheet to this PNG file")] = None,
) -> None:
    """Draw faces with all 40 attributes."""
    from rgcluster.cli import sharding

    sharding.draw_faces(target, count, seed)
    if sheet:
        sharding.contact_sheets(count, seed, sheet)


@data_app.command("shard")
def shard(
    source: Annotated[
        str,
        typer.Argument(
            help="CelebA, class folders, a table, or images, also s3:// and gs://; WebDataset, archives"
        ),
    ],
    target: Annotated[str, typer.Argument(help="directory of shards to write")],
    layout: LayoutOption = "auto",
    images: ImagesOption = None,
    file_column: FileColumnOption = None,
    split_column: SplitColumnOption = None,
    attributes: AttributesOption = None,
    class_column: ClassColumnOption = None,
    unlabelled: Annotated[
        str | None, typer.Option(help="folder or zip of images without labels, for retrieval alone")
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="official, random (2,000 test images by seed), or auto: official where there is one"
        ),
    ] = "auto",
    split_seed: Annotated[int, typer.Option(help="seed of the random split", min=0)] = 0,
    size: Annotated[
        int, typer.Option(help="prepare images once at this training size; 0: store them as they are", min=0)
    ] = 0,
    crop: Annotated[
        int, typer.Option(help="centre crop of prepared images in source pixels, 0: none", min=0)
    ] = 178,
    format_: Annotated[
        Literal["jpeg", "raw"], typer.Option("--format", help="encoding of prepared images")
    ] = "jpeg",
    rows: Annotated[int, typer.Option(help="number of images in a shard", min=1)] = 2048,
    max_unreadable: Annotated[
        float,
        typer.Option(help="largest share of unreadable images, which are left out and listed", min=0, max=1),
    ] = 0.001,
    dataset: Annotated[str | None, typer.Option(help="name of the data set in row ids")] = None,
) -> None:
    """Write images and labels as Parquet shards; an interrupted run continues."""
    require_cluster()
    from rgcluster.cli import sharding
    from rgcluster.data.shard_writer import shard_options

    options = shard_options(rows, split, split_seed, size, crop, format_, max_unreadable, dataset)
    lines = sharding.shard(
        source, target, options, layout=layout, images=images,
        columns=_columns(file_column, split_column, attributes, class_column), unlabelled=unlabelled,
    )  # fmt: skip
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


@data_app.command("check")
def check(
    path: Annotated[str, typer.Argument(help="source, or directory of shards")],
    domains: Annotated[
        str, typer.Option(help="attributes whose combinations are counted, A,B,C")
    ] = "Black_Hair,Blond_Hair,Brown_Hair,Male,Young",
    sheet: Annotated[Path | None, typer.Option(help="write a contact sheet to this PNG file")] = None,
    layout: LayoutOption = "auto",
    images: ImagesOption = None,
    file_column: FileColumnOption = None,
    split_column: SplitColumnOption = None,
    attributes: AttributesOption = None,
    class_column: ClassColumnOption = None,
) -> None:
    """Read all images and labels; print counts, image sizes and faults. Exit status 2 if there is a fault."""
    require_cluster()
    from rgcluster.cli import sharding

    survey = sharding.check(
        path, layout, images, _columns(file_column, split_column, attributes, class_column), sheet
    )
    _show(survey, domains.split(","))
    if survey.faults:
        raise typer.Exit(2)


def _columns(file: str | None, split: str | None, attributes: str | None, classes: str | None) -> Columns:
    from rgcluster.data.sources import Columns

    chosen = tuple(name.strip() for name in attributes.split(",")) if attributes else ()
    return Columns(file, split, chosen, classes)


def _show(survey: Survey, wanted: list[str]) -> None:
    from rgcluster.data.summary import describe_left_out

    counts = ", ".join(f"{name} {count}" for name, count in sorted(survey.splits.items()))
    out.print(f"{len(survey.labels)} rows: {counts}")
    shares = Table("attribute", "share")
    for name, share in survey.prevalence().items():
        shares.add_row(name, f"{share:.1%}")
    if survey.attributes:
        out.print(shares)
    spanning = [name for name in wanted if name in survey.attributes] or list(survey.attributes)[:8]
    if spanning:
        combinations = Table("domain", "images")
        for vector, count in survey.domains(spanning).most_common(LISTED):
            combinations.add_row(", ".join(vector) or "none of them", str(count))
        out.print(combinations)
    sizes = Table("width x height", "images")
    for (width, height), count in survey.sizes.most_common(LISTED):
        sizes.add_row(f"{width} x {height}", str(count))
    if len(survey.sizes) > LISTED:
        sizes.add_row(f"and {len(survey.sizes) - LISTED} more", "")
    out.print(sizes)
    if survey.layout:
        out.print(f"layout {survey.layout}")
    out.print(f"left out: {describe_left_out(survey.left_out)}", markup=False, soft_wrap=True)
    for file, what in survey.faults:
        out.print(f"fault: {file}: {what}", soft_wrap=True)
    out.print(f"{len(survey.faults)} faults")
