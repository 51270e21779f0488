"""The activation store: activations on disk, from one extraction to many readers."""

from thoughtlens.store.meta import StoreMeta
from thoughtlens.store.reader import ActivationStore, verify
from thoughtlens.store.view import View, ViewBatch
from thoughtlens.store.writer import StoreWriter

__all__ = ["ActivationStore", "StoreMeta", "StoreWriter", "View", "ViewBatch", "verify"]
