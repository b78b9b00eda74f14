"""The queries of P@10: those of all evaluation seeds at once are those of each seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny import random_domains
from untrained import noise_images, untrained_run

from rgcluster.evaluate.measure.queries import Asked, EmbedAll

ROWS = np.array([4, 0, 3, 1])


def test_each_seed_asks_for_its_own_rows_with_its_own_targets(tmp_path: Path) -> None:
    config = untrained_run(tmp_path / "run")
    block = {"row": ROWS, "image": noise_images(4, config.data.image_size)}
    targets = np.stack([random_domains(5, seed=seed).numpy().astype(np.int8) for seed in (0, 1)])
    chosen = np.array([[True, True, False, True, False], [True, False, False, False, True]])

    def embedded(asked: Asked | None) -> np.ndarray:
        return EmbedAll(config, str(tmp_path / "run"), asked, gpu=False)(block)["all"]

    both = embedded(Asked(targets, chosen))
    assert both.shape == (4, 2, config.embedding_size)
    for seed in (0, 1):
        alone = embedded(Asked(targets[[seed]], np.ones((1, 5), bool)))
        here = chosen[seed][ROWS]
        np.testing.assert_allclose(both[here, seed], alone[here, 0], atol=1e-5)
        assert not both[~here, seed].any()
    assert not np.allclose(both[1, 0], both[1, 1], atol=1e-3)  # row 0, with two targets
    assert not np.allclose(embedded(None), both[:, 0], atol=1e-3)
