"""Draws Amit 2018's figures 3 and 4 anew, and checks the theorems and the invariant in numbers.

    python -m studies.linear_theory

Takes about a minute. docs/linear_theory.md is its page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from studies.linear_theory.checks import table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m studies.linear_theory",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--pictures", type=Path, default=Path("docs"), help="folder of PNG files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=5_000)
    options = parser.parse_args(arguments)
    if options.iterations < 100:
        parser.error(f"--iterations is {options.iterations}. Expected at least 100.")
    from studies.linear_theory.figures import figure_3, figure_4

    print(table())
    options.pictures.mkdir(parents=True, exist_ok=True)
    for name, draw in (("figure_3", figure_3), ("figure_4", figure_4)):
        file = options.pictures / f"linear_theory_{name}.png"
        draw(options.seeds, options.iterations).savefig(file, dpi=110)
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
