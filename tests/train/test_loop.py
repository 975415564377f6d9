"""The loop does what `fit` does, evaluates every image once, and draws dropout by step."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.slow import slow_but
from train.config import FitConfig, TrainingConfig
from train.data.splits import Share
from train.devices.strategy import replica_seeds
from train.run.loop import Loop, NotFiniteError, Position

BATCH = 16


@dataclasses.dataclass(frozen=True)
class ArrayBatches:
    """Rows of two arrays in order, epoch after epoch."""

    images: np.ndarray
    labels: np.ndarray
    test_batch: int = 24
    epochs: int = 3
    config: FitConfig = dataclasses.field(default_factory=FitConfig)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.labels) // BATCH

    def steps_in(self, epoch: int) -> int:
        return self.steps_per_epoch

    @property
    def evaluation_steps(self) -> int:
        return -(-len(self.labels) // self.test_batch)

    @property
    def evaluation_padding(self) -> float:
        return self.evaluation_steps * self.test_batch / len(self.labels)

    def training(self, first_step: int, share: Share) -> tf.data.Dataset:
        whole = self.steps_per_epoch * BATCH
        data = tf.data.Dataset.from_tensor_slices((self.images[:whole], self.labels[:whole]))
        data = data.repeat(self.epochs).skip(first_step * BATCH)
        return data.batch(BATCH // share.replicas_in_all, drop_remainder=True)

    def over_training_examples(self) -> "ArrayBatches":
        return self

    def evaluation(self, share: Share) -> tf.data.Dataset:
        missing = self.evaluation_steps * self.test_batch - len(self.labels)
        images = np.concatenate([self.images, np.full_like(self.images[:missing], 9.0)])
        labels = np.concatenate([self.labels, np.zeros(missing, np.int32)])
        weights = np.concatenate([np.ones(len(self.labels)), np.zeros(missing)])
        data = tf.data.Dataset.from_tensor_slices((images, labels, weights.astype(np.float32)))
        return data.batch(self.test_batch // share.replicas_in_all, drop_remainder=True)


@pytest.fixture
def batches() -> ArrayBatches:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 70).astype(np.int32)
    images = random.normal(size=(70, 6)).astype(np.float32) + labels[:, None]
    return ArrayBatches(images, labels)


def compiled(strategy: tf.distribute.Strategy, *layers: Any, rule: Any = "bp") -> keras.Model:
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(5, "tanh", name="hidden"),
                *layers,
                keras.layers.Dense(3, name="head"),
            ]
        )
        tfwm.convert_model(model, rule, seed=2)
        model.compile(
            keras.optimizers.Adam(0.01),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=["accuracy"],
        )
    return model


def trained(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    batches: ArrayBatches,
    callbacks: Sequence[Any] = (),
    **training: Any,
) -> dict[str, list[float]]:
    config = FitConfig(training=TrainingConfig(**training))
    return Loop(model, strategy, dataclasses.replace(batches, config=config)).run(callbacks)


class Diary(keras.callbacks.Callback):
    """What a callback is told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Any, ...]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.told.append(("train begin",))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.told.append(("epoch begin", epoch))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.told.append(("batch begin", batch))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.told.append(("batch end", batch, sorted(logs)))

    def on_test_begin(self, logs: Any = None) -> None:
        self.told.append(("test begin",))

    def on_test_end(self, logs: Any = None) -> None:
        self.told.append(("test end", sorted(logs)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.told.append(("epoch end", epoch, sorted(logs)))

    def on_train_end(self, logs: Any = None) -> None:
        self.told.append(("train end",))


@pytest.mark.parametrize("steps_per_call", slow_but([2], [1, 2]))
def test_loop_is_fit_to_the_bit_and_tells_callbacks_the_same(
    batches: ArrayBatches, steps_per_call: int
) -> None:
    strategy = tf.distribute.get_strategy()
    ours, theirs = compiled(strategy, rule="kp"), compiled(strategy, rule="kp")
    seen, expected = Diary(), Diary()
    history = trained(strategy, ours, batches, [seen], steps_per_call=steps_per_call)
    theirs.steps_per_execution = steps_per_call
    fitted = theirs.fit(
        batches.training(0, Share()),
        steps_per_epoch=batches.steps_per_epoch,
        epochs=3,
        validation_data=(batches.images, batches.labels),
        callbacks=[expected],
        shuffle=False,
        verbose=0,
    ).history
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert history.keys() == fitted.keys()
    for name in fitted:
        np.testing.assert_allclose(history[name], fitted[name], rtol=1e-5, err_msg=name)
    assert seen.told == expected.told


@pytest.mark.parametrize(
    ("test_batch", "replicas"),
    [
        pytest.param(size, replicas, marks=() if size == kept else pytest.mark.slow)
        for replicas, kept in ((1, 128), (2, 24))
        for size in (70, 24, 128, 2)
    ],
)
def test_evaluation_counts_every_image_once(
    batches: ArrayBatches,
    two_replicas: tf.distribute.Strategy,
    test_batch: int,
    replicas: int,
) -> None:
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    padded = dataclasses.replace(batches, test_batch=test_batch)
    model = compiled(strategy)
    loop = Loop(model, strategy, padded)
    logits = np.asarray(model(batches.images), np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = np.log(np.exp(shifted).sum(axis=1))
    losses = logs - shifted[np.arange(70), batches.labels]
    result = loop.test_images()
    assert result["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert result["accuracy"] == pytest.approx((logits.argmax(axis=1) == batches.labels).mean())


def test_evaluation_makes_its_pipeline_once_and_begins_again_after_a_failure(
    batches: ArrayBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Share] = []
    make = ArrayBatches.evaluation

    def counted(self: ArrayBatches, share: Share) -> tf.data.Dataset:
        made.append(share)
        return make(self, share)

    monkeypatch.setattr(ArrayBatches, "evaluation", counted)
    strategy = tf.distribute.get_strategy()
    loop = Loop(compiled(strategy), strategy, batches)
    loop.run([])
    assert len(made) == 1
    expected = loop.test_images()

    def interrupted(iterator: Any, steps: Any) -> None:
        next(iterator)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.test_images, "_pass", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.test_images()
    assert loop.test_images() == expected
    assert len(made) == 2


@pytest.mark.parametrize("replicas", [1, 2])
def test_evaluation_within_an_epoch_leaves_its_metrics_to_the_bit(
    batches: ArrayBatches, two_replicas: tf.distribute.Strategy, replicas: int
) -> None:
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    model = compiled(strategy)
    loop = Loop(model, strategy, dataclasses.replace(batches, epochs=1))
    loop.run([])
    with strategy.scope():
        strategy.run(model.test_step, args=((batches.images[:9], batches.labels[:9]),))
    before = metrics_of(strategy, model)
    within = loop.test_images.in_between()
    assert metrics_of(strategy, model) == before
    assert within == loop.test_images()
    assert metrics_of(strategy, model) != before


def metrics_of(strategy: tf.distribute.Strategy, model: keras.Model) -> list[list[float]]:
    """Variable by variable, each replica's own."""
    copies = [strategy.experimental_local_results(v.value) for v in model.metrics_variables]
    return [[float(copy) for copy in own] for own in copies]


def test_dropout_is_a_function_of_seed_step_and_replica(
    two_replicas: tf.distribute.Strategy,
) -> None:
    with two_replicas.scope():
        model = keras.Sequential([keras.Input((1000,)), keras.layers.Dropout(0.5)])
    ones = tf.ones((1, 1000))

    def kept(seed: int, step: int) -> list[np.ndarray]:
        reseed = replica_seeds(model, seed=seed)

        def replica() -> tf.Tensor:
            reseed(tf.constant(step, tf.int64))
            return model(ones, training=True)

        outputs = tf.function(lambda: two_replicas.run(replica))()
        return [out.numpy() > 0 for out in two_replicas.experimental_local_results(outputs)]

    first, second = kept(0, 3)
    assert 300 < first.sum() < 700
    assert (first != second).sum() > 300  # replicas drop other cells
    for other in (*kept(0, 4), *kept(1, 3)):
        assert (first != other).sum() > 300
    again = kept(0, 3)
    np.testing.assert_array_equal(again, [first, second])


def test_statistics_of_all_replicas_are_averaged(
    batches: ArrayBatches, two_replicas: tf.distribute.Strategy
) -> None:
    model = compiled(two_replicas, keras.layers.BatchNormalization(name="norm"))
    trained(two_replicas, model, batches)
    for variable in (model.get_layer("norm").moving_mean, model.get_layer("norm").moving_variance):
        copies = two_replicas.experimental_local_results(variable.value)
        assert len(copies) == 2
        np.testing.assert_array_equal(*[copy.numpy() for copy in copies])


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_first_step_without_a_finite_loss_is_named(
    batches: ArrayBatches, steps_per_call: int
) -> None:
    images = batches.images.copy()
    images[2 * BATCH + 3, 0] = np.nan  # in the third batch
    broken = dataclasses.replace(batches, images=images)
    strategy = tf.distribute.get_strategy()
    diary = Diary()
    with pytest.raises(NotFiniteError) as caught:
        trained(strategy, compiled(strategy), broken, [diary], steps_per_call=steps_per_call)
    assert caught.value.step == 3
    assert diary.told[-1] == ("train end",)


def test_callback_that_refuses_the_training_leaves_the_model_its_own_step(
    batches: ArrayBatches,
) -> None:
    class Refuse(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            raise ValueError("not with me")

        def on_train_end(self, logs: Any = None) -> None:
            raise AttributeError("has not begun")

    strategy = tf.distribute.get_strategy()
    model = compiled(strategy, rule="wm")
    own = model.train_step
    with pytest.raises(ValueError, match="not with me"):
        trained(strategy, model, batches, [tfwm.callbacks.WeightMirror(), Refuse()])
    assert model.train_step == own


def test_callback_that_stops_the_training_stops_it(batches: ArrayBatches) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 1

    strategy = tf.distribute.get_strategy()
    history = trained(strategy, compiled(strategy), batches, [Stop()])
    assert len(history["val_loss"]) == 1


def test_training_entered_in_mid_epoch_takes_the_batches_that_are_left(
    batches: ArrayBatches,
) -> None:
    strategy = tf.distribute.get_strategy()
    loop = Loop(compiled(strategy), strategy, dataclasses.replace(batches, epochs=2))
    diary = Diary()
    loop.run([diary], start=Position(1, 3))
    assert [entry[1] for entry in diary.told if entry[0] == "batch begin"] == [3]
    assert int(loop.model.optimizer.iterations) == 1


@pytest.mark.parametrize(
    ("rule", "policy"),
    [
        # Loss scaling must spare the mirror and scale what B gets from dW.
        ({"hidden": "wm", "*": "kp"}, "mixed_float16"),
        *(
            pytest.param(rule, policy, marks=pytest.mark.slow)
            for rule in ("bp", "fa", "usf", "frsf", "brsf", "kp", "urfb", "wm")
            for policy in ("mixed_bfloat16", "mixed_float16")
        ),
    ],
    ids=str,
)
def test_mixed_precision_trains_under_every_rule(
    batches: ArrayBatches, rule: Any, policy: str
) -> None:
    keras.config.set_dtype_policy(policy)
    strategy = tf.distribute.get_strategy()
    mirror = [tfwm.callbacks.WeightMirror()] if "wm" in str(rule) else []
    model = compiled(strategy, rule=rule)
    history = trained(strategy, model, batches, mirror)
    assert history["loss"][-1] < history["loss"][0]
    assert all(weight.dtype == "float32" for weight in model.trainable_weights)
