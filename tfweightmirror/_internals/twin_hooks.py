"""Every private hook by which an optimizer moves a variable and its twin (W and B) as one.

`tests/_internals/test_twin_hooks.py` is their canary; pyproject.toml pins the range of Keras.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals.optimizer_hooks import inner_of, optimizer_state, value_of

# Keras' optimizers whose step is made of gradient, state and learning rate alone, and taken by
# `assign_add` or `assign_sub`. Of other classes nobody knows whether their step reads the weight.
READ_NO_WEIGHTS = (
    *(keras.optimizers.SGD, keras.optimizers.RMSprop, keras.optimizers.Lion, keras.optimizers.Muon),
    *(keras.optimizers.Adam, keras.optimizers.AdamW, keras.optimizers.Adamax),
    *(keras.optimizers.Nadam, keras.optimizers.Adagrad, keras.optimizers.Adadelta),
)


def update_as_one(
    optimizer: keras.optimizers.Optimizer, twins: Sequence[tuple[keras.Variable, keras.Variable]]
) -> Callable[[], None]:
    """Make `optimizer` move each pair's second variable, the twin, wherever it moves the first.

    What it is given as the twin's gradient is dropped: the first one's alone crosses the network,
    is clipped, counts in a norm and is accumulated. Each loses its own share by decay. Then the
    twin gets the very increment of the first, and the optimizer has no state for it: its slots are
    further names of the first one's, so that files keep their form. An optimizer that may read
    weights takes a second step for the twin, with state of the twin's own.

    Args:
        optimizer: A Keras optimizer (the outer one under loss scaling).
        twins: Pairs (variable, its twin) of one shape and dtype.

    Returns:
        A function that undoes it: the twin has slots of its own again, as the first one's are.

    Raises:
        ValueError: In `apply`: the optimizer moves the first one out of sight.
    """
    return _AsOne(optimizer, twins).undo


class _AsOne:
    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        twins: Sequence[tuple[keras.Variable, keras.Variable]],
    ) -> None:
        self.outer, self.inner = optimizer, inner_of(optimizer)
        # By the first one's key: layers may share a W, each with a B of its own.
        self.pairs: dict[Any, list[tuple[keras.Variable, keras.Variable]]] = {}
        for pair in twins:
            self.pairs.setdefault(self.inner._var_key(pair[0]), []).append(pair)
        self.twin_ids = {id(value_of(twin)) for _, twin in twins}
        hooks = ("update_step", "assign_add", "assign_sub")
        self.shares_increments = type(self.inner) in READ_NO_WEIGHTS and not any(
            hook in vars(self.inner) for hook in hooks
        )
        self.moved: set[Any] = set()  # keys of pairs that have been seen to move as one
        self.given_away: list[tuple[keras.Variable, Any]] = []  # slots, each with its variable
        self.present = threading.local()  # a strategy may trace each replica in a thread of its own
        self.apply, self.step = self.outer.apply, self.inner.update_step
        self.decay = self.inner._apply_weight_decay
        self._undo = [
            replace(self.outer, apply=self.apply_to_first),
            replace(self.inner, update_step=self.step_both, _apply_weight_decay=self.decay_both),
        ]
        if self.shares_increments:
            assign = {name: self.assigning_both(getattr(self.inner, name)) for name in hooks[1:]}
            self._undo.append(replace(self.inner, **assign))
        if self.inner.built:
            self.share_state()

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()
        # The same variables as before: functions of the user's own may have traces with them.
        while self.given_away:
            slot, own = self.given_away.pop()
            self.fill(own, slot._value)
            slot._value = own

    def apply_to_first(self, grads: Any, trainable_variables: Any = None) -> Any:
        optimizer, grads = self.outer, list(grads)
        if trainable_variables is None and not optimizer.built:
            return self.apply(grads)  # Keras says what is missing
        given = (
            optimizer._trainable_variables if trainable_variables is None else trainable_variables
        )
        variables = list(given)
        if len(grads) != len(variables):
            raise ValueError(
                f"{type(optimizer).__name__}.apply received {len(grads)} gradients for "
                f"{len(variables)} variables. Expected one for each."
            )
        if not optimizer.built:
            optimizer.build(variables)
        optimizer._check_variables_are_known(variables)
        self.share_state()
        pairs = zip(grads, variables, strict=True)
        kept = [(g, v) for g, v in pairs if id(value_of(v)) not in self.twin_ids]
        before = tf.convert_to_tensor(self.inner.iterations)
        if not tf.executing_eagerly():  # one operation: each twin's own would wait for each error
            errors = [gradient for gradient, _ in kept if gradient is not None]
            self.present.errors_passed = [tf.group(*errors, name="errors_passed")]
        try:
            result = self.apply(*zip(*kept, strict=True)) if kept else None
        finally:
            self.present.errors_passed = []
        # Eagerly, gradients may have been accumulated or have overflown.
        if not tf.executing_eagerly() or self.inner.iterations > before:
            self.refuse_unseen([variable for gradient, variable in kept if gradient is not None])
        return result

    def refuse_unseen(self, updated: list[Any]) -> None:
        for variable in updated:
            key = self.inner._var_key(variable)
            if key in self.pairs and key not in self.moved:
                first, twin = (each.path for each in self.pairs[key][0])
                raise ValueError(
                    f"{type(self.inner).__name__} moves '{first}' in another place than its "
                    f"update_step, so that '{twin}' would stand still. Use an optimizer that takes "
                    "its steps in update_step, or leave the KolenPollack callback out."
                )

    def decay_both(self, variables: Sequence[Any]) -> None:
        self.decay(variables)
        found = (self.pairs.get(self.inner._var_key(variable), []) for variable in variables)
        with self.behind_the_errors():
            self.decay([twin for pairs in found for _, twin in pairs])

    def behind_the_errors(self) -> Any:
        """A context of operations that wait for all errors to have passed.

        A twin that is changed while a reading of it may still be used would be copied.
        """
        return tf.control_dependencies(getattr(self.present, "errors_passed", []))

    def step_both(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        key = self.inner._var_key(variable)
        if key not in self.pairs:
            return self.step(gradient, variable, learning_rate)
        twins = [self.twin_beside(variable, *pair) for pair in self.pairs[key]]
        if not self.shares_increments:
            for each in (variable, *twins):
                self.step(gradient, each, learning_rate)
            self.moved.add(key)
            return None
        self.present.stepping, self.present.moved = (variable, twins), False
        try:
            self.step(gradient, variable, learning_rate)
        finally:
            self.present.stepping = None, []
        if self.present.moved:
            self.moved.add(key)
        return None

    def assigning_both(self, assign: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def assign_both(variable: Any, value: Any) -> None:
            first, twins = getattr(self.present, "stepping", (None, []))
            if variable is not first:
                return assign(variable, value)
            if not isinstance(value, tf.IndexedSlices):
                value = tf.convert_to_tensor(value)  # it may be a variable: read once
            assign(variable, value)
            with self.behind_the_errors():
                for twin in twins:
                    assign(twin, value)
            self.present.moved = True
            return None

        return assign_both

    def twin_beside(self, variable: Any, first: keras.Variable, twin: keras.Variable) -> Any:
        """The twin's part on the replica that `variable` is a part on."""
        parts = (
            self.inner._distribution_strategy.experimental_local_results(value_of(each))
            for each in (first, twin)
        )
        return next((b for w, b in zip(*parts, strict=True) if w is variable), value_of(twin))

    def share_state(self) -> None:
        for original, slot in self.slots():
            if slot._value is not original._value:
                self.given_away.append((slot, slot._value))
                self.fill(slot._value, None)
                slot._value = original._value

    def fill(self, variable: Any, source: Any = None) -> None:
        """Give `variable` the values of `source`; without one, free its memory until then."""
        parts = self.inner._distribution_strategy.experimental_local_results
        with tf.init_scope():
            for index, copy in enumerate(parts(variable)):
                value = tf.zeros((), copy.dtype) if source is None else parts(source)[index]
                # `assign` would refuse what has another shape than what is there.
                tf.raw_ops.AssignVariableOp(
                    resource=copy.handle, value=tf.convert_to_tensor(value), validate_shape=False
                )

    def slots(self) -> Iterator[tuple[keras.Variable, keras.Variable]]:
        """Slots of a first one and of its twin that belong together."""
        if not self.inner.built:
            return
        if self.shares_increments:
            state = optimizer_state(self.inner).values()
            lists = [slots for slots in state if isinstance(slots, list)]
        else:  # what is accumulated is the first one's gradient all the same
            lists = [
                slots for slots in [getattr(self.inner, "_accumulated_gradients", [])] if slots
            ]
        places = self.inner._trainable_variables_indices
        for first, twin in itertools.chain(*self.pairs.values()):
            at = [places.get(self.inner._var_key(variable)) for variable in (first, twin)]
            for slots in lists if None not in at else []:
                original, slot = (slots[place] for place in at)
                if original is not None and slot is not None:
                    yield original, slot


def watch_updates(
    optimizer: keras.optimizers.Optimizer,
    before: Callable[[set[int]], None],
    after: Callable[[set[int], tf.Tensor, tf.Tensor, tf.Tensor], None],
) -> Callable[[], None]:
    """Be told of every update that `optimizer` makes, where it is made (or traced).

    Args:
        optimizer: A Keras optimizer (the outer one under loss scaling).
        before: Given the ids of the TensorFlow variables that have a gradient.
        after: Given these, the learning rate before the update, and updates done before and after
            it: there is none while gradients accumulate, or after a loss-scale overflow.

    Returns:
        A function that undoes it.
    """
    inner, apply = inner_of(optimizer), optimizer.apply

    @functools.wraps(apply)
    def watched(grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        if trainable_variables is None:
            variables = list(optimizer._trainable_variables)
        else:
            variables = trainable_variables = list(trainable_variables)
        with_gradient = zip(grads, variables, strict=False)  # `apply` says where they do not match
        moved = {id(value_of(v)) for gradient, v in with_gradient if gradient is not None}
        before(moved)
        rate = tf.cast(tf.convert_to_tensor(inner.learning_rate), tf.float32)
        done = tf.convert_to_tensor(inner.iterations)
        result = apply(grads, trainable_variables)
        after(moved, rate, done, tf.convert_to_tensor(inner.iterations))
        return result

    return replace(optimizer, apply=watched)


def replace(optimizer: keras.optimizers.Optimizer, **methods: Any) -> Callable[[], None]:
    """Give `optimizer` other methods; returns a function that gives it back what it had."""
    had = {name: vars(optimizer).get(name) for name in methods}

    def undo() -> None:
        for name, method in had.items():
            optimizer.__dict__.pop(name, None)
            if method is not None:
                setattr(optimizer, name, method)

    for name, method in methods.items():
        setattr(optimizer, name, method)
    return undo
