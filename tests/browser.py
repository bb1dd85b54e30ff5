"""A browser for tests of pages: Debian's Chromium without a window, and axe, which checks pages for all readers.

The fixture `browser` of tests/conftest.py starts one Chromium for a module of tests, or skips and says what is missing:
the package `playwright`, the program `chromium`, or axe (`make web`). A test opens a page and asks the `Visit`:

    def test_a_page_is_sound(browser):
        with browser.visit(path.as_uri()) as visit:
            visit.page.click("text=Sort")
            assert visit.errors == [] and visit.requests == [] and visit.axe() == []

Its loop ends with the module, since clients of editors run one of their own. The server of a page listens on the
loopback interface, and `allowed` names its origin.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

AXE = Path(__file__).parent / "web" / "node_modules" / "axe-core" / "axe.min.js"

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
"""Names of the program; any of them will do."""

FLAGS = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

WIDE, NARROW = 1400, 390
"""Widths of a window on a desk and on a telephone, in CSS pixels."""

RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
"""The rules of axe that a page keeps."""


def missing() -> str:
    """What tests of pages need and this machine lacks; empty where nothing is missing."""
    from importlib.util import find_spec

    if find_spec("playwright") is None:
        return "tests of pages need the package playwright"
    if find_chromium() is None:
        return "tests of pages need the program chromium"
    if shutil.which("pdftotext") is None:
        return "tests of pages need the program pdftotext (Debian's poppler-utils)"
    return "" if AXE.exists() else "tests of pages need axe-core: `make web`"


def find_chromium() -> str | None:
    """The path of the browser; None where it is not installed."""
    return next((found for name in CHROMIUM if (found := shutil.which(name))), None)


class Visit(NamedTuple):
    """An open page. ``errors`` are what its console and scripts complained of, ``requests`` what it asked of others."""

    page: Any
    errors: list[str]
    requests: list[str]

    def axe(self, within: str = "") -> list[str]:
        """What axe finds wrong in the page, or within a selector: a line for each rule and its first elements.

        The inside of a picture is left out: to a reader of a screen it is one picture.
        """
        context = {"include": [within or "html"], "exclude": ["svg > *"]}
        found = self.page.evaluate(
            "([context, options]) => axe.run(context, options)",
            [context, {"runOnly": {"type": "tag", "values": list(RULES)}, "resultTypes": ["violations"]}],
        )
        return [
            f"{one['id']}: {one['help']}: " + "; ".join(" ".join(node["target"][:1]) for node in one["nodes"][:3])
            for one in found["violations"]
        ]

    def printed(self, path: Path) -> str:
        """The page printed to a PDF at ``path``; its text, as `pdftotext` reads it."""
        self.page.pdf(path=str(path), format="A4", print_background=True)
        done = subprocess.run(["pdftotext", "-layout", str(path), "-"], check=True, capture_output=True)
        return done.stdout.decode()

    def overflows(self) -> int:
        """By how many pixels the page is wider than its window; a table that scrolls by itself does not count."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def focus_order(self, most: int) -> list[str]:
        """What Tab reaches from the top of the page, in order, at most so many: tag and label of each element."""
        found: list[str] = []
        for _ in range(most):
            self.page.keyboard.press("Tab")
            found.append(
                self.page.evaluate(
                    "(() => { const e = document.activeElement; return e.tagName.toLowerCase() + ' ' +"
                    " (e.getAttribute('aria-label') || e.textContent || '').trim().slice(0, 40) })()"
                )
            )
        return found


class Browser:
    """A running Chromium."""

    def __init__(self, chromium: Any) -> None:
        self.chromium = chromium

    @contextmanager
    def visit(
        self, url: str, *, dark: bool = False, width: int = WIDE, height: int = 900, allowed: tuple[str, ...] = ()
    ) -> Iterator[Visit]:
        """Open ``url`` in a fresh context. Requests to others than ``allowed`` origins are refused and noted."""
        context = self.chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        try:
            context.add_init_script(path=str(AXE))  # before the page's own policy, which admits no other script
            page = context.new_page()
            visit = Visit(page, [], [])

            def route(route: Any) -> None:
                asked = route.request.url
                if asked == url or asked.startswith(allowed):
                    route.continue_()
                else:
                    visit.requests.append(asked)
                    route.abort()

            page.on("console", lambda said: _note(visit, said))
            page.on("pageerror", lambda error: visit.errors.append(str(error)))
            page.route("**/*", route)
            page.goto(url, wait_until="load")
            yield visit
        finally:
            context.close()


def _note(visit: Visit, said: Any) -> None:
    if said.type in ("error", "warning"):
        visit.errors.append(f"{said.type}: {said.text}")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium, and end it."""
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else FLAGS
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=flags)
        try:
            yield Browser(chromium)
        finally:
            chromium.close()
