"""How errors travel back, and mirror mode."""

from __future__ import annotations

import dataclasses
from typing import Literal

from train.config.checks import OptionValue


@dataclasses.dataclass(frozen=True)
class FeedbackConfig:
    """How errors travel back.

    Args:
        rule: Of every layer: backprop (bp), feedback_alignment (fa), sign_symmetry (ss),
            weight_mirror (wm), kolen_pollack (kp) or updated_random_feedback (urfb).
        layers: Layer-name pattern to rule, for layers that differ from `rule`.
        last_layer: Rule of the classifier; null: as the others.
    """

    rule: str = "backprop"
    layers: dict[str, str] = dataclasses.field(default_factory=dict)
    last_layer: str | None = None


@dataclasses.dataclass(frozen=True)
class MirrorConfig:
    """Mirror mode, for layers that learn by weight_mirror.

    Args:
        mode: `linear` (listens to the linear response, biases blocked), `akrout2019` (the paper's:
            gaussian noise through the activation, biases on, decay) or `akrout2019_code` (what the
            released code does: uniform noise on +-0.05, no decay, a fixed step).
        noise: Of `linear`. Balanced: orthogonal, impulse. Independent: gaussian, uniform,
            rademacher.
        noise_options: Arguments of the noise by their names, such as std, block, samples,
            target_angle_deg (degrees) or decay.
        eta: Step size of B in `akrout2019_code`, times the sum over samples.
        activations: Of the paper's modes: activation by layer-name pattern, where the graph shows
            none behind a layer. A head that gives logits has none: linear.
        every_batches: Mirror mode runs after every so many batches; null: never.
        steps: Mirror steps each time.
        warm_up_steps: Mirror steps before the first batch.
        epoch_begin_steps: Mirror steps at the begin of every epoch.
        epoch_end_steps: Mirror steps at the end of every epoch.
    """

    mode: Literal["linear", "akrout2019", "akrout2019_code"] = "linear"
    noise: Literal["orthogonal", "impulse", "gaussian", "uniform", "rademacher"] = "orthogonal"
    noise_options: dict[str, OptionValue] = dataclasses.field(default_factory=dict)
    eta: float = 0.01
    activations: dict[str, str] = dataclasses.field(default_factory=lambda: {"head": "linear"})
    every_batches: int | None = 1
    steps: int = 1
    warm_up_steps: int = 1
    epoch_begin_steps: int = 0
    epoch_end_steps: int = 0
