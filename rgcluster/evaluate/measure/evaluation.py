"""The evaluation of a run: measures every model on the same inputs and reference, and writes `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.data import ActorPoolStrategy

from rgcluster.base.placement import CPUS_PER_ACTOR, GPUS_PER_ACTOR
from rgcluster.base.rundir import RESULTS, networks_of, stage_directory
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.data.stream import ImageSource, batches
from rgcluster.evaluate.measure.differences import run_differences
from rgcluster.evaluate.measure.inputs import IDENTITY, TRUTH, columns_of_domain, evaluation_inputs
from rgcluster.evaluate.measure.measure import Measure, Task
from rgcluster.evaluate.measure.measured import is_measured, load_measured, measured_place, save_measured
from rgcluster.evaluate.measure.probe import probe
from rgcluster.evaluate.measure.reference import CHUNK, Progress, Reference, load_reference
from rgcluster.evaluate.metrics.averages import averaged
from rgcluster.evaluate.metrics.catalogue import TRANSLATION
from rgcluster.evaluate.metrics.scores import fid_or_reason, inception_score, kernel_distance
from rgcluster.faces import FaceSet
from rgcluster.model.handover import is_guided, network_digests
from rgcluster.translate.device import pick_device

__all__ = ["Evaluation", "StartStore", "evaluate_run", "measurements", "over_seeds"]

KID_SUBSETS = 50

Columns = dict[str, npt.NDArray[Any]]


class StartStore(Protocol):
    """Starts the run's store under a name, and stops it at the end of the `with` block."""

    def __call__(self, name: str) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Evaluation:
    """Inputs of an evaluation: the run, all labelled images, the reference, and where measurements are stored."""

    config: Config
    run: Location
    train: ImageSource
    test: ImageSource
    faces: FaceSet | None
    protocol: Mapping[str, Any]
    reference: Location
    measured: Location
    store_digest: str
    gpu: bool
    workers: int

    @property
    def columns(self) -> list[int]:
        """The columns of the labels that span the domains."""
        return columns_of_domain(self.config, self.train)


def evaluate_run(
    evaluation: Evaluation, store_name: str, start_store: StartStore, retrieval: Sequence[Mapping[str, Any]],
    queries: Columns, versions: Mapping[str, str], progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Measure the models that are not measured yet; write and return the run's `results.json`.

    `retrieval` has the rows of the retrieval networks, `queries` the shares of each query (`load_precision`).
    """
    places = measurements(evaluation)
    missing = tuple(name for name, place in places.items() if not is_measured(place))
    reference = load_reference(evaluation.reference)
    if missing:
        with start_store(store_name):
            _measure(evaluation, store_name, missing, places, reference, progress)
    measured = {name: load_measured(place) for name, place in places.items()}
    rows = [{**_about(name, evaluation.config), **over_seeds(one.values)} for name, one in measured.items()]
    rows.append(_real_row(evaluation, reference))
    results = {
        "protocol": {
            **evaluation.protocol, "versions": dict(versions),
        },
        "training_seed": evaluation.config.seed,
        "tables": {"translation": rows, "retrieval": list(retrieval)},
        "differences": run_differences(
            {name: one.images for name, one in measured.items()}, queries, reference, len(evaluation.test.index),
            drawn=TRUTH in places,
        ),
        "probe": _probe(evaluation),
    }  # fmt: skip
    (stage_directory(evaluation.run, "evaluation") / RESULTS).write_json(results)
    return results


def _probe(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return the results of the probe; None where no rg-unit was trained."""
    config = evaluation.config
    if "rg-unit" not in config.guidance.variants:
        return None
    device = pick_device(config.cluster, gpu=evaluation.gpu and torch.cuda.is_available())
    return probe(config, evaluation.run, evaluation.train, evaluation.test, evaluation.faces, device)


def measurements(evaluation: Evaluation) -> dict[str, Location]:
    """Return the location of the measurements of each of the run's models, existing or not."""
    config, run = evaluation.config, evaluation.run
    base = network_digests(networks_of(run, "translation"))["translator"]
    guided = network_digests(networks_of(run, "guidance"))
    protocol = {"protocol": evaluation.protocol["digest"]}
    places = {IDENTITY: measured_place(evaluation.measured, IDENTITY, protocol)}
    if evaluation.faces is not None and config.evaluation.counterfactuals:
        places[TRUTH] = measured_place(evaluation.measured, TRUTH, protocol)
    for name in ("gmm-unit", *config.guidance.variants):
        depends: dict[str, Any] = {
            **protocol,
            "network": base if name == "gmm-unit" else guided[name],
        }
        if is_guided(name):
            depends |= {
                "store": evaluation.store_digest,
                "retrieval_count": config.guidance.retrieval_count,
                "exclude_self": config.guidance.exclude_self,
            }
        places[name] = measured_place(evaluation.measured, name, depends)
    return places


def _measure(
    evaluation: Evaluation, store: str, models: tuple[str, ...], places: Mapping[str, Location],
    reference: Reference, progress: Progress,
) -> None:  # fmt: skip
    """Translate and measure in actors; save each model's measurements."""
    config = evaluation.config
    settings = config.evaluation
    task = Task(
        config, str(evaluation.run), store, ray.put(evaluation.train), ray.put(evaluation.test),
        reference.judge, evaluation.faces, evaluation.gpu, models,
    )  # fmt: skip
    chunks = [
        {"seed": seed, "start": start, "stop": min(start + CHUNK, settings.images)}
        for seed in settings.seeds
        for start in range(0, settings.images, CHUNK)
    ]
    measured = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
        Measure,
        fn_constructor_args=(task,),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(evaluation.workers, len(chunks))),
        num_cpus=CPUS_PER_ACTOR,
        num_gpus=GPUS_PER_ACTOR if evaluation.gpu else None,
    )
    parts: dict[tuple[str, int], list[Columns]] = {}
    total, done = len(settings.seeds) * settings.images * len(models), 0
    for block in batches(measured, None):
        done += len(block["seed"])
        progress(done, total, "translating and measuring")
        for model in np.unique(block["model"]):
            mine = block["model"] == model
            part = {key: values[mine] for key, values in block.items() if key != "model"}
            parts.setdefault((str(model), int(part["seed"][0])), []).append(part)
    for model in models:
        columns = [_joined(parts[(model, seed)]) for seed in settings.seeds]
        values = []
        for seed, made in zip(settings.seeds, columns, strict=True):
            values.append(_values(evaluation, seed, made, reference))
        keys = [key for key in columns[0] if key not in ("index", "predicted")]
        save_measured(
            places[model], values, {key: np.concatenate([made[key] for made in columns]) for key in keys}
        )


def _joined(blocks: list[Columns]) -> Columns:
    joined = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    order = np.argsort(joined["index"], kind="stable")
    return {key: values[order] for key, values in joined.items()}


def _values(evaluation: Evaluation, seed: int, made: Columns, reference: Reference) -> dict[str, Any]:
    """Return one model's values on one seed's inputs; add each input's test row and `acc` to `made`."""
    config, columns = evaluation.config, evaluation.columns
    inputs = evaluation_inputs(
        config, seed, len(evaluation.test.index), evaluation.train.index.labels[:, columns]
    )
    rows, targets = inputs.rows[made["index"]], inputs.targets[made["index"]]
    right = made["predicted"][:, columns] == targets
    changed = evaluation.test.index.labels[rows][:, columns] != targets
    made["row"], made["acc"] = rows, right.mean(axis=1)
    made["acc_changed"] = _share(right, changed, axis=1)
    few = len(rows) < config.evaluation.images  # the truth is drawn for some inputs only
    fid = fid_or_reason(made["features"], reference.features)
    return {
        "seed": seed,
        "acc": float(right.mean()),
        "acc_per_attribute": dict(zip(config.data.attributes, right.mean(axis=0).tolist(), strict=True)),
        "acc_changed": _mean(_share(right.reshape(1, -1), changed.reshape(1, -1), axis=1)),
        "acc_changed_per_attribute": {
            name: None if np.isnan(share) else float(share)
            for name, share in zip(config.data.attributes, _share(right, changed, axis=0), strict=True)
        },
        "fid": None if few else fid.value,
        "fid_note": None if few else fid.note,
        "kid": None if few else kernel_distance(made["features"], reference.features, subsets=KID_SUBSETS)[0],
        "is": None if few else inception_score(made["logits"], splits=_splits(len(made["logits"])))[0],
        **{key: _mean(made[key]) for key in ("diversity", "counterfactual", "edit", "keep", "content_kept")},
    }


def _share(
    right: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_], axis: int
) -> npt.NDArray[np.float64]:
    """Return the share of right cells among the counted ones along an axis; NaN where none is counted."""
    number = counted.sum(axis=axis)
    return np.where(number > 0, (right & counted).sum(axis=axis) / np.maximum(number, 1), np.nan)


def over_seeds(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over the evaluation seeds, and the standard deviation of each as `*_spread`."""
    return averaged([{key: value[key] for key in value if key != "seed"} for value in values], "_spread")


def _about(name: str, config: Config) -> dict[str, Any]:
    guided = is_guided(name)
    steps = config.translation.steps + (config.guidance.steps if name != "gmm-unit" else 0)
    if name in (IDENTITY, TRUTH):
        steps = 0
    return {
        "model": name,
        "steps": steps,
        "retrieval_count": config.guidance.retrieval_count if guided else 0,
        "data_fraction": config.data.fraction,
    }


def _real_row(evaluation: Evaluation, reference: Reference) -> dict[str, Any]:
    """Real images: IS of the training images, the judge's accuracy on the test images."""
    config, columns = evaluation.config, evaluation.columns
    right = reference.on_test[:, columns] == evaluation.test.index.labels[:, columns].astype(bool)
    return {
        **dict.fromkeys(metric.key for metric in TRANSLATION),
        "acc_changed_per_attribute": None,
        "model": "real",
        "steps": 0,
        "retrieval_count": 0,
        "data_fraction": config.data.fraction,
        "acc": float(right.mean()),
        "acc_per_attribute": dict(zip(config.data.attributes, right.mean(axis=0).tolist(), strict=True)),
        "is": inception_score(reference.logits, splits=_splits(len(reference.logits)))[0],
    }


def _splits(count: int) -> int:
    """Return 10, the usual number of splits, or fewer so that each holds ten images."""
    return max(1, min(10, count // 10))


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
