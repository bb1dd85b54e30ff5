"""Report pages in a browser: every chart is drawn, tables sort, timelines zoom, and every reader is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plandsl.cli import OK, main
from plandsl.driver import compile_text
from tests.browser import NARROW, WIDE, Browser, Visit
from tests.test_report import HOSTILE, SMALL, says, shown

pytestmark = pytest.mark.extras

ROOT = Path(__file__).parents[1]

PAGES = {
    "llama3_70b": "three shardings of one model",
    "traffic/operator": "a load over time, and a requirement that fails",
    "split_llama_3_3_70b": "two pools",
    "search_70b": "searches",
    "clusters/racks": "a cluster",
    "speculate": "guesses ahead",
    "shift_llama_3_3_70b": "two shardings on one cache",
    "long_context": "layers with a state",
    "vision": "a tower",
    "unlike_gpus": "GPUs of two kinds",
}

ENCODER = """
plan texts {
  model = arctic_embed_m, node = h100_1
  workload { input = 512, output = 0, batch = 64 }
}
"""

Pages = Callable[[str], str]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """The address of the page of an example, each written once."""
    folder = tmp_path_factory.mktemp("pages")

    def find(name: str) -> str:
        out = folder / f"{name.replace('/', '-')}.html"
        if not out.exists():
            source = ROOT / "examples" / f"{name}.plan"
            if name == "encoder":
                source = folder / "encoder.plan"
                source.write_text(ENCODER)
            assert main(["report", str(source), "-o", str(out), "--requests", "100"]) == OK
        return out.as_uri()

    return find


def drawn(visit: Visit) -> None:
    """Wait until the page has drawn its last chart."""
    visit.page.wait_for_selector("html[data-drawn]", timeout=120_000)


@pytest.mark.parametrize("name", [*PAGES, "encoder"])
@pytest.mark.parametrize(("dark", "width"), [(False, WIDE), (True, NARROW)], ids=["light wide", "dark narrow"])
def test_every_chart_is_drawn_and_nothing_is_wrong(
    name: str, dark: bool, width: int, browser: Browser, pages: Pages
) -> None:
    with browser.visit(pages(name), dark=dark, width=width) as visit:
        drawn(visit)
        places = visit.page.evaluate(
            "[...document.querySelectorAll('[data-chart]')].map((e) => [e.dataset.chart, e.clientWidth,"
            " e.querySelector('svg') ? e.querySelector('svg').getBoundingClientRect().width : 0,"
            " e.querySelectorAll('svg path, svg rect, svg line').length])"
        )
        assert [chart for chart, room, wide, marks in places if not 100 < wide <= room + 1 or marks < 4] == []
        assert (visit.errors, visit.requests, visit.overflows()) == ([], [], 0)
        assert visit.axe() == []


def test_a_table_sorts_by_mouse_and_by_keyboard(browser: Browser, pages: Pages) -> None:
    with browser.visit(pages("llama3_70b")) as visit:
        page = visit.page

        def column(at: int) -> list[str]:
            found: list[str] = page.evaluate(
                "(at) => [...document.querySelector('.sorting').tBodies[0].rows].map((r) => r.cells[at].dataset.sort)",
                at,
            )
            return found

        page.click(".sorting >> button:has-text('TTFT')")
        falling = [float(value) for value in column(4)]
        assert falling == sorted(falling, reverse=True)
        page.keyboard.press("Enter")
        assert [float(value) for value in column(4)] == sorted(falling)
        heading = page.locator(".sorting th", has_text="TTFT").first
        assert heading.get_attribute("aria-sort") == "ascending"
        page.locator(".sorting >> button:has-text('plan')").first.focus()
        page.keyboard.press("Space")
        assert column(0) == sorted(column(0))
        assert heading.get_attribute("aria-sort") is None


def test_a_timeline_zooms_by_buttons_by_dragging_and_by_the_wheel(browser: Browser, pages: Pages) -> None:
    with browser.visit(pages("llama3_70b")) as visit:
        drawn(visit)
        figure = visit.page.locator("figure.wide").first
        chart = figure.locator(".chart")

        def ticks() -> list[str]:
            return sorted(text for text in chart.locator(".role-axis-label text").all_text_contents() if text.strip())

        whole = ticks()
        button = figure.locator("[data-zoom=in]")
        button.focus()
        visit.page.keyboard.press("Enter")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_timeout(100)
        nearer = ticks()
        assert nearer != whole
        figure.locator("[data-zoom=right]").click()
        visit.page.wait_for_timeout(100)
        moved = ticks()
        assert moved != nearer
        box = chart.bounding_box()
        assert box is not None
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        visit.page.mouse.move(*middle)
        visit.page.mouse.down()
        visit.page.mouse.move(middle[0] + 120, middle[1], steps=4)
        visit.page.mouse.up()
        visit.page.wait_for_timeout(100)
        assert ticks() != moved, "dragging moves"
        figure.locator("[data-zoom=all]").click()
        visit.page.wait_for_timeout(100)
        assert ticks() == whole
        visit.page.mouse.move(*middle)
        visit.page.mouse.wheel(0, -300)
        visit.page.wait_for_timeout(100)
        assert ticks() == whole, "the wheel by itself turns the page"
        assert visit.errors == []


def test_a_bar_of_a_timeline_tells_what_it_is(browser: Browser, pages: Pages) -> None:
    with browser.visit(pages("llama3_70b")) as visit:
        drawn(visit)
        visit.page.locator("figure.wide .mark-rect path").first.hover(force=True)
        tip = visit.page.locator("#vg-tooltip-element")
        tip.wait_for(state="visible")
        assert "takes" in tip.inner_text()


def test_what_is_marked_in_one_plot_of_a_search_is_marked_in_all(browser: Browser, pages: Pages) -> None:
    with browser.visit(pages("search_70b")) as visit:
        drawn(visit)
        chart = visit.page.locator("[data-chart=search-interactive-scatter]")
        chart.scroll_into_view_if_needed()

        def faded() -> list[int]:
            groups: list[int] = chart.evaluate(
                "(e) => ['by_tpot', 'by_ttft', 'by_memory'].map((n) => [...e.querySelectorAll(`.${n}_marks path`)]"
                ".filter((p) => (p.getAttribute('fill') || '').startsWith('#9aa5b1')).length)"
            )
            return groups

        assert sum(faded()) == 0
        box = chart.locator("svg").bounding_box()
        assert box is not None
        visit.page.mouse.move(box["x"] + 60, box["y"] + 60)
        visit.page.mouse.down()
        visit.page.mouse.move(box["x"] + 180, box["y"] + 220, steps=5)
        visit.page.mouse.up()
        visit.page.wait_for_timeout(200)
        by_tpot, by_ttft, by_memory = faded()
        assert 0 < by_tpot == by_ttft == by_memory
        visit.page.locator("select").first.select_option(index=1)
        assert visit.errors == []


def test_a_hostile_plan_runs_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(says(shown(compile_text(SMALL)[0]), HOSTILE), "utf-8")
    with browser.visit(path.as_uri()) as visit:
        asked: list[str] = []
        visit.page.on("dialog", lambda dialog: asked.append(dialog.message))
        drawn(visit)
        visit.page.locator("figure .mark-rect path").first.hover(force=True)
        assert (asked, visit.errors, visit.requests) == ([], [], [])
        assert visit.page.evaluate("document.querySelectorAll('main img').length") == 2


def test_a_page_prints_whole(browser: Browser, pages: Pages, tmp_path: Path) -> None:
    with browser.visit(pages("llama3_70b"), dark=True) as visit:
        drawn(visit)
        told = visit.printed(tmp_path / "page.pdf")
        wanted = ("tensor_parallel", "pipeline", "hybrid", "19.0 s", "581 tok/s", "gate_up", "Assumed, with no source")
        for words in (*wanted, "Roofline", "time (ms)", "link.latency", "rank that sends"):
            assert words in told, words
        assert "A click on a heading sorts" not in told
        assert told.count("FLOP/byte") > 3, "headings come again on each page of a long table"
        visit.page.emulate_media(media="print", color_scheme="dark")
        assert visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"


def test_a_keyboard_reaches_everything_in_order(browser: Browser, pages: Pages) -> None:
    with browser.visit(pages("llama3_70b")) as visit:
        drawn(visit)
        order = visit.focus_order(24)
        assert order[0] == "a Skip to the content"
        assert order[1:5] == ["a All plans", "a tensor_parallel", "a pipeline", "a hybrid"]
        assert order[5] == "div all plans"
        assert order[6].startswith("button plan")
        visit.page.locator("#plan-hybrid [data-zoom=in]").first.focus()
        seen: Any = visit.page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert seen == "zoom in: Timeline of a prefill, 2 batches in flight"


def test_a_reader_of_screens_hears_each_chart_once(browser: Browser, pages: Pages) -> None:
    with browser.visit(pages("traffic/operator")) as visit:
        drawn(visit)
        heard = visit.page.evaluate(
            "[...document.querySelectorAll('.chart svg')]"
            ".map((e) => [e.getAttribute('role'), e.getAttribute('aria-label')])"
        )
        assert {role for role, _ in heard} == {"img"}
        assert all(len(words) > 20 for _, words in heard)
        assert any("TTFT p50" in words for _, words in heard)
