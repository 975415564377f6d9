"""Several runs of one command: seeds, sweeps, and what ends them."""

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml

from train.__main__ import main
from train.commands import runs
from train.commands.sweep import cut, scored
from train.errors import DivergedError, TerminatedError, UserError
from train.parsing.command_line import Command, parse, read_command
from train.run.directory import RunDirectory
from train.run.fit import fit

TINY = [
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--model=mlp",
    "--model.options.units=[8]",
    "--training.epochs=1",
    "--training.progress=none",
]


def last_line(directory: Path) -> dict[str, float]:
    return RunDirectory(directory).metrics()[-1]


def in_this_process(
    some: Mapping[str, Command], *, at_once: int, diverged: Callable[[str], None] | None = None
) -> None:
    for title, run in some.items():
        if RunDirectory.finished(run.config):
            print("nothing to do")
            continue
        try:
            fit(run.config)
        except DivergedError:
            assert diverged is not None
            diverged(title)


@pytest.mark.slow
@pytest.mark.always
def test_every_seed_is_trained_once_and_told_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "train_all", in_this_process)
    command = ["fit", *TINY, f"--run_directory={tmp_path}", "--seeds"]
    assert main([*command, "3"]) == 0
    capsys.readouterr()
    assert main([*command, "3,4"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("nothing to do") == 1
    three, four = (last_line(tmp_path / f"seed_{seed}") for seed in (3, 4))
    assert four["loss"] != pytest.approx(three["loss"], rel=1e-5)
    mean = np.mean([three["val_accuracy"], four["val_accuracy"]])
    assert f"test accuracy of 2 seeds: mean {mean:.4f}, standard error " in shown
    folders = [f"{tmp_path}/seed_3", f"{tmp_path}/seed_4"]
    assert f"seed 3: {folders[0]}\nseed 4: {folders[1]}\n" in shown
    # The last line is a command that makes one row of them.
    command = shlex.split(shown.splitlines()[-1].removeprefix("next:  python -m train "))
    assert command == ["report", *folders, "--out", f"{tmp_path}/report"]
    assert main(command) == 0
    assert re.search(r"backprop +2 +1 ", capsys.readouterr().out)


@pytest.mark.slow
def test_seed_is_trained_in_a_process_of_its_own_and_not_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *TINY, "--seed=4", f"--run_directory={tmp_path / 'alone'}"]) == 0
    command = ["fit", *TINY, f"--run_directory={tmp_path / 'run'}", "--seeds", "3,4", "--jobs=2"]
    for finished in (0, 2):
        capsys.readouterr()
        assert main(command) == 0
        assert capsys.readouterr().out.count(": nothing to do") == finished
    four = last_line(tmp_path / "run" / "seed_4")
    assert four["loss"] == pytest.approx(last_line(tmp_path / "alone")["loss"], rel=1e-5)


def test_run_is_the_launcher_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    unknown = Command("fit", keys=("--sed=1",), config=parse(["fit", *TINY])[0])
    with pytest.raises(UserError, match=r"^command line: sed is not a known key\."):
        runs.train_all({"wrong": unknown})


def sweep_command(folder: Path, rates: str) -> list[str]:
    grid = [f"--grid=optimizer.learning_rate={rates}", "--grid", "model.options.units=[8,8]"]
    return ["sweep", *TINY, *grid, f"--run_directory={folder}"]


@pytest.mark.slow
@pytest.mark.always
def test_sweep_chooses_on_training_images_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.commands.sweep.train_all", in_this_process)
    folder = tmp_path / "sweep"
    assert main(sweep_command(folder, "0.05,1e30")) == 0
    shown = capsys.readouterr().out
    result = json.loads((folder / "sweep.json").read_text())
    run = folder / "optimizer.learning_rate=0.05,model.options.units=[8,8]" / "seed_0"
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert (data["train_split"], data["test_split"]) == ("train[:230]", "train[230:256]")
    values = {"optimizer.learning_rate": "0.05", "model.options.units": "[8,8]"}
    score = {"mean": pytest.approx(last_line(run)["val_accuracy"]), "standard_error": None}
    assert result["cells"][0] == {"values": values, **score}
    assert result["cells"][1]["mean"] is None
    assert result["chosen"] == values
    for sentence in ("<- chosen", result["command"]):
        assert sentence in shown
    config, _ = parse(shlex.split(result["command"])[3:])
    assert config.data.train_split == "train[:256]"
    assert config.data.test_split == "test[:100]"
    # Again: nothing is trained, and the result is the same.
    written = (run / "model.keras").stat().st_mtime_ns
    assert main(sweep_command(folder, "0.05,1e30")) == 0
    again = capsys.readouterr().out
    assert again.count("nothing to do") == 1
    assert again.count("diverged before") == 1
    assert (run / "model.keras").stat().st_mtime_ns == written
    assert json.loads((folder / "sweep.json").read_text()) == result
    # With a smaller grid in the same folder.
    assert main(sweep_command(folder, "0.05")) == 0
    assert len(json.loads((folder / "sweep.json").read_text())["cells"]) == 1


def test_a_key_that_some_points_read_is_taken_where_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {}

    def without_training(points: dict[str, Command], **_: object) -> None:
        trained.update(points)
        for run in points.values():
            folder = Path(str(run.config.run_directory))
            folder.mkdir(parents=True)
            better = run.config.feedback.rule.name == "backprop"
            (folder / "metrics.jsonl").write_text(f'{{"epoch": 1, "val_accuracy": {better:d}}}\n')

    monkeypatch.setattr("train.commands.sweep.train_all", without_training)
    keys = ["--monitor.delta_angles=true", "--mirror.mode=akrout2019"]
    rules = "--grid=feedback.rule=bp,wm,fa"
    assert main(["sweep", *TINY, rules, *keys, f"--run_directory={tmp_path / 'sweep'}"]) == 0
    configs = [run.config for run in trained.values()]
    assert [c.monitor.delta_angles for c in configs] == [False, True, True]
    assert [c.mirror.mode for c in configs] == ["linear", "akrout2019", "linear"]
    # The command for the best point has no key that it does not read.
    _, command = capsys.readouterr().out.rsplit("\n  python -m train ", 1)
    assert "mirror" not in command
    assert "delta" not in command
    assert parse(shlex.split(command))[0].feedback.rule.name == "backprop"


@pytest.mark.parametrize(
    ("split", "share", "expected"),
    [
        ("train", 0.1, ("train[:90%]", "train[90%:]")),
        ("train[:256]", 0.25, ("train[:192]", "train[192:256]")),
        ("train[10%:50%]", 0.1, ("train[10%:46%]", "train[46%:50%]")),
    ],
)
def test_training_split_is_cut_at_its_end(
    split: str, share: float, expected: tuple[str, str]
) -> None:
    assert cut(split, share) == expected


@pytest.mark.parametrize("split", ["train[100:]", "train[-100:]", "train+test", "train[:10%:]"])
def test_split_of_unknown_length_is_not_cut(split: str) -> None:
    with pytest.raises(UserError, match=r"cannot cut\. Expected the name of a whole split"):
        cut(split, 0.1)


def test_scores_are_means_over_seeds_with_their_standard_error() -> None:
    measure, scores = scored([{"val_accuracy": 0.5}, {"val_accuracy": 0.7}, {}, {}], 2)
    assert measure == "val_accuracy"
    assert scores.loc[0].tolist() == pytest.approx([0.6, 0.1])
    assert scores.loc[1].isna().all()  # diverged
    measure, scores = scored([{"val_loss": 0.5}], 1)
    assert measure == "val_loss"
    assert scores.loc[0].tolist() == pytest.approx([0.5, np.nan], nan_ok=True)


def some_runs(count: int, *flags: str) -> dict[str, Command]:
    command = read_command(["fit", *TINY, *flags])
    return {f"seed {seed}": runs.with_keys(command, f"--seed={seed}") for seed in range(count)}


def pretend(patch: pytest.MonkeyPatch, code: str) -> None:
    """Every run is this program instead."""
    patch.setattr(runs, "LAUNCHER", (sys.executable, "-c", f"import os, signal, sys\n{code}"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at_once", [1, 2])
def test_signal_ends_all_runs_at_work_and_starts_no_other(
    number: signal.Signals,
    at_once: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    # Who started the tests in the background may have it ignored.
    before = signal.signal(number, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(number, before))
    pretend(
        monkeypatch,
        f"signal.signal({number:d}, lambda *_: sys.exit({128 + number:d}))\n"
        "open(str(os.getpid()), 'w').close()\n"
        f"if len(os.listdir()) == {at_once}: os.kill(os.getppid(), {number:d})\n"
        "signal.pause()",
    )
    with pytest.raises(TerminatedError) as caught:
        runs.train_all(some_runs(3), at_once=at_once)
    assert caught.value.status == 128 + number
    started = [int(path.name) for path in tmp_path.iterdir()]
    assert len(started) == at_once
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_mistake_of_a_run_is_told_in_its_own_sentence_and_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pretend(
        monkeypatch,
        "if '--seed=1' not in sys.argv: signal.pause()\n"
        "print('by the way', file=sys.stderr)\n"
        "sys.exit('error: command line: the disk is full.')",
    )
    with pytest.raises(UserError, match=r"^command line: the disk is full\.$"):
        runs.train_all(some_runs(3), at_once=2)
    assert "[2] by the way" in capfd.readouterr().out


def test_run_that_diverges_is_noted_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pretend(monkeypatch, "print('error: not finite.', file=sys.stderr); sys.exit(4)")
    noted: list[str] = []
    runs.train_all(some_runs(2), diverged=noted.append)
    assert noted == ["seed 0", "seed 1"]
    assert capsys.readouterr().out.count("diverged: not finite.") == 2
    with pytest.raises(UserError, match=r"^not finite\.$"):
        runs.train_all(some_runs(2))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("os.kill(os.getpid(), 9)", "of seed 0 ended by SIGKILL. SIGKILL mostly means that"),
        ("sys.exit(5)", "of seed 0 ended with status 5. The same command goes on."),
        ("sys.exit(0)", "of seed 0 ended with another configuration: a file has been changed"),
    ],
)
def test_run_that_dies_without_a_word_is_told(
    code: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pretend(monkeypatch, code)
    with pytest.raises(UserError, match=sentence):
        runs.train_all(some_runs(1))


def test_debug_reaches_the_runs_own_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pretend(monkeypatch, "sys.exit('error: ' + ' '.join(sys.argv[2:]))")
    for flags, expected in ((["--debug"], True), ([], False)):
        with pytest.raises(UserError) as caught:
            runs.train_all(some_runs(1, *flags))
        assert ("--debug" in str(caught.value)) is expected
