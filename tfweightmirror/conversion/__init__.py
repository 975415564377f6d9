"""Conversion of whole models, in place: to feedback layers, back, to a new B, to untied kernels.

Examples:
    >>> model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3)])
    >>> model = tfwm.conversion.convert_model(model, "feedback_alignment")
    >>> type(tfwm.conversion.untie(model).layers[0]).__name__
    'FeedbackLocallyConnected2D'
    >>> type(tfwm.conversion.strip_feedback(model).layers[0]).__name__
    'LocallyConnected2D'
"""

from tfweightmirror.conversion.convert import convert_model, strip_feedback
from tfweightmirror.conversion.reset import reset_feedback
from tfweightmirror.conversion.untying import untie

__all__ = ["convert_model", "reset_feedback", "strip_feedback", "untie"]
