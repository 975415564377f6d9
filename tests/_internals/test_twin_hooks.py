"""Canary: W and B move as one by private hooks that still do what this library relies on."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests._internals.test_optimizer_hooks import named, network, twins
from tests.slow import slow_but
from tfweightmirror._internals.optimizer_hooks import known_variables, optimizer_state
from tfweightmirror._internals.twin_hooks import READ_NO_WEIGHTS, update_as_one, watch_updates

O = keras.optimizers  # noqa: E741  # as `K` and `L` elsewhere

# Every option that gives a step another branch.
OPTIONS: dict[str, Callable[..., Any]] = {
    "SGD": lambda cls: cls(0.1, weight_decay=0.3),
    "momentum": lambda cls: cls(0.1, momentum=0.9, weight_decay=0.3),
    "Nesterov": lambda cls: cls(0.1, momentum=0.9, nesterov=True, weight_decay=0.3),
    "RMSprop": lambda cls: cls(0.01, weight_decay=0.3),
    "RMSprop, centered": lambda cls: cls(0.01, momentum=0.5, centered=True, weight_decay=0.3),
    "Adam": lambda cls: cls(0.01, weight_decay=0.3),
    "Adam, amsgrad": lambda cls: cls(0.01, amsgrad=True, weight_decay=0.3),
    "AdamW": lambda cls: cls(0.01, weight_decay=0.3),
    "Adamax": lambda cls: cls(0.01, weight_decay=0.3),
    "Nadam": lambda cls: cls(0.01, weight_decay=0.3),
    "Adagrad": lambda cls: cls(0.01, weight_decay=0.3),
    "Adadelta": lambda cls: cls(0.5, weight_decay=0.3),
    "Lion": lambda cls: cls(0.01, weight_decay=0.3),
    "Muon": lambda cls: cls(0.01, weight_decay=0.3, exclude_layers=["head"]),
    "clipping": lambda cls: cls(0.1, momentum=0.9, weight_decay=0.3, global_clipnorm=0.5),
    "accumulation": lambda cls: cls(0.1, momentum=0.9, gradient_accumulation_steps=3),
}
CLASSES = {"momentum": O.SGD, "Nesterov": O.SGD, "clipping": O.SGD, "accumulation": O.SGD}


def class_of(name: str) -> Any:
    """The Keras optimizer that a name in `OPTIONS` is of."""
    return CLASSES.get(name) or getattr(O, name.partition(",")[0])


def may_read_weights(cls: Any) -> Any:
    """The same optimizer as a class of a user's own, of whose step nothing is known."""

    class Own(cls):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate)

    return Own


def gradients_at(step: int, variables: list[Any]) -> list[tf.Tensor]:
    """Gradients of these variables, others at every step; equal for W and B."""
    lengths = [len(variable.path.replace("feedback_", "")) for variable in variables]
    return [
        tf.random.stateless_normal(variable.shape, (step, length))
        for variable, length in zip(variables, lengths, strict=True)
    ]


def trained(optimizer: Any, *, updates: int = 4, of_twins: float = 1.0) -> dict[str, np.ndarray]:
    """All variables of the network after updates as one; B's gradients come times `of_twins`."""
    keras.utils.set_random_seed(1)
    model = network()
    update_as_one(optimizer, twins(model))
    for step in range(updates):
        variables = model.trainable_variables
        factors = [of_twins if "feedback" in v.path else 1.0 for v in variables]
        found = zip(gradients_at(step, variables), factors, strict=True)
        optimizer.apply([gradient * factor for gradient, factor in found], variables)
    return {path: variable.numpy() for path, variable in named(model).items()}


def distinct(optimizer: Any) -> int:
    """How many variables an optimizer really has."""
    return len({id(variable._value) for variable in optimizer.variables})


# --- the very increment -------------------------------------------------------------------------


def test_every_optimizer_of_the_list_is_tested() -> None:
    assert {class_of(name) for name in OPTIONS} == set(READ_NO_WEIGHTS)


@pytest.mark.parametrize("name", slow_but(["Nesterov", "AdamW"], OPTIONS))
def test_the_increment_of_w_is_what_a_step_of_its_own_would_give_b(name: str) -> None:
    """To the bit, over 24 steps, whatever gradient B comes with; and with W's state alone."""
    cls, make = class_of(name), OPTIONS[name]
    shared, own = make(cls), make(may_read_weights(cls))
    one, two = (trained(each, updates=24, of_twins=100.0) for each in (shared, own))
    assert one.keys() == two.keys()
    for path, value in two.items():
        np.testing.assert_array_equal(one[path], value, err_msg=path)
    # Files hold what they would hold.
    for ours, theirs in zip(shared.variables, own.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    slots = [s for s in optimizer_state(own).values() if isinstance(s, list)]
    of_b = [path for path in one if "feedback" in path]
    saved = sum(slot is not None for one in slots for slot in one[: len(of_b)])
    assert distinct(shared) == len(shared.variables) - saved
    assert saved or name == "SGD"


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_of_the_list_reads_no_weight(name: str) -> None:
    def steps(value: float) -> list[np.ndarray]:
        return recorded(OPTIONS[name](class_of(name)), value)

    assert len(steps(0.0)) >= 2
    for one, other in zip(steps(0.0), steps(300.0), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("cls", [O.Lamb, O.Adafactor])
def test_a_step_that_reads_weights_would_be_seen(cls: Any) -> None:
    assert cls not in READ_NO_WEIGHTS
    pairs = zip(recorded(cls(0.1), 0.0), recorded(cls(0.1), 300.0), strict=True)
    assert not all(np.array_equal(one, other) for one, other in pairs)


def recorded(optimizer: Any, value: float) -> list[np.ndarray]:
    """The increments of a matrix of that value, in six updates."""
    matrix = keras.Variable(tf.fill((3, 4), value), name="kernel")
    optimizer.weight_decay, increments = None, list[np.ndarray]()
    for name in ("assign_add", "assign_sub"):
        stock = getattr(optimizer, name)

        def assign(variable: Any, value: Any, stock: Any = stock) -> None:
            if variable is matrix._value:
                increments.append(tf.convert_to_tensor(value).numpy())
            stock(variable, value)

        setattr(optimizer, name, assign)
    for step in range(6):
        optimizer.apply(gradients_at(step, [matrix]), [matrix])
    return increments


def test_decay_takes_of_b_its_own_share() -> None:
    keras.utils.set_random_seed(1)
    model = network()
    gaps = [b.numpy() - w.numpy() for w, b in twins(model)]
    optimizer = O.SGD(0.1, momentum=0.9, weight_decay=0.5)
    update_as_one(optimizer, twins(model))
    variables = model.trainable_variables
    for step in range(10):
        optimizer.apply(gradients_at(step, variables), variables)
    for (w, b), gap in zip(twins(model), gaps, strict=True):
        np.testing.assert_allclose(b.numpy() - w.numpy(), gap * 0.95**10, atol=1e-6)


@pytest.mark.parametrize("own_class", [False, True])
def test_two_twins_of_one_variable_are_both_moved(own_class: bool) -> None:
    w, *of_w = (keras.Variable(tf.random.normal((3, 4))) for _ in range(3))
    optimizer = (may_read_weights(O.AdamW) if own_class else O.AdamW)(0.1, weight_decay=0.5)
    update_as_one(optimizer, [(w, twin) for twin in of_w])
    before = [twin - w for twin in of_w]
    for _ in range(3):
        optimizer.apply([tf.random.normal((3, 4))] * 3, [w, *of_w])
    for twin, gap in zip(of_w, before, strict=True):
        np.testing.assert_allclose(twin - w, gap * 0.95**3, atol=1e-6)


# --- one gradient, not two ----------------------------------------------------------------------

CLIPPING = {
    "no clipping": {},
    "clipnorm": {"clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.3},
    "global_clipnorm": {"global_clipnorm": 0.5},
    "accumulation": {"gradient_accumulation_steps": 2, "global_clipnorm": 0.5},
    "loss scale": {"loss_scale_factor": 8.0, "global_clipnorm": 0.5},
}


def without_twins(optimizer: Any) -> dict[str, np.ndarray]:
    """W, B and biases after four updates of W and biases alone."""
    keras.utils.set_random_seed(1)
    model = network()
    variables = [v for v in model.trainable_variables if "feedback" not in v.path]
    for step in range(4):
        optimizer.apply(gradients_at(step, variables), variables)
    return {path: variable.numpy() for path, variable in named(model).items()}


@pytest.mark.parametrize("name", CLIPPING)
def test_w_trains_as_if_there_were_no_b(name: str) -> None:
    def optimizer() -> Any:
        return O.SGD(0.1, momentum=0.9, **CLIPPING[name])

    alone, as_one = without_twins(optimizer()), trained(optimizer(), of_twins=100.0)
    for path, value in alone.items():
        if "feedback" in path:  # `value` is where B began
            of_w = path.replace("feedback_", "")
            start = trained(optimizer(), updates=0)
            moved = as_one[path] - value
            np.testing.assert_allclose(moved, as_one[of_w] - start[of_w], atol=1e-6)
            assert np.abs(moved).max() > 1e-3
        else:
            np.testing.assert_array_equal(as_one[path], value)


def test_otherwise_a_global_norm_would_count_b() -> None:
    alone = without_twins(O.SGD(0.1, global_clipnorm=0.5))
    keras.utils.set_random_seed(1)
    model, optimizer = network(), O.SGD(0.1, global_clipnorm=0.5)
    for step in range(4):
        optimizer.apply(gradients_at(step, model.trainable_variables), model.trainable_variables)
    assert np.abs(named(model)["head/kernel"].numpy() - alone["head/kernel"]).max() > 1e-3


def test_a_part_without_gradients_stands_still_whole() -> None:
    model, optimizer = network(), O.SGD(0.1, weight_decay=0.5)
    update_as_one(optimizer, twins(model))
    variables, before = model.trainable_variables, {p: v.numpy() for p, v in named(model).items()}
    gradients = gradients_at(0, variables)
    gradients[:3] = [None] * 3
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply(gradients, variables)
    moved = {p for p, v in named(model).items() if not np.array_equal(v.numpy(), before[p])}
    assert moved == {"head/kernel", "head/bias", "head/feedback_kernel"}


def test_gradients_that_do_not_match_are_refused() -> None:
    model, optimizer = network(), O.SGD(0.1)
    update_as_one(optimizer, twins(model))
    variables = model.trainable_variables
    with pytest.raises(ValueError, match="received 5 gradients for 6 variables"):
        optimizer.apply(gradients_at(0, variables[1:]), variables)
    with pytest.raises(ValueError, match="must already be built"):
        optimizer.apply(gradients_at(0, variables))
    optimizer.build(variables)
    with pytest.raises(ValueError, match="received 5 gradients for 6 variables"):
        optimizer.apply(gradients_at(0, variables[1:]))
    before = [variable.numpy() for variable in variables]
    optimizer.apply(gradients_at(0, variables))
    assert not any(np.array_equal(v, b) for v, b in zip(variables, before, strict=True))


# --- optimizers of users ------------------------------------------------------------------------


class Assigns(O.SGD):
    """Takes its step by an assignment of the whole value, which holds no increment."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = tf.cast(learning_rate, variable.dtype)
        variable.assign(variable * (1 - self.per_step_weight_decay) - rate * gradient)

    per_step_weight_decay = 0.05


class MovesElsewhere(O.SGD):
    """Takes all steps at once."""

    def _backend_update_step(
        self, grads: Any, trainable_variables: Any, learning_rate: Any
    ) -> None:
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            variable.assign_sub(learning_rate * gradient)


def test_a_step_that_assigns_whole_values_is_taken_for_b_too() -> None:
    start, after = trained(Assigns(0.1), updates=0), trained(Assigns(0.1), updates=10)
    for name in ("hidden", "head"):
        gaps = [v[f"{name}/feedback_kernel"] - v[f"{name}/kernel"] for v in (start, after)]
        np.testing.assert_allclose(gaps[1], gaps[0] * 0.95**10, atol=1e-6)


@pytest.mark.parametrize("traced", [False, True])
def test_an_optimizer_that_moves_w_out_of_sight_is_refused(traced: bool) -> None:
    model, optimizer = network(), MovesElsewhere(0.1)
    update_as_one(optimizer, twins(model))
    variables = model.trainable_variables
    optimizer.build(variables)

    def step() -> None:
        optimizer.apply(gradients_at(0, variables), variables)

    said = r"MovesElsewhere moves '.*hidden/kernel' in another.*feedback_kernel' would stand still"
    with pytest.raises(ValueError, match=said):
        tf.function(step, autograph=False)() if traced else step()


def test_an_update_that_waits_is_not_out_of_sight() -> None:
    model = network()
    scaled = O.LossScaleOptimizer(O.SGD(0.1, gradient_accumulation_steps=2))
    update_as_one(scaled, twins(model))
    variables, before = model.trainable_variables, [b.numpy() for _, b in twins(model)]
    scaled.apply([g * np.inf for g in gradients_at(0, variables)], variables)
    scaled.apply(gradients_at(0, variables), variables)
    for (_, b), start in zip(twins(model), before, strict=True):
        np.testing.assert_array_equal(b, start)
    scaled.apply(gradients_at(0, variables), variables)
    for (_, b), start in zip(twins(model), before, strict=True):
        assert not np.array_equal(b, start)


# --- coming and going ---------------------------------------------------------------------------


def test_undoing_leaves_what_two_steps_would_have_left() -> None:
    model, stock = network(), network()
    for ours, theirs in zip(model.variables, stock.variables, strict=True):
        ours.assign(theirs)
    optimizers = [O.AdamW(0.01, weight_decay=0.5) for _ in range(2)]
    variables = [model.trainable_variables, stock.trainable_variables]

    def update(steps: range) -> None:
        for step in steps:
            for optimizer, of_model in zip(optimizers, variables, strict=True):
                optimizer.apply(gradients_at(step, of_model), of_model)

    update(range(2))
    assert distinct(optimizers[0]) == 14
    undo = update_as_one(optimizers[0], twins(model))
    assert distinct(optimizers[0]) == 10  # at once: checkpoints are made of it
    update(range(2, 4))
    undo()
    undo()  # Twice does no harm.
    assert distinct(optimizers[0]) == 14
    hooks = ("apply", "update_step", "_apply_weight_decay", "assign_add", "assign_sub")
    assert not any(hook in vars(optimizers[0]) for hook in hooks)
    update(range(4, 6))
    for ours, theirs in zip(model.variables, stock.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    for ours, theirs in zip(*(optimizer.variables for optimizer in optimizers), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_shared_state_is_saved_and_restored_as_state_of_each(tmp_path: Any) -> None:
    """By TensorFlow's checkpoints, and from and into an optimizer that shares nothing."""

    def made(shared: bool) -> tuple[Any, tf.train.Checkpoint]:
        model, optimizer = network(), O.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)
        if shared:
            update_as_one(optimizer, twins(model))
        variables = model.trainable_variables
        optimizer.apply(gradients_at(int(shared), variables), variables)
        return optimizer, tf.train.Checkpoint(optimizer=optimizer)

    for shared in (True, False):
        optimizer, checkpoint = made(shared)
        path = checkpoint.write(tmp_path / f"{shared}")
        for into in (True, False):
            other, restored = made(into)
            for variable in other.variables[2:]:
                variable.assign(variable * 2.0)
            restored.read(path).assert_consumed()
            for ours, theirs in zip(other.variables, optimizer.variables, strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_an_optimizer_that_is_rebuilt_meanwhile_shares_again() -> None:
    from tfweightmirror._internals.optimizer_hooks import build_again

    model, optimizer = network(), O.SGD(0.1, momentum=0.9)
    undo = update_as_one(optimizer, twins(model))
    variables = model.trainable_variables
    optimizer.apply(gradients_at(0, variables), variables)
    build_again([optimizer], known_variables(optimizer))
    optimizer.apply(gradients_at(1, variables), variables)
    assert distinct(optimizer) == 6
    undo()
    of = dict(zip([v.path for v in variables], optimizer.momentums, strict=True))
    for kernel, feedback in twins(model):
        np.testing.assert_array_equal(of[feedback.path], of[kernel.path])


# --- watching updates ---------------------------------------------------------------------------


def test_watching_tells_what_moved_and_when() -> None:
    model, told = network(), []
    optimizer = O.LossScaleOptimizer(
        O.SGD(O.schedules.ExponentialDecay(0.1, 1, 0.5), gradient_accumulation_steps=2)
    )
    variables = model.trainable_variables
    undo = watch_updates(
        optimizer,
        lambda moved: told.append(moved),
        lambda moved, *numbers: told.append((moved, *(float(n) for n in numbers))),
    )
    gradients = [None, *(tf.ones(v.shape) for v in variables[1:])]
    overflow = [g if g is None else g * np.inf for g in gradients]
    for _ in range(2):
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply(gradients, variables)
    optimizer.apply(overflow, variables)
    moved = {id(v.value) for v in variables[1:]}
    assert told[::2] == [moved] * 3
    rates = [0.1, 0.1 * 0.5, 0.1 * 0.25]  # of Keras' steps, accumulated ones included
    expected = [(0, 0), (0, 1), (1, 1)]  # updates before and after
    for (ids, rate, *updates), wanted, done in zip(told[1::2], rates, expected, strict=True):
        assert ids == moved
        assert rate == pytest.approx(wanted)
        assert tuple(updates) == done
    undo()
    undo()  # Twice does no harm.
    assert "apply" not in vars(optimizer)
