"""Takes the picture of the page that the README shows: `python -m ui.screenshot_dev docs/screenshot.png`.

Starts the page on the real host and bricks with conversations of its own, asks in Debian's chromium, and saves what
there is to see. Needs the dev extra (Playwright) and `/usr/bin/chromium`.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mattoni.errors import MattoniError
from mattoni.paths import cache_folder
from ui.examples import FOLDER

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
_PATIENCE_S = 300


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1240)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, served(Path(home)) as address:
        take(address, options.out, options.dark, options.width, options.height)
    print(f"The page is in {options.out}.")


@contextmanager
def served(home: Path) -> Iterator[str]:
    """The page's address while its server runs on conversations of its own and this machine's models."""
    (home / "cache").symlink_to(cache_folder().resolve())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Seeded through the page's address, so that the same bricks give the same picture.
    command = [sys.executable, "-c", f"from ui.launch import launch; launch(port={port})"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"MATTONI_HOME": str(home)})
    address = f"http://127.0.0.1:{port}/?seed=1"
    try:
        _await(address)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def _await(address: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise MattoniError(f"No page at {address} after {_PATIENCE_S} s: try `mattoni ui` and see what it says.")


def take(address: str, out: Path, dark: bool, width: int, height: int) -> None:
    """Ask about a photo and a receipt, open how the second answer came about, and save the page."""
    from playwright.sync_api import Page, expect, sync_playwright

    def ask(page: Page, question: str, picture: str, count: int) -> None:
        page.get_by_test_id("stChatInput").locator("input[type=file]").set_input_files(FOLDER / picture)
        page.get_by_test_id("stChatInput").get_by_text(picture).wait_for()
        box.fill(question)
        expect(page.get_by_test_id("stChatInputSubmitButton")).to_be_enabled()
        box.press("Enter")
        expect(page.get_by_text("How this answer came about")).to_have_count(count)

    expect.set_options(timeout=_PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_FLAGS)
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            device_scale_factor=1.5,
        )
        page.set_default_timeout(_PATIENCE_S * 1000)
        page.goto(address)
        box = page.get_by_test_id("stChatInputTextArea")
        expect(box).to_be_enabled()
        ask(page, "What is in the picture?", "orange.jpg", 1)
        expect(box).to_be_enabled()
        ask(page, "What is the total?", "receipt.png", 2)
        expect(box).to_be_enabled()
        page.get_by_text("How this answer came about").last.click()
        page.get_by_text("Save as JSON").wait_for()
        page.wait_for_timeout(2000)
        page.get_by_text("Save as JSON").scroll_into_view_if_needed()
        page.mouse.move(width - 5, height // 2)
        page.wait_for_timeout(1000)
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main()
