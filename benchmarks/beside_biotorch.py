"""What BioTorch's rules cost over PyTorch's backprop: `python -m benchmarks.beside_biotorch`.

BioTorch (https://github.com/jsalbert/biotorch, Apache-2.0) is the nearest relative of this library,
and its figures stand beside ours in docs/measured.md. Needs `torch` and `biotorch`, which are no
dependencies of this project, and nothing else: run it in an environment of its own.

Training steps on random examples, in one process, the candidates taking turns as in
`benchmarks.step_time`; each over the step of the same module under PyTorch's own backprop.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import Clock, Seconds, print_table, summary

MODES = ("fa", "usf", "frsf", "brsf")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=("mlp", "resnet18"), default="resnet18")
    parser.add_argument("--repeats", type=int, default=21, help="turns of every candidate")
    parser.add_argument("--steps", type=int, default=1, help="training steps of a turn")
    parser.add_argument("--out", type=Path, help="a JSON file to write; default: none")
    options = parser.parse_args()
    try:
        import torch
        from biotorch.module.biomodule import BioModule
    except ImportError as error:
        parser.error(f"{error}. Expected torch and biotorch to be installed.")

    def make() -> tuple[Any, tuple[int, ...]]:
        torch.manual_seed(0)
        if options.network == "mlp":
            layers = torch.nn.Linear(784, 500), torch.nn.ReLU(), torch.nn.Linear(500, 10)
            return torch.nn.Sequential(*layers), (128, 784)
        return resnet18(torch.nn), (128, 3, 32, 32)

    def candidate(mode: str | None) -> Callable[[], Seconds]:
        module, shape = make()
        if mode is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                module = BioModule(module, mode=mode)
        module.train()
        optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
        examples, labels = torch.randn(shape), torch.randint(0, 10, shape[:1])

        def step() -> Seconds:
            """Of one of `--steps`."""
            begin = Clock()
            for _ in range(options.steps):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(examples), labels).backward()
                optimizer.step()
            return Clock().since(begin, times=options.steps)

        step()
        return step

    candidates = {"PyTorch": candidate(None)} | {mode: candidate(mode) for mode in MODES}
    rows = summary(candidates, options.repeats)
    print_table("train step", rows)
    if options.out is not None:
        kept = {"options": vars(options) | {"out": None}, "torch": torch.__version__}
        kept["results"] = rows
        options.out.write_text(json.dumps(kept, indent=2) + "\n")


def resnet18(nn: Any, width: int = 16) -> Any:
    """The ResNet-18 of `benchmarks.networks`, as a PyTorch module."""

    def normalized(entering: int, leaving: int, size: int, stride: int) -> list[Any]:
        convolution = nn.Conv2d(entering, leaving, size, stride, size // 2, bias=False)
        return [convolution, nn.BatchNorm2d(leaving)]

    class Block(nn.Module):  # type: ignore[misc]  # torch is no dependency: Any here
        def __init__(self, entering: int, leaving: int, stride: int) -> None:
            super().__init__()
            first = normalized(entering, leaving, 3, stride)
            self.inside = nn.Sequential(*first, nn.ReLU(), *normalized(leaving, leaving, 3, 1))
            same = entering == leaving and stride == 1
            beside = [] if same else normalized(entering, leaving, 1, stride)
            self.shortcut = nn.Sequential(*beside)

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.inside(x) + self.shortcut(x))

    blocks, entering = [], width
    for stage in range(4):
        leaving = width * 2**stage
        blocks += [Block(entering, leaving, 2 if stage else 1), Block(leaving, leaving, 1)]
        entering = leaving
    stem = [*normalized(3, width, 3, 1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(entering, 10)]
    return nn.Sequential(*stem, *blocks, *head)


if __name__ == "__main__":
    main()
