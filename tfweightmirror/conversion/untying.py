"""Convolutions to locally connected layers: a kernel for every position, in place."""

from typing import Any

import keras

from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.arguments import require_model
from tfweightmirror._internals.walk import symbolic_call
from tfweightmirror.conversion import compiled, composite
from tfweightmirror.conversion.compiled import Companion
from tfweightmirror.conversion.selection import Member, matches, members_of
from tfweightmirror.conversion.twins import UNTIED, to_untied
from tfweightmirror.layers.carries_rule import refuse_unsupported

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def untie(model: keras.Model, pattern: str = "*") -> keras.Model:
    """Give each position of a model's convolutions a kernel of its own, in place (Amit 2018, 4.1).

    `Conv1D`, `Conv2D` and their feedback twins become `LocallyConnected1D`, `LocallyConnected2D`
    and theirs. Every position gets a copy of W, of the bias and of B, so outputs stay as they were,
    to rounding; from now on each is updated by itself. Names, rules and `trainable` flags stay.
    Compiled models keep their optimizers and trace again; the optimizers' state of these weights
    (momentum, a sum over positions) begins anew, all else stays.

    Args:
        model: A built Keras model.
        pattern: Compared (`fnmatch`) with a layer's name and with the names of its owners and
            itself joined by slashes. Layers that are no convolutions are left alone.

    Returns:
        `model` itself.

    Raises:
        ValueError: Nothing is changed, and the sentence names what is in the way: no convolution
            that matches; one without an untied twin (3D, transposed, depthwise, separable, a class
            of your own) or that is dilated, grouped or causal; one that is not built, or on maps of
            no known size, or of several; one with LoRA, quantization or a constraint, but for a
            `Sparse` without one inside.

    Examples:
        >>> conv = keras.layers.Conv2D(4, 3, name="conv")
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), conv])
        >>> images = np.ones((1, 8, 8, 1))
        >>> before = model(images)
        >>> tfwm.conversion.untie(model).get_layer("conv").kernel.shape  # 6 x 6 positions first
        TensorShape([6, 6, 3, 3, 1, 4])
        >>> np.allclose(model(images), before, atol=1e-5)
        True
    """
    require_model(model)
    matched = [(path, layer) for path, layer in members_of(model) if matches(path, pattern)]
    found = [(path, layer) for path, layer in matched if isinstance(layer, _CONVOLUTIONS)]
    if not found:
        raise ValueError(_no_convolution(model, pattern, matched))
    for path, layer in found:
        _refuse(path, layer)
    _refuse_several_sizes(model, found)
    holders = compiled.holders_of(model, [layer for _, layer in found], carry_over=True)
    with model.distribute_strategy.scope():
        pairs = [pair for _, layer in found for pair in to_untied(layer)]
    compiled.renew(
        holders,
        joining=[Companion(new, old, same_gradient=False) for old, new in pairs],
        leaving=[old for old, _ in pairs],
    )
    for holder in holders.models:
        composite.mark(holder)
    return model


def _refuse(path: str, layer: Any) -> None:
    """Raise a ValueError if `layer`, a convolution, cannot be untied; `path` names it."""
    if type(layer) not in UNTIED:
        raise ValueError(_refusal(path, layer, "is of a class that has no untied twin"))
    for name in ("call", "convolution_op"):
        if name in vars(layer):
            raise ValueError(_refusal(path, layer, f"has a `{name}` of its own"))
    if max(layer.dilation_rate) > 1:
        raise ValueError(_refusal(path, layer, f"has dilation_rate={layer.dilation_rate}"))
    if layer.groups > 1:
        raise ValueError(_refusal(path, layer, f"has groups={layer.groups}"))
    if layer.padding == "causal":
        raise ValueError(_refusal(path, layer, "has padding='causal'"))
    masks = hasattr(layer.kernel_constraint, "untie") and layer.kernel_constraint.constraint is None
    if not (layer.kernel_constraint is None or masks) or layer.bias_constraint is not None:
        raise ValueError(
            _refusal(path, layer, "has a constraint, which would bind other axes than before")
        )
    refuse_unsupported(layer)
    config = (layer.get_build_config() or {}) if layer.built else {}
    shape = config.get("input_shape")
    if shape is None or None in shape[1:]:
        received = f"the input shape {tuple(shape)}" if shape else "a layer that is not built"
        raise ValueError(
            f"Layer '{path}' ({type(layer).__name__}) cannot be untied: how many positions it has "
            f"must be known. Received {received}: build the model on inputs of a fixed size, as "
            "keras.Input((32, 32, 3))."
        )


def _refuse_several_sizes(model: keras.Model, found: list[Member]) -> None:
    """Raise a ValueError if a shared convolution is called on maps of other sizes, too."""
    with keras_hooks.recording_calls_of([layer for _, layer in found]) as calls:
        symbolic_call(model)
    paths = {id(layer): path for path, layer in found}
    for call in calls:
        built: Any = call.layer.get_build_config()
        shapes = (built["input_shape"], getattr(call.inputs, "shape", built["input_shape"]))
        sizes = [tuple(shape[1:]) for shape in shapes]
        if any(other not in (None, one) for one, other in zip(*sizes, strict=True)):
            raise ValueError(
                f"Layer '{paths[id(call.layer)]}' ({type(call.layer).__name__}) cannot be untied: "
                f"it is called on maps of several sizes, {sizes[0]} and {sizes[1]}, and has one "
                "set of positions. Leave it out by the pattern."
            )


def _refusal(path: str, layer: keras.layers.Layer, reason: str) -> str:
    return (
        f"Layer '{path}' ({type(layer).__name__}) cannot be untied: it {reason}. Expected "
        f"{', '.join(cls.__name__ for cls in UNTIED)}, without constraints, dilation and groups. "
        "Leave it out by the pattern."
    )


def _no_convolution(model: keras.Model, pattern: str, matched: list[Member]) -> str:
    if not matched:
        names = [path for path, layer in members_of(model) if type(layer) in UNTIED]
        listed = ", ".join(names) or "none"
        return f"Pattern '{pattern}' of untie matches no layer. Convolutions to untie: {listed}."
    path, layer = matched[0]
    return (
        f"Pattern '{pattern}' of untie matches no convolution, but '{path}' "
        f"({type(layer).__name__}). Expected {', '.join(cls.__name__ for cls in UNTIED)}."
    )
