"""The angle that a basis reaches on a chip with faults, by theory: docs/noisy_hardware.md.

After k mirror steps B is a mean `M` plus an error that is another one in every step:

    cos(angle) = <W, M> / (|W| sqrt(|M|^2 + E / k))

An answer `y = f(z)` to a normal `z = x W` is `slope z` and a rest that is uncorrelated with z, with
`slope = E[z f(z)] / E[z^2]` (Stein's lemma, integrated). So `M = W diag(slope)`. And as orthogonal
rows keep lengths, `X^T X = c I`, what b cells of a block hear in a sweep carries `E[y^2]` into a
column of B, of which all that is not M is error. Independent noise has that error with n for b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from studies.noisy_hardware.bases import Basis
from studies.noisy_hardware.chip import HEADROOM, Array, Chip, converted, scale
from tfweightmirror.pathway import Pathway

Z = np.linspace(-7, 7, 4001)[:, None, None]
DENSITY = np.exp(-(Z**2) / 2) / np.sum(np.exp(-(Z**2) / 2))


def law_deg(chip: Chip, pathway: Pathway, basis: Basis, steps: Sequence[float]) -> list[float]:
    """The angle in degrees between W and B, the mean of so many mirror steps, for each of `steps`.

    Valid for one group, blocks that divide the fan-in, and no noise in front of a converter.
    """
    w = np.asarray(tf.cast(pathway.as_matrices(pathway.kernel)[0], tf.float64))
    n, b = len(w), basis.cells(len(w))
    blocks = (w * np.asarray(chip.alive_senders(pathway))[:, None]).reshape(n // b, b, -1)
    if b == 1:  # the answers are the weights themselves, one by one, with either sign
        z = np.stack([blocks[:, 0], -blocks[:, 0]])
        likely = np.full((2, 1, 1), 0.5)
    else:
        z, likely = Z * np.linalg.norm(blocks, axis=1), DENSITY
    y = answered(chip, pathway, z, likely)
    if basis.sign_pairs:
        y = (y - y[::-1]) / 2  # z stands in order, so -z is z backwards
    slope = np.sum(likely * z * y, axis=0) / np.maximum(np.sum(likely * z**2, axis=0), 1e-300)
    noise_power = (chip.faults.noise * float(scale(w))) ** 2 / basis.sweeps_per_step
    heard = np.sum(likely * y**2, axis=0) + noise_power
    answers = np.asarray(chip.alive_answers(pathway))
    mean = (blocks * slope[:, None]).reshape(w.shape) * answers
    length, carried = np.sum(mean**2), np.sum(heard * answers)
    error = carried + length / n if basis.independent else carried - length
    cosine = np.sum(w * mean) / np.sqrt(np.sum(w**2) * (length + error / np.asarray(steps)))
    return [float(angle) for angle in np.degrees(np.arccos(np.minimum(1.0, cosine)))]


def answered(chip: Chip, pathway: Pathway, z: Array, likely: Array) -> Array:
    """What the chip makes of exact answers `z` (points, blocks, fan_out), without noise."""
    y = chip.before_noise(pathway, tf.constant(z))
    if chip.faults.bits is None:
        return np.asarray(y)
    level = scale(tf.cast(pathway.as_matrices(pathway.kernel), tf.float64))
    if chip.faults.matched_gain:
        level = np.sqrt(np.sum(likely * y**2) / y[0].shape.num_elements())
    return np.asarray(converted(y, chip.faults.bits, HEADROOM * level))


def settled_deg(step_deg: float, decay: float) -> float:
    """Where the angle settles under synaptic scaling while W stands still, in degrees.

    `B <- |B| (B + d P) / |B + d P|`, B as long as W, P with an angle of `step_deg` to W and noise
    that is new in every step. Then a, the cosine, does not move where
    `2 a^3 + d (1 + tan^2) a^2 - 2 a - d = 0`, `tan` that of `step_deg`.
    """
    square = math.tan(math.radians(step_deg)) ** 2
    roots = np.roots([2, decay * (1 + square), -2, -decay])
    (cosine,) = [root.real for root in roots if abs(root.imag) < 1e-9 and 0 < root.real <= 1 + 1e-9]
    return math.degrees(math.acos(min(1.0, cosine)))
