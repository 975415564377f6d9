"""Keras callbacks: mirror mode, Kolen-Pollack's checks, measures, sign flips."""

from tfweightmirror.callbacks.feedback_monitor import FeedbackMonitor
from tfweightmirror.callbacks.kolen_pollack import KolenPollack
from tfweightmirror.callbacks.sign_flips import SignFlips
from tfweightmirror.callbacks.weight_mirror import WeightMirror

__all__ = ["FeedbackMonitor", "KolenPollack", "SignFlips", "WeightMirror"]
