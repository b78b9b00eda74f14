"""Stands in for the measurements of a benchmark's command, to see that `--peers` measures peers alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest


def peers_alone(
    monkeypatch: pytest.MonkeyPatch, compared: tuple[ModuleType, str], plain: tuple[ModuleType, str]
) -> list[tuple[Any, ...]]:
    """Let the comparison with peers find nothing, and the plain benchmark fail; return what the former is given."""
    given: list[tuple[Any, ...]] = []

    def measured(*arguments: Any) -> list[Any]:
        given.append(arguments)
        return []

    monkeypatch.setattr(*compared, measured)
    monkeypatch.setattr(*plain, lambda *arguments: pytest.fail("measured as well"))
    return given
