"""Parameters of a request, from its query and its form, validated by pydantic; and their OpenAPI description.

FastAPI's own validation reads forms without a limit of size or time, keeps the last of a repeated name, and does not
let the same parameter come in the query or in the form.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from rgcluster.serve.http.errors import invalid, short
from rgcluster.serve.http.schemas import Parameters

__all__ = ["bare", "query_parameters", "read_parameters"]

P = TypeVar("P", bound=Parameters)


def read_parameters(model: type[P], request: Request, fields: Mapping[str, str] | None = None) -> P:
    """Return the parameters of the query and of the form's fields.

    ApiError 422 names one that is unknown, missing, repeated or out of range.
    """
    values: dict[str, str] = {}
    for name, value in [*request.query_params.multi_items(), *(fields or {}).items()]:
        if name in values:
            raise invalid("given_twice", f"{short(name)!r} is given twice", short(name), "give it once")
        values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explained(error.errors()[0], model) from None


def _explained(fault: Any, model: type[Parameters]) -> Exception:
    name = short(str(fault["loc"][0])) if fault["loc"] else ""
    known = list(model.model_fields)
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here are {', '.join(known)}"
        return invalid("unknown_parameter", f"no parameter {name!r}", name, hint)
    if fault["type"] == "missing":
        return invalid("missing_parameter", f"{name!r} is missing", name, _about(model, name))
    message = fault["msg"].removeprefix("Input ")
    return invalid("invalid_parameter", f"{name}: {message}", name, _about(model, name))


def _about(model: type[Parameters], name: str) -> str:
    return model.model_fields[name].description or "see /openapi.json"


def bare(field: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a field without its title, description and examples."""
    return {key: value for key, value in field.items() if key not in ("title", "description", "examples")}


def query_parameters(model: type[Parameters], *, in_form: bool = False) -> list[dict[str, Any]]:
    """Return the model's query parameters for OpenAPI; `in_form`: none is required, as the form may hold it."""
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    listed = []
    for name, field in schema["properties"].items():
        entry: dict[str, Any] = {
            "name": name,
            "in": "query",
            "required": name in required and not in_form,
            "schema": bare(field),
            "description": field.get("description", ""),
        }
        if field.get("examples"):
            entry["example"] = field["examples"][0]
        listed.append(entry)
    return listed
