"""Conversion of whole models, in place: to feedback layers, back, and to a new B."""

from tfweightmirror.conversion.convert import convert_model, strip_feedback
from tfweightmirror.conversion.reset import reset_feedback

__all__ = ["convert_model", "reset_feedback", "strip_feedback"]
