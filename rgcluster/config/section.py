"""Base of every section of the configuration, and the keys of one."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

__all__ = ["NotInDigest", "Section", "all_fields"]


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class NotInDigest:
    """Marks a setting that changes how work is done or watched, not what it yields.

    A finished or begun stage accepts another value of it.
    """


def all_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted keys of a section and of the sections inside it, with their fields."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from all_fields(field.annotation, f"{prefix}{name}.")
