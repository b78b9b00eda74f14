"""The first second of a command: refusals before torch and Ray are imported, and a start of what imports as long."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rgcluster.config import Config
    from rgcluster.data.shards import ShardSet

__all__ = [
    "require_cluster",
    "require_free",
    "require_run",
    "require_shards",
    "require_study",
    "workers_ahead",
]


def require_cluster() -> None:
    """Raise ConfigError where RAY_ADDRESS names no cluster that answers."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        from rgcluster.base.cluster.address import check_driver_address

        check_driver_address("RAY_ADDRESS", address)


def require_free(run: str, *, dry_run: bool = False) -> None:
    """Raise LeaseHeld where another process changes a run directory, ConfigError where a file lies in its place.

    ConfigError, too, for a relative path in a Ray job. A dry run may look at a directory that is in use.
    """
    # Storage takes longer to import than `rgcluster --help` may take.
    from rgcluster.base.cluster.job import refuse_relative
    from rgcluster.base.locks.lease import refuse_file, refuse_held
    from rgcluster.base.storage import Location

    refuse_file(Location(run))
    if dry_run:
        return
    refuse_relative("--run", run)
    refuse_held(Location(run))


def require_shards(data: str) -> ShardSet:
    """Return the shards in a directory; DataError where there are none.

    ConfigError for a relative path in a Ray job.
    """
    from rgcluster.base.cluster.job import refuse_relative
    from rgcluster.base.storage import Location
    from rgcluster.data.shards import open_shards

    refuse_relative("--data", data)
    return open_shards(Location(data))


def require_run(run: str) -> None:
    """Raise DataError where no run lies, ConfigError for a configuration that is none."""
    from rgcluster.base.rundir import open_run

    open_run(run)


def require_study(data: str | None, run: str, preset: str | None, overrides: Iterable[str]) -> Config:
    """Return the configuration of a table or a sweep; DataError where it would find no shards."""
    from rgcluster.study.opening import open_study

    _, config, _ = open_study(data, run, preset, overrides)
    return config


def workers_ahead(*, serving: bool = False) -> AbstractContextManager[None]:
    """Start what Ray's workers are forked from, those that train or serve, so that it imports beside this process."""
    if os.environ.get("RAY_ADDRESS"):
        return nullcontext()
    from rgcluster.base.cluster.forks.launch import SERVING, TRAINING, forked_workers_ahead

    return forked_workers_ahead(SERVING if serving else TRAINING)
