"""An untied convolution as patches and one product, beside a sparse matrix.

`python -m benchmarks.untied` takes the step of one layer, loss and all gradients, that Amit 2018
unties in his simpnet: 32 filters of 5x5 on 32x32x3 maps, padded. His sparse matrix, from cells to
cells, holds the same weights; both must give the same numbers. Each runs in a process of its own,
which prints the median time of a compiled step and how far its resident memory went above that
before the layer was made.
"""

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--candidate", choices=list(CANDIDATES))
    options = parser.parse_args()
    if options.candidate:
        _measure(options)
        return
    command = [sys.executable, "-m", "benchmarks.untied", f"--batch={options.batch}"]
    for name in CANDIDATES:
        subprocess.run([*command, f"--steps={options.steps}", f"--candidate={name}"], check=True)


def _measure(options: argparse.Namespace) -> None:
    import keras
    import tensorflow as tf

    import tfweightmirror as tfwm
    from benchmarks.timing import timed

    layer = tfwm.layers.LocallyConnected2D(
        32, 5, padding="same", use_bias=False, kernel_initializer=keras.initializers.HeNormal(1)
    )
    layer.build((None, 32, 32, 3))
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(options.batch, 32, 32, 3)), "float32")
    before = _peak_mib()
    op, weights = CANDIDATES[options.candidate](layer)

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            loss = tf.reduce_sum(tf.sin(op(x, weights)))
        return loss, *tape.gradient(loss, [x, weights])

    loss, to_input, _ = step()
    seconds = [timed(lambda: step()[0].numpy()) for _ in range(options.steps)]
    wall, cpu = (statistics.median(times) for times in zip(*seconds, strict=True))
    more, size = _peak_mib() - before, float(tf.norm(to_input))
    print(
        f"{options.candidate:<8} batch {options.batch}: {wall:.3f} s a step ({cpu:.3f} s of "
        f"processor time), {more:.0f} MiB; loss {loss:.2f}, |dx| {size:.3f}"
    )


def _patches(layer: Any) -> tuple[Callable[..., Any], Any]:
    import tensorflow as tf

    return layer.local_map, tf.convert_to_tensor(layer.kernel)


def _sparse(layer: Any) -> tuple[Callable[..., Any], Any]:
    """The matrix from all cells of the map to all cells of the next, and its entries."""
    import tensorflow as tf

    rows, columns, taps, _, channels, filters = layer.kernel.shape
    r, c, i, j, k, f = np.indices(layer.kernel.shape, dtype="int32").reshape(6, -1)
    there = np.broadcast_to(layer.synapses, layer.kernel.shape).reshape(-1)
    source = ((r + i - taps // 2) * columns + c + j - taps // 2) * channels + k
    target = (r * columns + c) * filters + f
    places = np.stack([target, source], axis=1)[there].astype("int64")
    order = np.lexsort((places[:, 1], places[:, 0]))
    size = (rows * columns * filters, rows * columns * channels)

    def op(x: tf.Tensor, entries: tf.Tensor) -> tf.Tensor:
        matrix = tf.SparseTensor(places[order], entries, size)
        flat = tf.reshape(x, (len(x), -1))
        y = tf.sparse.sparse_dense_matmul(matrix, flat, adjoint_b=True)
        return tf.reshape(tf.transpose(y), (len(x), rows, columns, filters))

    return op, tf.constant(layer.kernel.numpy().reshape(-1)[there][order])


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


CANDIDATES = {"patches": _patches, "sparse": _sparse}

if __name__ == "__main__":
    main()
