"""The report of a run: one HTML file that holds everything it shows. Neither Ray nor torch is needed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rgcluster.base.logs.jsonlines import read_lines
from rgcluster.base.rundir import DATA, MANIFEST, METRICS, RESULTS, stage_directory
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.evaluate.report.captions import CAPTIONS, FILES
from rgcluster.evaluate.report.curves import loss_panels
from rgcluster.evaluate.report.page import details, figure, page, paragraphs, section, simple_table, table
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
STAGES = ("translation", "retrieval", "store", "guidance", "evaluation")

HERO = "translations"


@dataclass(frozen=True)
class Parts:
    """What a run directory holds; None or empty for what is not there."""

    config: Config
    results: dict[str, Any] | None
    manifest: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    metrics: dict[str, list[dict[str, Any]]]
    figures: dict[str, bytes]


def write_report(config: Config, run: Location) -> Location:
    """Write `run/report/index.html` from what the run holds and return its location."""
    parts = _read(config, run)
    title = f"RG-UNIT on {_data(parts)}"
    body = [
        f"<header>\n<h1>{escape(title)}</h1>\n{paragraphs([_about(parts)])}</header>",
        _reading_section(parts),
        section("translations", "What it does", _figure(parts, HERO)),
        _numbers_section(parts),
        section("figures", "Figures", *(_figure(parts, name) for name in CAPTIONS if name != HERO)),
        _training_section(parts),
        _setup_section(parts),
    ]
    file = run / "report" / "index.html"
    file.write_text(page(title, body))
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
        {name: read_lines(places[name] / METRICS) for name in TRAINED},
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
    drawn = (
        " The faces are drawn by the program itself, so the true outcome of every change is known."
        * bool(protocol.get("drawn_faces"))
    )
    return (
        "A run of retrieval-guided unsupervised multi-domain image-to-image translation (RG-UNIT, ACM "
        "Multimedia 2020): a translator (GMM-UNIT) is trained, then a network that retrieves real images "
        "like the wanted outcome, then the translator again, guided by what is retrieved. "
        f"Preset {config.preset}, seed "
        f"{config.seed}, images of {config.data.image_size} × {config.data.image_size} pixels, domains of "
        f"{config.num_attributes} attributes{', ' if counts else ''}{' and '.join(counts)}.{drawn}"
    )


def _reading_section(parts: Parts) -> str:
    if parts.results is None:
        missing = "Nothing has been measured yet: run `rgcluster evaluate` on this directory."
        return section("reading", "What the numbers say", paragraphs([missing], "missing"))
    return section(
        "reading",
        "What the numbers say",
        f'<ul class="reading">\n{_verdicts(reading(parts.results))}</ul>\n<h3>What limits it</h3>\n'
        f'<ul class="limits">\n{_items(limits(parts.results))}</ul>\n',
    )


def _verdicts(texts: Sequence[str]) -> str:
    """Return list items whose first sentence stands out."""
    split = (text.partition(". ") for text in texts)
    return "".join(
        f"<li><strong>{escape(first + '.' * bool(rest))}</strong> {escape(rest)}</li>\n"
        for first, _, rest in split
    )


def _items(texts: Sequence[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>\n" for text in texts)


def _figure(parts: Parts, name: str) -> str:
    title, caption = CAPTIONS[name]
    if name in parts.figures:
        return figure(name, title, caption, parts.figures[name])
    why = "not drawn"
    if name == "masks" and not parts.config.model.attention:
        why = "the generator has no attention"
    if name == "counterfactuals" and not _protocol(parts).get("drawn_faces"):
        why = "photographs have none"
    return paragraphs([f"{title}: {why}."], "missing")


def _numbers_section(parts: Parts) -> str:
    if parts.results is None:
        return section("numbers", "Numbers", paragraphs(["No results.json yet."], "missing"))
    differ = "differ" if _protocol(parts).get("drawn_faces") else "may differ"
    apart = (
        "In smaller grey stand the numbers of the paper, measured on CelebA at 128 × 128 pixels. The data, "
        f"the training and the features {differ} from this run's: they stand beside ours and do not compare."
    )
    tables = [translation_table, changed_table, accuracy_table, retrieval_table, p10_table]
    shown = [table(make(parts.results)) for make in tables]
    if parts.results.get("probe"):
        shown.append(simple_table(_PROBE, ("test", "case", "value"), probe_rows(parts.results["probe"])))
    return section("numbers", "Numbers", paragraphs([apart]), *shown)


_PROBE = "Is retrieval used? One network, other neighbours (rgcluster probe)"


def _training_section(parts: Parts) -> str:
    curves = []
    for name in TRAINED:
        panels = loss_panels(parts.metrics[name], name)
        curves.append(f"<h3>{_STAGE_NAMES[name]}</h3>\n")
        curves.append(panels or paragraphs(["No metrics.jsonl: this stage has not run."], "missing"))
    speed = simple_table(
        "Time and speed per stage",
        (
            "stage",
            "state",
            "wall time",
            "steps",
            "images per second (median)",
            "waits for data",
            "waits for neighbours",
        ),
        [_speed(parts, name) for name in STAGES],
    )
    note = "Waits are shares of a step's time, over all steps; – where the stage has none."
    return section("training", "Training", speed, paragraphs([note], "note"), *curves)


_STAGE_NAMES = {
    "translation": "Stage 1, translation",
    "retrieval": "Stage 2, retrieval",
    "store": "Retrieval store",
    "guidance": "Stage 3, guidance",
    "evaluation": "Evaluation",
}


def _speed(parts: Parts, name: str) -> list[str]:
    record, lines = parts.stages.get(name), parts.metrics.get(name, [])
    state = "not run" if record is None else "finished" if record.get("finished") else "unfinished"
    seconds = _duration(record["seconds"]) if record and record.get("seconds") else "–"
    if not lines:
        return [_STAGE_NAMES[name], state, seconds, "–", "–", "–", "–"]
    speed = statistics.median(line["images_per_second"] for line in lines)
    steps = f"{lines[-1]['step']:,} of {lines[-1]['steps']:,}"
    waits = [_share(lines, key) for key in ("wait_data", "wait_neighbours")]
    return [_STAGE_NAMES[name], state, seconds, steps, f"{speed:,.1f}", *waits]


def _share(lines: Sequence[dict[str, Any]], key: str) -> str:
    """Return the waiting time's share of all steps' time."""
    if key not in lines[0]:
        return "–"
    waited = total = 0.0
    before = 0
    for line in lines:
        steps, before = line["step"] - before, line["step"]
        waited += steps * line.get(key, 0.0)
        total += steps * line["seconds_per_step"]
    return f"{waited / total:.1%}" if total else "–"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _setup_section(parts: Parts) -> str:
    protocol = _protocol(parts)
    versions = protocol.pop("versions", None) or parts.manifest.get("versions", {})
    seeds = protocol.get("seeds", list(parts.config.evaluation.seeds))
    listed = ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown"
    sentences = [
        f"Training seed {parts.config.seed}; evaluation seeds {', '.join(map(str, seeds))}.",
        f"Versions: {listed}.",
    ]
    blocks = [details("Configuration", parts.config.to_yaml())]
    if protocol:
        blocks.append(
            details("Protocol of the evaluation", json.dumps(protocol, indent=2, ensure_ascii=False))
        )
    return section("setup", "How it was made", paragraphs(sentences), *blocks)
