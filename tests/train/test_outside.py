"""An experiment outside the repository: that of docs/own_parts.md, as it stands there."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfweightmirror as tfwm
from tests.train import killing
from tests.train.test_resume import EndAfter
from train.__main__ import main
from train.errors import TerminatedError
from train.parsing.command_line import parse
from train.run.fit import fit

PAGE = Path(__file__).parents[2] / "docs" / "own_parts.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The two files of the page."""
    folder = tmp_path_factory.mktemp("outside") / "my_folder"
    folder.mkdir()
    files = re.findall(r"^\*\*([\w.]+)\*\*:\n\n```\w+\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert [name for name, _ in files] == ["experiment.yaml", "my_parts.py"]
    for name, text in files:
        (folder / name).write_text(text)
    path = list(sys.path)
    yield folder
    sys.path[:] = path
    forget()


def forget() -> None:
    """As in a new process: neither Python nor Keras knows the user's code."""
    sys.modules.pop("my_parts", None)
    known = keras.saving.get_custom_objects()
    for name in [name for name in known if name.startswith("my_parts>")]:
        del known[name]


def command(folder: Path, run: str) -> list[str]:
    # TensorFlow cannot take determinism back, for the tests that follow in this process.
    options = [
        "--training.deterministic=false",
        "--training.progress=none",
        f"--run_directory={folder.parent / run}",
    ]
    return ["fit", f"--config={folder / 'experiment.yaml'}", *options]


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    assert main(command(folder, "whole")) == 0
    return folder.parent / "whole"


def test_experiment_learns_and_logs_what_its_parts_measure(trained: Path) -> None:
    lines = killing.metrics(trained)
    assert [line["batches_seen"] for line in lines] == [24, 48, 72]
    assert all(0.5 <= line["val_confidence"] <= 1 for line in lines)
    assert lines[-1]["val_accuracy"] > 0.95
    assert lines[-1]["weight_angle/second"] < 20  # B listens to the noise


@pytest.mark.slow
@pytest.mark.always
def test_experiment_stopped_in_mid_epoch_goes_on_to_the_same_bits(
    folder: Path, trained: Path
) -> None:
    config, _ = parse(command(folder, "ended"))
    with pytest.raises(TerminatedError, match="after training step 29"):
        fit(config, extra_callbacks=[EndAfter(29)])
    forget()
    assert main(command(folder, "ended")) == 0
    killing.assert_same_bits(trained, folder.parent / "ended")
    forget()
    assert main(command(folder, "ended")) == 0  # has finished: nothing to do
    assert any("CountExamples" in name for name in killing.variables(trained))


def test_commands_find_the_users_classes(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = trained.parent / "plain.keras"
    for arguments in (["evaluate"], ["angles"], ["export", f"--out={out}"]):
        forget()
        assert main([arguments[0], str(trained), *arguments[1:]]) == 0
    shown = capsys.readouterr().out
    assert f"accuracy        {killing.metrics(trained)[-1]['val_accuracy']:.4f}" in shown
    assert "damped" in shown
    model = keras.models.load_model(out)  # the user's layer is known: export has imported it
    _, (test_x, test_y) = sys.modules["my_parts"].two_rings()
    accuracy = (model.predict(test_x, verbose=0).argmax(-1) == test_y).mean()
    assert accuracy == pytest.approx(killing.metrics(trained)[-1]["val_accuracy"])


def test_feedback_carries_the_error_as_the_users_rule_says(folder: Path, trained: Path) -> None:
    forget()
    sys.path.insert(0, str(folder))
    import my_parts

    model = keras.models.load_model(trained / "model.keras", compile=False)
    (x, y), _ = my_parts.two_rings(32)

    def gradient() -> np.ndarray:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(my_parts.smoothed(y, model(x, training=False)))
        return tape.gradient(loss, model.get_layer("second").kernel).numpy()

    before = gradient()
    (pathway,) = [p for p in tfwm.pathways(model) if p.name == "head"]
    assert pathway.rule == my_parts.Damped(gain=0.5)
    pathway.feedback_kernel.assign(3 * pathway.feedback_kernel)
    np.testing.assert_allclose(gradient(), 3 * before, rtol=1e-4, atol=1e-8)
    pathway.feedback_kernel.assign(2 * pathway.kernel)  # half of it is W: backprop
    exact = gradient()
    tfwm.strip_feedback(model)
    np.testing.assert_allclose(exact, gradient(), rtol=1e-4, atol=1e-7)
