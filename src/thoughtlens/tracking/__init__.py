"""Training curves in W&B, TensorBoard and trackio; `metrics.parquet` is the source and needs none of them."""

from __future__ import annotations

from thoughtlens.tracking.feed import Feed, live
from thoughtlens.tracking.names import NAMES, Names
from thoughtlens.tracking.past import track
from thoughtlens.tracking.trackers import TRACKERS

__all__ = ["NAMES", "TRACKERS", "Feed", "Names", "live", "track"]
