"""The pictures of docs/noisy_hardware.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from studies.noisy_hardware.points import Line
from studies.noisy_hardware.results import Curve, Mean, Trained, curves, in_words, trained

# Okabe and Ito's colours, which the colour-blind tell apart; every basis has a marker of its own.
STYLES: dict[str, tuple[str, str]] = {
    "impulse": ("#D55E00", "^"),
    "blocks of 64": ("#E69F00", "s"),
    "all cells": ("#0072B2", "o"),
    "all cells, pairs": ("#56B4E9", "D"),
    "independent": ("#000000", "x"),
}
OVER_FIRINGS = (
    "noise 0.1",
    "noise 0.3",
    "4 bits",
    "4 bits, matched gain",
    "dead answers 0.3",
    "biases 0.3",
    "ReLU",
    "ReLU, biases 0.3",
)
LEAST = 90.0  # %, of the axes of accuracy; what is below stands at their end
EQUAL_SWEEPS = 2  # the fewest that pairs can fire
OVER_SIZES = {
    "noise, over the scale": [f"noise {size}" for size in ("0.01", "0.03", "0.1", "0.3", "1")],
    "biases, over the scale": [f"biases {size}" for size in ("0.1", "0.3", "1")],
    "bits, gain for all cells": [f"{bits} bits" for bits in (2, 4, 6, 8)],
    "bits, gain matched": [f"{bits} bits, matched gain" for bits in (2, 4, 6, 8)],
}


def draw(angles: Sequence[Line], trainings: Sequence[Line], folder: Path, data: str) -> list[Path]:
    """All pictures of one data set; the files. Those of the digits have the plain names."""
    found, runs = curves(angles, data), trained(trainings, data)
    suffix = "" if data == "digits" else f"_{data}"
    pictures = {
        "angles": over_firings(found),
        "sizes": over_sizes(found),
        "training": accuracies(runs),
        "firings": accuracy_over_firings(runs),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, picture in pictures.items():
        files.append(folder / f"noisy_hardware_{name}{suffix}.png")
        picture.savefig(files[-1], dpi=100)
    return files


def over_firings(found: dict[tuple[str, str], Curve]) -> Figure:
    """A panel a fault: markers are measured, lines the law."""
    figure = Figure(figsize=(10, 13), layout="constrained")
    panels = figure.subplots(4, 2, sharex=True, sharey=True).flat
    for axis, fault in zip(panels, OVER_FIRINGS, strict=True):
        for basis, (colour, marker) in STYLES.items():
            curve = found.get((fault, basis))
            if curve is not None:
                _points(axis, curve.sweeps, curve.angle_deg, colour, marker, basis)
                axis.plot(curve.sweeps, curve.law_deg, color=colour, linewidth=1.2)
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
        axis.set_title(fault)
        axis.set_ylim(-3, 93)
        axis.set_yticks(range(0, 91, 15))
        axis.grid(alpha=0.3)
    for axis in figure.axes[::2]:
        axis.set_ylabel("angle between W and B, degrees")
    for axis in figure.axes[-2:]:
        axis.set_xlabel("firings over fan-in (sweeps)")
    _legend(figure)
    return figure


def over_sizes(found: dict[tuple[str, str], Curve]) -> Figure:
    """The angle that twice the fan-in buys in firings, over the size of the fault."""
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    for axis, (title, faults) in zip(
        figure.subplots(2, 2, sharey=True).flat, OVER_SIZES.items(), strict=True
    ):
        where = 0 if title.startswith("bits") else 1
        for basis, (colour, marker) in STYLES.items():
            there = [fault for fault in faults if (fault, basis) in found]
            sizes = [float(fault.split()[where]) for fault in there]
            at = [found[fault, basis].sweeps.index(EQUAL_SWEEPS) for fault in there]
            drawn = [(found[fault, basis], place) for fault, place in zip(there, at, strict=True)]
            _points(axis, sizes, [c.angle_deg[i] for c, i in drawn], colour, marker, basis)
            axis.plot(sizes, [c.law_deg[i] for c, i in drawn], color=colour, linewidth=1.2)
        axis.set_xscale("log" if where else "linear")
        axis.set_yscale("log")
        axis.set_ylim(0.1, 100)
        axis.set_yticks([0.1, 1, 10, 45, 90], ["0.1", "1", "10", "45", "90"])
        texts = [fault.split()[where] for fault in faults]
        axis.set_xticks([float(text) for text in texts], texts)
        axis.minorticks_off()
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    for axis in figure.axes[::2]:
        axis.set_ylabel("angle between W and B, degrees")
    _legend(figure)
    return figure


def accuracies(runs: list[Trained]) -> Figure:
    """A row a fault: test accuracy of each basis; lines: backprop and feedback alignment."""
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axis = figure.subplots()
    shown = [run for run in chosen(runs) if run.settings["every_batches"] == 4]
    faults = list(dict.fromkeys(in_words(run.settings["fault"]) for run in shown))
    for run in shown:
        basis, mean = run.settings["basis"], run.accuracy_percent
        place = faults.index(in_words(run.settings["fault"])) + (list(STYLES).index(basis) - 2) / 6
        seen = max(mean.value, LEAST)
        bar = mean.error if seen == mean.value else None
        axis.errorbar(seen, place, xerr=bar, label=basis, **_style(*STYLES[basis]))
        if seen > mean.value:
            number = f"{mean.value:.0f} \N{PLUS-MINUS SIGN} {mean.error:.0f}"
            axis.text(seen + 0.2, place, number, va="center")
    _ends(axis, runs, upright=True)
    axis.set_yticks(range(len(faults)), faults)
    axis.set_ylim(len(faults) - 0.5, -0.5)
    axis.set_xlim(LEAST - 0.3, 98)
    axis.set_xlabel("test accuracy after training, %; bars: standard error")
    for between in range(1, len(faults)):
        axis.axhline(between - 0.5, color="0.85", linewidth=0.8)
    _legend(figure, columns=4)
    return figure


def accuracy_over_firings(runs: list[Trained]) -> Figure:
    """Under noise 0.3, over firings; and of all conditions over the angle at the end."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    shown = chosen(runs)
    noisy = [run for run in shown if run.settings["fault"] == {"noise": 0.3}]
    for basis, (colour, marker) in STYLES.items():
        line = [run for run in noisy if run.settings["basis"] == basis]
        line.sort(key=lambda run: run.firings_per_image or 0.0)
        fired, means = [r.firings_per_image for r in line], [r.accuracy_percent for r in line]
        _points(left, fired, means, colour, marker, basis)
        left.plot(fired, [mean.value for mean in means], color=colour, linewidth=1.2)
        known = [run for run in shown if run.settings["basis"] == basis]
        known = [run for run in known if run.angle_deg is not None]
        for run in known:
            mean, angle = run.accuracy_percent, run.angle_deg
            if mean.value < LEAST:
                mean = Mean(LEAST, 0.0, mean.seeds)
            _points(right, [angle], [mean], colour, marker, basis)
    left.set_xscale("log")
    ticks = sorted({run.firings_per_image for run in noisy if run.firings_per_image is not None})
    left.set_xticks(ticks, [f"{tick:.2f}" for tick in ticks])
    left.minorticks_off()
    left.set_xlabel("firings per image and layer, noise 0.3")
    left.set_ylabel("test accuracy after training, %")
    left.set_ylim(LEAST - 0.3, 98)
    right.set_xlabel("angle between W and B at the end, degrees; all faults")
    for axis in (left, right):
        _ends(axis, runs)
        axis.grid(alpha=0.3)
    _legend(figure, columns=4)
    return figure


def chosen(runs: list[Trained]) -> list[Trained]:
    """The mirrors whose settings the held-out images chose."""
    return [run for run in _of(runs, "weight_mirror") if run.chosen]


def _of(runs: list[Trained], rule: str) -> list[Trained]:
    return [run for run in runs if run.settings["rule"] == rule]


def _points(
    axis: Any, x: list[Any], means: list[Any], colour: str, marker: str, basis: str
) -> None:
    y, errors = [mean.value for mean in means], [mean.error for mean in means]
    axis.errorbar(x, y, yerr=errors, label=basis, **_style(colour, marker))


def _style(colour: str, marker: str) -> dict[str, Any]:
    hollow = {"markerfacecolor": "none", "markeredgewidth": 1.6}  # those below are seen, too
    size = {"D": 10, "^": 9, "s": 8}.get(marker, 6)
    return {"linestyle": "none", "color": colour, "marker": marker, "markersize": size, **hollow}


def _ends(axis: Any, runs: list[Trained], *, upright: bool = False) -> None:
    for rule, style in (("backprop", "-"), ("feedback_alignment", "--")):
        for run in _of(runs, rule):
            mean = run.accuracy_percent
            line, band = (axis.axvline, axis.axvspan) if upright else (axis.axhline, axis.axhspan)
            band(mean.value - mean.error, mean.value + mean.error, color="0.85", zorder=0)
            words = rule.replace("_", " ")
            line(mean.value, color="0.4", linestyle=style, zorder=0, label=words)


def _legend(figure: Figure, columns: int = 5) -> None:
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=columns)
