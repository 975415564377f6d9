"""Runs the tutorials and writes them as pages with their outputs: `python -m tools.tutorials`.

Each `docs/tutorials/<name>.py` is run from its first cell to its last in a new kernel, and becomes
`<name>.md` beside it, with its pictures in `<name>_files/`. These are committed, so that whoever
reads the repository or builds the site needs no TensorFlow. Markdown, and not MkDocs' plugin for
notebooks, because MkDocs then checks and rewrites links as on every other page, and a page loads no
script from elsewhere.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbconvert

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
SECONDS_A_CELL = 1200
START_UP = re.compile(
    r"^(WARNING: All log messages before absl|[IWE]\d{4} \d\d:).*\n", re.MULTILINE
)
"""What TensorFlow's libraries say of the machine as they are loaded."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def main(arguments: list[str] | None = None) -> int:
    known = sorted(file.stem for file in TUTORIALS.glob("*.py"))
    parser = argparse.ArgumentParser(prog="python -m tools.tutorials", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    names = parser.parse_args(arguments).names
    for name in names:
        if name not in known:
            parser.error(f"there is no tutorial {name}. Expected {', '.join(known)}.")
    for name in names or known:
        begin_s = time.perf_counter()
        try:
            page = render(TUTORIALS / f"{name}.py")
        except nbclient.exceptions.CellExecutionError as error:
            print(
                f"error: the tutorial {name} failed.\n{ANSI.sub('', str(error))}", file=sys.stderr
            )
            return 1
        print(f"{page.relative_to(ROOT)}  {time.perf_counter() - begin_s:.0f} s", flush=True)
    return 0


def render(source: Path) -> Path:
    """The page of a tutorial, whose cells see the repository as a script run from its root does.

    Raises:
        CellExecutionError: A cell failed. No page is written, and an older one is gone.
    """
    page, pictures = source.with_suffix(".md"), source.with_name(f"{source.stem}_files")
    page.unlink(missing_ok=True)
    shutil.rmtree(pictures, ignore_errors=True)
    notebook = jupytext.read(source)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow says the rest of it only below this
    nbclient.NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        coalesce_streams=True,
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()
    _leave_out_start_up(notebook)
    names = {"unique_key": source.stem, "output_files_dir": pictures.name}
    text, resources = nbconvert.MarkdownExporter().from_notebook_node(notebook, names)
    for name, content in resources["outputs"].items():
        file = source.parent / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    page.write_text(re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE))
    return page


def _leave_out_start_up(notebook: Any) -> None:
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                output.text = START_UP.sub("", output.text)
        cell.outputs = [output for output in cell.outputs if output.get("text") != ""]


if __name__ == "__main__":
    sys.exit(main())
