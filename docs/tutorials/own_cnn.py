# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own network
#
# This tutorial is for those who have a Keras network and want to know what feedback does to it. The
# network learns under the weight mirror, once with independent noise and once with balanced noise.
# You see three angles, and what each of them means:
#
# * the **weight angle**, between W and B of a layer: how well B knows W;
# * the **predicted weight angle**: what the law says about it before anything is trained;
# * the **delta angle**, between the error that arrives at a layer and the one that backprop would
#   deliver there: what the layer learns from.
#
# ## Images
#
# The images are 2,048 of CIFAR-10, so that this page takes a minute. They are used if a prepared
# copy of TensorFlow Datasets is in the folder that the environment variable `TFDS_DATA_DIR` names,
# or in `~/tensorflow_datasets`. Nothing is downloaded. Without a copy, the network learns the
# handwritten digits of the repository. The output says which images were used.

# %%
import math
import os
from pathlib import Path

import keras
import matplotlib.pyplot as plt

import tfweightmirror as tfwm
from train.config import DataConfig
from train.data import datasets

folder = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
found = any(folder.glob("cifar10/*/dataset_info.json"))
of_cifar = {
    "name": "cifar10",
    "data_dir": str(folder),
    "train_split": "train[:2048]",
    "test_split": "test[:512]",
}
data = datasets.load(DataConfig(**of_cifar) if found else DataConfig(name="digits"))
(x, y), (x_test, y_test) = data.train.arrays, data.test.arrays
offset, width = x.mean(), x.std()
x, x_test = (((images - offset) / width).astype("float32") for images in (x, x_test))
print(f"{'CIFAR-10' if found else 'No CIFAR-10 here, so digits'}: ", end="")
print(f"{len(x)} training images, {len(x_test)} test images of {data.input_shape}")

# %% [markdown]
# ## A network with a class of its own
#
# The network can be written in any way that Keras allows. This one has a subclassed block with a
# skip connection. Only its `Conv2D` and `Dense` layers have matrices, so only they get a B.


# %%
@keras.saving.register_keras_serializable(package="tutorial")
class Block(keras.layers.Layer):
    """Two convolutions beside a skip connection."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.conv_1 = keras.layers.Conv2D(channels, 3, padding="same", name="conv_1")
        self.conv_2 = keras.layers.Conv2D(channels, 3, padding="same", name="conv_2")
        self.norm = keras.layers.BatchNormalization(momentum=0.9)

    def build(self, shape):
        for layer in (self.conv_1, self.conv_2, self.norm):
            layer.build(shape)

    def call(self, x, training=False):
        hidden = keras.ops.relu(self.conv_1(x))
        return keras.ops.relu(x + self.norm(self.conv_2(hidden), training=training))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(data.input_shape),
            keras.layers.Conv2D(16, 3, 2, padding="same", activation="relu", name="stem"),
            Block(16, name="block_1"),
            keras.layers.MaxPooling2D(),
            Block(16, name="block_2"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, name="head"),
        ]
    )
    tfwm.convert_model(model, "weight_mirror", seed=0)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


for pathway in tfwm.pathways(network()):
    print(pathway)

# %% [markdown]
# ## What the law predicts
#
# With independent noise, B averages over N samples, and for a linear answer
#
#     tan(angle) = sqrt((n + kurtosis - 2) / N),      N = samples x (2 - decay) / decay
#
# where n is the fan-in of one receptive field (taps x channels), and Gaussian noise has kurtosis 3.
# In the next cell each mirror step fires 128 samples and replaces a tenth of B, so N is 2,432.
# Nothing is trained yet: W stands still, as the law asks.

# %%
noise = tfwm.mirror.noise.Gaussian(samples=128, decay=0.1)
model = network()
still = tfwm.mirror_model(model, noise, steps=100)
mode = tfwm.mirror.MirrorMode(noise)
law = {pathway.name: mode.predicted_angle_deg(pathway) for pathway in tfwm.pathways(model)}
print(f"{'layer':16}{'fan-in':>8}{'measured':>10}{'law':>8}   (degrees)")
for pathway in tfwm.pathways(model):
    layer = pathway.name
    print(f"{layer:16}{pathway.fan_in:8}{still[layer]:10.1f}{law[layer]:8.1f}")

for layer, angle in law.items():
    assert math.isclose(still[layer], angle, rel_tol=0.25), layer

# %% [markdown]
# The law is one of the mean square: where W has few columns, a single run scatters around it. The
# cell fails if a layer differs from the law by more than a quarter.
#
# ## Training
#
# `FeedbackMonitor` measures at every epoch's end. With `probe` it also measures delta angles, on a
# batch of test images. That costs about one more training step, once an epoch.

# %%
EPOCHS = 8
probe = (x_test[:128], y_test[:128])
histories = {}
for label, mirror in {
    "independent noise": tfwm.callbacks.WeightMirror(noise),
    "balanced noise": tfwm.callbacks.WeightMirror(),
}.items():
    model = network()
    monitor = tfwm.callbacks.FeedbackMonitor(
        measures=["weight_angle", "predicted_weight_angle"], probe=probe
    )
    histories[label] = model.fit(
        x,
        y,
        batch_size=64,
        epochs=EPOCHS,
        validation_data=(x_test, y_test),
        validation_batch_size=len(x_test),
        callbacks=[mirror, monitor],
        verbose=0,
    ).history
    print(f"{label}: {100 * histories[label]['val_accuracy'][-1]:.1f} % of the test images")

# %% [markdown]
# ## Weight angles and delta angles

# %%
independent, balanced = histories.values()
figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
for panel, measure in zip(panels, ("weight_angle", "delta_angle"), strict=True):
    tfwm.diagnostics.plot_angles(independent, measure=measure, axes=panel)
    panel.set(title=f"independent noise: {measure.replace('_', ' ')}", ylim=(-1, 35))
for line, layer in zip(panels[0].lines, law, strict=True):
    drawn = independent[f"predicted_weight_angle/{layer}"]
    panels[0].plot(range(1, EPOCHS + 1), drawn, color=line.get_color(), linestyle="dotted")
panels[0].set_xlabel("epoch (dotted: the law)")
plt.show()

# %% [markdown]
# **Left.** B starts at random. After some mirror steps it is an average over about 2,432 samples,
# and the curves come down to the law. (The law is dotted. The convolutions of the blocks have the
# same fan-in, so the same law.) What lies above the law is drift: B averages over answers of the
# last twenty steps, and W has moved since. While W takes large steps, the drift is large; when
# training slows down, it shrinks.
#
# **Right.** The head's delta angle is zero under every rule: its error comes from the loss, and no
# B has touched it. In the layers below, the error has passed one B, then two, and the angle grows
# on the way down, though the weight angles of the blocks are alike. It does not grow in every
# layer: what a skip connection carries passes no matrix.
#
# So judge the mirror by the weight angle, and what a layer learns from by the delta angle. A deep
# stack of layers with small weight angles may still have large delta angles in its lowest layers.

# %%
print(f"{'':16}{'weight angle':>15}{'law':>8}{'delta angle':>15}{'delta, balanced':>18}")
for layer in law:
    weight, delta, exact = (
        history[f"{measure}/{layer}"][-1]
        for history, measure in (
            (independent, "weight_angle"),
            (independent, "delta_angle"),
            (balanced, "delta_angle"),
        )
    )
    print(f"{layer:16}{weight:15.1f}{law[layer]:8.1f}{delta:15.1f}{exact:18.2f}")

    assert 0.75 * law[layer] < weight < law[layer] + 12
    assert balanced[f"weight_angle/{layer}"][-1] < 0.01
    assert exact < 0.1

assert independent["delta_angle/head"][-1] < 0.01
assert independent["delta_angle/stem"][-1] > independent["delta_angle/block_2/conv_2"][-1]

# %% [markdown]
# **Under balanced noise** both angles are zero, up to rounding: B equals W, and each layer learns
# from backprop's own error. Read [what a flat zero does not
# prove](digits.md#what-a-flat-zero-does-not-prove): it holds here as well.
#
# The accuracies of this page are of one seed and a few epochs. They do not tell which noise is
# better. [Noisy hardware](../noisy_hardware.md#accuracy-after-training) measures accuracy over
# several seeds.
#
# ## At any time, without a callback
#
# Functions measure the same angles of any converted model, and leave it as it was.

# %%
deltas = tfwm.delta_angles(model, *probe)
print(deltas)

assert set(deltas) == set(tfwm.weight_angles(model)) == set(law)
