"""`python -m tools.distribution` refuses distributions that are not as they should be."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.pages import README
from tools import distribution
from tools.distribution import DistributionError, check, ten_lines

OF_WHEEL = ("tfweightmirror/__init__.py", "tfweightmirror/py.typed")
OF_SDIST = ("tfweightmirror/py.typed", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")


def wheel(folder: Path, *names: str) -> Path:
    file = folder / "tfweightmirror-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name in (*names, "tfweightmirror-1.0.dist-info/METADATA"):
            archive.writestr(name, "x")
    return file


def sdist(folder: Path, *names: str) -> Path:
    file = folder / "tfweightmirror-1.0.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(f"tfweightmirror-1.0/{name}")
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    return file


def test_whole_distributions_pass(tmp_path: Path) -> None:
    check(wheel(tmp_path, *OF_WHEEL))
    check(sdist(tmp_path, *OF_SDIST))


@pytest.mark.parametrize("lost", OF_WHEEL)
def test_wheel_that_lacks_a_file_is_refused(tmp_path: Path, lost: str) -> None:
    with pytest.raises(DistributionError, match=f"lacks {lost}"):
        check(wheel(tmp_path, *(name for name in OF_WHEEL if name != lost)))


@pytest.mark.parametrize("lost", OF_SDIST)
def test_sdist_that_lacks_a_file_is_refused(tmp_path: Path, lost: str) -> None:
    with pytest.raises(DistributionError, match=f"lacks {lost}"):
        check(sdist(tmp_path, *(name for name in OF_SDIST if name != lost)))


@pytest.mark.parametrize("strange", ["tests/test_rules.py", "train/data/digits/x", "runs/a/log"])
def test_what_is_of_a_clone_alone_is_refused(tmp_path: Path, strange: str) -> None:
    for file in (wheel(tmp_path, *OF_WHEEL, strange), sdist(tmp_path, *OF_SDIST, strange)):
        with pytest.raises(DistributionError, match=f"holds {strange}"):
            check(file)


def test_large_distribution_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = wheel(tmp_path, *OF_WHEEL)
    monkeypatch.setattr(distribution, "MAX_BYTES", file.stat().st_size)
    with pytest.raises(DistributionError, match=r"bytes\. Expected"):
        check(file)


def test_ten_lines_are_the_readmes_own() -> None:
    code = ten_lines(README.read_text())
    assert "tfwm.convert_model(model" in code
    compile(code, str(README), "exec")
    with pytest.raises(DistributionError, match="no Python block"):
        ten_lines("# Nothing\n")


def test_a_command_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(DistributionError, match=r"failed with status 3[^$]*what it said"):
        distribution._run(["sh", "-c", "echo what it said; exit 3"])
