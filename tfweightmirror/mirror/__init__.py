"""Mirror mode: noise teaches the feedback weights.

Examples:
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5, name="head")])
    >>> model = tfwm.convert_model(model, "weight_mirror")
    >>> noise = tfwm.mirror.noise.Uniform(samples=2_000, decay=1.0)
    >>> round(tfwm.mirror.mirror_model(model, noise)["head"])  # law: atan sqrt(19.8 / 2000)
    6
"""

from tfweightmirror.mirror import noise
from tfweightmirror.mirror.mode import MirrorMode
from tfweightmirror.mirror.schedule import Schedule
from tfweightmirror.mirror.step import mirror_model

__all__ = ["MirrorMode", "Schedule", "mirror_model", "noise"]
