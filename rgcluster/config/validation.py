"""Validation of a tree of keys, with messages that name the key and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rgcluster.config.section import Section, all_fields
from rgcluster.errors import ConfigError, quoted

__all__ = ["meant", "validated"]

AnySection = TypeVar("AnySection", bound=Section)


def validated(model: type[AnySection], tree: Mapping[str, Any], source: str) -> AnySection:
    """Return the section that a tree describes; ConfigError names `source` and every fault."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            f"{source}: {'; '.join(_explain(fault, model) for fault in error.errors())}"
        ) from None


def _explain(fault: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in fault["loc"]) or "configuration"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {path!r}{meant(path, (key for key, _ in all_fields(model)))}"
    message = fault["msg"].removeprefix("Value error, ")
    return (
        f"{path} = {quoted(fault['input'])}: {message[0].lower()}{message[1:]}" if fault["loc"] else message
    )


def meant(word: str, known: Iterable[str]) -> str:
    """Return ": did you mean ...?" where a known key is similar, else nothing."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:  # perhaps the right key in the wrong section
        last = word.rsplit(".", 1)[-1]
        matches = difflib.get_close_matches(last, [key.rsplit(".", 1)[-1] for key in known], n=1, cutoff=0.75)
        close = [key for key in known if matches and key.rsplit(".", 1)[-1] == matches[0]][:1]
    return f": did you mean {close[0]!r}?" if close else ""
