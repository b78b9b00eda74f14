"""Data at work: sharding killed half-way, a streaming process killed in mid-epoch, domains that are classes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from PIL import Image
from processes import descendants, start
from tiny import write_celeba

from rgcluster.base.storage import Location
from rgcluster.data.order import WindowedOrder
from rgcluster.data.shards import open_shards
from rgcluster.data.sources import read_celeba

pytestmark = pytest.mark.long

COUNT = 1500


@pytest.fixture(scope="module")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_celeba(tmp_path_factory.mktemp("data") / "celeba", COUNT)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a command and the processes that it started."""
    below = [process.pid, *descendants(process.pid)]
    for pid in below:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def test_killed_sharding_continues(celeba: Path, tmp_path: Path) -> None:
    target = tmp_path / "shards"
    arguments = (
        "data",
        "shard",
        str(celeba),
        str(target),
        "--rows",
        "20",
        "--size",
        "128",
        "--format",
        "raw",
    )
    process = start(*arguments)
    deadline = time.monotonic() + 120
    while len(list(target.glob("*.parquet"))) < 10:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.02)
    end(process)
    finished = {path: path.stat().st_mtime_ns for path in target.glob("*.parquet")}
    assert 10 <= len(finished) < COUNT // 20 and not (target / "manifest.json").exists()
    again = command(*arguments)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # not done twice
    index = open_shards(Location(target)).index()
    table = read_celeba(celeba)
    assert index.file_names == table.file_names and np.array_equal(index.labels, table.labels)
    assert not list(target.glob("*.tmp"))


def test_the_commands_say_what_they_found(tmp_path: Path) -> None:
    folder, target = write_celeba(tmp_path / "celeba", 30), tmp_path / "shards"
    made = command("data", "shard", str(folder), str(target), "--split", "random", "--split-seed", "3")
    assert made.returncode == 0, made.stderr
    assert "30 images in 1 shards (test 3, train 27, split at random)" in made.stdout
    sheet = tmp_path / "sheet.png"
    good = command("data", "check", str(target), "--sheet", str(sheet))
    assert good.returncode == 0, good.stderr
    assert "30 rows: test 3, train 27" in good.stdout and "0 faults" in good.stdout
    assert Image.open(sheet).width > 400
    (folder / "img_align_celeba" / "000004.jpg").write_text("no image")
    bad = command("data", "check", str(folder))
    assert bad.returncode == 2 and "000004.jpg: cannot identify image file" in bad.stdout
    own = command("data", "shard", str(folder), str(folder))
    assert own.returncode == 2 and "the images lie there; write the shards to a directory of" in own.stderr
    assert not (folder / "lease").exists()
    refused = command("data", "shard", str(folder), str(tmp_path / "other"))
    assert refused.returncode == 2 and refused.stderr.count("\n") <= 3
    assert "1 of 30 images cannot be read, more than the share of 0.001" in refused.stderr


READER = """
import sys, numpy as np
from rgcluster.config import load_config
from rgcluster.data.shards import open_shards
from rgcluster.data.stream import StreamPlan, batches, image_stream, open_source
from rgcluster.base.session import ray_session
from rgcluster.base.storage import Location
shards, out, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
config = load_config("smoke", ["data.cache_mib=0", "data.crop=40"])
with ray_session():
    source = open_source(open_shards(Location(shards)), config.data, "train")
    for block in batches(image_stream(source, StreamPlan(first, last, 20, 0, 1, 3)), 20):
        with open(out, "a") as file:
            file.write(" ".join(map(str, [block["step"][0], *block["row"], block["image"].sum()])) + "\\n")
"""


def read(shards: Path, out: Path, first: int, last: int) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", READER, str(shards), str(out), str(first), str(last)]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True)


def lines_of(file: Path) -> list[str]:
    return file.read_text().split("\n")[:-1] if file.exists() else []


def test_a_stream_killed_in_mid_epoch_goes_on_at_its_step(celeba: Path, tmp_path: Path) -> None:
    shards, out = tmp_path / "shards", tmp_path / "rows"
    assert command("data", "shard", str(celeba), str(shards), "--rows", "200").returncode == 0
    index = open_shards(Location(shards)).index("train")
    rows = len(index)
    steps = 2 * rows // 20
    process = read(shards, out, 0, steps)
    deadline = time.monotonic() + 120
    while len(lines_of(out)) < 10:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    end(process)
    done = len(lines_of(out))
    assert 10 <= done < steps, "killed too late to prove anything"
    out.write_text("".join(f"{line}\n" for line in lines_of(out)))
    rest = read(shards, out, done, steps)
    assert rest.wait(240) == 0
    seen = np.array([[int(value) for value in line.split()] for line in lines_of(out)])
    assert seen[:, 0].tolist() == list(range(steps))
    epochs = seen[:, 1:-1].reshape(2, rows)
    assert (np.sort(epochs, axis=1) == np.arange(rows)).all()  # nothing lost, nothing twice, in both epochs
    assert np.array_equal(epochs.ravel(), WindowedOrder(index.group_edges, 3, 20).rows(0, 2 * rows))


def test_three_classes_go_through_all_stages(smoke_run: Path, tmp_path: Path) -> None:
    """Folders of cats, dogs and others (here: hair colours), and some images that nobody labelled."""
    table = read_celeba(smoke_run / "faces")
    hair = ("Black_Hair", "Blond_Hair", "Brown_Hair")
    columns = [table.attributes.index(name) for name in hair]
    for name, row in zip(table.file_names, table.labels, strict=True):
        classes = [label for label, column in zip(hair, columns, strict=True) if row[column]]
        folder = tmp_path / "afhq" / classes[0] if len(classes) == 1 else tmp_path / "photos"
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(smoke_run / "faces" / "img_align_celeba" / name) as image:
            image.resize((60, 90)).save(folder / f"{Path(name).stem}.png")
    shards = tmp_path / "shards"
    made = command(
        "data", "shard", str(tmp_path / "afhq"), str(shards), "--unlabelled", str(tmp_path / "photos")
    )
    assert made.returncode == 0, made.stderr
    words = ["--data", str(shards), "--run", str(tmp_path / "run"), "--preset", "smoke"]
    refused = command("train", "all", *words)
    assert refused.returncode == 2 and "add --set data.domains=one-hot" in refused.stderr
    # The remedy that the message names, and a crop that fits these images.
    remedy = [word for word in refused.stderr.split() if word.startswith("data.")]
    settings = [part for word in [*remedy, "data.crop=0"] for part in ("--set", word)]
    trained = command("train", "all", *words, *settings, timeout=850)
    assert trained.returncode == 0, trained.stderr[-3000:]
    evaluated = command("evaluate", "--run", str(tmp_path / "run"), timeout=850)
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    tables = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())["tables"]
    last = next(row for row in tables["translation"] if row["model"] == "rg-unit")
    assert set(last["acc_per_attribute"]) == set(hair) and last["counterfactual"] is None
    assert all(row["p10_content"] is None for row in tables["retrieval"])
    manifest = json.loads((tmp_path / "run" / "store" / "snapshot" / "manifest.json").read_text())
    counts = open_shards(Location(shards)).splits
    assert manifest["count"] == counts["train"] + counts["unlabelled"]
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "drawn faces" not in page.split("</h1>")[0]
    out = tmp_path / "out.png"
    image = next((tmp_path / "afhq" / "Black_Hair").iterdir())
    translated = command(
        "translate", str(image), "--run", str(tmp_path / "run"), "--to", "Blond_Hair", "--out", str(out)
    )
    assert translated.returncode == 0 and out.exists(), translated.stderr
    shutil.rmtree(tmp_path / "run")
