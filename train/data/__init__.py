"""Inputs and targets: where they come from, how they become batches."""

from pathlib import Path

from train.data.sets import Sets as Sets

EMBEDDED = {"digits": Path(__file__).parent / "digits" / "1.0.0"}
