"""Ways to keep: saved, copied, stopped and taken up again, converted and stripped, looked at."""

import copy
import pathlib
import pickle
import tempfile
import warnings
from typing import Any

import keras
import tensorflow as tf

import tfweightmirror as tfwm
from tests.frozen import frozen
from tests.ways.entry import X, Y, compiled, dense, fit, fit_and_prove, goes, k, mlp
from tests.ways.proof import Convert, Prove
from tests.ways.training import decaying, gaussian_mirror, only
from tfweightmirror.callbacks import FeedbackMonitor, KolenPollack


def folder() -> pathlib.Path:
    """A new folder, away from the tests' own."""
    return pathlib.Path(tempfile.mkdtemp())


def taught(convert: Convert, optimizer: Any = None) -> keras.Model:
    """A converted model that has learned."""
    model = convert(compiled(mlp(), optimizer))
    fit(model)
    return model


@goes(slow=True)
def cloned(convert: Convert, prove: Prove) -> None:
    model = compiled(keras.models.clone_model(taught(convert)))
    fit(model)
    prove(model, lambda: fit(model))


@goes("brsf", slow=True)
def copied(convert: Convert, prove: Prove) -> None:
    model = copy.deepcopy(taught(convert))
    prove(model, lambda: fit(model))


@goes("kp", slow=True)
def pickled(convert: Convert, prove: Prove) -> None:
    model = pickle.loads(pickle.dumps(taught(convert, decaying())))
    prove(model, lambda: fit(model))


@goes("usf", slow=True)
def made_from_its_config(convert: Convert, prove: Prove) -> None:
    model = taught(convert)
    model = compiled(model.from_config(model.get_config()))
    fit(model)
    prove(model, lambda: fit(model))


@goes("wm")
def saved_and_loaded(convert: Convert, prove: Prove) -> None:
    model, path = convert(compiled(mlp())), folder() / "model.keras"
    fit(model, callbacks=only(model, gaussian_mirror()))
    model.save(path)
    model = keras.models.load_model(path)
    fit_and_prove(model, prove, *only(model, gaussian_mirror()))


@goes("kp", slow=True)
def saved_as_h5(convert: Convert, prove: Prove) -> None:
    path = folder() / "model.h5"
    taught(convert, decaying()).save(path)
    model = compiled(keras.models.load_model(path, compile=False), decaying())
    fit(model)
    prove(model, lambda: fit(model))


@goes("frsf", slow=True)
def weights_saved_and_loaded(convert: Convert, prove: Prove) -> None:
    path = folder() / "model.weights.h5"
    taught(convert).save_weights(path)
    model = taught(convert)
    model.load_weights(path)
    prove(model, lambda: fit(model))


@goes("kp", slow=True)
def checkpoint_restored(convert: Convert, prove: Prove) -> None:
    model = taught(convert, decaying())
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = checkpoint.save(folder() / "checkpoint")
    model = taught(convert, decaying())
    restored = tf.train.Checkpoint(model=model, optimizer=model.optimizer).restore(path)
    restored.assert_existing_objects_matched()
    prove(model, lambda: fit(model))


@goes("brsf", slow=True)
def model_checkpoint_and_load(convert: Convert, prove: Prove) -> None:
    model, path = convert(compiled(mlp())), folder() / "best.keras"
    best = keras.callbacks.ModelCheckpoint(path, monitor="loss", save_best_only=True)
    fit(model, callbacks=[best])
    model = keras.models.load_model(path)
    prove(model, lambda: fit(model))


class Stops(keras.callbacks.Callback):
    """Ends training as a crash does."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        raise KeyboardInterrupt


@goes("kp", slow=True)
def backup_and_restore(convert: Convert, prove: Prove) -> None:
    model, path = convert(compiled(mlp(), decaying())), folder()
    backup = keras.callbacks.BackupAndRestore(path, save_freq=1)
    try:
        fit(model, epochs=2, callbacks=[backup, *only(model, KolenPollack()), Stops()])
    except KeyboardInterrupt:
        model = convert(compiled(mlp(), decaying()))
    backup = keras.callbacks.BackupAndRestore(path)
    fit_and_prove(model, prove, backup, *only(model, KolenPollack()), epochs=2)


@goes(slow=True)
def exported_before_it_trains(convert: Convert, prove: Prove) -> None:
    model = convert(compiled(mlp()))
    model.export(folder() / "model", verbose=False)
    fit(model)
    prove(model, lambda: fit(model))


@keras.saving.register_keras_serializable("ways")
class Pair(k.Layer):
    """Two layers in one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.one, self.other = dense(4, "one"), dense(4, "other")

    def build(self, input_shape: Any) -> None:
        self.one.build(input_shape)
        self.other.build((None, 4))
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """One, the other."""
        return self.other(self.one(x))


def with_pair(convert: Convert) -> keras.Model:
    """A taught model with a composite in it."""
    layers = [keras.Input((4,)), Pair(name="pair"), k.Dense(3, name="head")]
    model = convert(compiled(keras.Sequential(layers)))
    fit(model)
    return model


# --- converted in the midst of other things -----------------------------------------------------


@goes(slow=True)
def converted_stripped_and_converted(convert: Convert, prove: Prove) -> None:
    model = taught(convert)
    if tfwm.pathways(model):
        tfwm.strip_feedback(model)
    fit(model)
    convert(model)
    prove(model, lambda: fit(model))


@goes("kp")
def frozen_then_unfrozen_and_compiled_again(convert: Convert, prove: Prove) -> None:
    backbone = keras.Sequential([keras.Input((4,)), dense(4, "low"), dense(5, "middle")])
    model = keras.Sequential([keras.Input((4,)), backbone, k.Dense(3, name="head")])
    backbone.trainable = False
    convert(compiled(model, decaying()))
    fit(model)
    backbone.trainable = True
    compiled(model, decaying())
    fit_and_prove(model, prove, *only(model, KolenPollack()))


@goes("wm", slow=True)
def mirrored_before_it_trains(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp())
    fit(model)
    convert(model)
    if tfwm.pathways(model):
        tfwm.mirror_model(model, "gaussian")
    fit_and_prove(model, prove, *only(model, gaussian_mirror()))


@goes("kp", slow=True)
def monitored_between_fits(convert: Convert, prove: Prove) -> None:
    model = convert(compiled(mlp(), decaying()))
    watched = only(model, FeedbackMonitor(probe=(X, Y)))
    fit(model, callbacks=watched)
    fit(model, callbacks=watched)
    fit_and_prove(model, prove, *watched, *only(model, KolenPollack()))


@goes("urfb", slow=True)
def feedback_set_anew_between_fits(convert: Convert, prove: Prove) -> None:
    model = taught(convert)
    if tfwm.pathways(model):
        tfwm.reset_feedback(model, seed=1)
    prove(model, lambda: fit(model))


@goes(slow=True)
def evaluated_and_asked_before_it_is_converted(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp())
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    convert(model)
    fit(model)
    prove(model, lambda: fit(model))


@goes("kp", slow=True)
def part_of_a_model_around_it(convert: Convert, prove: Prove) -> None:
    inner, inputs = mlp(), keras.Input((4,))
    outer = compiled(keras.Model(inputs, k.Dense(3, name="top")(inner(inputs))), decaying())
    fit(outer)
    convert(inner)
    # The top stays plain, so that the inner head's error has come by W alone.
    prove(outer, lambda: fit(outer), plain="top")


@goes(slow=True)
def trunk_of_two_models(convert: Convert, prove: Prove) -> None:
    inputs = keras.Input((4,))
    trunk = dense(5, "middle")(dense(4, "low")(inputs))
    one = compiled(keras.Model(inputs, k.Dense(3, name="one")(trunk)))
    other = compiled(keras.Model(inputs, k.Dense(3, name="other")(trunk)))
    fit(one)
    fit(other)
    convert(one)
    prove(other, lambda: fit(other), plain="other")


@goes()
def composite_saved_and_loaded(convert: Convert, prove: Prove) -> None:
    path = folder() / "model.keras"
    with_pair(convert).save(path)
    model = keras.models.load_model(path)
    prove(model, lambda: fit(model))


@goes("usf", slow=True)
def composite_cloned(convert: Convert, prove: Prove) -> None:
    model = compiled(keras.models.clone_model(with_pair(convert)))
    fit(model)
    prove(model, lambda: fit(model))


@goes("brsf", slow=True)
def composite_copied(convert: Convert, prove: Prove) -> None:
    model = copy.deepcopy(with_pair(convert))
    prove(model, lambda: fit(model))


@goes()
def converted_behind_gc_freeze(convert: Convert, prove: Prove) -> None:
    model = compiled(mlp())
    fit(model)
    with frozen(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"gc\.freeze\(\) hides")
        convert(model)
    prove(model, lambda: fit(model))
