"""What tests of pages lean on finds what is wrong with a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import NARROW, Browser

pytestmark = pytest.mark.extras

SOUND = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sound</title>
<style>body { color: #111; background: #fff }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #111 } }</style></head><body>
<main><h1>Sound</h1><button>Press</button> <button aria-label="2 times">2</button></main></body></html>"""

WRONG = """<!doctype html><html><head><meta charset="utf-8"><title>Wrong</title></head><body>
<main><h1>Wrong</h1><img src="https://pictures.invalid/a.png"><div style="width: 2000px">wide</div>
<script>console.error("a complaint"); undefined.name</script></main></body></html>"""


def test_a_sound_page_has_no_findings(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "sound.html"
    path.write_text(SOUND)
    with browser.visit(path.as_uri(), dark=True, width=NARROW) as visit:
        assert (visit.errors, visit.requests, visit.axe(), visit.overflows()) == ([], [], [], 0)
        assert visit.focus_order(2) == ["button Press", "button 2 times"]
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 17, 17)"
        assert "Sound" in visit.printed(tmp_path / "sound.pdf")


def test_each_fault_of_a_page_is_found(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "wrong.html"
    path.write_text(WRONG)
    with browser.visit(path.as_uri()) as visit:
        assert visit.requests == ["https://pictures.invalid/a.png"]
        assert any("a complaint" in error for error in visit.errors)
        assert any("undefined" in error for error in visit.errors)
        assert {line.partition(":")[0] for line in visit.axe()} == {"html-has-lang", "image-alt"}
        assert visit.overflows() > 500
