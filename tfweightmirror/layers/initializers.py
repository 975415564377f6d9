"""What feedback kernels start from: initializers with seeds of their own."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfweightmirror.pathway import KernelView


def first_seed(layer: Any, sites: Iterable[Any]) -> int | None:
    """The seed of the first initializer of `layer`'s kernels that has one, or None."""
    for site in sites:
        seed = getattr(getattr(layer, site.initializer), "seed", None)
        if isinstance(seed, keras.random.SeedGenerator):
            seed = seed.get_config()["seed"]
        if seed is not None:
            return int(seed)
    return None


def seeded(
    initializer: keras.initializers.Initializer, seed: int
) -> keras.initializers.Initializer:
    """`initializer` with `seed`, if it draws and was given no seed: or layers would share its."""
    config: dict[str, Any] = getattr(initializer, "get_config", dict)()
    if "seed" not in config or config["seed"] is not None:
        return initializer
    return with_seed(initializer, seed)


def with_seed(
    initializer: keras.initializers.Initializer, seed: int
) -> keras.initializers.Initializer:
    """`initializer` with `seed`."""
    return type(initializer).from_config({**initializer.get_config(), "seed": seed})


def born_on(view: KernelView, initializer: keras.initializers.Initializer) -> Any:
    """`initializer`, that draws synapses where the view has some and nowhere else."""
    if view.synapses is None:
        return initializer
    return lambda shape, dtype=None: view.on_synapses(
        tf.convert_to_tensor(initializer(shape, dtype))
    )
