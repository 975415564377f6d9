"""What the TPU compiler's counts come to on slices of TPU v5e: `python -m benchmarks.scaling`.

Writes the tables of docs/scaling.md from `benchmarks/results/tpu_cost.jsonl`. Counts are the
compiler's; times are estimates from them and from the public figures of the chip.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

PLAIN = "plain Keras"
RESULTS = Path(__file__).parent / "results" / "tpu_cost.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"

# Cloud TPU documentation, "TPU v5e" (https://cloud.google.com/tpu/docs/v5e), of one chip.
PEAK_FLOPS = 197e12  # bfloat16
MEMORY_BYTES_PER_S = 819e9
PORT_BYTES_PER_S = 50e9  # 400 GB/s in both directions, through four ports
CHIPS_A_HOST = 8
# Chips of a slice, and ports through which each of them can send at once: on a ring of every axis
# (16x16 is a torus), or to its neighbours (a corner of 2x4 has two).
SLICES = {"v5e-8": (8, 2), "v5e-256": (256, 4)}

TRAINING_IMAGES, EPOCHS = 1_281_167, 90  # ImageNet (ILSVRC 2012)


@dataclasses.dataclass(frozen=True)
class Row:
    """The compiler's counts of one training step on one chip.

    Attributes:
        network, rule: Names.
        batch: Examples on a chip.
        parameters: Weights that the plain network trains.
        summed: Numbers that a replica sends to be summed over all, 4 bytes each: the gradients, and
            B where it is averaged or has a gradient of its own (tests/test_communication.py).
        flops, bytes_accessed, memory_bytes: By the compiler's analysis.
        traffic_bytes: Read from and written to the chip's main memory, counted in the compiled
            program (`tests/tpu/traffic.py`).
        products: Convolutions and matrix products.
        compile_s: What the compiler took, seconds.
    """

    network: str
    rule: str
    batch: int
    parameters: int
    summed: int
    flops: float
    bytes_accessed: float
    traffic_bytes: int
    memory_bytes: int
    products: int
    compile_s: int

    def append_to(self, path: Path) -> None:
        """Write it as the last line of a file."""
        with path.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(self)) + "\n")

    @property
    def step_s(self) -> float:
        """The least time of a step on one chip, seconds: operations or memory at full speed."""
        return max(self.flops / PEAK_FLOPS, self.traffic_bytes / MEMORY_BYTES_PER_S)

    def all_reduce_s(self, chips: int, ports: int) -> float:
        """The least time of the sums over a slice, seconds: `2 (n - 1) / n` of the bytes, sent."""
        return 2 * (chips - 1) / chips * 4 * self.summed / (ports * PORT_BYTES_PER_S)

    def images_per_s(self, chips: int, ports: int) -> float:
        """What a slice trains on, nothing overlapped."""
        return chips * self.batch / (self.step_s + self.all_reduce_s(chips, ports))


def read(path: Path = RESULTS) -> list[Row]:
    """All rows of a file, each network's plain one first; none if there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return sorted(rows, key=lambda row: (row.network, row.batch, row.rule != PLAIN, row.rule))


def costs(rows: Iterable[Row]) -> str:
    """The counts, and what they are over the plain network's: a Markdown table."""
    rows = list(rows)
    plain = {(row.network, row.batch): row for row in rows if row.rule == PLAIN}
    table = []
    for row in rows:
        over = plain[row.network, row.batch]
        table.append(
            (
                f"{row.network}, {row.batch}",
                row.rule,
                f"{row.flops / 1e9:.0f}",
                f"{row.flops / over.flops:.3f}",
                f"{row.bytes_accessed / 1e9:.2f}",
                f"{row.bytes_accessed / over.bytes_accessed:.3f}",
                f"{row.traffic_bytes / 1e9:.2f}",
                f"{row.traffic_bytes / over.traffic_bytes:.3f}",
                f"{row.memory_bytes / 1e9:.2f}",
                f"{row.memory_bytes / over.memory_bytes:.3f}",
            )
        )
    heads = ("network, batch", "rule", "Gflop", "over plain", "GB accessed", "over plain")
    return _markdown(table, (*heads, "GB moved", "over plain", "GB of memory", "over plain"))


def estimates(rows: Iterable[Row], name: str) -> str:
    """What a run on ImageNet takes on the slice `name`: a Markdown table."""
    chips, ports = SLICES[name]
    table = [
        (
            f"{row.network}, {row.batch}",
            row.rule,
            f"{1e3 * row.step_s:.1f}",
            f"{4 * row.summed / 1e6:.0f}",
            f"{1e3 * row.all_reduce_s(chips, ports):.2f}",
            f"{row.images_per_s(chips, ports):,.0f}",
            f"{row.images_per_s(chips, ports) / (chips / CHIPS_A_HOST):,.0f}",
            f"{EPOCHS * TRAINING_IMAGES / row.images_per_s(chips, ports) / 60:,.1f}",
        )
        for row in rows
    ]
    heads = ("network, batch", "rule", "step, ms", "MB summed", "sums, ms")
    return _markdown(table, (*heads, "images/s", "images/s a host", f"{EPOCHS} epochs, min"))


def _markdown(table: list[tuple[str, ...]], heads: tuple[str, ...]) -> str:
    align = ("left", "left", *["right"] * (len(heads) - 2))
    return tabulate(table, heads, tablefmt="github", disable_numparse=True, colalign=align)


def with_tables(page: str, rows: Iterable[Row]) -> str:
    """The page with its tables of networks made anew: the costs, then a slice each."""
    rows = list(rows)
    tables = iter([costs(rows), *(estimates(rows, name) for name in SLICES)])
    return re.sub(
        r"^\| network, batch .*\n(\|.*\n)+", lambda _: next(tables) + "\n", page, flags=re.M
    )


def main() -> None:
    PAGE.write_text(with_tables(PAGE.read_text(), read()))
    print(f"{PAGE}\n{costs(read())}")


if __name__ == "__main__":
    main()
