"""Files on S3 when its requests are slow, refused, cut off or answered by halves."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest
from s3 import FAULTS, FaultyProxy, place, s3_server

from rgcluster.base.storage import Location, digest_bytes
from rgcluster.errors import ConfigError, StorageError


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server("files") as address:
        yield address


@pytest.fixture
def proxy(server: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(server)
    yield proxy
    proxy.close()


def test_files_and_directories(server: str) -> None:
    root = Location(place(server, "files/a/run"))
    assert not root.exists() and root.names() == [] and root.name == "run"
    (root / "x" / "file").write_text("one")
    (root / "x" / "file").write_text("two")
    (root / "y").write_json({"k": 1})
    assert root.exists() and not root.is_file() and root.names() == ["x", "y"]
    assert (root / "x" / "file").read_text() == "two" and (root / "x" / "file").size() == 3
    (root / "x").remove()
    (root / "x").remove()
    assert root.names() == ["y"] and not (root / "x" / "file").exists()
    with pytest.raises(FileNotFoundError):
        (root / "x" / "file").read_text()
    assert Location(str(root / "y")).read_json() == {"k": 1}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_pass_are_not_noticed(proxy: FaultyProxy, fault: str) -> None:
    proxy.every, proxy.faults = 3, (fault,)
    root = Location(place(proxy.address, f"files/faulty/{fault}"))
    big = bytes(range(256)) * 64
    for number in range(6):
        (root / str(number)).write_bytes(big + bytes([number]))
    assert root.names() == [str(number) for number in range(6)]
    for number in range(6):
        assert (root / str(number)).read_bytes() == big + bytes([number])
        (root / str(number)).remove()
    assert root.names() == [] and proxy.met[fault] >= 8


def test_many_parts_of_a_large_file_survive_faults(proxy: FaultyProxy) -> None:
    proxy.every = 3
    big = bytes(range(256)) * (64 << 10)  # 16 MiB: an upload in parts
    file = Location(place(proxy.address, "files/large"))
    file.write_bytes(big)
    assert file.read_bytes() == big
    file.remove()
    assert sum(proxy.met.values()) > 2


def test_a_draft_is_uploaded_in_spite_of_faults(proxy: FaultyProxy) -> None:
    proxy.every = 3
    big = bytes(range(256)) * (64 << 10)
    file = Location(place(proxy.address, "files/draft"))
    with file.local_draft() as draft:
        draft.write_bytes(big)
        assert not file.exists()
    assert file.digest() == digest_bytes(big) and not draft.exists()
    assert file.read_with(lambda opened: opened.read_at(4, 255)) == b"\xff\0\1\2"
    file.remove()


def test_what_stays_broken_is_one_line_and_leaves_the_old_file(proxy: FaultyProxy, server: str) -> None:
    file = Location(place(proxy.address, "files/kept", attempts=3))
    file.write_bytes(b"old")
    proxy.down = True
    for act in (
        lambda: file.write_bytes(b"new" * 5_000_000),
        file.read_bytes,
        file.exists,
        file.remove,
        file.names,
    ):
        with pytest.raises(
            StorageError, match=r"files/kept.*does not answer as it should .*run the same"
        ) as told:
            act()
        assert len(str(told.value).splitlines()) == 1
    assert Location(place(server, "files/kept")).read_bytes() == b"old"


def test_no_server_no_bucket_no_credentials_in_an_address(server: str) -> None:
    with pytest.raises(StorageError, match="network connection"):
        Location(place("127.0.0.1:9", "files/x", attempts=1)).read_bytes()
    with pytest.raises((StorageError, FileNotFoundError), match="(?i)bucket"):
        Location(place(server, "nowhere/x")).write_bytes(b"x")
    with pytest.raises(ConfigError, match="do not belong in an address") as told:
        Location("s3://key:secret@files/x?region=us-east-1")
    assert "secret" not in str(told.value).replace("SECRET_ACCESS", "")
    with pytest.raises(ConfigError, match="unknown option regoin; known: region"):
        Location("s3://files/x?regoin=a")
    with pytest.raises(ConfigError, match="no bucket"):
        Location("s3:///x")


def test_a_copy_in_another_process_is_as_patient(proxy: FaultyProxy) -> None:
    proxy.every, proxy.faults = 3, ("busy",)
    copy = pickle.loads(pickle.dumps(Location(place(proxy.address, "files/p"))))
    for number in range(8):
        (copy / "f").write_text(str(number))
        assert (copy / "f").read_text() == str(number)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_is_created_once_whatever_happens_to_the_answer(
    server: str, proxy: FaultyProxy, fault: str
) -> None:
    proxy.every, proxy.faults = 2, (fault,)
    root, seen = (Location(place(address, f"files/created/{fault}")) for address in (proxy.address, server))
    for number in range(6):
        assert (root / str(number)).create(b"first")
        assert not (root / str(number)).create(b"second")
        assert (seen / str(number)).read_bytes() == b"first"
    assert proxy.met[fault] >= 6


def test_a_file_is_not_created_where_the_server_refuses(proxy: FaultyProxy, server: str) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket"):
        Location(place(server, "nowhere/x")).create(b"x")
    proxy.down = True
    with pytest.raises(StorageError, match="created/down.*HTTP 503"):
        Location(place(proxy.address, "files/created/down", attempts=2)).create(b"x")
