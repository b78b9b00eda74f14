"""Vectors to neighbours: exact and approximate indexes."""

from importlib.util import find_spec

from rgcluster.errors import ConfigError

if find_spec("faiss") is None:
    raise ConfigError(
        "FAISS is not installed: `pip install 'rgcluster[cpu]'` brings it, `pip install 'rgcluster[gpu]'` that for "
        "NVIDIA GPUs"
    )
