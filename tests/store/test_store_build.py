"""Embedding the retrieval set with a process that is killed in the middle, on a Ray of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from places import SUPPORT
from tiny import write_celeba
from untrained import untrained_run

from rgcluster.base.storage import Location
from rgcluster.model.handover import encoder_digests, load_translator, save_networks
from rgcluster.model.retrieval import JointEncoder
from rgcluster.store import LocalStore

pytestmark = pytest.mark.long

IMAGES = 700
KILL_AT = 256
"""Rows: two batches of the writer; both were saved."""

BUILD = """
import json, os, signal, sys
from pathlib import Path

from rgcluster.config import load_config
from rgcluster.data.shard_writer import ShardOptions, write_shards
from rgcluster.data.sources import read_celeba
from rgcluster.data.stream import open_source
from rgcluster.base.rundir import open_run
from rgcluster.base.session import ray_session
from rgcluster.base.storage import Location
from rgcluster.train import embed

folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])
config, run = open_run(str(folder / "run"))
embed.SAVE_SECONDS = 0.0
seen = []


def progress(done, total):
    seen.append(done)
    if kill_at and done >= kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


with ray_session():
    shards = write_shards(read_celeba(folder / "celeba"), Location(folder / "shards"), ShardOptions())
    source = open_source(shards, config.data, "train")
    embed.build_store(
        config, {"train": source}, str(run / "translation" / "model"), str(run / "retrieval" / "model"),
        Location(folder / sys.argv[3]), progress=progress,
    )
print(json.dumps(seen))
"""


def test_a_killed_build_goes_on_behind_what_it_saved(tmp_path: Path) -> None:
    write_celeba(tmp_path / "celeba", IMAGES)
    untrained_run(tmp_path / "run", "data.crop=40")

    killed = build(tmp_path, KILL_AT, "killed")
    assert killed.returncode == -9, killed.stderr[-3000:]
    assert not (tmp_path / "killed" / "manifest.json").exists(), "half a store is none"
    again, calm = build(tmp_path, 0, "killed"), build(tmp_path, 0, "calm")
    for result in (again, calm):
        assert result.returncode == 0, result.stderr[-3000:]

    first = json.loads(again.stdout.splitlines()[-1])[0]
    assert KILL_AT < first, "it began anew"
    stores = [LocalStore(tmp_path / name) for name in ("killed", "calm")]
    ids = [np.sort(store.ids()) for store in stores]
    assert len(ids[0]) > 3 * 128 and np.array_equal(ids[0], ids[1])
    assert stores[0].manifest.digest == stores[1].manifest.digest


def test_a_network_that_returns_nan_is_named(tmp_path: Path) -> None:
    write_celeba(tmp_path / "celeba", 40)
    config = untrained_run(tmp_path / "run", "data.crop=40")
    translator = load_translator(Location(tmp_path / "run" / "translation" / "model"), config)
    network = JointEncoder(config)
    for weights in network.parameters():
        torch.nn.init.constant_(weights, torch.nan)
    save_networks(
        Location(tmp_path / "run" / "retrieval" / "model"),
        dict.fromkeys(config.retrieval.negatives, network),
        {"trained_against": encoder_digests(translator)},
    )
    failed = build(tmp_path, 0, "nan")
    assert (
        failed.returncode == 1 and "DataError: row 0 of the vectors is NaN" in failed.stderr.splitlines()[-1]
    )


def test_nodes_write_the_shards_and_may_lose_processes(tmp_path: Path) -> None:
    """On four simulated nodes: images do not pass through the driver, and no kill changes the digest."""
    write_celeba(tmp_path / "celeba", IMAGES)
    untrained_run(tmp_path / "run", "data.crop=40", "data.cache_mib=0", "store.shards=4")
    line = [sys.executable, str(SUPPORT / "build_on_nodes.py"), str(tmp_path)]
    result = subprocess.run(line, capture_output=True, text=True, timeout=380)
    assert result.returncode == 0, result.stderr[-4000:]
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["killed"] == ["Embedder", "ShardWriter"] and told["nodes"] >= 3
    assert len(set(told["digests"])) == 1 and told["rows"] > 3 * 128
    assert 0 < told["driver_bytes"] < 0.01 * told["image_bytes"]


def build(folder: Path, kill_at: int, name: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", BUILD, str(folder), str(kill_at), name]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)
