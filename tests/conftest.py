"""What every test starts from: two logical CPU devices, float32, one seed."""

import argparse
import functools
import os
import re
import signal
import zlib
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# Who starts the tests in the background may have Ctrl-C ignored, and so what they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import keras
import pytest
import tensorflow as tf

from tests.frozen import hide

# Logical devices exist only if they are asked for before TensorFlow's first operation.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@functools.cache
def has_onednn() -> bool:
    """Whether TensorFlow has oneDNN's convolutions here, which it uses on some processors only."""
    x = tf.zeros((1, 1, 3, 3))
    try:
        tf.nn.conv2d(x, tf.zeros((2, 2, 1, 1)), 1, "VALID", data_format="NCHW")
    except tf.errors.UnimplementedError:
        return False
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skips what needs channels first, or transposed dilation, where TensorFlow has neither."""
    try:
        return (yield)
    except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError, ExceptionGroup) as error:
        several = getattr(error, "exceptions", (error,))  # as hypothesis finds them
        lacking = [re.search("NHWC|NDHWC|dilation rates larger than 1", str(e)) for e in several]
        if not all(lacking) or has_onednn():
            raise
        pytest.skip("TensorFlow has no such convolution on this processor, without oneDNN")


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Float32 and a fixed seed before every test, whatever the test before it did."""
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(autouse=True, scope="module")
def _no_leftovers() -> Iterator[None]:
    """What outlives a file of tests is not looked through by the conversions of the next."""
    yield
    hide()


@pytest.fixture(scope="session")
def two_replicas() -> tf.distribute.Strategy:
    """`MirroredStrategy` on two logical CPUs."""
    # Keras' fit with steps_per_execution > 1 fails on CPU with the default collectives.
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def share(text: str) -> tuple[int, int]:
    """The share that `--share=K/N` asks for."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and int(of)):
        raise argparse.ArgumentTypeError(f"--share is {text!r}. Expected K/N, such as 3/10.")
    return int(number) % int(of), int(of)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share",
        type=share,
        metavar="K/N",
        help="run one test in N, another one for every K modulo N (K may be the day of the year), "
        "and those marked always",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not in the share asked for; tests of a minute begin first, so that the two
    workers end together.
    """
    if config.option.share:
        number, of = config.option.share
        chosen: list[pytest.Item] = []
        left_out: list[pytest.Item] = []
        for item in items:
            # By name, so that a test stays in its share whatever tests come and go.
            mine = zlib.crc32(item.nodeid.encode()) % of == number
            mine = mine or item.get_closest_marker("always") is not None
            (chosen if mine else left_out).append(item)
        items[:] = chosen
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def pytest_collection_finish() -> None:
    """Keep what was imported away from the garbage collector."""
    hide()
