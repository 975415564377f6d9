"""Callback that checks that Kolen-Pollack's law can hold, and whether it does."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfweightmirror._internals import look_hooks, optimizer_hooks, twin_gradient
from tfweightmirror._internals.callers import stacklevel_of_user
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.walk import walk
from tfweightmirror.callbacks import gap_checks
from tfweightmirror.callbacks.gap_follower import GapFollower
from tfweightmirror.callbacks.gap_law import angle_at_gap_deg, first_velocities, gaps
from tfweightmirror.callbacks.train_step import TrainStep
from tfweightmirror.conversion.compiled import optimizers_of
from tfweightmirror.pathway import Pathway


class KolenPollack(keras.callbacks.Callback):
    """Checks, before anything trains, that the gap B - W must die out, and reports it.

    Under `kolen_pollack` B and W get the same step and the same decoupled weight decay, so
    `|B - W|_t = prod_t (1 - learning_rate_t * weight_decay) |B - W|_0` (Kolen and Pollack 1994;
    Akrout et al. 2019, eq. 13 to 18), in any optimizer whose update depends on gradient, state and
    learning rate alone.

    The paper's decay is decoupled and not scaled by the learning rate (Akrout et al. 2019, eq. 16
    and 17): `w <- w - learning_rate * gradient - decay * w`, so that the gap is `(1 - decay)^t`.
    Keras has none such: an optimizer of your own that takes it in `update_step`, before the step,
    says so by an attribute `per_step_weight_decay`.

    Nor has Keras coupled decay, PyTorch's `gradient + weight_decay * weight` (so Xiao et al. 2018).
    An optimizer that adds it in `update_step` has an attribute `coupled_weight_decay`. The gap then
    has a momentum of its own: with `v` 0 at first, learning rate `r` and decay `d`,
    `v <- momentum * v - r * d * gap`, `gap <- gap + v` (Nesterov: `gap + momentum * v - r * d *
    gap`); without momentum that is the law above. It holds for SGD alone.

    At each epoch's end `logs` get `feedback_gap`, the measured `|B - W|_t / |B - W|_0` of the
    pathway in which it is largest (of those that have been updated), and `feedback_gap_predicted`,
    what the law says for that pathway. Measured and predicted are compared in every pathway; where
    they part by more than 5 %, a warning says so once. `|B - W|_0` is that at the first batch.

    The law is of the gap alone. In a layer that learns little, decay shrinks W as fast as the gap,
    and the angle stays large. Where training ends with a predicted gap below 10 % of the first and
    a `|B - W| / |W|` above 0.5 (0.5 is an angle of up to 30 degrees), a warning names them.

    A pair follows the optimizer that updates it: the model's, or, in a train step of your own, any
    that is an attribute of the model or of a layer in it. Which one that is shows in the first
    step, so what cannot be checked before is checked when that step is traced.

    While this callback is there the optimizer moves W and B as one: B gets the very increment of W,
    there is no optimizer state for B, and W's gradient alone crosses the network, is clipped and
    counts in norms. In a train step of your own, B's gradient is zeros meanwhile. An optimizer of a
    class of your own, whose step may read the weight, takes a second step for B from W's gradient.

    Raises:
        ValueError: At the begin of training: no `kolen_pollack` layer, or none that trains, a rule
            derived from it that gives B another gradient, no or unequal weight decay, a regularizer
            or constraint on a kernel, an optimizer under which the law cannot hold (Adafactor,
            Ftrl, LAMB, LARS, schedule-free AdamW and what derives from them, several optimizers at
            once, coupled decay in others than SGD), averaged weights (`use_ema`), or weights in 16
            bits; in the first step: an update of W without B, outside of the optimizer's
            `update_step`, or by an optimizer that is no attribute of the model.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> model = tfwm.convert_model(model, "kolen_pollack")
        >>> model.compile(keras.optimizers.SGD(0.1, weight_decay=1.0), "mse")
        >>> x, y, checks = np.eye(4), np.eye(4, 3), tfwm.callbacks.KolenPollack()
        >>> logs = model.fit(x, y, epochs=3, callbacks=[checks], verbose=0).history
        >>> names = "feedback_gap", "feedback_gap_predicted"
        >>> [[round(gap, 3) for gap in logs[name]] for name in names]  # (1 - 0.1 * 1)^t
        [[0.9, 0.81, 0.729], [0.9, 0.81, 0.729]]
    """

    def __init__(self) -> None:
        super().__init__()
        self._pairs: list[Pathway] = []
        self._first_gaps: Any = None
        self._predicted: Any = None
        self._velocity: Any = None
        self._begins = False
        self._kernels_before: list[np.ndarray] = []
        self._follower: Any = None
        self._step: Any = None
        self._warned = False

    def state(self) -> dict[str, tf.Variable]:
        """What a checkpoint of a running training must hold of this callback.

        There from `on_train_begin` on; to be restored after it, and before the first batch.
        """
        return {
            "first_gaps": self._first_gaps,
            "predicted": self._predicted,
            "velocity": self._velocity,
        }

    def on_train_begin(self, logs: Any = None) -> None:
        """Check everything that the law needs."""
        self._pairs = gap_checks.pairs_of(self.model)
        if self._steps_as_keras():
            optimizer = optimizer_hooks.inner_of(self.model.optimizer)
            gap_checks.check_optimizer(optimizer, [p for p in self._pairs if p.kernel.trainable])
            self._build(self.model.optimizer)
        self._warned = False
        self._begins = True
        with self.model.distribute_strategy.scope():
            # Not known yet: callbacks behind this one may restore weights, or the state of this.
            self._first_gaps = tf.Variable(tf.fill([len(self._pairs)], np.nan), trainable=False)
        step = self._step = TrainStep.of(self.model)
        self._predicted = step.variable("predicted", tf.ones(len(self._pairs)))
        self._velocity = step.variable("velocity", tf.zeros(len(self._pairs)))
        self._follower = GapFollower(self._pairs, self._predicted, self._velocity)
        step.add("kolen_pollack", self._around_step, self._follower.leave, self._read_by_trace)
        step.predicted_angles["kolen_pollack"] = self._predicted_angles
        self._follower.attend(optimizers_of(self.model))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Take the first gaps."""
        if not self._begins:
            return
        self._begins = False
        if np.isnan(self._first_gaps).all():
            self._first_gaps.assign(gaps(self._pairs))
            self._velocity.assign(self._first_velocities())
        if not self._steps_as_keras():
            self._kernels_before = [p.kernel.numpy() for p in self._pairs]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Refuse to go on with an optimizer that is out of sight: B would get no gradient."""
        for place, before in enumerate(self._kernels_before):
            moved = not np.array_equal(before, self._pairs[place].kernel.numpy())
            if moved and place not in self._followed():
                raise gap_checks.unknown_optimizer(self.model, self._pairs[place])
        self._kernels_before = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report the gap, measured and predicted."""
        ratios, predicted, broken = self._compare()
        followed = np.isin(np.arange(len(ratios)), list(self._followed()))
        if logs is not None:
            shown = broken | followed if broken.any() or followed.any() else True
            largest = int(np.where(shown, ratios, -1.0).argmax())
            logs["feedback_gap"] = float(ratios[largest])
            logs["feedback_gap_predicted"] = float(predicted[largest])
        if broken.any() and not self._warned:
            self._warned = True
            worst = int((abs(ratios - predicted) / predicted.clip(min=1e-30) * broken).argmax())
            if followed[worst]:
                updates = f"the law says {predicted[worst]:.4g} for the updates that it got"
            else:
                updates = f"and no optimizer among the attributes of '{self.model.name}' updated it"
            warnings.warn(
                f"Kolen-Pollack's law does not hold in '{self._pairs[worst].name}': |B - W| is "
                f"{ratios[worst]:.4g} of what it was, {updates}. Something else moves W or B: "
                "another callback, or assignments between steps." + see("the-law-does-not-hold"),
                UserWarning,
                stacklevel=stacklevel_of_user(),
            )

    def on_train_end(self, logs: Any = None) -> None:
        """Give the model its own train step back; warn where the gap has closed, not the angle."""
        followed = sorted(self._followed())
        step = TrainStep.existing(self.model)
        if step is not None:
            step.remove("kolen_pollack", self._around_step)
        _, predicted, broken = self._compare()
        closed = [i for i in followed if predicted[i] < 0.1 and not broken[i]]
        gap_checks.warn_if_w_shrank(self.model.name, [self._pairs[i] for i in closed])

    def _compare(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """By pair: the gap over the first one, measured and predicted, and whether they part."""
        predicted = abs(self._predicted.numpy())  # under momentum gaps may swing through 0
        start, now = self._first_gaps.numpy(), gaps(self._pairs).numpy()
        ratios = now / start.clip(min=1e-30)
        broken = abs(ratios - predicted) > 0.05 * predicted
        if broken.any():
            # Below this, the difference of two float32 kernels is rounding.
            broken &= now > 1e-4 * np.array([float(tf.norm(p.kernel)) for p in self._pairs])
        return ratios, predicted, broken

    def _followed(self) -> set[int]:
        """Places of the pairs that an optimizer updates in the step in use, whoever traced it."""
        followed: set[int] = self._step.notes.get("kolen_pollack", self._follower.followed)
        return followed

    def _steps_as_keras(self) -> bool:
        """Whether `model.optimizer` moves everything: else a trace has to tell what moves what."""
        return type(self.model).train_step is keras.Model.train_step

    def _build(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Make the optimizer's state now: a compiled step keeps what it makes, even unused."""
        if not optimizer.built and all(layer.built for _, layer in walk(self.model)):
            with self.model.distribute_strategy.scope():
                optimizer.build(self.model.trainable_variables)

    def _first_velocities(self) -> tf.Tensor:
        optimizers = [optimizer_hooks.inner_of(o) for o in self._follower.optimizers]
        return first_velocities(optimizers, self._pairs)

    def _predicted_angles(self) -> dict[str, float]:
        """The weight angles at the predicted gaps and the norms that W and B have now."""
        first = gaps(self._pairs) if self._begins else self._first_gaps
        predicted = abs(self._predicted.numpy()) * first.numpy()
        norms = (
            [
                float(tf.norm(tf.convert_to_tensor(kernel)))
                for kernel in (p.kernel, p.feedback_kernel)
            ]
            for p in self._pairs
        )
        return {
            pathway.name: angle_at_gap_deg(float(gap), w, b)
            for pathway, gap, (w, b) in zip(self._pairs, predicted, norms, strict=True)
        }

    def _read_by_trace(self) -> list[Any]:
        """All that `_around_step` makes of a trace what it is."""
        kernels = [(p.kernel, p.feedback_kernel) for p in self._pairs]
        return [type(self), kernels, self._predicted, self._velocity]

    @contextlib.contextmanager
    def _around_step(self) -> Iterator[None]:
        """The train step with its optimizers followed: traced, in replica context."""
        self._step.notes["kolen_pollack"] = self._follower.followed
        self._follower.attend(optimizers_of(self.model))  # those of the last `compile`
        # Not through functions of the user's own, which keep a trace of the other kind of step.
        hidden = (pathway.feedback_kernel for pathway in self._pairs)
        with look_hooks.inlining_functions(), twin_gradient.hiding_gradients(hidden):
            yield
