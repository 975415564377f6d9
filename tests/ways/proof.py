"""The proof that a way of training ends in: B is what carries the error, dW is backprop's.

`SCIENCE` 2.5 (a), through the very function that trains, whatever built, wrapped, traced, saved or
copied the model before. A *way* is a function of two arguments:

* `convert(model)` gives the model feedback layers, but for those of the pattern `plain`, if given;
  for the plain twin it does nothing;
* `prove(model, step)` is called where the way is at its end; `step()` is one training step by the
  way's own means.

A way runs twice: once converted, once as plain Keras, eagerly. The second run says what backprop
does to the same weights.
"""

import contextlib
import dataclasses
import fnmatch
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror._internals.walk import walk
from tfweightmirror.conversion.twins import TWINS

Convert = Callable[..., keras.Model]
Prove = Callable[..., None]
Way = Callable[[Convert, Prove], None]
Values = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Backprop:
    """What the plain twin was before its step, and what the step did to its forward weights."""

    weights: Values
    optimizers: Values
    changes: Values


def backprop_of(way: Way, *, eagerly: bool = True) -> Backprop:
    """Go the way without converting."""
    found: list[Backprop] = []

    def take(model: keras.Model, step: Callable[[], Any], **options: Any) -> None:
        optimizers = options.get("optimizers") or [model.optimizer]
        weights, states = _values(model.variables), _values(_states(optimizers))
        found.append(Backprop(weights, states, _step(model.variables, [], step)))

    keras.utils.set_random_seed(0)
    tf.config.run_functions_eagerly(eagerly)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Even though the `tf.config.experimental_run_func")
            way(lambda model, *args, **options: model, take)
    finally:
        tf.config.run_functions_eagerly(False)
    (backprop,) = found
    return backprop


def prove(way: Way, rule: str, *, eager_twin: bool = True, tolerance: float = 1e-4) -> None:
    """Fail unless, after `way`, B carries the error and every dW is backprop's.

    Args:
        way: The way, see above.
        rule: The rule to convert with.
        eager_twin: Whether the plain twin can be run eagerly, which is cheaper.
        tolerance: Of the largest change of a weight: how far a change may be from backprop's.
    """
    backprop, proofs = backprop_of(way, eagerly=eager_twin), []

    def convert(model: keras.Model, plain: str | None = None) -> keras.Model:
        return tfwm.convert_model(model, {plain: "backprop", "*": rule} if plain else rule)

    def carries(model: keras.Model, step: Callable[[], Any], **options: Any) -> None:
        _Proof(model, step, backprop, tolerance, **options).run()
        proofs.append(model)

    keras.utils.set_random_seed(0)
    way(convert, carries)
    assert len(proofs) == 1, f"the way asked for {len(proofs)} proofs"


class _Proof:
    """One model at the end of its way.

    Args:
        model: A model with feedback layers.
        step: Makes one training step.
        backprop: What the plain twin does.
        tolerance: As in `prove`.
        top: Pathways whose kernels get their error from no B: by default the last alone.
        first: Pathways that no kernel is below: by default the first alone.
        other_ways: By pattern of pathways: patterns of the kernels below that learn without it, as
            by a skip connection.
        optimizers: By default the model's.
        callbacks: Those whose state a step moves.
        plain: Pattern of layers that are meant to stay plain.
    """

    def __init__(
        self,
        model: keras.Model,
        step: Callable[[], Any],
        backprop: Backprop,
        tolerance: float,
        *,
        top: Collection[str] | None = None,
        first: Collection[str] | None = None,
        other_ways: dict[str, list[str]] | None = None,
        optimizers: list[Any] | None = None,
        callbacks: Collection[Any] = (),
        plain: str = "",
    ) -> None:
        self.step, self.backprop, self.tolerance = step, backprop, tolerance
        self.optimizers = optimizers or [model.optimizer]
        self.pathways = {pathway.name: pathway for pathway in tfwm.pathways(model)}
        names = list(self.pathways)
        stayed = [path for path, layer in walk(model) if type(layer) in TWINS]
        left = [path for path in stayed if not fnmatch.fnmatchcase(path, plain)]
        assert not left, f"{left} are plain layers"
        self.top = set(names[-1:] if top is None else top)
        self.first = set(names[:1] if first is None else first)
        self.other_ways, self.callbacks = other_ways or {}, callbacks
        own = [
            variable
            for p in self.pathways.values()
            for variable in (p.feedback_kernel, p.feedback_factor, p.state)
        ]
        feedback = {id(variable) for variable in own}
        self.feedback = [v for v in model.variables if id(v) in feedback]
        self.forward = [v for v in model.variables if id(v) not in feedback]

    def run(self) -> None:
        """The whole proof."""
        self._start_as_backprop()
        start = self._changes()
        for name, change in start.items():
            assert np.abs(change).max() > 0, f"'{name}' does not learn at all"
        if self.feedback:
            self._each_b_carries(start)
            self._each_b_learns()
        self._dw_is_backprop_s(start)

    def _start_as_backprop(self) -> None:
        """Give the model the twin's weights, and its optimizers the twin's state."""
        states = [v for v in _states(self.optimizers) if "feedback" not in v.path]
        for variables, values in (
            (self.forward, self.backprop.weights),
            (states, self.backprop.optimizers),
        ):
            for variable, value in zip(variables, values, strict=True):
                assert variable.shape == value.shape, f"{variable.path} is not its twin's"
                variable.assign(value)

    def _each_b_carries(self, start: dict[str, np.ndarray]) -> None:
        """Take each B away: what is below it must change, and stop where that is the only way."""
        self.moves = moves = dict[str, set[str]]()
        for name, pathway in self.pathways.items():
            with _put_back(self.feedback):
                _take_away(pathway)
                now = self._changes()
            moves[name] = {k for k in now if not np.array_equal(now[k], start[k])}
            for below in moves[name] if pathway.feedback_kernel is not None else ():
                still = np.abs(now[below] - self._still(below)).max() < 1e-6
                another = self._has_another_way(name, below)
                assert still != another, f"'{below}' learns without B of '{name}': {not still}"
        ignored = {name for name, moved in moves.items() if not moved}
        assert ignored <= self.first, f"nothing hears of B of {sorted(ignored - self.first)}"
        assert ignored == self.first, f"B of {sorted(self.first - ignored)} moves something"
        reached = set().union(*moves.values())
        free = set(self.pathways) - reached
        assert free <= self.top, f"no B carries the error to {sorted(free - self.top)}"
        assert free == self.top, f"dW of {sorted(self.top - free)} depends on B"

    def _each_b_learns(self) -> None:
        """B moves if an optimizer is to move it; by the very gradient that the rule says, if known.

        Symmetric alignment knows it of any data, whatever scales or weights the loss.
        """
        taught = [p for p in self.pathways.values() if p.feedback_kernel is not None]
        taught = [p for p in taught if p.feedback_kernel.trainable]
        changes = _step([p.feedback_kernel for p in taught], self._all(), self.step)
        optimizer = getattr(self.optimizers[0], "inner_optimizer", self.optimizers[0])
        plain = type(optimizer) is keras.optimizers.SGD and not optimizer.weight_decay
        for pathway, change in zip(taught, changes, strict=True):
            assert np.abs(change).max() > 0, f"nothing teaches B of '{pathway.name}'"
            if plain and pathway.rule.name == "symmetric_alignment" and not optimizer.momentum:
                b, w = (np.asarray(v, "f8") for v in (pathway.feedback_kernel, pathway.kernel))
                gradient = pathway.rule.decay * b - pathway.rule.alike * w
                times = -(change * gradient).sum() / (gradient * gradient).sum()
                times /= float(optimizer.learning_rate)
                assert abs(times - 1.0) < 1e-3, f"B of '{pathway.name}' learns {times} times"

    def _dw_is_backprop_s(self, start: dict[str, np.ndarray]) -> None:
        """With any B at the top alone; with `B := W` everywhere that B can be W."""
        expected = dict(zip(map(id, self.forward), self.backprop.changes, strict=True))
        for name, pathway in self.pathways.items():
            if name in self.top:
                self._assert_equal(start[name], expected[id(pathway.kernel)], name)
            else:
                gap = np.abs(start[name] - expected[id(pathway.kernel)]).max()
                assert gap > 1e-6, f"'{name}' learns by backprop"
        if any(pathway.is_direct for pathway in self.pathways.values()):
            self._dw_below_the_output_is_backprop_s(expected)
            return
        if any(pathway.rule.name == "sign_symmetry" for pathway in self.pathways.values()):
            return  # what carries the error cannot be W
        with _put_back(self.feedback):
            for pathway in self.pathways.values():
                carry_w(pathway)
            changes = _step(self.forward, self._all(), self.step)
        for variable, change in zip(self.forward, changes, strict=True):
            if variable.trainable:
                self._assert_equal(change, expected[id(variable)], variable.path)

    def _dw_below_the_output_is_backprop_s(self, expected: dict[int, np.ndarray]) -> None:
        """Of the matrices that lead past layers only the output layer's can be W."""
        (output,) = (name for name, p in self.pathways.items() if p.rule.is_output)
        with _put_back(self.feedback):
            self.pathways[output].feedback_kernel.assign(self.pathways[output].kernel)
            changes = self._changes()
        for below in self.moves[output]:
            self._assert_equal(changes[below], expected[id(self.pathways[below].kernel)], below)

    def _assert_equal(self, change: np.ndarray, expected: np.ndarray, name: str) -> None:
        gap, size = np.abs(change - expected).max(), np.abs(expected).max()
        assert gap <= self.tolerance * size + 1e-7, f"dW of '{name}' is off by {gap} of {size}"

    def _has_another_way(self, name: str, below: str) -> bool:
        return any(
            fnmatch.fnmatchcase(name, past) and any(fnmatch.fnmatchcase(below, k) for k in kernels)
            for past, kernels in self.other_ways.items()
        )

    def _still(self, name: str) -> np.ndarray:
        """What a step without any error does to a kernel: decay."""
        kernel = self.pathways[name].kernel.numpy()
        optimizer = self.optimizers[0]
        return -kernel * (optimizer.weight_decay or 0.0) * optimizer.learning_rate.numpy()

    def _changes(self) -> dict[str, np.ndarray]:
        """What one step does to the kernels; everything is then put back."""
        kernels = [pathway.kernel for pathway in self.pathways.values()]
        return dict(zip(self.pathways, _step(kernels, self._all(), self.step), strict=True))

    def _all(self) -> list[keras.Variable]:
        told = [v for callback in self.callbacks for v in callback.state().values()]
        return [*self.forward, *self.feedback, *_states(self.optimizers), *told]


def carry_w(pathway: Any) -> None:
    """Make what carries the error W, as far as rounding goes where B is a product."""
    if pathway.feedback_factor is None:
        pathway.feedback_kernel.assign(pathway.kernel)
    else:
        inverse = np.linalg.pinv(np.asarray(pathway.feedback_factor, "f8"))
        pathway.feedback_kernel.assign(pathway.as_matrices(pathway.kernel) @ inverse)


def _take_away(pathway: Any) -> None:
    """Make B zero; magnitudes that are drawn, others."""
    if pathway.feedback_kernel is None:
        pathway.state.assign(pathway.state + np.array([7, 0]))
    else:
        pathway.feedback_kernel.assign(np.zeros(pathway.feedback_kernel.shape))


def _states(optimizers: list[Any]) -> list[keras.Variable]:
    return [variable for optimizer in optimizers for variable in optimizer.variables]


def _values(variables: Collection[keras.Variable]) -> Values:
    return [np.array(variable.numpy()) for variable in variables]


@contextlib.contextmanager
def _put_back(variables: Collection[keras.Variable]) -> Iterator[None]:
    values = _values(variables)
    yield
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _step(watched: list[Any], kept: list[Any], step: Callable[[], Any]) -> Values:
    """What `step` does to `watched`; `kept` are put back."""
    with _put_back(kept):
        before = _values(watched)
        step()
        after = _values(watched)
    return [now.astype("f8") - then.astype("f8") for now, then in zip(after, before, strict=True)]
