"""The sharded store of real images: on disk, in this process, or as Ray actors."""

from rgcluster.store.client import Neighbours, Pending, Store
from rgcluster.store.index import ExactIndex
from rgcluster.store.local import LocalStore
from rgcluster.store.shard import Shard
from rgcluster.store.snapshot import Manifest, read_manifest, verify
from rgcluster.store.store import NAMESPACE, RayStore, list_stores, stop_store
from rgcluster.store.writer import SnapshotWriter, copy_snapshot

__all__ = [
    "NAMESPACE",
    "ExactIndex",
    "LocalStore",
    "Manifest",
    "Neighbours",
    "Pending",
    "RayStore",
    "Shard",
    "SnapshotWriter",
    "Store",
    "copy_snapshot",
    "list_stores",
    "read_manifest",
    "stop_store",
    "verify",
]
