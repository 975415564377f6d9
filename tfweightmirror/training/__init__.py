"""What the papers train with beside the feedback rules, and Keras has not.

Examples:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> model = tfwm.training.constrain(model, tfwm.training.GlorotClip())
    >>> model.compile(tfwm.training.BatchManhattan(0.25), tfwm.training.MultiClassHinge())
    >>> before = tf.identity(model.layers[0].kernel)
    >>> history = model.fit(np.eye(4), np.array([0, 1, 2, 0]), verbose=0)
    >>> np.unique(np.abs(model.layers[0].kernel - before)).round(3).tolist()
    [0.25]
"""

from tfweightmirror.training.constraining import constrain
from tfweightmirror.training.constraints import FixedSign, GlorotClip
from tfweightmirror.training.losses import MultiClassHinge
from tfweightmirror.training.optimizers import BatchManhattan
from tfweightmirror.training.sparse import Sparse

__all__ = ["BatchManhattan", "FixedSign", "GlorotClip", "MultiClassHinge", "Sparse", "constrain"]
