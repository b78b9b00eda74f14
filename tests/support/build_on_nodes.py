"""Run by test_store_build.py: builds of one store on four simulated nodes, with and without kills.

`python build_on_nodes.py FOLDER` prints one line of JSON. FOLDER holds `celeba` and `run`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_TMPDIR": tempfile.mkdtemp(prefix="rg", dir="/tmp"),
}

import cloudpickle  # noqa: E402
import ray  # noqa: E402
from nodes import free_port  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.util.state import list_actors  # noqa: E402

from rgcluster.base.rundir import open_run  # noqa: E402
from rgcluster.base.storage import Location  # noqa: E402
from rgcluster.data.shard_writer import ShardOptions, write_shards  # noqa: E402
from rgcluster.data.sources import read_celeba  # noqa: E402
from rgcluster.data.stream import open_source  # noqa: E402
from rgcluster.store import read_manifest  # noqa: E402
from rgcluster.train import embed  # noqa: E402

EMBEDDERS = 2


def main(folder: Path) -> dict[str, Any]:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port(), "object_store_memory": 128 << 20,
        },
    )  # fmt: skip
    for _ in range(4):
        cluster.add_node(num_cpus=1, object_store_memory=128 << 20)
    ray.init(address=cluster.address, log_to_driver=False)
    config, run = open_run(str(folder / "run"))
    shards = write_shards(read_celeba(folder / "celeba"), Location(folder / "shards"), ShardOptions())
    source = open_source(shards, config.data, "train")
    embed.SAVE_SECONDS = 0.0
    killed, nodes, passed = list[str](), set[str](), [0]

    def build(name: str, kill: bool) -> str:
        victims = ["Embedder", "ShardWriter"] if kill else []

        def progress(done: int, total: int) -> None:
            actors = list_actors(filters=[("state", "=", "ALIVE")])
            nodes.update(actor.node_id for actor in actors if actor.class_name == "ShardWriter")
            if victims:
                victim = victims.pop(0)
                os.kill(next(actor.pid for actor in actors if actor.class_name == victim), signal.SIGKILL)
                killed.append(victim)

        target = Location(folder / name)
        networks = [str(run / stage / "model") for stage in ("translation", "retrieval")]
        embed.build_store(config, {"train": source}, *networks, target, EMBEDDERS, progress=progress)
        return read_manifest(target).digest

    with counted(passed):
        digests = [build("calm", kill=False)]
    digests.append(build("killed", kill=True))
    manifest = read_manifest(folder / "calm")
    ray.shutdown()
    cluster.shutdown()
    return {
        "digests": digests,
        "killed": killed,
        "nodes": len(nodes),
        "rows": manifest.count,
        "driver_bytes": passed[0],
        # What the driver holds of a row does not depend on the size of the images.
        "image_bytes": manifest.count * 128 * 128 * 3,
    }


class counted:  # noqa: N801
    """Count the bytes that the driver puts and gets within the body."""

    def __init__(self, passed: list[int]) -> None:
        self._passed = passed
        self._get, self._put = ray.get, ray.put

    def __enter__(self) -> None:
        def get(refs: Any, **options: Any) -> Any:
            value = self._get(refs, **options)
            self._passed[0] += len(cloudpickle.dumps(value))
            return value

        def put(value: Any) -> Any:
            self._passed[0] += len(cloudpickle.dumps(value))
            return self._put(value)

        ray.get, ray.put = get, put

    def __exit__(self, *error: object) -> None:
        ray.get, ray.put = self._get, self._put


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
