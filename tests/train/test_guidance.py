"""What guides each pass of a stage 3 step, neighbours from the store or the image itself, and with which mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stages import Studio
from tiny import CPU, random_images, tiny_config, tiny_discriminator, tiny_translator
from untrained import untrained_run

from rgcluster.base.storage import Location
from rgcluster.errors import ConfigError
from rgcluster.model.handover import load_retrieval, load_translator, network_digests, save_networks
from rgcluster.store.local import LocalStore
from rgcluster.train.loop import train_stage
from rgcluster.train.steps.guidance import StoreGuide
from rgcluster.translate.finished import Judge
from rgcluster.translate.guided import load_models
from rgcluster.translate.retriever import Retriever
from rgcluster.translate.tensors import to_images, to_pixels

ROWS = np.array([1, 8, 15])
"""Ids of three stored images."""


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    folder = tmp_path_factory.mktemp("run")
    config, run = untrained_run(folder), Location(folder)
    base = load_translator(run / "translation" / "model", config)
    network = load_retrieval(run / "retrieval" / "model", config, base)[config.retrieval.negatives[-1]]
    return Retriever(LocalStore(run / "store" / "snapshot"), network, base, config, CPU)


def half_turn(image: torch.Tensor) -> torch.Tensor:
    return image.flip(-1, -2)


def guide(retriever: Retriever, *, moved: bool = False, fuse_cycle: bool = True) -> StoreGuide:
    """A guide of three images whose queries for translation and reconstruction are under way."""
    image = random_images(3)
    asked, style, rows = image, torch.zeros(3, 40), ROWS
    if not moved:
        asked, style, rows = image.repeat(2, 1, 1, 1), style.repeat(2, 1), np.tile(ROWS, 2)
        style[3:] = 1
    content = retriever.translator.content_encoder(asked)
    queries = retriever.issue(asked, content, style, rows, 0, random=False)
    move = half_turn if moved else None
    return StoreGuide(
        retriever, queries, ROWS, 0, random=False, fuse_cycle=fuse_cycle, image=image, move=move
    )


def nearest(retriever: Retriever, style: float) -> torch.Tensor:
    """The neighbours' images of the same queries, asked for one by one."""
    found = []
    for k in range(3):
        image = random_images(3)[k : k + 1]
        content = retriever.translator.content_encoder(image)
        query = retriever.query(image, content, torch.full((1, 40), style))
        found.append(retriever.store.neighbours(query, 3, ROWS[k : k + 1]).images)
    images = np.concatenate(found)
    return to_images(images.reshape(-1, 32, 32, 3), CPU).unflatten(0, (3, 3))


@torch.no_grad()
def test_each_pass_gets_the_neighbours_of_its_own_query(retriever: Retriever) -> None:
    subject = guide(retriever)
    translation, reconstruction = subject.translation(), subject.reconstruction()
    torch.testing.assert_close(translation.images, nearest(retriever, 0.0))
    torch.testing.assert_close(reconstruction.images, nearest(retriever, 1.0))
    expected = retriever.translator.content_encoder(reconstruction.images.flatten(0, 1)).unflatten(0, (3, 3))
    torch.testing.assert_close(reconstruction.contents, expected)
    image = random_images(3)
    subject.issue_cycle(image, retriever.translator.content_encoder(image), torch.zeros(3, 40))
    cycle = subject.cycle()
    assert cycle is not None
    torch.testing.assert_close(cycle.images, translation.images)


@torch.no_grad()
def test_the_answer_itself_guides_reconstruction_and_cycle(retriever: Retriever) -> None:
    subject = guide(retriever, moved=True)
    torch.testing.assert_close(subject.translation().images, nearest(retriever, 0.0))
    subject.issue_cycle(torch.zeros(0), torch.zeros(0), torch.zeros(0))  # issues nothing: these are no images
    turned = half_turn(random_images(3))
    for references in (subject.reconstruction(), subject.cycle()):
        assert references is not None
        torch.testing.assert_close(references.images, turned[:, None].expand(-1, 3, -1, -1, -1))
        content = retriever.translator.content_encoder(turned)
        torch.testing.assert_close(references.contents, content[:, None].expand(-1, 3, -1, -1, -1))


@torch.no_grad()
def test_a_fusion_that_attends_gets_the_answer_itself_once(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever, "config", tiny_config("model.fusion=attention"))
    references = guide(retriever, moved=True).reconstruction()
    torch.testing.assert_close(references.images, half_turn(random_images(3))[:, None])
    assert references.contents.shape[:2] == (3, 1)


@torch.no_grad()
@pytest.mark.parametrize("moved", [False, True])
def test_a_cycle_without_fusion_has_no_references(retriever: Retriever, moved: bool) -> None:
    subject = guide(retriever, moved=moved, fuse_cycle=False)
    subject.issue_cycle(torch.zeros(0), torch.zeros(0), torch.zeros(0))
    assert subject.cycle() is None


def test_stage_3_starts_with_a_mask_of_the_wanted_contrast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = ("gmm-unit-continued", "rg-unit")
    stage = Studio(tmp_path, monkeypatch).stage("guidance", variants=variants, mask_contrast=2.0)
    before = stage.frozen.generator.heads
    for trainer in stage.trainers.values():
        for network in (trainer.translator, trainer.average):
            for name, value in network.generator.heads.named_parameters():
                torch.testing.assert_close(value[:3], before.get_parameter(name)[:3])
                torch.testing.assert_close(value[3:], 2 * before.get_parameter(name)[3:])


def test_networks_imported_without_d_know_what_an_image_has_after_stage_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, nothing tells, and a target that leaves attributes out is refused rather than guessed."""
    studio = Studio(tmp_path, monkeypatch, "guidance.variants=[gmm-unit-continued,rg-unit]")
    upstream = {
        "translator": tiny_translator(studio.config),
        "discriminator": tiny_discriminator(studio.config),
    }
    origin = {"imported": {"discriminator": "new"}}
    for place in (tmp_path / "translation", tmp_path / "run" / "translation" / "model"):
        save_networks(Location(place), upstream, origin)
    run, image = Location(tmp_path / "run"), random_images(2)
    with pytest.raises(
        ConfigError, match="name every attribute of the target .* or import with --discriminator"
    ):
        Judge(run, studio.config, CPU).probabilities(image)
    stage = studio.stage("guidance", steps=1, report_every=1)
    train_stage(stage)
    trained = next(iter(stage.trainers.values())).discriminator
    expected = trained(image)[1].sigmoid().detach().numpy()
    assert np.array_equal(Judge(run, studio.config, CPU).probabilities(image), expected)


def test_stage_3_hands_over_no_d_where_stage_1_trained_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = Studio(tmp_path, monkeypatch, "guidance.variants=[rg-unit]")
    train_stage(studio.stage("guidance", steps=1, report_every=1))
    assert set(network_digests(Location(tmp_path / "run" / "guidance" / "model"))) == {"rg-unit"}


def test_each_sample_of_an_image_gets_random_neighbours_of_its_own(tmp_path: Path) -> None:
    """As it gets nearest ones of its own, by its style: or the random baseline would have less diversity."""
    config, run = untrained_run(tmp_path), Location(tmp_path)
    store = LocalStore(run / "store" / "snapshot")
    model = load_models(run, config, store, CPU, ("rg-unit-random",))["rg-unit-random"]
    pixels = np.repeat(to_pixels(random_images(1)), 6, axis=0)
    target, ids = np.zeros((6, 5), np.int8), np.full(6, 8)

    def near(*draws: Any) -> list[tuple[int, ...]]:
        found = model.translate(pixels, target, None, ids, 0, *draws).neighbours
        assert found is not None
        return [tuple(row) for row in found.ids.tolist()]

    assert len(set(near())) > 3 and near() == near(np.arange(6))
    assert near(np.arange(6)[::-1]) == near()[::-1]
    assert len(set(near(np.zeros(6, np.int64)))) == 1
