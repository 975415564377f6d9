"""Every private hook of Keras (and two of TensorFlow) that this library uses, in one file.

`tests/_internals/test_keras_hooks.py` is their canary; pyproject.toml pins the range of Keras.
"""

import contextlib
import functools
import gc
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.common.variables import AutocastScope

from tfweightmirror._internals import tensorflow_hooks
from tfweightmirror._internals.tensorflow_hooks import TracedFunction

# --- layers ------------------------------------------------------------------------------------


def child_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that `layer` owns directly, in the order in which it tracks them."""
    children: list[keras.layers.Layer] = layer._flatten_layers(include_self=False, recursive=False)
    return children


def outermost_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer or model whose call led to the present call of `layer`."""
    context = _call_context()
    return layer if context is None else context.entry_layer


def training_of_call() -> Any:
    """The value of `training` in the present call of a layer; None where nobody gave one."""
    context = _call_context()
    value = None if context is None else context.get_value("training")
    return value if value or (context and context.get_value("training_was_given")) else None


def tell_training_from_defaults() -> None:
    """Note whether the outermost call of a layer was given `training`.

    A layer whose own default is False (Dropout, LSTM) sets it for all that is called in and after
    it, and a functional model keeps it: also in `fit`, where the model's `call` takes no
    `training`.
    """
    resolve = keras.layers.Layer._resolve_and_populate_arg

    @functools.wraps(resolve)
    def note(layer: Any, name: str, spec: Any, context: Any, kwargs: Any) -> None:
        resolve(layer, name, spec, context, kwargs)
        if name == "training" and layer is context.entry_layer:
            given = spec.user_arguments_dict.get(name) is not None
            context.set_value("training_was_given", given)

    keras.layers.Layer._resolve_and_populate_arg = note


def present_call() -> Any:
    """Stands for the present call of the outermost layer; None outside."""
    return _call_context()


def kept_in_call(name: str, make: Callable[[], Any]) -> Any:
    """What `make` has made for the present call of the outermost layer; None outside a call."""
    context = _call_context()
    if context is None:
        return None
    if context.get_value(name) is None:
        context.set_value(name, make())
    return context.get_value(name)


def without_autocast() -> Any:
    """A context in which variables are read in their own dtype."""
    return AutocastScope(None)


def _call_context() -> Any:
    # `Layer._get_call_context` would begin one, and outside a layer's `__call__` (where Keras calls
    # `call` again on the way back, to rematerialize) nobody would end it.
    return global_state.get_global_attribute("current_call_ctx")


class LayerCall(NamedTuple):
    """One call of a layer."""

    layer: keras.layers.Layer
    inputs: Any
    outputs: Any


@contextlib.contextmanager
def recording_calls_of(layers: Iterable[keras.layers.Layer]) -> Iterator[list[LayerCall]]:
    """A context that lists the calls of `layers`, as they end."""
    layers, calls = list(layers), list[LayerCall]()

    def recorder(layer: keras.layers.Layer) -> Callable[..., Any]:
        call = layer.call

        @functools.wraps(call)
        def record_and_call(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            calls.append(LayerCall(layer, args[0] if args else None, outputs))
            return outputs

        return record_and_call

    for layer in layers:
        layer.__dict__["call"] = recorder(layer)
    try:
        yield calls
    finally:
        for layer in layers:
            del layer.__dict__["call"]


# --- weights -----------------------------------------------------------------------------------


@contextlib.contextmanager
def adding_weights(layer: keras.layers.Layer) -> Iterator[None]:
    """A context in which a built layer accepts new weights, as in Keras' own `enable_lora`."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        with layer._open_name_scope():
            yield
    finally:
        if locked:
            layer._tracker.lock()


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights that `layer` itself has made, without those of the layers below it."""
    # A wrapper may hold an inner layer's weight under a name of its own, as SpectralNormalization.
    below = {id(weight) for child in child_layers(layer) for weight in child.weights}
    tracked = [*layer._trainable_variables, *layer._non_trainable_variables]
    return [weight for weight in tracked if id(weight) not in below]


def has_value(variable: keras.Variable) -> bool:
    """Whether `variable` has its first value: not while Keras builds a model symbolically."""
    return variable._value is not None


def untrack(layer: keras.layers.Layer, weight: keras.Variable) -> None:
    """Make `layer` forget a weight of its own."""
    layer._untrack_variable(weight)


def forget_attribute(layer: keras.layers.Layer, name: str) -> None:
    """Delete an attribute, and make checkpoints forget it."""
    # `Layer.__delattr__` collects garbage once a weight: seconds on a large model.
    tf.__internal__.tracking.AutoTrackable.__delattr__(layer, name)


# --- a layer's class ---------------------------------------------------------------------------


def become(layer: keras.layers.Layer, cls: type[keras.layers.Layer]) -> None:
    """Give `layer` the class `cls` in place, with what Keras derived from its old class."""
    layer.__class__ = cls
    # `Layer.__new__` binds the methods of the class at birth to wrappers on the instance, so that
    # a class assigned later would never run its own.
    for name in ("build", "quantize"):
        wrapper = layer.__dict__[name]
        method = getattr(cls, name).__get__(layer)
        _cells(wrapper)[f"original_{name}_method"].cell_contents = method
        wrapper.__wrapped__ = method
    # What `Layer.__init__` derives.
    layer._call_signature = inspect.signature(layer.call)
    layer.call_signature_parameters = list(layer._call_signature.parameters)
    layer._call_has_training_arg = "training" in layer.call_signature_parameters
    layer._call_has_mask_arg = "mask" in layer.call_signature_parameters
    layer._call_has_context_arg = {
        name: name in layer.call_signature_parameters for name in layer._call_context_args
    }


def _cells(function: Any) -> dict[str, Any]:
    """The cells of a closure by the names of their variables."""
    return dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def forget_arguments(layer: keras.layers.Layer, names: Iterable[str]) -> None:
    """Drop arguments from what `Operation.__new__` recorded of the constructor's call."""
    if layer._auto_config is not None:
        for name in names:
            layer._auto_config.config.pop(name, None)


def after_build(layer: keras.layers.Layer, then: Callable[[], None]) -> None:
    """Run `then` once, when the unbuilt `layer` has been built; instead of an earlier `then`."""
    forget_after_build(layer)
    build = layer.__dict__["build"]

    @functools.wraps(build)
    def build_and_then(*args: Any, **kwargs: Any) -> None:
        layer.__dict__["build"] = build
        build(*args, **kwargs)
        then()

    layer.__dict__["build"] = build_and_then


def forget_after_build(layer: keras.layers.Layer) -> None:
    """Undo `after_build` on a layer that has not been built yet."""
    if waits_for_build(layer):
        layer.__dict__["build"] = _cells(layer.__dict__["build"])["build"].cell_contents


def waits_for_build(layer: keras.layers.Layer) -> bool:
    """Whether `after_build` has something to do for a layer that has not been built yet."""
    return layer.__dict__["build"].__code__.co_name == "build_and_then"


# --- within an optimizer's update_step ----------------------------------------------------------


def place_of(variable: Any, optimizer: keras.optimizers.Optimizer) -> int:
    """The place of `variable`, or of what it is a replica's part of, in what `build` was given."""
    place: int = optimizer._get_variable_index(variable)
    return place


def decays(variable: Any, optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether `variable` is none that `exclude_from_weight_decay` names."""
    return bool(optimizer._use_weight_decay(variable))


# --- compiled models ---------------------------------------------------------------------------


def models_holding(
    layers: Iterable[keras.layers.Layer], known: Iterable[keras.layers.Layer] = ()
) -> list[keras.Model]:
    """Every living model that has one of `layers` anywhere below it, those of `known` first.

    A layer does not know its owners, so this asks the garbage collector: a model around, or
    beside, the one that is converted may have been compiled, too. The collector does not show
    everything (`gc.freeze`), so models that are known are not left to it.
    """
    wanted = {id(layer) for layer in layers}
    models = {id(thing): thing for thing in (*known, *living(keras.Model))}
    return [
        model
        for model in models.values()
        if isinstance(model, keras.Model)
        and not wanted.isdisjoint(id(layer) for layer in model._flatten_layers())
    ]


def living(cls: type) -> list[Any]:
    """All that the garbage collector shows of a class."""
    # `type(...)`, not isinstance: asking a lazy proxy for its class would load it.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), cls)]


def attributes_of(layer: keras.layers.Layer) -> Iterator[Any]:
    """The values of a layer's attributes; those in lists, tuples, sets and dicts one by one."""
    seen: set[int] = set()

    def values_in(value: Any) -> Iterator[Any]:
        if not issubclass(type(value), (list, tuple, set, dict)):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            for part in list(value.values() if isinstance(value, dict) else value):
                yield from values_in(part)

    return values_in(vars(layer))


def forget_traces(layer: keras.layers.Layer) -> None:
    """Make the `tf.function`s among a layer's methods and attributes trace again when called."""
    for name in _traced_methods(type(layer)):
        for cls in type(layer).__mro__:
            if isinstance(vars(cls).get(name), TracedFunction):
                vars(cls)[name]._descriptor_cache.pop(layer, None)
    for value in attributes_of(layer):
        if issubclass(type(value), TracedFunction):
            tensorflow_hooks.forget_traces(value)


def _traced_methods(cls: type) -> tuple[str, ...]:
    return tuple(
        name
        for owner in cls.__mro__
        for name, value in vars(owner).items()
        if isinstance(value, TracedFunction)
    )
