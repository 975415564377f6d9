"""No convolution runs twice: XLA's optimised programs hold as many as under plain Keras."""

import collections
import functools
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable

import keras
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.kinds import RULES
from tfweightmirror._internals.attendance import mirror_attends

Make = Callable[[], keras.Model]


def resnet() -> keras.Model:
    """Six convolutions: a stem, two basic blocks, a shortcut of its own in the second."""

    def conv(x: keras.KerasTensor, filters: int, size: int, strides: int = 1) -> keras.KerasTensor:
        options = {"strides": strides, "padding": "same", "use_bias": False}
        return keras.layers.Conv2D(filters, size, **options)(x)

    def norm(x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.layers.BatchNormalization()(x)

    image = keras.Input((8, 8, 3))
    x = keras.layers.ReLU()(norm(conv(image, 8, 3)))
    for filters, strides in ((8, 1), (16, 2)):
        inside = keras.layers.ReLU()(norm(conv(x, filters, 3, strides)))
        inside = norm(conv(inside, filters, 3))
        shortcut = x if strides == 1 else conv(x, filters, 1, strides)
        x = keras.layers.ReLU()(keras.layers.Add()([shortcut, inside]))
    return keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def resnext() -> keras.Model:
    """Blocks of grouped, depthwise, separable and pointwise convolutions."""
    options = {"padding": "same", "use_bias": False}
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, **options)(image)
    for strides in (1, 2):
        inside = keras.layers.Conv2D(8, 1, activation="relu", **options)(x)
        inside = keras.layers.Conv2D(8, 3, strides=strides, groups=4, **options)(inside)
        inside = keras.layers.ReLU()(keras.layers.BatchNormalization()(inside))
        inside = keras.layers.DepthwiseConv2D(3, **options)(inside)
        inside = keras.layers.SeparableConv2D(8, 3, **options)(inside)
        if strides > 1:
            x = keras.layers.Conv2D(8, 1, strides=strides, **options)(x)
        x = keras.layers.ReLU()(keras.layers.Add()([x, inside]))
    return keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def products_in_a_training_step(make: Make, rule: str | None) -> dict[str, int]:
    """Convolutions and matrix products in XLA's optimised program of one training step.

    XLA may turn a convolution into a matrix product, so both are counted, each by its name.
    """
    model = make()
    if rule is not None:
        tfwm.convert_model(model, RULES[rule])
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        variables = model.trainable_variables
        gradients = tape.gradient(value, [variable.value for variable in variables])
        optimizer.apply(gradients, variables)
        return value

    batch = tf.zeros((4, 8, 8, 3)), tf.zeros((4,), tf.int32)
    with mirror_attends():
        compiled = tf.function(step, jit_compile=True).experimental_get_compiler_ir(*batch)
    program = compiled(stage="optimized_hlo")
    # What else could hide one: a call into a library.
    assert not re.search(r'custom_call_target="[^"]*(conv|matmul|onednn)', program)
    return dict(collections.Counter(re.findall(r" (convolution|dot)\(", program)))


@functools.cache
def under_backprop(make: Make) -> dict[str, int]:
    """The counts of a plain Keras model."""
    return products_in_a_training_step(make, None)


@pytest.mark.slow
def test_plain_resnet_holds_the_convolutions_one_counts_by_hand() -> None:
    # Six forward, six for the kernels, and five errors sent back: none from the first layer. The
    # dense layer has its three products.
    assert under_backprop(resnet) == {"convolution": 17, "dot": 3}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "rule"), list(itertools.product((resnet, resnext), RULES)))
def test_a_compiled_training_step_holds_as_many_convolutions_as_backprop(
    make: Make, rule: str
) -> None:
    expected = under_backprop(make)
    assert expected["convolution"] >= 17
    assert products_in_a_training_step(make, rule) == expected


# --- steps that are not compiled, with convolutions that Keras compiles -------------------------

# On CPU, Keras puts grouped convolutions and channels-first Conv3D into small XLA programs of their
# own, where TensorFlow's graph optimiser cannot see that a forward pass is not used. XLA writes
# every program that it compiles to a folder if it is told so before TensorFlow starts: hence a
# process of its own.
COUNT = """
    import json, pathlib, re, sys

    import keras
    import numpy as np

    import tfweightmirror as tfwm

    folder = pathlib.Path(sys.argv[1])
    counts, seen = {}, set()
    for rule in ("plain", *sys.argv[2:]):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((6, 6, 4)),
                keras.layers.Conv2D(8, 3, groups=2),
                keras.layers.Conv2D(8, 3, groups=4, padding="same"),
                keras.layers.Reshape((8, 4, 2, 2)),
                keras.layers.Conv3D(2, 2, data_format="channels_first"),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )
        if rule != "plain":
            tfwm.convert_model(model, rule)
        model.compile("sgd", "mse", jit_compile=False)
        model.fit(np.ones((2, 6, 6, 4)), np.ones((2, 3)), verbose=0)
        programs = set(folder.glob("*after_optimizations.txt")) - seen
        seen |= programs
        counts[rule] = sum(len(re.findall(r" convolution\\(", p.read_text())) for p in programs)
    print(json.dumps(counts))
"""


@pytest.mark.slow
@pytest.mark.always
def test_a_step_that_is_not_compiled_runs_no_dead_forward_of_a_compiled_convolution(
    tmp_path: pathlib.Path,
) -> None:
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COUNT), str(tmp_path), "kp"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    # Three layers: forward, kernel and error of each.
    assert json.loads(run.stdout.splitlines()[-1]) == {"plain": 9, "kp": 9}
