"""Kernels of the layer kinds as matrices of one receptive field."""

import math
from typing import Any

import tensorflow as tf

from tfweightmirror.pathway import KernelView
from tfweightmirror.rules import Fans


def dense_view(n_in: int, n_out: int) -> KernelView:
    """Kernel (n_in, n_out)."""
    return KernelView(
        split=(n_in, n_out),
        order=(0, 1),
        matrices=(1, n_in, n_out),
        fans=Fans(n_in, n_out, convolutional=False),
        bias_to_matrix=lambda bias: tf.reshape(bias, (1, 1, n_out)),
    )


def conv_view(kernel_shape: tuple[int, ...], groups: int = 1) -> KernelView:
    """Kernel (..taps, c_in / groups, c_out): channel blocks of a group are contiguous."""
    *taps, c_in, c_out = kernel_shape
    n_taps, per_group = math.prod(taps), c_out // groups
    return KernelView(
        split=(n_taps, c_in, groups, per_group),
        order=(2, 0, 1, 3),
        matrices=(groups, n_taps * c_in, per_group),
        fans=Fans(n_taps * c_in, n_taps * per_group, convolutional=True),
        bias_to_matrix=lambda bias: tf.reshape(bias, (groups, 1, per_group)),
    )


def depthwise_view(kernel_shape: tuple[int, ...]) -> KernelView:
    """Kernel (..taps, c_in, multiplier): each input channel is a group of its own."""
    *taps, c_in, multiplier = kernel_shape
    n_taps = math.prod(taps)
    return KernelView(
        split=(n_taps, c_in, multiplier),
        order=(1, 0, 2),
        matrices=(c_in, n_taps, multiplier),
        fans=Fans(n_taps, n_taps * multiplier, convolutional=True),
        bias_to_matrix=lambda bias: tf.reshape(bias, (c_in, 1, multiplier)),
    )


def conv_transpose_view(kernel_shape: tuple[int, ...]) -> KernelView:
    """Kernel (..taps, c_out, c_in): x is one input position, y its uncropped projective field."""
    *taps, c_out, c_in = kernel_shape
    n_taps = math.prod(taps)
    return KernelView(
        split=(n_taps, c_out, c_in),
        order=(2, 0, 1),
        matrices=(1, c_in, n_taps * c_out),
        fans=Fans(n_taps * c_in, n_taps * c_out, convolutional=True),
        bias_to_matrix=lambda bias: tf.tile(tf.reshape(bias, (1, 1, c_out)), (1, 1, n_taps)),
    )


def local_view(kernel_shape: tuple[int, ...], synapses: Any = None) -> KernelView:
    """Kernel (..positions, ..taps, c_in, c_out): each position is a group of its own."""
    rank = (len(kernel_shape) - 2) // 2
    positions, taps = math.prod(kernel_shape[:rank]), math.prod(kernel_shape[rank:-2])
    c_in, c_out = kernel_shape[-2:]
    matrices = (positions, taps * c_in, c_out)
    return KernelView(
        split=matrices,
        order=(0, 1, 2),
        matrices=matrices,
        fans=Fans(taps * c_in, taps * c_out, convolutional=True),
        bias_to_matrix=lambda bias: tf.reshape(bias, (positions, 1, c_out)),
        synapses=synapses,
    )
