"""docs/noisy_hardware.md shows what the repository's points say."""

import json
from pathlib import Path
from typing import Any

import pytest

from studies.noisy_hardware import __main__ as command
from studies.noisy_hardware.tables import tables

ROOT = Path(__file__).parents[3]


def lines(name: str) -> list[dict[str, Any]]:
    """The points of the repository."""
    file = command.HERE / "results" / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_tables_of_the_page_are_those_of_the_points() -> None:
    page = (ROOT / "docs" / "noisy_hardware.md").read_text()
    for table in tables(lines("angles"), lines("training"), "digits").split("\n\n"):
        assert table in page


def test_every_point_has_three_seeds_or_more() -> None:
    for name in ("angles", "training"):
        seeds: dict[str, set[int]] = {}
        for line in lines(name):
            settings = {key: value for key, value in line["settings"].items() if key != "seed"}
            if settings.get("images") != "validation":
                seeds.setdefault(repr(settings), set()).add(line["settings"]["seed"])
        assert seeds
        assert min(map(len, seeds.values())) >= 3


def test_angles_are_those_of_the_law() -> None:
    """Every one within 1.5 degrees, seeds together."""
    means: dict[str, list[tuple[float, float]]] = {}
    for line in lines("angles"):
        settings = {key: value for key, value in line["settings"].items() if key != "seed"}
        for place, pair in enumerate(zip(line["angle_deg"], line["law_deg"], strict=True)):
            means.setdefault(f"{settings} {place}", []).append(pair)
    for point, pairs in means.items():
        measured, law = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        assert measured == pytest.approx(law, abs=1.5), point
