"""What the cells fire in mirror mode.

*Independent* noise (Gaussian, uniform, Rademacher; the paper names no distribution) is as Akrout et
al. 2019 have it: every cell fires by itself, with mean 0 and one variance. The angle falls with the
number of samples N as `tan^2(angle) = (n + kurtosis - 2) / N`, n the fan-in. *Balanced* noise
(orthogonal blocks, impulses) fires an orthogonal basis once, a *sweep*: for a linear, noise-free
response B then equals W. What that does and does not claim is in docs/science.md, "What exactness
means".

For a noise of your own, subclass `IndependentNoise` (and override `draw` and `kurtosis`) or
`Noise`.

Examples:
    >>> layer = tfwm.layers.FeedbackDense(5, rule="weight_mirror")
    >>> layer.build((None, 100))
    >>> noises = [tfwm.mirror.noise.get(name) for name in ("gaussian", "impulse")]
    >>> [noise.plan(*layer.pathways).samples for noise in noises]  # fired in a mirror step
    [128, 100]
"""

from typing import Any

import keras

from tfweightmirror._internals.arguments import require_fields
from tfweightmirror._internals.docs import see
from tfweightmirror.mirror.noise.balanced import WIDEST_BLOCK, Impulse, Orthogonal
from tfweightmirror.mirror.noise.base import Firing, Noise
from tfweightmirror.mirror.noise.independent import Gaussian, IndependentNoise, Rademacher, Uniform

__all__ = [
    "NOISES",
    "WIDEST_BLOCK",
    "Firing",
    "Gaussian",
    "Impulse",
    "IndependentNoise",
    "Noise",
    "Orthogonal",
    "Rademacher",
    "Uniform",
    "get",
]

NOISES: tuple[type[Noise], ...] = (Orthogonal, Impulse, Gaussian, Uniform, Rademacher)
"""The noises that have a name: what `get` knows beside those of your own.

Examples:
    >>> [noise.name for noise in tfwm.mirror.noise.NOISES if noise.balanced]
    ['orthogonal', 'impulse']
    >>> {noise.name: noise.kurtosis for noise in tfwm.mirror.noise.NOISES if not noise.balanced}
    {'gaussian': 3.0, 'uniform': 1.8, 'rademacher': 1.0}
"""


def get(identifier: Any) -> Noise:
    """The noise that `identifier` means: a name, a `Noise` (or a class of one), or a Keras config.

    Raises:
        ValueError: The name is not known. A noise of your own has options that are no fields of a
            dataclass: it would be taken for one of other options.

    Examples:
        >>> tfwm.mirror.noise.get("impulse")
        Impulse(std=1.0, decay=1.0)
        >>> tfwm.mirror.noise.get("pink")
        Traceback (most recent call last):
            ...
        ValueError: mirror noise 'pink' is not known. Known: orthogonal, impulse, ...
    """
    if isinstance(identifier, Noise):
        require_fields(identifier, see("a-noise-of-your-own", "guides/extend"))
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Noise):
        return get(identifier())
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    for noise in NOISES:
        if identifier == noise.name:
            return noise()
    registered = isinstance(identifier, str) and keras.saving.get_registered_object(identifier)
    if registered:
        return get(registered)
    raise ValueError(
        f"mirror noise {identifier!r} is not known. Known: "
        f"{', '.join(noise.name for noise in NOISES)}, or a Noise of your own."
    )
