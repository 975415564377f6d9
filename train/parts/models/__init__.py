"""Networks by name. A new one is a function here and a line below, or a function anywhere else.

A model is a callable `(input_shape, output_shape, **options) -> keras.Model` from a batch of
`input_shape` to logits, or values, of `output_shape`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from train.config import Part
from train.errors import UserError, see
from train.parsing.yaml_file import plain
from train.parts.models.alexnet import alexnet
from train.parts.models.amit import deepernet, deepernet_s, simpnet
from train.parts.models.applications import densenet, mobilenet
from train.parts.models.autoencoder import autoencoder
from train.parts.models.brain_like import brain_like
from train.parts.models.mlp import mlp
from train.parts.models.resnet import resnet18, resnet50
from train.parts.models.retinanet import retinanet
from train.parts.models.sequences import rnn, transformer
from train.parts.models.small_conv import small_conv
from train.parts.named import checked_options, find, options_of, refusals

MODELS: dict[str, Callable[..., Any]] = {
    "small_conv": small_conv,
    "mlp": mlp,
    "brain_like": brain_like,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "alexnet": alexnet,
    "simpnet": simpnet,
    "deepernet": deepernet,
    "deepernet_s": deepernet_s,
    "retinanet": retinanet,
    "mobilenet": mobilenet,
    "densenet": densenet,
    "autoencoder": autoencoder,
    "rnn": rnn,
    "transformer": transformer,
}
SHAPES = ("input_shape", "output_shape")


def check(part: Part) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that builds the model, and its options.

    Raises:
        UserError: If the model or an option is not known.
    """
    function = find("model", part.name, MODELS)
    if not callable(function):
        raise UserError(
            f"model={part.name} is {function!r}. Expected a callable (input_shape, output_shape, "
            f"**options) that gives a Keras model." + see("parts-of-your-own", "own_parts")
        )
    given = _given(function)
    return function, checked_options("model.options", function, part.options, set_by_us=given)


def filled(part: Part) -> Part:
    """With every option, defaults included, as a file has them.

    Raises:
        UserError: As `check`.
    """
    function, options = check(part)
    defaults = {
        name: parameter.default
        for name, parameter in options_of(function, _given(function)).items()
        if parameter.default is not parameter.empty
    }
    return Part(part.name, plain({**defaults, **options}))


def build(part: Part, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Any:
    """The Keras model.

    Raises:
        UserError: As `check`; or if an option's value is refused, or what comes is no such model.
    """
    function, options = check(part)
    with refusals(f"model={part.name} refuses its options"):
        model = function(tuple(input_shape), tuple(output_shape), **options)
    if not isinstance(model, keras.Model):
        raise UserError(
            f"model={part.name} gave {model!r}. Expected a Keras model."
            + see("parts-of-your-own", "own_parts")
        )
    if not model.built:
        model.build((None, *input_shape))
    given = model.compute_output_shape((None, *input_shape))
    if isinstance(given, (list, dict)):
        raise UserError(
            f"model={part.name} gives {len(given)} outputs. Expected one, of shape "
            f"{tuple(output_shape)}, its second argument." + see("parts-of-your-own", "own_parts")
        )
    if isinstance(given, tuple) and tuple(given[1:]) != tuple(output_shape):
        raise UserError(
            f"model={part.name} gives outputs of shape {tuple(given[1:])}. Expected "
            f"{tuple(output_shape)}, its second argument, for this data."
            + see("parts-of-your-own", "own_parts")
        )
    return model


def _given(function: Callable[..., Any]) -> list[str]:
    """The arguments that get the shapes, whatever they are called: none is an option."""
    return [*list(inspect.signature(function).parameters)[:2], *SHAPES]
