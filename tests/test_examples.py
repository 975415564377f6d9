"""Every public name has an example of its own, which runs and prints what its docstring says."""

import ast
import doctest
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import pytest

import tfweightmirror as tfwm

HOUSE = Path(tfwm.__file__).parent
# How a line of the imports of the package's example looks: what all the others begin with.
IMPORT = re.compile(r"import .*")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_names() -> dict[str, Any]:
    """All public names, by the shortest way to each, and what they mean."""
    found: dict[str, Any] = {"tfweightmirror": tfwm}
    packages = [tfwm]
    for package in packages:  # which grows
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            # A constant is what it is by its name: two that are equal may be one object.
            thing = callable(value) or isinstance(value, ModuleType)
            if thing and any(value is other for other in found.values()):
                continue
            found[f"{package.__name__}.{name}"] = value
            if isinstance(value, ModuleType):
                packages.append(value)
    return found


NAMES = public_names()


def attribute_docstring(path: str) -> str | None:
    """The string below the assignment of a constant, which Python itself does not keep."""
    package, _, name = path.rpartition(".")
    for file in sorted((HOUSE / package.partition(".")[2].replace(".", "/")).rglob("*.py")):
        body = ast.parse(file.read_text()).body
        for statement, after in itertools.pairwise(body):
            targets = getattr(statement, "targets", [getattr(statement, "target", None)])
            if getattr(targets[0], "id", None) == name and isinstance(after, ast.Expr):
                return str(ast.literal_eval(after.value))
    return None


def own_docstring(path: str) -> str | None:
    """What is written at the name itself: a class inherits no docstring here."""
    value = NAMES[path]
    if isinstance(value, type):
        return vars(value).get("__doc__")
    if isinstance(value, ModuleType) or inspect.isroutine(value):
        return value.__doc__
    return attribute_docstring(path)


def docstrings(path: str) -> Iterator[tuple[str, str]]:
    """That of a name, and those of a class's own methods and properties."""
    yield path, own_docstring(path) or ""
    if isinstance(NAMES[path], type):
        for name, member in vars(NAMES[path]).items():
            member = getattr(member, "__func__", member)  # of a class method
            if inspect.isroutine(member) or isinstance(member, property):
                yield f"{path}.{name}", member.__doc__ or ""


def examples(text: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(text)


def beginning() -> dict[str, Any]:
    """The names that every example may use: what the package's own one imports."""
    names: dict[str, Any] = {}
    for example in examples(tfwm.__doc__ or ""):
        if IMPORT.match(example.source):
            exec(example.source, names)
    return names


def run(name: str, text: str) -> None:
    """Run the examples of one docstring; what they print must be what stands there."""
    keras.utils.set_random_seed(0)
    test = doctest.DocTest(examples(text), beginning(), name, None, 0, text)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("path", NAMES)
def test_every_public_name_has_an_example_that_holds(path: str) -> None:
    if path.endswith("plot_angles"):
        pytest.importorskip("matplotlib", reason="plots need matplotlib").use("Agg")
    assert examples(own_docstring(path) or ""), f"{path} has no example in its own docstring"
    for name, text in docstrings(path):
        run(name, text)


def test_no_example_is_left_out() -> None:
    run_here = sum(len(examples(text)) for path in NAMES for _, text in docstrings(path))
    written = sum(len(re.findall(r"^ *>>> ", f.read_text(), re.M)) for f in HOUSE.rglob("*.py"))
    assert run_here == written
