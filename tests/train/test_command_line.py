"""The command line and its configuration files."""

import dataclasses
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from tests.train import option_list
from train.__main__ import main
from train.config import FitConfig, OptimizerConfig
from train.errors import UserError
from train.parsing.command_line import parse
from train.parsing.config_file import dotted_names, read_config_file
from train.parsing.start_up import load_tensorflow_quietly
from train.parsing.yaml_file import to_yaml

REPOSITORY = Path(__file__).parents[2]


def write(folder: Path, **files: str) -> Path:
    """Writes `name.yaml` for every keyword; the first is returned."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainin: {epochs: 1}", "trainin is not a known key. Did you mean 'training'?"),
        (
            "training: {epoch: 1}",
            "training.epoch is not a known key. Did you mean 'training.epochs'",
        ),
        ("epochs: 3", "epochs is not a known key. Did you mean 'training.epochs'?"),
        ("model: {nane: mlp}", "model.nane is not a known key. Did you mean 'model.name'?"),
        (
            "model: [mlp]",
            "model is ['mlp']. Expected a name, or a table with the keys name, options",
        ),
        ("model: {options: 3}", "model.options is 3. Expected a table, each value a value."),
        ("callbacks: [{name: a, option: {}}]", "callbacks[0] is {'name': 'a', 'option': {}}."),
        ("seed: 1\nseed: 2", "is not YAML at line 2: the key 'seed' comes twice."),
        ("cluster: {index: 0}", "cluster.index is given without cluster.workers"),
        ("zzz: 1", "zzz is not a known key. Expected one of seed, run_directory, strategy"),
        ("training: {epochs: x}", "training.epochs is 'x'. Expected a whole number or null."),
        ("training: {epochs: 2.5}", "training.epochs is 2.5. Expected a whole number or null."),
        (
            "training: {epochs: null}",
            "training.epochs is None and training.steps None. Expected one",
        ),
        ("training: {jit_compile: 1}", "training.jit_compile is 1. Expected true or false."),
        ("training: 3", "training is 3. Expected a table with the keys epochs, steps"),
        ("data: {name: 5}", "data.name is 5. Expected a text."),
        ("optimizer: {weight_decay: a}", "is 'a'. Expected a number or null."),
        ("cluster: {workers: [1, 2]}", "Expected a list, each entry a text."),
        ("feedback: {layers: {head: 1}}", "feedback.layers.head is 1. Expected a name or a table"),
        ("training: {precision: float3}", "mixed_float16. Did you mean 'float32'?"),
        ("a: [", "is not YAML at line 1"),
        ("- 1", "holds [1]. Expected a table of keys and values."),
        ("base: nowhere.yaml", "nowhere.yaml, the base of"),
        ("base: 3", "base is 3. Expected the path of a YAML file."),
        ("base: wrong.yaml", "base wrong.yaml leads back to itself."),
    ],
)
def test_mistake_in_a_file_is_told_with_the_files_name(
    tmp_path: Path, text: str, expected: str
) -> None:
    file = write(tmp_path, wrong=text)
    with pytest.raises(UserError) as caught:
        parse(["fit", f"--config={file}"])
    assert expected in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--training.epoch=3"],
            "training.epoch is not a known key. Did you mean 'training.epochs'?",
        ),
        (["--epochs", "3"], "epochs is not a known key. Did you mean 'training.epochs'?"),
        (["--training=3"], "training is '3'. Expected a table with the keys epochs, steps,"),
        (["--training.epochs=x"], "training.epochs is 'x'. Expected a whole number or null."),
        (["--training.epochs", "x"], "training.epochs is 'x'. Expected a whole number or null."),
        (["--seed=null"], "seed is 'null'. Expected a whole number."),
        (
            ["--mirror.noise=gaussian"],
            "mirror.noise is given, but no layer learns by",
        ),
        (["--cluster.workers=[1,2]"], "cluster.workers is '[1,2]'. Expected a list"),
        (["--training.epochs"], "training.epochs has no value. Expected a whole number or null."),
        (["--seed=-1"], "seed is -1. Expected 0 to 4294967295."),
        (["extra"], "unrecognized arguments: extra"),
        (["--config=nowhere.yaml"], "nowhere.yaml cannot be read: No such file or directory."),
        (["--training.epochs=0"], "training.epochs has the value 0. Expected 1 or more."),
        (["--optimizer.learning_rate=-1"], "optimizer.learning_rate is -1.0. Expected a number"),
        (["--optimizer.weight_decay=-1"], "optimizer.weight_decay is -1.0. Expected null, 0 or"),
    ],
)
def test_mistake_on_the_command_line_is_told_in_one_sentence(
    arguments: list[str], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse(["fit", *arguments])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_command_ends_with_an_error_and_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fi"]) == 2
    streams = capsys.readouterr()
    assert streams.err.startswith("error: ")
    assert "'fit'" in streams.err
    assert "Traceback" not in streams.err


def test_override_wins_over_the_file_wherever_it_stands(tmp_path: Path) -> None:
    file = write(tmp_path, a="training: {epochs: 3, batch_size: 7}")
    before, _ = parse(["fit", "--training.epochs=5", "--config", str(file)])
    after, _ = parse(["fit", "--config", str(file), "--training.epochs", "5"])
    assert before == after
    assert (after.training.epochs, after.training.batch_size) == (5, 7)


def test_file_says_only_how_it_differs_from_the_chain_of_its_bases(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(
        tmp_path,
        root="{seed: 4, optimizer: {learning_rate: 1e-3, options: {momentum: 0.9}}}",
        middle="{base: root.yaml, training: {epochs: 9}, seed: 5}",
    )
    leaf = write(
        tmp_path / "below",
        leaf="{base: ../middle.yaml, optimizer: {options: {nesterov: true}}}",
    )
    config, _ = parse(["fit", f"--config={leaf}", "--optimizer.options.momentum=0.8"])
    assert config == FitConfig(
        seed=5,
        optimizer=OptimizerConfig(learning_rate=1e-3, options={"momentum": 0.8, "nesterov": True}),
        training=dataclasses.replace(FitConfig().training, epochs=9),
    )


def test_printed_config_read_back_prints_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--seed=3",
        "--feedback.layers.conv_*=fa",
        "--model=mlp",
        "--optimizer.weight_decay=1e-5",
    ]
    assert main(["fit", *arguments, "--print_config"]) == 0
    printed = capsys.readouterr().out
    file = write(tmp_path, printed=printed)
    assert main(["fit", "--print_config", "--config", str(file)]) == 0
    assert capsys.readouterr().out == printed
    assert yaml.safe_load(printed)["feedback"]["layers"] == {
        "conv_*": {"name": "feedback_alignment", "options": {}}
    }


def test_printed_config_holds_every_value() -> None:
    assert yaml.safe_load(to_yaml(FitConfig())).keys() == {
        field.name for field in dataclasses.fields(FitConfig)
    }


def test_printed_config_explains_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--print_config", "--optimizer.weight_decay=1e-5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines)
    keys = [number for number, line in enumerate(lines) if not line.lstrip().startswith("#")]
    assert len(keys) == len(dotted_names()) + len(tables(FitConfig))
    assert all(lines[number - 1].lstrip().startswith("# ") for number in keys)
    assert "  # Images in a training batch, over all replicas of all workers." in lines
    assert yaml.safe_load("\n".join(lines))["optimizer"]["weight_decay"] == 1e-5


def tables(config_class: type) -> list[type]:
    """All dataclasses below one."""
    below = [h for h in typing.get_type_hints(config_class).values() if dataclasses.is_dataclass(h)]
    return [*below, *(table for one in below for table in tables(one))]


def test_options_are_those_of_the_list() -> None:
    assert option_list.FILE.read_text() == option_list.text(), (
        "The options of `python -m train fit` have changed. If that is meant: run `python -m "
        "tests.train.option_list`, look at the diff of tests/train/option_list.txt, and tell users "
        "in CHANGELOG.md."
    )


def test_text_alone_is_the_name_in_a_file_as_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("{data: mnist, optimizer: adam, model: mlp, feedback: {rule: fa}}")
    keys = ["--data=mnist", "--optimizer=adam", "--model=mlp", "--feedback.rule=fa"]
    assert parse(["fit", f"--config={file}"]) == parse(["fit", *keys])


def test_help_names_every_table_and_its_units(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Images in a training batch, over all replicas of all workers." in text
    assert "--mirror.warm_up_steps" in text
    assert "Path to a configuration file" not in text


def test_help_configuration_and_refusals_come_without_tensorflow() -> None:
    """Half a second each; TensorFlow takes four to load."""
    code = """
import contextlib, sys
sys.modules.update({"tensorflow": None, "keras": None})
from train.__main__ import main
lines = ["--help", "fit --help", "list --help", "fit --print_config --model=mlp", "fit --epochz=3",
         "fit --training.epochs=x", "fit --seed=-1", "sweep --grid model.nam=3"]
for line in lines:
    with contextlib.suppress(SystemExit):
        assert main(line.split()) in (0, 2), line
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("error: command line: ") == 4


def test_missing_packages_are_told_with_the_command_that_installs_them() -> None:
    code = """
import sys
sys.modules["jsonargparse"] = None
from train.__main__ import main
sys.exit(main(["fit"]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: The Python package jsonargparse is not installed, which the launcher needs. "
        "Expected its packages: pip install -e '.[train]', in the clone.\n"
    )


def test_pipe_that_nobody_reads_ends_the_command_without_a_word() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    line = [sys.executable, "-m", "train", "fit", "--print_config"]
    ended = subprocess.run(
        line, cwd=REPOSITORY, stdout=writes, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_launcher_chooses_keras_own_backend_for_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    load_tensorflow_quietly()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


@pytest.mark.parametrize("file", sorted((REPOSITORY / "configs").rglob("*.yaml")), ids=str)
def test_every_config_of_the_repository_is_read(file: Path) -> None:
    assert read_config_file(file)
    assert file.read_text().startswith("#"), "a config's head says what it produces"


def test_a_table_on_the_command_line_is_one_as_in_a_file() -> None:
    given = parse(
        [
            "fit",
            "--feedback.rule={name: urfb, options: {epsilon: 0.5}}",
            "--optimizer={name: adam, learning_rate: 1e-3, options: {beta_1: 0.8}}",
            "--training={epochs: 3}",
        ]
    )
    apart = parse(
        [
            "fit",
            *("--feedback.rule=urfb", "--feedback.rule.options.epsilon=0.5"),
            *("--optimizer=adam", "--optimizer.learning_rate=1e-3"),
            *("--optimizer.options.beta_1=0.8", "--training.epochs=3"),
        ]
    )
    assert given == apart
    with pytest.raises(UserError, match=r"line: training.epoch is not a known key. Did you mean"):
        parse(["fit", "--training={epoch: 3}"])
