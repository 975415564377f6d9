"""The documentation's pages fit a phone and a desk, and their search works on a folder of files.

Needs Chromium with its driver and the extras `browser` and `docs`; `make browser-check` requires
them.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.page import Page, browser, missing

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
# What reaches beyond the right edge, and lies in nothing that scrolls.
TOO_WIDE = """
const scrolls = (e) => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX)
  || scrolls(e.parentElement));
return found.filter((e) => e.closest('.md-content') && !scrolls(e.parentElement)
  && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80));
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = missing()
    if importlib.util.find_spec("mkdocs") is None:
        reason = "mkdocs is not installed: pip install -e '.[docs]'"
    if reason:
        if os.environ.get("BROWSER_REQUIRED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    subprocess.run([*build, "--site-dir", folder], cwd=REPOSITORY, check=True)
    return folder


@pytest.fixture(scope="module")
def page(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser"), site.as_uri()) as page:
        yield page


def resize(page: Page, width: int) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )


@pytest.mark.parametrize("width", [400, 1400])
def test_no_page_is_wider_than_its_window(page: Page, site: Path, width: int) -> None:
    resize(page, width)
    pages = [file for file in sorted(site.rglob("*.html")) if file.name != "404.html"]
    assert len(pages) > 40
    for file in pages:
        page.driver.get(file.as_uri())
        assert page.run("return document.documentElement.scrollWidth") <= width, file.name
        assert page.run(TOO_WIDE) == [], file.name
        page.screenshot(f"{file.relative_to(site).with_suffix('').as_posix()}_{width}")


def test_every_picture_of_a_page_is_there(page: Page, site: Path) -> None:
    pictures = 0
    for file in sorted(site.rglob("*.html")):
        if "<img" in file.read_text() and file.name != "404.html":
            page.driver.get(file.as_uri())
            shown = page.run(
                "return [...document.images].map((i) => [i.getAttribute('src'), i.naturalWidth]);"
            )
            assert [src for src, width in shown if not width] == [], file.name
            pictures += len(shown)
    assert pictures > 20


def test_search_works_without_a_server(page: Page) -> None:
    resize(page, 1400)
    page.driver.get(f"{page.address}/index.html")
    page.run(
        "const field = document.querySelector('.md-search__input');"
        "document.querySelector('#__search').click(); field.focus(); field.value = 'kurtosis';"
        "field.dispatchEvent(new Event('input', {bubbles: true}));"
        "field.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true}));"
    )
    page.wait_for(
        "page about kurtosis",
        lambda: any("kurtosis" in t for t in page.texts(".md-search-result__item")),
    )
