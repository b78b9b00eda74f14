"""The main job, by its command, at smoke size: what it leaves, that it repeats nothing, what it refuses."""

from __future__ import annotations

import json
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from PIL import Image

from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.data.images import grid
from rgcluster.store.disk.snapshot import read_manifest
from rgcluster.train.records.metrics import read_metrics

MODELS = ["identity", "truth", "gmm-unit", "gmm-unit-continued", "rg-unit-random", "rg-unit", "real"]


def results(run: Path) -> dict:
    return json.loads((run / "evaluation" / "results.json").read_text())


def test_every_stage_counts_its_steps_once(smoke_run: Path) -> None:
    config = Config.from_yaml((smoke_run / "config.yaml").read_text(), "config.yaml")
    for name in ("translation", "retrieval", "guidance"):
        settings = getattr(config, name)
        steps = [line["step"] for line in read_metrics(Location(smoke_run / name))]
        assert steps == sorted(set(steps))
        assert steps[-1] == settings.steps
        assert json.loads((smoke_run / name / "stage.json").read_text())["finished"]


def test_metrics_report_losses_speed_and_waits(smoke_run: Path) -> None:
    line = read_metrics(Location(smoke_run / "guidance"))[-1]
    assert line["images_per_second"] > 0
    assert 0 <= line["wait_neighbours"] < line["seconds_per_step"] * 2
    for variant in ("gmm-unit-continued", "rg-unit-random", "rg-unit"):
        assert np.isfinite(line[f"{variant}/cycle"])


def test_the_store_holds_the_training_images_in_two_shards(smoke_run: Path) -> None:
    manifest = read_manifest(Location(smoke_run / "store" / "snapshot"))
    assert manifest.num_shards == 2
    assert manifest.count == 128  # of 160 faces 80 % train
    assert set(manifest.digests) == {"content_encoder", "style_encoder", "retrieval"}


def test_results_have_every_row_with_shares_as_fractions(smoke_run: Path) -> None:
    tables = results(smoke_run)["tables"]
    assert [row["model"] for row in tables["translation"]] == MODELS
    assert [row["negatives"] for row in tables["retrieval"]] == ["random", "easy", "medium", "hard", "all"]
    for row in tables["translation"]:
        assert 0 <= row["acc"] <= 1
        assert len(row["acc_per_attribute"]) == 5
        if row["model"] not in ("identity", "truth", "real"):
            assert row["fid"] is None and "48 images" in row["fid_note"]
            assert 0 < row["counterfactual"] < 1
            assert row["diversity"] >= 0
            assert 0 < row["edit"] < 1 and 0 <= row["keep"] < 1
            assert 0 <= row["acc_changed"] <= 1 and len(row["acc_changed_per_attribute"]) == 5
    by_model = {row["model"]: row for row in tables["translation"]}
    assert by_model["truth"]["edit"] == by_model["truth"]["keep"] == by_model["truth"]["counterfactual"] == 0
    assert (
        by_model["identity"]["edit"] > by_model["identity"]["keep"]
    )  # outside the region truth hardly differs
    assert by_model["identity"]["edit"] * 255 > 10
    assert (
        by_model["gmm-unit-continued"]["steps"]
        == by_model["rg-unit"]["steps"]
        > by_model["gmm-unit"]["steps"]
    )
    assert all(0 <= row["p10_average"] <= 1 for row in tables["retrieval"])


def test_the_protocol_names_extractor_counts_and_versions(smoke_run: Path) -> None:
    protocol = results(smoke_run)["protocol"]
    assert protocol["extractor"]["name"] in protocol["names"]["kid"] or protocol["names"]["kid"] == "KID"
    assert protocol["images"] == 48 and protocol["seeds"] == [0]
    assert protocol["versions"]["ray"] and protocol["digest"]


def test_the_report_opens_from_disk_alone(smoke_run: Path) -> None:
    page = (smoke_run / "report" / "index.html").read_text()
    sources: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            sources.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Links().feed(page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)


def test_pictures_are_written_for_every_stage(smoke_run: Path) -> None:
    for stage, name in (
        ("translation", "translations"),
        ("retrieval", "triplets"),
        ("guidance", "translations"),
    ):
        pictures = list((smoke_run / stage / "samples").glob(f"{name}-*.png"))
        assert pictures
        assert np.asarray(Image.open(pictures[0])).std() > 1
    for name in ("translations", "comparison", "retrievals", "samples", "masks", "interpolation", "triplets"):
        assert (smoke_run / "evaluation" / "figures" / f"{name}.png").stat().st_size > 1000


def test_tensorboard_has_its_files(smoke_run: Path) -> None:
    assert list((smoke_run / "guidance" / "tensorboard").glob("events.*"))


def test_the_same_command_repeats_no_finished_stage(smoke_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in smoke_run.glob("*/model/*")}
    before |= {path: path.stat().st_mtime_ns for path in smoke_run.glob("evaluation/*.json")}
    first = float((smoke_run / "seconds").read_text())
    start = time.monotonic()
    result = command("demo", "--preset", "smoke", "--run", str(smoke_run))
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - start < first / 2
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_configuration_is_refused_in_one_line_and_changes_nothing(smoke_run: Path) -> None:
    before = (smoke_run / "config.yaml").read_text()
    result = command(
        "train", "all", "--preset", "smoke", "--data", str(smoke_run / "shards"), "--run", str(smoke_run),
        "--set", "guidance.steps=11",
    )  # fmt: skip
    assert result.returncode == 2
    # A busy machine is told that Ray takes its time to start.
    (refusal,) = [line for line in result.stderr.splitlines() if not line.startswith("waiting for Ray")]
    assert "guidance.steps = 10, now 11" in refusal
    assert (smoke_run / "config.yaml").read_text() == before


def test_translate_writes_a_picture_of_its_samples(smoke_run: Path, tmp_path: Path) -> None:
    face = smoke_run / "faces" / "img_align_celeba" / "000001.jpg"
    target = tmp_path / "blond.png"
    result = command(
        "translate", str(face), "--run", str(smoke_run), "--to", "Blond_Hair,-Young", "--samples", "3",
        "--out", str(target),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert Image.open(target).size == (3 * 32 + 2 * 2, 32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "Blond_Har"], "did you mean 'Blond_Hair'"),
        (["--to", "Blond_Hair,Black_Hair"], "exclude each other"),
        (["--to", "Male", "--model", "stylegan"], "this run has gmm-unit"),
    ],
)
def test_translate_refuses_invalid_options(
    smoke_run: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    face = smoke_run / "faces" / "img_align_celeba" / "000001.jpg"
    result = command(
        "translate", str(face), "--run", str(smoke_run), "--out", str(tmp_path / "x.png"), *arguments
    )
    assert result.returncode == 2
    assert words in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_translate_names_an_unreadable_image(smoke_run: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    result = command(
        "translate", str(tmp_path / "broken.jpg"), "--run", str(smoke_run), "--to", "Male",
        "--out", str(tmp_path / "x.png"),
    )  # fmt: skip
    assert result.returncode == 2
    assert "broken.jpg: not a readable image" in result.stderr


def test_a_store_of_other_networks_is_refused(smoke_run: Path) -> None:
    import torch

    from rgcluster.config import load_config
    from rgcluster.errors import StoreMismatch
    from rgcluster.model.retrieval import JointEncoder
    from rgcluster.model.translator import Translator
    from rgcluster.store.local import LocalStore
    from rgcluster.translate.device import Device
    from rgcluster.translate.retriever import Retriever

    config = load_config("smoke")
    store = LocalStore(smoke_run / "store" / "snapshot")
    with pytest.raises(StoreMismatch, match="rgcluster store build"):
        Retriever(store, JointEncoder(config), Translator(config), config, Device(torch.device("cpu"), False))


def test_status_store_info_and_query_answer(smoke_run: Path) -> None:
    status = command("status", "--run", str(smoke_run))
    assert status.returncode == 0 and status.stdout.count("│ finished │") == 7
    info = command("store", "info", "--run", str(smoke_run))
    assert info.returncode == 0 and "128 images" in info.stdout
    face = smoke_run / "faces" / "img_align_celeba" / "000001.jpg"
    query = command("store", "query", str(face), "--run", str(smoke_run), "--to", "Male", "-k", "4")
    assert (
        query.returncode == 0
        and len([line for line in query.stdout.splitlines() if "0." in line or "1." in line]) >= 4
    )


def test_a_finished_run_is_used_from_python(smoke_run: Path, tmp_path: Path) -> None:
    from rgcluster import RunTranslator
    from rgcluster.errors import ConfigError, UnknownAttribute

    face = smoke_run / "faces" / "img_align_celeba" / "000001.jpg"
    translator = RunTranslator(smoke_run)
    made = translator.translate(face, "Blond_Hair,-Young", samples=3, seed=5)
    assert made.shape == (3, 32, 32, 3) and made.dtype == np.uint8 and not np.array_equal(made[0], made[1])
    near = translator.neighbours(face, "Male", count=4)
    assert near.images.shape == (1, 4, 32, 32, 3) and (np.diff(near.distances[0]) >= 0).all()
    file = tmp_path / "blond.png"
    result = command(
        "translate", str(face), "--run", str(smoke_run), "--to", "Blond_Hair,-Young", "--samples", "3",
        "--seed", "5", "--out", str(file),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.asarray(Image.open(file)), grid(made[None]))
    with pytest.raises(UnknownAttribute):
        translator.translate(face, "Blond")
    with pytest.raises(ConfigError, match="uses no neighbours"):
        RunTranslator(smoke_run, "gmm-unit").neighbours(face, "Male")
    with pytest.raises(ConfigError, match="this run has gmm-unit"):
        RunTranslator(smoke_run, "other")
