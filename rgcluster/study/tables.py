"""The paper's tables: the runs that each needs, its rows, and the differences that it tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rgcluster.base.progress import console
from rgcluster.base.rundir import RESULTS, stage_directory
from rgcluster.config import Config
from rgcluster.errors import ConfigError
from rgcluster.evaluate.measure.differences import (
    Terms,
    judged,
    precision_differences,
    translation_differences,
)
from rgcluster.evaluate.measure.evaluation import measurements
from rgcluster.evaluate.measure.inputs import UNPAINTED
from rgcluster.evaluate.measure.measured import load_measured
from rgcluster.evaluate.measure.protocol import require_same
from rgcluster.evaluate.measure.queries import load_precision
from rgcluster.evaluate.measure.reference import load_reference
from rgcluster.evaluate.metrics.averages import averaged
from rgcluster.evaluate.metrics.catalogue import title_of
from rgcluster.pipeline.run import Pipeline
from rgcluster.study.cells import Cell, Study

__all__ = ["COUNTS", "FRACTIONS", "TABLES", "check_table", "make_table"]

Row = dict[str, Any]

TABLES = (1, 2, 3, 4, 6, 7)
STRATEGIES = ["easy", "medium", "hard", "all"]
VARIANTS = ["gmm-unit-continued", "rg-unit-random", "rg-unit"]
FRACTIONS = (0.25, 0.5, 1.0)
COUNTS = (1, 3, 10)
USUAL_COUNT = 3

BASELINE = "gmm-unit-continued"


@dataclass(frozen=True)
class Trained:
    """A trained and measured cell: its run and its results."""

    pipeline: Pipeline
    cell: Cell
    results: dict[str, Any]

    @property
    def rows(self) -> dict[str, Row]:
        return {row["model"]: row for row in self.results["tables"]["translation"]}


def check_table(study: Study, number: int, seeds: int) -> None:
    """Raise ConfigError for a table that the paper does not have, or a run of it that would be refused."""
    if number not in TABLES:
        raise ConfigError(f"no table {number}: there are {', '.join(map(str, TABLES))}")
    if number == 3 and study.config.store.images != "all":
        raise ConfigError("table 3 retrieves from all images: --set store.images=all")
    cells = _cells(study.config, number).values()
    study.check({"seed": seed, **cell} for seed in _training_seeds(study, seeds) for cell in cells)


def make_table(study: Study, number: int, seeds: int) -> dict[str, Any]:
    """Train and measure the missing runs of a table; return its results: protocol, rows, differences.

    There are `seeds` training seeds: the configuration's own and the following ones.
    """
    training_seeds = _training_seeds(study, seeds)
    made = (
        _retrieval(study, training_seeds) if number in (1, 6) else _translation(study, number, training_seeds)
    )
    return {"table": number, "training_seeds": training_seeds, **made}


def _training_seeds(study: Study, seeds: int) -> list[int]:
    return [study.config.seed + turn for turn in range(seeds)]


def _retrieval(study: Study, training_seeds: Sequence[int]) -> dict[str, Any]:
    """Tables 1 and 6, which need no stage 3."""
    (cell,) = _cells(study.config, 1).values()
    rows, queries, protocols, names = [], [], {}, []
    for seed in training_seeds:
        pipeline = study.pipeline({"seed": seed, **cell})
        console.print(f"{pipeline.run.name}")
        pipeline.finish("precision")
        own, found = load_precision(stage_directory(pipeline.run, "precision"))
        rows.append({row["negatives"]: row for row in own})
        queries.append(found)
        protocols[pipeline.run.name] = pipeline.protocol()
        names.append(pipeline.run.name)
    require_same(protocols)
    protocol = next(iter(protocols.values()))
    differences = [
        record
        for other in ("easy", "medium", "hard", "random")
        for record in precision_differences("all", other, queries, protocol["test_images"])
    ]
    merged = [merge([by_name[name] for by_name in rows]) for name in rows[0]]
    return {
        "protocol": protocol, "cells": names, "tables": {"retrieval": merged},
        "differences": judged(differences),
    }  # fmt: skip


def _translation(study: Study, number: int, training_seeds: Sequence[int]) -> dict[str, Any]:
    """Tables 2 and 7, 3, 4."""
    trained: dict[str, list[Trained]] = {}
    for seed in training_seeds:
        for key, cell in _cells(study.config, number).items():
            trained.setdefault(key, []).append(_train(study, {"seed": seed, **cell}))
    everything = [one for column in trained.values() for one in column]
    require_same({one.pipeline.run.name: one.results["protocol"] for one in everything})
    return {
        "protocol": everything[0].results["protocol"],
        "cells": [one.pipeline.run.name for one in everything],
        "tables": {"translation": list(_rows(number, trained))},
        "differences": judged(list(_differences(number, trained))),
    }


def _cells(config: Config, number: int) -> dict[str, Cell]:
    """Return the cells of one training seed by name."""
    if number in (1, 6):
        return {"all": {"retrieval.negatives": STRATEGIES}}
    if number in (2, 7):
        return {"all": {"guidance.variants": VARIANTS}}
    if number == 3:
        return {f"{share:g}": {"data.fraction": share, "guidance.variants": VARIANTS} for share in FRACTIONS}
    return {
        str(count): {
            "guidance.retrieval_count": count,
            "guidance.variants": VARIANTS if count == USUAL_COUNT else ["rg-unit"],
        }
        for count in COUNTS
    }


def _train(study: Study, cell: Cell) -> Trained:
    pipeline = study.pipeline(cell)
    console.print(f"{pipeline.run.name}")
    pipeline.finish("evaluation")
    results = (stage_directory(pipeline.run, "evaluation") / RESULTS).read_json()
    return Trained(pipeline, cell, results)


def _rows(number: int, trained: dict[str, list[Trained]]) -> Iterable[Row]:
    """Yield the table's rows, averaged over the training seeds."""
    usual = trained.get(str(USUAL_COUNT))
    for key, column in trained.items():
        models = list(column[0].rows)
        if number == 3:
            models = [model for model in models if model not in UNPAINTED]
        if number == 4:
            models = ["rg-unit"]
            if column is usual:
                models = [BASELINE, "rg-unit-random", "rg-unit"]
        for model in models:
            yield merge([one.rows[model] for one in column]) | {"cell": key}


def _differences(number: int, trained: dict[str, list[Trained]]) -> Iterable[dict[str, Any]]:
    columns = list(trained.values())
    if number in (2, 7):
        for other in (BASELINE, "rg-unit-random", "gmm-unit"):
            yield from _compare(
                title_of("rg-unit", other), columns[0], [(1, 0, "rg-unit"), (-1, 0, other)], columns
            )
    elif number == 3:
        for place, share in enumerate(FRACTIONS):
            for other in (BASELINE, "rg-unit-random"):
                title = f"rg-unit − {other} at {share:.0%}"
                yield from _compare(
                    title, columns[place], [(1, place, "rg-unit"), (-1, place, other)], columns
                )
        few, full = 0, len(FRACTIONS) - 1
        title = f"what retrieval adds at {FRACTIONS[few]:.0%} − what it adds at {FRACTIONS[full]:.0%}"
        terms = [(1, few, "rg-unit"), (-1, few, BASELINE), (-1, full, "rg-unit"), (1, full, BASELINE)]
        yield from _compare(title, columns[few], terms, columns)
    else:
        usual = COUNTS.index(USUAL_COUNT)
        for place, count in enumerate(COUNTS):
            terms = [(1, place, "rg-unit"), (-1, usual, BASELINE)]
            yield from _compare(f"M = {count} − M = 0 (continued)", columns[usual], terms, columns)
        for place, count in enumerate(COUNTS):
            if place != usual:
                terms = [(1, usual, "rg-unit"), (-1, place, "rg-unit")]
                yield from _compare(f"M = {USUAL_COUNT} − M = {count}", columns[usual], terms, columns)


def _compare(
    title: str, first: list[Trained], terms: Sequence[tuple[int, int, str]], columns: list[list[Trained]]
) -> list[dict[str, Any]]:
    """Return the records of a comparison; a term is a sign, the number of a column, and a model."""
    seeds: list[Terms] = []
    for turn in range(len(first)):
        models = []
        for sign, place, model in terms:
            one = columns[place][turn]
            found = measurements(one.pipeline.measuring())[model]
            models.append((float(sign), load_measured(found).images))
        seeds.append(models)
    protocol = first[0].results["protocol"]
    reference = load_reference(stage_directory(first[0].pipeline.run, "reference"))
    drawn = protocol["drawn_faces"] and protocol["counterfactuals"] > 0
    return translation_differences(title, seeds, reference, protocol["test_images"], drawn=drawn)


def merge(rows: Sequence[Row]) -> Row:
    """Return one row over training seeds: means, also of the spreads, and `*_training_spread` of the values."""
    return averaged(rows, "_training_spread", same=("data_fraction",)) | {"training_seeds": len(rows)}
