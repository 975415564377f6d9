"""Measures what a chip must provide for the weight mirror, and draws it.

    python -m studies.noisy_hardware

Measured points are lines of `angles.jsonl` and `training.jsonl`; those that are there are not
measured again, so it may be stopped at any time and goes on with the same command. With the
results of the repository it only draws.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from train.errors import UserError
from train.parsing.start_up import load_tensorflow_quietly

HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m studies.noisy_hardware",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="of measured points")
    parser.add_argument("--pictures", type=Path, default=Path("docs"), help="folder of PNG files")
    parser.add_argument("--data", nargs="+", default=["digits"], help="names of data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bases", nargs="+", help="some of the bases; default: all")
    parser.add_argument("--width", type=int, default=256, help="cells of a hidden layer")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args(arguments)
    load_tensorflow_quietly()
    from studies.noisy_hardware import angles, training
    from studies.noisy_hardware.bases import BASES
    from studies.noisy_hardware.figures import draw
    from studies.noisy_hardware.points import Points
    from studies.noisy_hardware.tables import tables

    bases = options.bases or list(BASES)
    unknown = [name for name in bases if name not in BASES]
    if unknown:
        parser.error(f"--bases has {', '.join(unknown)}. Known: {', '.join(BASES)}.")
    trained, angled = (Points(options.out / f"{name}.jsonl") for name in ("training", "angles"))
    for data in options.data:
        common = {"data": data, "width": options.width, "epochs": options.epochs}
        try:
            rate = training.ends(trained, common, options.seeds)
            at_rate = {**common, "learning_rate": rate}
            angles.measure_all(angled, at_rate, options.seeds, bases)
            training.mirrors(trained, common, options.seeds, bases)
        except UserError as error:
            print(f"{data} is skipped: {error}")
            continue
        for file in draw(angled.lines, trained.lines, options.pictures, data):
            print(file)
        print(f"\n{tables(angled.lines, trained.lines, data)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
