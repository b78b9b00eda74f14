"""Batches of jobs against the translators that they use, one row at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import CPU
from untrained import untrained_run

from rgcluster.base.storage import Location
from rgcluster.store.local import LocalStore
from rgcluster.translate.guided import load_models
from rgcluster.translate.jobs import Job, Outcome, Translators


@pytest.mark.parametrize("own_style", ["false", "true"])
def test_the_rows_of_a_batch_are_those_of_its_pictures_alone(tmp_path: Path, own_style: str) -> None:
    """Pictures with several rows each, in more than one chunk, guided and not."""
    config = untrained_run(tmp_path, f"model.own_style={own_style}")
    run, store = Location(tmp_path), LocalStore(tmp_path / "store" / "snapshot")
    rng = np.random.default_rng(1)
    jobs = []
    for rows, guidance in ((3, "off"), (2, "on"), (1, "off")):
        pixels = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
        target = rng.integers(2, size=(1, config.num_attributes), dtype=np.int8)
        noise = rng.standard_normal((rows, config.style_size), dtype=np.float32)
        jobs.append(Job(pixels, target, np.ones((rows, 1), np.float32), noise, guidance=guidance))  # type: ignore[arg-type]
    found = Translators(run, config, store, CPU, max_rows=2, degrade=False).run(jobs)
    models = load_models(run, config, store, CPU)
    for job, outcome in zip(jobs, found, strict=True):
        assert isinstance(outcome, Outcome) and len(outcome.images) == job.rows
        for image, noise in zip(outcome.images, job.noise, strict=True):
            alone = models[outcome.variant].translate(job.pixels[None], job.targets, noise[None]).image[0]
            assert np.abs(image.astype(int) - alone).max() <= 1  # of 255: rounding
