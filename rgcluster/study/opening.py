"""What a table or a sweep begins with: its directory, its configuration and its shards. Needs neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Iterable

from rgcluster.base.cluster.job import refuse_relative
from rgcluster.base.rundir import CONFIG, DATA
from rgcluster.base.storage import Location
from rgcluster.config import Config, load_config, parse_override, with_values
from rgcluster.data.shards import ShardSet, open_shards
from rgcluster.errors import DataError

__all__ = ["open_study"]


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
        data = known.read_record("shards")["shards"]
    return root, config, open_shards(Location(data))
