"""The figures of docs/scaling.md are those of its script, whose formulae are checked by hand."""

import dataclasses

import pytest

from benchmarks.scaling import PAGE, PLAIN, SLICES, Row, costs, estimates, read, with_tables

ROW = Row(
    network="net",
    rule=PLAIN,
    batch=128,
    parameters=25_000_000,
    summed=25_000_000,
    flops=1.97e12,
    bytes_accessed=30e9,
    traffic_bytes=16_380_000_000,
    memory_bytes=4_000_000_000,
    products=161,
    compile_s=600,
)


def test_the_page_shows_what_its_script_makes_of_the_results() -> None:
    page = PAGE.read_text()
    assert page.count("| network, batch ") == 1 + len(SLICES)
    assert with_tables(page, read()) == page


def test_a_step_takes_as_long_as_the_slower_of_products_and_memory() -> None:
    # 1.97e12 / 197e12 is 10 ms, 16.38e9 / 819e9 is 20 ms.
    assert ROW.step_s == pytest.approx(0.02)


def test_sums_over_a_slice_take_what_a_ring_takes() -> None:
    # 100 MB, twice: by two ports of 50 GB/s 2 ms, of which a ring of 8 has 7 / 8.
    assert ROW.all_reduce_s(*SLICES["v5e-8"]) == pytest.approx(2e-3 * 7 / 8)
    # By four ports half of it, 255 / 256.
    assert ROW.all_reduce_s(*SLICES["v5e-256"]) == pytest.approx(1e-3 * 255 / 256)


def test_a_run_takes_90_epochs_of_imagenet() -> None:
    # 8 x 128 images in 21.75 ms.
    speed = 1024 / 0.02175
    assert ROW.images_per_s(*SLICES["v5e-8"]) == pytest.approx(speed)
    *_, last = estimates([ROW], "v5e-8").splitlines()
    minutes = f"{90 * 1_281_167 / speed / 60:,.1f}"
    assert [cell.strip() for cell in last.strip("|").split("|")] == [
        *("net, 128", PLAIN, "20.0", "100", "1.75", "47,080", "47,080", minutes)
    ]


def test_costs_are_over_the_plain_network_s() -> None:
    other = dataclasses.replace(ROW, rule="kolen_pollack", bytes_accessed=1.05 * 30e9)
    *_, last = costs([ROW, other]).splitlines()
    assert "1.000" in last
    assert "1.050" in last
