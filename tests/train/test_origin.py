"""Where a run comes from, as setup.json says it."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from train.config import FitConfig, Part
from train.devices.cluster import notes_of
from train.parts.named import code_hash, import_all
from train.run import files
from train.run.directory import RunDirectory


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_changes_are_those_of_the_clone_itself(tmp_path: Path) -> None:
    inside = tmp_path / "copy"
    inside.mkdir()
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = {"commit": git(tmp_path, "rev-parse", "HEAD")}
    assert files.code(tmp_path) == {**commit, "uncommitted_changes": False}
    assert files.code(inside) == {}  # a copy in somebody else's clone
    files.code.cache_clear()
    (tmp_path / "file").write_text("b")
    assert files.code(tmp_path) == {**commit, "uncommitted_changes": True}


def test_setup_says_the_command_of_every_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path)
    for seed in (0, 1):
        monkeypatch.setattr(sys, "argv", ["/clone/train/__main__.py", "fit", f"--seed={seed}"])
        written = files.RunFiles(directory, FitConfig(), {"replicas": 1})
        written.set_model(keras.Sequential())
        written.on_train_begin()
        written.on_train_begin()  # after a rollback
    setup = json.loads(directory.setup_file.read_text())
    commands = [start["command"] for start in setup["starts"]]
    assert commands == [f"python -m train fit --seed={seed}" for seed in (0, 1)]
    assert all(start["date"].endswith("+00:00") for start in setup["starts"])
    assert setup["replicas"] == 1


def test_a_start_with_other_code_of_the_users_own_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_net").mkdir()
    (tmp_path / "own_net" / "__init__.py").write_text("")
    (tmp_path / "own_rule.py").write_text("")
    config = FitConfig(
        model=Part("own_net.nets:make"),
        phases=({"feedback": {"rule": "own_rule:Mine"}},),
        import_from=(str(tmp_path),),
    )
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()

    def started() -> tuple[dict[str, str], str]:
        written = files.RunFiles(directory, config, {})
        written.set_model(keras.Sequential())
        written.on_train_begin()
        starts = json.loads(directory.setup_file.read_text())["starts"]
        return starts[-1]["own_code"], capsys.readouterr().out

    first, said = started()
    assert (list(first), said) == (["own_net", "own_rule"], "")
    (tmp_path / "own_net" / "helper.py").write_text("units = 3\n")  # below the same package
    second, said = started()
    assert second["own_net"] != first["own_net"]
    assert second["own_rule"] == first["own_rule"]
    assert said.startswith("own_net: not the code of the run's last start.")
    assert started() == (second, "")
    assert notes_of(config)["the code of own_net"] == second["own_net"]
    assert (code_hash("sys"), code_hash("not_there")) == ("", "")
    for starts in ('[3, "a"]', '"abc"', "[]", '[{"own_code": 3}]'):  # as somebody may edit them
        directory.setup_file.write_text(f'{{"starts": {starts}}}')
        assert started() == (second, "")


def test_a_file_that_is_moved_within_a_package_is_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "of_two_files"
    (package / "below").mkdir(parents=True)
    for file in ("__init__.py", "layers.py"):
        (package / file).write_text("")
    before = code_hash("of_two_files")
    (package / "layers.py").rename(package / "below" / "layers.py")
    assert code_hash("of_two_files") != before


def test_a_module_that_only_a_phase_names_is_imported_for_a_saved_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "rule_of_a_phase.py").write_text("class Mine: pass\n")
    phases = ({"feedback": {"rule": "rule_of_a_phase:Mine"}},)
    import_all(FitConfig(phases=phases, import_from=(str(tmp_path),)))
    assert sys.modules.pop("rule_of_a_phase").Mine


def test_hardware_has_the_devices_that_tensorflow_sees() -> None:
    found = files.hardware()
    assert "CPU" in found["devices"]
    assert found["cpus"] >= 1
    assert found["processor"]
