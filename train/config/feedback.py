"""How errors travel back, and mirror mode."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from train.config.part import Part, ZeroOrSeveral, canonical_rule
from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class FeedbackConfig:
    """How errors travel back.

    Args:
        rule: Of every layer: backprop (bp), feedback_alignment (fa), sign_symmetry (ss; usf, frsf,
            brsf), weight_mirror (wm), kolen_pollack (kp), updated_random_feedback (urfb),
            direct_feedback_alignment (dfa), information_alignment (ia), activation_alignment (aa),
            product_feedback_alignment (pfa), symmetric_alignment (sa, which reads W), no_feedback
            (of layers below which nothing learns), or the import path of a rule of your own.
        layers: Layer-name pattern to rule, for layers that differ from `rule`.
        first_layer: Rule of the layer that reads the data; null: as the others. no_feedback spares
            it a B that no error needs.
        last_layer: Rule of the classifier; null: as the others.
        initializer: Keras initializer of all feedback weights; null: that of the layer's forward
            weights, with a seed of its own (direct_feedback_alignment: Glorot-uniform).
        only_last_layer_learns: Freezes all weights below the classifier (BatchNorm's statistics
            still follow the data): the baseline that a rule must beat, since angles can flatter.
    """

    rule: Part = Part("backprop")
    layers: dict[str, Part] = dataclasses.field(default_factory=dict)
    first_layer: Part = Part()
    last_layer: Part = Part()
    initializer: Part = Part()
    only_last_layer_learns: bool = False

    def __post_init__(self) -> None:
        layers = {
            pattern: canonical_rule(rule, f"feedback.layers.{pattern}")
            for pattern, rule in self.layers.items()
        }
        for key in ("first_layer", "last_layer", "initializer"):
            if getattr(self, key).options and getattr(self, key).name is None:
                raise UserError(
                    f"feedback.{key}.options is given without feedback.{key}.name. Expected both."
                )
        object.__setattr__(self, "rule", canonical_rule(self.rule))
        object.__setattr__(self, "layers", layers)
        for key in ("first_layer", "last_layer"):
            rule = canonical_rule(getattr(self, key), f"feedback.{key}")
            object.__setattr__(self, key, rule)


@dataclasses.dataclass(frozen=True)
class MonitorConfig:
    """What is measured at the end of every epoch, per layer.

    Args:
        measures: Out of weight_angle (degrees), norm_ratio, predicted_weight_angle (degrees, by the
            mirror's or Kolen-Pollack's law, where one holds), sign_angle (of W to its signs,
            degrees), sign_agreement, correlation, kurtosis, magnitude, sparsity (share of small
            entries), zeros (of 0, or held there by a constraint) and shared_angle (degrees, over
            the entries that W and B both have under the constraint sparse). Layers under
            direct_feedback_alignment or no_feedback have none that compares W with B.
        delta_angles: Whether to measure the angle between the error that each layer receives and
            backprop's, in degrees, on the first training batch, at a training step's cost.
        gradient_angles: Whether to measure the same of every variable's gradient.
        backprop: Whether a network without feedback weights is measured, too: its layers become
            feedback layers of rule backprop then, and its saved model needs the library.
        last_epoch_measures: How often all this is measured within the last epoch, at even
            distances; its line has `<measure>_mean/<layer>` and `<measure>_std/<layer>` over them,
            as figure 3 of Xiao et al. 2018, and steps.jsonl every one; 0: once, at its end.
    """

    measures: tuple[str, ...] = (
        "weight_angle",
        "norm_ratio",
        "predicted_weight_angle",
        "kurtosis",
        "magnitude",
        "sparsity",
    )
    delta_angles: bool = False
    gradient_angles: bool = False
    backprop: bool = False
    last_epoch_measures: ZeroOrSeveral = 0


@dataclasses.dataclass(frozen=True)
class MirrorConfig:
    """Mirror mode, for layers that learn by weight_mirror.

    Args:
        mode: `linear` (listens to the linear response, biases blocked; orthogonal noise),
            `akrout2019` (the paper's: noise through the activation, biases on, decay; gaussian
            noise, standard deviation 1, 128 samples, a decay for 12 degrees are ours) or
            `akrout2019_code` (what the released code does: uniform noise on +-0.05, no decay, a
            fixed step of 0.01). The keys below change what a mode sets.
        noise: Balanced: orthogonal, impulse. Independent: gaussian, uniform, rademacher. Or the
            import path of a noise of your own. null: the mode's, with what `options` say.
        options: Other arguments of `tfweightmirror.mirror.MirrorMode`, such as bias_blocking, norm,
            eta, sign_pairs, response_bits, dead_cells, simultaneous (all layers fire at once) and
            `activations`: activation by layer-name pattern, where the graph shows none behind a
            layer. A head that gives logits has none: the paper's modes take it for linear.
        every_batches: Mirror mode runs after every so many batches; null: never.
        steps: Mirror steps each time.
        warm_up_steps: Mirror steps before the first batch.
        epoch_begin_steps: Mirror steps at the begin of every epoch.
        epoch_end_steps: Mirror steps at the end of every epoch.
    """

    mode: Literal["linear", "akrout2019", "akrout2019_code"] = "linear"
    noise: Part = Part()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    every_batches: int | None = 1
    steps: int = 1
    warm_up_steps: int = 1
    epoch_begin_steps: int = 0
    epoch_end_steps: int = 0
