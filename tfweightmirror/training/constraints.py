"""What keeps weights where the papers keep them: clipping, fixed signs."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfweightmirror._internals import optimizer_hooks
from tfweightmirror._internals.arguments import is_finite
from tfweightmirror.layers.activations import random_signs

register = keras.saving.register_keras_serializable(package="tfweightmirror")


def refuse_averages(constraint: Any, weight: Any) -> None:
    """Raise a ValueError in the update of an optimizer that averages weights.

    Keras takes the averages before constraints, and puts them in the weights' place behind them.
    """
    optimizer = optimizer_hooks.that_constrains()
    if optimizer is not None and optimizer.use_ema:
        name = type(constraint).__name__
        raise ValueError(
            f"{type(optimizer).__name__} with use_ema=True overwrites weights by averages from "
            f"before {name}, which would not hold {getattr(weight, 'path', 'a weight')} any more. "
            f"Use use_ema=False, or leave {name} out."
        )


@register
class GlorotClip(keras.constraints.Constraint):
    """Keeps each weight within `factor` times the bound of Glorot's uniform distribution.

    `|w| <= factor * sqrt(6 / (fan_in + fan_out))`, the fans as `keras.initializers.GlorotUniform`
    takes them: its first weights lie within 1. Amit 2018, released code: 1.5, of W and of R.

    As a layer's `kernel_constraint` it binds W, and B where an optimizer moves that (`urfb`). Both
    are then cut by the same bound, which brings them no further apart; Kolen-Pollack's law, an
    equality, is lost where a cut is made, and its callback refuses any constraint.

    Args:
        factor: Of the bound, above 0.

    Raises:
        ValueError: `factor` is out of range. In an update: the optimizer averages weights
            (`use_ema`).

    Examples:
        >>> clip = tfwm.training.GlorotClip(factor=1.0)
        >>> W = tf.constant([[0.5, -9.0], [2.0, 0.0]])
        >>> clip(W).numpy().round(3)  # the bound is sqrt(6 / (2 + 2))
        array([[ 0.5  , -1.225],
               [ 1.225,  0.   ]], dtype=float32)
    """

    # Locally connected layers ask for it: there the positions would count as taps.
    counts_fans = True

    def __init__(self, factor: float = 1.5) -> None:
        if not (is_finite(factor) and factor > 0):
            raise ValueError(f"factor of GlorotClip is {factor!r}. Expected a number above 0.")
        self.factor = factor

    @property
    def of_feedback(self) -> "GlorotClip":
        """The constraint of feedback kernels, for which their layers ask."""
        return self

    def __call__(self, w: Any) -> tf.Tensor:
        """The weights, cut."""
        refuse_averages(self, w)
        w = tf.convert_to_tensor(w)
        taps = math.prod(w.shape[:-2])
        fans = sum(w.shape[-2:]) if w.shape.rank > 1 else 2 * w.shape[0]  # as Keras counts them
        bound = self.factor * math.sqrt(6.0 / (taps * fans))
        return tf.clip_by_value(w, -bound, bound)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        return {"factor": self.factor}


@register
class FixedSign(keras.layers.Layer):
    """Keeps each weight on the side of 0 on which it began: a constraint that remembers signs.

    After an update, `w <- w if sign * w > 0 else sign * hold`. At `hold=0` a weight that would
    cross stands at 0, and may grow again on its own side (Khandwala and Bedi, 2.7); at 1e-10 it
    never is 0 (Xiao et al. 2018, released code: no sign change), so that sign(W) never changes.

    It is Keras' constraint and also a layer, since Keras saves the state of layers: `signs` and
    `attempts` are weights of the layer that it constrains, saved and restored with them.
    `constrain(model, FixedSign())` gives every kernel one of its own and has it remember. A layer
    of your own that is built with `kernel_constraint=FixedSign()` calls
    `layer.kernel_constraint.remember(layer.kernel)` before it trains. Kernels only, not biases.

    With W's signs fixed, sign-symmetry needs no transport: at `hold` above 0, B fixed once at
    `sign * scale` is at every step what `sign_symmetry` would read (`feedback_alignment` with that
    B trains to the same bits). Kolen-Pollack's law does not hold: W is cut alone, and its callback
    refuses constraints.

    Args:
        per: `"synapse"`: the signs that W has (w >= 0 counts as +), + and - with equal probability
            under symmetric initializers. `"neuron"`: one sign for all outgoing weights of an input
            cell (of a convolution: of an input channel), drawn with equal probability; W's first
            values get it (Dale's principle).
        hold: Where a weight stands that would cross, 0 or a small number.
        seed: Of the signs of neurons. None: of Keras' global seed.

    Attributes:
        signs: int8, of W's shape or broadcasting to it: +1 and -1, and 0 where padding stands for
            cells (in locally connected layers), so that no weight comes to be there.
        attempts: int64 scalar: how often a weight was found across 0 and put back, since birth.

    Raises:
        ValueError: `per` or `hold` is out of range; `hold` is 0 in the dtype of the weights. In an
            update: the signs are not known, or the optimizer averages weights (`use_ema`).

    Examples:
        >>> layer = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)
        >>> model = keras.Sequential([keras.Input((2,)), layer])
        >>> model = tfwm.training.constrain(model, tfwm.training.FixedSign())
        >>> model.compile(keras.optimizers.SGD(0.5), "mse")
        >>> loss = model.train_on_batch(np.array([[2.0, 0.0]]), np.zeros((1, 1)))
        >>> layer.kernel.numpy().tolist(), int(layer.kernel_constraint.attempts)  # -3 was wanted
        ([[0.0], [1.0]], 1)
    """

    def __init__(
        self,
        per: Literal["synapse", "neuron"] = "synapse",
        hold: float = 0.0,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        if per not in ("synapse", "neuron"):
            raise ValueError(f"per of FixedSign is {per!r}. Expected 'synapse' or 'neuron'.")
        if not (is_finite(hold) and hold >= 0):
            raise ValueError(
                f"hold of FixedSign is {hold!r}. Expected 0 or a small number, such as 1e-10."
            )
        super().__init__(**options)
        self.per = per
        self.hold = hold
        self.seed = seed

    def build(self, shape: Sequence[int]) -> None:
        """Make the state, as yet without signs (0)."""
        for name, size, dtype in (("signs", tuple(shape), "int8"), ("attempts", (), "int64")):
            variable = self.add_weight(
                name=name,
                shape=size,
                initializer="zeros",
                dtype=dtype,
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
            )
            setattr(self, name, variable)

    def remember(self, kernel: keras.Variable, *, cells_axis: int = -2) -> None:
        """Take the signs that `kernel` has, or, per neuron, draw signs and give it them.

        Args:
            kernel: W, built.
            cells_axis: The axis of its input cells: -2, or -1 in a transposed convolution.

        Examples:
            >>> constraint = tfwm.training.FixedSign(per="neuron", seed=0)
            >>> layer = keras.layers.Dense(8, kernel_constraint=constraint)
            >>> layer.build((None, 4))
            >>> constraint.remember(layer.kernel)
            >>> constraint.signs.shape  # one for all that leaves an input cell
            TensorShape([4, 1])
        """
        self.refuse_dtype(kernel)
        w, own = tf.convert_to_tensor(kernel), list(kernel.shape)
        if self.per == "neuron":
            own = [1] * len(own)
            own[cells_axis] = kernel.shape[cells_axis]
        synapses = getattr(kernel, "synapses", None)  # of a locally connected layer
        exist = np.ones([1] * len(own), "int8") if synapses is None else synapses.astype("int8")
        shape = list(np.broadcast_shapes(own, exist.shape))
        if self.built and list(self.signs.shape) != shape:
            raise ValueError(
                f"FixedSign '{self.name}' remembers signs of shape {tuple(self.signs.shape)}, not "
                f"those of {kernel.path}, {tuple(shape)}. Give each kernel a FixedSign of its own."
            )
        if not self.built:
            self.build(shape)
        if self.per == "neuron":
            self.signs.assign(random_signs(own, "int8", self.seed) * exist)
            kernel.assign(tf.cast(self.signs, w.dtype) * tf.abs(w))
        else:
            self.signs.assign(tf.where(w >= 0, exist, -exist))

    def refuse_dtype(self, kernel: keras.Variable) -> None:
        """Raise a ValueError if `hold`, above 0, is 0 among the numbers of `kernel`."""
        if tf.cast(self.hold, kernel.dtype) == 0 < self.hold:
            raise ValueError(
                f"hold of FixedSign is {self.hold}, which is 0 in {kernel.dtype}, the dtype of "
                f"{kernel.path}. Expected a larger number, or 0."
            )

    def __call__(self, w: Any) -> tf.Tensor:
        """The weights, held on their sides."""
        refuse_averages(self, w)
        with tf.init_scope():
            known = self.built and bool(tf.reduce_any(tf.not_equal(self.signs.value, 0)))
        if not known:
            raise ValueError(
                f"FixedSign '{self.name}' constrains {getattr(w, 'path', 'a weight')} and does not "
                "know its signs. Call tfweightmirror.training.constrain(model, FixedSign()) on the "
                "built model, or remember(kernel) of a FixedSign that a layer was made with."
            )
        w = tf.convert_to_tensor(w)
        signs = tf.cast(tf.convert_to_tensor(self.signs), w.dtype)
        across = tf.math.count_nonzero(signs * w < 0)
        self.attempts.assign(tf.convert_to_tensor(self.attempts) + across)
        # So that NaN stays NaN.
        return tf.where(signs * w <= 0, signs * tf.cast(self.hold, w.dtype), w)

    def get_build_config(self) -> dict[str, Any] | None:
        """The shape of the signs."""
        return {"shape": list(self.signs.shape)} if self.built else None

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Make the state that a saved file is read into."""
        self.build(config["shape"])

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        return super().get_config() | {"per": self.per, "hold": self.hold, "seed": self.seed}
