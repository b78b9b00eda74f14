"""What is known before a run starts is refused before it starts; a stage that trained nothing takes new settings."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from tiny import small_shards, tiny_config

from rgcluster.base.rundir import enter, is_blank, link_stage
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.data.shards import Prepared
from rgcluster.errors import ConfigError, RunConflict
from rgcluster.faces import FaceSet
from rgcluster.pipeline import checks
from rgcluster.pipeline.checks import Check, Images, check_run, faces_of, images_of, require
from rgcluster.pipeline.run import Pipeline
from rgcluster.pipeline.stages import STAGES
from rgcluster.store.index.plan import choose

PLENTY = Images("shards", CELEBA_ATTRIBUTES, False, None, 800, 100, (400, 400))


def found(tmp_path: Path, images: Images, *overrides: str) -> dict[str, Check]:
    listed = check_run(tiny_config(*overrides), images, Location(tmp_path / "run"))
    return {check.name: check for check in listed}


def test_every_check_is_listed_and_passes(tmp_path: Path) -> None:
    names = [
        "attributes", "image size", "training images", "test images", "neighbours", "index", "store name",
        "weights", "trackers", "disk",
    ]  # fmt: skip
    listed = found(tmp_path, PLENTY)
    assert list(listed) == names and all(check.passed and check.found for check in listed.values())
    assert listed["neighbours"].found == "3 of 799 besides the query's own"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("check", "changes", "overrides", "words"),
    [
        ("neighbours", {}, ["guidance.retrieval_count=800"], "the store will hold only 799 images besides"),
        ("neighbours", {"stored": (2, 1)}, [], "the store will hold only 2 images besides the query's own; lower"),
        ("index", {"stored": (400, 255)}, ["store.index=ivfpq"], "ivfpq needs 256 vectors or more, a shard has 255"),
        ("index", {"stored": (20, 10)}, ["store.index=ivf"], "ivf needs 16 vectors or more, a shard has 10"),
        ("index", {"stored": (400_000,)}, ["store.index=exact", "store.memory_mib=1"], "store.memory_mib allows 1"),
        ("training images", {"trained": 7}, [], "translation.batch_size = 8 is larger than the 7 training images"),
        ("training images", {"trained": 9}, ["guidance.batch_size=10"], "guidance.batch_size = 10 is larger"),
        ("training images", {}, ["cluster.workers=9"], "batch_size = 8 is less than a row for each of 9 workers"),
        ("training images", {"trained": 0}, [], "no image to train on"),
        ("image size", {"prepared": Prepared(0, 64, "jpeg")}, [], "prepared with crop 0 and size 64, but data.crop"),
        ("image size", {"sizes": ((1068, 1308),) * 3 + ((178, 218),)}, [], "far larger than the crop of 178 pixels"),
        ("attributes", {"attributes": ("Young",)}, [], "no attribute 'Black_Hair'; the attributes are Young"),
        ("weights", {}, ["evaluation.extractor=inception-v3-compat"], "but its weights were not found"),
        ("trackers", {}, ["cluster.trackers=[wandb]"], r"pip install 'rgcluster\[wandb\]', or leave it out"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    check: str,
    changes: dict[str, object],
    overrides: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(checks, "find", lambda name: None)
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "wandb" else object())
    listed = found(tmp_path, replace(PLENTY, **changes), *overrides)  # type: ignore[arg-type]
    assert [name for name, one in listed.items() if not one.passed] == [check]
    with pytest.raises(ConfigError, match=words) as caught:
        require(list(listed.values()))
    assert "\n" not in str(caught.value)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    listed = found(tmp_path, replace(PLENTY, trained=7, stored=(2, 1)))
    with pytest.raises(ConfigError, match="batch_size = 8 is larger .*; also: guidance.retrieval_count = 3"):
        require(list(listed.values()))


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (("cat", "dog"), "--set data.attributes=[cat,dog] "),
        (("0", "1"), """--set 'data.attributes=["0","1"]' """),
        (("no", "yes"), """--set 'data.attributes=["no","yes"]' """),
        (("my cat", "dog"), """--set 'data.attributes=["my cat","dog"]' """),
    ],
)
def test_classes_need_settings_that_a_shell_takes(
    tmp_path: Path, names: tuple[str, ...], settings: str
) -> None:
    listed = found(tmp_path, replace(PLENTY, attributes=names, one_hot=True))
    assert settings in listed["attributes"].found and "data.domains=one-hot" in listed["attributes"].found


def test_a_full_disk_is_seen_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1 << 10))
    listed = found(tmp_path, PLENTY)
    words = (
        r"run: 0 MiB are free, but the run will write about \d+ MiB \(in all checkpoints .*store .*\); free"
    )
    with pytest.raises(ConfigError, match=words):
        require(list(listed.values()))
    # What a stage wrote already is not written once more, wherever it lies; other files do not count.
    run, shared = Location(tmp_path / "run"), tmp_path / "stages" / "guidance"
    link_stage(run, "guidance", Location(shared))
    for place, passes in ((tmp_path / "run", False), (shared, True)):
        place.mkdir(parents=True, exist_ok=True)
        with open(place / "held", "wb") as file:
            file.truncate(1 << 32)
        assert found(tmp_path, PLENTY)["disk"].passed == passes


def test_a_run_with_enough_room_is_not_walked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_held", lambda run: pytest.fail("walked"))
    assert found(tmp_path, PLENTY)["disk"].passed


def test_the_images_of_shards_and_of_faces_to_be_drawn() -> None:
    shards = small_shards()
    assert images_of(shards, tiny_config()).stored == (40, 40)
    assert images_of(shards, tiny_config("store.images=train", "store.shards=3")).stored == (23, 23, 24)
    drawn = faces_of(FaceSet(0, 160), CELEBA_ATTRIBUTES, tiny_config())
    assert (drawn.trained, drawn.tested, sum(drawn.stored)) == (128, 16, 128)


def test_an_index_that_vectors_cannot_train_is_refused_where_it_is_chosen() -> None:
    from rgcluster.errors import DataError

    for kind, vectors in (("ivfpq", 255), ("ivf", 15)):
        with pytest.raises(
            DataError, match=f"{kind} needs {vectors + 1} vectors or more, a shard has {vectors}"
        ):
            choose(kind, vectors, 16, None, 0.95)  # type: ignore[arg-type]
        assert choose(kind, vectors + 1, 16, None, 0.95).kind == kind  # type: ignore[arg-type]


# --- other settings for a run that was begun ---


def pipeline(run: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline that needs no Ray: neither where its workers fit nor what the nodes can reach is looked at."""
    monkeypatch.setattr(Pipeline, "placement", lambda self: None)
    monkeypatch.setattr("rgcluster.pipeline.run.check_nodes", lambda *given: None)
    return Pipeline(Location(run), config, small_shards())


def test_a_stage_that_trained_nothing_takes_new_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, right = tmp_path / "run", tiny_config("translation.loss.image=2")
    wrong = pipeline(run, tiny_config("translation.loss.image=200"), monkeypatch)
    wrong.prepare()
    with pytest.raises(ZeroDivisionError):
        wrong._once(
            "translation", Location(run / "translation"), wrong.depends("translation"), lambda: 1 // 0
        )
    mended = pipeline(run, right, monkeypatch)
    assert mended.checks()[-1] == Check("run directory", "continues this run")
    mended.prepare()
    done: list[int] = []
    depends = mended.depends("translation")
    mended._once("translation", Location(run / "translation"), depends, lambda: done.append(1))
    assert done == [1] and enter(Location(run / "translation"), depends)["finished"]
    again = pipeline(run, tiny_config("translation.loss.image=3"), monkeypatch)
    with pytest.raises(RunConflict, match="was made with translation.loss.image = 2.0, now 3.0"):
        again.prepare()
    assert not again.checks()[-1].passed


def test_a_stage_that_begins_anew_keeps_nothing_of_before(tmp_path: Path) -> None:
    """The judge of an interrupted evaluation is no judge of another protocol."""
    directory = Location(tmp_path / "reference")
    enter(directory, {"protocol": "one"})
    (directory / "classifier.safetensors").write_bytes(b"judge")
    enter(directory, {"protocol": "one"})
    assert (directory / "classifier.safetensors").exists()
    assert enter(directory, {"protocol": "other"})["depends"] == {"protocol": "other"}
    assert directory.names() == ["stage.json"]


def test_another_protocol_is_refused_when_the_evaluation_starts_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured with other libraries is not taken for finished, and other stages go on."""
    run = tmp_path / "run"
    subject = pipeline(run, tiny_config(), monkeypatch)
    depends = {**subject._settings(STAGES["evaluation"]), **subject.measured_by(), "guidance": "digest"}
    enter(Location(run / "evaluation"), depends)
    (Location(run / "evaluation") / "stage.json").write_json(
        {"depends": {**depends, "protocol": "of other libraries"}, "finished": True, "seconds": 1.0}
    )
    subject.prepare()
    monkeypatch.setattr(Pipeline, "digest", lambda self, stage: "digest")
    assert subject.depends("evaluation") == depends
    with pytest.raises(RunConflict, match="evaluation was made with protocol = of other libraries"):
        enter(Location(run / "evaluation"), depends)


def test_a_stage_with_checkpoints_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    begun = pipeline(run, tiny_config(), monkeypatch)
    begun.prepare()
    record = enter(Location(run / "translation"), begun.depends("translation"))
    assert is_blank(Location(run / "translation"), record)
    (run / "translation" / "checkpoints" / "step-00000006").mkdir(parents=True)
    assert not is_blank(Location(run / "translation"), record)
    with pytest.raises(RunConflict, match="was made with translation.steps = 12, now 13"):
        pipeline(run, tiny_config("translation.steps=13"), monkeypatch).prepare()


def test_a_refused_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="retrieval_count = 500"):
        pipeline(tmp_path / "run", tiny_config("guidance.retrieval_count=500"), monkeypatch).prepare()
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_lists_the_checks_and_refuses_what_fails(tmp_path: Path) -> None:
    words = ("demo", "--preset", "smoke", "--run", str(tmp_path / "run"), "--dry-run")
    good = command(*words)
    assert good.returncode == 0, good.stderr
    assert "checks" in good.stdout and "neighbours" in good.stdout and "disk" in good.stdout
    bad = command(*words, "--set", "guidance.retrieval_count=500", "--set", "store.index=ivfpq")
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1
    assert "guidance.retrieval_count = 500" in bad.stderr and "ivfpq needs 256 vectors" in bad.stderr
    (tmp_path / "file").write_text("")
    taken = command("demo", "--preset", "smoke", "--run", str(tmp_path / "file" / "run"), "--dry-run")
    assert taken.returncode == 2 and f"{tmp_path / 'file'}: a file; choose a directory" in taken.stderr
    (tmp_path / "file").unlink()
    assert "neighbours" in bad.stdout and not np.any([path for path in tmp_path.iterdir()])
