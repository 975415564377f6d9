"""A headless Chromium, and a TensorBoard to look at with it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1400,1000",
)

# Everything on the page, shadow roots included, in the order in which it is seen.
EVERYTHING = """
const found = [];
const visit = (node) => {
  for (const child of node.children) {
    found.push(child);
    if (child.shadowRoot) visit(child.shadowRoot);
    visit(child);
  }
};
visit(document);
const textOf = (node) => {
  if (node.nodeType === Node.TEXT_NODE) return node.textContent;
  if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.tagName)) return "";
  const inside = node.shadowRoot ? [...node.shadowRoot.childNodes] : [];
  return [...inside, ...node.childNodes].map(textOf).join(" ");
};
"""


def missing() -> str | None:
    """What keeps the browser tests from running; None if nothing does."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: pip install -e '.[browser]'"
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install chromium chromium-driver"
    return None


class Page:
    """What a reader of a page sees."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self, tab: str) -> None:
        """Opens a tab of TensorBoard afresh."""
        self.driver.get("about:blank")  # a new fragment alone would load nothing
        self.driver.get(f"{self.address}/#{tab}")

    def run(self, script: str, *arguments: Any) -> Any:
        """A script in which `found` lists every element, shadow roots' included."""
        return self.driver.execute_script(f"{EVERYTHING}\n{script}", *arguments)

    def texts(self, selector: str) -> list[str]:
        """The texts of all visible elements that match and all below them."""
        texts = self.run(
            "return found.filter((e) => e.matches(arguments[0]) && e.getClientRects().length)"
            ".map(textOf);",
            selector,
        )
        return [re.sub(r"\s+", " ", text).strip() for text in texts]

    def wait_for(self, what: str, look: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        """The first truthy answer of `look`."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if answer := look():
                return answer
            time.sleep(0.25)
        seen = self.texts("body")
        raise AssertionError(f"no {what} after {timeout_s:g} s; the page says {seen}")

    def screenshot(self, name: str) -> Path | None:
        """Keeps a picture in the folder SCREENSHOT_DIR, if there is one."""
        folder = os.environ.get("SCREENSHOT_DIR")
        if folder is None:
            return None
        path = Path(folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(path))
        return path


@contextmanager
def browser(profile: Path, address: str) -> Iterator[Page]:
    """A new Chromium with a profile of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Page(driver, address)
    finally:
        driver.quit()


@contextmanager
def tensorboard(logdir: Path, log: Path) -> Iterator[str]:
    """The address of a TensorBoard on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("tensorboard")
    with log.open("w") as output:
        server = subprocess.Popen(
            [program, f"--logdir={logdir}", "--host=127.0.0.1", f"--port={port}"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_it_answers(server, address, log)
            yield address
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_until_it_answers(server: Any, address: str, log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            with urlopen(f"{address}/data/runs", timeout=5) as answer:
                if answer.read().strip() not in (b"", b"[]"):
                    return
        except OSError:
            pass
        time.sleep(0.25)
    raise AssertionError(f"TensorBoard shows no run: {log.read_text()}")
