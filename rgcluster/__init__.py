"""Retrieval-guided image-to-image translation on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rgcluster.client import Client
    from rgcluster.translate.opened import RunTranslator

__all__ = ["Client", "RunTranslator", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Client":  # imported on first use: the command line starts faster without
        from rgcluster.client import Client

        return Client
    if name == "RunTranslator":
        from rgcluster.translate.opened import RunTranslator

        return RunTranslator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
