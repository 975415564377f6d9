"""A run's configuration as one flat table, whatever version of the launcher wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.config import MAY_DIFFER
from train.parsing.config_file import resolved

Flat = dict[str, Any]
"""Dotted key to value, also of each option of a part: `model.options.units`."""


def flat(tree: Mapping[str, Any], *, source: str) -> Flat:
    """The table of a nested configuration, old or new; keys that it lacks are at their defaults.

    Raises:
        UserError: If a key is not known, or a value is refused.
    """
    table: Flat = {}
    for key, value in resolved(tree, source=source).items():
        options = value if key.endswith(".options") else None
        table |= {key: value} if options is None else {f"{key}.{o}": v for o, v in options.items()}
    if table.get("feedback.rule.options.magnitude") == "uniform":  # the default: `usf` is `ss`
        del table["feedback.rule.options.magnitude"]
    return table


def identity(config: Flat) -> Flat:
    """What decides over a run's numbers, but for the seed."""
    return {
        key: value
        for key, value in config.items()
        if value is not None and not key.startswith((*MAY_DIFFER, "seed"))
    }


def labels_of(configs: Sequence[Flat]) -> list[str]:
    """A short name for each of different configurations: the rule, and what else differs."""
    labels = [_rule_label(config) for config in configs]
    tasks = [task_of(config) for config in configs]
    if len(set(tasks)) > 1:
        labels = [f"{task}, {label}" for task, label in zip(tasks, labels, strict=True)]
    named = []
    for config, label in zip(configs, labels, strict=True):
        alike = [identity(c) for c, name in zip(configs, labels, strict=True) if name == label]
        keys = dict.fromkeys(key for other in alike for key in other)
        differing = [key for key in keys if any(o.get(key) != config.get(key) for o in alike)]
        texts = [f"{key.replace('.options', '')}={config.get(key)}" for key in differing]
        named.append(", ".join([label, *texts]))
    return named


def task_of(config: Flat) -> str:
    """Data and model, in words: `mnist, mlp 500`."""
    units = config.get("model.options.units") or ()
    return f"{data_name(config)}, {config['model.name']} {'-'.join(map(str, units))}".strip()


def data_name(config: Flat) -> str:
    """The set's name without version and folder."""
    parts = Path(config["data.name"]).parts
    return parts[-2] if len(parts) > 1 else str(config["data.name"]).partition(":")[0]


def noise_of(config: Flat) -> str:
    """Noise of the linear mirror, or the name of the paper's mode."""
    mode = str(config["mirror.mode"])
    return str(config["mirror.noise.name"] or "orthogonal") if mode == "linear" else mode


def _rule_label(config: Flat) -> str:
    rule = str(config["feedback.rule.name"])
    names = {"kolen_pollack": "Kolen-Pollack", "sign_symmetry": "sign-symmetry"}
    label = names.get(rule, rule.replace("_", " "))
    if rule == "weight_mirror":
        label += f" ({noise_of(config)})"
    if magnitude := config.get("feedback.rule.options.magnitude"):
        label += f", {magnitude} magnitudes"
    if config["feedback.last_layer.name"] is not None:
        label += f", last layer {config['feedback.last_layer.name']}"
    return label
