"""Whole models: from plain Keras to feedback layers in place, and back."""

import zlib
from typing import Any

import keras

from tfweightmirror import rules
from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.arguments import require_model
from tfweightmirror._internals.walk import walk
from tfweightmirror.conversion import compiled, composite, twins
from tfweightmirror.conversion.output_layer import with_output_layer
from tfweightmirror.conversion.selection import (
    Choice,
    Member,
    Target,
    members_of,
    nothing_to_convert,
    with_ends,
)
from tfweightmirror.layers.carries_rule import CarriesRule


def convert_model(
    model: keras.Model,
    rule: Any,
    *,
    first_layer: Any = None,
    last_layer: Any = None,
    feedback_initializer: Any = None,
    seed: int | None = None,
) -> keras.Model:
    """Make the layers of `model` send errors back by a feedback rule, in place.

    Dense, EinsumDense, convolutions of every kind, locally connected layers, attention, recurrent
    layers and their cells take the class of their feedback twin and, if built, get feedback
    kernels. Weights, names, `trainable` flags and outputs do not change by a bit. The model may be
    unbuilt, built, compiled or trained; nested, shared and wrapped layers are found. A compiled
    model keeps its optimizer, with its state, and traces its functions again, and so does every
    other living model that shares a converted layer. B joins every optimizer that knows its W,
    several in one model's attributes included.

    What cannot be reached: a `tf.function` of your own around the model that has already traced a
    call of it, such as a training step. Make it after converting. Those that the model's own layers
    call are made to trace again, wherever they stand, if the model knows its input shapes.

    Args:
        model: A Keras model.
        rule: A feedback rule (a name or alias, a config or a `FeedbackRule`) for all layers, or a
            dict from pattern to rule. A pattern (`fnmatch`: `"conv*"`, `"encoder/*"`) is compared
            with a layer's name and with the names of its owners and itself joined by slashes; the
            first that matches counts, and a layer that none matches is left alone. The rule
            `"backprop"` in a dict leaves layers alone, too; given for all layers, it makes twins
            that carry the error on W, bit-equal to the plain layers: a control. The rule
            `"direct_feedback_alignment"` wants a built model with one output layer, of that rule.
        first_layer: A rule for the first layer that can be converted, in execution order (tracking
            order if the model is not built): the one that reads the data. `"no_feedback"` spares
            its B, which no error needs. A model with several inputs wants patterns instead.
        last_layer: The same of the last one: the classifier. `"backprop"` leaves it a plain layer.
            A model with several heads wants patterns instead.
        feedback_initializer: What feedback kernels start from, a Keras initializer or its name,
            with a seed of its own for each. Default: that of each layer's kernel, or the rule's.
        seed: Makes the feedback kernels a function of (seed, position of the layer). Default: of
            the seeds of the layers' own initializers.

    Returns:
        `model` itself.

    Raises:
        ValueError: Nothing is changed, and the sentence names what is in the way: no model, no
            layer to convert, an unknown rule, a pattern that matches nothing or only layers that
            no rule supports, a layer that is a feedback layer already, that is quantized or has
            LoRA, that is a subclass of a supported layer, or whose equation has no matrix; under
            `direct_feedback_alignment` a model without one output layer, or with layers that its
            error cannot be sent to.

    Warns:
        UserWarning: ConvLSTM layers, or others with matrices of their own, stay on backprop; or
            models around this one are out of sight behind `gc.freeze()`.

    Examples:
        >>> units = {"hidden_1": 16, "hidden_2": 16, "head": 2}
        >>> layers = [keras.layers.Dense(count, name=name) for name, count in units.items()]
        >>> model = keras.Sequential([keras.Input((8,)), *layers])
        >>> rules = {"*_1": "kolen_pollack", "*": "feedback_alignment"}
        >>> model = tfwm.convert_model(model, rules, last_layer="backprop")
        >>> [(p.name, p.rule.name) for p in tfwm.pathways(model)]  # the head is a plain layer
        [('hidden_1', 'kolen_pollack'), ('hidden_2', 'feedback_alignment')]
    """
    require_model(model)
    choice = Choice.of(rule)
    members = members_of(model)
    choice.check(members)
    targets = choice.targets(members)
    ends = {"first": first_layer, "last": last_layer}
    own = {end: None if one is None else rules.get(one) for end, one in ends.items()}
    targets = with_ends(model, members, targets, **own)
    for path, layer, target_rule in targets:
        twins.refuse(layer, path, target_rule)
    if not targets:
        raise ValueError(nothing_to_convert(model, members))
    targets = with_output_layer(model, members, targets)
    joins = any(target_rule.learns_by == "optimizer" for *_, target_rule in targets)
    holders = compiled.holders_of(model, [layer for _, layer, _ in targets], carry_over=joins)
    choice.warn_of_unsupported(members)
    initializer = feedback_initializer and keras.initializers.get(feedback_initializer)

    with model.distribute_strategy.scope():
        _convert(targets, seed, initializer)
    compiled.renew(holders, joining=[c for _, layer, _ in targets for c in twins.companions(layer)])
    _watch_unbuilt(model, "", choice, members, seed, initializer)
    for holder in holders.models:
        composite.mark(holder)
    return model


def strip_feedback(model: keras.Model) -> keras.Model:
    """Make a model plain Keras again, in place: the inverse of `convert_model`.

    Feedback layers, converted or made by hand, take the class of the plain layer. Feedback kernels
    and all that rules have stored are deleted, and so is their state in the optimizer; everything
    else, forward weights and iterations included, stays bit for bit. The model then saves as a file
    that loads without this library, unless it has layers of `tfweightmirror.layers` beside.

    Args:
        model: A Keras model with feedback layers.

    Returns:
        `model` itself.

    Raises:
        ValueError: `model` is not a Keras model, has no feedback layer, or has one that is of a
            class of your own, for which there is no plain class.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> x = np.ones((1, 3))
        >>> before = tfwm.convert_model(model, "feedback_alignment")(x)
        >>> len(model.weights), len(tfwm.strip_feedback(model).weights)  # B is gone
        (3, 2)
        >>> type(model.layers[0]) is keras.layers.Dense, bool(tf.reduce_all(model(x) == before))
        (True, True)
    """
    require_model(model)
    found: list[tuple[str, Any]] = [
        (path, layer) for path, layer in members_of(model) if isinstance(layer, CarriesRule)
    ]
    if not found:
        raise ValueError(
            f"Model '{model.name}' has no feedback layer to strip: convert it with "
            "convert_model(model, rule), or leave it as the plain Keras model that it is."
        )
    for path, layer in found:
        if type(layer) not in twins.PLAIN_CLASSES:
            raise ValueError(
                f"Layer '{path}' is a {type(layer).__name__}, a feedback layer with no plain Keras "
                "class to go back to. Rebuild the model with a plain layer in its place, and copy "
                "the weights."
            )
    leaves = any(twins.companions(layer) for _, layer in found if layer.built)
    holders = compiled.holders_of(model, [layer for _, layer in found], carry_over=leaves)
    leaving = [variable for _, layer in found for variable in twins.to_plain(layer)]
    for _, layer in walk(model):
        keras_hooks.forget_after_build(layer)
    compiled.renew(holders, leaving=leaving)
    for holder in holders.models:
        composite.mark(holder)
    return model


def _convert(targets: list[Target], seed: Any, initializer: Any) -> None:
    """Convert all targets, or, if one fails, none."""
    changed: list[keras.layers.Layer] = []
    try:
        for position, (_, layer, rule) in enumerate(targets):
            changed.append(layer)
            own_seed = None if seed is None else zlib.crc32(f"{seed} {position}".encode())
            twins.to_twin(
                layer, rule, seed=own_seed, place=position, feedback_initializer=initializer
            )
    except BaseException:
        for layer in changed:
            if type(layer) in twins.PLAIN_CLASSES:
                twins.to_plain(layer)
        raise


def _watch_unbuilt(
    owner: keras.layers.Layer,
    prefix: str,
    choice: Choice,
    known: list[Member],
    seed: Any,
    initializer: Any,
) -> None:
    """See to the layers that an unbuilt layer of somebody else's will make when it is built.

    They do not exist yet, and would train by plain backprop.
    """
    seen = {id(layer) for _, layer in known}
    for position, (path, layer) in enumerate(walk(owner)):
        by_keras = type(layer).__module__.startswith("keras.src.")
        if layer.built or by_keras or twins.has_twin(layer):
            continue
        inside = f"{prefix}{path}/" if layer is not owner else prefix

        def convert_newcomers(
            layer: keras.layers.Layer = layer, inside: str = inside, position: int = position
        ) -> None:
            members = [
                (path, newcomer)
                for path, newcomer in members_of(layer)
                if id(newcomer) not in seen and not isinstance(newcomer, CarriesRule)
            ]
            targets = choice.targets(members, inside)
            for path, newcomer, own_rule in targets:
                twins.refuse(newcomer, inside + path, own_rule)
            own_seed = None if seed is None else f"{seed} {position}"
            _convert(targets, own_seed, initializer)
            _watch_unbuilt(layer, inside, choice, known + members, own_seed, initializer)
            composite.mark(layer)

        keras_hooks.after_build(layer, convert_newcomers)
