"""`python -m train angles`: how well a saved model's feedback is aligned."""

from __future__ import annotations

import pandas as pd

import tfweightmirror as tfwm
from train.commands.trained import load_trained
from train.report.pages import to_text


def angles(model_or_run: str, *, as_json: bool = False) -> None:
    """Prints the weight angle and the norm ratio of every layer, from input to output.

    Args:
        model_or_run: A run directory, or a .keras file.
        as_json: Whether to print JSON: a table of measures for each layer.

    Raises:
        UserError: If there is no model.
    """
    file, model = load_trained(model_or_run)
    pathways = {pathway.name: pathway for pathway in tfwm.pathways(model)}
    if not pathways and not as_json:
        print(f"{file} has no feedback layers: W itself carries every error.")
        return
    ratios = tfwm.norm_ratios(model)
    head = ["layer", "rule", "weight angle, degrees", "norm ratio", "sends error back"]
    rows = [
        [name, pathways[name].rule.name, angle, ratios[name], pathways[name].sends_error_back]
        for name, angle in tfwm.weight_angles(model).items()
    ]
    if as_json:
        frame = pd.DataFrame(rows, columns=["layer", "rule", "weight_angle", "norm_ratio", "sends"])
        print(frame.to_json(orient="records"))
        return
    print(f"{file}: angle between W and what carries the error back, norm of B over norm of W")
    shown = [
        [name, rule, f"{angle:.4f}", f"{ratio:.4f}", "yes" if sends else "no"]
        for name, rule, angle, ratio, sends in rows
    ]
    print(to_text(pd.DataFrame(shown, columns=head)))
