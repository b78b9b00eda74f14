"""Shards and streams on a real Ray: written once, whole or refused, read in the order that `Order` says."""

from __future__ import annotations

import json
import shutil
import zlib
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import command
from files import image_file, picture, tar, with_images
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from tiny import tiny_config, tiny_translator, write_celeba

from rgcluster.base.attributes import domain_columns
from rgcluster.base.cluster import internals
from rgcluster.base.storage import Location
from rgcluster.bench.rows import bench_rows
from rgcluster.bench.worlds import bench_worlds, read_world, worlds_of
from rgcluster.cli import sharding
from rgcluster.config import Config
from rgcluster.data.images import decode_image
from rgcluster.data.shard_writer import ShardOptions, shard_options, write_shards
from rgcluster.data.shards import Prepared, ShardSet, open_shards
from rgcluster.data.sources import ImageTable, read_celeba, read_images, read_source
from rgcluster.data.splits import row_id
from rgcluster.data.stream import (
    ImageSource,
    StreamPlan,
    batches,
    image_stream,
    in_order,
    open_source,
)
from rgcluster.data.survey import survey_shards, survey_table
from rgcluster.errors import ConfigError, DataError
from rgcluster.model.handover import save_networks
from rgcluster.model.noise import Draw, keyed_uniform
from rgcluster.model.triplets import choose_categories
from rgcluster.train.steps.other_domains import OtherDomains
from rgcluster.train.steps.triplet_stream import GenerateTriplets

pytestmark = pytest.mark.usefixtures("ray_session")

COUNT = 40
TRAIN = 32


@pytest.fixture(scope="module")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_celeba(tmp_path_factory.mktemp("data") / "celeba", COUNT)


@pytest.fixture(scope="module")
def shards(ray_session: None, celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return written(celeba, tmp_path_factory.mktemp("shards") / "celeba")


def written(celeba: Path | ImageTable, target: Path, **options: Any) -> ShardSet:
    table = read_celeba(celeba) if isinstance(celeba, Path) else celeba
    return write_shards(table, Location(target), ShardOptions(**{"rows_per_shard": 16, **options}))


@pytest.fixture
def copy(shards: ShardSet, tmp_path: Path) -> Path:
    """A copy of the shards, to be damaged."""
    return Path(shutil.copytree(shards.location, tmp_path / "copy"))


@pytest.fixture(scope="module")
def small_groups(ray_session: None, celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Eleven row groups of at most three training images."""
    return written(celeba, tmp_path_factory.mktemp("small") / "celeba", rows_per_shard=3)


def source(shards: ShardSet, *, cached: bool) -> ImageSource:
    config = tiny_config("data.crop=40", f"data.cache_mib={64 if cached else 0}")
    return open_source(shards, config.data, "train")


# --- shards ---


def test_a_full_disk_is_seen_before_a_shard_is_written(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1 << 10))
    with pytest.raises(
        ConfigError, match=r"shards: 0 MiB are free, but the shards need about \d MiB more; free"
    ):
        written(celeba, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_shards_hold_what_the_folder_holds(shards: ShardSet, celeba: Path) -> None:
    folder = read_celeba(celeba)
    assert (shards.rows, shards.attributes, shards.dataset) == (COUNT, folder.attributes, "celeba")
    assert len(shards.files) == 3
    index = shards.index()
    assert index.file_names == folder.file_names
    assert np.array_equal(index.labels, folder.labels)
    assert index.row_ids.tolist() == [row_id("celeba", name) for name in folder.file_names]
    backwards = index.take(np.arange(COUNT)[::-1])
    expected = [folder.tree.read(name) for name in folder.file_names][::-1]
    assert [bytes(image) for image in shards.read_images(backwards.places)] == expected
    assert shards.splits == {"train": TRAIN, "test": COUNT - TRAIN} and shards.quarantined == 0


def test_splits_are_the_partitions(shards: ShardSet, celeba: Path) -> None:
    folder = read_celeba(celeba)
    for split, count in (("train", TRAIN), ("test", COUNT - TRAIN)):
        names = [name for name, of in zip(folder.file_names, folder.splits or [], strict=True) if of == split]
        assert shards.index(split).file_names == names and len(names) == count


def test_without_a_partition_a_tenth_is_for_tests(tmp_path: Path, celeba: Path) -> None:
    shutil.copytree(celeba, tmp_path / "celeba")
    (tmp_path / "celeba" / "list_eval_partition.txt").unlink()
    split = written(tmp_path / "celeba", tmp_path / "shards")
    assert len(split.index("test")) == 4 and len(split.index("train")) == 36
    chosen = set(split.index("test").file_names)
    again = written(tmp_path / "celeba", tmp_path / "again", rows_per_shard=7)
    assert set(again.index("test").file_names) == chosen


def test_a_second_call_writes_nothing(shards: ShardSet, celeba: Path) -> None:
    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in Path(shards.location).iterdir()}

    before = times()
    assert written(celeba, Path(shards.location)) == shards
    assert times() == before


def test_progress_counts_rows(celeba: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_shards(
        read_celeba(celeba), Location(tmp_path / "s"), ShardOptions(rows_per_shard=16),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert len(seen) == 3 and seen[-1] == (COUNT, COUNT) and seen == sorted(seen)


def test_shards_of_other_data_are_not_overwritten(shards: ShardSet, celeba: Path) -> None:
    with pytest.raises(DataError, match="holds shards of other data; write to another directory"):
        written(celeba, Path(shards.location), rows_per_shard=8)


def spoil(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / "img_align_celeba" / name
        path.write_bytes(path.read_bytes()[:200])


def test_too_many_unreadable_images_stop_the_job_after_all_are_listed(tmp_path: Path, celeba: Path) -> None:
    folder, target = Path(shutil.copytree(celeba, tmp_path / "celeba")), tmp_path / "shards"
    bad = ["000003.jpg", "000020.jpg", "000021.jpg", "000033.jpg"]
    spoil(folder, *bad)
    with pytest.raises(DataError) as caught:
        written(folder, target)
    message = str(caught.value)
    assert message.startswith("4 of 40 images cannot be read, more than the share of 0.001 allowed")
    assert "quarantine.json" in message and "000003.jpg" in message and "\n" not in message
    listed = json.loads((target / "quarantine.json").read_text())
    assert [Path(item["file"]).name for item in listed] == bad and all(item["reason"] for item in listed)
    with pytest.raises(DataError, match="unfinished"):
        open_shards(Location(target))
    # Mended, the same command continues: the file without faults stays, the others are written again.
    kept = next(target.glob("part-*.parquet"))
    for name in bad:
        shutil.copy(celeba / "img_align_celeba" / name, folder / "img_align_celeba" / name)
    before = kept.stat().st_mtime_ns
    assert written(folder, target).rows == COUNT
    assert not (target / "quarantine.json").exists()
    assert kept.stat().st_mtime_ns > before  # it had two of the faults


def test_a_few_unreadable_images_are_left_out_and_counted(tmp_path: Path, celeba: Path) -> None:
    folder = Path(shutil.copytree(celeba, tmp_path / "celeba"))
    spoil(folder, "000003.jpg", "000020.jpg")
    shards = written(folder, tmp_path / "shards", max_unreadable=0.05)
    assert (shards.rows, shards.quarantined) == (COUNT - 2, 2)
    names = shards.index().file_names
    assert len(names) == COUNT - 2 and "000003.jpg" not in names
    survey = survey_shards(shards)
    assert survey.faults == []
    assert [Path(file).name for file in survey.left_out["unreadable images"]] == ["000003.jpg", "000020.jpg"]
    assert np.array_equal(shards.index().labels, np.delete(read_celeba(folder).labels, [2, 19], axis=0))


def test_finished_files_are_not_written_again(tmp_path: Path, celeba: Path) -> None:
    target = tmp_path / "shards"
    whole = written(celeba, target)
    parts = sorted(target.glob("part-*.parquet"))
    (target / "manifest.json").unlink()
    parts[1].unlink()
    (target / f"{parts[2].name}.0a1b2c3d.tmp").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for path in (parts[0], parts[2])}
    assert written(celeba, target) == whole
    assert {path: path.stat().st_mtime_ns for path in (parts[0], parts[2])} == before
    assert not list(target.glob("*.tmp"))


def test_shards_of_two_sources_do_not_mix(tmp_path: Path, celeba: Path) -> None:
    target = tmp_path / "shards"
    written(celeba, target)
    (target / "manifest.json").unlink()
    with pytest.raises(DataError, match="belongs to other shards; write to another directory"):
        written(celeba, target, dataset="other")


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_prepared_images_are_what_the_stream_would_make(
    celeba: Path, shards: ShardSet, tmp_path: Path, kind: str
) -> None:
    prepared = written(celeba, tmp_path / "shards", prepared=Prepared(40, 32, kind))  # type: ignore[arg-type]
    of = source(prepared, cached=False)
    images = np.concatenate([block["image"] for block in in_order(of)])
    expected = expected_images(shards, of.index.file_names)
    assert np.abs(images.astype(int) - expected).mean() < (1e-9 if kind == "raw" else 4)
    assert survey_shards(prepared).sizes == {(32, 32): COUNT}
    with pytest.raises(DataError, match="prepared with crop 40 and size 32, but data.crop = 40 and .* = 64"):
        open_source(prepared, tiny_config("data.crop=40", "data.image_size=64").data, "train")


def test_images_without_labels_lie_beside(tmp_path: Path, celeba: Path) -> None:
    plain = Path(shutil.copytree(celeba / "img_align_celeba", tmp_path / "photos"))
    table, photos = read_celeba(celeba), read_images(plain)
    shards = write_shards(table, Location(tmp_path / "s"), ShardOptions(rows_per_shard=16), photos)
    assert shards.splits == {"train": TRAIN, "test": COUNT - TRAIN, "unlabelled": COUNT}
    assert (shards.index("unlabelled").labels == -1).all()
    assert len(np.unique(shards.index().row_ids)) == 2 * COUNT
    assert shards.index("train").file_names == read_split(table, "train")
    survey = survey_shards(shards)
    assert survey.prevalence()["Male"] == pytest.approx(
        table.labels[:, table.attributes.index("Male")].mean()
    )


def read_split(table: ImageTable, split: str) -> list[str]:
    return [name for name, of in zip(table.file_names, table.splits or [], strict=True) if of == split]


def test_class_folders_become_shards_that_test_on_val(tmp_path: Path, celeba: Path) -> None:
    images = sorted((celeba / "img_align_celeba").iterdir())
    for number, path in enumerate(images):
        folder = (
            tmp_path / "afhq" / ("val" if number % 4 == 3 else "train") / ("cat", "dog", "wild")[number % 3]
        )
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    shards = written(read_source(tmp_path / "afhq"), tmp_path / "shards")
    assert shards.one_hot and shards.attributes == ("cat", "dog", "wild")
    assert shards.splits == {"test": 10, "train": 30}
    assert (shards.index().labels.sum(axis=1) == 1).all()


def test_a_survey_counts_and_finds(tmp_path: Path, celeba: Path) -> None:
    folder = Path(shutil.copytree(celeba, tmp_path / "celeba"))
    spoil(folder, "000007.jpg")
    table = read_celeba(folder)
    survey = survey_table(table)
    assert survey.splits == {"train": TRAIN, "test": COUNT - TRAIN}
    assert survey.sizes == {(40, 48): COUNT - 1} and len(survey.thumbnails) == COUNT - 1
    assert [Path(file).name for file, _ in survey.faults] == ["000007.jpg"]
    domains = survey.domains(["Male", "Young"])
    assert domains.total() == COUNT
    both = table.labels[:, [table.attributes.index(name) for name in ("Male", "Young")]].all(axis=1).sum()
    assert domains[("Male", "Young")] == both


def test_a_survey_of_shards_compares_checksums(copy: Path) -> None:
    path = next(copy.glob("part-00001*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(bytes(content))
    survey = survey_shards(open_shards(Location(copy)))
    assert [(Path(file).name, what) for file, what in survey.faults] == [
        (path.name, "differs from its checksum; write the shards again")
    ]


def test_words_that_are_no_options() -> None:
    with pytest.raises(ConfigError, match="--split half: expected auto, random, official"):
        shard_options(1, "half", 0, 0, 0, "jpeg", 0.1, None)
    result = command("data", "shard", "a", "b", "--size", "32", "--format", "gif")
    words = " ".join(result.stderr.replace("│", " ").split())
    assert result.returncode == 2 and "'gif' is not one of 'jpeg', 'raw'" in words


def fault(directory: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_shards(Location(directory))
    message = str(caught.value)
    assert str(directory) in message and "\n" not in message
    return message


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (
        lambda copy: (copy / "manifest.json").unlink(),
        "no manifest.json, so the shards are unfinished",
    ),
    "broken manifest": (lambda copy: (copy / "manifest.json").write_text('{"schema'), "not valid JSON"),
    "odd manifest": (lambda copy: (copy / "manifest.json").write_text("[]"), "schema None, expected 2"),
    "other schema": (
        lambda copy: (copy / "manifest.json").write_text(json.dumps({"schema": 1})),
        "schema 1, expected 2; write them again",
    ),
    "stray file": (
        lambda copy: (copy / "stray.parquet").write_bytes(b""),
        "stray.parquet: belongs to no shard set",
    ),
    "missing file": (
        lambda copy: next(copy.glob("part-00001*")).unlink(),
        "is missing; write the shards again",
    ),
    "grown file": (lambda copy: grow(next(copy.glob("part-00002*"))), "bytes instead of"),
    "truncated file": (
        lambda copy: (path := next(copy.glob("part-00000*"))).write_bytes(path.read_bytes()[:-50]),
        "bytes instead of",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_directories_are_refused(copy: Path, name: str) -> None:
    damage, words = DAMAGE[name]
    damage(copy)
    assert words in fault(copy)


def test_missing_directory_names_the_command(tmp_path: Path) -> None:
    assert "rgcluster data shard" in fault(tmp_path / "nowhere")


def test_a_file_damaged_in_place_is_a_data_error_when_read(copy: Path) -> None:
    path = next(copy.glob("part-00001*"))
    path.write_bytes(b"\0" * path.stat().st_size)
    found = open_shards(Location(copy))
    with pytest.raises(DataError, match="part-00001.*cannot be read .*write the shards again"):
        found.index()
    with pytest.raises(DataError, match="part-00001.*cannot be read"):
        found.read_images(np.array([[1, 0]]))


# --- fractions ---


def test_fractions_are_nested(shards: ShardSet) -> None:
    ids = [set(shards.index("train", fraction).row_ids.tolist()) for fraction in (0.25, 0.5, 0.75, 1.0)]
    assert ids[0] < ids[1] < ids[2] < ids[3]
    assert len(ids[3]) == TRAIN and 2 <= len(ids[0]) <= 14


def test_an_empty_split_is_a_data_error(shards: ShardSet) -> None:
    with pytest.raises(DataError, match="no row of split 'val'"):
        open_source(shards, tiny_config().data, "val")


# --- streams ---


def expected_images(shards: ShardSet, names: list[str]) -> np.ndarray:
    folder = Path(shards.source) / "img_align_celeba"
    return np.stack([decode_image((folder / name).read_bytes(), 40, 32, name) for name in names])


def test_every_row_once_in_order(shards: ShardSet) -> None:
    of = source(shards, cached=False)
    blocks = list(in_order(of))
    assert np.array_equal(np.concatenate([block["row"] for block in blocks]), np.arange(TRAIN))
    images = np.concatenate([block["image"] for block in blocks])
    assert np.array_equal(images, expected_images(shards, of.index.file_names))


@pytest.mark.parametrize("cached", [False, True])
def test_a_stream_is_the_order(shards: ShardSet, cached: bool) -> None:
    """Rows, images, labels and steps of two epochs and a half."""
    of = source(shards, cached=cached)
    assert (of.cached is not None) is cached
    plan = StreamPlan(0, 10, 8, 0, 1, seed=5)
    blocks = list(batches(image_stream(of, plan), 8))
    assert [set(block["step"].tolist()) for block in blocks] == [{step} for step in range(10)]
    rows = np.concatenate([block["row"] for block in blocks])
    assert np.array_equal(rows, of.order(5, 8).rows(0, 80))
    assert np.array_equal(np.concatenate([block["row_id"] for block in blocks]), of.index.row_ids[rows])
    assert np.array_equal(np.concatenate([block["labels"] for block in blocks]), of.index.labels[rows])
    everything = expected_images(shards, of.index.file_names)
    assert np.array_equal(np.concatenate([block["image"] for block in blocks]), everything[rows])


def test_the_control_loop_of_a_stream_is_paced(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[object] = []

    class Watch(ExecutionCallback):
        def on_execution_step(self, executor: object) -> None:
            rounds.append(executor)

    context = DataContext.get_current()
    monkeypatch.setattr(context, "custom_execution_callback_classes", [Watch])
    stream = image_stream(source(shards, cached=False), StreamPlan(0, 10, 8, 0, 1, 0))
    assert len(context.custom_execution_callback_classes) == 2, "what was there stays"
    assert len(list(batches(stream, 8))) == 10
    assert rounds, "Ray Data calls these classes in each round"


def test_a_round_begins_so_many_seconds_after_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(internals, "time", SimpleNamespace(monotonic=lambda: now, sleep=pass_by))
    context = SimpleNamespace(custom_execution_callback_classes=[])
    internals.pace_streams(context, 0.25)  # type: ignore[arg-type]
    internals.pace_streams(context, 0.25)  # type: ignore[arg-type]
    (pace,) = context.custom_execution_callback_classes
    loop, begun = pace(), []
    for work in (0.125, 0.0, 1.0, 0.0):
        loop.on_execution_step(None)
        begun.append(now)
        pass_by(work)
    assert begun == [100.0, 100.25, 100.5, 101.5]  # a round of 1 s is late already


def test_ranks_are_disjoint_and_a_later_start_is_the_tail(shards: ShardSet) -> None:
    of = source(shards, cached=True)

    def rows(start: int, rank: int, world: int) -> np.ndarray:
        """Rows [steps, share] of a rank."""
        plan = StreamPlan(start, 6, 8, rank, world, seed=1)
        return np.stack([block["row"] for block in batches(image_stream(of, plan), 8 // world)])

    first, second = rows(0, 0, 2), rows(0, 1, 2)
    assert np.array_equal(np.concatenate([first, second], axis=1), of.order(1, 8).rows(0, 48).reshape(6, 8))
    assert not set(first[:4].ravel()) & set(second[:4].ravel())  # one epoch
    assert np.array_equal(rows(3, 1, 2), second[3:])


def test_windows_of_several_tasks_keep_their_order(small_groups: ShardSet) -> None:
    """Windows that end within a batch and blocks that end within a window."""
    of = replace(source(small_groups, cached=False), window_groups=3)
    order = of.order(2, 4)
    windows = list(order.windows(4, 96))
    assert len(windows) > 8 and any(window.start % 4 for window in windows)
    blocks = list(batches(image_stream(of, StreamPlan(1, 24, 4, 0, 1, seed=2)), 4))
    assert [block["step"][0] for block in blocks] == list(range(1, 24))
    assert all((block["step"] == block["step"][0]).all() for block in blocks)
    assert np.array_equal(np.concatenate([block["row"] for block in blocks]), order.rows(4, 96))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_windows(small_groups: ShardSet, world: int) -> None:
    """Two divide the batch, three do not; half of the steps are read by another world."""
    of = replace(source(small_groups, cached=False), window_groups=3)

    def batch_rows(start: int, stop: int, world: int) -> list[list[int]]:
        ranks = []
        for rank in range(world):
            plan = StreamPlan(start, stop, 4, rank, world, 1)
            ranks.append([block["row"].tolist() for block in batches(image_stream(of, plan), plan.rows)])
        return [sum(parts, []) for parts in zip(*ranks, strict=True)]

    whole = of.order(1, 4).rows(0, 48).reshape(12, 4).tolist()
    assert batch_rows(0, 7, world) + batch_rows(7, 12, 1) == whole


def test_the_benchmarks_worlds_read_the_same_batches(small_groups: ShardSet) -> None:
    of = replace(source(small_groups, cached=False), window_groups=3)
    found = {world: read_world(of, world, 8, 0, 8) for world in (1, 3, 8)}
    rows = [[value >> 32 for value in step] for step in found[1].batches.tolist()]
    assert rows == of.order(0, 8).rows(0, 64).reshape(8, 8).tolist()
    for reading in found.values():
        assert np.array_equal(reading.batches, found[1].batches)
        assert reading.used == found[1].used and 1 <= reading.read / reading.used
    rest = read_world(of, 3, 8, 5, 8)
    assert np.array_equal(rest.batches, found[1].batches[5:])
    pixels = of.images(np.array(rows[7]))
    changed = found[1].batches[7] & 0xFFFFFFFF
    assert changed.tolist() == [
        zlib.crc32(image.tobytes(), row) for image, row in zip(pixels, rows[7], strict=True)
    ]


@pytest.mark.parametrize(
    ("worlds", "images", "words"),
    [
        ("1,eight", 2000, "--worlds 1,eight: 'eight' is no number of readers; write for example 1,8,64"),
        ("1,,2", 2000, "--worlds 1,,2: '' is no number of readers"),
        ("0", 2000, "--worlds 0: '0' is no number of readers"),
        ("1,64", 2000, "--images 2000: too few for 4 batches of 1024 images, .* give at least 4096"),
    ],
)
def test_unfitting_worlds(tmp_path: Path, worlds: str, images: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bench_worlds(tmp_path, images, worlds_of(worlds), print)
    assert not list(tmp_path.iterdir())


def test_the_benchmark_of_many_rows(tmp_path: Path) -> None:
    found = {row.metric: row for row in bench_rows(tmp_path, 200_000, print)}
    assert found["opened"].value > 0 and found["rows of a window"].value > 0
    assert found["private memory"].value < 64
    assert 1 <= found["row groups read / needed, 64 ranks of 8 rows"].value < 1.2


def test_a_long_plan_is_cut_into_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgcluster.data.stream.SEGMENT_ROWS", 100)
    plan = StreamPlan(3, 40, 16, 1, 2, seed=9)
    parts = plan.segments()
    assert [(part.start, part.stop) for part in parts] == [(at, min(at + 6, 40)) for at in range(3, 40, 6)]
    assert {(part.batch, part.rank, part.world, part.seed) for part in parts} == {(16, 1, 2, 9)}


def test_a_balanced_stream(shards: ShardSet) -> None:
    config = tiny_config("data.crop=40", "data.balance=true", "data.attributes=[Male]", "data.exclusive=[]")
    of = open_source(shards, config.data, "train")
    assert len(of.groups) == 2
    blocks = list(batches(image_stream(of, StreamPlan(0, 8, 8, 0, 1, seed=0)), 8))
    male = shards.attributes.index("Male")
    assert all(block["labels"][:, male].sum() == 4 for block in blocks)


@pytest.mark.parametrize(
    ("batch", "world", "words"),
    [
        (33, 1, "batch of 33 is larger than the 32 training images"),
        (2, 3, "less than a row for each of 3 workers"),
    ],
)
def test_unfitting_batches(shards: ShardSet, batch: int, world: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        image_stream(source(shards, cached=False), StreamPlan(0, 1, batch, 0, world, 0))


# --- the generator of triplets, in this process ---


@pytest.fixture(scope="module")
def generator(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> GenerateTriplets:
    config = tiny_config("data.crop=40")
    location = Location(tmp_path_factory.mktemp("model"))
    save_networks(location, {"translator": tiny_translator(config)}, {})
    columns = domain_columns(shards.attributes, config.data.attributes, "shards")
    return GenerateTriplets(source(shards, cached=True), config, columns, str(location), False)


def stream_block(of: ImageSource, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"step": np.full(len(rows), step), **of.block(rows)}


def test_triplets_follow_the_rules_of_their_domains(generator: GenerateTriplets) -> None:
    """The target differs from x's own domain, the reference's domain from both."""
    domains = generator.domains[:]
    for step in range(4):
        block = stream_block(generator.source, step, np.arange(TRAIN))
        made = generator(block)
        own, target, other = domains, made["target"], domains[made["reference_row"]]
        assert (target != own).any(axis=1).all()
        assert (other != own).any(axis=1).all() and (other != target).any(axis=1).all()
        assert {tuple(row) for row in target.tolist()} <= {tuple(row) for row in domains.tolist()}
        uniform = keyed_uniform(0, Draw.CATEGORY, step, block["row_id"], 4)
        config: Config = generator.config
        assert np.array_equal(made["categories"], choose_categories(uniform, config.retrieval.negatives))


def test_triplets_hold_pictures_and_the_anchors_style(generator: GenerateTriplets) -> None:
    block = stream_block(generator.source, 0, np.arange(8))
    made = generator(block)
    assert made["image"].shape == made["positive"].shape == (8, 32, 32, 3)
    assert made["negatives"].shape == (8, 4, 32, 32, 3) and made["negatives"].dtype == np.uint8
    means = (2.0 * made["target"] - 1).repeat(8, axis=1)
    assert (
        np.abs(made["target_style"] - means).max() < 3 and np.abs(made["target_style"] - means).mean() < 0.6
    )
    easy = made["negatives"][:, 0]  # the strategy `easy` knows easy negatives alone
    assert np.array_equal(easy, generator.source.images(made["reference_row"]))


def test_triplets_do_not_depend_on_the_batch(generator: GenerateTriplets) -> None:
    whole = generator(stream_block(generator.source, 2, np.arange(12)))
    parts = [generator(stream_block(generator.source, 2, rows)) for rows in np.split(np.arange(12), [5])]
    for name in ("row_id", "image", "target", "reference_row", "categories", "target_style"):
        assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    for name in ("positive", "negatives"):
        joined = np.concatenate([part[name] for part in parts])
        assert np.abs(joined.astype(int) - whole[name]).max() <= 1


def test_a_set_of_one_domain_still_gives_triplets(generator: GenerateTriplets) -> None:
    """Where no other domain exists any image is taken, and nothing hangs."""
    index = replace(generator.source.index, labels=np.zeros_like(generator.source.index.labels))
    alike = copy_with(generator, index.labels[:, :5])
    made = alike(stream_block(generator.source, 0, np.arange(4)))
    assert (made["target"] == 0).all() and made["positive"].shape == (4, 32, 32, 3)


def copy_with(generator: GenerateTriplets, domains: np.ndarray) -> GenerateTriplets:
    alike = object.__new__(GenerateTriplets)
    alike.__dict__.update(generator.__dict__, domains=domains, others=OtherDomains(domains, balanced=False))
    return alike


# --- the command ---


def test_a_class_without_a_training_image_is_said(tmp_path: Path) -> None:
    folder = with_images(
        tmp_path / "pets", "train/cat/1.jpg", "train/dog/2.jpg", "test/cat/3.jpg", "test/wild/4.jpg"
    )
    image_file(folder / "train" / "@eaDir" / "x.jpg")
    lines = sharding.shard(folder, str(tmp_path / "shards"), ShardOptions())
    assert lines[0] == "no training image has wild" and len(lines) == 2
    assert lines[1].startswith(
        "4 images in 1 shards (test 2, train 2), layout classes, 3 classes (cat, dog, wild)"
    )
    assert "left out: 1 leftovers of other programs (train/@eaDir/)" in lines[1]
    again = sharding.shard(folder, str(tmp_path / "shards"), ShardOptions())
    assert again == lines


def test_images_without_labels_are_written_where_that_is_said(tmp_path: Path) -> None:
    photos = with_images(tmp_path / "photos", "1.jpg", "2.jpg")
    with pytest.raises(DataError, match="no labels there: .* or --layout images"):
        sharding.shard(photos, str(tmp_path / "shards"), ShardOptions())
    assert not (tmp_path / "shards").exists()
    (line,) = sharding.shard(photos, str(tmp_path / "shards"), ShardOptions(), layout="images")
    assert line.startswith("2 images in 1 shards (unlabelled 2), layout images, no labels; left out: nothing")


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_images_in_archives_of_samples_are_read_by_the_writers(tmp_path: Path, kind: str) -> None:
    source = tmp_path / f"pets.{kind}"
    if kind == "parquet":
        images = [{"bytes": picture(number), "path": None} for number in range(20)]
        pq.write_table(pa.table({"image": images, "Old": [1, 0] * 10}), source, row_group_size=3)
    else:
        tar(
            source,
            [
                (f"{n}.{end}", body)
                for n in range(20)
                for end, body in (("png", picture(n, "PNG")), ("cls", b"%d" % (n % 2)))
            ],
        )
    (line,) = sharding.shard(source, str(tmp_path / "shards"), ShardOptions(rows_per_shard=6))
    assert "20 images in 4 shards (test 2, train 18, split at random)" in line
    shards = open_shards(Location(tmp_path / "shards"))
    index = shards.index()
    kept = [bytes(image) for image in shards.read_images(index.places)]
    assert sorted(kept) == sorted(picture(n, "JPEG" if kind == "parquet" else "PNG") for n in range(20))
    assert survey_shards(shards).faults == []


def test_a_crop_that_keeps_little_stops_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    for name in ("cat/1.jpg", "dog/2.jpg", "dog/3.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(1, side=600))
    options = shard_options(8, "auto", 0, 32, 178, "jpeg", 0.0, None)
    with pytest.raises(
        DataError, match="far larger than the crop of 178 pixels, such as 600 x 600: .*--crop 0"
    ):
        sharding.shard(folder, str(tmp_path / "shards"), options)
    assert not (tmp_path / "shards").exists()
    with_crop = shard_options(8, "auto", 0, 32, 0, "jpeg", 0.0, None)
    assert sharding.shard(folder, str(tmp_path / "shards"), with_crop)
