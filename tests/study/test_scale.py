"""The arithmetic of docs/scale.md: the page shows what the functions say, fed by what is counted and measured."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import PROJECT
from torch.utils.flop_counter import FlopCounterMode

from rgcluster.bench import scale
from rgcluster.bench.rows import groups_read, synthetic_index
from rgcluster.bench.training.step import random_batch, step_flop
from rgcluster.config import load_config
from rgcluster.data.order import WindowedOrder
from rgcluster.model.fusion import References
from rgcluster.model.kernels.convolution import convolutions
from rgcluster.model.networks import Discriminator
from rgcluster.model.retrieval import retrieval_encoder
from rgcluster.model.translator import Translator
from rgcluster.train.steps.translator import Piece, TranslatorTrainer
from rgcluster.translate.device import pick_device

PAGE = (PROJECT / "docs" / "scale.md").read_text()


def text(name: str) -> str:
    return (PROJECT / "docs" / name).read_text()


def test_the_page_shows_the_tables_that_the_functions_make() -> None:
    for table in scale.tables():
        assert table in PAGE
    assert scale.tables(scale.Site(flops=2e14))[0] not in PAGE


def test_the_pages_sums_in_words_are_the_functions() -> None:
    fast = scale.step(scale.TRANSLATION, 64, site=scale.Site(flops=3e14))
    slow = scale.step(scale.TRANSLATION, 64, site=scale.Site(node_bandwidth=2.5e9))
    small = scale.step(scale.TRANSLATION, 64, batch=1)
    assert f"at 64 GPUs is {fast.compute / fast.seconds:.0%}" in PAGE
    assert f"20 Gbit/s {slow.compute / slow.seconds:.0%}" in PAGE
    assert f"at b = 1 the all-reduce takes {small.all_reduce / small.seconds:.0%}" in PAGE
    for work in (scale.TRANSLATION, scale.GUIDANCE, scale.NEAREST_ONLY):
        assert f"{work.parameters / 1e6:.1f} million | {work.gflop:.0f} GFLOP" in PAGE
    assert f"{scale.ROW_BYTES:.0f} bytes a row" in PAGE and f"{scale.COMPARISON * 1e9:.1f} ns" in PAGE
    assert f"{scale.CELLS_QUERY * 1e3:.2f} ms" in PAGE
    site = scale.Site()
    assert f"{site.flops:.0e}".replace("+", "") in PAGE and f"| g | {site.gpus_per_node} |" in PAGE
    assert f"{site.gpu_bandwidth / 1e9:.0f} GB/s" in PAGE and f"{site.node_bandwidth / 1e9:.0f} GB/s" in PAGE


def test_the_pages_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "docs/scale.md", "exec"), {})
    assert "images_per_second" in capsys.readouterr().out


def test_steps_follow_the_formulas() -> None:
    work = scale.Work("w", gflop=100.0, parameters=1_000_000)
    site = scale.Site(flops=1e12, gpus_per_node=4, gpu_bandwidth=1e9, node_bandwidth=1e8)
    alone = scale.step(work, 1, 2, site)
    assert alone.compute == pytest.approx(0.2) and alone.all_reduce == 0
    assert alone.images_per_second == pytest.approx(10)
    four = scale.step(work, 4, 2, site)
    assert four.all_reduce == pytest.approx(4e6 * 1.5 / 1e9)
    eight = scale.step(work, 8, 2, site)
    assert eight.all_reduce == pytest.approx(4e6 * (1.5 / 1e9 + 1.0 / 1e8))
    assert eight.seconds == pytest.approx(eight.compute + eight.all_reduce)
    assert eight.bytes_read == pytest.approx(eight.images_per_second / 2 * 6000 * 1.5)


def test_reading_is_bounded_by_what_simulated_ranks_read() -> None:
    edges = np.cumsum([0, *np.random.default_rng(0).binomial(64, 0.98, 10_000)])
    for gpus, batch in ((8, 32), (8, 8), (64, 16), (64, 8), (512, 8)):
        found = groups_read(WindowedOrder(edges, 0, gpus * batch), gpus)
        assert 1 <= found <= scale.reading(gpus, batch) + 0.01
    assert scale.reading(512, 32) == 1.125 and scale.reading(64, 32) == 1 + 1 / 32


def test_a_row_of_the_index_takes_what_is_counted(tmp_path: Path) -> None:
    synthetic_index(tmp_path, 64_000)
    size = sum(path.stat().st_size for path in (tmp_path / "64000").iterdir())
    names = 64_000 * (len("000000000.jpg") - 10)  # of ten letters in the count
    assert (size - names) / 64_000 == pytest.approx(scale.ROW_BYTES, rel=0.01)
    assert scale.index(1e8).disk == 1e8 * scale.ROW_BYTES
    assert scale.index(1e8).private == pytest.approx(8e8 / 2048)


def test_a_query_goes_to_every_shard() -> None:
    one, four = scale.search("exact", 8000, 1, 100), scale.search("exact", 8000, 4, 100)
    assert one.seconds == four.seconds == pytest.approx(8000 * 8.19e-9, rel=1e-3)
    assert one.memory == four.memory == 8000 * 413  # the vector, |x|^2, the id, the tag
    assert scale.search("ivf", 1e6, 1, 100).seconds == pytest.approx(0.22e-3)
    assert scale.search("ivf", 16e6, 4, 200).seconds == pytest.approx(2 * 4 * 2 * 0.22e-3)
    assert scale.search("ivfpq", 1e9, 8).memory < scale.search("ivf", 1e9, 8).memory / 5


def test_parameters_are_those_of_the_networks() -> None:
    config = load_config("celeba128")
    guided = Translator(config, guided=True)
    networks = {
        "E_c": guided.content_encoder,
        "E_s": guided.style_encoder,
        "G": guided.generator,
        "D": Discriminator(config),
        "R": retrieval_encoder(config),
        "f": guided.fusion,
    }
    counted = {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items() if net}
    assert counted == scale.PARAMETERS
    assert config.embedding_size == scale.DIMENSION
    assert config.guidance.retrieval_count == scale.NEIGHBOURS and len(config.guidance.variants) == 3
    assert config.data.image_size**2 * 3 == scale.IMAGE_BYTES


def test_measured_figures_are_in_the_named_pages() -> None:
    performance, data = text("performance.md"), text("data.md")
    performance = " ".join(performance.split())
    assert f"`celeba128` with its recipe {scale.GFLOP['step']:.0f}" in performance
    assert "2,050 images/s" in performance and scale.SHARDED_PER_CORE == 2050 / 2
    assert "JPEG shards / prepared JPEG / prepared raw" in performance and "1.0 / 1.6 / 4.3 x" in performance
    assert "(1,350 images/s)" in performance
    assert pytest.approx(1.6 * 1350 / 2) == scale.JPEG_PER_CORE
    assert "about 6 kB an image" in data and scale.JPEG_BYTES == 6000
    store = " ".join(text("store.md").split())
    assert "2,000,000 vectors of 100 numbers" in store and "262 ms with both cores" in store
    assert ".22 core milliseconds a query" in store and pytest.approx(0.22e-3) == scale.CELLS_QUERY


@pytest.mark.long
def test_arithmetic_equals_torchs_count() -> None:
    config = load_config("celeba128")
    device = dataclasses.replace(pick_device(config.cluster, gpu=False), compiles=False)
    translator, item = Translator(config), random_batch(config, 1, device)
    found = {"step": step_flop((translator, Discriminator(config)), config, device, item)}

    class Guide:
        def __init__(self) -> None:
            self.own = self._of(1)

        def translation(self) -> References:
            return self._of(scale.NEIGHBOURS)

        def reconstruction(self) -> References:
            return self.own

        cycle = reconstruction

        def issue_cycle(self, *_: torch.Tensor) -> None: ...

        def _of(self, count: int) -> References:
            """Return the encoded neighbours, or the image as its own."""
            images = item.image[:, None].expand(-1, count, -1, -1, -1)
            return References(images, torch.zeros(1, count, *content.shape[1:]))

    def counted(work: Callable[[], Any]) -> tuple[Any, float]:
        with convolutions("direct"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            return work(), counter.get_total_flops()

    content, found["E_c"] = counted(lambda: translator.content_encoder(item.image))
    posterior, found["E_s"] = counted(lambda: translator.style_encoder(item.image))
    retrieval = retrieval_encoder(config)
    _, found["R"] = counted(lambda: retrieval.query(item.image, content, item.target_style))
    for name, guide in (("continued", None), ("guided", Guide())):
        network = Translator(config, guided=guide is not None)
        network.freeze_encoders()
        trainer = TranslatorTrainer(network, Discriminator(config), config, config.guidance, device, 1)
        batch = dataclasses.replace(item, content=content, posterior=posterior)
        with convolutions("direct"), FlopCounterMode(display=False) as counter:
            trainer.update_in_pieces(0, [Piece(batch, guide, 1.0)])
        found[name] = counter.get_total_flops()
    assert {name: pytest.approx(flop / 1e9, rel=5e-3) for name, flop in found.items()} == scale.GFLOP
