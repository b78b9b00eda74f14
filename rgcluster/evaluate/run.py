"""The evaluation of a run: the classifier, then every model on the same inputs, then `results.json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.data import ActorPoolStrategy

from rgcluster.config import Config
from rgcluster.data.attributes import domain_columns
from rgcluster.data.faces import load_face_set
from rgcluster.data.stream import ImageSource, batches
from rgcluster.evaluate.classifier import AttributeClassifier, train_classifier
from rgcluster.evaluate.features import best_extractor, best_perceptual, metric_name
from rgcluster.evaluate.inputs import evaluation_inputs
from rgcluster.evaluate.measure import Measure, Task
from rgcluster.evaluate.metrics import fid_or_reason, inception_score, kernel_distance
from rgcluster.evaluate.queries import retrieval_rows
from rgcluster.storage import Location, digest_json

__all__ = ["CLASSIFIER", "RESULTS", "evaluate_run"]

RESULTS = "results.json"
CLASSIFIER = "classifier.safetensors"
CHUNK = 64
CPUS_PER_ACTOR = 0.4
KID_SUBSETS = 50

Progress = Callable[[int, int, str], None]
Columns = dict[str, npt.NDArray[Any]]


def evaluate_run(
    config: Config,
    run: Location,
    store: str,
    train: ImageSource,
    test: ImageSource,
    versions: dict[str, str],
    *,
    gpu: bool,
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """Measure every model of the run and every retrieval network; write and return `results.json`."""
    directory = run / "evaluation"
    columns = domain_columns(train.shards.attributes, config.data.attributes, train.shards.location)
    classifier = _classifier(
        config, directory / CLASSIFIER, train, gpu=gpu, threads=workers, progress=progress
    )
    faces = load_face_set(Path(train.shards.source))
    task = Task(config, str(run), store, ray.put(train), ray.put(test), classifier, faces, gpu)
    measured = _measure(task, len(train.index), workers, progress)

    real = measured.pop(("real", -1))
    on_test = AttributeClassifier.from_bytes(classifier).predict(test.images(np.arange(len(test.index))))
    rows = []
    names = ["gmm-unit", *config.guidance.variants]
    for name in names:
        per_seed = [
            _translation_values(
                measured[(name, seed)],
                real,
                evaluation_inputs(config, seed, len(test.index), train.index.labels[:, columns]).targets,
                columns,
                config,
            )
            for seed in config.evaluation.seeds
        ]
        rows.append({**_about(name, config), **_over_seeds(per_seed)})
    rows.append(_real_row(real, on_test, test.index.labels[:, columns], columns, config))
    untouched = [measured[("gmm-unit", seed)]["untranslated"] for seed in config.evaluation.seeds]
    results = {
        "protocol": _protocol(config, train, test, versions, faces is not None, untouched),
        "tables": {"translation": rows, "retrieval": retrieval_rows(config, run, train, test, gpu)},
    }
    (directory / RESULTS).write_json(results)
    return results


def _classifier(
    config: Config, file: Location, train: ImageSource, *, gpu: bool, threads: int, progress: Progress
) -> bytes:
    if file.exists():
        return file.read_bytes()
    torch.set_num_threads(max(1, threads))
    classifier = train_classifier(
        train.images(np.arange(len(train.index))),
        train.index.labels,
        train.shards.attributes,
        steps=config.evaluation.classifier_steps,
        seed=config.seed,
        device="cuda" if gpu and torch.cuda.is_available() else "cpu",
        progress=lambda done, total, loss: progress(done, total, "training the classifier"),
    )
    content = classifier.cpu().to_bytes()
    file.write_bytes(content)
    return content


def _measure(task: Task, num_real: int, workers: int, progress: Progress) -> dict[tuple[str, int], Columns]:
    """Return every image's measurements by model and seed."""
    settings = task.config.evaluation
    spans = [(seed, settings.images) for seed in settings.seeds] + [(-1, min(num_real, settings.images))]
    chunks = [
        {"seed": seed, "start": start, "stop": min(start + CHUNK, count)}
        for seed, count in spans
        for start in range(0, count, CHUNK)
    ]
    measured = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
        Measure,
        fn_constructor_args=(task,),
        batch_size=1,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=CPUS_PER_ACTOR,
        num_gpus=0.3 if task.gpu else None,
    )
    parts: dict[tuple[str, int], list[Columns]] = {}
    total = sum(
        count if seed < 0 else count * (1 + len(task.config.guidance.variants)) for seed, count in spans
    )
    done = 0
    for block in batches(measured, None):
        done += len(block["seed"])
        progress(done, total, "translating and measuring")
        for model in np.unique(block["model"]):
            mine = block["model"] == model
            part = {key: values[mine] for key, values in block.items()}
            parts.setdefault((str(model), int(part["seed"][0])), []).append(part)
    return {key: _joined(blocks) for key, blocks in parts.items()}


def _joined(blocks: list[Columns]) -> Columns:
    joined = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    order = np.argsort(joined["index"], kind="stable")
    return {key: values[order] for key, values in joined.items()}


def _translation_values(
    made: Columns, real: Columns, targets: npt.NDArray[np.int8], columns: list[int], config: Config
) -> dict[str, Any]:
    """Return one model's and one seed's values."""
    right = made["predicted"][:, columns] == targets
    fid = fid_or_reason(made["features"], real["features"])
    return {
        "acc": float(right.mean()),
        "acc_per_attribute": dict(zip(config.data.attributes, right.mean(axis=0).tolist(), strict=True)),
        "fid": fid.value,
        "fid_note": fid.note,
        "kid": kernel_distance(made["features"], real["features"], subsets=KID_SUBSETS)[0],
        "is": inception_score(made["logits"], splits=_splits(len(made["logits"])))[0],
        "diversity": _mean(made["diversity"]),
        "counterfactual": _mean(made["counterfactual"]),
        "content_kept": _mean(made["kept"]),
    }


def _over_seeds(values: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the seeds, and the standard deviation of each as `*_spread`."""
    row: dict[str, Any] = {}
    for key, first in values[0].items():
        column = [value[key] for value in values]
        if isinstance(first, dict):
            row[key] = {name: float(np.mean([item[name] for item in column])) for name in first}
        elif first is None or isinstance(first, str):
            row[key] = first
        else:
            row[key] = float(np.mean(column))
            row[f"{key}_spread"] = float(np.std(column, ddof=1)) if len(column) > 1 else None
    return row


def _about(name: str, config: Config) -> dict[str, Any]:
    guided = name.startswith("rg-unit")
    steps = config.translation.steps + (config.guidance.steps if name != "gmm-unit" else 0)
    return {
        "model": name,
        "steps": steps,
        "retrieval_count": config.guidance.retrieval_count if guided else 0,
        "data_fraction": config.data.fraction,
    }


def _real_row(
    real: Columns,
    predicted: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int8],
    columns: list[int],
    config: Config,
) -> dict[str, Any]:
    """Real images: IS of the training images, the classifier's accuracy on the test images."""
    right = predicted[:, columns] == labels.astype(bool)
    empty = ("fid", "kid", "diversity", "counterfactual", "content_kept")
    return {
        "model": "real",
        "steps": 0,
        "retrieval_count": 0,
        "data_fraction": config.data.fraction,
        "acc": float(right.mean()),
        "acc_per_attribute": dict(zip(config.data.attributes, right.mean(axis=0).tolist(), strict=True)),
        "is": inception_score(real["logits"], splits=_splits(len(real["logits"])))[0],
        **dict.fromkeys(empty),
    }


def _splits(count: int) -> int:
    """Ten splits (the usual), fewer where a split would hold under ten images."""
    return max(1, min(10, count // 10))


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _protocol(
    config: Config,
    train: ImageSource,
    test: ImageSource,
    versions: dict[str, str],
    drawn: bool,
    untouched: list[npt.NDArray[np.float64]],
) -> dict[str, Any]:
    prefer = config.evaluation.extractor
    size = config.data.image_size
    extractor = best_extractor(None if prefer == "auto" else prefer, image_size=size)
    perceptual = best_perceptual(image_size=size)
    protocol = {
        "extractor": extractor.protocol,
        "perceptual": perceptual.protocol,
        "names": {
            **{key: metric_name(key.upper(), extractor.name) for key in ("fid", "kid", "is")},
            "diversity": metric_name("diversity", perceptual.name),
        },
        "image_size": size,
        "resize_filter": "centre crop, then bilinear with antialiasing (Pillow)",
        "translations": "lossless, rounded to 8 bits",
        "images": config.evaluation.images,
        "test_images": len(test.index),
        "real_images": min(len(train.index), config.evaluation.images),
        "inputs": "test images, repeated with other targets; real images are training images",
        "targets": "domains of random training images",
        "queries": min(config.evaluation.queries, len(test.index)),
        "gallery": len(train.index),
        "diversity_inputs": config.evaluation.diversity_inputs,
        "diversity_samples": config.evaluation.diversity_samples,
        "counterfactuals": config.evaluation.counterfactuals if drawn else 0,
        "seeds": list(config.evaluation.seeds),
        "classifier_steps": config.evaluation.classifier_steps,
        "data": train.shards.digest,
        "drawn_faces": drawn,
    }
    digest = digest_json(protocol)
    distances = [value for value in map(_mean, untouched) if value is not None]
    return {
        **protocol,
        "untranslated_counterfactual": float(np.mean(distances)) if distances else None,
        "digest": digest,
        "versions": versions,
    }
