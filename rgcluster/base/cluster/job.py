"""The Ray job that this process is the driver of, if it is one; told from the environment, without Ray."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rgcluster.errors import ConfigError

__all__ = ["refuse_relative", "submission_id"]

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's jobs set a variable of this name."""


def submission_id() -> str | None:
    """Return the id of the Ray job whose driver this is, None outside of jobs."""
    try:
        metadata = json.loads(os.environ.get(_JOB_CONFIG, "{}")).get("metadata") or {}
    except ValueError:
        return None
    return metadata.get("job_submission_id")


def refuse_relative(what: str, path: str | os.PathLike[str]) -> None:
    """Raise ConfigError for a relative path inside a Ray job, where it lies in a folder that ends with the job."""
    text = os.fspath(path)
    if submission_id() is None or "://" in text or Path(text).expanduser().is_absolute():
        return
    raise ConfigError(
        f"{what} {text}: a relative path, which in a Ray job lies in the job's own temporary folder; give an absolute "
        "one that every machine shares, or s3://... or gs://..."
    )
