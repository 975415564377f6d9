# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A noisy chip
#
# This tutorial is for people who design chips. The weight mirror fires signals and hears answers.
# It hears them through one door, `respond`, and you can put your own hardware behind that door.
# Here the hardware is a simulated chip, whose answers are noisy, are read with few bits, or are
# missing. You see how many firings buy which angle, and what B learns when the chip is not W.
#
# [Noisy hardware](../noisy_hardware.md) is the full study, with more faults, seeds and trainings.
# This page is its smallest version, with a chip that you can replace.

# %%
import math

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import tfweightmirror as tfwm
from tfweightmirror.mirror.noise import Gaussian, Impulse, Orthogonal
from train.config import DataConfig
from train.data import datasets

# Every chip is another program; TensorFlow would warn of tracing too often.
tf.get_logger().setLevel("ERROR")

data = datasets.load(DataConfig(name="digits"))
(x, y), (x_test, y_test) = data.train.arrays, data.test.arrays
offset, width = x.mean(), x.std()
x, x_test = (((images - offset) / width).astype("float32") for images in (x, x_test))
print(f"{len(x)} training images, {len(x_test)} test images of {data.input_shape}")

# %% [markdown]
# ## The chip
#
# `respond(pathway, signals)` gets the signals that the cells of one layer fire, and gives the
# answers of the next cells. A driver of real hardware would send the signals and read the answers.
# This one computes the exact answers and spoils them, in this order:
#
# * **noise**: new normal noise on every answer;
# * **bits**: the answer is rounded to one of 2^bits levels;
# * **dead**: a share of the answering cells always answers 0, always the same ones.
#
# All sizes are relative to the *scale*, the root mean square of the exact answers when all cells
# fire. The converter reads up to 4 scales on either side.


# %%
class Chip:
    """Exact answers, spoiled."""

    def __init__(self, noise=0.0, bits=None, dead=0.0):
        self.noise, self.bits, self.dead = noise, bits, dead

    def respond(self, pathway, signals):
        y = pathway.respond(signals)
        matrix = pathway.as_matrices(tf.convert_to_tensor(pathway.kernel))
        scale = tf.norm(matrix) / math.sqrt(pathway.fan_out)
        if self.noise:
            y += self.noise * scale * tf.random.normal(tf.shape(y))
        if self.bits:
            step = 8 * scale / 2**self.bits
            outermost = (2**self.bits - 1) / 2
            y = step * tf.clip_by_value(tf.floor(y / step) + 0.5, -outermost, outermost)
        alive = np.ones(pathway.fan_out, "float32")
        order = np.random.default_rng(0).permutation(pathway.fan_out)
        alive[order[: round(self.dead * pathway.fan_out)]] = 0
        return y * alive


# %% [markdown]
# ## How many firings buy which angle
#
# We train a small network by backprop, and then let the mirror find the W of its second hidden
# layer, with n = 256 cells that fire and 256 that answer. B starts at 0, and every sweep adds to
# it. A *firing* is one moment in which cells fire and answers are heard. On this page a *sweep* is
# n firings, also of independent noise.


# %%
def network():
    keras.utils.set_random_seed(0)
    layers = [keras.Input(data.input_shape), keras.layers.Flatten()]
    for number in (1, 2, 3):
        layers.append(
            keras.layers.Dense(256, "relu", kernel_initializer="he_normal", name=f"hidden_{number}")
        )
    model = keras.Sequential([*layers, keras.layers.Dense(10, name="head")])
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def accuracy(model):
    return 100 * model.evaluate(x_test, y_test, batch_size=len(x_test), verbose=0)[1]


model = network()
model.fit(x, y, batch_size=64, epochs=8, verbose=0)
plain = accuracy(model)
print(f"backprop: {plain:.1f} % of the test images")
tfwm.convert_model(model, {"hidden_2": "weight_mirror", "*": "backprop"}, seed=0)

# %%
N = 256
SWEEPS = (1, 2, 4, 8, 16, 32)


def angles(noise, chip):
    """The weight angle after each of SWEEPS, in degrees."""
    tfwm.reset_feedback(model, initializer="zeros")
    found, done = [], 0
    for sweeps in SWEEPS:
        angle = tfwm.mirror_model(
            model, noise, steps=sweeps - done, norm=None, respond=chip.respond
        )
        found.append(angle["hidden_2"])
        done = sweeps
    return np.array(found)


def degrees(tangent):
    return np.degrees(np.arctan(tangent))


# %% [markdown]
# ### Noise
#
# The chip has noise of 0.3 of the scale. There are four ways to spend the same firings: one cell at
# a time, blocks of 64 cells, all cells together in an orthogonal basis, or every cell with random
# noise of its own. The law for b cells that fire together, k sweeps and noise rho is
#
#     tan(angle) = rho sqrt(n / (b k))                 orthogonal
#     tan(angle) = sqrt((n + 1 + rho^2 n) / (n k))     independent, normal

# %%
RHO = 0.3
BASES = {
    "one cell at a time": (Impulse(), RHO * math.sqrt(N), "#D55E00", "^"),
    "every cell by itself": (
        Gaussian(samples=N, decay=1.0),
        math.sqrt((N + 1 + RHO**2 * N) / N),
        "#000000",
        "x",
    ),
    "blocks of 64 cells": (Orthogonal(block=64), RHO * math.sqrt(N / 64), "#E69F00", "s"),
    "all cells together": (Orthogonal(block=N), RHO, "#0072B2", "o"),
}
measured = {name: angles(noise, Chip(noise=RHO)) for name, (noise, *_) in BASES.items()}

figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
for name, (_, tangent, colour, marker) in BASES.items():
    axes.plot(SWEEPS, degrees(tangent / np.sqrt(SWEEPS)), color=colour, linewidth=1)
    axes.plot(SWEEPS, measured[name], marker, color=colour, label=name)
axes.set(
    xscale="log",
    yscale="log",
    xlabel="firings, as multiples of the 256 cells (sweeps)",
    ylabel="weight angle (degrees)",
    title="noise 0.3; lines: the law",
    ylim=(2, 100),
)
axes.set_xticks(SWEEPS, SWEEPS)
axes.set_yticks([2, 5, 10, 20, 45, 90], [2, 5, 10, 20, 45, 90])
axes.minorticks_off()
axes.grid(alpha=0.3)
axes.legend()
plt.show()

for name, (_, tangent, *_) in BASES.items():
    assert np.allclose(measured[name], degrees(tangent / np.sqrt(SWEEPS)), rtol=0.1), name

# %% [markdown]
# Markers lie on their lines: no point of this run is more than a tenth off. Cells that fire
# together share the noise of one answer. So with b cells at a time the tangent is sqrt(b) times
# smaller than with one cell at a time. The same law gives the price of an angle, in firings:

# %%
print(f"{'firings by the law':22}" + "".join(f"{angle:8} degrees" for angle in (20, 10, 5)))
for name, (_, tangent, *_) in BASES.items():
    sweeps = [math.ceil((tangent / math.tan(math.radians(angle))) ** 2) for angle in (20, 10, 5)]
    print(f"{name:22}" + "".join(f"{N * number:16,}" for number in sweeps))

# %% [markdown]
# ### Few bits, and dead cells
#
# A converter of 2^q levels over 8 scales rounds like noise of `8 / (2^q sqrt(12))`: each bit halves
# the angle. Dead cells are different. B never learns their columns, so that a share p of dead cells
# leaves `cos(angle) = sqrt(1 - p)` if the columns of W are about equally long. **No number of
# firings removes this angle.**

# %%
together = Orthogonal(block=N)
BITS, DEAD = (2, 4, 6, 8), (0.1, 0.3, 0.5)
rounded = {bits: angles(together, Chip(bits=bits)) for bits in BITS}
missing = {share: angles(together, Chip(dead=share)) for share in DEAD}

figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
rho = np.array([8 / (2**bits * math.sqrt(12)) for bits in BITS])
left, right = panels
for sweeps, label, colour, marker, size in (
    (1, "1 sweep", "#0072B2", "o", 9),
    (32, "32 sweeps", "#D55E00", "^", 5),
):
    place = SWEEPS.index(sweeps)
    left.plot(BITS, degrees(rho / math.sqrt(sweeps)), color=colour, linewidth=1)
    seen = [rounded[bits][place] for bits in BITS]
    left.plot(BITS, seen, marker, color=colour, markersize=size, label=label)
    seen = [missing[share][place] for share in DEAD]
    right.plot(DEAD, seen, marker, color=colour, markersize=size, label=label)
shares = np.linspace(0, 0.6, 500)
right.plot(shares, np.degrees(np.arccos(np.sqrt(1 - shares))), color="#000000", linewidth=1)
left.set(yscale="log", xlabel="bits of the converter", title="few bits", xticks=BITS)
left.set_yticks([0.05, 0.1, 0.5, 1, 5, 10, 20], ["0.05", "0.1", "0.5", "1", "5", "10", "20"])
left.minorticks_off()
right.set(xlabel="share of dead answering cells", title="dead cells", ylim=(0, 60))
for panel in panels:
    panel.set_ylabel("weight angle (degrees)")
    panel.grid(alpha=0.3)
    panel.legend(title="lines: the law")
plt.show()

for bits, law in zip(BITS, degrees(rho), strict=True):
    assert math.isclose(rounded[bits][0], law, rel_tol=0.15), bits
for share, found in missing.items():
    assert math.isclose(found[0], math.degrees(math.acos(math.sqrt(1 - share))), abs_tol=2), share
    assert abs(found[-1] - found[0]) < 0.1

# %% [markdown]
# ## What B learns when the chip is not W
#
# A real chip differs from its design. Here every weight of the chip has a random error, which is
# half as large as a typical weight. The mirror does not know that. B becomes what the chip *does*,
# not what W says. This chip is a NumPy function, which `tf.numpy_function` calls: the driver of a
# real chip would stand in its place.

# %%
(hidden,) = (p for p in tfwm.pathways(model) if p.name == "hidden_2")
meant = np.asarray(hidden.as_matrices(tf.convert_to_tensor(hidden.kernel)))
errors = np.random.default_rng(1).standard_normal(meant.shape).astype("float32")
made = meant + 0.5 * meant.std() * errors


def respond(pathway, signals):
    y = tf.numpy_function(lambda fired: fired @ made, [signals], signals.dtype)
    return tf.ensure_shape(y, (*signals.shape[:-1], pathway.fan_out))


# Independent noise comes as (groups, samples, n): a plain matrix product answers it.
tfwm.mirror_model(model, Gaussian(samples=100 * N, decay=1.0), respond=respond)
learnt = hidden.as_matrices(hidden.feedback_kernel)
to_chip, to_w, apart = (
    float(tfwm.diagnostics.angle_deg(u, v))
    for u, v in ((learnt, made), (learnt, meant), (made, meant))
)
print(f"angle of B to the chip {to_chip:.1f}, of B to W {to_w:.1f}, of the chip to W {apart:.1f}")

assert math.isclose(to_chip, math.degrees(math.atan(math.sqrt((N + 1) / (100 * N)))), rel_tol=0.1)
assert to_w > apart - 1 > 20

# %% [markdown]
# The angle of B to the chip is that of the law for so many samples, 5.7 degrees. Which angle counts
# depends on where the forward pass runs. If it runs on the same chip, B is right and W is wrong:
# the error travels back through the same weights through which the signals went forward. If it runs
# on a computer, with W as it was meant, the weight angle, of B to W, is the one that counts.
#
# ## Training with a noisy chip
#
# Now the mirror teaches B while the network trains. It fires a sweep after every four batches, and
# the sweep replaces B. In the last row a sweep replaces only a tenth of B, and B keeps its length
# (synaptic scaling).

# %%
scaled = {"norm": "scaling"}
CONDITIONS = {
    "exact answers, all cells": (together, Chip(), {}),
    "noise 0.3, all cells": (together, Chip(noise=0.3), {}),
    "30 % dead, all cells": (together, Chip(dead=0.3), {}),
    "noise 0.3, one at a time": (Impulse(), Chip(noise=0.3), {}),
    "the same, B keeps length": (Impulse(decay=0.1), Chip(noise=0.3), scaled),
}
found = {}
print(f"{'':26}{'test, %':>8}{'angle':>8}{'|B|/|W|':>9}")
print(f"{'backprop':26}{plain:8.1f}")
for name, (noise, chip, options) in CONDITIONS.items():
    model = network()
    # The first layer sends no error back, so it needs no B.
    tfwm.convert_model(model, {"hidden_1": "backprop", "*": "weight_mirror"}, seed=0)
    mirror = tfwm.callbacks.WeightMirror(
        noise,
        respond=chip.respond,
        schedule=tfwm.mirror.Schedule(every_batches=4, warm_up_steps=10),
        **options,
    )
    model.fit(x, y, batch_size=64, epochs=8, callbacks=[mirror], verbose=0)
    angle = tfwm.weight_angles(model)["hidden_2"]
    found[name] = accuracy(model), angle
    ratio = tfwm.norm_ratios(model)["hidden_2"]
    print(f"{name:26}{found[name][0]:8.1f}{angle:8.1f}{ratio:9.1f}")

for name in list(CONDITIONS)[:3]:
    assert found[name][0] > 93, name
assert abs(found["noise 0.3, all cells"][1] - math.degrees(math.atan(RHO))) < 1.5
assert found["noise 0.3, one at a time"][0] < 50 < found["the same, B keeps length"][0]

# %% [markdown]
# Read the table in two halves. In the first three rows all cells fire together. Noise and dead
# cells leave an angle, but the network learns as well as under backprop, as far as one seed and 360
# test images can tell.
#
# In the last two rows one cell fires at a time, and the same noise is sixteen times as large beside
# the answers, since sqrt(n) is 16. B is then mostly noise, and about five times as long as W. So
# the errors grow from layer to layer, and the training diverges until its numbers are `nan`.
# **Training does not work with a B that is too long.** If B keeps its length, the same basis on the
# same chip learns, at an angle of about 53 degrees.
#
# ## Your own chip
#
# Give `respond` a function of your own, in `WeightMirror(respond=...)` or
# `mirror_model(respond=...)`. TensorFlow calls it only while it traces, so reach your hardware by
# `tf.numpy_function`, as in the section on what B learns. Leave `jit_compile` at False then, since
# a compiled program cannot call functions outside. Orthogonal bases and impulses fire blocks of
# cells in turns, as signals of shape (groups, turns, samples, cells). Independent noise fires all
# cells of a layer together, as (groups, samples, n).
