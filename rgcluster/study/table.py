"""`rgcluster table`: opens the study of a directory, trains the missing stages and writes the table."""

from __future__ import annotations

from collections.abc import Iterable

from rgcluster.base.locks.lease import Lease
from rgcluster.base.session import ray_session
from rgcluster.base.storage import Location
from rgcluster.study.cells import Study
from rgcluster.study.opening import open_study
from rgcluster.study.report import write_table
from rgcluster.study.tables import check_table, make_table

__all__ = ["table"]


def table(
    number: int, data: str | None, run: str, preset: str | None, overrides: Iterable[str], seeds: int
) -> Location:
    """Compute and write the table; return its report."""
    root, config, shards = open_study(data, run, preset, overrides)
    study = Study(root, config, shards)
    check_table(study, number, seeds)
    with Lease(root):
        with ray_session():
            results = make_table(study, number, seeds)
        return write_table(root / "tables" / str(number), results)
