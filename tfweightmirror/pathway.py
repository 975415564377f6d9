"""Pathway: one kernel and its feedback kernel, seen as matrices from cells to cells.

Mirror mode, measures and checks work on this view alone, so a new layer kind needs no change
outside its own file. The view is that of *one receptive field*: `x` (groups, samples, fan_in) are
the cells of one field, `y = x @ W` (groups, samples, fan_out) the cells they reach.

Examples:
    >>> layer = tfwm.layers.FeedbackConv1D(4, 3, rule="fa")
    >>> layer.build((None, 10, 2))
    >>> view = layer.pathways[0].view
    >>> matrices = view.as_matrices(layer.kernel)
    >>> layer.kernel.shape, tuple(matrices.shape)  # 3 taps of 2 channels are 6 cells
    (TensorShape([3, 2, 4]), (1, 6, 4))
    >>> bool(tf.reduce_all(view.from_matrices(matrices, layer.kernel.shape) == layer.kernel))
    True
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals.docs import see
from tfweightmirror.rules import DirectFeedbackAlignment, Fans, FeedbackRule


def on_synapses(tensor: tf.Tensor, synapses: Any) -> tf.Tensor:
    """`tensor`, 0 where no synapse is; `synapses`: bool, spread to its shape, or None for all."""
    if synapses is None:
        return tensor
    return tf.where(synapses, tensor, tf.zeros((), tensor.dtype))


@dataclasses.dataclass(frozen=True)
class KernelView:
    """How a kernel tensor is read as matrices of shape (groups, fan_in, fan_out).

    The kernel is reshaped to `split`, its axes are put into `order`, and the result is reshaped to
    `matrices`.

    Attributes:
        split: Shape of the kernel with its group axis set apart.
        order: Permutation of the axes of `split`: group axes, input axes, output axes.
        matrices: (groups, fan_in, fan_out).
        bias_to_matrix: Gives the bias as (groups, 1, fan_out), or None where no receptive field
            has one bias (a bias over positions).
        fans: What a rule may scale magnitudes by.
        synapses: Bool, of the kernel's shape or spread to it: where a synapse is. Elsewhere (where
            padding stands for cells) nothing is learnt. None: everywhere.
    """

    split: tuple[int, ...]
    order: tuple[int, ...]
    matrices: tuple[int, int, int]
    fans: Fans
    bias_to_matrix: Callable[[tf.Tensor], tf.Tensor] | None = None
    synapses: Any = None

    def as_matrices(self, tensor: Any) -> tf.Tensor:
        """The kernel-shaped `tensor` as (groups, fan_in, fan_out)."""
        if not self._keeps_order:
            tensor = tf.transpose(tf.reshape(tensor, self.split), self.order)
        return tf.reshape(tensor, self.matrices)

    def from_matrices(self, matrices: Any, shape: tuple[int, ...]) -> tf.Tensor:
        """The inverse of `as_matrices`: a tensor of the kernel's `shape`, 0 where no synapse is."""
        if not self._keeps_order:
            permuted = tf.reshape(matrices, [self.split[axis] for axis in self.order])
            inverse = [self.order.index(axis) for axis in range(len(self.order))]
            matrices = tf.transpose(permuted, inverse)
        return self.on_synapses(tf.reshape(matrices, shape))

    @property
    def _keeps_order(self) -> bool:
        """Whether `order` moves axes of length 1 alone, and so no entry."""
        axes = [axis for axis in self.order if self.split[axis] > 1]
        return axes == sorted(axes)

    def feedback_of(self, learned: tf.Tensor, fixed: Any, shape: tuple[int, ...]) -> tf.Tensor:
        """B, of the kernel's `shape`, from its variable and, if it is a product, its fixed factor.

        Args:
            learned: What the variable B holds: B itself, or (groups, fan_in, between).
            fixed: (groups, between, fan_out), or None.
            shape: The kernel's.
        """
        if fixed is None:
            return learned
        return self.from_matrices(tf.matmul(learned, tf.convert_to_tensor(fixed)), shape)

    def on_synapses(self, tensor: tf.Tensor) -> tf.Tensor:
        """The kernel-shaped `tensor`, 0 where no synapse is."""
        return on_synapses(tensor, self.synapses)


def products(signals: tf.Tensor, others: tf.Tensor, *, transpose: bool = False) -> tf.Tensor:
    """Matrix products with `signals`, or with their transposes.

    Where one cell fires at a time they are element-wise: as many 1 x 1 matrices would be slow.
    """
    if signals.shape.rank == 4 and signals.shape[2:] == (1, 1):
        return signals * others
    return tf.matmul(signals, others, transpose_a=transpose)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Pathway:
    """One (kernel, feedback kernel) pair.

    Attributes:
        name: Unique in its model: the owning layers' names, joined by slashes.
        kernel: W, a Keras variable.
        feedback_kernel: B, a Keras variable of the same shape; where B is a product its factor that
            learns, (groups, fan_in, between); under `direct_feedback_alignment` of (input cells,
            error cells). None where the rule keeps none.
        rule: The rule, with its scale as a number.
        view: The kernel as matrices.
        compute_dtype: The dtype in which the layer computes, so also that of mirror signals.
        bias: The bias that is added to this pathway's response, or None.
        activation: The layer's own activation function, or None if it is linear or another's.
        layer: The layer that owns the kernel.
        place: Where the kernel stands in its model, a number that noise and seeds are made from.
            It is counted in the order in which Keras tracks the layers, so no layer's name (which
            counts up in a process), no freezing, and no choice of which layers are converted
            changes it. In a layer by itself: counted within the layer.
        state: What the rule draws from: a Keras variable of two int32, or None.
        feedback_factor: Where B is a product, its fixed factor, (groups, between, fan_out).
        initial_feedback: Gives the Keras initializer that B started from.
        sends_error_back: Whether the layer's input needs a gradient (the first layer's does not);
            None if not known.
        fields: How many receptive fields the model reads with it in one example (the positions of a
            convolution, the tokens of a dense layer), over all calls; None if not known.
        called: Whether the model calls the layer at all; None if not known.
        respond: The only door to W in mirror mode: signals in, signals out. Exchange it with
            `dataclasses.replace(pathway, respond=...)` to listen to something else: a chip, say.

    Examples:
        >>> layer = tfwm.layers.FeedbackConv2D(8, 3, rule="fa", name="conv")
        >>> layer.build((None, 32, 32, 3))
        >>> (pathway,) = layer.pathways
        >>> pathway
        <Pathway 'conv': feedback_alignment,
        kernel (3, 3, 3, 8) as 1 x 27 x 8 (groups x fan-in x fan-out)>
        >>> bool(tf.reduce_all(pathway.backward_kernel() == layer.feedback_kernel))  # no W
        True
    """

    name: str
    kernel: keras.Variable
    feedback_kernel: Any
    rule: FeedbackRule
    view: KernelView
    compute_dtype: str
    bias: keras.Variable | None = None
    activation: Callable[[tf.Tensor], tf.Tensor] | None = None
    layer: keras.layers.Layer | None = None
    place: int = 0
    state: keras.Variable | None = None
    feedback_factor: keras.Variable | None = None
    initial_feedback: Callable[[], keras.initializers.Initializer] = (
        keras.initializers.GlorotUniform
    )
    sends_error_back: bool | None = None
    fields: int | None = None
    called: bool | None = None
    respond: Callable[[tf.Tensor], tf.Tensor] = None  # type: ignore[assignment]  # set below

    def __post_init__(self) -> None:
        if self.respond is None:
            object.__setattr__(self, "respond", self._forward_map)

    def __repr__(self) -> str:
        matrices = " x ".join(map(str, self.view.matrices))
        return (
            f"<Pathway {self.name!r}: {self.rule.name}, kernel {tuple(self.kernel.shape)} as "
            f"{matrices} (groups x fan-in x fan-out)>"
        )

    @property
    def is_direct(self) -> bool:
        """Whether B leads here from the output layer, and nothing stands in W's place."""
        return isinstance(self.rule, DirectFeedbackAlignment)

    @property
    def groups(self) -> int:
        """Number of independent matrices."""
        return self.view.matrices[0]

    @property
    def fan_in(self) -> int:
        """Cells of one receptive field, in one group."""
        return self.view.matrices[1]

    @property
    def fan_out(self) -> int:
        """Cells that one receptive field reaches, in one group."""
        return self.view.matrices[2]

    @property
    def sparse(self) -> Any:
        """The `tfweightmirror.training.Sparse` that holds W and B to masks; None without."""
        constraint = getattr(self.kernel, "constraint", None)
        return constraint if hasattr(constraint, "mask_feedback") else None

    def as_matrices(self, tensor: Any) -> tf.Tensor:
        """A tensor of the kernel's shape as (groups, fan_in, fan_out).

        Examples:
            >>> layer = tfwm.layers.FeedbackConv2D(8, 3, groups=2, rule="fa")
            >>> layer.build((None, 32, 32, 4))
            >>> (pathway,) = layer.pathways
            >>> tuple(pathway.as_matrices(pathway.feedback_kernel).shape)  # 9 taps, 2 channels
            (2, 18, 4)
        """
        return self.view.as_matrices(tensor)

    def from_matrices(self, matrices: Any) -> tf.Tensor:
        """The inverse of `as_matrices`."""
        return self.view.from_matrices(matrices, tuple(self.kernel.shape))

    def feedback(self) -> tf.Tensor | None:
        """B now, of the kernel's shape and dtype; None where the rule keeps none of that shape."""
        if self.feedback_kernel is None or self.is_direct:
            return None
        learned = tf.convert_to_tensor(self.feedback_kernel)
        return self.view.feedback_of(learned, self.feedback_factor, tuple(self.kernel.shape))

    def backward_kernel(self) -> tf.Tensor:
        """The tensor that carries the error now, of the kernel's shape and dtype.

        Raises:
            ValueError: There is none: the rule is `direct_feedback_alignment` or `no_feedback`.
        """
        carrier = self.rule.backward_kernel(
            tf.convert_to_tensor(self.kernel),
            self.feedback(),
            None if self.state is None else tf.convert_to_tensor(self.state),
        )
        if carrier is None:
            instead = (
                "the error below comes from the output layer, through a B of another shape "
                "(feedback_kernel). delta_angles tells how that error stands to backprop's"
                if self.is_direct
                else "no error goes down"
            )
            raise ValueError(
                f"Pathway '{self.name}' has no tensor in W's place, and so no weight angle or norm "
                f"ratio: under {self.rule.name} {instead}." + see("no-weight-angle")
            )
        return carrier

    def bias_matrix(self) -> tf.Tensor | None:
        """The bias as (groups, 1, fan_out); None if there is none.

        Raises:
            ValueError: The bias differs between positions, so one receptive field has no bias.
        """
        if self.bias is None:
            return None
        if self.view.bias_to_matrix is None:
            raise ValueError(
                f"The bias of pathway '{self.name}' differs between positions, so that one "
                "receptive field has none of its own: use bias_blocking=True for this model."
                + see("a-bias-for-every-position")
            )
        return self.view.bias_to_matrix(tf.convert_to_tensor(self.bias))

    def _forward_map(self, signals: tf.Tensor) -> tf.Tensor:
        """The linear forward map of one receptive field.

        Args:
            signals: (groups, samples, fan_in): all cells fire together; or
                (groups, turns, samples, cells): in turn t only the cells
                t * cells to (t + 1) * cells - 1 fire, the others are silent. Cells past fan_in do
                not exist, and whatever they are given has no effect.

        Returns:
            (groups, samples, fan_out), or (groups, turns, samples, fan_out).
        """
        matrices = self.as_matrices(tf.cast(tf.convert_to_tensor(self.kernel), signals.dtype))
        if signals.shape.rank == 4:
            groups, turns, _, cells = signals.shape
            missing = turns * cells - self.fan_in
            if missing:
                matrices = tf.pad(matrices, ((0, 0), (0, missing), (0, 0)))
            matrices = tf.reshape(matrices, (groups, turns, cells, self.fan_out))
        # The name marks the door in the traced program, where a test looks for it.
        return tf.identity(products(signals, matrices), name="pathway_response")
