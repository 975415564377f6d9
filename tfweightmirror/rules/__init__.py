"""Feedback rules: which tensor carries the error back, and what changes it.

A rule is a small frozen object. Layers accept a rule, its name or alias, or its Keras config.
A rule of your own subclasses `FeedbackRule`, is registered as any Keras object, and then works in
layers, `convert_model`, saving and callbacks (docs/guides/extend, "A rule of your own").

Examples:
    >>> tfwm.rules.get("usf")  # a name or an alias
    SignSymmetry(magnitude='uniform', scale='xiao')
    >>> layer = tfwm.layers.FeedbackDense(2, rule=tfwm.rules.SignSymmetry(scale=0.25))
    >>> layer.build((None, 3))
    >>> np.unique(np.abs(layer.pathways[0].backward_kernel())).tolist()
    [0.25]
"""

from tfweightmirror.rules.direct import DirectFeedbackAlignment
from tfweightmirror.rules.feedback_rule import Factors, Fans, FeedbackRule, Signals
from tfweightmirror.rules.known import (
    RULES,
    Backprop,
    FeedbackAlignment,
    KolenPollack,
    UpdatedRandomFeedback,
    WeightMirror,
    get,
)
from tfweightmirror.rules.local_losses import (
    ActivationAlignment,
    InformationAlignment,
    SymmetricAlignment,
)
from tfweightmirror.rules.no_feedback import NoFeedback
from tfweightmirror.rules.product import ProductFeedbackAlignment
from tfweightmirror.rules.sign_symmetry import SignSymmetry

__all__ = [
    "RULES",
    "ActivationAlignment",
    "Backprop",
    "DirectFeedbackAlignment",
    "Factors",
    "Fans",
    "FeedbackAlignment",
    "FeedbackRule",
    "InformationAlignment",
    "KolenPollack",
    "NoFeedback",
    "ProductFeedbackAlignment",
    "SignSymmetry",
    "Signals",
    "SymmetricAlignment",
    "UpdatedRandomFeedback",
    "WeightMirror",
    "get",
]
