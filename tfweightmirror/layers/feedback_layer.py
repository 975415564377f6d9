"""What every feedback layer shares: the feedback kernels, the forward pass, pathways, saving."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfweightmirror import rules
from tfweightmirror._internals import attendance, draws, keras_hooks, twin_gradient
from tfweightmirror._internals.probe import Call, is_looked_at, record_call
from tfweightmirror._internals.tensorflow_hooks import tape_records, weakly_bound
from tfweightmirror.asymmetric_gradient import LinearMap, asymmetric
from tfweightmirror.layers import direct
from tfweightmirror.layers.carries_rule import (
    CarriesRule,
    refuse_bound_feedback,
    refuse_error_below,
    refuse_many_calls,
    refuse_second_call,
)
from tfweightmirror.layers.initializers import born_on, first_seed, seeded, with_seed
from tfweightmirror.layers.sites import Reading, Site
from tfweightmirror.pathway import KernelView, Pathway
from tfweightmirror.rules import FeedbackRule

register = keras.saving.register_keras_serializable(package="tfweightmirror")

# Without decay of W and B the gap that B starts with stays.
_NEEDING_DECAY = (rules.KolenPollack, rules.ProductFeedbackAlignment)


class FeedbackLayer(CarriesRule):
    """Mixin: a Keras layer whose error travels back on feedback kernels of its own.

    A new kind of layer derives from it and from the Keras layer. It says in `kernel_view` how its
    kernel is matrices of one receptive field, and passes the linear part of `call` through `carry`.

    Args:
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's initializer with a seed of
            its own.
        **kwargs: The Keras layer's.

    Attributes:
        sites: Its kernels, a `Site` each.
        feedback_kernel: B, once it is built, a Keras variable of the shape of W (of a product the
            factor that learns; under `direct_feedback_alignment` (input cells, error cells)); None
            where the rule keeps none. Of a site with another kernel the name is `Site.feedback`.

    Raises:
        ValueError: The rule is not known, or LoRA or quantization is asked for; in `build`: a rule
            that the layer or a constraint on its kernel does not go with.

    Examples:
        >>> class SineDense(tfwm.layers.FeedbackLayer, keras.layers.Dense):
        ...     def kernel_view(self, site):  # how the kernel is a matrix
        ...         n_in, n_out = self.kernel.shape
        ...         fans = tfwm.rules.Fans(n_in, n_out, convolutional=False)
        ...         return tfwm.pathway.KernelView((n_in, n_out), (0, 1), (1, n_in, n_out), fans)
        ...     def call(self, inputs):  # `carry` takes the linear part
        ...         return keras.ops.sin(self.carry(keras.ops.matmul, inputs))
        >>> layer = SineDense(3, rule="fa")
        >>> layer(tf.ones((1, 4))).shape, layer.feedback_kernel.shape
        (TensorShape([1, 3]), TensorShape([4, 3]))
    """

    sites: ClassVar[tuple[Site, ...]] = (Site(),)

    # --- build -----------------------------------------------------------------------------

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build the parent's weights, then the feedback kernels."""
        super().build(input_shape)
        self.build_feedback(input_shape)

    def build_feedback(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Add the feedback kernels to a layer that has its kernels.

        `input_shape`: None, if the layer knows what it was built for.
        """
        if self._birth_seed is None:
            seed = self.initializer_seed()
            self._birth_seed = draws.unused_seed() if seed is None else seed
        refuse_many_calls(self, self.rule)
        for site in self.sites:
            rule, kernel, view = self.rule, getattr(self, site.kernel), self.kernel_view(site)
            feedback = factor = state = None
            factors = rule.factors(view.matrices)
            constraint: Any = getattr(self, site.constraint, None)
            refuse_bound_feedback(self, rule, constraint)
            if rule.uses_feedback_kernel:
                initial = self.initial_feedback(site)
                if direct.is_direct(self):
                    own = direct.kernel_options(self, site, input_shape)
                else:
                    own = {
                        "shape": kernel.shape if factors is None else factors.learned,
                        "initializer": initial if factors else born_on(view, initial),
                        "constraint": getattr(constraint, "of_feedback", None),
                    }
                feedback = self.add_weight(
                    name=site.feedback,
                    dtype=self.variable_dtype,
                    trainable=rule.learns_by == "optimizer",
                    aggregation="mean",
                    **own,
                )
                feedback.learns_from_signals = rule.has_local_loss  # for its optimizers
                feedback.learns_from_errors = rule.has_feedback_gradient
                feedback.updated_first_at = getattr(rule, "ahead", 0.0)
                if hasattr(constraint, "mask_feedback") and constraint.known:  # a Sparse
                    feedback.assign(constraint.mask_feedback(feedback))
            if factors is not None:
                factor = self.add_weight(
                    name=site.factor,
                    shape=factors.fixed,
                    initializer=with_seed(factors.fixed_initializer, self._seed_of(site) + 1),
                    dtype=self.variable_dtype,
                    trainable=False,
                )
            if rule.draws:
                seed = self._seed_of(site)
                state = self.add_weight(
                    name=site.state,
                    shape=(2,),
                    initializer=lambda shape, dtype, seed=seed: tf.constant([seed, 0], dtype),
                    dtype="int32",
                    trainable=False,
                    autocast=False,
                )
            setattr(self, site.feedback, feedback)
            setattr(self, site.factor, factor)
            setattr(self, site.state, state)

    def initial_feedback(self, site: Site) -> keras.initializers.Initializer:
        """What the feedback kernel of `site` starts from."""
        if self.feedback_initializer is not None:
            return seeded(self.feedback_initializer, self._seed_of(site))
        default = self.rule.default_initializer(self.kernel_view(site).fans)
        initializer = default or getattr(self, site.initializer)
        config: dict[str, Any] = getattr(initializer, "get_config", dict)()
        if "seed" not in config:
            initializer, config = keras.initializers.GlorotUniform(seed=0), {}
        # Keras initializers are stateless: without a seed of its own, B would be W.
        return with_seed(initializer, self._seed_of(site))

    def initializer_seed(self) -> int | None:
        """The seed of the (first) kernel's initializer, or None."""
        return first_seed(self, self.sites)

    def _seed_of(self, site: Site) -> int:
        """A seed for B that differs from W's."""
        return zlib.crc32(f"feedback {site.kernel} {self._birth_seed}".encode()) % (2**31)

    # --- forward ---------------------------------------------------------------------------

    def carry(
        self,
        op: LinearMap,
        inputs: tf.Tensor,
        *,
        site: Site | None = None,
        jit_compile: bool = False,
        reading: Reading | None = None,
        batch_axis: int = 0,
        linear_in_kernel: bool = False,
    ) -> tf.Tensor:
        """`op(inputs, kernel)`, with the error carried back as the rule says.

        `reading`: what `read` gave before, where several calls share it; the rest: of `asymmetric`.
        """
        site = site or self.sites[0]
        if isinstance(inputs, tf.SparseTensor):
            raise ValueError(
                f"Layer '{self.name}' ({type(self).__name__}) received a sparse tensor. Feedback "
                "layers take dense inputs: use tf.sparse.to_dense first, or the plain Keras layer."
            )
        inputs = tf.convert_to_tensor(inputs)  # the state of a stateful layer is a variable
        op, reading = weakly_bound(op), reading or self.read(site)
        if direct.is_direct(self):
            kernel, feedback = reading[:2]
            outputs = direct.carry(self, op, inputs, kernel, feedback, jit_compile=jit_compile)
        else:
            if not self.rule.has_carrier:
                refuse_error_below(self, inputs)
            if self.rule.updates_first and self._in_training():
                refuse_second_call(self, keras_hooks.kept_in_call("updated_first", set))
            f = asymmetric(
                op,
                self._rule_at(site),
                jit_compile=jit_compile,
                batch_axis=batch_axis,
                linear_in_kernel=linear_in_kernel,
            )
            outputs = f(inputs, **reading._asdict())
        record_call(Call(self, site.kernel, inputs, outputs))
        return outputs

    def read(self, site: Site) -> Reading:
        """Read W and B for a call, and in a training call draw anew, if the rule draws."""
        training = self._in_training()
        if training and not is_looked_at():
            self._warn_if_untaught(site)
        feedback, state = getattr(self, site.feedback), getattr(self, site.state)
        if state is not None and training:
            state.assign(tf.convert_to_tensor(state) + tf.constant([0, 1]))
        # A variable must not enter a custom gradient, and this is also where Keras autocasts.
        drawn = None if state is None else tf.convert_to_tensor(state)
        learned = None if feedback is None else twin_gradient.read(feedback)
        # B is needed only on the way back, and graph optimization can lose the edge that makes an
        # update of B wait for this read (a race, seen under Kolen-Pollack): so W's read waits.
        with tf.control_dependencies([tensor for tensor in (learned, drawn) if tensor is not None]):
            kernel = tf.convert_to_tensor(getattr(self, site.kernel))
        factor = getattr(self, site.factor)
        if factor is not None:
            learned = self.kernel_view(site).feedback_of(learned, factor, tuple(kernel.shape))
        return Reading(kernel, learned, drawn)

    def _in_training(self) -> bool:
        """Whether errors will be sent back through this call.

        Keras does not know where a model's `call` takes no `training`, and in training loops of
        one's own: there a gradient tape tells.
        """
        training = keras_hooks.training_of_call()
        return tape_records() if training is None else bool(training)

    def _warn_if_untaught(self, site: Site) -> None:
        if not keras_hooks.has_value(getattr(self, site.kernel)):
            return  # Keras tries out the shapes of an unbuilt model.
        if self.rule.learns_by == "mirror":
            attendance.warn_if_unattended(self)
        elif isinstance(self.rule, _NEEDING_DECAY) and tape_records():
            feedback = getattr(self, site.feedback)
            if feedback.trainable and not twin_gradient.is_hidden(feedback):
                attendance.warn_if_not_decayed(self, getattr(self, site.kernel), feedback)

    def _rule_at(self, site: Site) -> FeedbackRule:
        return self.rule.for_fans(self.kernel_view(site).fans)

    # --- pathways --------------------------------------------------------------------------

    def kernel_view(self, site: Site) -> KernelView:
        """The kernel of `site` as matrices."""
        raise NotImplementedError(f"{type(self).__name__} must say how its kernel is a matrix.")

    def site_shape(self, site: Site, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of what passes `site`, for inputs of `input_shape`."""
        return input_shape

    @property
    def pathways(self) -> list[Pathway]:
        """The pathways of this (built) layer, in the order in which signals pass them."""
        if not self.built:
            raise ValueError(
                f"Layer '{self.name}' has no pathways before it is built: call it on data, or "
                "build it with an input shape."
            )
        return [
            Pathway(
                name=f"{self.name}/{site.name}" if site.name else self.name,
                kernel=getattr(self, site.kernel),
                feedback_kernel=getattr(self, site.feedback),
                rule=self._rule_at(site),
                view=self.kernel_view(site),
                compute_dtype=self.compute_dtype,
                bias=getattr(self, "bias", None) if site.responds else None,
                activation=_or_none(getattr(self, "activation", None)) if site.responds else None,
                layer=self,
                place=place,
                state=getattr(self, site.state),
                feedback_factor=getattr(self, site.factor),
                initial_feedback=functools.partial(self.initial_feedback, site),
            )
            for place, site in enumerate(self.sites)
        ]

    # --- saving ----------------------------------------------------------------------------

    # Some parents write only kernel and bias, and count keys on loading.
    def save_own_variables(self, store: Any) -> None:
        """Write all weights, feedback kernels included."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        """Read all weights, feedback kernels included."""
        keras.layers.Layer.load_own_variables(self, store)


def _or_none(activation: Callable[..., Any] | None) -> Callable[..., Any] | None:
    return None if activation is keras.activations.linear else activation
