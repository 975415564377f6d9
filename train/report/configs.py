"""A run's configuration as one flat table, whatever version of the launcher wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from train.config import MAY_DIFFER, FitConfig, Part
from train.config.old import modern
from train.config.part import canonical_rule as part_of_rule
from train.errors import UserError
from train.parsing.yaml_file import to_yaml

Flat = dict[str, Any]
"""Dotted key to value; a part is its name, with a key `<part>.options.<option>` for each option."""

RULES_OF = ("feedback.rule", "feedback.last_layer")
PARTS = ("model", "loss", "feedback.initializer", "mirror.noise")


def flat(tree: Mapping[str, Any]) -> Flat:
    """The table of a nested configuration, old or new; keys that it lacks are at their defaults.

    Raises:
        UserError: If a key is not known.
    """
    there = _flat(modern(dict(tree)))
    for key in there:
        if key.partition(".options.")[0] not in DEFAULTS:
            raise UserError(f"{key} is not a known key")
    return DEFAULTS | there


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
        named.append(", ".join([label, *(f"{key}={config.get(key)}" for key in differing)]))
    return named


def task_of(config: Flat) -> str:
    """Data and model, in words: `mnist, mlp 500`."""
    units = config.get("model.options.units") or ()
    return f"{data_name(config)}, {config['model']} {'-'.join(map(str, units))}".strip()


def data_name(config: Flat) -> str:
    """The set's name without version and folder."""
    parts = Path(config["data.name"]).parts
    return parts[-2] if len(parts) > 1 else str(config["data.name"]).partition(":")[0]


def noise_of(config: Flat) -> str:
    """Noise of the linear mirror, or the name of the paper's mode."""
    mode = str(config["mirror.mode"])
    return str(config["mirror.noise"] or "orthogonal") if mode == "linear" else mode


def _rule_label(config: Flat) -> str:
    rule = str(config["feedback.rule"])
    label = rule.replace("_", " ").replace("kolen pollack", "Kolen-Pollack")
    if rule == "weight_mirror":
        label += f" ({noise_of(config)})"
    if magnitude := config.get("feedback.rule.options.magnitude"):
        label += f", {magnitude} magnitudes"
    if config["feedback.last_layer"] is not None:
        label += f", last layer {config['feedback.last_layer']}"
    return label


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Flat:
    table: Flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name in RULES_OF:
            value = canonical_rule(value)
        if name == "feedback.layers":
            rules = {pattern: canonical_rule(rule) for pattern, rule in value.items()}
            table[name] = {p: r if r["options"] else r["name"] for p, r in rules.items()}
        elif name in PARTS or name in RULES_OF:
            part = value if isinstance(value, dict) else {"name": value}
            if "name" in part:
                table[name] = part["name"]
            options = part.get("options", {})
            table |= {f"{name}.options.{option}": v for option, v in options.items()}
        elif isinstance(value, dict) and key != "options":
            table |= _flat(value, f"{name}.")
        else:
            table[name] = value
    return table


def canonical_rule(rule: Any) -> dict[str, Any]:
    """A rule, given by name or as a part, under its one name; None has the name None."""
    given = Part(**rule) if isinstance(rule, dict) else Part(rule)
    part = part_of_rule(given)
    options = dict(part.options)
    if part.name == "sign_symmetry" and options.get("magnitude") == "uniform":
        del options["magnitude"]  # the default
    return {"name": part.name, "options": options}


DEFAULTS: Flat = {
    key: value
    for key, value in _flat(modern(yaml.safe_load(to_yaml(FitConfig())))).items()
    if ".options." not in key  # of the part that is the default, not of another
}
