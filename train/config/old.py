"""Configurations of earlier versions, such as those in old run directories, in today's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_MODEL = {"small_conv": "small_conv", "mlp": "mlp", "resnet18": "resnet", "resnet50": "resnet"}
# Key of the mirror to the modes that used it, and to what they have without it.
_OF_MODE: dict[str, tuple[tuple[str, ...], Any]] = {
    "eta": (("akrout2019_code",), 0.01),
    "activations": (("akrout2019", "akrout2019_code"), {"head": "linear"}),
}


def modern(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with the keys of today; what is of today stays as it is.

    Before, `model` had a table of options for every kind of network, `training.loss` named the
    loss, and `mirror` had `noise_options`, `eta` and `activations`, of which a mode used some.
    """
    tree = dict(tree)
    training = tree.get("training")
    if isinstance(training, Mapping) and "loss" in training:
        tree["training"] = dict(training)
        tree["loss"] = tree["training"].pop("loss")
    for key, change in (("model", _model), ("mirror", _mirror)):
        if isinstance(tree.get(key), Mapping):
            tree[key] = change(dict(tree[key]))
    return tree


def _model(model: dict[str, Any]) -> dict[str, Any]:
    tables = {key: model.pop(key) for key in dict.fromkeys(_OF_MODEL.values()) if key in model}
    mine = _OF_MODEL.get(str(model.get("name")))
    # A file that changes its base need not name the model.
    options = tables.get(mine) if mine else next(iter(tables.values()), None)
    return model | ({"options": dict(options)} if options else {})


def _mirror(mirror: dict[str, Any]) -> dict[str, Any]:
    if not mirror.keys() & {"noise_options", *_OF_MODE}:
        return mirror
    mode = mirror.get("mode")
    name, options = mirror.pop("noise", None), mirror.pop("noise_options", None)
    noise: dict[str, Any] = {} if options is None else {"options": options}
    if name is not None and mode in (None, "linear"):
        noise["name"] = name
    if noise:
        mirror["noise"] = noise
    for key, (modes, default) in _OF_MODE.items():
        value = mirror.pop(key, default)
        if value != default and (mode is None or mode in modes):
            mirror.setdefault("options", {})[key] = value
    return mirror
