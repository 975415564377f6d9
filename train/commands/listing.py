"""What can be named in a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tfweightmirror as tfwm
from tfweightmirror.mirror.noise import NOISES
from train.config import FitConfig
from train.data.builders import EMBEDDED
from train.parsing.config_file import read_config_file
from train.parts.models import BUILDERS
from train.parts.optimizers import known_optimizers

CONFIGS = Path(__file__).parents[2] / "configs"


def print_all() -> None:
    """Prints models, data sets, rules, noises, optimizers and configurations by name."""
    configs = {file: read_config_file(file, FitConfig) for file in sorted(CONFIGS.rglob("*.yaml"))}
    named = {str(values["data.name"]) for values in configs.values() if "data.name" in values}
    sections = {
        "models (model.name)": list(BUILDERS),
        "data sets (data.name)": list(_data_sets(named)),
        "rules (feedback.rule)": [_rule(rule) for rule in tfwm.rules.RULES],
        "noises (mirror.noise)": [noise.name for noise in NOISES],
        "optimizers (optimizer.name)": [", ".join(known_optimizers())],
        "configurations (--config)": [
            f"{file.relative_to(CONFIGS.parent)}: {head_of(file)}" for file in configs
        ],
    }
    for title, lines in sections.items():
        print(f"{title}:", *(f"  {line}" for line in lines), "", sep="\n")


def head_of(file: Path) -> str:
    """The first line of a configuration's head."""
    return file.read_text().partition("\n")[0].lstrip("# ")


def _data_sets(named_in_configs: set[str]) -> Iterator[str]:
    yield from (f"{name}: embedded" for name in EMBEDDED)
    yield from sorted(named_in_configs - set(EMBEDDED))
    yield "any other name of TensorFlow Datasets, or the path of a builder folder"


def _rule(rule: type[tfwm.rules.FeedbackRule]) -> str:
    return f"{rule.name} ({', '.join(rule.aliases)})"
