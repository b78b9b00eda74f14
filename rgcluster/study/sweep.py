"""`rgcluster sweep`: trains the shared stages, runs the trials, and writes the best one, plots and results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rgcluster.base.locks.lease import Lease
from rgcluster.base.progress import console
from rgcluster.base.rundir import RESULTS
from rgcluster.base.session import ray_session
from rgcluster.base.storage import Location, digest_json
from rgcluster.config import Config, with_values
from rgcluster.errors import ConfigError, RGClusterError
from rgcluster.evaluate.measure.inputs import UNPAINTED
from rgcluster.evaluate.measure.protocol import require_same
from rgcluster.evaluate.metrics.catalogue import METRICS, TRANSLATION
from rgcluster.study.cells import Cell, Study
from rgcluster.study.live import LiveTable
from rgcluster.study.opening import open_study
from rgcluster.study.plots import write_sweep_report
from rgcluster.study.space import Axis, cells_of
from rgcluster.study.trials import Plan, Trial, concurrency, finished_results, run_trials

__all__ = ["SweepOptions", "sweep", "with_variants"]


@dataclass(frozen=True)
class SweepOptions:
    """How to search, and the metric to optimise."""

    axes: tuple[Axis, ...]
    search: Literal["grid", "random"] = "grid"
    samples: int = 10
    asha: bool = False
    grace: int = 0
    loss: str = "rg-unit/total"
    metric: str = "kid"
    trials: int | None = None


def sweep(
    data: str | None, run: str, preset: str | None, overrides: Iterable[str], options: SweepOptions
) -> Location:
    """Run or continue the sweep; return its report."""
    choices = [metric.key for metric in TRANSLATION]
    if options.metric not in choices:
        raise ConfigError(f"--metric {options.metric}: choose {', '.join(choices)}")
    root, config, shards = open_study(data, run, preset, overrides)
    config = with_variants(config, overrides, options.axes)
    cells = cells_of(options.axes, options.search, options.samples, config.seed)
    study = Study(root, config, shards)
    study.check(cells)  # before the first of them trains for hours
    study.require_comparable(cells)
    with Lease(root), ray_session(dashboard=True):
        trials = _run(study, cells, options)
        return _conclude(study, trials, options)


def with_variants(config: Config, overrides: Iterable[str], axes: Iterable[Axis]) -> Config:
    """Return the configuration with the translators that a trial trains, unless the user chose them.

    Most sweeps change nothing that the baselines depend on, so only the guided translator is trained. Seeds are swept
    for the comparison with the baselines.
    """
    swept = {axis.key for axis in axes}
    given = {override.partition("=")[0].strip() for override in overrides}
    if "seed" in swept or "guidance.variants" in given | swept:
        return config
    return with_values(config, {"guidance.variants": ["rg-unit"]})


def _run(study: Study, cells: Sequence[Cell], options: SweepOptions) -> list[Trial]:
    number = min(
        len(cells), *(concurrency(with_values(study.config, cell), options.trials) for cell in cells)
    )
    console.print(f"{len(cells)} trials, {number} at once")
    _train_shared(study, cells)
    plan = Plan(study.root, study.config, study.shards, study.shared.sources, number, options.loss)
    grace = options.grace or max(1, study.config.guidance.steps // 4)
    with LiveTable(study, options.metric) as table:
        return run_trials(plan, cells, asha=options.asha, grace=grace, report=table.show)


def _train_shared(study: Study, cells: Sequence[Cell]) -> None:
    """Train the stages that several trials need, from stage 1 to 3 as far as they share them, and the judge.

    What a trial needs alone it trains itself, beside the others.
    """
    pipelines = [study.pipeline(cell) for cell in cells]
    for pipeline in pipelines:
        pipeline.finish("reference")
        for split in ("train", "test"):
            pipeline.source(split)
    for stage in ("translation", "retrieval", "precision", "store", "guidance"):
        keys = [digest_json(pipeline.depends(stage)) for pipeline in pipelines]
        pipelines = [pipeline for pipeline, key in zip(pipelines, keys, strict=True) if keys.count(key) > 1]
        for pipeline in pipelines:
            pipeline.finish(stage)


def _conclude(study: Study, trials: Sequence[Trial], options: SweepOptions) -> Location:
    """Write `sweep/results.json` and the report; RGClusterError where a trial failed."""
    rows, protocols = [], {}
    for trial in trials:
        name = study.pipeline(trial.cell).run.name
        row: dict[str, Any] = {"name": name, "cell": dict(trial.cell), "state": trial.state}
        note = study.root / "sweep" / "trials" / f"{name}.json"
        if note.exists():
            row["why"] = note.read_json()["why"]
        results = finished_results(study, trial.cell)
        if results:
            protocols[name] = results["protocol"]
            row["rows"] = [r for r in results["tables"]["translation"] if r["model"] not in UNPAINTED]
        rows.append(row)
    if not protocols:
        why = next((row["why"] for row in rows if "why" in row), "none was started")
        raise RGClusterError(f"no trial of the sweep finished: {why}; run the same command to try again")
    require_same(protocols)
    best = _best(rows, options.metric)
    results = {
        "protocol": next(iter(protocols.values())),
        "metric": options.metric,
        "direction": METRICS[options.metric].direction,
        "search": "asha" if options.asha else options.search,
        "axes": [axis.key for axis in options.axes],
        "best": best,
        "trials": rows,
    }
    directory = study.root / "sweep"
    (directory / RESULTS).write_json(results)
    if best:
        chosen = next(row["cell"] for row in rows if row["name"] == best)
        (directory / "best.yaml").write_text(with_values(study.config, chosen).to_yaml())
        console.print(f"best by {options.metric}: {best}")
    report = write_sweep_report(directory, results)
    failed = [row for row in rows if row["state"] == "failed"]
    if failed:
        raise RGClusterError(
            f"{len(failed)} of {len(rows)} trials failed, {failed[0]['name']}: {failed[0].get('why', '')}; the others "
            f"are in {report}; run the same command to try the failed ones again"
        )
    return report


def _best(rows: Sequence[dict[str, Any]], metric: str) -> str | None:
    """Return the name of the finished trial with the best guided translator."""
    values = {
        row["name"]: value
        for row in rows
        for own in row.get("rows", [])
        if own["model"] == "rg-unit" and (value := own.get(metric)) is not None
    }
    if not values:
        return None
    choose = min if METRICS[metric].direction == "min" else max
    return choose(values, key=lambda name: values[name])
