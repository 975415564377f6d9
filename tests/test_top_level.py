"""What a stranger finds in the library: few entries, all of them named, none hidden by another."""

import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import tfweightmirror as tfwm

HOUSE = Path(tfwm.__file__).parent


def test_the_top_level_has_at_most_ten_entries() -> None:
    entries = {entry.name for entry in HOUSE.iterdir()} - {"__init__.py", "__pycache__", "py.typed"}
    assert {"layers", "_internals"} < entries
    assert len(entries) <= 10


def test_every_public_module_is_a_public_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules([str(HOUSE)])}
    public = {name for name in modules if not name.startswith("_")}
    assert public == {name for name in tfwm.__all__ if isinstance(getattr(tfwm, name), ModuleType)}


def test_no_name_hides_a_module() -> None:
    names = [module.name for module in pkgutil.walk_packages(tfwm.__path__, "tfweightmirror.")]
    assert "tfweightmirror.mirror.step" in names
    for name in names:
        module = importlib.import_module(name)
        package, _, own = name.rpartition(".")
        assert getattr(sys.modules[package], own) is module, name
