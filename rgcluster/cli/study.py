"""`rgcluster table` and `rgcluster sweep`: the paper's tables, a command each, and many runs compared."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console

from rgcluster.cli.early import require_cluster, require_free, require_study, workers_ahead

__all__ = ["sweep", "table"]

out = Console(highlight=False)

RunOption = Annotated[
    str, typer.Option("--run", help="directory of the study, or a run whose stages are reused")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="directory of shards; by default those of the run")
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="by default the run's own configuration, or celeba128")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override, e.g. guidance.steps=500")
]


def table(
    number: Annotated[int, typer.Argument(help="1, 2, 3, 4, 6 or 7")],
    run: RunOption,
    data: DataOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    seeds: Annotated[int, typer.Option(help="training seeds to run", min=1, max=100)] = 1,
) -> None:
    """Make one of the paper's tables: train what is missing, measure, write results, CSV, LaTeX and report."""
    require_free(run)
    require_cluster()
    require_study(data, run, preset, set_ or ())
    with workers_ahead():
        from rgcluster.study.table import table as make

        report = make(number, data, run, preset, set_ or (), seeds)
    out.print(f"report: {report}", soft_wrap=True)


def sweep(
    run: RunOption,
    data: DataOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    retrieval_count: Annotated[
        str | None, typer.Option(help="values of M, e.g. 1,3,10", metavar="M,M")
    ] = None,
    data_fraction: Annotated[
        str | None, typer.Option(help="shares of the labelled images, e.g. 0.25,0.5,1.0", metavar="F,F")
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUES", help="any key: key=1,2,3 or, to draw from, key=1e-5..1e-3:log"),
    ] = None,
    search: Annotated[
        Literal["grid", "random"], typer.Option(help="grid: all combinations; random: --samples drawn")
    ] = "grid",
    samples: Annotated[int, typer.Option(help="trials of a random search", min=1)] = 10,
    asha: Annotated[bool, typer.Option("--asha", help="stop trials early that fall behind")] = False,
    grace: Annotated[int, typer.Option(help="steps before --asha may stop a trial; 0: a quarter", min=0)] = 0,
    loss: Annotated[
        str, typer.Option(help="what --asha compares, a line of metrics.jsonl")
    ] = "rg-unit/total",
    metric: Annotated[str, typer.Option(help="what chooses the best trial")] = "kid",
    trials: Annotated[
        int | None, typer.Option(help="most trials at once; by default what the cluster can hold", min=1)
    ] = None,
) -> None:
    """Run many trials on Ray Tune; stages that trials share are trained once. The same command continues."""
    require_free(run)
    require_cluster()
    config = require_study(data, run, preset, set_ or ())
    from rgcluster.config import with_values
    from rgcluster.study.space import cells_of, parse_axis

    named = (("guidance.retrieval_count", retrieval_count), ("data.fraction", data_fraction))
    axes = [parse_axis(f"{key}={values}") for key, values in named if values]
    axes += [parse_axis(text) for text in over or ()]
    for cell in cells_of(axes, search, samples, config.seed):
        with_values(config, cell, "the study")
    with workers_ahead():
        from rgcluster.study.sweep import SweepOptions
        from rgcluster.study.sweep import sweep as make

        options = SweepOptions(tuple(axes), search, samples, asha, grace, loss, metric, trials)
        report = make(data, run, preset, set_ or (), options)
    out.print(f"report: {report}", soft_wrap=True)
