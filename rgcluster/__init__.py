"""Retrieval-guided image-to-image translation on Ray."""

__version__ = "0.1.0"
