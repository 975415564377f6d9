"""What this library asks of Keras' optimizers, and how their state is carried over.

With `twin_hooks.py` every private hook of optimizers that it uses.
`tests/_internals/test_optimizer_hooks.py` is their canary; pyproject.toml pins the range of Keras.
"""

import functools
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.callers import selves_calling
from tfweightmirror._internals.docs import see


def inner_of(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer below loss scaling."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def that_constrains() -> keras.optimizers.Optimizer | None:
    """The optimizer whose `apply` led to this call, directly or not, in the same thread."""
    callers = selves_calling("apply")
    return next((c for c in callers if isinstance(c, keras.optimizers.Optimizer)), None)


def value_of(variable: Any) -> Any:
    """TensorFlow's variable."""
    # Not `value`, which in a layer's call is a tensor of the compute precision.
    return variable._value if isinstance(variable, keras.Variable) else variable


def decay_of(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> float:
    """The decoupled weight decay that `optimizer` gives to `variable`; 0.0 for none."""
    # Names are matched against those of TensorFlow's variables, which are paths; in Muon against
    # Keras' own, which are not. The first answer is kept, so to ask otherwise would change it.
    muon = isinstance(optimizer, keras.optimizers.Muon)
    if not optimizer._use_weight_decay(variable if muon else value_of(variable)):
        return 0.0
    if muon and optimizer._should_use_adamw(variable):
        return float(optimizer.adam_weight_decay or 0.0)
    return float(optimizer.weight_decay or 0.0)


def coupled_decay_of(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> float:
    """The weight decay that `optimizer` adds to the gradient of `variable`; 0.0 for none.

    No Keras optimizer has one. A subclass whose `update_step` adds `coupled_weight_decay * weight`
    to the gradient (behind clipping, before momentum), but for what `exclude_from_weight_decay`
    names, says so by an attribute of that name.
    """
    decay = getattr(optimizer, "coupled_weight_decay", None)
    return float(decay) if decay and optimizer._use_weight_decay(value_of(variable)) else 0.0


def per_step_decay_of(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> float:
    """The share of `variable` that every update takes, whatever the learning rate; 0.0 for none.

    No Keras optimizer has one. A subclass whose `update_step` first takes
    `per_step_weight_decay * weight` of each weight, but for what `exclude_from_weight_decay` names,
    says so by an attribute of that name.
    """
    decay = getattr(optimizer, "per_step_weight_decay", None)
    return float(decay) if decay and optimizer._use_weight_decay(value_of(variable)) else 0.0


def any_decay_of(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> float:
    """The decay of `variable` by whichever of the three ways `optimizer` has; 0.0 for none."""
    ways = (decay_of, coupled_decay_of, per_step_decay_of)
    return next((decay for way in ways if (decay := way(optimizer, variable))), 0.0)


def velocity_of(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> keras.Variable | None:
    """The momentum that an SGD optimizer keeps for `variable`; None if it has none (yet)."""
    velocities = getattr(optimizer, "momentums", None)
    place = optimizer._trainable_variables_indices.get(optimizer._var_key(variable))
    return velocities[place] if velocities and place is not None else None


def same_update(
    optimizer: keras.optimizers.Optimizer, one: keras.Variable, other: keras.Variable
) -> bool:
    """Whether `optimizer` treats two variables of one shape by the same formula."""
    if isinstance(optimizer, keras.optimizers.Muon):
        return bool(optimizer._should_use_adamw(one) == optimizer._should_use_adamw(other))
    return True


def scale_gradients_of_local_losses() -> None:
    """Make optimizers that unscale gradients first scale those that no loss has scaled.

    A feedback kernel that learns from its layer's signals (`learns_from_signals`) has a gradient of
    its own, on which the scale of the loss has no effect; optimizers divide every gradient by it.
    """
    for cls in (keras.optimizers.Optimizer, keras.optimizers.LossScaleOptimizer):
        cls.apply = _scaling_first(cls.apply)


def _scaling_first(apply: Any) -> Any:
    @functools.wraps(apply)
    def scaled(optimizer: Any, grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        given = (
            optimizer._trainable_variables
            if trainable_variables is None
            else list(trainable_variables)
        )
        for variable in given:
            _refuse_another_step(optimizer, variable)
        again = None if trainable_variables is None else given
        dynamic = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        scale = optimizer.initial_scale if dynamic else optimizer.loss_scale_factor
        if scale is None:
            return apply(optimizer, grads, again)
        if dynamic and optimizer.built:
            scale = tf.convert_to_tensor(optimizer.dynamic_scale)
        own = [getattr(variable, "learns_from_signals", False) for variable in given]
        _refuse_half_scaled(optimizer, given, own)
        if len(own) == len(grads):  # else Keras says what is wrong
            grads = [
                gradient * tf.cast(scale, gradient.dtype)
                if by_itself and gradient is not None
                else gradient
                for gradient, by_itself in zip(grads, own, strict=True)
            ]
        return apply(optimizer, grads, again)

    return scaled


def _refuse_another_step(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> None:
    """Raise a ValueError for a B that is updated before errors pass, by another step than said."""
    rate = getattr(variable, "updated_first_at", 0.0)
    if not rate:
        return
    with tf.init_scope():  # the rate is a variable
        config = optimizer.get_config()
    names = ["momentum", "nesterov", "weight_decay", "use_ema", "gradient_accumulation_steps"]
    names += ["clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor"]
    given = {name: config[name] for name in names if config.get(name)}
    found = config.get("learning_rate")
    plain = type(optimizer) is keras.optimizers.SGD and not given
    if not plain or not isinstance(found, float) or abs(found - rate) > 1e-5 * rate:
        given["learning_rate"] = found
        what = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(
            f"'{variable.path}' is updated before errors pass it, by plain SGD of the learning "
            f"rate {rate} (ahead), and the optimizer is {type(optimizer).__name__} with {what}. "
            f"Expected keras.optimizers.SGD({rate}), or ahead=0."
            + see("updated-random-feedback", "science")
        )


def _refuse_half_scaled(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable], own: list[bool]
) -> None:
    """Raise a ValueError for a B whose gradient is a sum of what is scaled and what is not."""
    for variable, by_itself in zip(variables, own, strict=True):
        if by_itself and getattr(variable, "learns_from_errors", False):
            raise ValueError(
                f"Optimizer '{optimizer.name}' ({type(optimizer).__name__}) scales the loss, and "
                f"'{variable.path}' learns from errors, which are scaled, and from a local loss, "
                "which is not: their sum cannot be unscaled. Train without loss scaling (float32 "
                "or mixed_bfloat16), or let the rule have feedback_gradient or local_loss alone."
                + see("local-losses", "science")
            )


# --- state that is carried over to other variables ----------------------------------------------


def optimizers_knowing(variables: Iterable[keras.Variable]) -> list[keras.optimizers.Optimizer]:
    """Every living optimizer that keeps state for one of `variables`: those of training loops."""
    wanted = {id(variable) for variable in variables}
    return [
        optimizer
        for optimizer in keras_hooks.living(keras.optimizers.Optimizer)
        if optimizer.built and not wanted.isdisjoint(map(id, known_variables(optimizer)))
    ]


def known_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The model's variables that a built optimizer keeps state for, in its order."""
    return list(optimizer._trainable_variables)


def variables_in_use(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """TensorFlow's variables that hold the state of `optimizer` now."""
    return [value_of(variable) for variable in optimizer.variables]


def is_state(value: Any) -> bool:
    """Whether `value` is a Keras variable or a list of them (or None) alone."""
    if isinstance(value, list):
        return bool(value) and all(v is None or isinstance(v, keras.Variable) for v in value)
    return isinstance(value, keras.Variable)


def optimizer_state(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Attributes that hold state: a variable, or a list that runs along the known variables."""
    state = {
        name: list(value) if isinstance(value, list) else value
        for name, value in vars(optimizer).items()
        if name not in ("_variables", "_trainable_variables") and is_state(value)
    }
    lists = [value for value in state.values() if isinstance(value, list)]
    reached = {id(v) for v in state.values()} | {id(v) for slots in lists for v in slots}
    known = len(known_variables(optimizer))
    if any(len(slots) != known for slots in lists) or not reached.issuperset(
        id(variable) for variable in optimizer._variables
    ):
        raise ValueError(
            f"Optimizer '{optimizer.name}' ({type(optimizer).__name__}) keeps state in a form "
            "that cannot be carried over to another set of weights (expected: one variable, or "
            "one list of variables along the weights, an attribute). Compile the model after this "
            "call instead of before." + see("unknown-optimizer-state")
        )
    return state


def build_again(
    optimizers: list[keras.optimizers.Optimizer], variables: list[keras.Variable]
) -> None:
    """Build `optimizers[0]` anew for `variables`, and those inside it, `optimizers[1:]`, too.

    What their constructors made (iterations, learning rate) stays, the same objects; what `build`
    makes is new and fresh.
    """
    before = [list(optimizer._variables) for optimizer in optimizers]
    for optimizer in optimizers:
        _store_variables(optimizer, [])
        optimizer._trainable_variables_indices = {}
        optimizer.built = False
    optimizers[0].build(variables)
    for optimizer, old in zip(optimizers, before, strict=True):
        held = {id(value) for value in vars(optimizer).values()}
        kept = [variable for variable in old if id(variable) in held]
        _store_variables(optimizer, kept + list(optimizer._variables))


def _store_variables(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> None:
    # As at birth: set before there is a tracker, which is to append to this very list.
    tracker = optimizer.__dict__.pop("_tracker")
    optimizer._variables = variables
    optimizer.__dict__["_tracker"] = tracker
    is_variable, _ = tracker.config["variables"]
    tracker.config["variables"] = (is_variable, optimizer._variables)
    tracker.stored_ids["variables"] = {id(variable) for variable in variables}
