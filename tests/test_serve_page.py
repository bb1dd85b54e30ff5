"""The page of the playground in a browser: one types, and numbers follow; fixes, links, keyboard, dark and narrow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from plandsl.driver import compile_text
from plandsl.playground.link import fragment, text_of
from plandsl.units import show_time
from tests.browser import NARROW, Browser, Visit
from tests.test_serve_live import PLAN, Served, serving

pytestmark = [pytest.mark.extras, pytest.mark.xdist_group("serve")]

ROOT = Path(__file__).parents[1]
EXAMPLE = (ROOT / "examples" / "llama3_70b.plan").read_text()
LOAD = PLAN.replace("batch = 8", "rate = 2 req/s, requests = 40, seed = 1")
WRONG = PLAN.replace("tp =", "tpp =").replace("h100_2", "h100_22")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Browser, served: Served) -> Open:
    def visit(text: str | None = None, **more: Any) -> Any:
        origin = f"http://127.0.0.1:{served.port}/"
        url = origin + ("" if text is None else fragment(text))
        return browser.visit(url, allowed=(origin, "blob:"), **more)

    return visit


def numbers(visit: Visit) -> dict[str, str]:
    """The numbers that the page shows of the chosen plan."""
    pairs: list[list[str]] = visit.page.eval_on_selector_all(
        ".number", "all => all.map(one => [one.querySelector('dt').textContent, one.querySelector('b').textContent])"
    )
    return dict(pairs)


def shows(visit: Visit, plan: str) -> None:
    visit.page.wait_for_selector(f"#estimate h2 b:text-is('{plan}')")


def until(visit: Visit, condition: str) -> None:
    """Wait for a condition. (The page's policy forbids the way in which playwright itself waits for one.)"""
    for _ in range(200):
        if visit.page.evaluate(condition):
            return
        visit.page.wait_for_timeout(50)
    raise AssertionError(condition)


def text(visit: Visit) -> str:
    """The text in the editor."""
    found: str = visit.page.evaluate("document.querySelector('.cm-content').cmTile.root.view.state.doc.toString()")
    return found


def check_quiet(visit: Visit) -> None:
    """Nothing was complained of, and nothing asked of others."""
    assert (visit.errors, visit.requests) == ([], [])


def test_numbers_follow_what_is_typed(opened: Open) -> None:
    with opened(PLAN) as visit:
        shows(visit, "p")
        before = compile_text(PLAN)[0].estimate()
        assert numbers(visit)["TPOT"] == show_time(before.tpot_s or 0)
        visit.page.click("text=batch = ")
        visit.page.keyboard.press("End")
        for key in ("ArrowLeft", "ArrowLeft", "Backspace"):
            visit.page.keyboard.press(key)
        visit.page.keyboard.type("64")
        after = compile_text(PLAN.replace("batch = 8", "batch = 64"))[0].estimate()
        visit.page.wait_for_selector(f".number b:text-is('{show_time(after.tpot_s or 0)}')")
        assert numbers(visit)["batch"] == "64"
        until(visit, "location.hash.length > 10")
        visit.page.wait_for_timeout(500)
        assert text_of(visit.page.url) == PLAN.replace("batch = 8", "batch = 64")
        check_quiet(visit)


def test_plans_stand_side_by_side_and_are_chosen(opened: Open) -> None:
    with opened(EXAMPLE) as visit:
        visit.page.wait_for_selector(".plans tbody tr >> nth=2")
        visit.page.click(".plans button:text-is('hybrid')")
        shows(visit, "hybrid")
        assert numbers(visit)["TTFT"] == "36.0 s"
        assert visit.page.get_attribute(".plans button:text-is('hybrid')", "aria-pressed") == "true"
        assert visit.page.locator(".promises .met").count() == 3
        check_quiet(visit)


def test_mistakes_are_shown_and_mended(opened: Open) -> None:
    with opened(WRONG) as visit:
        visit.page.wait_for_selector("#problems li.error >> nth=1")
        assert visit.page.locator(".cm-lintRange-error").count() == 2
        assert "2 errors" in visit.page.text_content("#status")
        visit.page.click("#problems li:has-text('tpp') .fix >> nth=0")
        until(visit, "document.querySelectorAll('#problems li.error').length === 1")
        visit.page.click("#problems .fix >> nth=0")
        shows(visit, "p")
        assert visit.page.locator("#problems li.error").count() == 0
        compile_text(text(visit))
        check_quiet(visit)


def test_a_file_is_refused_with_what_to_do(opened: Open) -> None:
    with opened('use "other.plan"\n' + PLAN) as visit:
        visit.page.wait_for_selector("#problems li:has-text('E597')")
        assert "a playground reads none" in visit.page.text_content("#problems")
        assert visit.page.is_hidden("#answers")
        check_quiet(visit)


def test_the_last_numbers_stay_while_a_mistake_is_there(opened: Open) -> None:
    with opened(PLAN) as visit:
        shows(visit, "p")
        visit.page.click(".cm-content")
        visit.page.keyboard.press("Control+End")
        visit.page.keyboard.type("plan q { mod")
        visit.page.wait_for_selector("#stale:visible")
        assert visit.page.is_visible("#estimate h2")
        check_quiet(visit)


def test_completions_and_meanings(opened: Open) -> None:
    with opened(PLAN) as visit:
        shows(visit, "p")
        visit.page.click("text=node = ")
        visit.page.keyboard.press("End")
        visit.page.keyboard.press("Enter")
        visit.page.keyboard.type("eng", delay=30)
        visit.page.wait_for_selector(".cm-tooltip-autocomplete li:has-text('engine')")
        visit.page.wait_for_timeout(120)  # the editor takes no key for a completion that has just appeared
        visit.page.keyboard.press("Enter")
        visit.page.keyboard.type("vll", delay=30)
        visit.page.wait_for_selector(".cm-tooltip-autocomplete li:has-text('vllm')")
        visit.page.wait_for_timeout(120)
        visit.page.keyboard.press("Enter")
        assert re.search(r"\n  engine = vllm\n", text(visit))
        visit.page.hover(".cm-content .w-field:text-is('tp')")
        visit.page.wait_for_selector(".hover:has-text('tp')")
        check_quiet(visit)


def test_links_and_reloading_keep_the_text(opened: Open) -> None:
    with opened(EXAMPLE) as visit:
        shows(visit, "tensor_parallel")
        assert text(visit) == EXAMPLE
        visit.page.select_option("#examples", label="a model of your own")
        shows(visit, "own")
        visit.page.wait_for_timeout(600)
        visit.page.reload()
        shows(visit, "own")
        assert "model small" in text(visit)
        check_quiet(visit)


def test_a_broken_link_says_so(opened: Open, served: Served, browser: Browser) -> None:
    origin = f"http://127.0.0.1:{served.port}/"
    for broken in ("#1.!!!", "#2.abc", "#1.AAAA"):
        with browser.visit(origin + broken, allowed=(origin,)) as visit:
            visit.page.wait_for_selector("#status:has-text('the link holds no plan')")
            shows(visit, "first")
            check_quiet(visit)


def test_requests_over_time_are_simulated(opened: Open) -> None:
    with opened(LOAD) as visit:
        visit.page.wait_for_selector("#estimate table:has-text('by simulation')")
        assert visit.page.locator(".number:has-text('p95')").count() >= 2
        check_quiet(visit)


def test_searches_have_a_view_of_their_own(opened: Open) -> None:
    search = "search s {\n  plan = p\n  vary tp in [1, 2]\n}\n"
    with opened(PLAN + search) as visit:
        shows(visit, "p")
        visit.page.click("#tab-searches")
        visit.page.wait_for_selector("article:has-text('2 plans')")
        assert visit.axe() == []
        visit.page.click(".cm-content")
        visit.page.keyboard.press("Control+Home")
        visit.page.keyboard.type("# ")
        visit.page.wait_for_selector("#problems li.error")
        visit.page.keyboard.press("Control+a")
        visit.page.keyboard.press("Delete")
        visit.page.keyboard.insert_text(search.replace("plan = p", "plan = q") + PLAN.replace("plan p", "plan q"))
        until(visit, "document.querySelectorAll('#problems li.error').length === 0")
        visit.page.click("#tab-estimate")
        shows(visit, "q")
        check_quiet(visit)
    alone = search.replace("plan = p", "model = llama_3_1_8b, node = h100_2, workload { input = 99, output = 9 }")
    with opened(alone) as visit:
        visit.page.wait_for_selector("#tab-searches[aria-selected='true']")
        visit.page.wait_for_selector("article:has-text('meet all')")
        assert visit.page.is_hidden("#tab-devices")
        assert "1 search" in visit.page.text_content("#status")
        visit.page.select_option("#examples", label="a model of your own")
        shows(visit, "own")
        assert visit.page.is_hidden("#tab-searches")
        check_quiet(visit)


def test_pictures(opened: Open) -> None:
    with opened(EXAMPLE) as visit:
        shows(visit, "tensor_parallel")
        for view in ("devices", "communication", "block", "timeline", "memory"):
            visit.page.click(f"#tab-{view}")
            visit.page.wait_for_selector(f"#picture img[alt*='{view}']")
            until(visit, "document.querySelector('#picture img').naturalWidth > 100")
        visit.page.click("#tab-timeline")
        visit.page.select_option("#phase", "decode")
        visit.page.wait_for_selector("#picture img[alt='tensor_parallel timeline decode']")
        visit.page.click("text=full size")
        with visit.page.expect_download() as given:
            visit.page.click("text=download SVG")
        assert given.value.suggested_filename == "tensor_parallel_timeline_decode.svg"
        check_quiet(visit)


def test_nothing_in_a_plan_becomes_markup(opened: Open) -> None:
    evil = '<img src=x onerror="alert(1)">'
    for place in (f"# {evil}\n{PLAN}", PLAN.replace("h100_2", evil), PLAN.replace("plan p", f"plan {evil}")):
        with opened(place) as visit:
            visit.page.wait_for_selector("#status:not(:text-is('starting'))")
            visit.page.wait_for_timeout(300)
            assert visit.page.locator("img[src=x]").count() == 0
            check_quiet(visit)


def test_the_keyboard_reaches_everything(opened: Open) -> None:
    with opened(EXAMPLE) as visit:
        visit.page.wait_for_selector(".plans tbody tr >> nth=2")
        visit.page.evaluate("document.activeElement.blur()")
        order = visit.focus_order(20)
        for word in ("examples", "format", "save file", "copy link", "light or dark", "plan", "hybrid", "estimate"):
            assert any(word in one for one in order), (word, order)
        visit.page.focus("#tab-estimate")
        visit.page.keyboard.press("ArrowRight")
        visit.page.wait_for_selector("#picture img[alt*='devices']")
        visit.page.keyboard.press("ArrowLeft")
        assert visit.page.is_visible("#estimate")
        check_quiet(visit)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, NARROW])
def test_the_page_reads_well(opened: Open, dark: bool, width: int) -> None:
    for written in (EXAMPLE, WRONG, LOAD):
        with opened(written, dark=dark, width=width) as visit:
            visit.page.wait_for_selector("#problems .fix" if written == WRONG else ".numbers")
            visit.page.wait_for_timeout(400)
            assert visit.axe() == []
            assert visit.overflows() == 0
            if written == EXAMPLE:
                visit.page.click("#tab-memory")
                visit.page.wait_for_selector("#picture img")
                assert visit.axe() == []
                assert visit.overflows() == 0
            check_quiet(visit)


def test_light_and_dark_are_chosen_and_kept(opened: Open) -> None:
    with opened(PLAN) as visit:
        shows(visit, "p")

        def ground() -> str:
            found: str = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
            return found

        light = ground()
        visit.page.click("#look")
        dark = ground()
        assert dark != light
        visit.page.reload()
        shows(visit, "p")
        assert ground() == dark


def test_a_server_that_ends_is_told_of(browser: Browser) -> None:
    with serving() as one:
        origin = f"http://127.0.0.1:{one.port}/"
        with browser.visit(origin, allowed=(origin,)) as visit:
            shows(visit, "first")
            one.process.terminate()
            one.process.wait(20)
            visit.page.click(".cm-content")
            visit.page.keyboard.type(" ")
            visit.page.wait_for_selector("#status.error:has-text('the server does not answer')")
