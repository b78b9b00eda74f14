"""Files of lines that grow, on a disk and on S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3 import place, s3_server

from rgcluster.base.logs import growing
from rgcluster.base.logs.growing import GrowingFile, read_growing
from rgcluster.base.storage import Location


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server("lines") as address:
        yield address


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lines of every object that is written, at every fifth line and where it is asked for."""
    sizes: list[int] = []
    write = Location.write_text
    monkeypatch.setattr(growing, "SEGMENT_LINES", 5)
    monkeypatch.setattr(
        Location, "write_text", lambda self, text: (sizes.append(text.count("\n")), write(self, text))[1]
    )
    return sizes


def lines(start: int, stop: int) -> list[dict[str, int]]:
    return [{"step": step} for step in range(start, stop)]


def test_on_a_disk_lines_are_appended(tmp_path: Path) -> None:
    file = Location(tmp_path / "a.jsonl")
    log = GrowingFile(file, lines(0, 3))
    for line in lines(3, 9):
        log.add(line)
    assert read_growing(file) == lines(0, 9)
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_on_s3_only_the_last_segment_is_written_anew(server: str, written: list[int]) -> None:
    folder = Location(place(server, "lines/run"))
    file = folder / "a.jsonl"
    log = GrowingFile(file, lines(0, 3))
    for line in lines(3, 15):
        log.add(line)
    assert read_growing(file) == lines(0, 13)
    log.flush()
    log.flush()
    assert written == [3, 5, 5, 2] and read_growing(file) == lines(0, 15)
    log.close()
    assert read_growing(file) == lines(0, 15) and folder.names() == ["a.jsonl"]


def test_a_writer_that_died_left_all_that_it_wrote(
    server: str, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Location(place(server, "lines/dead")) / "a.jsonl"
    log = GrowingFile(file, [])
    for line in lines(0, 12):
        log.add(line)
    log.flush()
    with monkeypatch.context() as patched:  # it dies between the joined file and the end of its segments
        patched.setattr(Location, "remove", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log.close()
    assert read_growing(file) == lines(0, 12)
    again = GrowingFile(file, read_growing(file)[:7])
    assert read_growing(file) == lines(0, 7)
    again.add({"step": 70})
    again.close()
    assert read_growing(file) == [*lines(0, 7), {"step": 70}]
