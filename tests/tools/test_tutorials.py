"""`python -m tools.tutorials` makes pages of tutorials."""

from pathlib import Path

import pytest

tutorials = pytest.importorskip("tools.tutorials", reason="the extra 'docs' is not installed")

SOURCE = """
# %% [markdown]
# # A page
# See [science](../science.md).

# %%
import sys
import matplotlib.pyplot as plt
from train.config import DataConfig
print(DataConfig(name="digits").name.upper())
print("I0000 00:00:1 stub.cc:31] Could not find it.", file=sys.stderr)
print("a warning", file=sys.stderr)
plt.plot([1, 2])
plt.show()
"""


def test_page_has_text_code_output_and_picture(tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text(SOURCE)
    page = tutorials.render(tmp_path / "short.py")
    assert page == tmp_path / "short.md"
    text = page.read_text()
    assert "# A page\nSee [science](../science.md)." in text
    assert 'print(DataConfig(name="digits")' in text
    assert "    DIGITS\n" in text
    assert "    a warning\n" in text
    assert "    I0000" not in text
    (picture,) = (tmp_path / "short_files").iterdir()
    assert f"(short_files/{picture.name})" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_failed_assertion_fails_the_command_and_leaves_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tutorials, "TUTORIALS", tmp_path)
    (tmp_path / "wrong.py").write_text("# %%\nassert 1 > 2\n")
    (tmp_path / "wrong.md").write_text("of an earlier run")
    assert tutorials.main([]) == 1
    assert "the tutorial wrong failed" in capsys.readouterr().err
    assert not (tmp_path / "wrong.md").exists()


def test_unknown_name_gets_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tutorials.main(["nosuch"])
    assert "there is no tutorial nosuch. Expected digits" in capsys.readouterr().err
