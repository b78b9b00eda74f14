"""Checkpoints of the full state, and networks passed to later stages: safetensors, JSON, and a manifest.

A tree is nested dictionaries and lists with tensors and JSON values as leaves. Its tensors go to one
safetensors file, the rest to the manifest, which is written last and names the file's digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from rgcluster.base.checkpoint.manifest import MANIFEST, SCHEMA_VERSION, damaged, read_checkpoint_manifest
from rgcluster.base.storage import Location, digest_bytes
from rgcluster.errors import CheckpointError

__all__ = [
    "Snapshot",
    "TENSORS",
    "join_tree",
    "load_module",
    "load_tree",
    "network_digest",
    "save_snapshot",
    "save_tree",
    "take_snapshot",
]

TENSORS = "tensors.safetensors"
_TENSOR = "__tensor__"


@dataclass(frozen=True)
class Snapshot:
    """A copy of a tree: its tensors on the CPU, and the rest."""

    tensors: dict[str, Tensor]
    skeleton: Any

    def content(self) -> bytes:
        """Return the tensors as a safetensors file."""
        return save_tensors(self.tensors)


def take_snapshot(tree: Mapping[str, Any]) -> Snapshot:
    """Copy `tree`, so that it can be written while training continues."""
    tensors: dict[str, Tensor] = {}
    skeleton = _split(tree, "", tensors)
    return Snapshot(tensors, skeleton)


def save_tree(location: Location, tree: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write `tree` into the directory; return the manifest, which includes `about`."""
    return save_snapshot(location, take_snapshot(tree), about)


def save_snapshot(location: Location, snapshot: Snapshot, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write `snapshot` into the directory; the manifest is last and makes the checkpoint complete."""
    (location / MANIFEST).remove()
    content = snapshot.content()
    (location / TENSORS).write_bytes(content)
    manifest = {
        "schema": SCHEMA_VERSION,
        **about,
        "sha256": digest_bytes(content),
        "bytes": len(content),
        "tree": snapshot.skeleton,
    }
    (location / MANIFEST).write_json(manifest)
    return manifest


def load_tree(location: Location) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (tree, manifest) with tensors on the CPU; CheckpointError where the file's digest is wrong."""
    manifest = read_checkpoint_manifest(location)
    file = location / TENSORS
    content = file.read_bytes() if file.exists() else b""
    if digest_bytes(content) != manifest["sha256"]:
        raise CheckpointError(
            f"{file}: missing or corrupt (its digest is not the manifest's); restore it or train again"
        )
    try:
        return join_tree(manifest["tree"], content), manifest
    except (KeyError, TypeError):  # the digest is the tensors' alone
        raise damaged(location) from None


def join_tree(skeleton: Any, content: bytes) -> dict[str, Any]:
    """Return the tree of a snapshot from its skeleton and content, with tensors on the CPU."""
    return _join(skeleton, load_tensors(content))


def network_digest(module: nn.Module) -> str:
    """Return the digest of a network's weights, which identifies it in later stages."""
    parts = []
    for name, value in sorted(module.state_dict().items()):
        parts += [
            name.encode(),
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(),
        ]
    return digest_bytes(*parts)


def load_module(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load `state` into `module`; CheckpointError names the first key that is missing, unknown or of another shape."""
    own = module.state_dict()
    for name in _first(sorted(set(own) ^ set(state))):
        where = "lacks" if name in own else "has an unknown"
        raise CheckpointError(f"{source}: {where} {name!r}; it was made for another architecture")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise CheckpointError(
                f"{source}: {name} is {list(state[name].shape)}, the configuration needs {list(value.shape)}"
            )
    module.load_state_dict(dict(state))


def _first(names: list[str]) -> Iterable[str]:
    return names[:1]


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # safetensors needs contiguous tensors that share no memory, so channels-last strides are not stored.
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        return {str(key): _split(item, f"{path}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _join(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(skeleton, dict):
        if set(skeleton) == {_TENSOR}:
            return tensors[skeleton[_TENSOR]]
        return {key: _join(item, tensors) for key, item in skeleton.items()}
    if isinstance(skeleton, list):
        return [_join(item, tensors) for item in skeleton]
    return skeleton
