"""What a feedback rule is, and what it may know of a layer's shape."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Fans:
    """How many synapses meet at a cell: what a magnitude can be scaled by.

    Attributes:
        fan_in: Synapses entering one output cell: taps x c_in / groups, or n_in.
        fan_out: Synapses leaving one input cell: taps x c_out / groups, or n_out.
        convolutional: Whether the layer is a convolution (its scales carry He's factor 2).

    Examples:
        >>> layer = tfwm.layers.FeedbackConv2D(8, 3, rule="fa")
        >>> layer.build((None, 32, 32, 4))
        >>> layer.pathways[0].view.fans  # 9 taps of 4 channels, and of 8
        Fans(fan_in=36, fan_out=72, convolutional=True)
    """

    fan_in: int
    fan_out: int
    convolutional: bool


class Factors(NamedTuple):
    """The two matrices of a B that is a product, `B = learned fixed`, group by group.

    Attributes:
        learned: Shape (groups, fan_in, between): the layer's `feedback_kernel`.
        fixed: Shape (groups, between, fan_out): a weight that nothing moves.
        fixed_initializer: Of the fixed one; the layer gives it a seed of its own.

    Examples:
        >>> factors = tfwm.rules.ProductFeedbackAlignment(expansion=4).factors((1, 3, 2))
        >>> factors.learned, factors.fixed  # of a kernel (3, 2)
        ((1, 3, 8), (1, 8, 2))
        >>> type(factors.fixed_initializer).__name__
        'RandomUniform'
    """

    learned: tuple[int, int, int]
    fixed: tuple[int, int, int]
    fixed_initializer: keras.initializers.Initializer


@dataclasses.dataclass(frozen=True, eq=False)
class Signals:
    """What the cells on both sides of a layer know in a training call: all that a local loss reads.

    Attributes:
        x: What the layer got, as its linear map `op` takes it.
        y: What it answered, `op(x, W)`: before bias and activation. A constant, as is x.
        feedback: B.
        op: The linear map `(x, kernel) -> y`.
        batch_axis: The axis of x along which examples stand; in y it is the first.
        kernel: W, for a rule that says `reads_kernel`; None for every other.

    Examples:
        >>> x, W, B = tf.constant([[1.0, 2.0]]), tf.ones((2, 3)), 3 * tf.ones((2, 3))
        >>> signals = tfwm.rules.Signals(x, tf.matmul(x, W), B, op=tf.matmul)
        >>> signals.forward(signals.x).numpy().tolist()  # x sent up through B
        [[9.0, 9.0, 9.0]]
        >>> signals.backward(signals.y).numpy().tolist()  # y sent down through B
        [[27.0, 27.0]]
    """

    x: tf.Tensor
    y: tf.Tensor
    feedback: tf.Tensor
    op: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    batch_axis: int = 0
    kernel: tf.Tensor | None = None

    def forward(self, x: tf.Tensor) -> tf.Tensor:
        """`x^T B`: x sent up through B, of the shape of y."""
        return self.op(x, self.feedback)

    def backward(self, y: tf.Tensor) -> tf.Tensor:
        """`B y`: y sent down through B as an error is, of the shape of x."""
        x = tf.zeros_like(self.x)  # op is linear in x: its product with y is the same at any x
        with tf.GradientTape() as tape:
            tape.watch(x)
            above = self.op(x, self.feedback)
        return tape.gradient(above, x, y)

    def mean(self, tensor: tf.Tensor) -> tf.Tensor:
        """The sum over all entries, as a mean over the examples: a scalar."""
        return tf.reduce_sum(tensor) / tf.cast(tf.shape(self.y)[0], tensor.dtype)

    def centered(self) -> "Signals":
        """x and y without their means over the examples."""
        x = self.x - tf.reduce_mean(self.x, self.batch_axis, keepdims=True)
        return dataclasses.replace(self, x=x, y=self.y - tf.reduce_mean(self.y, 0, keepdims=True))


@dataclasses.dataclass(frozen=True)
class FeedbackRule:
    """A way to send errors back. Subclass it for a rule of your own.

    Override `backward_kernel`, and what B learns from: `feedback_gradient` where that is the
    forward weights' gradient, `local_loss` where it is the layer's own signals. `B` is the feedback
    kernel, `W` the forward kernel.

    Class attributes:
        name: The name in configs, logs and errors.
        aliases: Other names.
        uses_feedback_kernel: Whether the layer keeps a variable B of the kernel's shape.
        draws: Whether `backward_kernel` needs a `seed` that changes once per training call.
        learns_by: What moves B: `"nothing"`, `"optimizer"` (B becomes a trainable weight with the
            gradient `feedback_gradient(dW)`, to which that of `local_loss` is added) or
            `"mirror"` (mirror mode).
        reads_kernel: Whether `local_loss` is shown W itself, which is weight transport.
        updates_first: Whether B takes its step before the error passes (`carrier_after_update`).
        has_carrier: Whether `backward_kernel` gives a tensor. Otherwise the layer sends no error
            down, one that is asked for is refused, and there is no weight angle.

    Examples:
        >>> class OneBit(tfwm.rules.FeedbackRule):  # B learns as W, its signs carry the error
        ...     name, learns_by = "one_bit", "optimizer"
        ...     def backward_kernel(self, kernel, feedback, seed):
        ...         return tf.sign(feedback)
        ...     def feedback_gradient(self, kernel_gradient):
        ...         return kernel_gradient
        >>> layer = tfwm.layers.FeedbackDense(2, rule=OneBit())
        >>> layer.build((None, 9))
        >>> np.unique(layer.pathways[0].backward_kernel()).tolist()
        [-1.0, 1.0]
    """

    name: ClassVar[str] = "feedback_rule"
    aliases: ClassVar[tuple[str, ...]] = ()
    uses_feedback_kernel: ClassVar[bool] = True
    draws: ClassVar[bool] = False
    learns_by: ClassVar[Literal["nothing", "optimizer", "mirror"]] = "nothing"
    reads_kernel: ClassVar[bool] = False
    updates_first: ClassVar[bool] = False
    has_carrier: ClassVar[bool] = True

    def backward_kernel(
        self, kernel: tf.Tensor, feedback: tf.Tensor | None, seed: tf.Tensor | None
    ) -> tf.Tensor | None:
        """The tensor that carries the error: same shape and dtype as `kernel`.

        None, of a rule whose `has_carrier` is False: the layer sends no error down (`NoFeedback`),
        or the output layer sends it (`DirectFeedbackAlignment`, whose B has a shape of its own).

        Args:
            kernel: W, in the layer's compute dtype.
            feedback: B, or None if `uses_feedback_kernel` is False.
            seed: Two int32, or None if `draws` is False.
        """
        del kernel, seed
        return feedback

    def carrier_after_update(self, carrier: tf.Tensor, kernel_gradient: tf.Tensor) -> tf.Tensor:
        """What carries the error where B takes its step first, from `carrier` and dW of this call.

        A rule that overrides it says so by `updates_first`.
        """
        del kernel_gradient
        return carrier

    def feedback_gradient(self, kernel_gradient: tf.Tensor) -> tf.Tensor | None:
        """The gradient of B, from the gradient dW of the forward kernel. None: no gradient."""
        del kernel_gradient
        return None

    def local_loss(self, signals: Signals) -> tf.Tensor | None:
        """A scalar of the layer's signals and B, down whose gradient in B the optimizer goes.

        It is taken once a training call and no part of the loss that is reported. Its gradient does
        not depend on the error: neither on the size of the loss nor on how examples are weighted.
        Optimizers that scale the loss refuse a B that has a `feedback_gradient`, too.
        Half the squared error of `B y` as a guess of x, and a decay:

            guess = signals.backward(signals.y) - signals.x
            return signals.mean(guess**2) / 2 + 0.01 * tf.reduce_sum(signals.feedback**2)

        Examples:
            >>> class Guess(tfwm.rules.FeedbackRule):  # B learns to guess x from y, and decays
            ...     name, learns_by = "guess", "optimizer"
            ...     def local_loss(self, signals):
            ...         error = signals.backward(signals.y) - signals.x
            ...         decay = 0.01 * tf.reduce_sum(signals.feedback**2)
            ...         return signals.mean(error**2) / 2 + decay
            >>> layer = tfwm.layers.FeedbackDense(2, rule=Guess())
            >>> layer.build((None, 3))
            >>> layer.feedback_kernel.trainable
            True
        """
        del signals
        return None

    @property
    def has_local_loss(self) -> bool:
        """Whether B learns from `local_loss`."""
        return type(self).local_loss is not FeedbackRule.local_loss

    @property
    def has_feedback_gradient(self) -> bool:
        """Whether B may learn from `feedback_gradient`."""
        return type(self).feedback_gradient is not FeedbackRule.feedback_gradient

    def factors(self, matrices: tuple[int, int, int]) -> Factors | None:
        """The two matrices whose product is B; None: B is one variable of the kernel's shape.

        Args:
            matrices: (groups, fan_in, fan_out) of the kernel (`KernelView`).
        """
        del matrices
        return None

    def for_fans(self, fans: Fans) -> "FeedbackRule":
        """This rule with everything that depends on the layer's shape made a number."""
        del fans
        return self

    def default_initializer(self, fans: Fans) -> keras.initializers.Initializer | None:
        """What B starts from; None means the kernel's own initializer with another seed."""
        del fans
        return None

    def get_config(self) -> dict[str, Any]:
        """The options, as Keras saves them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FeedbackRule":
        """The rule that `get_config` described."""
        return cls(**config)
