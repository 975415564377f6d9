"""Makes TensorFlow Datasets folders of packed copies.

    python -m tools.import_shared PACKED FOLDER mnist cifar10 cifar100
    TFDS_DATA_DIR=FOLDER python -m train fit --data.name=mnist

PACKED holds packed data sets and their reader, `load.py`, in which a function for each set returns
`((train images, train labels), (test images, test labels))`: uint8 images (count, height, width)
or (count, height, width, 3), and integer labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import runpy
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.builder_folder import LabelledImages, write_builder_folder
from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class Source:
    """What TFDS says about a set, and where its class names are found.

    Args:
        version: The version of TFDS' own folder of this set.
        homepage: Of the set.
        citation: BibTeX.
        class_names: From the folder of packed copies and the module that reads them.
    """

    version: str
    homepage: str
    citation: str
    class_names: Callable[[Path, Any], Sequence[str]]


_KRIZHEVSKY = """@techreport{krizhevsky2009learning,
  author = {Krizhevsky, Alex},
  title = {Learning Multiple Layers of Features from Tiny Images},
  institution = {University of Toronto},
  year = {2009}
}"""

SOURCES = {
    "mnist": Source(
        version="3.0.1",
        homepage="http://yann.lecun.com/exdb/mnist/",
        citation="""@article{lecun1998gradient,
  author = {LeCun, Yann and Bottou, Leon and Bengio, Yoshua and Haffner, Patrick},
  title = {Gradient-based learning applied to document recognition},
  journal = {Proceedings of the IEEE},
  year = {1998}
}""",
        class_names=lambda folder, reader: [str(digit) for digit in range(10)],
    ),
    "cifar10": Source(
        version="3.0.2",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        citation=_KRIZHEVSKY,
        class_names=lambda folder, reader: reader.CIFAR10_CLASSES,
    ),
    "cifar100": Source(
        version="3.0.2",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        citation=_KRIZHEVSKY,
        class_names=lambda folder, reader: json.loads(
            (folder / "cifar100" / "classes.json").read_text()
        ),
    ),
}


def import_set(name: str, packed: Path, *, data_dir: Path) -> Path:
    """Writes one packed set as a TFDS builder folder and returns the folder.

    Unlike TFDS' own folders it holds image and label alone: no file names (cifar10, cifar100), no
    coarse labels (cifar100).

    Raises:
        UserError: If there is no packed copy, or the set was imported before.
    """
    source, reader = SOURCES[name], _reader(packed)
    try:
        splits = dict(zip(("train", "test"), getattr(reader, name)(), strict=True))
        class_names = source.class_names(packed, reader)
    except OSError as error:
        raise UserError(f"{packed} has no packed copy of {name} ({error}).") from error
    try:
        return write_builder_folder(
            name,
            source.version,
            splits={split: _with_channels(*part) for split, part in splits.items()},
            class_names=class_names,
            data_dir=data_dir,
            description=f"{name}, from a packed copy: image and label alone.",
            homepage=source.homepage,
            citation=source.citation,
        )
    except FileExistsError as error:
        raise UserError(str(error)) from error


def _reader(packed: Path) -> Any:
    file = packed / "load.py"
    if not file.is_file():
        raise UserError(f"{packed} has no load.py. Expected the folder of the packed data sets.")
    return types.SimpleNamespace(**runpy.run_path(str(file)))


def _with_channels(images: Any, labels: Any) -> LabelledImages:
    return LabelledImages(images if images.ndim == 4 else images[..., np.newaxis], labels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("packed", type=Path, help="folder of the packed copies, with load.py")
    parser.add_argument("folder", type=Path, help="becomes TFDS_DATA_DIR")
    parser.add_argument("names", nargs="+", choices=SOURCES)
    arguments = parser.parse_args()
    try:
        for name in arguments.names:
            begin_s = time.perf_counter()
            folder = import_set(name, arguments.packed, data_dir=arguments.folder)
            print(f"wrote {folder} in {time.perf_counter() - begin_s:.0f} s")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
