"""One process at a time changes a directory: leases, on a disk and in an object store."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from s3 import place, s3_server

from rgcluster.base.locks import lease as module
from rgcluster.base.locks.lease import Holder, Lease, holder_of, refuse_held
from rgcluster.base.storage import Location
from rgcluster.errors import ConfigError, LeaseHeld, LeaseLost, StorageError

HOLD = """
import sys, time
from rgcluster.base.locks.lease import Lease
from rgcluster.base.storage import Location
with Lease(Location(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server("leases") as address:
        yield address


@pytest.fixture(params=["disk", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "disk":
        return Location(tmp_path / "un été" / "run")
    address = request.getfixturevalue("server")
    return Location(place(address, f"leases/{tmp_path.name}/un été/run"))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease of `tmp_path / "run"`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def elsewhere(location: Location, epoch: int, silent: float = 0.0) -> None:
    """Make the lease that of a process on another machine, without a sign of life for so long."""
    file = location / "lease" / f"{epoch:08d}.json"
    holder = {**file.read_json(), "machine": "another", "host": "far", "pid": 1}
    file.write_json(holder)
    if silent:
        then = time.time() - silent
        os.utime(file.path, (then, then))


def test_a_second_holder_is_refused_and_told_who_holds_it(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    location = Location(tmp_path / "run")
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(LeaseHeld) as refused:
        Lease(location).acquire()
    message = str(refused.value)
    assert f"in use by process {holder.pid} on {os.uname().nodename}, since 20" in message
    assert f"end it with `kill {holder.pid}` on" in message and "takes over 60 s after its last" in message
    assert refused.value.exit_status == 2 and len(message.splitlines()) == 1
    assert sorted((tmp_path / "run").rglob("*")) == before
    with pytest.raises(LeaseHeld, match=f"process {holder.pid}"):
        refuse_held(location)


def test_a_killed_holder_is_followed_at_once_with_the_next_epoch(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    location = Location(tmp_path / "run")
    assert holder_of(location) is not None
    holder.kill()  # not waited for: a zombie has ended, too
    time.sleep(0.2)
    assert holder_of(location) is None
    refuse_held(location)
    with Lease(location) as lease:
        assert lease.epoch == 2
    assert (location / "lease").names() == ["00000002.json"]


def test_a_job_is_named_by_its_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"metadata": {"job_submission_id": "guidance-a-1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    lease = Lease(Location(tmp_path)).acquire()
    with pytest.raises(LeaseHeld, match="in use by job guidance-a-1 .*`ray job stop guidance-a-1`"):
        Lease(Location(tmp_path)).acquire()
    lease.release()


def test_epochs_grow_and_nothing_is_left_where_nothing_was_written(location: Location) -> None:
    with Lease(location) as lease:
        assert lease.epoch == 1
    assert not location.exists()
    (location / "config.yaml").write_text("")
    epochs = []
    for _ in range(3):
        with Lease(location) as lease:
            epochs.append(lease.epoch)
            with pytest.raises(LeaseHeld):
                Lease(location).acquire()
    assert epochs == [1, 2, 3]
    assert holder_of(location) is None
    assert location.names() == ["config.yaml", "lease"]


def test_leases_of_other_names_do_not_meet(tmp_path: Path) -> None:
    with Lease(Location(tmp_path), "writer-0"), Lease(Location(tmp_path), "writer-1") as other:
        assert other.epoch == 1


def test_a_silent_holder_on_another_machine_is_followed_after_a_while(tmp_path: Path) -> None:
    location = Location(tmp_path)
    first = Lease(location).acquire()
    elsewhere(location, 1, silent=50)
    with pytest.raises(LeaseHeld, match=r"process 1 on far, .* sign of life, which was 5\d s ago"):
        Lease(location).acquire()
    elsewhere(location, 1, silent=70)
    second = Lease(location).acquire()
    assert second.epoch == 2
    with pytest.raises(LeaseLost, match=f"process {os.getpid()} on .* took over"):
        first.refresh()
    with pytest.raises(LeaseLost):
        first.check()
    first.release()  # a lost lease is not this one's to release
    second.refresh()
    second.release()


@pytest.mark.parametrize("hours", [-1, 1])
def test_only_the_clock_of_the_storage_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    here = time.time
    location = Location(tmp_path)
    Lease(location).acquire()
    elsewhere(location, 1)
    with monkeypatch.context() as patch:
        patch.setattr("rgcluster.base.locks.lease.time.time", lambda: here() + 3600 * hours)
        assert holder_of(location) is not None
        with pytest.raises(LeaseHeld, match="process 1 on far"):
            refuse_held(location)
    elsewhere(location, 1, silent=70)
    with monkeypatch.context() as patch:
        patch.setattr("rgcluster.base.locks.lease.time.time", lambda: here() + 3600 * hours)
        assert holder_of(location) is None
        refuse_held(location)
    assert (location / "lease").names() == ["00000001.json"]


def test_who_may_only_read_sees_the_holder_by_the_clock_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Location, content: bytes, **options: object) -> None:
        raise StorageError(f"{self}: access denied")

    location = Location(tmp_path)
    Lease(location).acquire()
    elsewhere(location, 1)
    monkeypatch.setattr(Location, "write_bytes", refuse)
    assert str(holder_of(location)).startswith("process 1 on far")
    then = time.time() - 70
    os.utime((location / "lease" / "00000001.json").path, (then, then))
    assert holder_of(location) is None


def test_of_many_that_take_over_at_once_one_succeeds(location: Location) -> None:
    (location / "config.yaml").write_text("")
    Lease(location).acquire().release()

    def acquire(_: int) -> Lease | None:
        try:
            return Lease(location).acquire()
        except (LeaseHeld, StorageError):
            return None

    with ThreadPoolExecutor(6) as threads:
        leases = [lease for lease in threads.map(acquire, range(6)) if lease]
    assert [lease.epoch for lease in leases] == [2]
    leases[0].refresh()


def test_a_file_is_created_once(location: Location) -> None:
    contents = [bytes([65 + number]) * 100 for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda content: (location / "file").create(content), contents))
    assert sum(made) == 1
    assert (location / "file").read_bytes() == contents[made.index(True)]
    assert location.names() == ["file"]


@pytest.fixture
def unlinked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """A file on a disk without hard links; object stores other than S3 have no exclusive creation either."""

    def link(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "not supported")

    monkeypatch.setattr(os, "link", link)
    return Location(tmp_path / "file")


def test_a_file_is_created_by_one_claimant_at_most(unlinked: Location) -> None:
    contents = [bytes([65 + number]) * 100 for number in range(6)]

    def tried(content: bytes) -> bool:
        try:
            return unlinked.create(content)
        except StorageError:
            return False

    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(tried, contents))
    assert sum(made) <= 1
    if not any(made):  # claimants may all give way; the next one succeeds
        made[0] = unlinked.create(contents[0])
    assert unlinked.read_bytes() == contents[made.index(True)]
    assert not unlinked.create(b"other")
    assert unlinked.parent.names() == ["file"]


def test_a_claim_that_was_left_behind_holds_nobody_up(
    unlinked: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = unlinked.parent / f"file.{'0' * 32}.claim"
    claim.write_bytes(b"\n")
    monkeypatch.setattr("rgcluster.base.storage._CLAIMS", 1)
    with pytest.raises(StorageError, match="other processes try to create this file"):
        unlinked.create(b"mine")
    monkeypatch.setattr("rgcluster.base.storage._CLAIM_SECONDS", -1.0)
    assert unlinked.create(b"mine") and unlinked.read_bytes() == b"mine"


def in_main_thread(body: Callable[[], None]) -> None:
    """pytest runs tests in the main thread, which a lost lease interrupts."""
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        body()
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_loses_the_lease_is_interrupted(tmp_path: Path) -> None:
    location = Location(tmp_path)

    def body() -> None:
        start = time.monotonic()
        with pytest.raises(LeaseLost, match="took over"):
            with Lease(location, refresh_seconds=0.1):
                elsewhere(location, 1, silent=100)
                taken = Lease(location).acquire()
                time.sleep(20)
        assert time.monotonic() - start < 10
        taken.check()

    in_main_thread(body)


def test_a_removed_directory_is_not_made_again(tmp_path: Path) -> None:
    location = Location(tmp_path / "run")

    def body() -> None:
        with pytest.raises(LeaseLost, match="was removed"):
            with Lease(location, refresh_seconds=0.1):
                (location / "file").write_text("")
                location.remove()
                time.sleep(20)

    in_main_thread(body)
    assert not (tmp_path / "run").exists()


def test_a_storage_that_does_not_answer_loses_the_lease_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> None:
        with pytest.raises(LeaseLost, match=r"could give no sign of life for .* s \(down\)"):
            with Lease(Location(tmp_path), refresh_seconds=0.1, stale_seconds=0.8) as lease:

                def fail() -> None:
                    raise StorageError("down")

                monkeypatch.setattr(lease, "refresh", fail)
                time.sleep(20)

    in_main_thread(body)


def test_an_error_of_the_work_is_told_rather_than_a_lost_lease(tmp_path: Path) -> None:
    location = Location(tmp_path)
    with pytest.raises(StorageError, match="no room"):
        with Lease(location, refresh_seconds=60) as lease:
            elsewhere(location, 1, silent=100)
            Lease(location).acquire()
            with pytest.raises(LeaseLost):
                lease.refresh()
            raise StorageError("no room")
    with pytest.raises(KeyError):
        with Lease(Location(tmp_path / "other"), refresh_seconds=60):
            raise KeyError


def test_the_lease_is_refreshed(tmp_path: Path) -> None:
    with Lease(Location(tmp_path), refresh_seconds=0.05):
        file = Location(tmp_path / "lease" / "00000001.json")
        first = file.modified()
        time.sleep(0.5)
        assert file.modified() > first


def test_a_file_that_cannot_be_read_is_somebodys(tmp_path: Path) -> None:
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "00000007.json").write_text("{")
    with pytest.raises(LeaseHeld, match="another process"):
        Lease(Location(tmp_path)).acquire()
    os.utime(tmp_path / "lease" / "00000007.json", (1, 1))
    assert Lease(Location(tmp_path)).acquire().epoch == 8


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for below in ("file", "file/run", "file/run/x"):
        with pytest.raises(ConfigError, match="/file: a file; choose a directory"):
            Lease(Location(tmp_path / below)).acquire()
    with pytest.raises(StorageError, match="/proc/run: cannot be written"):
        Lease(Location("/proc/run")).acquire()


def test_a_process_of_the_same_number_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Holder.here()
    assert not here.has_ended
    assert replace(here, started=here.started - 3600).has_ended
    assert replace(here, pid=2**22 + 1).has_ended
    monkeypatch.setattr(module, "_machine", lambda: "another")
    assert not replace(here, pid=2**22 + 1).has_ended
