"""The site of docs/: pages that are made say what readers, grammar and codes say, and every link leads somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.site import codes, examples, fields, grammar, markdown
from benchmarks.site.traced import asked
from plandsl.codes import CODES
from plandsl.driver import check_module, open_text
from plandsl.grammar.schema import Reader
from tests.test_docs import DOCS, PAGES, ROOT

PLAN = """plan p {
  model = llama_3_1_8b, node = h100_2, sharding { tp = 2 }, engine = vllm
  workload { input = 900, output = 80, batch = 4 }
}
"""


def test_a_fence_keeps_its_language_and_shows_its_file() -> None:
    page = "a\n```plan file=x.plan\nplan p {}\n```\n```plan fails E301\nq\n```\n```console\n$ planc\n```\n"
    made = markdown.fences(page)
    assert '```plan title="x.plan"\nplan p {}\n```' in made
    assert '```plan title="does not compile, E301"' in made
    assert "```console\n$ planc\n```" in made


def test_links_out_of_docs_lead_to_pages_of_the_site() -> None:
    moved = {"CONTRIBUTING.md": "contributing.md", "examples/a.plan": "examples.md#aplan"}
    text = "[a](../CONTRIBUTING.md#a-model) [b](../examples/a.plan) [c](cost.md) `[d](../e)`\n"
    assert markdown.links(text, "x.md", moved).startswith(
        "[a](contributing.md#a-model) [b](examples.md#aplan) [c](cost.md)"
    )
    assert markdown.links("[a](../../CONTRIBUTING.md)", "howto/x.md", moved) == "[a](../contributing.md)"
    assert markdown.links(
        "[a](docs/cost.md#b) [r](README.md)", "contributing.md", {"README.md": "index.md"}, root="."
    ) == ("[a](cost.md#b) [r](index.md)")
    assert markdown.links("```text\n[a](../CONTRIBUTING.md)\n```", "x.md", moved).endswith("CONTRIBUTING.md)\n```")


@pytest.mark.parametrize("page", ["language.md", "cost.md", "traffic.md"])
def test_anchors_are_those_of_the_plain_file(page: str) -> None:
    from tests.test_docs import anchors

    heads = re.findall(r"^#+ (.*)$", markdown.FENCE.sub("", (DOCS / page).read_text("utf-8")), re.MULTILINE)
    assert {markdown.slug(head, "-") for head in heads} == anchors(DOCS / page)


def test_what_readers_ask_is_seen_and_nothing_is_left_changed() -> None:
    plain = dict(vars(Reader))
    found = asked(lambda: check_module(open_text(PLAN, "p.plan")) and None)
    assert vars(Reader) == plain
    workload, gpu = found["workload"], found["gpu"]
    assert (list(workload["batch"].values), list(workload["batch"].ranges)) == (["whole number"], ["1 or more"])
    assert workload["input"].needed
    assert not workload["batch"].needed
    assert list(workload["prefix"].values) == ["`own` `shared`"]
    assert list(gpu["bandwidth"].ranges) == ["above 0"]
    assert list(gpu["bandwidth"].values) == ["bytes per second, as `6 TB/s`"]


@pytest.mark.parametrize(
    ("kind", "path"),
    [("workload", "workload.batch"), ("workload", "workload.requests"), ("plan", "chunks"), ("plan", "hop_tensors")],
)
def test_the_range_that_is_shown_is_the_range_that_holds(kind: str, path: str) -> None:
    found = asked(lambda: check_module(open_text(PLAN, "p.plan")) and None)
    (shown,) = found[kind][path.rpartition(".")[2]].ranges
    least, *most = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+", shown))
    for wrong in (least - 1, *(number + 1 for number in most)):
        module = open_text(PLAN, "p.plan", [(path, str(wrong))])
        assert "E214" in {d.code for d in check_module(module)}, (path, wrong)


def test_tables_of_the_language_page_say_what_each_field_is() -> None:
    words = fields.said((DOCS / "language.md").read_text("utf-8"))
    bare = [
        f"{kind}.{name}"
        for kind, part in fields.PARTS.items()
        for name in part.only
        if kind not in ("search", "sharding") and not fields.rows(kind, part, {}, words)[part.only.index(name)][2].what
    ]
    assert bare == []


def test_the_page_of_the_grammar_has_every_rule() -> None:
    page, rules = grammar.page(), grammar.GRAMMAR.read_text("utf-8").partition("// ---- terminals")[0]
    names = re.findall(r"^\??(\w+):", rules, re.MULTILINE)
    assert len(names) >= 30
    assert [name for name in names if not re.search(rf"^\??{name}:", page, re.MULTILINE)] == []
    assert "->" not in re.sub(r"`->`", "", page)


def test_every_code_has_its_place() -> None:
    page = codes.index()
    assert [code for code in CODES if f"#{code.lower()})" not in page] == []
    assert set(re.findall(r"codes/([\w-]+)\.md", page)) == {
        file for key, (file, _) in codes.GROUPS.items() if any(code.startswith(key) for code in CODES)
    }


def test_an_example_of_a_code_is_shown_with_what_planc_says() -> None:
    shown = codes.said("E301", CODES["E301"].example)
    assert shown.startswith("error[E301]")
    assert "help: " in shown
    assert codes.said("N201", CODES["N201"].example).startswith("note[N201]")


def test_every_example_is_on_its_page() -> None:
    page = examples.page()
    for path in examples.files():
        assert path.read_text("utf-8").rstrip() in page


def test_the_navigation_names_pages_that_are_there() -> None:
    placed = re.findall(r"^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(set(placed)) == sorted(placed), "a page stands twice"
    made = {
        "examples.md",
        "contributing.md",
        "changelog.md",
        "security.md",
        *(p for p in placed if p.startswith("reference/")),
    }
    assert set(placed) - made <= set(PAGES)


class Page(HTMLParser):
    """What a page of the site names: its links, its anchors, and what a browser fetches for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "iframe") and "src" in given:
            self.fetched.append(given["src"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.fetched.append(given["href"])


@pytest.mark.extras
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None:
        pytest.skip("the site needs the extra [docs]")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    kept = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    made = subprocess.run(words, cwd=ROOT, env=kept, text=True, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "WARNING" not in made.stderr
    pages = {path: Page(path.read_text("utf-8")) for path in tmp_path.rglob("*.html")}
    assert len(pages) > len(PAGES)
    for path, page in pages.items():
        assert [url for url in page.fetched if re.match(r"(https?:)?//", url)] == [], path
        for link in page.links:
            if re.match(r"\w+:", link) or path.name == "404.html":
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor and target in pages:
                assert anchor in pages[target].anchors, f"{path.name}: {link}"
    styles = list(tmp_path.rglob("*.css"))
    assert [p for p in styles if re.search(r"url\(['\"]?https?:|@import ['\"]?https?:", p.read_text("utf-8"))] == []
