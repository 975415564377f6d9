"""One layer, in place: from a plain Keras class to its feedback twin, and back."""

from typing import Any

import keras
import tensorflow as tf

from tfweightmirror import layers
from tfweightmirror._internals import keras_hooks, twin_gradient
from tfweightmirror._internals.docs import see
from tfweightmirror.conversion.compiled import Companion
from tfweightmirror.layers.carries_rule import (
    CarriesRule,
    refuse_bound_feedback,
    refuse_many_calls,
    refuse_matrices_behind,
    refuse_unsupported,
)
from tfweightmirror.layers.einsum_dense import kernel_labels
from tfweightmirror.layers.feedback_layer import FeedbackLayer
from tfweightmirror.pathway import on_synapses
from tfweightmirror.rules import FeedbackRule

TWINS: dict[type[keras.layers.Layer], type[Any]] = {
    keras.layers.Dense: layers.FeedbackDense,
    keras.layers.EinsumDense: layers.FeedbackEinsumDense,
    keras.layers.Conv1D: layers.FeedbackConv1D,
    keras.layers.Conv2D: layers.FeedbackConv2D,
    keras.layers.Conv3D: layers.FeedbackConv3D,
    keras.layers.Conv1DTranspose: layers.FeedbackConv1DTranspose,
    keras.layers.Conv2DTranspose: layers.FeedbackConv2DTranspose,
    keras.layers.Conv3DTranspose: layers.FeedbackConv3DTranspose,
    keras.layers.DepthwiseConv1D: layers.FeedbackDepthwiseConv1D,
    keras.layers.DepthwiseConv2D: layers.FeedbackDepthwiseConv2D,
    keras.layers.SeparableConv1D: layers.FeedbackSeparableConv1D,
    keras.layers.SeparableConv2D: layers.FeedbackSeparableConv2D,
    keras.layers.MultiHeadAttention: layers.FeedbackMultiHeadAttention,
    keras.layers.GroupQueryAttention: layers.FeedbackGroupQueryAttention,
    keras.layers.SimpleRNN: layers.FeedbackSimpleRNN,
    keras.layers.LSTM: layers.FeedbackLSTM,
    keras.layers.GRU: layers.FeedbackGRU,
    keras.layers.SimpleRNNCell: layers.FeedbackSimpleRNNCell,
    keras.layers.LSTMCell: layers.FeedbackLSTMCell,
    keras.layers.GRUCell: layers.FeedbackGRUCell,
    layers.LocallyConnected1D: layers.FeedbackLocallyConnected1D,
    layers.LocallyConnected2D: layers.FeedbackLocallyConnected2D,
}
PLAIN_CLASSES = {twin: plain for plain, twin in TWINS.items()}
# What `untie` makes of a convolution.
UNTIED: dict[type[keras.layers.Layer], type[Any]] = {
    keras.layers.Conv1D: layers.LocallyConnected1D,
    keras.layers.Conv2D: layers.LocallyConnected2D,
    layers.FeedbackConv1D: layers.FeedbackLocallyConnected1D,
    layers.FeedbackConv2D: layers.FeedbackLocallyConnected2D,
}
ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
RECURRENT = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)


def has_twin(layer: keras.layers.Layer) -> bool:
    """Whether `layer` is of a supported class, or of a class made from one."""
    return isinstance(layer, tuple(TWINS))


def parts_of(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that `layer` converts itself: projections of attention, a recurrent cell."""
    if isinstance(layer, RECURRENT):
        return [layer.cell]
    if not isinstance(layer, ATTENTION):
        return []
    children = keras_hooks.child_layers(layer)
    return [part for part in children if isinstance(part, keras.layers.EinsumDense)]


def refuse(layer: keras.layers.Layer, path: str, rule: FeedbackRule) -> None:
    """Raise a ValueError if `layer` cannot become its feedback twin; `path` names it."""
    cls = type(layer)
    if isinstance(layer, CarriesRule):
        raise ValueError(
            f"Layer '{path}' ({cls.__name__}) is a feedback layer already, with the rule "
            f"'{layer.rule.name}'. Call strip_feedback(model) first, or convert other layers with "
            "a dict of patterns." + see("a-feedback-layer-already")
        )
    if cls not in TWINS:
        base = next(base for base in cls.__mro__ if base in TWINS)
        home = "tfweightmirror" if base.__module__.startswith("tfweightmirror.") else "keras"
        changes = " with a `call` of its own" if cls.call is not base.call else ""
        raise ValueError(
            f"Layer '{path}' is a {cls.__name__}, a subclass of {base.__name__}{changes}, and only "
            f"{home}.layers.{base.__name__} itself can be converted. Derive {cls.__name__} from "
            f"tfweightmirror.layers.{TWINS[base].__name__}, or leave the layer to backprop with a "
            f"pattern: {{'{path}': 'backprop', '*': ...}}." + see("a-subclass-cannot-be-converted")
        )
    if "call" in vars(layer):
        raise ValueError(
            f"The `call` of layer '{path}' ({cls.__name__}) has been replaced on the instance, so "
            "that a feedback layer's own would never run. Convert first, or leave the layer to "
            f"backprop with a pattern: {{'{path}': 'backprop', '*': ...}}."
        )
    if isinstance(layer, keras.layers.Conv1D) and "convolution_op" in vars(layer):
        raise ValueError(
            f"The `convolution_op` of layer '{path}' ({cls.__name__}) has been replaced on the "
            "instance. Keras' Conv1D does not call it and the feedback layer would, so that the "
            "outputs would change: remove it first, or set it after converting."
        )
    refuse_matrices_behind(TWINS[cls], path, rule)
    if isinstance(layer, RECURRENT):
        _refuse_cell(layer, path)
    for part in (layer, *parts_of(layer)):
        refuse_unsupported(part)
        refuse_many_calls(part, rule)
        for name in vars(part):
            if name.endswith("_constraint"):
                refuse_bound_feedback(part, rule, getattr(part, name))
        if isinstance(part, keras.layers.EinsumDense):
            kernel_labels(part)


def _refuse_cell(layer: Any, path: str) -> None:
    """Raise a ValueError if a recurrent layer does not compute what its feedback twin would."""
    if getattr(layer, "use_cudnn", False) is True:
        raise ValueError(
            f"Layer '{path}' ({type(layer).__name__}) has use_cudnn=True, but cuDNN sends errors "
            "back on W itself. Set layer.use_cudnn = 'auto' first, or leave the layer to backprop "
            f"with a pattern: {{'{path}': 'backprop', '*': ...}}." + see("cudnn")
        )
    expected = TWINS[type(layer)].cell_class.__mro__
    if type(layer.cell) not in expected or "call" in vars(layer.cell):
        raise ValueError(
            f"The cell of layer '{path}' ({type(layer).__name__}) has been replaced by one of your "
            f"own ({type(layer.cell).__name__}), whose `call` the feedback layer's would not be. "
            "Put it into keras.layers.RNN(cell), or leave the layer to backprop with a pattern: "
            f"{{'{path}': 'backprop', '*': ...}}."
        )


def to_twin(
    layer: Any,
    rule: FeedbackRule,
    *,
    seed: int | None = None,
    place: int = 0,
    feedback_initializer: Any = None,
) -> None:
    """Make `layer`, of a class in `TWINS`, its feedback twin; if it is built, add B.

    Without a seed, that of the kernel's initializer counts; if it has none, `place` does.
    """
    keras_hooks.become(layer, TWINS[type(layer)])
    if seed is None and layer.initializer_seed() is None:
        seed = place
    layer.set_rule(rule, feedback_initializer, feedback_seed=seed)
    if layer.built:
        with keras_hooks.adding_weights(layer):
            layer.build_feedback()
        for companion in companions(layer):
            if not companion.kernel.trainable:
                companion.feedback_kernel.trainable = False


def rule_of(layer: Any) -> dict[str, Any]:
    """What a feedback layer has beyond the plain one, as a config."""
    initializer = layer.feedback_initializer
    return {
        "rule": keras.saving.serialize_keras_object(layer.rule),
        "feedback_initializer": initializer and keras.initializers.serialize(initializer),
        "feedback_seed": layer._feedback_seed,
    }


def to_plain(layer: Any) -> list[keras.Variable]:
    """Make a feedback layer an ordinary Keras layer.

    Returns:
        The variables it does not have any more.
    """
    parts = [part for part in parts_of(layer) if isinstance(part, CarriesRule)]
    forgotten = [variable for part in parts for variable in to_plain(part)]
    names = ["rule", "feedback_initializer", "_feedback_seed", "_birth_seed"]
    for site in getattr(layer, "sites", ()):
        names += [site.feedback, site.factor, site.state]
    for weight in keras_hooks.own_weights(layer):
        if weight.name in names:
            keras_hooks.untrack(layer, weight)
            forgotten.append(weight)
    for name in names:
        if name in vars(layer):
            keras_hooks.forget_attribute(layer, name)
    keras_hooks.forget_arguments(layer, names)
    keras_hooks.become(layer, PLAIN_CLASSES[type(layer)])
    return forgotten


def companions(layer: Any) -> list[Companion]:
    """The feedback kernels of a layer that an optimizer moves."""
    found = [companion for part in parts_of(layer) for companion in companions(part)]
    moved = isinstance(layer, FeedbackLayer) and layer.rule.learns_by == "optimizer"
    if moved and layer.built:
        same = twin_gradient.is_kernels(layer.rule)
        found += [
            Companion(getattr(layer, site.feedback), getattr(layer, site.kernel), same)
            for site in layer.sites
        ]
    return found


def name_of_untied(layer: keras.layers.Layer) -> str | None:
    """The plain class of what `untie` makes of `layer`, by name; None if nothing."""
    untied = UNTIED.get(type(layer))
    return None if untied is None else str(PLAIN_CLASSES.get(untied, untied).__name__)


def to_untied(layer: Any) -> list[tuple[keras.Variable, keras.Variable]]:
    """Make a convolution, of a class in `UNTIED`, locally connected; if built, untie its weights.

    Returns:
        Pairs of the variables that it does not have any more and those in their place.
    """
    tied = keras_hooks.own_weights(layer)
    config = layer.get_build_config() or {}
    keras_hooks.become(layer, UNTIED[type(layer)])
    layer.was_tied = True  # which its owner's config does not know
    if not layer.built:
        return []
    for weight in tied:
        keras_hooks.untrack(layer, weight)
    keras_hooks.forget_attribute(layer, "_kernel")
    with keras_hooks.adding_weights(layer):
        type(layer).build(layer, config["input_shape"])
    fresh = {weight.name: weight for weight in keras_hooks.own_weights(layer)}
    pairs = [(old, fresh[old.name]) for old in tied]
    for old, new in pairs:
        value = tf.broadcast_to(tf.convert_to_tensor(old), new.shape)
        kernel = new.shape == layer.kernel.shape  # W or B
        new.assign(on_synapses(value, layer.synapses) if kernel else value)
        new.trainable = old.trainable
    if layer.kernel_constraint is not None:  # a Sparse, with masks of one position
        layer.kernel_constraint.untie(layer.kernel.shape)
    return pairs
