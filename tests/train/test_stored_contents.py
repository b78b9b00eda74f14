"""Contents of stored images: encoded once, the same whatever was encoded before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CPU, random_images, tiny_config, tiny_translator
from untrained import untrained_run

from rgcluster.base.storage import Location
from rgcluster.model.handover import load_retrieval, load_translator
from rgcluster.model.translator import Translator
from rgcluster.store.local import LocalStore
from rgcluster.translate.contents import LIMIT, StoredContents
from rgcluster.translate.retriever import Retriever, encode_references
from rgcluster.translate.tensors import to_pixels

IDS = np.array([[3, 5], [5, 9]])
PIXELS = to_pixels(random_images(12))


@pytest.fixture
def translator() -> Translator:
    return tiny_translator(tiny_config()).eval().requires_grad_(False)


@pytest.mark.parametrize("bf16", [False, True])
def test_contents_are_those_of_the_encoder(translator: Translator, bf16: bool) -> None:
    device = replace(CPU, bf16=bf16)
    found = StoredContents(translator, device)(IDS, PIXELS[IDS])
    expected = encode_references(translator, PIXELS[IDS], device).contents
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    assert torch.equal(found[0, 1], found[1, 0])


def test_what_was_encoded_before_does_not_matter(translator: Translator) -> None:
    one_by_one, together = StoredContents(translator, CPU), StoredContents(translator, CPU)
    for row in range(12):
        one_by_one(np.array([[row]]), PIXELS[[[row]]])
    every = np.arange(12)[None]
    assert torch.equal(one_by_one(every, PIXELS[every]), together(every, PIXELS[every]))


def test_an_image_is_encoded_once_until_its_pixels_change(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, encoded = StoredContents(translator, CPU), []
    forward = translator.content_encoder.forward
    monkeypatch.setattr(translator.content_encoder, "forward", lambda x: encoded.append(1) or forward(x))
    first = contents(IDS, PIXELS[IDS])
    assert torch.equal(contents(IDS, PIXELS[IDS]), first) and len(encoded) == 1
    changed = PIXELS.copy()
    changed[9] = 255 - changed[9]
    second = contents(IDS, changed[IDS])
    assert len(encoded) == 2
    assert torch.equal(second[0], first[0]) and not torch.equal(second[1, 1], first[1, 1])


def test_more_images_than_fit_are_encoded_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = untrained_run(tmp_path), Location(tmp_path)
    base = load_translator(run / "translation" / "model", config)
    network = load_retrieval(run / "retrieval" / "model", config, base)[config.retrieval.negatives[-1]]
    store = LocalStore(run / "store" / "snapshot")

    def references(keep: bool) -> torch.Tensor:
        retriever = Retriever(store, network, base, config, CPU, keep_contents=keep)
        return retriever.encode(store.random_async(np.arange(3), 2, None, seed=0).result()).contents

    encoded: list[int] = []
    call = StoredContents.__call__
    monkeypatch.setattr(StoredContents, "__call__", lambda *given: encoded.append(1) or call(*given))
    torch.testing.assert_close(references(keep=True), references(keep=False), rtol=1e-3, atol=1e-4)
    assert len(encoded) == 1
    most = LIMIT // (4 * 4 * config.model.width * 8 * 8)
    assert StoredContents.fit(config, most) and not StoredContents.fit(config, most + 1)
    monkeypatch.setattr("rgcluster.translate.contents.LIMIT", 0)
    references(keep=True)
    assert len(encoded) == 1
