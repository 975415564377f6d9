"""Options of rules and noises of a user's own: kept by dataclasses, refused where they would go."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror._internals.docs import see

register = keras.saving.register_keras_serializable("tests_own_options")


@register
class ByHand(tfwm.rules.FeedbackRule):
    """Options that no dataclass knows."""

    name = "by_hand"

    def __init__(self, threshold: float = 0.1) -> None:
        self.threshold = threshold


@register
class SavesItself(ByHand):
    """The same, with a config of its own."""

    def get_config(self) -> dict[str, Any]:
        """The options."""
        return {"threshold": self.threshold}


@register
@dataclasses.dataclass(frozen=True)
class PassesOn(tfwm.rules.UpdatedRandomFeedback):
    """An `__init__` of its own that takes fields alone."""

    def __init__(self, epsilon: float = 0.5, **options: Any) -> None:
        super().__init__(epsilon=epsilon, **options)


@dataclasses.dataclass(frozen=True)
class Decorated(tfwm.rules.FeedbackRule):
    """A dataclass whose `__init__` takes more than its fields."""

    def __init__(self, threshold: float = 0.1) -> None:
        object.__setattr__(self, "threshold", threshold)


class NoiseByHand(tfwm.mirror.noise.Gaussian):
    """Equal to every other of its class, so that mirror mode would take one for another."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        object.__setattr__(self, "gain", gain)


def dense() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])


@pytest.mark.parametrize("rule", [ByHand(0.7), ByHand, Decorated(0.7), "tests_own_options>ByHand"])
def test_a_rule_whose_options_would_not_be_saved_is_refused(rule: Any) -> None:
    for use in (
        lambda: tfwm.convert_model(dense(), rule),
        lambda: tfwm.layers.FeedbackDense(2, rule=rule),
    ):
        with pytest.raises(ValueError, match="__init__ takes threshold, which would be lost") as no:
            use()
        assert str(no.value).endswith(see("a-rule-of-your-own", "guides/extend"))


@pytest.mark.parametrize(
    ("rule", "option"), [(SavesItself(0.7), "threshold"), (PassesOn(0.7), "epsilon")]
)
def test_a_rule_that_knows_its_options_keeps_them(rule: Any, option: str, tmp_path: Path) -> None:
    tfwm.convert_model(dense(), rule).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").get_layer("head").rule
    assert type(loaded) is type(rule)
    assert getattr(loaded, option) == 0.7


def test_a_noise_that_would_be_taken_for_another_is_refused() -> None:
    assert NoiseByHand(1.0) == NoiseByHand(2.0)
    model = tfwm.convert_model(dense(), "weight_mirror")
    model(tf.zeros((1, 3)))
    with pytest.raises(ValueError, match="__init__ takes gain, which would be lost") as refused:
        tfwm.mirror_model(model, NoiseByHand(2.0))
    assert str(refused.value).endswith(see("a-noise-of-your-own", "guides/extend"))
