"""`rgcluster table`: opens the study of a directory, trains the missing stages and writes the table."""

from __future__ import annotations

from collections.abc import Iterable

from rgcluster.base.cluster.job import refuse_relative
from rgcluster.base.locks.lease import Lease
from rgcluster.base.rundir import CONFIG, DATA
from rgcluster.base.session import ray_session
from rgcluster.base.storage import Location
from rgcluster.config import Config, load_config, parse_override, with_values
from rgcluster.data.shards import ShardSet, open_shards
from rgcluster.errors import DataError
from rgcluster.study.cells import Study
from rgcluster.study.report import write_table
from rgcluster.study.tables import check_table, make_table

__all__ = ["open_study", "table"]


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


def open_study(
    data: str | None, run: str, preset: str | None, overrides: Iterable[str]
) -> tuple[Location, Config, ShardSet]:
    """Return the directory, the configuration and the shards of a study.

    Defaults come from the run in the directory, if there is one; otherwise the preset is celeba128.
    """
    for option, path in (("--run", run), ("--data", data)):
        if path is not None:
            refuse_relative(option, path)
    root = Location(run)
    own, known = root / CONFIG, root / DATA
    if preset is None and own.exists():
        config = Config.from_yaml(own.read_text(), str(own))
        config = with_values(config, dict(map(parse_override, overrides)))
    else:
        config = load_config(preset or "celeba128", overrides)
    if data is None:
        if not known.exists():
            raise DataError(f"{root}: holds no run that names its shards; pass them with --data")
        data = known.read_json()["shards"]
    return root, config, open_shards(Location(data))
