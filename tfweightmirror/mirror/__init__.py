"""Mirror mode: noise teaches the feedback weights."""

from tfweightmirror.mirror import noise
from tfweightmirror.mirror.mirror_model import mirror_model
from tfweightmirror.mirror.mode import MirrorMode
from tfweightmirror.mirror.schedule import Schedule

__all__ = ["MirrorMode", "Schedule", "mirror_model", "noise"]
