"""Runs of several rules and seeds, each a line in a file, so that none is run twice."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def parser_of(doc: str, rules: Sequence[str], epochs: int) -> argparse.ArgumentParser:
    """What such a benchmark is asked on the command line; `doc` begins with what it does."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rules", nargs="+", choices=list(rules), default=list(rules))
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--validate", action="store_true", help="tune: never on the test images")
    return parser


def run_missing(
    options: argparse.Namespace, run: Callable[[str, int, argparse.Namespace], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every line of `options.out`, with those that were missing: `run(rule, seed, options)`."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text = options.out.read_text() if options.out.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    for seed in options.seeds:
        for rule in options.rules:
            if any(line["rule"] == rule and line["seed"] == seed for line in lines):
                continue
            lines.append(run(rule, seed, options))
            with options.out.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(f"{rule}, seed {seed}: {100 * lines[-1]['accuracy']:.2f} %", flush=True)
    return lines


def mean_and_error(values: Sequence[float], digits: int = 1) -> str:
    """`mean (standard error)`."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} ({error:.{digits}f})"
