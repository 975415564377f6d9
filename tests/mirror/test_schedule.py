"""The settings that a Schedule takes, and the reasons for which it refuses others."""

import dataclasses
from typing import Any

import pytest

from tfweightmirror.mirror import Schedule

AROUND = ("warm_up_steps", "epoch_begin_steps", "epoch_end_steps")


def test_default_is_one_step_before_the_first_batch_and_one_after_every_batch() -> None:
    assert dataclasses.asdict(Schedule()) == {
        "every_batches": 1,
        "steps": 1,
        "warm_up_steps": 1,
        "epoch_begin_steps": 0,
        "epoch_end_steps": 0,
    }


@pytest.mark.parametrize(
    "options",
    [
        {"every_batches": 1, "steps": 1, "warm_up_steps": 0},
        {"every_batches": 1000, "steps": 50},
        {"every_batches": None, "warm_up_steps": 1},
        {"every_batches": None, "warm_up_steps": 0, "epoch_begin_steps": 1},
        {"every_batches": None, "warm_up_steps": 0, "epoch_end_steps": 3},
        # `steps` belongs to `every_batches`: without it nothing asks for it.
        {"every_batches": None, "steps": 0},
    ],
)
def test_schedules_that_run_are_taken_as_they_are(options: dict[str, Any]) -> None:
    schedule = Schedule(**options)
    assert {name: getattr(schedule, name) for name in options} == options


@pytest.mark.parametrize("name", ["every_batches", "steps", *AROUND])
@pytest.mark.parametrize("value", ["a", 1.5])
def test_what_is_no_whole_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} of a mirror schedule must be a whole number"):
        Schedule(**{name: value})


@pytest.mark.parametrize("name", ["every_batches", "steps"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_below_one_after_batches_are_refused_with_the_way_to_say_never(
    name: str, value: int
) -> None:
    with pytest.raises(
        ValueError, match=rf"^{name} .* at least 1\. Received: {value}\..*every_batches=None"
    ):
        Schedule(**{name: value})


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("every_batches", [1, None])
def test_negative_steps_around_batches_are_refused(name: str, every_batches: int | None) -> None:
    with pytest.raises(ValueError, match=rf"^{name} .* not be negative\. Received: -2\."):
        Schedule(every_batches=every_batches, **{name: -2})


def test_a_schedule_that_never_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="never runs"):
        Schedule(every_batches=None, warm_up_steps=0)


def test_a_schedule_cannot_be_changed_behind_its_checks() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Schedule().steps = 0  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"^steps"):
        dataclasses.replace(Schedule(), steps=0)
    assert Schedule(steps=2) == Schedule(steps=2) != Schedule()
    assert len({Schedule(steps=2), Schedule(steps=2)}) == 1
