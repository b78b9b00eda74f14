"""Several processes write to one snapshot and compact it, and are killed: no acknowledged row is lost or doubled."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from places import SUPPORT
from rivals import MOMENTS, acknowledged, add_all, compact_once
from stores import images_of, sample, write

from rgcluster.store import LocalStore, Manifest, read_manifest, verify

ADDS, COMPACTIONS = 500, 20


def test_two_stores_and_two_compactors_that_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(SUPPORT), *sys.path])
    )  # for the imports of the server
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["rivals"])
    ids, vectors = sample(60)
    place = write(tmp_path / "s", ids, vectors, 2)
    shares = [np.arange(ADDS) + first for first in (10**6, 2 * 10**6)]
    logs = [tmp_path / f"log-{number}" for number in range(2)]
    ended, compacted, done = list[int | None](), list[int | None](), threading.Event()

    def keep_writing(number: int) -> None:
        for life in range(2):  # the first one ends by a signal, half-way
            process = processes.Process(target=add_all, args=(place, shares[number], logs[number]))
            process.start()
            while life == 0 and process.is_alive() and len(acknowledged(logs[number])) < ADDS // 2:
                time.sleep(0.02)
            if life == 0:
                process.kill()
            process.join(120)
            ended.append(process.exitcode)

    def keep_compacting(number: int) -> None:
        turn = 0
        while not done.is_set() or turn < COMPACTIONS // 2:
            moment = MOMENTS[turn // 2 % len(MOMENTS)] if turn % 2 == number else None
            process = processes.Process(target=compact_once, args=(place, moment))
            process.start()
            process.join(120)
            compacted.append(process.exitcode)
            turn += 1
            time.sleep(0.1)

    writers = [threading.Thread(target=keep_writing, args=(number,)) for number in range(2)]
    compactors = [threading.Thread(target=keep_compacting, args=(number,)) for number in range(2)]
    for thread in writers + compactors:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in compactors:
        thread.join()
    assert set(compacted) == {0, -signal.SIGKILL} and len(compacted) >= COMPACTIONS
    assert sorted(ended) == [-signal.SIGKILL] * 2 + [0] * 2
    known = [row for log in logs for row in acknowledged(log)]
    assert set(known) == set(np.concatenate(shares).tolist())
    verify(place)
    assert read_manifest(place).generation >= 2  # others were overtaken
    everything = np.sort(np.concatenate([ids, *shares]))
    with LocalStore(place) as store:
        np.testing.assert_array_equal(store.ids(), everything)
        assert store.count == len(everything)
        np.testing.assert_array_equal(store.fetch(everything), images_of(everything))
    assert compact(place).count == len(everything)


def compact(place: Path) -> Manifest:
    with LocalStore(place) as store:
        return store.compact()
