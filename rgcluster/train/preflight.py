"""Before a stage starts: can every machine of the cluster read and write the run directory?"""

from __future__ import annotations

import uuid

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rgcluster.base.storage import Location
from rgcluster.errors import StorageError

__all__ = ["check_storage"]

SECONDS = 60.0


def check_storage(directory: Location) -> None:
    """Raise StorageError where a machine cannot read what another wrote below `directory`, or write there."""
    here = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    probe = directory / f"preflight-{uuid.uuid4().hex[:8]}"
    new = directory.is_local and not directory.exists()
    try:
        problems = _problems(probe, here, nodes)
    finally:
        probe.remove()
        if new and directory.exists() and not directory.names():  # nothing may come of it
            directory.remove()
    if problems:
        raise StorageError(
            f"{directory}: {'; '.join(problems)}; give --run a directory that every machine shares "
            "(a network file system, or s3://... or gs://...)"
        )


def _problems(probe: Location, here: str, nodes: dict[str, dict[str, object]]) -> list[str]:
    word = uuid.uuid4().hex
    problem = _write(probe / here, word)
    if problem:
        return [f"this machine {problem}"]
    task = ray.remote(num_cpus=0, max_retries=0)(_exchange)
    away = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            str(probe / here), str(probe / node), word
        )
        for node in nodes
        if node != here
    }
    ray.wait(list(away.values()), num_returns=len(away), timeout=SECONDS) if away else None
    problems = []
    for node, answer in away.items():
        name = f"node {nodes[node]['NodeManagerAddress']} ({node[:8]})"
        try:
            problem = ray.get(answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            problem = f"does not answer within {SECONDS:g} s"
        except ray.exceptions.RayError:
            continue  # it left the cluster meanwhile: nothing will run there
        if not problem and _read(probe / node) != word:
            problem = "writes a file there that this machine does not see"
        if problem:
            problems.append(f"{name} {problem}")
    return problems


def _exchange(theirs: str, mine: str, word: str) -> str:
    """Read the driver's file and write one of our own; return what went wrong."""
    if _read(Location(theirs)) != word:
        return "cannot read a file that this machine wrote there"
    return _write(Location(mine), word)


def _read(file: Location) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _write(file: Location, word: str) -> str:
    try:
        file.write_text(word)
    except (OSError, StorageError) as error:
        return f"cannot write there ({error})"
    return ""
