"""The sharded store of real images: on disk, in this process, or as Ray actors."""

from rgcluster.store.changes.transfer import copy_snapshot, verify
from rgcluster.store.client import Store
from rgcluster.store.disk.snapshot import Manifest, read_manifest
from rgcluster.store.disk.writer import SnapshotWriter
from rgcluster.store.index.exact import ExactIndex
from rgcluster.store.index.rows import Filter, tag_of
from rgcluster.store.local import LocalStore
from rgcluster.store.results import Found, Neighbours, Pending
from rgcluster.store.shard.shard import IndexSettings
from rgcluster.store.store import NAMESPACE, RayStore, list_stores, stop_store

__all__ = [
    "NAMESPACE",
    "ExactIndex",
    "Filter",
    "Found",
    "IndexSettings",
    "LocalStore",
    "Manifest",
    "Neighbours",
    "Pending",
    "RayStore",
    "SnapshotWriter",
    "Store",
    "copy_snapshot",
    "list_stores",
    "read_manifest",
    "stop_store",
    "tag_of",
    "verify",
]
