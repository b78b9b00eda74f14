"""The static files of the page, read once at start-up."""

from __future__ import annotations

import mimetypes
from importlib import resources

from fastapi import FastAPI, Request, Response

__all__ = ["add_page"]

FOLDER = "page"


def add_page(app: FastAPI) -> frozenset[str]:
    """Serve the page at / and its files beside it; return their paths."""
    paths = set()
    for file in (resources.files("rgcluster.serve.http") / FOLDER).iterdir():
        if file.name.startswith((".", "_")):
            continue
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        path = "/" if file.name == "index.html" else f"/{file.name}"
        _add(app, path, file.read_bytes(), kind)
        paths.add(path)
    return frozenset(paths)


def _add(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    async def give(request: Request) -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    app.add_api_route(path, give, methods=["GET"], include_in_schema=False)
