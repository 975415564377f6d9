"""What every layer with a feedback rule shares: the rule among its arguments, refusals."""

from typing import Any, ClassVar

import keras

from tfweightmirror import rules
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.tensorflow_hooks import tape_watches


class CarriesRule(keras.layers.Layer):
    """Mixin: a Keras layer with a feedback rule among its arguments.

    Args:
        rule: A feedback rule: a name or alias, a config or a `FeedbackRule`.
        feedback_initializer: What B starts from. Default: the kernel's own initializer with a
            seed of its own (Glorot-uniform where that initializer draws nothing, so that B is
            never W; under `direct_feedback_alignment` Glorot-uniform, too).
        *args, **kwargs: The parent layer's. `lora_rank` and quantization are refused.
    """

    hears_output_error: ClassVar[bool] = True  # whether `DirectFeedbackAlignment` can be its rule

    def __init__(
        self,
        *args: Any,
        rule: Any = "weight_mirror",
        feedback_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.set_rule(rule, feedback_initializer)
        refuse_unsupported(self)

    def set_rule(
        self, rule: Any, feedback_initializer: Any = None, *, feedback_seed: int | None = None
    ) -> None:
        """Set the rule of a layer that has no feedback kernels yet."""
        self.rule = rules.get(rule)
        if isinstance(self.rule, rules.DirectFeedbackAlignment) and not self.hears_output_error:
            raise ValueError(no_direct_error(self, self.name))
        refuse_matrices_behind(type(self), self.name, self.rule)
        self.feedback_initializer = (
            None if feedback_initializer is None else keras.initializers.get(feedback_initializer)
        )
        self._feedback_seed = self._birth_seed = feedback_seed

    def build_feedback(self) -> None:
        """Add the feedback kernels to a layer that has its kernels."""
        raise NotImplementedError

    def initializer_seed(self) -> int | None:
        """The seed of the kernels' initializer; None where it has none (constants, functions)."""
        raise NotImplementedError

    # Not in the config: layers that are cloned get B of their own, as they get W of their own.
    def get_build_config(self) -> dict[str, Any] | None:
        """The parent's, and the seed from which `reset_feedback` draws B as at birth."""
        config = super().get_build_config()
        return config and {**config, "feedback_seed": self._birth_seed}

    def build_from_config(self, config: dict[str, Any] | None) -> None:
        """Build with the feedback seed that was saved."""
        config = dict(config or {})
        self._birth_seed = config.pop("feedback_seed", self._birth_seed)
        super().build_from_config(config)

    def get_config(self) -> dict[str, Any]:
        """The parent's config, the rule and the feedback initializer."""
        initializer = self.feedback_initializer
        return {
            **super().get_config(),
            "rule": keras.saving.serialize_keras_object(self.rule),
            "feedback_initializer": initializer and keras.initializers.serialize(initializer),
        }

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refused."""
        raise ValueError(_refusal(self, "LoRA"))

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refused."""
        raise ValueError(_refusal(self, "quantization"))


def no_direct_error(layer: keras.layers.Layer, path: str) -> str:
    """What is said of a layer that cannot have the rule `DirectFeedbackAlignment`."""
    return (
        f"Layer '{path}' ({type(layer).__name__}) cannot train by direct_feedback_alignment: its "
        "matrices are read at every step in time, or their products meet in attention scores, so "
        "that there is no one input to send the output error to. Leave it to backprop with a "
        "pattern: "
        f"{{'{path}': 'backprop', '*': ...}}." + see("direct-feedback-alignment", "science")
    )


def refuse_matrices_behind(cls: Any, path: str, rule: rules.FeedbackRule) -> None:
    """Raise a ValueError if a layer has matrices behind others and is to send no error down."""
    alone = cls.hears_output_error and len(getattr(cls, "sites", ())) == 1
    sends = rule.has_carrier or isinstance(rule, rules.DirectFeedbackAlignment)
    if not (sends or alone):
        raise ValueError(
            f"Layer '{path}' ({cls.__name__}) cannot have the rule '{rule.name}': it has several "
            "matrices, and those behind send their error to those before them. Expected a layer "
            "with one matrix, such as Dense or Conv2D; give this one the rule of the others."
            + see("an-error-below-a-layer-without-feedback")
        )


def refuse_error_below(layer: keras.layers.Layer, inputs: Any) -> None:
    """Raise a ValueError if somebody records an error that `layer` would have to send down."""
    if tape_watches(inputs):
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has the rule '{layer.rule.name}', "
            "which sends no error down, and a gradient tape watches its input: something below "
            "has weights (frozen ones count), or keras.remat or tape.watch asks for the input's "
            "gradient. Expected a layer that reads the data, or a tf.stop_gradient before it; give "
            "other layers a rule with feedback." + see("an-error-below-a-layer-without-feedback")
        )


def refuse_unsupported(layer: keras.layers.Layer) -> None:
    """Raise a ValueError for a layer with LoRA or quantization: its kernel is not one tensor."""
    if getattr(layer, "lora_rank", None) or getattr(layer, "lora_enabled", False):
        raise ValueError(_refusal(layer, "LoRA"))
    if (
        layer.quantization_mode is not None
        or getattr(layer, "quantization_config", None) is not None
    ):
        raise ValueError(_refusal(layer, "quantization"))


def refuse_many_calls(layer: keras.layers.Layer, rule: rules.FeedbackRule) -> None:
    """Raise a ValueError for a recurrent layer whose B is to be updated before errors pass."""
    if rule.updates_first and hasattr(layer, "state_size"):
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) passes errors at every step, before "
            f"the sum of all steps could update B first, as the rule '{rule.name}' wants (ahead). "
            "Use ahead=0 for it." + see("updated-random-feedback", "science")
        )


def refuse_second_call(layer: keras.layers.Layer, called: set[int] | None) -> None:
    """Raise a ValueError if a layer whose B is to be updated first has been `called` before."""
    if called is not None and id(layer) in called:
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) is called twice in a step, and each "
            f"call knows its own part of B's update alone, which the rule '{layer.rule.name}' "
            "wants before the error passes (ahead). Use ahead=0 for it."
            + see("updated-random-feedback", "science")
        )
    if called is not None:
        called.add(id(layer))


def refuse_bound_feedback(
    layer: keras.layers.Layer, rule: rules.FeedbackRule, constraint: Any
) -> None:
    """Raise a ValueError for a constraint that binds B, where B is a product or updated first."""
    if hasattr(constraint, "of_feedback") and rule.updates_first:
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has the constraint "
            f"{type(constraint).__name__}, which binds B after every update, and the rule "
            f"'{rule.name}' lets the error pass before that (ahead). Use ahead=0, or leave the "
            "constraint out." + see("updated-random-feedback", "science")
        )
    if hasattr(constraint, "of_feedback") and rule.factors((1, 1, 1)) is not None:
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has the constraint "
            f"{type(constraint).__name__}, which binds every entry of B, and under the rule "
            f"'{rule.name}' B is a product of two matrices. Use another rule, or leave "
            "the constraint out." + see("product-feedback-alignment", "science")
        )


def _refusal(layer: keras.layers.Layer, feature: str) -> str:
    return (
        f"Layer '{layer.name}' ({type(layer).__name__}) uses {feature}, where no single kernel is "
        "trained by dW: feedback rules cannot work on it. Merge or remove it first, or leave this "
        "layer to backprop with a dict of patterns." + see("lora-and-quantization")
    )
