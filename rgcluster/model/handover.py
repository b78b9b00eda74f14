"""Networks passed from one stage to the next: saved with their digests, loaded with every key checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from rgcluster.base.checkpoint.manifest import read_checkpoint_manifest
from rgcluster.base.checkpoint.tree import load_module, load_tree, network_digest, save_tree
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.errors import CheckpointError
from rgcluster.model.networks import Discriminator
from rgcluster.model.retrieval import RetrievalEncoder, retrieval_encoder
from rgcluster.model.translator import Translator

__all__ = [
    "encoder_digests",
    "has_new_discriminator",
    "is_guided",
    "load_discriminator",
    "load_guided",
    "load_retrieval",
    "load_translator",
    "network_digests",
    "networks_digest",
    "save_networks",
]

Network = TypeVar("Network", bound=nn.Module)


def save_networks(
    location: Location, networks: Mapping[str, nn.Module], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write networks by name; the manifest holds their digests under `digests`."""
    digests = {name: network_digest(network) for name, network in networks.items()}
    tree = {name: dict(network.state_dict()) for name, network in networks.items()}
    return save_tree(location, tree, {**about, "digests": digests})


def encoder_digests(translator: Translator) -> dict[str, str]:
    """Return the digests of E_c and E_s, against which R is trained and the store is embedded."""
    return {
        "content_encoder": network_digest(translator.content_encoder),
        "style_encoder": network_digest(translator.style_encoder),
    }


def load_translator(location: Location, config: Config) -> Translator:
    """Load stage 1's translator."""
    tree, _ = load_tree(location)
    return _frozen(_load(Translator(config), tree, "translator", location))


def load_discriminator(location: Location, config: Config) -> Discriminator:
    """Load stage 1's D, or that of stage 3 where it hands one over."""
    tree, _ = load_tree(location)
    return _load(Discriminator(config), tree, "discriminator", location)


def has_new_discriminator(location: Location) -> bool:
    """Return whether stage 1's D is untrained: its networks were imported without one. Stage 3 hands over its own."""
    imported = read_checkpoint_manifest(location).get("imported", {})
    return bool(imported.get("discriminator") == "new")


def load_retrieval(location: Location, config: Config, translator: Translator) -> dict[str, RetrievalEncoder]:
    """Load stage 2's networks by strategy; CheckpointError where they were trained against other encoders."""
    tree, manifest = load_tree(location)
    _require_same(
        manifest.get("trained_against", {"encoders": "unknown"}), encoder_digests(translator), location
    )
    return {name: _frozen(_load(retrieval_encoder(config), tree, name, location)) for name in tree}


def load_guided(location: Location, config: Config, variant: str) -> Translator:
    """Load one of stage 3's translators; the baseline without retrieval has no f."""
    tree, _ = load_tree(location)
    return _frozen(_load(Translator(config, guided=is_guided(variant)), tree, variant, location))


def is_guided(variant: str) -> bool:
    """Return whether the variant uses neighbours."""
    return variant.startswith("rg-unit")


def networks_digest(location: Location) -> str:
    """Return the digest of everything in a hand-over directory."""
    return str(read_checkpoint_manifest(location)["sha256"])


def network_digests(location: Location) -> dict[str, str]:
    """Return the digest of each network in a hand-over directory, by name."""
    return dict(read_checkpoint_manifest(location)["digests"])


def _load(network: Network, tree: Mapping[str, Any], name: str, location: Location) -> Network:
    if name not in tree:
        raise CheckpointError(f"{location}: holds no {name!r}, only {', '.join(tree)}; train it")
    load_module(network, tree[name], f"{location} ({name})")
    return network


def _frozen(network: Network) -> Network:
    network.eval().requires_grad_(False)
    return network


def _require_same(wanted: Mapping[str, str], found: Mapping[str, str], location: Location) -> None:
    for name, digest in wanted.items():
        if found.get(name) != digest:
            raise CheckpointError(
                f"{location}: trained against another {name} ({digest}, here {found.get(name)}); "
                "train this stage again"
            )
