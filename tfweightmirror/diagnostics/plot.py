"""Angles over a training, in a notebook."""

from collections.abc import Mapping, Sequence
from typing import Any


def plot_angles(
    history: Any, *, measure: str = "weight_angle", axes: Any = None, **style: Any
) -> Any:
    """Draws an angle of every layer over the epochs, one line a layer, dark at the input.

    Needs matplotlib, which the library does not install.

    Args:
        history: What `model.fit` with a `FeedbackMonitor` returns, or its dict `history`, or such a
            dict of your own: `{"weight_angle/<pathway>": [degrees, one an epoch]}`.
        measure: What to draw: the name before the slash, such as `"weight_angle"` or
            `"delta_angle"`.
        axes: The matplotlib Axes to draw into; None: of a new figure.
        style: Further arguments of `Axes.plot`.

    Returns:
        The matplotlib Axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The history has no such measure.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> tfwm.convert_model(model, "feedback_alignment").compile("sgd", "mse")
        >>> monitor = tfwm.callbacks.FeedbackMonitor()
        >>> history = model.fit(np.eye(4), np.eye(4, 3), epochs=3, callbacks=[monitor], verbose=0)
        >>> axes = tfwm.diagnostics.plot_angles(history, linestyle="--")
        >>> [line.get_label() for line in axes.lines], axes.get_ylabel()
        (['head'], 'weight angle (degrees)')
    """
    try:
        from matplotlib import colormaps, pyplot
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError(
            "plot_angles needs matplotlib, which is not installed: pip install matplotlib."
        ) from error
    logs: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    lines = {
        name.removeprefix(f"{measure}/"): values
        for name, values in logs.items()
        if name.startswith(f"{measure}/")
    }
    if not lines:
        there = sorted({name.partition("/")[0] for name in logs if "/" in name})
        raise ValueError(
            f"The history has no {measure!r} of any layer. Received: "
            f"{', '.join(there) or 'no measure of layers'}. Fit with the callback "
            f"tfweightmirror.callbacks.FeedbackMonitor(), which measures it."
        )
    if axes is None:
        _, axes = pyplot.subplots(layout="constrained")
    for number, (layer, values) in enumerate(lines.items()):
        # Viridis' lightest end is lost on white. A single epoch makes no line.
        shade = colormaps["viridis"](0.85 * number / max(len(lines) - 1, 1))
        look = {"label": layer, "color": shade, "marker": "." if len(values) == 1 else ""}
        axes.plot(range(1, len(values) + 1), values, **(look | style))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{measure.replace('_', ' ')} (degrees)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(title="layer, input to output")
    return axes
