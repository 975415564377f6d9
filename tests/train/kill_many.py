"""The long version of test_resume: many kills at random moments.

    python -m tests.train.kill_many --kills 40

Runs are killed by SIGKILL at random times after their training began, and started again with the
same command, until they finish; then a new one begins, of the next configuration. Every finished
run must equal, to the bit, one that was never killed. About ten seconds a kill.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.train.killing import RUN, assert_same_bits, run

ALWAYS = (
    "--training.deterministic=true",
    "--training.progress=none",
    "--checkpoint.every_steps=3",
)
DIGITS = ("--data.train_split=train[:256]", "--data.test_split=test[:100]")

# A user's own folder: network, data, loss and a callback that counts, with a state.
OWN = {
    "parts.py": '''
import keras
import numpy as np
import tensorflow as tf


def net(input_shape, output_shape, *, units=8):
    x = inputs = keras.Input(input_shape)
    x = keras.layers.Dense(units, activation="tanh")(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(inputs, keras.layers.Dense(output_shape[0])(x), name="own")


def data(*, rows=192):
    random = np.random.default_rng(5)
    x = random.normal(size=(rows + 64, 6)).astype("float32")
    y = np.tanh(x @ random.normal(size=(6, 2))).astype("float32")
    return (x[:rows], y[:rows]), (x[rows:], y[rows:])


def loss(y_true, y_pred, *, power=2.0):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** power, axis=-1)


class Shrinks(keras.callbacks.Callback):
    """Takes a little of the first kernel every third call: its count must survive a kill."""

    def __init__(self):
        super().__init__()
        self.calls = tf.Variable(0, dtype=tf.int64)

    def on_train_batch_end(self, batch, logs=None):
        self.calls.assign_add(1)
        if int(self.calls) % 3 == 0:
            kernel = self.model.layers[1].kernel
            kernel.assign(0.99 * kernel)

    def state(self):
        return {"calls": self.calls}
''',
    "own.yaml": """
data: {name: "parts:data", normalization: none}
model: {name: "parts:net", options: {units: 12}}
loss: {name: "parts:loss", options: {power: 2.5}}
callbacks: [{name: "parts:Shrinks"}]
feedback: {rule: urfb, layers: {dense: fa}}
optimizer: {name: adam, learning_rate: 0.01}
training: {epochs: 5, batch_size: 16, test_batch_size: 32, steps_per_call: 2}
""",
    "phases.yaml": """
data: {name: digits, train_split: "train[:256]", test_split: "test[:100]"}
model: {name: mlp, options: {units: [12, 8], dropout: 0.1}}
optimizer: {weight_decay: 0.01, options: {momentum: 0.9}}
training: {batch_size: 32, test_batch_size: 64, steps_per_call: 2}
phases:
  - {feedback: {rule: kp}, training: {epochs: 2}}
  - {feedback: {rule: wm}, mirror: {noise: gaussian}, training: {epochs: 2}, freeze: [hidden_1]}
""",
}


def configurations(folder: Path) -> dict[str, Sequence[str]]:
    """Name to arguments; none was made for the kills but the first."""
    for name, text in OWN.items():
        (folder / name).write_text(text)
    return {
        "mirror": RUN,
        "replicas": (*RUN, "--strategy=mirrored", "--replicas=2"),
        "kolen_pollack": (
            *DIGITS,
            *ALWAYS,
            "--model=mlp",
            "--model.options={units: [12, 8], dropout: 0.2, batch_norm: true}",
            "--feedback.rule=kp",
            "--optimizer.weight_decay=0.01",
            "--optimizer.schedule.name=piecewise",
            "--optimizer.schedule.boundaries_epochs=[1.5,3]",
            "--training.epochs=4",
            "--training.batch_size=32",
            "--monitor.delta_angles=true",
        ),
        "own": (f"--config={folder / 'own.yaml'}", *ALWAYS),
        "phases": (f"--config={folder / 'phases.yaml'}", *ALWAYS),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--only", help="names of configurations, with commas between")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kinds = configurations(folder)
        names = options.only.split(",") if options.only else list(kinds)
        kills = attempts = runs = 0
        while kills < options.kills:
            name = names[runs % len(names)]
            reference = folder / f"reference_{name}"
            if not reference.exists():
                assert run(reference, base=kinds[name]) == 0
            directory = folder / f"run_{runs}"
            status = -9
            while status != 0:
                attempts += 1
                status = run(directory, base=kinds[name], trap=("random", str(attempts)))
                kills += status == -9
                assert status in (0, -9), status
            assert_same_bits(reference, directory)
            runs += 1
            print(f"{name}: {kills} kills, {runs} finished runs, equal to the bit", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
