"""Ways to build: what models are made of, and what they are made for."""

import contextlib
from typing import Any

import keras
import tensorflow as tf

import tfweightmirror as tfwm
from tests.ways.entry import SGD, X, Y, compiled, dense, fit, fit_and_prove, goes, k, mlp, normal
from tests.ways.proof import Convert, Prove
from tests.ways.training import decaying, gaussian_mirror, only
from tfweightmirror.callbacks import KolenPollack


def minimize(optimizer: Any, tape: tf.GradientTape, loss: tf.Tensor, variables: list[Any]) -> None:
    """One step of `optimizer`."""
    gradients = tape.gradient(loss, variables)
    optimizer.apply_gradients(zip(gradients, variables, strict=True))


# --- models with a training step of their own ---------------------------------------------------


class Gan(keras.Model):
    """A generator and a critic, each with an optimizer that is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        generator = [keras.Input((4,)), dense(5, "low"), k.Dense(4, name="head")]
        critic = [keras.Input((4,)), dense(5, "low"), k.Dense(1, name="head")]
        self.generator = keras.Sequential(generator, name="generator")
        self.critic = keras.Sequential(critic, name="critic")

    def compile(self, of_generator: Any, of_critic: Any) -> None:
        """Two optimizers."""
        super().compile(jit_compile=False)
        self.of_generator, self.of_critic = of_generator, of_critic

    def call(self, noise: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """What the critic thinks of what is generated."""
        return self.critic(self.generator(noise, training=training), training=training)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Both steps at once."""
        noise, real = data
        with tf.GradientTape() as of_generator, tf.GradientTape() as of_critic:
            fake = self.generator(noise, training=True)
            good, bad = self.critic(real, training=True), self.critic(fake, training=True)
            loss = tf.reduce_mean(tf.square(bad - 1.0))
            critic_loss = tf.reduce_mean(tf.square(good - 1.0) + tf.square(bad))
        pairs = []
        for part, tape, of in (
            (self.generator, of_generator, loss),
            (self.critic, of_critic, critic_loss),
        ):
            variables = part.trainable_variables
            pairs.append(list(zip(tape.gradient(of, variables), variables, strict=True)))
        self.of_generator.apply_gradients(pairs[0])
        self.of_critic.apply_gradients(pairs[1])
        return {"loss": loss}


@goes()
def gan_with_two_optimizers(convert: Convert, prove: Prove) -> None:
    model, real = Gan(), normal(8, 4, seed=9)
    model(X)
    model.compile(SGD(0.1), SGD(0.1))
    fit(model, X, real)
    convert(model)
    optimizers = [model.of_generator, model.of_critic]
    prove(model, lambda: fit(model, X, real), optimizers=optimizers)


class Steep(keras.Sequential):
    """A critic whose loss holds the slope of what it says in its input: a second derivative."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        x, y = data
        with tf.GradientTape() as outer:
            with tf.GradientTape() as tape:
                tape.watch(x)
                score = self(x, training=True)
            slope = tf.reduce_sum(tape.gradient(score, x) ** 2, axis=1)
            loss = tf.reduce_mean((score - y) ** 2) + tf.reduce_mean((slope - 1.0) ** 2)
        minimize(self.optimizer, outer, loss, self.trainable_variables)
        return {"loss": loss}


class Distiller(keras.Model):
    """A student that learns what a teacher says."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = mlp("teacher"), mlp("student")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """The student; no `training` here."""
        return self.student(x)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        x, y = data
        softly = tf.nn.softmax(self.teacher(x, training=False) / 3.0)
        with tf.GradientTape() as tape:
            said = self.student(x, training=True)
            alike = keras.losses.kl_divergence(softly, tf.nn.softmax(said / 3.0))
            loss = tf.reduce_mean(alike) + self.compute_loss(y=y, y_pred=said)
        minimize(self.optimizer, tape, loss, self.student.trainable_variables)
        return {"loss": loss}


@goes("kp", slow=True)
def distillation(convert: Convert, prove: Prove) -> None:
    model = Distiller()
    model.teacher.trainable = False
    compiled(model, decaying())
    fit(model)
    convert(model, plain="teacher*")
    fit_and_prove(model, prove, *only(model, KolenPollack()), plain="teacher*")


class Vae(keras.Model):
    """Two heads, a draw, a decoder, and a loss that the heads hear of directly."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.mean, self.spread = dense(5, "below"), k.Dense(2, name="mean"), k.Dense(2)
        self.spread.name = "spread"
        self.above, self.head = dense(5, "above"), k.Dense(4, name="head")
        self.random = keras.random.SeedGenerator(1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Encode, draw, decode."""
        x = self.below(x)
        mean, spread = self.mean(x), self.spread(x)
        self.divergence = tf.reduce_mean(mean**2 + tf.exp(spread) - spread - 1.0)
        noise = keras.random.normal(tf.shape(mean), seed=self.random)
        return self.head(self.above(mean + tf.exp(spread / 2) * noise))

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(data) - data) ** 2) + self.divergence
        minimize(self.optimizer, tape, loss, self.trainable_variables)
        return {"loss": loss}


@goes(slow=True)
def variational_autoencoder(convert: Convert, prove: Prove) -> None:
    model = compiled(Vae(), loss=None)
    fit(model, X, None)
    convert(model)
    other_ways = {"head": ["mean", "spread", "below"], "above": ["mean", "spread", "below"]}
    both = {"mean": ["below"], "spread": ["below"]}
    prove(model, lambda: fit(model, X, None), other_ways={**other_ways, **both})


class Clipped(keras.Sequential):
    """Clips by the global norm in a step of its own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


# --- architectures ------------------------------------------------------------------------------


@goes("kp")
def siamese(convert: Convert, prove: Prove) -> None:
    encoder = keras.Sequential([keras.Input((4,)), dense(5, "low"), dense(4, "high")], name="enc")
    one, other = keras.Input((4,)), keras.Input((4,))
    apart = k.Subtract()([encoder(one), encoder(other)])
    model = compiled(keras.Model([one, other], k.Dense(3, name="head")(apart)), decaying())
    x = [X, normal(8, 4, seed=9)]
    fit(model, x)
    convert(model)
    prove(model, lambda: fit(model, x))


@goes("brsf", slow=True)
def u_net(convert: Convert, prove: Prove) -> None:
    inputs = keras.Input((4, 4, 2))
    side = k.Conv2D(3, 3, padding="same", activation="tanh", name="side")(inputs)
    deep = k.Conv2D(4, 2, strides=2, activation="tanh", name="deep")(side)
    up = k.Conv2DTranspose(3, 2, strides=2, activation="tanh", name="up")(deep)
    model = keras.Model(inputs, k.Conv2D(1, 1, name="head")(k.Concatenate()([up, side])))
    x, y = normal(4, 4, 4, 2), normal(4, 4, 4, 1)
    fit(compiled(model), x, y)
    convert(model)
    prove(model, lambda: fit(model, x, y), other_ways={"up": ["side"], "deep": ["side"]})


@goes(slow=True)
def u_net_of_separable_convolutions(convert: Convert, prove: Prove) -> None:
    inputs = keras.Input((4, 4, 2))
    side = k.SeparableConv2D(3, 2, padding="same", activation="tanh", name="side")(inputs)
    deep = k.DepthwiseConv2D(2, strides=2, activation="tanh", name="deep")(side)
    up = k.Conv2DTranspose(3, 2, strides=2, activation="tanh", name="up")(deep)
    model = keras.Model(inputs, k.Conv2D(1, 1, name="head")(k.Add()([up, side])))
    x, y = normal(4, 4, 4, 2), normal(4, 4, 4, 1)
    fit(compiled(model), x, y)
    convert(model)
    other_ways = {"up": ["side/*"], "deep": ["side/*"]}
    prove(model, lambda: fit(model, x, y), other_ways=other_ways)


@goes("wm", slow=True)
def vision_transformer(convert: Convert, prove: Prove) -> None:
    inputs = keras.Input((4, 4, 2))
    x = k.Reshape((4, 3))(k.Conv2D(3, 2, strides=2, name="patches")(inputs))
    x = k.Add()([x, k.MultiHeadAttention(2, 2, name="mha")(*[k.LayerNormalization()(x)] * 2)])
    x = k.Add()([x, k.Dense(3, name="out")(dense(5, "in")(k.LayerNormalization()(x)))])
    model = keras.Model(inputs, k.Dense(3, name="head")(k.GlobalAveragePooling1D()(x)))
    images = normal(8, 4, 4, 2)
    fit(compiled(model), images)
    convert(model)
    other_ways = {"mha/*": ["patches"], "in": ["patches", "mha/*"], "out": ["patches", "mha/*"]}
    fit_and_prove(
        model, prove, *only(model, gaussian_mirror()), data=(images, Y), other_ways=other_ways
    )


@goes("frsf", slow=True)
def recurrent_head(convert: Convert, prove: Prove) -> None:
    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            k.TimeDistributed(dense(4, "each")),
            dense(4, "below"),
            k.SimpleRNN(4, unroll=True, name="rnn"),
            k.Dense(3, name="head"),
        ]
    )
    x = normal(8, 3, 4)
    fit(compiled(model), x)
    convert(model)
    prove(model, lambda: fit(model, x), other_ways=LAST_STEP)


# The last step's error needs no recurrent B.
LAST_STEP = {"*/recurrent": ["below", "*each", "*/input", "*/recurrent"]}


@goes(slow=True)
def lstm_in_a_loop(convert: Convert, prove: Prove) -> None:
    layers = [dense(4, "below"), k.LSTM(3, name="lstm"), k.Dense(3, name="head")]
    model, x = compiled(keras.Sequential([keras.Input((3, 4)), *layers])), normal(8, 3, 4)
    fit(model, x)
    convert(model)
    prove(model, lambda: fit(model, x), other_ways=LAST_STEP)


@goes("kp", slow=True)
def gru_under_xla(convert: Convert, prove: Prove) -> None:
    layers = [dense(4, "below"), k.GRU(3, name="gru"), k.Dense(3, name="head")]
    model, x = keras.Sequential([keras.Input((3, 4)), *layers]), normal(8, 3, 4)
    convert(compiled(model, decaying(), jit_compile=True))
    fit_and_prove(model, prove, *only(model, KolenPollack()), data=(x, Y), other_ways=LAST_STEP)


@goes("frsf", slow=True)
def stacked_cells(convert: Convert, prove: Prove) -> None:
    cells = [k.GRUCell(3, reset_after=False, name="one"), k.SimpleRNNCell(3, name="two")]
    layers = [dense(4, "below"), k.RNN(cells, name="rnn"), k.Dense(3, name="head")]
    model, x = convert(keras.Sequential([keras.Input((3, 4)), *layers])), normal(8, 3, 4)
    fit(compiled(model), x)
    prove(model, lambda: fit(model, x), other_ways=LAST_STEP)


@goes(slow=True)
def untied_after_converting(convert: Convert, prove: Prove) -> None:
    images = normal(4, 6, 6, 2)
    convolutions = [
        k.Conv2D(2, 3, strides=2, activation="tanh", name="low"),
        k.Conv2D(3, 2, padding="same", activation="tanh", name="high"),
    ]
    model = keras.Sequential([keras.Input((6, 6, 2)), *convolutions, k.Flatten(), k.Dense(3)])
    fit(compiled(model), images, Y[:4])
    convert(model)
    fit(model, images, Y[:4])
    tfwm.conversion.untie(model)
    prove(model, lambda: fit(model, images, Y[:4]))


@goes("kp", slow=True)
def converted_after_untying(convert: Convert, prove: Prove) -> None:
    signals = normal(8, 9, 2)
    local = [dense(3, "below"), k.Conv1D(3, 3, strides=2, activation="tanh", name="line")]
    model = keras.Sequential([keras.Input((9, 2)), *local, k.Flatten(), k.Dense(3, name="head")])
    fit(compiled(model, decaying()), signals)
    tfwm.conversion.untie(model)
    convert(model)
    fit_and_prove(model, prove, *only(model, KolenPollack()), data=(signals, Y))


@goes("wm", slow=True)
def locally_connected_by_hand(convert: Convert, prove: Prove) -> None:
    images = normal(8, 6, 6, 2)
    own = tfwm.layers.LocallyConnected2D
    local = [own(2, 3, activation="tanh", name="low"), own(2, 2, padding="same", name="high")]
    model = keras.Sequential([keras.Input((6, 6, 2)), *local, k.Flatten(), k.Dense(3, name="head")])
    convert(compiled(model))
    fit_and_prove(model, prove, *only(model, gaussian_mirror()), data=(images, Y))


class DenseCell(k.Layer):
    """A recurrent cell that holds an ordinary Dense layer."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.state_size, self.mix = units, dense(units, "mix")

    def build(self, input_shape: Any) -> None:
        self.mix.build((None, input_shape[-1] + self.state_size))
        self.built = True

    def call(self, inputs: tf.Tensor, states: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """One step."""
        state = self.mix(keras.ops.concatenate([inputs, states[0]], axis=-1))
        return state, [state]


@goes("kp", slow=True)
def dense_layer_in_a_recurrent_cell(convert: Convert, prove: Prove) -> None:
    layers = [dense(4, "below"), k.RNN(DenseCell(4), name="rnn"), k.Dense(3, name="head")]
    model, x = keras.Sequential([keras.Input((3, 4)), *layers]), normal(8, 3, 4)
    fit(compiled(model, decaying()), x)
    convert(model)
    # Its own errors come back to it in time by its own B.
    prove(model, lambda: fit(model, x), other_ways={"*mix": ["*mix"]})


@goes("kp")
def two_heads(convert: Convert, prove: Prove) -> None:
    inputs = keras.Input((4,))
    middle = dense(5, "middle")(dense(4, "low")(inputs))
    outputs = {"a": k.Dense(3, name="a")(middle), "b": k.Dense(1, name="b")(middle)}
    model = compiled(keras.Model(inputs, outputs), decaying(), loss={"a": "mse", "b": "mae"})
    y = {"a": Y, "b": Y[:, :1]}
    fit(model, X, y)
    convert(model)
    other_ways = {"a": ["middle", "low"], "b": ["middle", "low"]}
    prove(model, lambda: fit(model, X, y), top=["a", "b"], other_ways=other_ways)


@goes(slow=True)
def two_inputs_by_name(convert: Convert, prove: Prove) -> None:
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((3,), name="b")}
    both = k.Concatenate()([dense(4, "of_a")(inputs["a"]), dense(4, "of_b")(inputs["b"])])
    model = compiled(keras.Model(inputs, k.Dense(3, name="head")(dense(4, "middle")(both))))
    x = {"a": X, "b": Y}
    fit(model, x)
    convert(model)
    prove(model, lambda: fit(model, x), first=["of_a", "of_b"])


@goes()
def error_of_an_activity_regularizer(convert: Convert, prove: Prove) -> None:
    model = mlp()
    model.get_layer("middle").activity_regularizer = keras.regularizers.L2(0.1)
    fit(compiled(model))
    convert(model)
    prove(model, lambda: fit(model), other_ways={"head": ["middle", "low"]})


@goes("brsf", slow=True)
def batch_norm_and_dropout(convert: Convert, prove: Prove) -> None:
    layers = [dense(6, "low"), k.BatchNormalization(), k.Dropout(0.3, seed=1), dense(5, "middle")]
    model = compiled(keras.Sequential([keras.Input((4,)), *layers, k.Dense(3, name="head")]))
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes("usf", slow=True)
def layers_by_hand(convert: Convert, prove: Prove) -> None:
    model = mlp()
    if convert(mlp()).layers[0].__class__ is tfwm.layers.FeedbackDense:
        layers = [
            tfwm.layers.FeedbackDense(4, activation="tanh", rule="usf", name="low"),
            tfwm.layers.FeedbackDense(5, activation="tanh", rule="usf", name="middle"),
            tfwm.layers.FeedbackDense(3, rule="usf", name="head"),
        ]
        model = keras.Sequential([keras.Input((4,)), *layers])
    fit(compiled(model))
    prove(model, lambda: fit(model))


# --- how layers are held ------------------------------------------------------------------------


class Plain(keras.Model):
    """`call` takes no `training`; the head is listed first."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.low, self.middle = k.Dense(3, name="head"), dense(4, "low"), dense(5)
        self.middle.name = "middle"

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Low, middle, head."""
        return self.head(self.middle(self.low(x)))


@goes("brsf", slow=True)
def subclass_whose_call_takes_no_training(convert: Convert, prove: Prove) -> None:
    model = compiled(Plain())
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes()
def converted_before_it_is_built(convert: Convert, prove: Prove) -> None:
    model = convert(compiled(Plain()))
    fit(model)
    prove(model, lambda: fit(model))


class OfInputsAndOutputs(keras.Model):
    """A functional model with a class of its own."""

    def __init__(self) -> None:
        inputs = keras.Input((4,))
        hidden = dense(5, "middle")(dense(4, "low")(inputs))
        super().__init__(inputs=inputs, outputs=k.Dense(3, name="head")(hidden))


@goes("kp", slow=True)
def functional_subclass(convert: Convert, prove: Prove) -> None:
    model = compiled(OfInputsAndOutputs(), decaying())
    fit(model)
    convert(model)
    fit_and_prove(model, prove, *only(model, KolenPollack()))


@goes("wm", slow=True)
def nested_sequential(convert: Convert, prove: Prove) -> None:
    inner = keras.Sequential([keras.Input((5,)), dense(5, "low"), dense(4, "high")])
    middle = keras.Sequential([keras.Input((4,)), dense(5, "low"), inner])
    layers = [keras.Input((4,)), dense(4, "low"), middle, k.Dense(3, name="head")]
    model = compiled(keras.Sequential(layers))
    fit(model)
    convert(model)
    fit_and_prove(model, prove, *only(model, gaussian_mirror()))


class Holder(k.Layer):
    """Layers in a list, in a dict, and one that only `build` makes."""

    def __init__(self) -> None:
        super().__init__()
        self.listed, self.keyed = [dense(5, "listed")], {"a": dense(5, "keyed")}

    def build(self, input_shape: Any) -> None:
        self.late = dense(5, "late")
        self.listed[0].build(input_shape)
        self.keyed["a"].build((None, 5))
        self.late.build((None, 5))
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Three in a line."""
        return self.late(self.keyed["a"](self.listed[0](x)))


@goes("brsf", slow=True)
def layers_in_lists_and_dicts_and_made_in_build(convert: Convert, prove: Prove) -> None:
    model = compiled(keras.Sequential([dense(4, "low"), Holder(), k.Dense(3, name="head")]))
    convert(model)
    fit(model)
    prove(model, lambda: fit(model))


class MakesASpare(k.Layer):
    """Makes a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = dense(5, "used"), dense(5, "spare")

    def build(self, input_shape: Any) -> None:
        self.used.build(input_shape)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Only one."""
        return self.used(x)


# --- functions traced by the user ---------------------------------------------------------------


class TracedMethod(k.Layer):
    """A layer inside a `tf.function` that is a method."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dense(5, "inner")

    def build(self, input_shape: Any) -> None:
        self.inner.build(input_shape)
        self.built = True

    @tf.function
    def traced(self, x: tf.Tensor) -> tf.Tensor:
        """The layer."""
        return self.inner(x)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Through the function."""
        return self.traced(x)


class TracedAttribute(TracedMethod):
    """The function is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.function = tf.function(lambda x: self.inner(x))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Through the function."""
        return self.function(x)


@tf.function
def traced(layer: Any, x: tf.Tensor) -> tf.Tensor:
    """A function of a module."""
    return layer(x)


class TracedElsewhere(TracedMethod):
    """The function stands in a module."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Through the function."""
        return traced(self.inner, x)


def around(block: k.Layer) -> keras.Model:
    """A model with a block in the middle."""
    layers = [keras.Input((4,)), dense(4, "low"), block, k.Dense(3, name="head")]
    return compiled(keras.Sequential(layers))


@goes("brsf", slow=True)
def tf_function_as_a_method(convert: Convert, prove: Prove) -> None:
    model = around(TracedMethod())
    fit(model)
    convert(model)
    fit(model)
    prove(model, lambda: fit(model))


@goes(slow=True)
def tf_function_as_an_attribute(convert: Convert, prove: Prove) -> None:
    model = around(TracedAttribute())
    fit(model)
    convert(model)
    fit(model)
    prove(model, lambda: fit(model))


def looked_at(block: k.Layer, convert: Convert, prove: Prove) -> None:
    """Every look that there is, before the first step and between steps."""
    model = convert(around(block))
    if tfwm.pathways(model):
        for _ in range(2):
            tfwm.weight_angles(model)
            for look in (tfwm.delta_angles, tfwm.gradient_angles):
                with contextlib.suppress(ValueError):  # said, where it cannot be seen
                    look(model, X, Y)
    fit(model)
    prove(model, lambda: fit(model))


@goes(slow=True)
def gradient_penalty(convert: Convert, prove: Prove) -> None:
    model = compiled(Steep(mlp().layers))
    fit(model)
    convert(model)
    # What carries the slope counts as W: every B is in every dW, and without B of the lowest
    # layer there is no slope.
    other_ways = {"low": ["*"], "middle": ["middle", "head"], "head": ["head"]}
    prove(model, lambda: fit(model), top=[], first=[], other_ways=other_ways)


@goes(slow=True)
def spectral_normalization(convert: Convert, prove: Prove) -> None:
    layers = [dense(4, "low"), k.SpectralNormalization(dense(5, "middle")), k.Dense(3)]
    model = compiled(keras.Sequential([keras.Input((4,)), *layers]))
    fit(model)
    convert(model)
    for _ in range(60):  # until its norm is 1, so that the next call leaves W where it is
        model(X, training=True)
    prove(model, lambda: fit(model))


@goes("wm", slow=True)
def layer_that_is_never_called(convert: Convert, prove: Prove) -> None:
    model = around(MakesASpare())
    convert(model)
    fit_and_prove(model, prove, *only(model, gaussian_mirror()))


@goes(slow=True)
def looked_at_with_a_traced_method(convert: Convert, prove: Prove) -> None:
    looked_at(TracedMethod(), convert, prove)


@goes(slow=True)
def looked_at_with_a_traced_attribute(convert: Convert, prove: Prove) -> None:
    looked_at(TracedAttribute(), convert, prove)


@goes("kp", slow=True)
def looked_at_with_a_function_of_a_module(convert: Convert, prove: Prove) -> None:
    looked_at(TracedElsewhere(), convert, prove)
