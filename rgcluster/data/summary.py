"""Summary of a source in one line: layout, attributes or classes, splits, and ignored files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rgcluster.base.storage import Location
from rgcluster.data.shards import QUARANTINE, UNREADABLE_IMAGES, ShardSet
from rgcluster.data.sources import ImageTable, LeftOut, joined
from rgcluster.data.splits import SplitRule, splits_at_random

__all__ = ["describe_left_out", "describe_shards", "untrained"]

NAMED = 3
SHOWN = 8


def describe_shards(
    shards: ShardSet, table: ImageTable, rule: SplitRule, unlabelled: ImageTable | None = None
) -> str:
    """Return the final line of sharding a table and, optionally, images without labels."""
    counts = ", ".join(f"{name} {count}" for name, count in sorted(shards.splits.items()))
    chosen = ", split at random" if splits_at_random(table.splits, rule) else ""
    left_out = joined(table.left_out, unlabelled.left_out if unlabelled else {})
    if shards.quarantined:
        faults = (Location(shards.location) / QUARANTINE).read_json()
        left_out[UNREADABLE_IMAGES] = tuple(str(fault["file"]).rsplit("/", 1)[-1] for fault in faults)
    return (
        f"{shards.rows} images in {len(shards.files)} shards ({counts}{chosen}), layout {table.layout}, "
        f"{_describe_labels(table)}; left out: {describe_left_out(left_out)}; digest {shards.digest}"
    )


def describe_left_out(left_out: LeftOut | Mapping[str, Sequence[str]]) -> str:
    """Return the number of ignored files for each reason, and the first names."""
    parts = [
        f"{len(names):,} {reason} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for reason, names in left_out.items()
        if names
    ]
    return ", ".join(parts) or "nothing"


def untrained(shards: ShardSet) -> list[str]:
    """Return the attributes or classes that no training image has."""
    if not shards.attributes or not shards.splits.get("train"):
        return []
    had = shards.index("train").labels.max(axis=0) == 1
    return [name for name, any_has in zip(shards.attributes, had, strict=True) if not any_has]


def _describe_labels(table: ImageTable) -> str:
    names = table.attributes
    if not names:
        return "no labels"
    listed = f" ({', '.join(names)})" if len(names) <= SHOWN else ""
    return f"{len(names)} {'classes' if table.one_hot else 'attributes'}{listed}"
