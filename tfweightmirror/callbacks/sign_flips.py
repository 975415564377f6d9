"""Callback that counts how weights change their signs."""

from typing import Any

import keras
import tensorflow as tf

from tfweightmirror.training.constraining import kernels_by_path
from tfweightmirror.training.constraints import FixedSign


class SignFlips(keras.callbacks.Callback):
    """Puts into `logs` at each epoch's end how many weights have changed their signs in it.

    `sign_flips/<layer>` is the share of W's entries that stand on the other side of 0 than at the
    epoch before (an entry that was or is 0 does not count), of every kernel, with feedback or
    without. Khandwala and Bedi call such reversals frequent in ordinary training. Under `FixedSign`
    it is 0, and `sign_attempts/<layer>` is how often an update wanted to cross, per entry and
    epoch: an entry that is held and pushed again counts again.

    Raises:
        ValueError: At the begin of training: the model has no kernel, or is not built.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> model.compile(keras.optimizers.SGD(100.0), "mse")
        >>> x, y, flips = np.eye(4), np.eye(4, 3), tfwm.callbacks.SignFlips()
        >>> free = model.fit(x, y, callbacks=[flips], verbose=0).history
        >>> model = tfwm.training.constrain(model, tfwm.training.FixedSign())
        >>> held = model.fit(x, y, callbacks=[flips], verbose=0).history
        >>> free["sign_flips/head"][0] > 0.3, held["sign_flips/head"][0]
        (True, 0.0)
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Take the signs of now."""
        self._kernels = kernels_by_path(self.model)
        if not self._kernels:
            raise ValueError(
                f"SignFlips found no kernel in '{self.model.name}': build the model first, or "
                "leave the callback out."
            )
        with self.model.distribute_strategy.scope():
            self._signs = {
                name: tf.Variable(_signs(kernel), trainable=False)
                for name, kernel in self._kernels.items()
            }
            self._attempts = tf.Variable(self._attempts_now(), trainable=False)

    def state(self) -> dict[str, tf.Variable]:
        """What a checkpoint has to keep: signs and counts at the last epoch's end."""
        return {f"signs/{n}": v for n, v in self._signs.items()} | {"attempts": self._attempts}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report, and take the signs of now."""
        before, now = self._attempts.numpy(), self._attempts_now()
        for place, (name, kernel) in enumerate(self._kernels.items()):
            signs, old = _signs(kernel), self._signs[name]
            flipped = tf.equal(signs * old, -1)
            if logs is not None:
                logs[f"sign_flips/{name}"] = float(tf.reduce_mean(tf.cast(flipped, tf.float32)))
                if isinstance(kernel.constraint, FixedSign):
                    tried = int(now[place]) - int(before[place])
                    logs[f"sign_attempts/{name}"] = tried / int(tf.size(signs))
            old.assign(signs)
        self._attempts.assign(now)

    def _attempts_now(self) -> tf.Tensor:
        constraints = [kernel.constraint for kernel in self._kernels.values()]
        counts = [c.attempts.numpy() if isinstance(c, FixedSign) else 0 for c in constraints]
        return tf.constant(counts, tf.int64)


def _signs(kernel: keras.Variable) -> tf.Tensor:
    return tf.cast(tf.sign(tf.convert_to_tensor(kernel)), tf.int8)
