"""Keras' own test modules, unchanged, run on feedback twins in place of Keras' layers."""

import functools
import importlib
import importlib.util
import types
import unittest
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import pytest

from tests.keras_suite.differences import WITHOUT_LAYERS, refusal_of
from tests.layers.kinds import FURTHER_RULES, RULES, forward_weights
from tfweightmirror.conversion.twins import TWINS
from tfweightmirror.layers.cells import FeedbackCell
from tfweightmirror.layers.feedback_layer import FeedbackLayer
from tfweightmirror.layers.recurrent import FeedbackRNN
from tfweightmirror.rules import FeedbackRule

keras_src = importlib.import_module("keras.src")
KerasTestCase = importlib.import_module("keras.src.testing").TestCase
ALL_RULES = RULES | FURTHER_RULES


class Exchange:
    """The namespace `keras.src.layers`, each layer with a twin replaced by the twin of one rule.

    Attributes:
        rule: The rule, by its name in `tests.layers.kinds`.
        layers: What a test module is to import as `layers`.
        made: How many twins were made so far.
    """

    def __init__(self, rule: str, twins: Mapping[type[Any], type[Any]] = TWINS) -> None:
        self.rule = rule
        self.made = 0
        self.layers = types.ModuleType("layers")
        exchanged = {plain: self._with_rule(plain, twin) for plain, twin in twins.items()}
        for name, value in vars(keras_src.layers).items():
            known = isinstance(value, type) and value in exchanged
            setattr(self.layers, name, exchanged[value] if known else value)

    def _with_rule(self, plain: type[Any], twin: type[Any]) -> type[Any]:
        """`twin`, with the rule as the default, under the plain class's name."""
        exchange = self

        class Twin(twin):
            def __init__(
                self, *args: Any, rule: Any = ALL_RULES[exchange.rule], **kwargs: Any
            ) -> None:
                exchange.made += 1
                super().__init__(*args, rule=rule, **kwargs)

            def set_weights(self, weights: list[Any]) -> None:
                """Take the plain layer's weights too: Keras' tests know of no others."""
                forward = forward_weights(self)
                if len(weights) != len(forward):
                    super().set_weights(weights)
                    return
                for variable, value in zip(forward, weights, strict=True):
                    variable.assign(value)

        Twin.__name__ = Twin.__qualname__ = plain.__name__
        # A package of its own: the twins of another exchange must not come back from a config.
        return keras.saving.register_keras_serializable(package=f"exchange_{id(self)}")(Twin)

    def cases(self, path: Path) -> dict[str, type[unittest.TestCase]]:
        """The test cases of the test module at `path`, made for twins; class name to class."""
        name = f"{path.stem}_{self.rule}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Layers stand in decorators and class bodies too, so the exchange comes before the import.
        with mock.patch.object(keras_src, "layers", self.layers):
            spec.loader.exec_module(module)
        return {
            f"{case.__name__}_{self.rule}": self._on_twins(case)
            for case in vars(module).values()
            if isinstance(case, type)
            and issubclass(case, KerasTestCase)
            and case.__module__ == name
        }

    def _on_twins(self, case: type[Any]) -> type[Any]:
        tests = {
            name: self._checked(f"{case.__name__}.{name}", getattr(case, name))
            for name in unittest.TestLoader().getTestCaseNames(case)
        }
        members = {"rule": ALL_RULES[self.rule], "__module__": case.__module__, **tests}
        return type(case)(f"{case.__name__}_{self.rule}", (CountsFeedback, case), members)

    def _checked(self, name: str, test: Callable[[Any], None]) -> Callable[[Any], None]:
        """A test that must make a twin, and fail as documented where twins refuse."""
        refusal = refusal_of(name)

        @functools.wraps(test)
        def run(self_: unittest.TestCase) -> None:
            made = self.made
            if refusal is None:
                test(self_)
            else:
                # A test that waits for another error says so, with ours, in an AssertionError.
                with pytest.raises((ValueError, AssertionError), match=refusal.words):
                    test(self_)
            if name not in WITHOUT_LAYERS:
                assert self.made > made, f"{name} made no feedback layer."

        return run


class CountsFeedback(KerasTestCase):
    """Expects a twin's weights beside the plain layer's."""

    rule: FeedbackRule

    def run_layer_test(self, layer_cls: type[Any], init_kwargs: Any, **options: Any) -> None:
        """Keras' test of a layer, which must have its feedback kernels and states."""
        count = _kernels(layer_cls, init_kwargs)
        trained = self.rule.learns_by == "optimizer"
        still = self.rule.uses_feedback_kernel - trained + self.rule.draws
        still += self.rule.factors((1, 1, 1)) is not None
        for of, more in (
            ("trainable_weights", trained),
            ("non_trainable_weights", still),
            ("non_trainable_variables", still),
        ):
            plain = options.get(f"expected_num_{of}")
            if plain is not None:
                options[f"expected_num_{of}"] = plain + count * more
        super().run_layer_test(layer_cls, init_kwargs, **options)


def _kernels(layer_cls: type[Any], init_kwargs: Mapping[str, Any]) -> int:
    """How many kernels a layer has, by what its class and arguments mean to Keras."""
    if issubclass(layer_cls, FeedbackRNN | FeedbackCell):
        return 2
    if not issubclass(layer_cls, FeedbackLayer):  # attention: query, key, value, output, gate
        return 4 + bool(init_kwargs.get("use_gate"))
    return 2 if "Separable" in layer_cls.__name__ else 1
