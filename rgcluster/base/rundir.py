"""A run directory: a folder for each stage, or a link to where the stage is shared with other runs.

A stage's `stage.json` holds what it depends on and whether it is finished: the same work is not done twice,
and work with other dependencies is refused, unless nothing of the earlier work would be continued.
"""

from __future__ import annotations

import posixpath
import re
import time
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from rgcluster.base.storage import Location, digest_bytes
from rgcluster.base.versions import package_versions
from rgcluster.config import Config
from rgcluster.errors import DataError, RunConflict, cut

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "DATA",
    "EVENTS",
    "FAILURE",
    "MANIFEST",
    "METRICS",
    "MODEL",
    "NOTICES",
    "PREEMPTED",
    "RESULTS",
    "SNAPSHOT",
    "STAGE",
    "STOP",
    "binding",
    "enter",
    "is_blank",
    "is_finished",
    "link_stage",
    "networks_of",
    "open_run",
    "refuse_other",
    "safe_name",
    "shards_of",
    "snapshot_of",
    "stage_directory",
    "work_once",
]

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
DATA = "data.json"
EVENTS = "events.jsonl"
"""Files of a run's own folder."""

STAGE = "stage.json"
METRICS = "metrics.jsonl"
NOTICES = "notices.jsonl"
FAILURE = "failure.json"
CHECKPOINTS = "checkpoints"
STOP = "stop"
PREEMPTED = "preempted"
MODEL = "model"
SNAPSHOT = "snapshot"
RESULTS = "results.json"
"""Names in a stage's folder: its record, a training's losses, messages, states and requests, networks, store,
evaluation."""

LINK = "elsewhere.json"

LONGEST_SAFE_NAME = 40

Depends = Mapping[str, Any]


def stage_directory(run: Location, stage: str) -> Location:
    """Return where a stage of the run lies: below the run, or where its link leads."""
    link = run / stage / LINK
    if not link.exists():
        return run / stage
    found = Location(run / stage)
    found.path = posixpath.normpath(posixpath.join(found.path, link.read_record("at")["at"]))
    return found


def safe_name(name: str) -> str:
    """Return a name in ASCII letters, digits, '.', '_' and '-', as metric tags, actors and stores need it.

    A name that is changed or cut gets the digest of the original, so that different names stay different.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.")[:LONGEST_SAFE_NAME]
    if safe and safe == name:
        return safe
    return f"{safe or 'name'}-{digest_bytes(name.encode('utf-8', 'surrogateescape'))[:6]}"


def networks_of(run: Location, stage: str) -> Location:
    """Return where the networks of a stage of the run lie."""
    return stage_directory(run, stage) / MODEL


def snapshot_of(run: Location) -> Location:
    """Return where the run's store lies."""
    return stage_directory(run, "store") / SNAPSHOT


def shards_of(run: Location) -> Location:
    """Return where the shards lie that the run was begun with."""
    return Location((run / DATA).read_record("shards")["shards"])


def link_stage(run: Location, stage: str, target: Location) -> None:
    """Let a stage of the run lie at `target`; the path is relative, so that both may move together."""
    at = posixpath.relpath(target.path, (run / stage).path)
    link = run / stage / LINK
    if not link.exists() or link.read_json() != {"at": at}:
        link.write_json({"at": at})


def enter(directory: Location, depends: Depends, name: str = STAGE) -> dict[str, Any]:
    """Return the record of what lies in the directory, begun here if need be; RunConflict for other dependencies.

    A blank stage is begun again with these, without what was made for others.
    """
    file = directory / name
    before = file.read_record("depends", "finished", "seconds") if file.exists() else None
    if before and before["depends"] != depends and name == STAGE and is_blank(directory, before):
        directory.remove()
        before = None
    if before is None:
        record: dict[str, Any] = {
            "depends": dict(depends), "finished": False, "seconds": 0.0, "versions": package_versions(),
        }  # fmt: skip
        file.write_json(record)
        return record
    record = dict(before)
    refuse_other(directory, record["depends"], binding(record, depends))
    return record


def is_blank(directory: Location, record: Mapping[str, Any]) -> bool:
    """Return whether a stage was begun and left nothing to continue from: no checkpoint, no result."""
    return not record["finished"] and "imported" not in record and not (directory / CHECKPOINTS).names()


def binding(record: Mapping[str, Any], depends: Depends) -> Depends:
    """Return what a stage depends on: of imported networks only what they were imported with."""
    if "imported" not in record:
        return depends
    return {key: value for key, value in depends.items() if key in record["depends"]}


def refuse_other(directory: Location, before: Depends, now: Depends) -> None:
    """Raise RunConflict where the two dependencies differ; it names the first key that does."""
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if old != new:
            raise RunConflict(
                f"{directory} was made with {key} = {cut(str(old), 200)}, now {cut(str(new), 200)}; "
                f"use another --run, or remove {directory} to make it anew"
            )


def is_finished(directory: Location, depends: Depends) -> bool:
    """Return whether the stage with these dependencies was finished there before."""
    return bool(enter(directory, depends)["finished"])


def work_once(directory: Location, depends: Depends, work: Callable[[], None]) -> None:
    """Do a stage's work unless it was finished there before; add up the time it takes."""
    if is_finished(directory, depends):
        return
    start, finished = time.monotonic(), False
    try:
        work()
        finished = True
    finally:
        record = (directory / STAGE).read_json()
        record["seconds"] += time.monotonic() - start
        record["finished"] = finished
        (directory / STAGE).write_json(record)


def open_run(run: str) -> tuple[Config, Location]:
    """Return the run's configuration and location; DataError where there is no run."""
    location = Location(run)
    file = location / CONFIG
    if not file.exists():
        raise DataError(f"{location}: not a run directory (no config.yaml); train with --run {run} first")
    return Config.from_yaml(file.read_text(), str(file)), location


def store_name(run: Location) -> str:
    """Return the name under which a run's store is served, which includes a digest of the run's path."""
    return f"{safe_name(run.name)}-{digest_bytes(str(run).encode())[:8]}"
