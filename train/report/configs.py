"""A run's configuration as one flat table, whatever version of the launcher wrote it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from train.config import MAY_DIFFER
from train.config.data import short_name
from train.parsing.config_file import config_from
from train.parsing.phases import leaves

Flat = dict[str, Any]
"""Dotted key to value, also of each option of a part: `model.options.units`."""
MAGNITUDE = "feedback.rule.options.magnitude"


def flat(tree: Mapping[str, Any], *, source: str) -> Flat:
    """The table of a nested configuration, old or new; keys that it lacks are at their defaults."""
    table = leaves(config_from(tree, source=source))
    if table.get(MAGNITUDE) == "uniform":  # the default: `usf` is `ss`
        del table[MAGNITUDE]
    return table


def identity(config: Flat) -> Flat:
    """What decides over a run's numbers, but for the seed."""
    outside = (*MAY_DIFFER, "seed")
    return {k: v for k, v in config.items() if v is not None and not k.startswith(outside)}


MAX_LABEL = 100  # characters


def labels_of(configs: Sequence[Flat], folders: Sequence[str] = ()) -> list[str]:
    """A short name for each of different configurations: the rule, and what else differs.

    Where that would be long, the name of a run's folder says it, if no two have the same.
    """
    labels, tasks = list(map(_rule_label, configs)), list(map(task_of, configs))
    if len(set(tasks)) > 1:
        labels = list(map("{}, {}".format, tasks, labels))
    named = []
    for config, label in zip(configs, labels, strict=True):
        alike = [identity(c) for c, name in zip(configs, labels, strict=True) if name == label]
        texts = [
            # None may mean something to a part, such as mirror.norm; here nothing was said.
            key.replace(".options", "")
            + (f"={_words(v)}" if (v := config.get(key)) is not None else " unset")
            for key in dict.fromkeys(itertools.chain(*alike))
            if any(other.get(key) != config.get(key) for other in alike)
        ]
        named.append(", ".join([label, *texts]))
    if len(set(folders)) < len(configs):
        return named
    both = zip(named, labels, folders, strict=True)
    return [
        name if len(name) <= MAX_LABEL else f"{label} ({folder})" for name, label, folder in both
    ]


def _words(value: Any) -> str:
    """A value in a label: a part with its options is `fixed_sign(per=neuron)`."""
    if not isinstance(value, Mapping):
        return str(value)
    if value.keys() == {"name", "options"}:
        options = ", ".join(f"{key}={_words(one)}" for key, one in value["options"].items())
        return f"{value['name']}({options})" if options else str(value["name"])
    return ", ".join(f"{key}: {_words(one)}" for key, one in value.items()) or "none"


def task_of(config: Flat) -> str:
    """Data and model, in words: `mnist, mlp 500`."""
    units = config.get("model.options.units") or ()
    units = "-".join(map(str, units if isinstance(units, (list, tuple)) else (units,)))
    return f"{short_name(config['data.name'])}, {config['model.name']} {units}".strip()


def noise_of(config: Flat) -> str:
    """Noise of the linear mirror, or the name of the paper's mode."""
    mode = str(config["mirror.mode"])
    return str(config["mirror.noise.name"] or "orthogonal") if mode == "linear" else mode


def _rule_label(config: Flat) -> str:
    rule = str(config["feedback.rule.name"])
    names = {"kolen_pollack": "Kolen-Pollack", "sign_symmetry": "sign-symmetry"}
    label = names.get(rule, rule if ":" in rule else rule.replace("_", " "))
    if rule == "weight_mirror":
        label += f" ({noise_of(config)})"
    if magnitude := config.get(MAGNITUDE):
        label += f", {magnitude} magnitudes"
    for end in ("first", "last"):
        if (own := config.get(f"feedback.{end}_layer.name")) is not None:
            label += f", {end} layer {own}"
    return label
