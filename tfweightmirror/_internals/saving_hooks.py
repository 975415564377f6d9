"""Every private hook of Keras' saving that this library uses, in one file.

`tests/_internals/test_saving_hooks.py` is their canary; pyproject.toml pins the range of Keras.
"""

import functools
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.legacy.saving import legacy_h5_format
from keras.src.models import functional as functional_models


def layers_in_config(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that Keras writes into a Sequential or functional model's config by itself."""
    cls = type(layer)
    stacked = isinstance(layer, keras.Sequential) and cls.get_config is keras.Sequential.get_config
    functional = (
        isinstance(layer, functional_models.Functional)
        and cls.get_config is functional_models.Functional.get_config
        and functional_models.functional_like_constructor(cls)
    )
    return layer.layers if stacked or functional else []


def writes_legacy_file() -> bool:
    """Whether configs are made for a legacy `.h5` file."""
    return bool(global_state.get_global_attribute("use_legacy_config", False))


def keep_kernels_apart_in_legacy_files() -> None:
    """Make legacy `.h5` files list what belongs to feedback behind all other weights of a layer.

    They go by position, trainable weights first, so that freezing a nested model changes the
    order. Feedback kernels have the shapes of kernels, and would be read into them in silence.
    """
    weights_of = legacy_h5_format._legacy_weights
    read = legacy_h5_format.load_subset_weights_from_hdf5_group

    @functools.wraps(weights_of)
    def feedback_last(layer: keras.layers.Layer) -> list[keras.Variable]:
        return sorted(weights_of(layer), key=lambda weight: _is_feedback(weight.path))

    @functools.wraps(read)
    def read_feedback_last(group: Any) -> list[np.ndarray]:
        values: list[np.ndarray] = read(group)
        if group.name.endswith("top_level_model_weights"):
            return values  # A model's own variables, which are not sorted either.
        names = legacy_h5_format.load_attributes_from_hdf5_group(group, "weight_names")
        order = sorted(range(len(names)), key=lambda index: _is_feedback(names[index]))
        return [values[index] for index in order]

    legacy_h5_format._legacy_weights = feedback_last
    legacy_h5_format.load_subset_weights_from_hdf5_group = read_feedback_last


def _is_feedback(path: str) -> bool:
    return path.rpartition("/")[2].startswith("feedback_")
