"""The whole page: its head with a policy that admits only what stands in the file, its sections, and the scripts."""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from plandsl.backends.report.charts import Chart, charts_block
from plandsl.backends.report.compare import Compared, compare_section
from plandsl.backends.report.html import Html, tag
from plandsl.backends.report.plan import plan_section
from plandsl.backends.report.searches import search_section
from plandsl.backends.report.values import Page
from plandsl.units import counted

SCRIPTS = ("vega-6.4.0.min.js", "vega-lite-6.5.0.min.js", "vega-embed-7.3.0.min.js", "report.js")
"""What draws the page, in the order in which it is read."""


def write_page(page: Page) -> str:
    """The page as one HTML text. The same answers give the same text."""
    sections: list[Html] = []
    charts: list[Chart] = []
    entries: list[tuple[str, str]] = []
    anchors = _anchors([shown.estimate.plan for shown in page.plans], "plan")
    if len(page.compared) > 1:
        named = dict(zip((shown.estimate.plan for shown in page.plans), anchors, strict=True))
        rows = [Compared(named.get(e.plan, ""), plan, e) for plan, e in page.compared]
        _add(compare_section(rows), sections, charts)
        entries.append(("compared", "All plans"))
    for shown, anchor in zip(page.plans, anchors, strict=True):
        _add(plan_section(shown, anchor, len(page.plans)), sections, charts)
        entries.append((anchor, shown.estimate.plan))
    for found, anchor in zip(page.searches, _anchors([s.name for s in page.searches], "search"), strict=True):
        _add(search_section(found, anchor), sections, charts)
        entries.append((anchor, f"search {found.name}"))
    links = [tag("li", tag("a", word, href=f"#{anchor}")) for anchor, word in entries]
    nav = tag("nav", tag("ul", *links), aria_label="plans and searches") if len(entries) > 1 else Html()
    body = [
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag("header", tag("h1", page.file), tag("p", _about(page), class_="lead"), nav),
        tag("main", *sections, id="content"),
        _footer(page),
        charts_block(charts),
        *(Html(f"<script>{_static(name)}</script>") for name in SCRIPTS),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"plandsl {page.version}"),
        tag("title", f"{page.file}: report"),
        Html(f"<style>{_static('report.css')}</style>"),
    ]
    return "<!doctype html>\n" + tag("html", tag("head", *head), tag("body", *body), lang="en") + "\n"


def _add(made: tuple[Html, list[Chart]], sections: list[Html], charts: list[Chart]) -> None:
    section, drawn = made
    sections.append(section)
    charts += drawn


def _anchors(names: list[str], kind: str) -> list[str]:
    """An anchor for each name: of letters and digits alone, and no two alike."""
    found: dict[str, None] = {}
    for number, name in enumerate(names):
        plain = f"{kind}-{re.sub('[^A-Za-z0-9_]', '-', name)}"
        found[plain if plain not in found else f"{plain}-{number}"] = None
    return list(found)


def _about(page: Page) -> str:
    many = len(page.searches)
    told = [counted(len(page.compared), "plan")] if page.compared else []
    told += [f"{many} searches" if many > 1 else "1 search"] if many else []
    more = ""
    if page.left_out:
        more = f" Only compared: {', '.join(page.left_out[:5])}"
        more += f" and {len(page.left_out) - 5} more" if len(page.left_out) > 5 else ""
        more += ". `planc report --plan NAME` shows one of them whole."
    return f"{' and '.join(told)}, estimated by plandsl {page.version}.{more}"


def _footer(page: Page) -> Html:
    licences = tag(
        "details", tag("summary", "Licences of the parts of this page"), tag("pre", _static("LICENSES.txt"), tabindex=0)
    )
    told = f"Written by planc report, plandsl {page.version}. The file is complete: it asks nothing of a network."
    return tag("footer", tag("p", told), licences, class_="noprint")


@cache
def _static(name: str) -> str:
    return (files("plandsl.backends.report") / "static" / name).read_text("utf-8").rstrip("\n")


@cache
def _policy() -> str:
    """Scripts of this page alone, by their sums; pictures as data; nothing from elsewhere, and no text run as code."""
    sums = " ".join(f"'sha256-{b64encode(sha256(_static(name).encode()).digest()).decode()}'" for name in SCRIPTS)
    return (
        f"default-src 'none'; script-src {sums}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
