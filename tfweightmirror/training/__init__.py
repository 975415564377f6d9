"""What the papers train with beside the feedback rules, and Keras has not."""

from tfweightmirror.training.losses import MultiClassHinge
from tfweightmirror.training.optimizers import BatchManhattan

__all__ = ["BatchManhattan", "MultiClassHinge"]
