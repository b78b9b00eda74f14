"""Where the project and the files that tests share are."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
PROJECT = SUPPORT.parents[1]
GOLDEN = SUPPORT / "golden"
