"""The phases of a run, each as a whole configuration, and configurations that are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from train.config import MAY_DIFFER, FitConfig, Part
from train.config.part import import_paths
from train.errors import UserError, did_you_mean, see
from train.parsing.config_file import Flat, built, flatten, merged
from train.parsing.yaml_file import plain

# What a phase may change, and what is done once, at the begin of the phase that asks for it.
CHANGED = ("training.epochs", "training.steps", "optimizer", "feedback", "mirror", "freeze")
DONE_ONCE = ("init_from", "draw_anew", "untie")
_UNSET = object()


def phase_configs(config: FitConfig) -> list[FitConfig]:
    """The configuration of every phase; of one phase, if the key is not there.

    Each overrides the keys outside `phases`, not those of the phase before. `init_from`,
    `draw_anew` and `untie` outside stand for the first phase. UserError tells what a phase cannot
    have.
    """
    found = []
    for number, table in enumerate(config.phases):
        source = f"phases[{number}]"
        below = _values(config) | {"phases": ()}
        if number:
            below = {key: v for key, v in below.items() if not key.startswith(DONE_ONCE)}
        if number + 1 < len(config.phases):
            below["monitor.last_epoch_measures"] = 0  # of the last epoch of the run
        _check_keys(table, source)
        own = flatten(table, source=source)
        for one, other in (("epochs", "steps"), ("steps", "epochs")):
            if own.get(f"training.{one}") is not None:
                own.setdefault(f"training.{other}", None)
        try:
            found.append(built(merged(below, own)))
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
    return found or [config]


def paths_of(config: FitConfig) -> list[str]:
    """The import paths that a run's configuration names, its phases' too."""
    return list(import_paths([config, phase_configs(config)]))


def leaves(config: FitConfig) -> Flat:
    """Dotted key to value under its one spelling, down to each option: `model.options.units`.

    `phases` is their number; `phases[0].training.epochs` and so on are what a phase has otherwise.
    """
    outer = _values(config)
    found = dict(_each_option(outer | {"phases": len(config.phases)}))
    for number, phase in enumerate(phase_configs(config)):
        own = {k: v for k, v in _values(phase).items() if v != outer[k] and k != "phases"}
        found |= {f"phases[{number}].{key}": value for key, value in _each_option(own)}
    return found


def differences(there: Flat, here: Flat) -> dict[str, str]:
    """Of leaves: key to the sentence about what differs, where it decides over a run's numbers."""
    found = {}
    for key in {**here, **there}:
        if not key.startswith(MAY_DIFFER) and there.get(key, _UNSET) != here.get(key, _UNSET):
            old, new = (repr(flat[key]) if key in flat else "not given" for flat in (there, here))
            found[key] = f"{key} is {old} there and {new} here"
    return found


def _values(config: Any, prefix: str = "") -> Flat:
    flat: Flat = {}
    for key, value in vars(config).items():
        inside = dataclasses.is_dataclass(value)
        flat |= _values(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return flat


def _each_option(flat: Flat) -> Iterator[tuple[str, Any]]:
    for key, value in flat.items():
        if key.endswith(".options"):
            yield from ((f"{key}.{option}", plain(given)) for option, given in value.items())
        else:
            yield key, _short(value)


def _short(value: Any) -> Any:
    """As people write it: a part without options is its name."""
    if isinstance(value, Part) and not value.options:
        return value.name
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items()}
    return [_short(entry) for entry in value] if isinstance(value, tuple) else plain(value)


def _check_keys(table: Mapping[str, Any], source: str) -> None:
    known = (*CHANGED, *DONE_ONCE)
    training = table.get("training")
    inside = [f"training.{key}" for key in training] if isinstance(training, dict) else []
    for name in [*(key for key in table if key != "training"), *inside]:
        if name not in known:
            raise UserError(
                f"{source}: {name} is not a key of a phase.{did_you_mean(name, known)} Expected "
                f"some of {', '.join(known)}." + see("phases", "launcher/phases")
            )
