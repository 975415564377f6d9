"""MkDocs hooks: what stands outside docs/ joins the site, and the site needs no network.

Pages link to each other by their places in the repository, so that they can be read there, too.
`README.md` is the site's first page, a file of docs/ keeps its place below it, and a file of
another folder stands under the folder's name.
"""

from __future__ import annotations

import ast
import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BROUGHT = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "train/data/digits/README.md",
    "reports/**/*.md",
    "reports/**/*.png",
    "reports/**/*.csv",
)
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def anchor(heading: str, separator: str = "-") -> str:
    """The anchor that GitHub gives to a heading, so that one link serves both."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def site_uri(path: str) -> str:
    """Where the site has a file of the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def on_config(config: MkDocsConfig) -> None:
    config.mdx_configs["toc"]["slugify"] = anchor


def on_files(files: Files, config: MkDocsConfig) -> None:
    from mkdocs.structure.files import File

    brought = {path for pattern in BROUGHT for path in ROOT.glob(pattern)}
    for path in [ROOT / "README.md", *sorted(brought)]:
        uri = site_uri(path.relative_to(ROOT).as_posix())
        files.append(File.generated(config, uri, abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = Path(page.file.abs_src_path or "").relative_to(ROOT).as_posix()
    uri = page.file.src_uri

    def link_of_the_site(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return posixpath.relpath(site_uri(target), posixpath.dirname(uri) or ".")

    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(link_of_the_site, part) for part in parts[::2]]
    # All reports have one heading.
    return "".join(parts).replace("# Report on runs\n", f"# Report: {page.title}\n", 1)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    # GitHub wants a bar in a table's code as \|, Python-Markdown as it is.
    html = re.sub(r"<td.*?</td>", lambda cell: cell[0].replace(r"\|", "|"), html, flags=re.DOTALL)
    # A figure opens at its full size, which a narrow page cannot show.
    return re.sub(r'(<img [^>]*src="([^"]+)"[^>]*>)', r'<a href="\2">\1</a>', html)


class _Html(HTMLParser):
    """What a page loads, and the anchors that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.anchors.add(attributes.get("id", ""))
        if tag == "link" and attributes.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(attributes.get("href", ""))
        elif "src" in attributes:
            self.loads.append(attributes["src"])


def on_post_build(config: MkDocsConfig) -> None:
    from mkdocs.exceptions import PluginError

    if wrong := faults(Path(config.site_dir), public_names()):
        raise PluginError("\n".join(wrong))


def faults(site: Path, names: set[str]) -> list[str]:
    """What a built site loads from the network, and which of `names` no page has an anchor for."""
    found = []
    for file in sorted(site.rglob("*.html")):
        page = _Html()
        page.feed(file.read_text())
        names = names - page.anchors
        found += [f"{file.name} loads {url}" for url in page.loads if _leaves(url)]
    for file in sorted(site.rglob("*.css")):
        urls = re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", file.read_text())
        found += [f"{file.name} loads {url}" for url in urls if _leaves(url)]
    return found + [f"No page of the API has {name}" for name in sorted(names)]


def _leaves(url: str) -> bool:
    return url.startswith(("http:", "https:", "//"))


def public_names() -> set[str]:
    """All public names of the library, with the module whose `__all__` has them."""
    names = set()
    for file in (ROOT / "tfweightmirror").rglob("__init__.py"):
        module = ".".join(file.parent.relative_to(ROOT).parts)
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names |= {f"{module}.{name}" for name in ast.literal_eval(node.value)}
    return names
