"""All pathways of a model, named uniquely, in the order in which signals pass them."""

import dataclasses
import itertools
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.look_hooks import (
    building_nothing,
    inlining_functions,
    keeping_what_calls_leave,
)
from tfweightmirror._internals.probe import Call, recording_calls
from tfweightmirror.layers.feedback_layer import FeedbackLayer
from tfweightmirror.pathway import Pathway

# Identity of a kernel in a walk: (id of the layer, attribute of the kernel).
_Key: TypeAlias = tuple[int, str]


class _Seen(NamedTuple):
    """Of a kernel that a call has passed."""

    sends_error_back: bool | None
    fields: int | None


_Order: TypeAlias = dict[_Key, _Seen]
_orders: "weakref.WeakKeyDictionary[keras.layers.Layer, tuple[Any, _Order | None]]"
_orders = weakref.WeakKeyDictionary()

# More than any layer has: places are layer * this + kernel.
_KERNELS_OF_A_LAYER = 256


def pathways(model: keras.layers.Layer) -> list[Pathway]:
    """The pathways of a built model (or layer), each once.

    They come in execution order, found by one symbolic call of the model on its input shapes;
    where the model has no known input shapes, or cannot be called symbolically, in the order in
    which Keras tracks the layers (`sends_error_back` and `called` are then None). Layers that the
    model does not call come last; those of them that are not built have no pathways.

    Args:
        model: A built Keras model or layer. Nested, shared, wrapped and subclassed layers are
            found.

    Returns:
        A list of `Pathway`, empty if the model has no feedback layer. Names are the owning layers'
        names below the model, joined by slashes.

    Raises:
        ValueError: `model` is no Keras layer, or a feedback layer that it calls, or may call, is
            not built.

    Examples:
        >>> inputs = keras.Input((16, 16, 3))
        >>> x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
        >>> outputs = keras.layers.Dense(2, name="head")(keras.layers.Flatten()(x))
        >>> model = tfwm.convert_model(keras.Model(inputs, outputs), "fa")
        >>> [(p.name, p.fan_in, p.fields, p.sends_error_back) for p in tfwm.pathways(model)]
        [('conv', 27, 196, False), ('head', 784, 1, True)]
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            f"Expected a built Keras model or layer. Received: {type(model).__name__} "
            f"({str(model)[:60]})."
        )
    named = dict(_feedback_layers(model))
    rank = {id(layer): index for index, (_, layer) in enumerate(walk(model))}
    fingerprint = (
        model.built,  # a model of built layers learns its input shape in its first call
        tuple((id(layer), layer.built) for layer in named.values()),
        tuple(variable.trainable for variable in model.variables),
    )
    cached = _orders.get(model)
    if cached is None or cached[0] != fingerprint:
        cached = (fingerprint, _execution_order(model) if named else None)
        _orders[model] = cached
    order = cached[1]
    turns = {key: turn for turn, key in enumerate(order or ())}
    found: list[tuple[int, Pathway]] = []
    for name, layer in named.items():
        if order is not None and not layer.built:
            continue  # Made and never called.
        for site, pathway in zip(layer.sites, layer.pathways, strict=True):
            key = (id(layer), site.kernel)
            known = dataclasses.replace(
                pathway,
                name=f"{name}/{site.name}" if site.name else name,
                place=rank[id(layer)] * _KERNELS_OF_A_LAYER + pathway.place,
                **(order or {}).get(key, _Seen(None, None))._asdict(),
                called=None if order is None else key in order,
                respond=None,
            )
            found.append((turns.get(key, len(turns)), known))
    return [pathway for _, pathway in sorted(found, key=lambda item: item[0])]


def _feedback_layers(model: keras.layers.Layer) -> Iterator[tuple[str, Any]]:
    """(unique name, layer) in tracking order."""
    taken: set[str] = set()
    for name, layer in walk(model):
        if isinstance(layer, FeedbackLayer):
            # Counted until free: Keras counts in the same way, so `dense_1` may be a name given.
            counted = (f"{name}_{count}" if count else name for count in itertools.count())
            unique = next(name for name in counted if name not in taken)
            taken.add(unique)
            yield unique, layer


def walk(model: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """(path of owners' names, layer) of `model` and all below it, each layer once."""
    seen: set[int] = set()

    def below(layer: keras.layers.Layer, prefix: str) -> Iterator[tuple[str, keras.layers.Layer]]:
        for child in keras_hooks.child_layers(layer):
            if id(child) not in seen:
                seen.add(id(child))
                yield prefix + child.name, child
                yield from below(child, f"{prefix}{child.name}/")

    yield model.name, model
    yield from below(model, "")


def _execution_order(model: keras.layers.Layer) -> _Order | None:
    """Kernels in execution order, and whether each one's input needs a gradient, if known."""
    with recording_calls() as calls:
        graph = symbolic_call(model)
    if graph is None:
        return None
    order: _Order = {}
    frozen = {id(handle) for handle in _handles(model.non_trainable_variables)}
    for call in calls:
        key = (id(call.layer), call.kernel)
        before = order.get(key, _Seen(False, 0))
        needs = before.sends_error_back or _needs_gradient(call.inputs, graph, frozen)
        here, there = _fields(call, graph), before.fields
        order[key] = _Seen(needs, None if here is None or there is None else here + there)
    return order | _out_of_sight(model, graph, order)


def _fields(call: Call, graph: Any) -> int | None:
    """How many receptive fields of one example it has read; None if not known, as in a loop.

    (Of a transposed convolution, whose fields overlap in the output, about as many.)
    """
    if call.inputs.graph is not graph:
        return None
    site = next(site for site in call.layer.sites if site.kernel == call.kernel)
    groups, _, fan_out = call.layer.kernel_view(site).matrices
    cells = call.output.shape[1:].num_elements()
    return None if cells is None else max(1, cells // (groups * fan_out))


def _out_of_sight(model: keras.layers.Layer, graph: Any, seen: _Order) -> _Order:
    """Kernels that only a function that the model brings with its trace reads."""
    feedback = [layer for _, layer in _feedback_layers(model) if layer.built]
    keys = [(layer, site.kernel) for layer in feedback for site in layer.sites]
    return {
        (id(layer), kernel): _Seen(True, None)
        for layer, kernel in keys
        if (id(layer), kernel) not in seen and in_a_function(getattr(layer, kernel), graph)
    }


def functions_inside(model: keras.layers.Layer) -> list[Any]:
    """The `tf.function`s that a training call of `model` passes, whoever owns them."""
    by_keras = ("keras.", "tfweightmirror.")  # these layers call none
    if all(type(layer).__module__.startswith(by_keras) for _, layer in walk(model)):
        return []
    with recording_calls(), inlining_functions() as functions:
        symbolic_call(model, training=True)
    return functions


def symbolic_call(model: keras.layers.Layer, *, training: bool = False) -> Any:
    """The graph of one call of `model` on its input shapes, or None if that is not possible.

    It leaves nothing behind: no layer is built by it, and no `tf.function` inside the model is
    traced by it.
    """
    arguments = input_specs(model)
    if arguments is None:
        return None

    @tf.function(autograph=False)
    def call(args: Any, kwargs: Any) -> Any:
        return model(*args, **kwargs, training=training)

    layers = [layer for _, layer in walk(model)]
    with building_nothing(layers), keeping_what_calls_leave(layers), inlining_functions():
        try:
            return call.get_concrete_function(*arguments).graph
        except Exception:  # A model's own `call` may raise anything on guessed inputs.
            return None


def input_specs(model: keras.layers.Layer) -> tuple[list[Any], dict[str, Any]] | None:
    """Positional and keyword tensor specs to call `model` with, or None if not known."""

    def spec(shape: Any, dtype: str = model.compute_dtype) -> tf.TensorSpec:
        return tf.TensorSpec(list(shape), dtype)

    if isinstance(model, keras.Model) and getattr(model, "inputs", None):
        # A Sequential model that was never called symbolically has `inputs` but no `input`.
        inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return [keras.tree.map_structure(lambda t: spec(t.shape, t.dtype), inputs)], {}
    config = model.get_build_config() or {}
    if "input_shape" in config and config["input_shape"] is not None:
        return [_map_shapes(spec, config["input_shape"])], {}
    shapes = config.get("shapes_dict")
    if shapes:
        return [], {
            name.removesuffix("_shape"): _map_shapes(spec, shape)
            for name, shape in shapes.items()
            if shape is not None
        }
    return None


def _map_shapes(spec: Any, shapes: Any) -> Any:
    """`spec` of every shape in a nested structure of shapes."""
    if isinstance(shapes, dict):
        return {key: _map_shapes(spec, value) for key, value in shapes.items()}
    if any(isinstance(part, (tuple, list, dict)) for part in shapes):
        return [_map_shapes(spec, part) for part in shapes]
    return spec(shapes)


def in_a_function(kernel: keras.Variable, graph: Any) -> bool:
    """Whether a function that `graph` calls reads `kernel`: one that was traced before."""
    users = {id(outer): inner.consumers() for outer, inner in graph.captures}
    return any(
        operation.type.endswith("PartitionedCall")
        for handle in _handles([kernel])
        for operation in users.get(id(handle), ())
    )


def _handles(variables: list[keras.Variable]) -> Iterator[tf.Tensor]:
    """The resource handles behind Keras variables, all replicas' included."""
    for variable in variables:
        for value in getattr(variable.value, "values", [variable.value]):
            if hasattr(value, "handle"):
                yield value.handle


def _needs_gradient(inputs: tf.Tensor, graph: Any, frozen: set[int]) -> bool:
    """Whether a trainable variable stands before `inputs` in the traced graph."""
    if inputs.graph is not graph:
        return True  # Inside a loop or a nested function: assume it does.
    trainable = {
        id(inner.op)
        for outer, inner in graph.captures
        if outer.dtype == tf.resource and id(outer) not in frozen
    }
    stack, seen = [inputs.op], set()
    while stack:
        operation = stack.pop()
        if id(operation) in trainable:
            return True
        if id(operation) not in seen:
            seen.add(id(operation))
            stack.extend(tensor.op for tensor in operation.inputs)
    return False
