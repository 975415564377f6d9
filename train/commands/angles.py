"""`python -m train angles`: how well a saved model's feedback is aligned."""

from __future__ import annotations

import pandas as pd

import tfweightmirror as tfwm
from train.commands.evaluate import model_file
from train.parts.initial_weights import load_model
from train.report.pages import to_text


def angles(model_or_run: str) -> None:
    """Prints the weight angle and the norm ratio of every layer, from input to output.

    Args:
        model_or_run: A run directory, or a .keras file.

    Raises:
        UserError: If there is no model.
    """
    file = model_file(model_or_run)
    model = load_model(file, "model")
    pathways = {pathway.name: pathway for pathway in tfwm.pathways(model)}
    if not pathways:
        print(f"{file} has no feedback layers: W itself carries every error.")
        return
    ratios = tfwm.norm_ratios(model)
    head = ["layer", "rule", "weight angle, degrees", "norm ratio", "sends error back"]
    rows = []
    for name, angle in tfwm.weight_angles(model).items():
        pathway = pathways[name]
        sends = "yes" if pathway.sends_error_back else "no"
        rows.append([name, pathway.rule.name, f"{angle:.4f}", f"{ratios[name]:.4f}", sends])
    print(f"{file}: angle between W and what carries the error back, norm of B over norm of W")
    print(to_text(pd.DataFrame(rows, columns=head)))
