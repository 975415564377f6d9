"""Conversion of whole models, in place: to feedback layers, back, to a new B, to untied kernels."""

from tfweightmirror.conversion.convert import convert_model, strip_feedback
from tfweightmirror.conversion.reset import reset_feedback
from tfweightmirror.conversion.untying import untie

__all__ = ["convert_model", "reset_feedback", "strip_feedback", "untie"]
