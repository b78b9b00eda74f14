"""The report, its tables and sentences, of a made-up run directory; the figures, by random networks."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from results import made_probe, made_results, translation_row
from tiny import CPU, tiny_config

from rgcluster.base.checkpoint.tree import network_digest
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.data.index import RowIndex
from rgcluster.evaluate.measure.inputs import hashed_order
from rgcluster.evaluate.metrics.catalogue import METRICS
from rgcluster.evaluate.report.curves import loss_charts
from rgcluster.evaluate.report.paper import (
    PAPER_ACC_PER_ATTRIBUTE,
    PAPER_P10_PER_ATTRIBUTE,
    PAPER_RETRIEVAL,
    PAPER_TRANSLATION,
)
from rgcluster.evaluate.report.reading import compare, limits, reading
from rgcluster.evaluate.report.report import write_report
from rgcluster.evaluate.report.tables import counts_table, fractions_table, retrieval_table, translation_table
from rgcluster.faces import FaceSet
from rgcluster.model.handover import encoder_digests, is_guided, save_networks
from rgcluster.model.retrieval import JointEncoder
from rgcluster.model.translator import Translator
from rgcluster.store.disk.writer import SnapshotWriter
from rgcluster.store.local import LocalStore
from rgcluster.translate.tensors import to_images

VOID = {"meta", "img", "br"}


def write_run(folder: Path, results: dict[str, Any] | None) -> Location:
    run = Location(folder)
    (run / "manifest.json").write_json({"versions": {"torch": "2.14.1"}})
    picture = Image.new("RGB", (8, 8), "red")
    (folder / "evaluation" / "figures").mkdir(parents=True)
    for name in ("translations", "comparison"):
        picture.save(folder / "evaluation" / "figures" / f"{name}.png")
    if results:
        (run / "evaluation" / "results.json").write_json(results)
    lines = [
        {
            "step": step, "steps": 10, "seconds_per_step": 0.5, "images_per_second": 16.0, "wait_data": 0.05,
            "wait_neighbours": 0.1, "rg-unit/total": 3.0 / step, "gmm-unit-continued/total": 4.0 / step,
        }
        for step in (5, 10)
    ]  # fmt: skip
    (run / "guidance" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 1')
    (run / "guidance" / "stage.json").write_json({"finished": True, "seconds": 300.0})
    return run


class Outline(HTMLParser):
    """Collects what a page holds, and checks that its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag == "img":
            self.images.append(dict(attrs))
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def report(folder: Path, results: dict[str, Any] | None) -> tuple[str, Outline]:
    file = write_report(tiny_config(), write_run(folder, results))
    assert str(file) == str(folder / "report" / "index.html")
    text = file.read_text()
    return text, Outline(text)


def test_page_holds_every_row_beside_the_papers(tmp_path: Path) -> None:
    text, outline = report(tmp_path, made_results())
    words = " ".join(outline.text)
    rows = (
        "GMM-UNIT",
        "GMM-UNIT continued",
        "RG-UNIT, random neighbours",
        "RG-UNIT",
        "real images",
        "easy",
        "all",
    )
    for row in rows:
        assert f'<th scope="row">{row}</th>' in text
    assert "KID (efficientnet-lite0) ×1000" in words and "paper 27.61" in words
    assert "10.00" in words and "± 1.00" in words  # KID, times a thousand
    assert outline.counts["caption"] == 6 and '<html lang="en">' in text
    assert "shown side by side but do not compare" in words


def test_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text, outline = report(tmp_path, made_results())
    assert outline.addresses and all(
        address.startswith("data:image/png;base64,") for address in outline.addresses
    )
    assert all(image["alt"] for image in outline.images) and "script" not in outline.counts
    assert not re.search(r"https?://|@import|url\(", text)


def test_page_shows_curves_and_waits(tmp_path: Path) -> None:
    text, outline = report(tmp_path, made_results())
    assert "guidance, loss total: GMM-UNIT continued from 0.8 to 0.4, RG-UNIT from 0.6 to 0.3" in text
    for shown in ("5 min", "10 of 10", "16.0", "10.0%", "20.0%", "not run"):
        assert shown in outline.text


def test_a_constant_loss_of_a_single_step_has_a_chart_and_a_wide_one_a_logarithmic_axis() -> None:
    names, (constant,) = loss_charts(
        [{"step": 5, "steps": 10, "total": 0.25, "wait_data": 0.1}], "translation"
    )
    assert names == [] and constant.title == "total" and list(constant.lines) == ["total"]
    assert constant.label == "translation, loss total: total from 0.25 to 0.25"
    lines = [{"step": step, "rg-unit/kl": 100.0 / step} for step in range(1, 501)]
    names, (wide,) = loss_charts(lines, "guidance")
    assert names == ["RG-UNIT"] and wide.title == "kl (log)"
    assert list(wide.y.ticks) == ["0.2", "100"]
    assert wide.path(wide.lines["RG-UNIT"]).count("L") < 200


def test_page_names_missing_parts(tmp_path: Path) -> None:
    _, outline = report(tmp_path, None)
    words = " ".join(outline.text)
    assert "Nothing has been measured yet" in words and "this stage has not run" in words
    assert "Retrievals (Figure 3): not drawn" in words


def test_page_of_an_empty_directory(tmp_path: Path) -> None:
    Outline(write_report(tiny_config("model.attention=false"), Location(tmp_path / "none")).read_text())


def test_page_escapes_its_values(tmp_path: Path) -> None:
    results = made_results()
    results["tables"]["translation"][0]["model"] = "<b>&"
    assert '<th scope="row">&lt;b&gt;&amp;</th>' in report(tmp_path, results)[0]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"kid": 0.007, "acc": 0.93, "counterfactual": 0.06}, "Retrieval helps in this run: better on KID"),
        ({"kid": 0.013}, "Retrieval does not help in this run: better on nothing, worse on KID"),
        ({"kid": 0.0119, "acc": 0.901}, "Retrieval does not help in this run: no interval of a difference leaves"),
        ({"edit": 0.02, "keep": 0.09}, "Retrieval is a trade in this run: better on edit error, worse on keep error."),
        ({"kid": 0.007, "acc": 0.85}, "Retrieval is a trade in this run: better on KID"),
    ],
)  # fmt: skip
def test_reading_of_the_baseline(values: dict[str, float], verdict: str) -> None:
    assert reading(made_results(**values))[0].startswith(verdict)


def test_reading_without_intervals_judges_nothing() -> None:
    sentences = reading(made_results(spread=None, kid=0.001))
    assert sentences[0].startswith("It is not judged whether retrieval helps")
    assert not any(" better (" in sentence or "more often" in sentence for sentence in sentences)


def test_reading_without_the_baseline() -> None:
    results = made_results()
    results["tables"]["translation"] = [translation_row("gmm-unit"), translation_row("rg-unit", kid=0.001)]
    assert "It is unknown whether retrieval helps" in reading(results)[0]
    assert reading({"protocol": {}, "tables": {}}) and limits({"protocol": {}, "tables": {}})


def test_reading_of_neighbours_and_negatives() -> None:
    sentences = reading(made_results())
    assert sentences[1].startswith("Nearest neighbours guide no better than random ones.")
    assert "more often than random images show them. P@10 is 0.900 ± 0.001 against 0.600" in sentences[2]
    assert "more often than one trained with easy negatives alone" in sentences[3]


@pytest.mark.parametrize(("random", "verdict"), [(7.6, "uses"), (0.2, "hardly uses")])
def test_the_report_states_whether_the_network_uses_its_neighbours(
    tmp_path: Path, random: float, verdict: str
) -> None:
    results = {**made_results(), "probe": made_probe(random)}
    _, page = report(tmp_path, results)
    text = " ".join(page.text)
    assert f"RG-UNIT {verdict} its neighbours." in text
    assert "random in place of neighbour 3 alone" in text and "guided by the true counterfactual" in text
    assert not any("its neighbours." in sentence for sentence in reading(made_results()))


def test_an_inception_score_above_that_of_real_images_is_called_meaningless() -> None:
    assert not any("meaningless" in sentence for sentence in reading(made_results()))
    results = made_results(**{"is": 3.2})
    results["tables"]["translation"][0]["is"] = 3.5  # the untouched input is no model
    (sentence,) = [sentence for sentence in reading(results) if "meaningless" in sentence]
    assert sentence.startswith(
        "IS (efficientnet-lite0) is meaningless for RG-UNIT (3.200). It is above that of real"
    )
    results["tables"]["translation"][1]["is"] = 3.1
    assert "for GMM-UNIT (3.100) and RG-UNIT (3.200)" in reading(results)[-1]
    results["tables"]["translation"].pop()
    assert not any("meaningless" in sentence for sentence in reading(results))


def test_limits_name_data_seeds_fid_and_features() -> None:
    notes = " ".join(limits(made_results()))
    for words in (
        "CelebA",
        "3 evaluation seeds and verdicts the test images only",
        "FID is missing: 48 images",
        "features of efficientnet-lite0",
    ):
        assert words in notes


def test_a_verdict_is_that_of_the_interval_whatever_the_values() -> None:
    results, metric = made_results(kid=0.001), METRICS["kid"]

    def verdict() -> str | None:
        found = compare(results, "translation", "rg-unit", "gmm-unit-continued", metric)
        return found and found.verdict

    assert verdict() == "better"
    for record in results["differences"]:
        record["verdict"] = "no difference"
    assert verdict() == "no difference"
    del results["differences"]
    assert verdict() == "not judged"
    results["tables"]["translation"][-2]["kid"] = None
    assert verdict() is None


def test_papers_means_are_the_means_of_its_attributes() -> None:
    for model, values in PAPER_ACC_PER_ATTRIBUTE.items():
        assert np.mean(list(values.values())) == pytest.approx(PAPER_TRANSLATION[model]["acc"], abs=6e-4)
    for name, values in PAPER_P10_PER_ATTRIBUTE.items():
        assert np.mean(list(values.values())) == pytest.approx(
            PAPER_RETRIEVAL[name]["p10_attributes"], abs=2e-3
        )


def test_tables_leave_out_missing_columns_and_values() -> None:
    results = made_results()
    results["protocol"]["drawn_faces"] = False
    assert not any("counterfactual" in column for column in translation_table(results).columns)
    assert [value.text for value in retrieval_table(results).rows[0].values] == ["0.600", "–", "–"]
    assert translation_table({}).rows == ()


def test_tables_of_a_sweep() -> None:
    rows = [
        translation_row("rg-unit") | {"retrieval_count": count, "data_fraction": share, "fid": 30.0}
        for count, share in ((10, 0.25), (1, 1.0))
    ]
    results = {"tables": {"translation": rows}}
    counts, shares = counts_table(results), fractions_table(results)
    assert [row.name for row in counts.rows] == ["1", "10"] and counts.rows[0].values[1].paper == "28.45"
    assert shares.rows[0].name == "RG-UNIT, 25%" and shares.rows[0].values[1].paper == "33.91"


def fake_source(count: int, start: int, names: tuple[str, ...] = CELEBA_ATTRIBUTES) -> Any:
    """Random images with random labels, behind the interface of `ImageSource`."""
    generator = np.random.default_rng(start)
    pixels = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = generator.integers(0, 2, (count, len(names)), np.int8)
    files = [f"{start + row + 1:06d}.jpg" for row in range(count)]
    index = RowIndex(np.arange(start, start + count), labels, files, np.zeros((count, 2), np.int64))
    shards = SimpleNamespace(attributes=names, location="here")
    return SimpleNamespace(index=index, shards=shards, images=lambda rows: pixels[rows])


def random_run(config: Config, folder: Path, train: Any) -> tuple[Location, LocalStore]:
    """A run directory of untrained networks, and its store."""
    torch.manual_seed(0)
    run, base = Location(folder), Translator(config).eval()
    networks = {name: JointEncoder(config).eval() for name in config.retrieval.negatives}
    save_networks(run / "translation" / "model", {"translator": base}, {})
    save_networks(run / "retrieval" / "model", networks, {"trained_against": encoder_digests(base)})
    guided = {name: Translator(config, guided=is_guided(name)) for name in config.guidance.variants}
    for translator in guided.values():
        translator.load_state_dict(base.state_dict(), strict=False)
    save_networks(run / "guidance" / "model", guided, {})
    network = networks[config.retrieval.negatives[-1]]
    digests = encoder_digests(base) | {"retrieval": network_digest(network)}
    pixels = train.images(np.arange(len(train.index)))
    with SnapshotWriter(folder / "store", 1, config.embedding_size, (32, 32, 3), digests) as writer:
        with torch.inference_mode():
            image = to_images(pixels, CPU)
            vectors = network.embed(
                image, base.content_encoder(image), base.style_encoder(image).mean
            ).numpy()
        writer.append(train.index.row_ids, vectors, pixels)
        writer.commit()
    return run, LocalStore(folder / "store")


ONE_HOT = ("data.domains=one-hot", "data.attributes=[cat, dog, owl]", "data.exclusive=[]")


@pytest.mark.parametrize(
    ("overrides", "names", "faces"),
    [
        ((), CELEBA_ATTRIBUTES, FaceSet(0, 100)),
        ((*ONE_HOT, "guidance.variants=[rg-unit]", "retrieval.negatives=[all]"), ("cat", "dog", "owl"), None),
        (("data.attributes=[Male]", "data.exclusive=[]", "model.attention=false"), CELEBA_ATTRIBUTES, None),
    ],
)
def test_figures(
    tmp_path: Path, overrides: tuple[str, ...], names: tuple[str, ...], faces: FaceSet | None
) -> None:
    from rgcluster.evaluate.figures.figures import draw_figures

    config = tiny_config("evaluation.figure_rows=2", *overrides)
    test, train = fake_source(4, 0, names), fake_source(12, 50, names)
    run, store = random_run(config, tmp_path, train)
    with store:
        drawn = draw_figures(config, run, store, test, train, faces, gpu=False)
    expected = {"translations", "comparison", "retrievals", "samples", "masks", "interpolation", "triplets"}
    expected |= {"matrix", "changes", "counterfactuals"}
    expected -= (set() if config.model.attention else {"masks"}) | (set() if faces else {"counterfactuals"})
    assert {name.removesuffix(".png") for name in drawn} == expected | {"interpolation.webp"}
    for name in drawn:
        with Image.open(tmp_path / "evaluation" / "figures" / name) as picture:
            assert min(picture.size) >= 128


@pytest.mark.parametrize("seed", [0, 1])
def test_figures_show_the_same_hashed_rows_for_every_training_seed(seed: int) -> None:
    from rgcluster.evaluate.figures.scene import make_scene

    config = tiny_config("evaluation.figure_rows=4", f"seed={seed}")
    test, train = fake_source(40, 0), fake_source(60, 50)
    store: Any = None
    scene = make_scene(config, {}, store, test, train, None)
    assert scene.row_ids.tolist() == test.index.row_ids[hashed_order(test.index.row_ids)[:4]].tolist()
    assert scene.row_ids.tolist() != [0, 1, 2, 3] and len(scene.references) == 4


def test_a_large_kid_is_printed_as_it_is() -> None:
    results = made_results(kid=2.5)
    assert translation_table(results).columns[0] == "KID (efficientnet-lite0)\N{NO-BREAK SPACE}↓"
    assert "(2.50 ± 0.00 against 0.01 ± 0.00)" in reading(results)[0]
