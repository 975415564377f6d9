"""What the papers train with beside the feedback rules, and Keras has not."""

from tfweightmirror.training.constraining import constrain
from tfweightmirror.training.constraints import FixedSign, GlorotClip
from tfweightmirror.training.losses import MultiClassHinge
from tfweightmirror.training.optimizers import BatchManhattan
from tfweightmirror.training.sparse import Sparse

__all__ = ["BatchManhattan", "FixedSign", "GlorotClip", "MultiClassHinge", "Sparse", "constrain"]
