"""Keras callbacks: mirror mode, Kolen-Pollack's checks, measures, sign flips.

Examples:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> tfwm.convert_model(model, "weight_mirror").compile("sgd", "mse")
    >>> callbacks = [tfwm.callbacks.WeightMirror("gaussian"), tfwm.callbacks.FeedbackMonitor()]
    >>> history = model.fit(np.eye(4), np.eye(4, 3), callbacks=callbacks, verbose=0)
    >>> sorted(history.history)
    ['loss', 'norm_ratio/head', 'weight_angle/head', 'weight_angle_before_mirror/head']
"""

from tfweightmirror.callbacks.feedback_monitor import FeedbackMonitor
from tfweightmirror.callbacks.kolen_pollack import KolenPollack
from tfweightmirror.callbacks.sign_flips import SignFlips
from tfweightmirror.callbacks.weight_mirror import WeightMirror

__all__ = ["FeedbackMonitor", "KolenPollack", "SignFlips", "WeightMirror"]
