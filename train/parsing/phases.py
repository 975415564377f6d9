"""The phases of a run, each as a whole configuration."""

from __future__ import annotations

from train.config import FitConfig
from train.errors import UserError, did_you_mean
from train.parsing.config_file import built, flatten, merged
from train.parsing.yaml_file import plain

# What a phase may change, and what is done once, at the begin of the phase that asks for it.
CHANGED = ("training.epochs", "training.steps", "optimizer", "feedback", "mirror", "freeze")
DONE_ONCE = ("init_from", "draw_anew")


def phase_configs(config: FitConfig) -> list[FitConfig]:
    """The configuration of every phase; of one phase, if the key is not there.

    Each overrides the keys outside `phases`, not those of the phase before. `init_from` and
    `draw_anew` outside stand for the first phase.

    Raises:
        UserError: If a phase has a key that no phase can have, or a value is refused.
    """
    found = []
    for number, table in enumerate(config.phases):
        source = f"phases[{number}]"
        below = flatten(plain(config) | {"phases": []}, FitConfig, source=source)
        if number:
            below = {key: v for key, v in below.items() if not key.startswith(DONE_ONCE)}
        if number + 1 < len(config.phases):
            below["monitor.last_epoch_measures"] = 0  # of the last epoch of the run
        own = flatten(_known_keys(table, source), FitConfig, source=source)
        for one, other in (("epochs", "steps"), ("steps", "epochs")):
            if own.get(f"training.{one}") is not None:
                own.setdefault(f"training.{other}", None)
        try:
            found.append(built(FitConfig, merged(below, own)))
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
    return found or [config]


def _known_keys(table: dict[str, object], source: str) -> dict[str, object]:
    """The table of a phase; raises UserError for a key that is none of a phase."""
    known = (*CHANGED, *DONE_ONCE)
    for key, value in table.items():
        inside = (
            [f"{key}.{k}" for k in value] if key == "training" and isinstance(value, dict) else []
        )
        for name in inside or [key]:
            if name not in known:
                near = did_you_mean(name, known)
                raise UserError(
                    f"{source}: {name} is not a key of a phase.{near} Expected some of "
                    f"{', '.join(known)}."
                )
    return table
