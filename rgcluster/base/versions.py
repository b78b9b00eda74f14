"""Versions of the libraries that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from rgcluster import __version__

__all__ = ["package_versions"]


def package_versions() -> dict[str, str]:
    """Return the versions of this package, Python and the numerical libraries."""
    found = {"rgcluster": __version__, "python": platform.python_version()}
    for name in ("ray", "torch", "faiss-cpu", "faiss-gpu-cu12", "numpy", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
