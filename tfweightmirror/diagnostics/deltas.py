"""Delta and gradient angles: what the network learns from, against backprop through all of it.

One forward pass, recorded, and two backward passes: as the rules say, and on W itself. Both see the
same activations, dropout masks and batch statistics.
"""

import inspect
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals.arguments import require_model
from tfweightmirror._internals.callers import stacklevel_of_user
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.look_hooks import (
    inlining_functions,
    keeping_what_calls_leave,
    training_loss,
)
from tfweightmirror._internals.probe import errors_on_w, recording_calls
from tfweightmirror._internals.walk import in_a_function, pathways, walk
from tfweightmirror.diagnostics.angles import angle_between_parts_deg
from tfweightmirror.diagnostics.replicas import as_before, on_replicas, replica_index, summed

WHOLE_NETWORK = "whole_network"
_told: "weakref.WeakSet[keras.Model]" = weakref.WeakSet()
_Pairs = dict[str, tuple[list[tf.Tensor], list[tf.Tensor]]]


def delta_angles(model: keras.Model, x: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
    """The angle between the error that each layer receives and backprop's, in degrees.

    The error (delta) of a pathway is the gradient of the loss in `op(x, W)`, over the whole batch
    (all calls of a shared layer together). Backprop's is the one that plain backprop through the
    whole network above would deliver at the same weights and in the same forward pass, in training
    mode (Akrout et al. 2019, fig. 4: "delta angles"). The topmost layers' are 0 whatever the rule.
    The loss is the compiled one (`compute_loss`), not that of a `train_step` of the model's own.

    Weights, BatchNorm's statistics, metrics and random state are afterwards as they were. (What
    `keras.random` draws without a seed generator of the layer's own moves Keras' global stream.)

    Args:
        model: Built and compiled. Under a strategy every replica gets an equal part of the batch,
            and the angle is that of the errors of all replicas together.
        x: Inputs of a batch, as `model.train_on_batch` takes them.
        y: Their targets.
        sample_weight: Their weights, or None.

    Returns:
        `{pathway name: degrees}`, from input to output. NaN where an error is zero: it has no
        direction then. Layers that are not called are left out. Empty without feedback layers.

    Raises:
        ValueError: The model is not compiled; the batch does not divide by the replicas; or a
            layer is called where its error cannot be seen (in a loop or branch of the graph, under
            `keras.remat`, in a function that the model brings with its trace), or the loss does not
            depend on it.

    Warns:
        UserWarning: The model has a `train_step` of its own (once per model).

    Examples:
        >>> hidden, head = keras.layers.Dense(20, name="hidden"), keras.layers.Dense(4, name="head")
        >>> model = keras.Sequential([keras.Input((8,)), hidden, head])
        >>> tfwm.convert_model(model, "feedback_alignment").compile("sgd", "mse")
        >>> angles = tfwm.delta_angles(model, np.eye(8), np.eye(8, 4))
        >>> {name: round(angle) for name, angle in angles.items()}  # nothing is aligned yet
        {'hidden': 83, 'head': 0}
    """
    return _floats(Probe(model, (x, y, sample_weight)).delta_angles())


def gradient_angles(
    model: keras.Model, x: Any, y: Any, sample_weight: Any = None
) -> dict[str, float]:
    """The angle between each variable's gradient and backprop's, in degrees.

    As `delta_angles`, of the gradients in the trainable variables; feedback kernels, which backprop
    does not have, are left out.

    Args:
        model: As in `delta_angles`, and so are the others.
        x: Inputs of a batch.
        y: Their targets.
        sample_weight: Their weights, or None.

    Returns:
        `{path of the variable: degrees}`, and of all gradients as one vector: `whole_network`.
        NaN where a gradient is zero; variables without a gradient are left out. (A bias in front of
        a normalization has rounding errors for a gradient: its angle means nothing.)

    Raises:
        ValueError: The model is not compiled; the batch does not divide by the replicas; or a
            feedback layer is called in a function that the model brings with its trace.

    Warns:
        UserWarning: The model has a `train_step` of its own (once per model).

    Examples:
        >>> hidden, head = keras.layers.Dense(20, name="hidden"), keras.layers.Dense(4, name="head")
        >>> model = keras.Sequential([keras.Input((8,)), hidden, head], name="net")
        >>> tfwm.convert_model(model, "feedback_alignment").compile("sgd", "mse")
        >>> angles = tfwm.gradient_angles(model, np.eye(8), np.eye(8, 4))
        >>> names = "net/hidden/kernel", "net/head/kernel", "whole_network"
        >>> [round(angles[name]) for name in names]
        [83, 0, 61]
    """
    return _floats(Probe(model, (x, y, sample_weight)).gradient_angles())


class Probe:
    """A batch on which angles are measured, again and again, by functions that are compiled once.

    Args:
        model: Built and compiled.
        batch: (x, y, sample_weight).
    """

    def __init__(self, model: keras.Model, batch: tuple[Any, Any, Any]) -> None:
        require_model(model)
        if not model.compiled:
            raise ValueError(
                f"Delta and gradient angles need a loss, but '{model.name}' is not compiled: call "
                "model.compile(...) first." + see("a-model-that-is-not-compiled")
            )
        _tell_of_own_train_step(model)
        self.model = model
        self._pathways = pathways(model)
        self._batch = on_replicas(model, batch)
        self._compiled: dict[str, Any] = {}

    def delta_angles(self) -> dict[str, tf.Tensor]:
        """Degrees by pathway name."""
        return self._measured("delta", self._deltas) if self._pathways else {}

    def gradient_angles(self) -> dict[str, tf.Tensor]:
        """Degrees by variable path."""
        return self._measured("gradient", self._gradients)

    def _measured(self, name: str, errors: Callable[[Any], _Pairs]) -> dict[str, tf.Tensor]:
        strategy = self.model.distribute_strategy

        def on_replica(batch: Any) -> dict[str, tf.Tensor]:
            # Here, since a replica may be a thread of its own.
            with recording_calls(), inlining_functions():
                pairs = errors(batch)
            return {key: angle_between_parts_deg(*both) for key, both in pairs.items()}

        @tf.function(autograph=False)
        def run() -> Any:
            return strategy.run(on_replica, args=(self._batch,))

        if name not in self._compiled:
            # Traced also where TensorFlow is told to run functions eagerly.
            with keeping_what_calls_leave(layer for _, layer in walk(self.model)):
                self._compiled[name] = run.get_concrete_function()
        with as_before(self.model):
            angles = self._compiled[name]()
        return {key: strategy.experimental_local_results(angle)[0] for key, angle in angles.items()}

    def _loss(self, batch: Any) -> tf.Tensor:
        """The loss, with what Keras' train step adds to it and multiplies it by."""
        loss = training_loss(self.model, *batch)
        for pathway in self._pathways:
            if in_a_function(pathway.kernel, loss.graph):
                raise ValueError(_unseen(pathway.name))
        optimizer = self.model.optimizer
        # Without the scale that training has, float16 errors would vanish.
        return loss if optimizer is None else optimizer.scale_loss(loss)

    def _deltas(self, batch: Any) -> _Pairs:
        names = {id(p.kernel): p.name for p in self._pathways}
        with recording_calls() as calls:
            loss = self._loss(batch)
        for call in calls:
            if call.output.graph is not loss.graph:
                raise ValueError(_unseen(names[id(getattr(call.layer, call.kernel))]))
        received, exact = _both_ways(loss, [call.output for call in calls])
        pairs: _Pairs = {name: ([], []) for name in names.values()}
        for call, ours, theirs in zip(calls, received, exact, strict=True):
            name = names[id(getattr(call.layer, call.kernel))]
            if ours is None or theirs is None:
                raise ValueError(_unseen(name))
            both = pairs[name]
            both[0].append(ours)
            both[1].append(theirs)
        return {name: both for name, both in pairs.items() if both[0]}

    def _gradients(self, batch: Any) -> _Pairs:
        feedback = {id(p.feedback_kernel) for p in self._pathways}
        variables = [v for v in self.model.trainable_variables if id(v) not in feedback]
        loss = self._loss(batch)
        handles = [loss.graph.capture(variable.value.handle) for variable in variables]
        received, exact = _both_ways(loss, handles)
        pairs: _Pairs = {}
        whole: tuple[list[tf.Tensor], list[tf.Tensor]] = ([], [])
        for variable, *both in zip(variables, received, exact, strict=True):
            if both[0] is None or both[1] is None:
                continue
            ours, theirs = (summed(tf.convert_to_tensor(gradient)) for gradient in both)
            name, count = variable.path, 0
            while name in pairs:  # paths are not unique across nested models
                count += 1
                name = f"{variable.path}_{count}"
            pairs[name] = ([ours], [theirs])
            whole[0].append(ours)
            whole[1].append(theirs)
        # Sums are on every replica: only the first's counts among all parts.
        first = replica_index() == 0
        pairs[WHOLE_NETWORK] = whole

        def counted_once(parts: list[tf.Tensor]) -> list[tf.Tensor]:
            return [tf.where(first, part, tf.zeros_like(part)) for part in parts]

        return {name: (counted_once(u), counted_once(v)) for name, (u, v) in pairs.items()}


def _both_ways(loss: tf.Tensor, tensors: list[tf.Tensor]) -> tuple[list[Any], list[Any]]:
    """The gradients of `loss` in `tensors` of its graph: as the rules say, and on W itself."""
    # Not a tape: one that gives two gradients would put loops and branches into functions, whose
    # backward pass is traced once, for both.
    received = tf.gradients(loss, tensors)
    with errors_on_w():
        return received, tf.gradients(loss, tensors)


def _tell_of_own_train_step(model: keras.Model) -> None:
    """Warn, once per model, that angles are of the compiled loss."""
    step = inspect.unwrap(model.train_step)  # callbacks may have extended it
    if model in _told or getattr(step, "__func__", None) is keras.Model.train_step:
        return
    _told.add(model)
    warnings.warn(
        f"'{model.name}' has a train_step of its own, but delta and gradient angles are those of "
        "the compiled loss (compute_loss), on one batch with inputs as the model takes them. Where "
        "train_step learns from something else, they are not the angles of its training.",
        UserWarning,
        stacklevel=stacklevel_of_user(),
    )


def _unseen(name: str) -> str:
    return (
        f"The error of layer '{name}' cannot be seen: it is called inside a loop or "
        "branch, under keras.remat or in a function that was traced before "
        "(get_concrete_function), or the loss does not depend on it. Measure a model without "
        "these, such as one with RNN(unroll=True)." + see("an-error-that-cannot-be-seen")
    )


def _floats(angles: dict[str, tf.Tensor]) -> dict[str, float]:
    return {name: float(angle) for name, angle in angles.items()}
