"""A run opens in TensorBoard, in a real browser, as the picture it is meant to be.

Needs Chromium with its driver and the extra `browser`; `make browser-check` requires them.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import pytest

from tests.browser.page import Page, browser, missing, tensorboard
from train.__main__ import main

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
LAYERS = ("conv_1", "conv_2", "conv_3", "head")
CHART = "tf-custom-scalar-multi-line-chart-card"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training of the quickstart's network under the weight mirror."""
    if reason := missing():
        if os.environ.get("BROWSER_REQUIRED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("runs") / "weight_mirror"
    arguments = ["--config", str(REPOSITORY / "configs/quickstart.yaml"), "--training.epochs=3"]
    arguments += ["--training.progress=none", "--mirror.mode=akrout2019"]
    assert main(["fit", *arguments, f"--run_directory={directory}"]) == 0
    return directory


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("browser")
    with (
        tensorboard(run.parent, folder / "log") as address,
        browser(folder / "profile", address) as page,
    ):
        yield page


def charts(page: Page) -> dict[str, str]:
    """Title to all that a chart says."""
    return {text.split(" ")[0]: text for text in page.texts(CHART) if text}


def test_custom_scalars_have_a_chart_a_measure_with_all_layers(page: Page, run: Path) -> None:
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    measures = list(dict.fromkeys(key.partition("/")[0] for key in last if "/" in key))
    assert {"weight_angle", "norm_ratio", "weight_angle_before_mirror"} <= set(measures)
    page.open("custom_scalars")
    page.wait_for("chart with four lines", lambda: "Matches (4)" in " ".join(page.texts(CHART)))
    for measure in measures:
        lines = [f"{measure}/{layer} (weight_mirror/events)" for layer in LAYERS]
        page.wait_for(
            f"chart {measure} with all layers",
            lambda measure=measure, lines=lines: all(
                line in charts(page).get(measure, "") for line in lines
            ),
        )
    assert set(charts(page)) == set(measures)
    drawn = "return found.filter((e) => e.matches('vz-line-chart2')).map((chart) => [" + (
        "...chart.shadowRoot.querySelectorAll('.line-plot path')"
        "].filter((line) => line.getAttribute('d')).length);"
    )
    # At most one line more a layer: the one that is not smoothed.
    page.wait_for("drawn lines", lambda: all(4 <= n <= 8 for n in page.run(drawn)))
    picture = page.screenshot("custom_scalars")
    if picture is not None:
        assert matplotlib.image.imread(picture).std() > 0.05  # not blank


def test_hparams_have_a_row_of_the_run_with_its_rule_and_scores(page: Page, run: Path) -> None:
    page.open("hparams")
    cells = page.wait_for(
        "row of the run",
        lambda: (
            [c for c in page.texts("vaadin-grid-cell-content") if c if str(run) in c]
            and [c for c in page.texts("vaadin-grid-cell-content") if c]
        ),
    )
    row = cells[cells.index(str(run)) + 1 :]
    assert {"feedback.rule.name", "mirror.mode", "val_accuracy", "weight_angle/head"} <= set(cells)
    assert {"weight_mirror", "akrout2019", "small_conv"} <= set(row)
    page.screenshot("hparams")


def test_text_is_the_configuration_in_a_code_block(page: Page) -> None:
    page.open("text")
    (code,) = page.wait_for("code block", lambda: [t for t in page.texts("pre") if t])
    assert code.startswith("seed: 0 run_directory: ")
    assert "feedback: rule: name: weight_mirror options: {} " in code


def test_images_show_feedback_against_forward_weights(page: Page) -> None:
    page.open("images")
    loaded = (
        "return found.filter((e) => e.matches('tf-image-loader'))"
        ".flatMap((e) => [...e.shadowRoot.querySelectorAll('img')]).map((i) => i.naturalWidth);"
    )
    widths = page.wait_for("image", lambda: [width for width in page.run(loaded) if width])
    assert widths == [4 * 216]  # a panel a layer
    page.screenshot("images")
