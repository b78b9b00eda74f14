"""HTML pages and SVG charts from Jinja2 templates. A page holds everything it shows and loads nothing."""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["render"]


def render(template: str, **values: Any) -> str:
    """Return a template of the package, e.g. `study/templates/table.html`, filled in with escaped values."""
    return _environment().get_template(template).render(values)


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rgcluster", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data_uri": _data_uri, "indented": _indented}
    return environment


def _data_uri(picture: bytes) -> str:
    kind = "webp" if picture[8:12] == b"WEBP" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
