"""Builds wheel and sdist into `dist/` and checks them: `python -m tools.distribution [PYTHON ...]`.

The wheel is built from the sdist. Under every Python that is named (else the one that runs) it is
installed into a fresh environment, where the README's ten lines run. Each needs 2 GB for as long as
it takes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PACKAGE = "tfweightmirror"
MAX_BYTES = 250_000
"""A little above what the code and its docstrings take: data or reports would show."""
OF_A_CLONE = {"tests", "train", "tools", "studies", "benchmarks", "configs", "reports", "runs"}


class DistributionError(Exception):
    """What is wrong with a distribution, in one sentence."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.distribution", description=__doc__)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", default=[sys.executable])
    pythons = parser.parse_args(arguments).pythons
    try:
        wheel, sdist = build()
        for file in (wheel, sdist):
            check(file)
            print(f"{file.relative_to(ROOT)}  {file.stat().st_size / 1000:.0f} kB", flush=True)
        for python in pythons:
            begin_s = time.perf_counter()
            version = ten_lines_run(wheel, python)
            print(f"{version}: ten lines ran  {time.perf_counter() - begin_s:.0f} s", flush=True)
    except DistributionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build() -> tuple[Path, Path]:
    """The new wheel and sdist; those of before are gone, and so is what they were built in."""
    for folder in (DIST, ROOT / "build"):
        shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT)])
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    _run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)])
    return wheel, sdist


def check(file: Path) -> None:
    """Refuses a wheel or an sdist that lacks something, or has what is of a clone alone.

    Raises:
        DistributionError: It does.
    """
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            names = wheel.namelist()
        needed = [f"{PACKAGE}/__init__.py", f"{PACKAGE}/py.typed"]
        strange = [n for n in names if not re.match(rf"{PACKAGE}(/|-[\d.]+\.dist-info/)", n)]
    else:
        with tarfile.open(file) as sdist:
            names = [name.partition("/")[2] for name in sdist.getnames()]
        needed = [f"{PACKAGE}/py.typed", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"]
        strange = [name for name in names if name.split("/")[0] in OF_A_CLONE]
    missing = [name for name in needed if name not in names]
    if missing:
        raise DistributionError(f"{file.name} lacks {', '.join(missing)}.")
    if strange:
        raise DistributionError(f"{file.name} holds {', '.join(sorted(strange)[:5])}.")
    if file.stat().st_size >= MAX_BYTES:
        raise DistributionError(
            f"{file.name} has {file.stat().st_size:,} bytes. Expected under {MAX_BYTES:,}."
        )


def ten_lines_run(wheel: Path, python: str) -> str:
    """Runs the README's first Python block on the installed wheel alone; the Python's version."""
    code = ten_lines((ROOT / "README.md").read_text())
    code += f"assert tfwm.__version__ == {wheel.name.split('-')[1]!r}\n"
    code += "import sys\nassert tfwm.__file__.startswith(sys.prefix), tfwm.__file__\n"
    with tempfile.TemporaryDirectory() as folder:
        fresh, script = Path(folder) / "fresh", Path(folder) / "ten_lines.py"
        script.write_text(code)
        _run([python, "-m", "venv", str(fresh)])
        inside = str(fresh / "bin" / "python")
        _run([inside, "-m", "pip", "install", "-qq", "--no-cache-dir", str(wheel)])
        # -I: neither this folder nor the environment's variables lend it a package.
        _run([inside, "-I", str(script)], cwd=folder)
        return _run([inside, "--version"]).strip()


def ten_lines(readme: str) -> str:
    """The Python block under "Ten lines of Python".

    Raises:
        DistributionError: There is none.
    """
    found = re.search(r"^## Ten lines of Python\n.*?^```python\n(.*?)^```$", readme, re.M | re.S)
    if found is None:
        raise DistributionError("README.md has no Python block under 'Ten lines of Python'.")
    return found[1]


def _run(command: Sequence[str], cwd: str | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise DistributionError(
            f"'{' '.join(command)}' failed with status {done.returncode}.\n"
            f"{done.stdout}{done.stderr}"
        )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
