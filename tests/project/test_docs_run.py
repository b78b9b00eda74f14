"""The commands that the docs show, run one after the other as they stand there, at the size of the preset smoke."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import requests
from doclines import said
from moto.server import ThreadedMotoServer
from nodes import free_port
from PIL import Image
from places import PROJECT

PAGES = {
    "README.md": "Commands",
    "docs/quickstart.md": "",
    "docs/tutorial.md": "",
    "docs/store.md": "On the command line",
    "docs/serving.md": "Figures",
}
"""Pages that are run, and the section where it is not all of the page."""

SMALLER = {
    "make demo": "rgcluster demo --preset smoke --run runs/smoke",
    "--run runs/photos --preset celeba128": "--run runs/photos --preset smoke --set guidance.variants=[rg-unit]",
    "--preset celeba128": "--preset smoke",
    "--count 4000": "--count 160",
    "--shards 8": "--shards 2",
    "--size 128": "--size 32",
    "path/to/celeba": "faces",
    "--run runs/celeba": "--run runs/mine",
    "bench data": "bench data --images 1000",
    "bench serve": "bench serve --requests 2 --memory-requests 0",
}
"""What is put in place of sizes and of data that nobody has here. What is to be trained was trained before; what is
the same command then is run once."""

ELSEWHERE = {
    "rgcluster table": "test_study.py",
    "rgcluster sweep": "test_study.py",
    "rgcluster store start": "test_store_commands.py",
    "rgcluster store list": "test_store_commands.py",
    "rgcluster store info faces": "test_store_commands.py",
    "rgcluster store compact": "test_store_commands.py",
    "rgcluster store stop": "test_store_commands.py",
    "tensorboard": "test_demo.py",
}
"""Too long for here, in need of a cluster that stays, or no program of ours: other tests have these."""


def steps(page: str) -> list[tuple[str, ...]]:
    """The commands of a page that are run, as words."""
    text = (PROJECT / page).read_text()
    if PAGES[page]:
        text = text.partition(f"\n## {PAGES[page]}\n")[2].partition("\n## ")[0]
    found = []
    for line in said(text, page):
        command = " ".join(line.words)
        if not line.whole or line.marked or command.startswith(tuple(ELSEWHERE)):
            continue
        for large, small in SMALLER.items():
            command = command.replace(large, small)
        found.append(tuple(command.split()))
    return found


def test_commands_that_are_left_out_are_run_by_other_tests() -> None:
    for command, file in ELSEWHERE.items():
        source = next((PROJECT / "tests").rglob(file)).read_text()
        for word in command.split()[2:] or [command.split()[-1]]:
            assert f'"{word}"' in source
    assert [len(steps(page)) for page in PAGES] >= [12, 8, 12, 3, 1]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The options of an address in a bucket called `bucket`, for as long as its server lives."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
    yield f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


@pytest.fixture
def place(smoke_run: Path, tmp_path: Path) -> Path:
    """A directory with what a reader who came this far has: trained runs, a photo."""
    for name in ("smoke", "mine", "demo"):
        shutil.copytree(smoke_run, tmp_path / "runs" / name, symlinks=True)
    faces = smoke_run / "faces" / "img_align_celeba"
    for name in ("photo.jpg", "face.jpg"):
        shutil.copy(faces / "000001.jpg", tmp_path / name)
    return tmp_path


@pytest.fixture
def photos(smoke_run: Path, tmp_path: Path) -> Path:
    """A directory with what the tutorial asks of its reader: photos with a table, and in folders."""
    faces = smoke_run / "faces"
    shutil.copytree(faces / "img_align_celeba", tmp_path / "photos")
    shutil.copy(tmp_path / "photos" / "000001.jpg", tmp_path / "photo.jpg")
    names, *rows = (line.split() for line in (faces / "list_attr_celeba.txt").read_text().splitlines()[1:])
    table = [["file", *names], *rows]
    (tmp_path / "labels.csv").write_text("".join(",".join(row) + "\n" for row in table))
    for number, (file, *_) in enumerate(rows):
        folder = tmp_path / "classes" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "photos" / file, folder)
    return tmp_path


@pytest.mark.pages
def test_the_commands_of_the_tutorial_run(photos: Path, bucket: str) -> None:
    follow(steps("docs/tutorial.md"), photos, bucket)
    for name in ("look.png", "shards.png", "glasses.png", "neighbours.png", "smile.png"):
        assert Image.open(photos / name).size[0] > 31
    assert (photos / "runs" / "photos" / "report" / "index.html").exists()


@pytest.mark.pages
def test_the_commands_of_readme_and_quick_start_run(place: Path, bucket: str) -> None:
    follow([*steps("README.md"), *steps("docs/quickstart.md")], place, bucket)
    for name in ("sheet.png", "shards.png", "blond.png", "neighbours.png", "male.png", "four.png"):
        assert Image.open(place / name).size[0] > 31
    assert (place / "runs" / "mine" / "report" / "index.html").exists()


@pytest.mark.pages
def test_the_commands_of_store_and_serving_run(place: Path, bucket: str, smoke_run: Path) -> None:
    (place / "shards").symlink_to(smoke_run / "shards")
    follow([*steps("docs/store.md"), *steps("docs/serving.md")], place, bucket)


def follow(commands: list[tuple[str, ...]], place: Path, bucket: str) -> None:
    """Run the commands in order; `serve` stays until the next one that asks it has had its answer."""
    port, served = free_port(), None
    try:
        for words in dict.fromkeys(commands):
            line = [
                re.sub(r"^s3://\S+", rf"\g<0>{bucket}", word).replace(":8000", f":{port}") for word in words
            ]
            assert line[0] == "rgcluster", line
            start = time.monotonic()
            if line[1] == "serve":
                served = subprocess.Popen(program([*line, "--port", str(port)]), cwd=place)
                wait_for(f"http://127.0.0.1:{port}/v1/ready", served)
            else:
                result = subprocess.run(program(line), cwd=place, capture_output=True, text=True, timeout=240)
                assert result.returncode == 0, f"{' '.join(line)}\n{result.stdout}\n{result.stderr[-3000:]}"
            print(f"{time.monotonic() - start:5.1f} s  {' '.join(line)}")
            if "--url" in line and served:
                end(served)
                served = None
    finally:
        if served:
            end(served)


def program(line: list[str]) -> list[str]:
    return [sys.executable, "-c", "from rgcluster.cli import main; main()", *line[1:]]


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, f"ended with {process.returncode}"
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{url} did not answer")


def end(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGINT)
    process.wait(60)


@pytest.mark.pages
def test_the_reference_has_a_page_for_every_module(tmp_path: Path) -> None:
    """What `make docs` runs."""
    (options,) = re.findall(r"\$\(BIN\)/python (.* -m pdoc) ", (PROJECT / "Makefile").read_text())
    files = [path.relative_to(PROJECT) for path in (PROJECT / "rgcluster").rglob("*.py")]
    modules = {str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__") for path in files}
    line = [sys.executable, *options.split(), "--output-directory", str(tmp_path), *sorted(modules)]
    result = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    pages = {
        str(path.relative_to(tmp_path).with_suffix("")).replace("/", ".") for path in tmp_path.rglob("*.html")
    }
    assert modules <= pages
    assert "scatter" in (tmp_path / "rgcluster" / "store" / "actors" / "telemetry.html").read_text()
