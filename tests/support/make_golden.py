"""Writes `tests/support/golden/`: run it after a change that is meant to change the mathematics, and say so.

python tests/support/make_golden.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from places import GOLDEN
from stages import GOLDEN_SETTINGS, STAGES, Studio


def main() -> None:
    torch.set_num_threads(1)
    target = GOLDEN
    target.mkdir(exist_ok=True)
    for stage in STAGES:
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            lines = Studio(Path(folder), patch).train(stage, **GOLDEN_SETTINGS)
        rows = [json.dumps({name: round(value, 6) for name, value in line.items()}) for line in lines]
        (target / f"{stage}.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
