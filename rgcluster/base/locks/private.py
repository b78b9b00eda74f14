"""A directory below the temporary directory that other users can neither read nor prepare."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from rgcluster.errors import StorageError

__all__ = ["private_directory"]


def private_directory(name: str) -> Path:
    """Return the directory `name` of this user's own, made if missing; StorageError if another user could write it."""
    path = Path(tempfile.gettempdir()) / f"rgcluster-store-{os.getuid()}"
    for part in ("", *Path(name).parts):
        path = path / part
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise StorageError(
                f"{path}: not a directory that only this user may enter; remove it, or set TMPDIR to another place"
            )
    return path
