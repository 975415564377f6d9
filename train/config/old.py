"""Configurations of earlier versions, such as those in old run directories, in today's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_MODEL = {"small_conv": "small_conv", "mlp": "mlp", "resnet18": "resnet", "resnet50": "resnet"}


def modern(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with the keys of today; what is of today stays as it is.

    Before, `model` had a table of options for every kind of network, `training.loss` named the
    loss, and `mirror` had `noise_options`, `eta` and `activations`, of which a mode used some.
    """
    tree = dict(tree)
    if isinstance(tree.get("training"), Mapping) and "loss" in tree["training"]:
        tree["training"] = dict(tree["training"])
        tree["loss"] = tree["training"].pop("loss")
    if isinstance(tree.get("model"), Mapping):
        tree["model"] = _model(tree["model"])
    if isinstance(tree.get("mirror"), Mapping):
        tree["mirror"] = _mirror(tree["mirror"])
    return tree


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    tables = {key: model[key] for key in set(_OF_MODEL.values()) if key in model}
    if not tables:
        return dict(model)
    kept = {key: value for key, value in model.items() if key not in tables}
    mine = _OF_MODEL.get(str(model.get("name")))
    # A file that changes its base need not name the model.
    options = tables.get(mine) if mine else next(iter(tables.values()))
    return kept | ({"options": dict(options)} if options else {})


def _mirror(mirror: Mapping[str, Any]) -> dict[str, Any]:
    if not mirror.keys() & {"noise_options", "eta", "activations"}:
        return dict(mirror)
    kept = dict(mirror)
    mode = mirror.get("mode")
    noise: dict[str, Any] = {}
    if (options := kept.pop("noise_options", None)) is not None:
        noise["options"] = options
    if (name := kept.pop("noise", None)) is not None and mode in (None, "linear"):
        noise["name"] = name
    if noise:
        kept["noise"] = noise
    # Which modes used a key, and what they have without it.
    of_mode = {
        "eta": (("akrout2019_code",), 0.01),
        "activations": (("akrout2019", "akrout2019_code"), {"head": "linear"}),
    }
    for key, (modes, default) in of_mode.items():
        value = kept.pop(key, default)
        if value != default and (mode is None or mode in modes):
            kept.setdefault("options", {})[key] = value
    return kept
