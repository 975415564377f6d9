"""The tables of docs/noisy_hardware.md, made of the measured points."""

from __future__ import annotations

from collections.abc import Sequence

from studies.noisy_hardware.bases import BASES
from studies.noisy_hardware.figures import chosen
from studies.noisy_hardware.points import Line
from studies.noisy_hardware.results import Curve, Trained, curves, in_words, trained

ENOUGH_DEG = 15


def tables(angles: Sequence[Line], trainings: Sequence[Line], data: str) -> str:
    """All of one data set, as Markdown."""
    found, runs = curves(angles, data), trained(trainings, data)
    return "\n\n".join(
        [angle_table(found), accuracy_table(runs), firing_table(runs), mirror_table(runs)]
    )


def angle_table(found: dict[tuple[str, str], Curve]) -> str:
    """After 2 sweeps and after 32, and after how many `ENOUGH_DEG` are reached."""
    rows = [["fault", *BASES]]
    for fault in dict.fromkeys(fault for fault, _ in found):
        cells = []
        for basis in BASES:
            curve = found.get((fault, basis))
            cells.append("" if curve is None else _angles(curve))
        rows.append([fault, *cells])
    return _markdown(rows)


def accuracy_table(runs: list[Trained]) -> str:
    """Test accuracy at four firings per image and layer."""
    rows = [["fault", *BASES]]
    shown = [run for run in chosen(runs) if run.settings["every_batches"] == 4]
    for fault in dict.fromkeys(in_words(run.settings["fault"]) for run in shown):
        own = {r.settings["basis"]: r for r in shown if in_words(r.settings["fault"]) == fault}
        rows.append([fault, *(_accuracy(own[b]) if b in own else "" for b in BASES)])
    for run in runs:
        if run.settings["rule"] != "weight_mirror":
            rows.append([run.settings["rule"].replace("_", " "), _accuracy(run), "", "", "", ""])
    return _markdown(rows)


def firing_table(runs: list[Trained]) -> str:
    """Test accuracy under noise 0.3 over firings per image and layer."""
    shown = [run for run in chosen(runs) if run.settings["fault"] == {"noise": 0.3}]
    rows = [["a mirror step every", "firings per image and layer", *BASES]]
    for every in sorted({run.settings["every_batches"] for run in shown}):
        own = {r.settings["basis"]: r for r in shown if r.settings["every_batches"] == every}
        fired = next(iter(own.values())).firings_per_image
        cells = [_accuracy(own[basis]) if basis in own else "" for basis in BASES]
        rows.append([f"{every} batches", f"{fired:.2f}", *cells])
    return _markdown(rows)


def mirror_table(runs: list[Trained]) -> str:
    """Test accuracy under noise 0.3 of mirrors side by side."""
    shown = [run for run in runs if run.settings.get("fault") == {"noise": 0.3}]
    shown = [run for run in shown if run.settings["every_batches"] == 4]
    rows = [["mirror", "learning rate", *BASES]]
    names = {
        ("decay", 1.0): "replaces B",
        ("decay", 0.1): "averages",
        ("scaling", 0.1): "averages, keeps the length",
    }
    for (norm, decay), name in names.items():
        for rate in (0.003, 0.01, 0.03):
            mirror = {"norm": norm, "decay": decay, "learning_rate": rate}
            own = {r.settings["basis"]: r for r in shown if mirror.items() <= r.settings.items()}
            if own:
                cells = [_accuracy(own[basis]) if basis in own else "" for basis in BASES]
                rows.append([name, f"{rate:g}", *cells])
    return _markdown(rows)


def _angles(curve: Curve) -> str:
    """First and last angle that all bases have, and the sweeps that are enough."""
    at = {s: mean.value for s, mean in zip(curve.sweeps, curve.angle_deg, strict=True)}
    enough = next((f"{s}" for s, angle in at.items() if angle <= ENOUGH_DEG), "-")
    return f"{at[2]:.1f}, {at[32]:.1f} ({enough})"


def _accuracy(run: Trained) -> str:
    mean = run.accuracy_percent
    angle = "" if run.angle_deg is None else f", {run.angle_deg:.0f}°"
    star = "*" if run.settings.get("norm") == "scaling" else ""
    return f"{mean.value:.1f}{star} ({mean.error:.1f}){angle}"


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
