"""Direct feedback alignment: its gradients by NumPy and BioTorch, and what carries its errors."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.layers.direct_models import error_of, gradients, randomized, small
from tests.layers.direct_reference import Flatten, Layer, train
from tests.layers.kinds import KINDS, Kind
from tests.layers.numpy_reference import maps_of
from tfweightmirror import asymmetric_gradient

k = keras.layers
DATA = pathlib.Path(__file__).parent / "data" / "biotorch_dfa.npz"


def chain(first: k.Layer, input_shape: tuple[int, ...]) -> keras.Sequential:
    """`first`, flattened, a hidden layer and three outputs."""
    cells = int(np.prod(first(tf.zeros((1, *input_shape))).shape))
    # Not Flatten, which asks a layer of labels for sizes that it leaves open.
    flatten = k.Reshape((cells,))
    layers = [first, flatten, k.Dense(5, "tanh", name="hidden"), k.Dense(3, name="head")]
    return keras.Sequential([keras.Input(input_shape), *layers])


# --- against equations --------------------------------------------------------------------------


# One product of each shape of B: of vectors, maps, two products in a row, labels, positions.
QUICK = ("dense_rank2", "conv2d_same_stride", "separable2d_first", "einsum_to_heads", "local2d")


def supported(kind: Kind) -> bool:
    return not (kind.is_attention or kind.is_recurrent)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=kind.name, marks=[pytest.mark.slow] * (not quick))
        for kind in filter(supported, KINDS)
        for quick in [kind.name in QUICK]
    ],
)
def test_layers_of_every_kind_learn_by_the_equations(kind: Kind) -> None:
    (x,), y = kind.inputs(), np.arange(kind.input_shapes[0][0]) % 3
    first = kind.plain(name="first", use_bias=False) if "Einsum" not in kind.layer else kind.plain()
    model = randomized(tfwm.convert_model(chain(first, kind.input_shapes[0][1:]), "dfa"))
    if getattr(first, "bias", None) is not None:
        first.bias.assign(np.zeros(first.bias.shape))
    *own, hidden, head = tfwm.pathways(model)
    hidden.kernel.assign(hidden.kernel / 8)  # or tanh saturates, and its slope rounds
    arrays = [
        [np.asarray(v, "float64") for v in (p.kernel, p.feedback_kernel)]
        for p in (*own, hidden, head)
    ]
    maps = maps_of(kind.layer, kind.options)
    layers: list[Any] = [Layer(m, *a) for m, a in zip(maps, arrays, strict=False)]
    dense = maps_of("Dense", {})[0]
    for array, path, activation in zip(
        arrays[-2:], (hidden, head), ("tanh", "linear"), strict=True
    ):
        bias = np.asarray(path.layer.bias, "float64")
        layers += [Flatten()] * (path is hidden)
        layers += [Layer(dense, *array, bias=bias, activation=activation)]
    expected = train(layers, x.numpy(), y)
    dx, found = gradients(model, x, y)
    assert error_of(dx, expected) < 1e-5
    learning = [layer for layer in layers if isinstance(layer, Layer)]
    for pathway, layer in zip((*own, hidden, head), learning, strict=True):
        name = "/".join(pathway.kernel.path.split("/")[-2:])
        assert error_of(found[name], layer.d_kernel) < 1e-5, name
    for pathway, layer in zip((hidden, head), learning[-2:], strict=True):
        assert error_of(found[f"{pathway.name}/bias"], layer.d_bias) < 1e-5


def of_biotorch(name: str) -> tuple[keras.Model, dict[str, Any]]:
    """The network that BioTorch trained, in Keras, and its numbers."""
    with np.load(DATA) as arrays:
        numbers = {key: arrays[key] for key in arrays if key.startswith(name)}
    numbers = {key.partition("/")[2]: array for key, array in numbers.items()}
    if name == "mlp":
        layers = [k.Dense(5, "tanh"), k.Dense(4, "relu"), k.Dense(3)]
    else:
        convolutions = [
            k.Conv2D(3, 3, padding="same", activation="tanh"),
            k.Conv2D(2, 3, strides=2, padding="same", activation="relu"),
        ]
        layers = [*convolutions, k.Flatten(), k.Dense(4, "tanh"), k.Dense(3)]
        numbers["x"] = np.moveaxis(numbers["x"], 1, -1)
    model = keras.Sequential([keras.Input(numbers["x"].shape[1:]), *layers])
    return tfwm.convert_model(model, "dfa"), numbers


def as_keras(array: np.ndarray, cells: tuple[int, ...] | None) -> np.ndarray:
    """A kernel of PyTorch (c_out, c_in, ..taps); `cells`: of a map (c, h, w) that is flattened."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if cells is not None:
        array = array.reshape(-1, *cells).transpose(0, 2, 3, 1).reshape(len(array), -1)
    return array.T


def spread(b: np.ndarray, layer: Any, map_shape: tuple[int, ...]) -> np.ndarray:
    """BioTorch's B of a convolution (error cells, c_in, ..taps) as one matrix.

    It sends e to every output position, and from there through B's taps: `dx = conv_transpose(e
    everywhere, B)`, which is linear in e.
    """
    height, width, _ = map_shape
    matrix = np.zeros((height, width, b.shape[1], b.shape[0]))
    stride = layer.strides[0]
    for oy in range(0, height, stride):
        for ox in range(0, width, stride):
            for ty, tx in np.ndindex(3, 3):
                y, x = oy + ty - 1, ox + tx - 1
                if 0 <= y < height and 0 <= x < width:
                    matrix[y, x] += b[:, :, ty, tx].T
    return matrix.reshape(-1, b.shape[0])


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_one_step_is_that_of_biotorch(name: str) -> None:
    """BioTorch 0.1 (commit 74fad0d, Apache 2.0) on PyTorch 2.13.0, `BioModule(net, mode="dfa",
    output_dim=3)` on `nn.Sequential` networks of the layers above, `torch.manual_seed(0)`, biases
    from N(0, 0.1^2), CrossEntropyLoss: inputs, weights, B and gradients as numbers.
    """
    model, numbers = of_biotorch(name)
    pathways = tfwm.pathways(model)
    flattened = {2: (2, 3, 3)} if name == "conv" else {}
    for i, pathway in enumerate(pathways):
        b = numbers[f"{i}/B"]
        pathway.kernel.assign(as_keras(numbers[f"{i}/W"], flattened.get(i)))
        pathway.layer.bias.assign(numbers[f"{i}/b"])
        if b.ndim == 4:
            b = spread(b, pathway.layer, pathway.layer.get_build_config()["input_shape"][1:])
        else:
            b = as_keras(b, flattened.get(i))
        pathway.feedback_kernel.assign(b)
    _, found = gradients(model, numbers["x"], numbers["y"])
    for i, pathway in enumerate(pathways):
        expected = as_keras(numbers[f"{i}/dW"], flattened.get(i))
        assert error_of(found[f"{pathway.name}/kernel"], expected) < 1e-5
        assert error_of(found[f"{pathway.name}/bias"], numbers[f"{i}/db"]) < 1e-5


# --- what carries the error ---------------------------------------------------------------------


def test_another_b_of_a_layer_moves_the_layer_right_below_it_alone() -> None:
    model, x, y = small()
    dx, start = gradients(model, x, y)
    below = {"low": [], "depth": ["low", "norm"], "hidden": ["depth"], "head": ["hidden"]}
    for pathway in tfwm.pathways(model):
        old = pathway.feedback_kernel.numpy()
        pathway.feedback_kernel.assign(old + 1.0)
        other_dx, other = gradients(model, x, y)
        pathway.feedback_kernel.assign(old)
        moved = {
            name.split("/")[0] for name in start if not np.array_equal(start[name], other[name])
        }
        assert moved == set(below[pathway.name]), pathway.name
        assert np.array_equal(dx, other_dx) == (pathway.name != "low")


def test_what_the_backward_pass_knows_of_w_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = small()
    dx, start = gradients(model, x, y)
    monkeypatch.setattr(asymmetric_gradient, "_counting_as", lambda t, *_: 1.0 - 3.0 * t)
    other_dx, other = gradients(model, x, y)
    assert np.array_equal(dx, other_dx)
    assert all(np.array_equal(start[name], other[name]) for name in start)
    tfwm.convert_model(tfwm.strip_feedback(model), "bp")
    assert not np.array_equal(start["low/kernel"], gradients(model, x, y)[1]["low/kernel"])


def test_skip_connections_pass_the_error_of_what_is_above_them_on() -> None:
    inputs = keras.Input((4,))
    trunk = k.Dense(4, name="trunk")(inputs)
    added = k.Add()([trunk, k.Dense(4, name="branch")(trunk)])
    model = keras.Model(inputs, k.Dense(3, name="head")(added))
    randomized(tfwm.convert_model(model, "dfa"))
    x, y = np.random.default_rng(0).normal(size=(6, 4)).astype("float32"), np.arange(6) % 3
    branch, head = (model.get_layer(name).feedback_kernel.numpy() for name in ("branch", "head"))
    _, found = gradients(model, x, y)
    logits = model(x).numpy().astype("float64")
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    e = (p - np.eye(3)[y]) / 6
    expected = x.T @ (e @ (branch + head).T)  # through the branch, and past it
    assert error_of(found["trunk/kernel"], expected) < 1e-5


def test_the_error_is_taken_before_the_activation_of_the_output() -> None:
    model, x, y = small()
    _, expected = gradients(model, x, y)
    model.get_layer("head").activation = keras.activations.softmax
    with tf.GradientTape() as tape:
        p = model(x, training=True)
        loss = -tf.reduce_mean(tf.math.log(tf.gather(p, y, axis=1, batch_dims=1)))
    low = tape.gradient(loss, model.get_layer("low").kernel.value)
    assert error_of(low, expected["low/kernel"]) < 1e-5
