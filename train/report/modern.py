"""Configurations of before parts had options, in today's form."""

from __future__ import annotations

from typing import Any


def modern(tree: dict[str, Any]) -> dict[str, Any]:
    """The nested table of an old run in today's form; today's comes back as it is.

    Only the options of the model that was chosen are kept: the others had no effect.
    """
    new = {key: dict(table) if isinstance(table, dict) else table for key, table in tree.items()}
    model = new.get("model")
    if isinstance(model, dict) and "options" not in model:
        name = str(model.get("name"))
        own = "resnet" if name.startswith("resnet") else name
        new["model"] = {"name": name, "options": model.get(own) or {}}
    training, mirror = new.get("training"), new.get("mirror")
    if isinstance(training, dict) and "loss" in training:
        new["loss"] = {"name": training.pop("loss"), "options": {}}
    if isinstance(mirror, dict) and "noise_options" in mirror:
        # The paper's modes have a noise of their own, whatever was written.
        noise = mirror["noise"] if mirror.get("mode") == "linear" else None
        mirror["noise"] = {"name": noise, "options": mirror.pop("noise_options")}
        options = {"eta": mirror.pop("eta", 0.01), "activations": mirror.pop("activations", {})}
        defaults = ({"eta": 0.01, "activations": {"head": "linear"}}).items()
        mirror["options"] = dict(option for option in options.items() if option not in defaults)
    return new
