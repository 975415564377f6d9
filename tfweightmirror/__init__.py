"""Training deep networks without weight transport, in Keras."""

from tfweightmirror import callbacks, layers, mirror, rules
from tfweightmirror.asymmetric import asymmetric
from tfweightmirror.diagnostics import norm_ratios, weight_angles
from tfweightmirror.mirror import mirror_model
from tfweightmirror.walk import pathways
