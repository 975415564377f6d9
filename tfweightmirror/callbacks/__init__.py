"""Callbacks."""

from tfweightmirror.callbacks.feedback_monitor import FeedbackMonitor
from tfweightmirror.callbacks.weight_mirror import WeightMirror

__all__ = ["FeedbackMonitor", "WeightMirror"]
