"""The manifest of a checkpoint, which a process may read without torch."""

from __future__ import annotations

from typing import Any

from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError, DataError

__all__ = ["MANIFEST", "SCHEMA_VERSION", "damaged", "read_checkpoint_manifest"]

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


def read_checkpoint_manifest(location: Location) -> dict[str, Any]:
    """Return the manifest; CheckpointError where it is missing, unreadable or incomplete."""
    if not (location / MANIFEST).exists():
        raise CheckpointError(f"{location}: no checkpoint there; train this stage first")
    try:
        manifest = (location / MANIFEST).read_json()
    except DataError as error:
        raise CheckpointError(str(error)) from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA_VERSION:
        raise CheckpointError(
            f"{location}: checkpoint of schema {schema}, expected {SCHEMA_VERSION}; train again"
        )
    if "sha256" not in manifest or not isinstance(manifest.get("tree"), dict):
        raise damaged(location)
    return manifest


def damaged(location: Location) -> CheckpointError:
    """Return the error for a manifest that lacks what it should hold."""
    return CheckpointError(f"{location / MANIFEST}: damaged; restore it or train again")
