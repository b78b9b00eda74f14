"""A lease: the right to change what lies at a location, held by one process at a time.

Each holder has an epoch, with a file of its own: `lease/00000003.json`. The next epoch begins by the exclusive
creation of the next file, so of several processes that take over at once one succeeds. The holder writes its file
again every few seconds. A process takes over from a holder that ended on this machine at once, and from any other
after `STALE_SECONDS` without a sign of life, by the clock of the storage: clocks of machines are not compared.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from rgcluster.base.cluster.job import submission_id
from rgcluster.base.storage import Location
from rgcluster.errors import ConfigError, DataError, LeaseHeld, LeaseLost, RGClusterError, StorageError

__all__ = ["LEASE", "Holder", "Lease", "holder_of", "refuse_file", "refuse_held"]

LEASE = "lease"
"""Directory, below the location, of the holders' files."""
REFRESH_SECONDS = 5.0
STALE_SECONDS = 60.0
"""Time without a sign of life after which a holder has lost its lease: it stops, and others may take over."""

_ATTEMPTS = 20


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease, or held it last. `machine` tells apart machines, boots and containers."""

    host: str
    machine: str
    pid: int
    started: float
    job: str | None
    since: str
    token: str
    released: bool = False

    @classmethod
    def here(cls) -> Holder:
        """Return this process as a new holder."""
        process = psutil.Process()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            socket.gethostname(), _machine(), process.pid, process.create_time(), submission_id(), now,
            uuid.uuid4().hex,
        )  # fmt: skip

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to have ended; False on other machines, of which nothing is known."""
        if self.released:
            return True
        if self.machine != _machine():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.started) > 2
        except psutil.NoSuchProcess:
            return True

    @property
    def remedy(self) -> str:
        """Return the command that ends the process."""
        return f"`ray job stop {self.job}`" if self.job else f"`kill {self.pid}` on {self.host}"

    def __str__(self) -> str:
        process = f"process {self.pid} on {self.host}"
        return f"{f'job {self.job} ({process})' if self.job else process}, since {self.since}"


class Lease:
    """The lease of `location`; `name` distinguishes several leases of one location.

    As a context manager it is acquired, refreshed by a thread, and released. If it is lost meanwhile, the thread
    interrupts the body as Ctrl-C does where the main thread runs it, and the context manager raises LeaseLost.
    Other users call `acquire`, `refresh` and `release`, and `check` before a change.
    """

    def __init__(
        self,
        location: Location,
        name: str = LEASE,
        *,
        refresh_seconds: float = REFRESH_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self.location, self.epoch = location, 0
        self._directory, self._name = location / name, name
        self._refresh_seconds, self._stale_seconds = refresh_seconds, stale_seconds
        self._own: Holder | None = None
        self._lost: LeaseLost | None = None
        self._new = False
        self._refreshed, self._trouble = 0.0, ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> Lease:
        """Begin a new epoch; LeaseHeld names the process that holds the lease."""
        try:
            refuse_file(self.location)
            self._new = not self.location.exists()
            for _ in range(_ATTEMPTS):
                if self._begin_epoch(Holder.here()):
                    return self
        except OSError as error:
            raise StorageError(
                f"{self.location}: cannot be written ({error.strerror or error}); choose a directory that can"
            ) from None
        raise StorageError(f"{self._directory}: other processes take this lease again and again")

    def _begin_epoch(self, own: Holder) -> bool:
        """Return whether this process began the next epoch; LeaseHeld where another one's goes on."""
        epoch, holder = _newest(self._directory)
        if epoch and not (holder and holder.has_ended):
            self._refuse_held(epoch, holder)
        epoch += 1
        if not self._file(epoch).create(_content(own)):
            return False
        if _epochs(self._directory)[-1] != epoch:  # others began and removed this epoch meanwhile
            self._file(epoch).remove()
            return False
        self.epoch, self._own, self._lost, self._refreshed = epoch, own, None, time.monotonic()
        for older in _epochs(self._directory)[:-1]:
            self._file(older).remove()
        return True

    def refresh(self) -> None:
        """Give a sign of life; LeaseLost where another process took over or the lease was removed."""
        own = self._held()
        epochs = _epochs(self._directory)
        if epochs and epochs[-1] > self.epoch:
            _, holder = _newest(self._directory)
            self._lose(f"{holder or 'another process'} took over while this process gave no sign of life")
        if self.epoch not in epochs:
            self._lose(f"{self._file(self.epoch)} was removed")
        self._file(self.epoch).write_bytes(_content(own))
        self._refreshed = time.monotonic()

    def check(self) -> None:
        """Raise LeaseLost where the lease was lost, or could not be refreshed for too long; makes no request."""
        self._held()
        silent = time.monotonic() - self._refreshed
        if silent > self._stale_seconds - self._refresh_seconds:
            self._lose(f"this process could give no sign of life for {silent:.0f} s{self._trouble}")

    def release(self) -> None:
        """Let others acquire it at once. Where nothing was written beside the lease, nothing is left."""
        if self._own is None or self._lost is not None:
            return
        own, self._own = self._own, None
        if self._new and self.location.names() == [self._name]:
            self.location.remove()
            return
        if _epochs(self._directory)[-1:] == [self.epoch]:
            self._file(self.epoch).write_bytes(_content(own, released=True))

    def __enter__(self) -> Lease:
        self.acquire()
        self._stop.clear()
        on_main = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._keep, args=(on_main,), daemon=True, name="lease")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._lost is not None and not isinstance(error, RGClusterError):
            raise self._lost from None
        if error is None:
            self.release()
        else:  # what went wrong matters more than a lease that others take over anyway
            with suppress(StorageError, OSError):
                self.release()

    def _keep(self, interrupt: bool) -> None:
        while not self._stop.wait(self._refresh_seconds):
            try:
                try:
                    self.refresh()
                    self._trouble = ""
                except (StorageError, OSError) as error:  # it may pass
                    self._trouble = f" ({error})"
                self.check()
            except LeaseLost:
                if interrupt and not self._stop.is_set():
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    def _held(self) -> Holder:
        if self._lost is not None:
            raise self._lost
        if self._own is None:
            raise RuntimeError(f"{self._directory}: the lease was not acquired")
        return self._own

    def _lose(self, why: str) -> None:
        self._lost = LeaseLost(
            f"{self.location}: {why}; this process stops, what it finished is kept; see to it that one process at a "
            "time works there"
        )
        raise self._lost

    def _refuse_held(self, epoch: int, holder: Holder | None) -> None:
        """Raise LeaseHeld unless the holder's last sign of life is too long ago."""
        try:
            silent = _now(self._directory) - self._file(epoch).modified()
        except FileNotFoundError:  # taken over meanwhile
            return
        if silent > self._stale_seconds:
            return
        raise LeaseHeld(
            f"{_held_message(self.location, holder, self._stale_seconds)}, which was {max(silent, 0.0):.0f} s ago"
        )

    def _file(self, epoch: int) -> Location:
        return _epoch_file(self._directory, epoch)


def holder_of(location: Location, name: str = LEASE, stale_seconds: float = STALE_SECONDS) -> Holder | None:
    """Return the process that holds the lease of a location, as far as known; None where there is none."""
    epoch, holder = _newest(location / name)
    if holder is None or holder.has_ended:
        return None
    with suppress(FileNotFoundError):
        if _now(location / name) - _epoch_file(location / name, epoch).modified() <= stale_seconds:
            return holder
    return None


def refuse_held(location: Location, name: str = LEASE) -> None:
    """Raise LeaseHeld where another process holds the lease of a location, without taking it."""
    holder = holder_of(location, name)
    if holder is not None:
        raise LeaseHeld(_held_message(location, holder, STALE_SECONDS))


def _held_message(location: Location, holder: Holder | None, stale_seconds: float) -> str:
    who, remedy = (str(holder), holder.remedy) if holder else ("another process", "its own means")
    return (
        f"{location}: in use by {who}; wait until it ends, or end it with {remedy}; if its machine is gone, the same "
        f"command takes over {stale_seconds:g} s after its last sign of life"
    )


def refuse_file(location: Location) -> None:
    """Raise ConfigError where a file lies in the place of a directory or of one above it."""
    while location.is_local and str(location.parent) != str(location):
        if location.is_file():
            raise ConfigError(f"{location}: a file; choose a directory")
        location = location.parent


def _newest(directory: Location) -> tuple[int, Holder | None]:
    """Return the newest epoch and its holder, None where its file cannot be read; epoch 0 where there is none."""
    while True:
        epochs = _epochs(directory)
        if not epochs:
            return 0, None
        try:
            return epochs[-1], Holder(**_epoch_file(directory, epochs[-1]).read_json())
        except FileNotFoundError:  # a newer one has begun
            continue
        except (DataError, TypeError):
            return epochs[-1], None


def _epochs(directory: Location) -> list[int]:
    names = (name.removesuffix(".json") for name in directory.names() if name.endswith(".json"))
    return sorted(int(name) for name in names if name.isdigit())


def _epoch_file(directory: Location, epoch: int) -> Location:
    return directory / f"{epoch:08d}.json"


def _content(holder: Holder, released: bool = False) -> bytes:
    values: dict[str, Any] = {**asdict(holder), "released": released}
    return (json.dumps(values, indent=2) + "\n").encode()


def _now(directory: Location) -> float:
    """Return the time by the clock of the storage, for which a file is written, else by that of this machine."""
    probe = directory / f"clock-{uuid.uuid4().hex[:8]}"
    try:
        probe.write_bytes(b"\n")
        return probe.modified()
    except (StorageError, OSError):
        return time.time()
    finally:
        with suppress(StorageError, OSError):
            probe.remove()


def _machine() -> str:
    """Return what tells this machine, boot and process namespace from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()
