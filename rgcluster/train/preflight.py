"""Before a stage starts: can every machine of the cluster read and write the run directory, and find the weights?"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rgcluster.base.progress import waiting
from rgcluster.base.storage import Location
from rgcluster.base.weights import Weights, find
from rgcluster.errors import ConfigError, RGClusterError, StorageError, root_cause

__all__ = ["check_nodes", "check_storage"]

SECONDS = 60.0
"""Time limit for the answer of a node."""
GRACE_SECONDS = 2.0
"""Time after the first reported problem in which other nodes can report theirs."""


def check_nodes(directory: Location, weights: Iterable[Weights] = ()) -> None:
    """Raise StorageError where a machine cannot use the directory, ConfigError where one lacks the weights."""
    check_storage(directory)
    weights = list(weights)
    expected = {one.name: one.digest for one in weights}
    if not expected:
        return
    here, nodes = _nodes()
    task = ray.remote(num_cpus=0, max_retries=0)(_other_weights)
    problems = _asked({node: _on(task, node).remote(expected) for node in nodes if node != here}, nodes)
    if problems:
        paths = ", ".join(str(one.path) for one in weights)
        raise ConfigError(
            f"{'; '.join(problems)}; this machine uses {paths}: put the weights on a path that every machine shares "
            "and name it with --weights NAME=PATH"
        )


def check_storage(directory: Location) -> None:
    """Raise StorageError where a machine cannot read what another wrote below `directory`, or write there."""
    here, nodes = _nodes()
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
            "(a network file system, or s3://... or gs://...), and every machine the credentials for it"
        )


def _problems(probe: Location, here: str, nodes: Mapping[str, str]) -> list[str]:
    word = uuid.uuid4().hex
    problem = _write(probe / here, word)
    if problem:
        return [f"this machine {problem}"]
    task = ray.remote(num_cpus=0, max_retries=0)(_exchange)
    away = [node for node in nodes if node != here]
    problems = _asked(
        {node: _on(task, node).remote(str(probe / here), str(probe / node), word) for node in away}, nodes
    )
    if problems:
        return problems
    alive = _nodes()[1]
    return [
        f"node {nodes[node]} writes a file there that this machine does not see"
        for node in away
        if node in alive and _read(probe / node) != word
    ]


def _nodes() -> tuple[str, dict[str, str]]:
    """Return this machine's id, and how messages name every machine that is alive, by its id."""
    alive = (node for node in ray.nodes() if node["Alive"])
    names = {node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in alive}
    return ray.get_runtime_context().get_node_id(), names


def _on(task: Any, node: str) -> Any:
    return task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


def _asked(answers: Mapping[str, Any], nodes: Mapping[str, str]) -> list[str]:
    """Return the problems that nodes report; nodes that left the cluster are ignored."""
    problems: list[str] = []
    pending, deadline = dict(answers), time.monotonic() + SECONDS
    with waiting(f"{len(pending)} other nodes to read and write the run directory"):
        while pending and time.monotonic() < deadline:
            ray.wait(list(pending.values()), timeout=max(0.0, min(1.0, deadline - time.monotonic())))
            for node, answer in list(pending.items()):
                problem = _answered(answer)
                if problem is None:
                    continue
                del pending[node]
                if problem and node in _nodes()[1]:
                    problems.append(f"node {nodes[node]} {problem}")
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    if not problems:
        alive = _nodes()[1]
        problems = [
            f"node {nodes[node]} does not answer within {SECONDS:g} s" for node in pending if node in alive
        ]
    return problems


def _answered(answer: Any) -> str | None:
    """Return the problem that a task reports, '' where there is none; None while it runs."""
    try:
        return str(ray.get(answer, timeout=0))
    except ray.exceptions.GetTimeoutError:
        return None
    except ray.exceptions.RayError as error:
        cause = root_cause(error)
        return f"cannot look ({type(cause).__name__}: {' '.join(str(cause).split())[:300]})"


def _exchange(theirs: str, mine: str, word: str) -> str:
    """Read the driver's file and write one of our own; return what went wrong."""
    try:
        found, own = _read(Location(theirs)), Location(mine)
    except (OSError, RGClusterError) as error:
        return f"cannot read a file that this machine wrote there ({error})"
    if found != word:
        return "cannot read a file that this machine wrote there"
    return _write(own, word)


def _other_weights(expected: Mapping[str, str]) -> str:
    """Return which of the weights, by name and digest, this machine does not find."""
    missing = []
    for name, digest in expected.items():
        try:
            found = find(name)
        except ConfigError as error:
            missing.append(f"does not find {name} ({str(error).partition(':')[0]})")
            continue
        if found is None:
            missing.append(f"does not find {name}")
        elif found.digest != digest:
            missing.append(f"has another {name} ({found.path})")
    return ", ".join(missing)


def _read(file: Location) -> str:
    """Return the file's text, '' where there is none; StorageError where the storage refuses."""
    try:
        return file.read_text()
    except OSError:
        return ""


def _write(file: Location, word: str) -> str:
    try:
        file.write_text(word)
    except (OSError, RGClusterError) as error:
        return f"cannot write there ({error})"
    return ""
