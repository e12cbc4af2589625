"""HTML pages as a parser sees them, and as a real browser leaves them."""

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = """--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --enable-logging=stderr --dump-dom""".split()  # noqa: SIM905

Browse = Callable[..., tuple[str, str]]


class Outline(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def count(self, tag: str) -> int:
        return len(self.of(tag))


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """browse(page, fragment="") → the page as Chromium leaves it after its script has run, and what it logged."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")

    def run(page: Path, fragment: str = "") -> tuple[str, str]:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"{page.as_uri()}#{fragment}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    return run


def shown_prompts(dom: str) -> list[str]:
    """The prompts of the cards that are not hidden."""
    cards = re.findall(r'<article class="card"([^>]*)>\s*<h3 class="prompt">(.*?)</h3>', dom, re.DOTALL)
    return [prompt for attributes, prompt in cards if "hidden" not in attributes]
