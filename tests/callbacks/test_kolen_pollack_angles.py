"""KolenPollack warns where the gap has closed and the angle has not."""

from typing import Any

import keras
import numpy as np
import pytest

import tfweightmirror as tfwm
from tests.batches import in_batches
from tests.callbacks.training import SGD
from tfweightmirror._internals.docs import see
from tfweightmirror.callbacks import KolenPollack


def trained(optimizer: Any, epochs: int = 10, scale: float = 1e-3, fits: int = 1) -> keras.Model:
    """A regression by a head and a side branch whose outputs, and so errors, are `scale` times."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(inputs)
    side = keras.layers.Rescaling(scale)(keras.layers.Dense(4, name="side")(hidden))
    outputs = keras.layers.Dense(4, name="head")(hidden) + side
    model = tfwm.convert_model(keras.Model(inputs, outputs, name="net"), "kolen_pollack")
    model.compile(optimizer, "mse")
    random = np.random.default_rng(0)
    x = random.normal(size=(256, 8)).astype("float32")
    y = np.tanh(x @ random.normal(size=(8, 4))).astype("float32")
    data = in_batches(x, y, 32)
    for _ in range(fits):
        model.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=[KolenPollack()])
    return model


def relative_gaps(model: keras.Model) -> dict[str, float]:
    """|B - W| / |W|."""
    pairs = {p.name: (p.kernel.numpy(), p.feedback_kernel.numpy()) for p in tfwm.pathways(model)}
    return {n: np.linalg.norm(b - w) / np.linalg.norm(w) for n, (w, b) in pairs.items()}


# Rate x decay x steps is 0.1 x 0.5 x 80 = 4.
def test_a_layer_that_learns_nothing_is_named_when_its_gap_has_closed() -> None:
    with pytest.warns(UserWarning, match="W has shrunk with it") as caught:
        model = trained(SGD(0.1, momentum=0.9, weight_decay=0.5))
    message = str(caught[0].message)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "1 of 3 layers of 'net'" in message
    assert f"|B - W| / |W| is {relative_gaps(model)['side']:.2g} in 'side'." in message
    assert message.endswith(see("a-closed-gap-and-a-large-angle"))
    assert tfwm.weight_angles(model)["side"] > 60


def test_a_second_fit_that_takes_the_trace_of_the_first_names_the_layer_again() -> None:
    with pytest.warns(UserWarning, match="W has shrunk with it") as caught:
        trained(SGD(0.1, momentum=0.9, weight_decay=0.5), scale=0.0, fits=2)
    assert len(caught) == 2


def test_a_run_too_short_to_close_the_gap_is_not_warned_of_its_angles() -> None:
    model = trained(SGD(0.1, momentum=0.9, weight_decay=0.5), epochs=5)  # leaves 13 % of the gap
    assert min(relative_gaps(model).values()) > 0.05
    assert relative_gaps(model)["side"] > 0.5


@pytest.mark.parametrize(
    ("optimizer", "scale"),
    [
        (lambda: SGD(0.1, momentum=0.9, weight_decay=0.5), 1.0),
        (lambda: keras.optimizers.AdamW(0.01, weight_decay=5.0), 1e-3),
    ],
    ids=["the branch learns", "normalized gradients"],
)
def test_layers_that_learn_keep_their_w_and_are_not_warned_of(optimizer: Any, scale: float) -> None:
    model = trained(optimizer(), scale=scale)
    assert max(relative_gaps(model).values()) < 0.5
