"""The working directory of a job, packed once, with Ray's rules for excluded files."""

from __future__ import annotations

import os
import uuid
import zipfile
from pathlib import Path

from rgcluster.base.cluster.internals import pack_directory, walk_directory
from rgcluster.errors import ConfigError

__all__ = ["files_to_upload", "pack_upload"]

NAMED = 3


def files_to_upload(directory: Path) -> dict[str, int]:
    """Return the sizes by name of the files that Ray uploads: all but those in .gitignore and .rayignore."""
    found: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            found[str(path.relative_to(root))] = path.stat().st_size

    root = directory.resolve()
    walk_directory(root, note, _with_gitignore())
    return found


def pack_upload(directory: Path, limit_mib: float, target: Path) -> None:
    """Pack the directory into the zip file `target`; ConfigError where it is larger than the limit.

    Ray would read the directory twice, for its name and to pack it, and fail if a file changed in between. A
    package is read once.
    """
    files = files_to_upload(directory)
    size = sum(files.values())
    if size > limit_mib * 2**20:
        largest = sorted(files, key=lambda name: -files[name])[:NAMED]
        named = ", ".join(f"{name} ({files[name] / 2**20:.1f} MiB)" for name in largest)
        raise ConfigError(
            f"{directory}: an upload of {size / 2**20:.1f} MiB, the limit is {limit_mib:g}; the largest files are "
            f"{named}; list files that the job does not need in .rayignore, or raise --max-upload-mib"
        )
    pack_directory(directory.resolve(), target, _with_gitignore())
    # Every submission has its own name: of two jobs that start together with the same package, one can
    # lose its working directory.
    with zipfile.ZipFile(target, "a") as package:
        package.comment = uuid.uuid4().hex.encode()


def _with_gitignore() -> bool:
    return os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
