"""Failure cases: the translations that show fewest of the target attributes, according to the judge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rgcluster.data.images import UInt8Array
from rgcluster.evaluate.figures.scene import Scene, described, plain
from rgcluster.evaluate.figures.sheet import Tile, draw_sheet
from rgcluster.evaluate.measure.evaluation import Evaluation, measurements
from rgcluster.evaluate.measure.inputs import evaluation_inputs
from rgcluster.evaluate.measure.measure import draw_counterfactuals
from rgcluster.evaluate.measure.measured import load_measured
from rgcluster.evaluate.measure.reference import read_judge
from rgcluster.evaluate.metrics.classifier import AttributeClassifier

__all__ = ["Failures", "failures", "worst_inputs"]


@dataclass(frozen=True)
class Failures:
    """Inputs with the worst translations, and the judge; `columns` are those of its answers that span the domains."""

    images: UInt8Array
    targets: npt.NDArray[np.int8]
    noise: npt.NDArray[np.float32]
    row_ids: npt.NDArray[np.int64]
    names: list[str]
    seed: int
    judge: AttributeClassifier
    columns: list[int]


def worst_inputs(evaluation: Evaluation) -> Failures:
    """Return `evaluation.figure_rows` inputs whose translations by RG-UNIT are worst, one for a test image.

    They are of the first evaluation seed, the worst first.
    """
    config, test = evaluation.config, evaluation.test
    seed = config.evaluation.seeds[0]
    inputs = evaluation_inputs(
        config, seed, len(test.index), evaluation.train.index.labels[:, evaluation.columns]
    )
    right = load_measured(measurements(evaluation)["rg-unit"]).images["acc"][: len(inputs.rows)]
    order = np.argsort(right, kind="stable")
    first = np.sort(np.unique(inputs.rows[order], return_index=True)[1])
    chosen = order[first][: config.evaluation.figure_rows]
    rows = inputs.rows[chosen]
    return Failures(
        test.images(rows), inputs.targets[chosen], inputs.noise[chosen], test.index.row_ids[rows],
        [test.index.file_names[row] for row in rows], seed,
        AttributeClassifier.from_bytes(read_judge(evaluation.reference)), evaluation.columns,
    )  # fmt: skip


def failures(scene: Scene, cases: Failures) -> bytes:
    """Return a sheet of the inputs, every model's translation with the judge's objections, and the truth."""
    config = scene.config
    rows = [[Tile(image)] for image in cases.images]
    heads = ["input"]
    shown = [name for name in ("gmm-unit-continued", "rg-unit-random", "rg-unit") if name in scene.models]
    for name in shown:
        model = scene.models[name]
        made = model.translate(cases.images, cases.targets, cases.noise, cases.row_ids, key=cases.seed).image
        seen = cases.judge.predict(made)[:, cases.columns]
        for row, image, own, wanted in zip(rows, made, seen, cases.targets, strict=True):
            row.append(Tile(image, _missed(config.data.attributes, own, wanted)))
        heads.append(_HEADS[name])
    if scene.faces is not None:
        truth = draw_counterfactuals(scene.faces, cases.names, cases.targets, config)
        for row, face in zip(rows, truth, strict=True):
            row.append(Tile(face))
        heads.append("truth")
    sides = [described(config, target) for target in cases.targets]
    return draw_sheet(rows, heads, sides=sides)


_HEADS = {
    "gmm-unit-continued": "no retrieval", "rg-unit-random": "random neighbours", "rg-unit": "RG-UNIT",
}  # fmt: skip


def _missed(names: tuple[str, ...], seen: npt.NDArray[np.bool_], wanted: npt.NDArray[np.int8]) -> str:
    """Return the number of attributes in which the judge contradicts the target; for one, what it sees instead."""
    wrong = [
        f"{'' if own else 'no '}{plain(name)}"
        for name, own, target in zip(names, seen, wanted, strict=True)
        if bool(own) != bool(target)
    ]
    if len(wrong) == 1:
        return wrong[0]
    return f"{len(wrong)} of {len(names)} wrong" if wrong else "as intended"
