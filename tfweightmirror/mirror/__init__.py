"""Mirror mode: noise teaches the feedback weights."""

from tfweightmirror.mirror import noise
from tfweightmirror.mirror.mode import MirrorMode
from tfweightmirror.mirror.schedule import Schedule
from tfweightmirror.mirror.step import mirror_model

__all__ = ["MirrorMode", "Schedule", "mirror_model", "noise"]
