"""Sparse connectivity: a share of the weights exists, drawn apart for W and B."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfweightmirror._internals import keras_hooks
from tfweightmirror.training.constraints import GlorotClip, refuse_averages, register


@register
class Sparse(keras.layers.Layer):
    """Holds W and B at 0 but for a share of their entries: a constraint that remembers two masks.

    `W <- mask * W` and `B <- feedback_mask * B` after each update; B has its mask from the moment
    it exists, in mirror mode (where a synapse that does not exist hears nothing) and in
    `reset_feedback`, too. The masks are drawn apart, so a share of `connectivity` of W's synapses
    has one of B beside it. Amit 2018, 4.1: half of W and of B; the released code spares the last
    layer, which here is the choice of `constrain`:

        constrain(model, Sparse(0.5), layers=["hidden*"])

    It is Keras' constraint and also a layer, as `FixedSign`: masks are weights of the layer that it
    constrains, saved, restored and stripped with them; conversion to another rule finds the same.
    As under any constraint, gradients are those of all entries, and so are norms that gradients are
    clipped by; B's increment under `updated_random_feedback` is `x^T dy` also where W has no entry.
    The rules that carry signs of W carry nothing where W is 0; those without a B have W's mask
    alone. No weight is made larger for those that are missing.

    A layer of your own that is built with `kernel_constraint=Sparse(0.5)` calls
    `layer.kernel_constraint.draw(layer.kernel, layer.feedback_kernel)` before it trains.

    Args:
        connectivity: The share of entries that exist, in (0, 1]: exactly, but for rounding, of each
            kernel, where padding stands for cells (in locally connected layers), too.
        constraint: A Keras constraint for the entries that exist, or its name, or `"glorot_clip"`.
        seed: Of the masks. None: of Keras' global seed.

    Attributes:
        mask: int8, of W's shape: 1 where W has an entry.
        feedback_mask: int8, of W's shape: 1 where B has one.

    Raises:
        ValueError: `connectivity` is not in (0, 1]; `constraint` has state of its own. In an
            update: the masks were never drawn, or the optimizer averages weights (`use_ema`).

    Examples:
        >>> model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(8, name="head")])
        >>> layer = tfwm.convert_model(model, "feedback_alignment").layers[0]
        >>> model = tfwm.training.constrain(model, tfwm.training.Sparse(0.25, seed=0))
        >>> [int(tf.math.count_nonzero(v)) for v in (layer.kernel, layer.feedback_kernel)]  # of 80
        [20, 20]
        >>> int(tf.math.count_nonzero(layer.kernel * layer.feedback_kernel))  # that both have
        5
    """

    def __init__(
        self,
        connectivity: float = 0.5,
        constraint: Any = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        if not (isinstance(connectivity, float | int | np.floating) and 0 < connectivity <= 1):
            raise ValueError(
                f"connectivity of Sparse is {connectivity!r}. Expected a share in (0, 1]."
            )
        clips = constraint == "glorot_clip"
        constraint = GlorotClip() if clips else keras.constraints.get(constraint)
        if isinstance(constraint, keras.layers.Layer):
            raise ValueError(
                f"constraint of Sparse is a {type(constraint).__name__}, which has state of its "
                "own. Expected one of Keras' constraints or GlorotClip."
            )
        super().__init__(**options)
        self.connectivity = connectivity
        self.constraint = constraint
        self.seed = seed

    @property
    def counts_fans(self) -> bool:
        """Whether `constraint` takes fans from the kernel's shape: locally connected layers ask."""
        return bool(getattr(self.constraint, "counts_fans", False))

    def build(self, shape: Sequence[int]) -> None:
        """Make the masks, as yet not drawn (0)."""
        for name in ("mask", "feedback_mask"):
            variable = self.add_weight(
                name=name,
                shape=tuple(shape),
                initializer="zeros",
                dtype="int8",
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
            )
            setattr(self, name, variable)

    def draw(self, kernel: keras.Variable, feedback_kernel: keras.Variable | None) -> None:
        """Draw both masks and give them to W and B.

        Args:
            kernel: W, built.
            feedback_kernel: B, or None where the layer has none.

        Examples:
            >>> constraint = tfwm.training.Sparse(0.5, seed=0)
            >>> layer = tfwm.layers.FeedbackDense(8, rule="fa", kernel_constraint=constraint)
            >>> layer.build((None, 4))
            >>> constraint.draw(layer.kernel, layer.feedback_kernel)
            >>> int(tf.math.count_nonzero(layer.kernel))  # of 32
            16
        """
        shape, size, exist = kernel.shape, math.prod(kernel.shape), self.existing(kernel)
        if self.known:
            raise ValueError(
                f"Sparse '{self.name}' has drawn its masks already, and is now to draw those of "
                f"{kernel.path}. Give each kernel a Sparse of its own."
            )
        if not self.built:
            self.build(shape)
        seed = self.seed
        if seed is None:
            seed = int(keras.random.randint((), 0, 2**31 - 1))
        for place, mask in enumerate((self.mask, self.feedback_mask)):
            order = np.random.default_rng((seed, place)).permutation(size)
            mask.assign((order < exist).astype("int8").reshape(shape))
        kernel.assign(self.mask_kernel(kernel))
        if feedback_kernel is not None:
            feedback_kernel.assign(self.mask_feedback(feedback_kernel))

    def untie(self, shape: Sequence[int]) -> None:
        """Give every position of a layer that is being untied the masks of the convolution.

        Args:
            shape: Of the untied kernel: (..positions, ..taps, c_in, filters).
        """
        tied = self.mask, self.feedback_mask
        for mask in tied:
            keras_hooks.untrack(self, mask)
        with keras_hooks.adding_weights(self):
            self.build(shape)
        for mask, old in zip((self.mask, self.feedback_mask), tied, strict=True):
            mask.assign(tf.broadcast_to(tf.convert_to_tensor(old), mask.shape))

    def existing(self, kernel: keras.Variable) -> int:
        """How many entries of `kernel` exist; refused if none would."""
        size = math.prod(kernel.shape)
        exist = round(self.connectivity * size)
        if exist == 0:
            raise ValueError(
                f"connectivity of Sparse is {self.connectivity}, which leaves none of the {size} "
                f"weights of {kernel.path}. Expected a larger share."
            )
        return exist

    @property
    def known(self) -> bool:
        """Whether the masks have been drawn or restored."""
        with tf.init_scope():
            return self.built and bool(tf.reduce_any(tf.not_equal(self.mask.value, 0)))

    def __call__(self, w: Any) -> tf.Tensor:
        """W after an update, held."""
        refuse_averages(self, w)
        held = self.mask_kernel(w)
        return held if self.constraint is None else self.mask_kernel(self.constraint(held))

    def of_feedback(self, b: Any) -> tf.Tensor:
        """B after an update, held: the constraint of feedback kernels."""
        refuse_averages(self, b)
        held = self.mask_feedback(b)
        also = getattr(self.constraint, "of_feedback", None)
        return held if also is None else self.mask_feedback(also(held))

    def mask_kernel(self, w: Any) -> tf.Tensor:
        """A tensor of W's shape, at 0 where W has no entry."""
        return self._masked(w, "mask")

    def mask_feedback(self, b: Any) -> tf.Tensor:
        """A tensor of B's shape, at 0 where B has no entry."""
        return self._masked(b, "feedback_mask")

    def mask_shared(self, tensor: Any) -> tf.Tensor:
        """A tensor of their shape, at 0 where W or B has no entry."""
        return self.mask_kernel(self.mask_feedback(tensor))

    def _masked(self, tensor: Any, name: str) -> tf.Tensor:
        if not self.known:
            raise ValueError(
                f"Sparse '{self.name}' constrains {getattr(tensor, 'path', 'a weight')} and does "
                "not know its masks. Call tfweightmirror.training.constrain(model, Sparse()) on "
                "the built model, or draw(kernel, feedback_kernel) of a Sparse that a layer was "
                "made with."
            )
        tensor = tf.convert_to_tensor(tensor)
        # Not a plain product, whose zeros have signs, and which keeps a NaN; `tf.where` is slower.
        exists = tf.cast(tf.convert_to_tensor(getattr(self, name)), tensor.dtype)
        return tf.math.multiply_no_nan(tensor, exists)

    def get_build_config(self) -> dict[str, Any] | None:
        """The shape of the masks."""
        return {"shape": list(self.mask.shape)} if self.built else None

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Make the masks that a saved file is read into."""
        self.build(config["shape"])

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        also = self.constraint and keras.constraints.serialize(self.constraint)
        own = {"connectivity": self.connectivity, "constraint": also, "seed": self.seed}
        return super().get_config() | own
