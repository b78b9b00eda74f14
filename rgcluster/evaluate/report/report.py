"""The report of a run: one self-contained HTML file. Writing it needs neither Ray nor torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rgcluster.base.logs.growing import read_growing
from rgcluster.base.progress import duration
from rgcluster.base.rundir import DATA, MANIFEST, METRICS, RESULTS, stage_directory
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.evaluate.report.captions import CAPTIONS, FILES
from rgcluster.evaluate.report.curves import loss_charts
from rgcluster.evaluate.report.page import render
from rgcluster.evaluate.report.reading import limits, reading
from rgcluster.evaluate.report.tables import (
    accuracy_table,
    changed_table,
    p10_table,
    probe_rows,
    retrieval_table,
    translation_table,
)

__all__ = ["write_report"]

TRAINED = ("translation", "retrieval", "guidance")
STAGES = {
    "translation": "Stage 1, translation",
    "retrieval": "Stage 2, retrieval",
    "store": "Retrieval store",
    "guidance": "Stage 3, guidance",
    "evaluation": "Evaluation",
}
TABLES = (translation_table, changed_table, accuracy_table, retrieval_table, p10_table)


@dataclass(frozen=True)
class Parts:
    """The contents of a run directory; None or empty where something is missing."""

    config: Config
    results: dict[str, Any] | None
    manifest: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    metrics: dict[str, list[dict[str, Any]]]
    figures: dict[str, bytes]


@dataclass(frozen=True)
class Figure:
    """A PNG or GIF with its caption; where there is none, the reason is `missing`."""

    name: str
    title: str
    caption: str
    picture: bytes | None
    missing: str


def write_report(config: Config, run: Location) -> Location:
    """Write `run/report/index.html` from what the run holds and return its location."""
    parts = _read(config, run)
    results, protocol = parts.results or {}, _protocol(parts)
    text = render(
        "evaluate/report/templates/report.html",
        title=f"RG-UNIT on {_data(parts)}",
        about=[_about(parts)],
        measured=bool(results),
        drawn_faces=protocol.get("drawn_faces", False),
        reading=[_first_sentence(text) for text in reading(results)],
        limits=limits(results),
        tables=[make(results) for make in TABLES],
        probe=probe_rows(results["probe"]) if results.get("probe") else (),
        figures=[_figure(parts, name) for name in CAPTIONS],
        speed=[_speed(parts, name) for name in STAGES],
        curves=[(STAGES[name], *loss_charts(parts.metrics[name], name)) for name in TRAINED],
        setup=_setup(parts),
        configuration=config.to_yaml(),
        protocol={key: value for key, value in protocol.items() if key != "versions"},
    )
    file = run / "report" / "index.html"
    file.write_text(text)
    return file


def _read(config: Config, run: Location) -> Parts:
    places = {name: stage_directory(run, name) for name in STAGES}
    evaluation = places["evaluation"]
    results = evaluation / RESULTS
    pictures = {name: evaluation / "figures" / FILES.get(name, f"{name}.png") for name in CAPTIONS}
    about = [file for name in (MANIFEST, DATA) if (file := run / name).exists()]
    records = {name: place / "stage.json" for name, place in places.items()}
    return Parts(
        config,
        results.read_json() if results.exists() else None,
        {key: value for file in about for key, value in file.read_json().items()},
        {name: file.read_json() for name, file in records.items() if file.exists()},
        {name: read_growing(places[name] / METRICS) for name in TRAINED},
        {name: file.read_bytes() for name, file in pictures.items() if file.exists()},
    )


def _protocol(parts: Parts) -> dict[str, Any]:
    return dict((parts.results or {}).get("protocol", {}))


def _data(parts: Parts) -> str:
    if _protocol(parts).get("drawn_faces"):
        return "drawn faces"
    return str(parts.manifest.get("dataset") or "a data set of images")


def _about(parts: Parts) -> str:
    config, protocol = parts.config, _protocol(parts)
    counts = [
        f"{protocol[key]:,} {name}"
        for key, name in (("gallery", "training images"), ("test_images", "test images"))
        if protocol.get(key) is not None
    ]
    drawn = " The faces are drawn by the program itself, so the true result of every change is known." * bool(
        protocol.get("drawn_faces")
    )
    return (
        "A run of retrieval-guided unsupervised multi-domain image-to-image translation (RG-UNIT, ACM "
        "Multimedia 2020): a translator (GMM-UNIT) is trained, then a network that retrieves real images "
        "similar to the intended result, then the translator again, guided by what is retrieved. "
        f"Preset {config.preset}, seed "
        f"{config.seed}, images of {config.data.image_size} × {config.data.image_size} pixels, domains of "
        f"{config.num_attributes} attributes{', ' if counts else ''}{' and '.join(counts)}.{drawn}"
    )


def _first_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence, which stands out, and the rest."""
    first, _, rest = text.partition(". ")
    return first + "." * bool(rest), rest


def _figure(parts: Parts, name: str) -> Figure:
    missing = "not drawn"
    if name == "masks" and not parts.config.model.attention:
        missing = "the generator has no attention"
    if name == "counterfactuals" and not _protocol(parts).get("drawn_faces"):
        missing = "photographs have none"
    return Figure(name, *CAPTIONS[name], parts.figures.get(name), missing)


def _speed(parts: Parts, name: str) -> list[str]:
    record, lines = parts.stages.get(name), parts.metrics.get(name, [])
    state = "not run" if record is None else "finished" if record.get("finished") else "unfinished"
    seconds = duration(record["seconds"]) if record and record.get("seconds") else "–"
    if not lines:
        return [STAGES[name], state, seconds, "–", "–", "–", "–"]
    speed = statistics.median(line["images_per_second"] for line in lines)
    steps = f"{lines[-1]['step']:,} of {lines[-1]['steps']:,}"
    waits = [_share(lines, key) for key in ("wait_data", "wait_neighbours")]
    return [STAGES[name], state, seconds, steps, f"{speed:,.1f}", *waits]


def _share(lines: Sequence[dict[str, Any]], key: str) -> str:
    """Return the share of the time of all steps that was spent waiting."""
    if key not in lines[0]:
        return "–"
    waited = total = 0.0
    before = 0
    for line in lines:
        steps, before = line["step"] - before, line["step"]
        waited += steps * line.get(key, 0.0)
        total += steps * line["seconds_per_step"]
    return f"{waited / total:.1%}" if total else "–"


def _setup(parts: Parts) -> list[str]:
    protocol = _protocol(parts)
    versions = protocol.get("versions") or parts.manifest.get("versions", {})
    seeds = protocol.get("seeds", parts.config.evaluation.seeds)
    return [
        f"Training seed {parts.config.seed}; evaluation seeds {', '.join(map(str, seeds))}.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items()) or 'unknown'}.",
    ]
