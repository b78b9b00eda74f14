"""Shards written without Ray and without a source: rows whose images are given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rgcluster.base.storage import Location
from rgcluster.data.index import ROWS_PER_GROUP
from rgcluster.data.shards import ShardSet, open_shards

ATTRIBUTES = ("a", "b", "c")


def plain_shards(folder: Path, splits: Sequence[Sequence[str]], image: bytes = b"x") -> ShardSet:
    """A file for each sequence of splits, with a row for each split; all rows have the same image."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    entries = []
    for number, of_rows in enumerate(splits):
        labels = generator.integers(0, 2, (len(of_rows), len(ATTRIBUTES))).tolist()
        table = pa.table(
            {
                "row_id": pa.array(generator.integers(0, 2**62, len(of_rows))),
                "file_name": [f"é{number}/{row}.jpg" for row in range(len(of_rows))],
                "image": pa.array([image] * len(of_rows), pa.binary()),
                "labels": pa.array(labels, pa.list_(pa.int8())),
                "split": list(of_rows),
            }
        )
        path = folder / f"part-{number:05d}-of-{len(splits):05d}-plan.parquet"
        pq.write_table(
            table, path, row_group_size=ROWS_PER_GROUP, compression="none", use_dictionary=["split"]
        )
        names, counts = np.unique(of_rows, return_counts=True)
        entries.append(
            {
                "name": path.name,
                "rows": len(of_rows),
                "splits": dict(zip(names.tolist(), counts.tolist(), strict=True)),
                "bytes": path.stat().st_size,
                "sha256": "",
            }
        )
    manifest = {
        "schema": 2, "dataset": "plain", "source": "nowhere", "faces": None, "attributes": ATTRIBUTES,
        "one_hot": False, "prepared": None, "rows": sum(map(len, splits)), "quarantined": 0, "files": entries,
        "digest": "of these rows", "plan": "plan",
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return open_shards(Location(folder))
