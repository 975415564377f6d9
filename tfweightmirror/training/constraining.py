"""A constraint for the kernels of a whole model."""

import fnmatch
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import keras

from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.arguments import require_model
from tfweightmirror._internals.saving_hooks import layers_in_config
from tfweightmirror._internals.walk import walk
from tfweightmirror.conversion import compiled
from tfweightmirror.layers.carries_rule import refuse_bound_feedback
from tfweightmirror.layers.direct import is_direct, masked
from tfweightmirror.layers.locally_connected import refuse_counting_fans
from tfweightmirror.training.constraints import FixedSign
from tfweightmirror.training.sparse import Sparse

AnyConstraint: TypeAlias = keras.constraints.Constraint | FixedSign | Sparse
# (layer, name of the kernel's attribute, name of the constraint's).
_Site: TypeAlias = tuple[Any, str, str]
_CONSTRAINTS = {
    "kernel": ("kernel_constraint", "depthwise_constraint"),
    "depthwise_kernel": ("depthwise_constraint",),
    "pointwise_kernel": ("pointwise_constraint",),
    "recurrent_kernel": ("recurrent_constraint",),
}
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def constrain(
    model: keras.Model, constraint: AnyConstraint, layers: Sequence[str] = ("*",)
) -> keras.Model:
    """Give the kernels of a built model a constraint, in place, before or after converting it.

    Each kernel gets a copy. A `FixedSign` remembers the signs of now; a `Sparse` draws masks of W
    and B; it and a `GlorotClip` bind B, too. Compiled models keep their optimizers and trace again.
    What is saved has the constraints, which loading restores (after `import tfweightmirror`, also
    of a stripped model).

    Args:
        model: A built Sequential or functional model; such models inside it are looked into.
        constraint: A Keras constraint, as an instance, `FixedSign` or `Sparse`.
        layers: Patterns (`fnmatch`) of layers with kernels, compared with a layer's name, and with
            those of its owners and itself joined by slashes.

    Returns:
        `model` itself.

    Raises:
        ValueError: Nothing is changed: no model; no constraint; a pattern that matches no kernel;
            a kernel that has a constraint already; a layer inside another one whose config would
            not restore the constraint (attention, wrappers, layers of your own: give it
            `kernel_constraint` where it is made); `per="neuron"` where input cells are not one axis
            of the kernel; a `hold` that is 0 in the dtype of a kernel; a share of connections that
            leaves a kernel none, or any under `direct_feedback_alignment`.

    Examples:
        >>> hidden, head = keras.layers.Dense(6, name="hidden"), keras.layers.Dense(3, name="head")
        >>> model = keras.Sequential([keras.Input((4,)), hidden, head])
        >>> model = tfwm.training.constrain(model, tfwm.training.GlorotClip(), layers=["hid*"])
        >>> [type(layer.kernel_constraint).__name__ for layer in model.layers]
        ['GlorotClip', 'NoneType']
    """
    if not isinstance(constraint, AnyConstraint):
        raise ValueError(
            f"constrain received {constraint!r} as the constraint. Expected an instance: one of "
            "Keras' constraints, GlorotClip(), FixedSign() or Sparse()."
        )
    require_model(model)
    sites = _sites(model, layers, constraint)
    changed = [layer for layer, *_ in sites.values()]
    holders = compiled.holders_of(model, changed, carry_over=False)
    config = keras.saving.serialize_keras_object(constraint)
    copies = {  # before anything is changed, since a class of the user's own may not be copied
        path: _copy(config, constraint, f"{layer.name}_{attribute}", path)
        for path, (layer, _, attribute) in sites.items()
    }
    with model.distribute_strategy.scope():
        for path, (layer, kernel, attribute) in sites.items():
            own = copies[path]
            feedback = None if is_direct(layer) else getattr(layer, f"feedback_{kernel}", None)
            if isinstance(own, FixedSign):
                axis = -1 if isinstance(layer, _TRANSPOSED) else -2
                own.remember(getattr(layer, kernel), cells_axis=axis)
            with keras_hooks.adding_weights(layer):
                if isinstance(own, Sparse):  # here, so that paths of masks tell whose they are
                    own.draw(getattr(layer, kernel), feedback)
                setattr(layer, attribute, own)
            getattr(layer, kernel).constraint = own
            if feedback is not None:
                feedback.constraint = getattr(own, "of_feedback", None)
    compiled.renew(holders)
    return model


def _copy(config: Any, constraint: AnyConstraint, name: str, path: str) -> AnyConstraint:
    if not isinstance(constraint, FixedSign | Sparse):
        copy: AnyConstraint = keras.saving.deserialize_keras_object(config)
        return copy
    seed = constraint.seed
    own = None if seed is None else zlib.crc32(f"{seed} {path}".encode()) % 2**31
    remembering = constraint.get_config() | {"name": name, "seed": own}
    return type(constraint).from_config(remembering)


def _sites(
    model: keras.Model, patterns: Sequence[str], constraint: AnyConstraint
) -> dict[str, _Site]:
    """By path what is to be constrained."""
    if isinstance(patterns, str) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise ValueError(f"layers of constrain is {patterns!r}. Expected a list of name patterns.")
    restored = {id(layer) for layer in _in_config(model)}
    sites: dict[str, _Site] = {}
    kernels: list[tuple[str, str, bool]] = []  # path, constraint's attribute, whether restored
    matched: set[str] = set()
    for path, layer in walk(model):
        for kernel, attribute in _kernels_of(layer):
            kernels.append((path, attribute, id(layer) in restored))
            wanted = [p for p in patterns if _matches(path, p)]
            matched.update(wanted)
            if wanted:
                _refuse(path, layer, attribute, constraint, restored=id(layer) in restored)
                if isinstance(constraint, Sparse):
                    constraint.existing(getattr(layer, kernel))
                if isinstance(constraint, FixedSign):
                    constraint.refuse_dtype(getattr(layer, kernel))
                sites[f"{path}/{kernel}"] = (layer, kernel, attribute)
    for pattern in patterns:
        if pattern in matched:
            continue
        for path, attribute, kept in kernels:
            if not kept and any(_matches(owner, pattern) for owner in _owners(path)):
                raise ValueError(_not_restored(path, attribute))
        paths = dict.fromkeys(path for path, _, kept in kernels if kept)
        raise ValueError(
            f"layers of constrain: {pattern!r} matches no built layer with a kernel. Expected "
            f"patterns of {', '.join(paths) or 'a built model'}."
        )
    return sites


def kernels_by_path(model: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Every kernel of a model that may have a constraint, by its layer's path below the model.

    Where a layer has two, their names follow the path.
    """
    found: dict[str, keras.Variable] = {}
    for path, layer in walk(model):
        sites = list(_kernels_of(layer))
        for kernel, _ in sites:
            found[f"{path}/{kernel}" if len(sites) > 1 else path] = getattr(layer, kernel)
    return found


def _in_config(owner: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layers that loading a model makes again from their own configs."""
    for layer in layers_in_config(owner):
        yield layer
        yield from _in_config(layer)


def _kernels_of(layer: keras.layers.Layer) -> Iterator[tuple[str, str]]:
    """Names of a layer's kernels and of what constrains each."""
    for kernel, attributes in _CONSTRAINTS.items():
        if isinstance(getattr(layer, kernel, None), keras.Variable):
            yield from ((kernel, name) for name in attributes if hasattr(layer, name))


def _matches(path: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (path, path.rpartition("/")[2]))


def _owners(path: str) -> list[str]:
    """The paths of all that the layer at `path` stands inside."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _not_restored(path: str, attribute: str) -> str:
    return (
        f"Layer '{path}' stands inside another one, whose config would not restore the constraint "
        f"of a saved model. Give it {attribute} where it is made, or leave it out by patterns."
    )


def _refuse(
    path: str, layer: Any, attribute: str, constraint: AnyConstraint, *, restored: bool
) -> None:
    if getattr(layer, attribute) is not None:
        raise ValueError(
            f"Layer '{path}' has a constraint already ({type(getattr(layer, attribute)).__name__})."
            " Leave it out by patterns, or make it without."
        )
    if not restored:
        raise ValueError(_not_restored(path, attribute))
    if isinstance(constraint, Sparse) and is_direct(layer):
        raise ValueError(masked(layer, path))
    refuse_counting_fans(layer, constraint)
    if (rule := getattr(layer, "rule", None)) is not None:
        refuse_bound_feedback(layer, rule, constraint)
    grouped = getattr(layer, "groups", 1) > 1 or isinstance(layer, keras.layers.EinsumDense)
    if isinstance(constraint, FixedSign) and constraint.per == "neuron" and grouped:
        raise ValueError(
            f"FixedSign per neuron needs input cells along one axis of the kernel, which layer "
            f"'{path}' ({type(layer).__name__}) does not have. Leave it out by patterns."
        )
