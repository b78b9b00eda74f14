"""Import of the authors' published weights as a run's stage 1, and export of a run's translator."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from rgcluster.base.rundir import CONFIG, MODEL, STAGE, networks_of
from rgcluster.base.storage import Location, digest_bytes
from rgcluster.base.versions import package_versions
from rgcluster.config import Config
from rgcluster.errors import RunConflict
from rgcluster.model.handover import is_guided, load_guided, load_translator, save_networks
from rgcluster.model.interop.export import Exported, Format, export_translator
from rgcluster.model.interop.published import (
    load_published_discriminator,
    load_published_generator,
    read_published,
)
from rgcluster.model.networks import Discriminator
from rgcluster.pipeline.run import flatten
from rgcluster.translate.guided import require_model

__all__ = ["export", "import_published"]

BINDING = ("data.image_size", "data.attributes", "data.domains")
"""Settings besides the model's that the imported networks fix."""


def import_published(generator: Path, discriminator: Path | None, config: Config, run: Location) -> None:
    """Write published networks as the finished stage 1 of a new run; RunConflict where the run has one already.

    Without the published discriminator, stage 3 begins with a new one.
    """
    directory = run / "translation"
    if (directory / STAGE).exists() or (directory / MODEL).exists():
        raise RunConflict(f"{directory} holds a translation already; import into another --run, or remove it")
    translator = load_published_generator(read_published(generator), config, str(generator))
    if discriminator is None:
        torch.manual_seed(config.seed)
        judge = Discriminator(config)
    else:
        judge = load_published_discriminator(read_published(discriminator), config, str(discriminator))
    origin = {
        "generator": {"file": generator.name, "sha256": digest_bytes(generator.read_bytes())},
        "discriminator": {"file": discriminator.name, "sha256": digest_bytes(discriminator.read_bytes())}
        if discriminator
        else "new",
    }
    networks = {"translator": translator, "discriminator": judge}
    save_networks(directory / MODEL, networks, {"kind": "translation", "steps": 0, "imported": origin})
    settings = flatten(config.model_dump(mode="json"))
    depends = {key: value for key, value in settings.items() if key.startswith("model.") or key in BINDING}
    record = {"depends": depends, "finished": True, "seconds": 0.0, "versions": package_versions()}
    (directory / STAGE).write_json({**record, "imported": origin})
    (run / CONFIG).write_text(config.to_yaml())


def export(run: Location, config: Config, model: str, kind: Format, target: Path) -> Exported:
    """Write one of the run's translators to `target`, and a description of its inputs and outputs to `target`.json."""
    require_model(config, model)
    if model == "gmm-unit":
        translator = load_translator(networks_of(run, "translation"), config)
    else:
        translator = load_guided(networks_of(run, "guidance"), config, model)
    exported = export_translator(translator, config, kind, target)
    about = {
        **asdict(exported),
        "model": model,
        "guided": is_guided(model),
        "attributes": list(config.data.attributes),
        "sha256": digest_bytes(target.read_bytes()),
        "versions": package_versions(),
    }
    target.with_name(f"{target.name}.json").write_text(json.dumps(about, indent=2) + "\n")
    return exported
