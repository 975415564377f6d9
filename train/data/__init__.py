"""Inputs and targets: where they come from, how they become batches."""

from train.data.sets import Sets as Sets
