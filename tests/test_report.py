"""Report pages: what stands in them, that nothing of a plan can become part of their code, and their bounds."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from base64 import b64decode, b64encode
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from rich.text import Text

from plandsl import __version__
from plandsl.backends.report import Page, PlanShown, write_page
from plandsl.backends.report.html import Cell, Html, sorting_table, styled, tag
from plandsl.backends.report.page import SCRIPTS
from plandsl.cli import OK, WRONG, main
from plandsl.codes import CODES
from plandsl.codes_report import REPORT_CODES
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import CompiledPlan, compile_text
from tests.draws import pick

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "backends" / "report" / "static"
EXAMPLES = sorted((ROOT / "examples").rglob("*.plan"))

SMALL = """
plan one {
  model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }
  workload { input = 256, output = 16, batch = 4 }
  require ttft <= 1 s
}
"""


LARGEST = """
model deep = llama_3_1_8b with { layers = 10000 }
cluster many { node = h100_8, count = 8192, network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us } }
plan largest {
  model = deep, cluster = many, sharding { dp = 128, tp = 8, pp = 64 }
  workload { input = 1024, output = 128, batch = 1 }
}
"""


class Read(HTMLParser):
    """The elements of a page in order, the text outside of scripts, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.inside != "style":
            self.words.append(data)

    @property
    def charts(self) -> dict[str, Any]:
        (found,) = (text for attributes, text in self.scripts if attributes.get("id") == "charts")
        charts: dict[str, Any] = json.loads(found)["charts"]
        return charts

    def all_of(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


def shown(plan: CompiledPlan) -> PlanShown:
    return PlanShown(plan.spec, plan.estimate(), plan.cost, plan.flows(), Diagnostic("E430", "drawing is left out"))


def page_of(*plans: PlanShown, file: str = "some.plan") -> str:
    return write_page(Page(file, "1.0", plans, [(one.spec, one.estimate) for one in plans], ()))


@pytest.fixture(scope="module")
def small() -> PlanShown:
    return shown(compile_text(SMALL)[0])


# ---- the parts that ship


def test_the_parts_are_those_that_were_fetched() -> None:
    sums = dict(line.split()[::-1] for line in (STATIC / "SHA256SUMS").read_text().splitlines())
    own = {"SHA256SUMS", "SOURCES.md", "report.css", "report.js"}
    assert set(sums) == {path.name for path in STATIC.iterdir()} - own
    assert {name: hashlib.sha256((STATIC / name).read_bytes()).hexdigest() for name in sums} == sums


def test_each_part_has_its_source_and_its_licence() -> None:
    sources, licences = (STATIC / "SOURCES.md").read_text(), (STATIC / "LICENSES.txt").read_text()
    for name in SCRIPTS[:-1]:
        package, version = re.fullmatch(r"([a-z-]+)-([\d.]+)\.min\.js", name).groups()  # type: ignore[union-attr]
        assert f"`{name}`" in sources
        assert f"{package} {version}" in licences
    for package in ("d3-scale", "fast-json-patch", "topojson-client", "tslib"):
        assert re.search(rf"\b{package} \d", licences), "what is built into Vega keeps its licence too"


def test_no_part_can_end_its_script_or_ask_for_a_file() -> None:
    for name in SCRIPTS:
        text = (STATIC / name).read_text().lower()
        assert "</script" not in text
        assert "<!--" not in text
        assert "sourcemappingurl" not in text


# ---- a page


def test_a_page_is_one_file_that_admits_no_other_script(small: PlanShown) -> None:
    read = Read(page_of(small))
    (policy,) = (v for v in read.all_of("content") if "script-src" in v)
    ran = [text for attributes, text in read.scripts if "type" not in attributes]
    sums = [f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in ran]
    assert len(ran) == len(SCRIPTS)
    assert re.search(r"script-src ([^;]*);", policy)[1].split() == sums  # type: ignore[index]
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    refers = [v for t, n, v in read.attributes if n in ("src", "href", "action", "srcset", "data") and t != "script"]
    assert [v for v in refers if not v.startswith(("#", "data:image/svg+xml;base64,"))] == []
    assert not any(name.startswith("on") for _, name, _ in read.attributes)


def test_the_same_answers_give_the_same_bytes(small: PlanShown) -> None:
    again = shown(compile_text(SMALL)[0])
    assert page_of(small) == page_of(again)


def test_every_chart_has_a_place_a_description_and_rows_and_every_link_a_target(small: PlanShown) -> None:
    read = Read(page_of(small, small._replace(estimate=small.estimate._replace(plan="two"))))
    assert sorted(read.all_of("data-chart")) == sorted(read.charts)
    for name, chart in read.charts.items():
        assert chart["spec"]["description"], name
        assert '"values": []' not in json.dumps(chart), name
    ids = read.all_of("id")
    assert [one for one, many in Counter(ids).items() if many > 1] == []
    assert {v.removeprefix("#") for v in read.all_of("href")} <= set(ids)


def test_the_numbers_are_those_of_the_estimate(small: PlanShown) -> None:
    e, read = small.estimate, Read(page_of(small))
    sorts = set(read.all_of("data-sort"))
    ops = [op for phase in (e.prefill, e.decode) for op in phase.ops]
    assert {repr(op.time_s) for op in ops} <= sorts
    assert {repr(op.flops) for op in ops} <= sorts
    roofline = read.charts["plan-one-roofline"]["spec"]["layer"][2]["data"]["values"]
    with_flops = [op for op in ops if op.flops and not op.communicates and op.time_s]
    assert sorted(p["y"] for p in roofline) == pytest.approx(
        sorted(op.flops * op.count / op.time_s for op in with_flops), rel=1e-5
    )
    memory = read.charts["plan-one-memory"]["spec"]["layer"][0]["data"]["values"]
    assert sum(row["v"] for row in memory) * 1e9 == pytest.approx(e.memory.total, rel=1e-5)
    flows = read.charts["plan-one-flows-prefill"]["spec"]["data"]["values"]
    assert sum(row["v"] for row in flows) == pytest.approx(small.flows[0].total, rel=1e-5)
    for phase, chart in ((e.prefill, "prefill"), (e.decode, "decode")):
        packed = read.charts[f"plan-one-timeline-{chart}"]["packed"]
        kinds = packed["fields"].index("k")
        passes = [row for row in packed["rows"] if packed["words"][row[kinds]] == "pass of a batch"]
        whole = read.charts[f"plan-one-timeline-{chart}"]["zoom"]["high"]
        assert whole == pytest.approx(1e3 * (phase.time_s - phase.engine_s), rel=1e-3)
        assert passes[0][packed["fields"].index("b")] == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("path", [EXAMPLES[pick(len(EXAMPLES), "report")]], ids=lambda path: path.stem)
def test_an_example_gives_a_page(path: Path, tmp_path: Path) -> None:
    check_example(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_gives_a_page(path: Path, tmp_path: Path) -> None:
    check_example(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search_70b", "traffic/operator", "clusters/racks"])
def test_the_same_file_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    outs = [tmp_path / "one.html", tmp_path / "two.html"]
    for out in outs:
        assert main(["report", str(ROOT / "examples" / f"{name}.plan"), "-o", str(out), "--requests", "60"]) == OK
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.mark.slow
def test_the_largest_plans_give_a_page_of_bounded_size(tmp_path: Path) -> None:
    path, out = tmp_path / "a.plan", tmp_path / "a.html"
    path.write_text(LARGEST)
    assert main(["report", str(path), "-o", str(out)]) == OK
    assert out.stat().st_size < 2_500_000
    words = "".join(Read(out.read_text("utf-8")).words)
    assert "stages 7 to 62 are not drawn" in words
    assert "later passes are not drawn" in words
    assert "layers are not drawn" in words
    assert "A row stands for up to 2,048 ranks" in words


def check_example(path: Path, folder: Path) -> None:
    """Every plan of an example has its section and its charts, whatever serves it."""
    out = folder / "page.html"
    assert main(["report", str(path), "-o", str(out), "--requests", "60"]) == OK
    text = out.read_text("utf-8")
    read = Read(text)
    assert sorted(read.all_of("data-chart")) == sorted(read.charts)
    assert not re.search(r"\b(nan|NaN|None|inf)\b", " ".join(read.words))
    names = re.findall(r"^plan (\w+)", path.read_text(), re.M)
    for name in names[:12]:
        assert f"plan-{name}" in read.all_of("id")
        for chart in ("memory", "timeline-prefill"):
            assert f"plan-{name}-{chart}" in read.charts
    assert len(text) < 8_000_000


# ---- what a plan says is text


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&<!--\u2028{{7*7}}"


def says(shown: PlanShown, words: str) -> str:
    """A page in which ``words`` stand in the place of every name and text of a plan."""
    e = shown.estimate
    require = e.requires[0]._replace(text=words)
    flows = tuple(f._replace(cells=tuple(c._replace(axis=words) for c in f.cells)) for f in shown.flows)
    ops = tuple(evolve(op, name=words, axis=op.axis and words) for op in e.prefill.ops)
    told = e._replace(plan=words, requires=(require,), assumed=((words, words, words),), calibration=words)
    told = told._replace(notes=(Diagnostic("N301", words),), prefill=e.prefill._replace(ops=ops), engine=words)
    one = shown._replace(estimate=told, flows=flows, devices=f"<svg xmlns='http://www.w3.org/2000/svg'>{words}</svg>")
    return page_of(one, one._replace(estimate=told._replace(plan=f"{words}2")), file=words)


def test_nothing_that_a_plan_says_becomes_part_of_the_page(small: PlanShown) -> None:
    plain, hostile = Read(says(small, "w" * len(HOSTILE))), Read(says(small, HOSTILE))
    assert hostile.tags == plain.tags
    assert [n for _, n, _ in hostile.attributes] == [n for _, n, _ in plain.attributes]
    assert len(hostile.scripts) == len(plain.scripts)
    assert sum(HOSTILE in text for text in hostile.words) >= 16
    assert hostile.charts


def test_the_map_of_devices_is_a_picture_and_no_part_of_the_page(small: PlanShown) -> None:
    svg = "<svg><script>alert(1)</script></svg>"
    read = Read(page_of(small._replace(devices=svg)))
    (source,) = (v for t, n, v in read.attributes if (t, n) == ("img", "src"))
    assert b64decode(source.partition("base64,")[2]).decode() == svg
    assert "svg" not in read.tags


def test_text_is_escaped_and_html_is_not() -> None:
    assert tag("p", "<b>", Html("<i></i>"), title='"') == '<p title="&quot;">&lt;b&gt;<i></i></p>'
    table = sorting_table("<x>", ["<y>"], [[Cell("<z>", 1.5)], [Cell("<z>", 0.5)]])
    assert "<y>" not in table
    assert 'data-sort="1.5"' in table


def test_a_later_word_of_a_style_overrules_an_earlier_one() -> None:
    told = Text("19 s", style="bold").append(", 16 s to 25 s", style="dim not bold")
    assert styled(told) == '<span class="b">19 s</span><span class="dim">, 16 s to 25 s</span>'


# ---- the command


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "a.plan", tmp_path / "a.html"
    path.write_text(SMALL)
    assert main(["report", str(path), "-o", str(out), "--json"]) == OK
    told = json.loads(capsys.readouterr().out)
    assert (told["plans"], told["whole"], told["searches"]) == (["one"], ["one"], [])
    assert told["bytes"] == len(out.read_bytes())
    assert told["plandsl"] == __version__
    assert main(["report", str(path), "-o", "-", "--set", "workload.batch=8"]) == OK
    assert "batch 8" in "".join(Read(capsys.readouterr().out).words)


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("-o", "a.pdf"), "E590", "print it from a browser"),
        (("-o", "a.svg"), "E590", "planc render"),
        (("-o", "a"), "E590", "-o a.html"),
        (("-o", "-", "--json"), "E400", "name a file"),
        (("-o", "no/such/a.html"), "E405", ""),
        (("-o", "a.html", "--requests", "0"), "E400", ""),
        (("-o", "a.html", "--plan", "ones"), "E201", "did you mean `one`"),
        (("-o", "a.html", "--search", "best"), "E201", ""),
        (("-o", "a.html", "--plan", "one", "--search", "best"), "E400", "leave out one"),
    ],
)
def test_wrong_input_is_told_and_nothing_is_written(
    words: tuple[str, ...], code: str, hint: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.plan").write_text(SMALL)
    assert main(["report", "a.plan", *words]) == WRONG
    told = capsys.readouterr().err
    assert f"error[{code}]" in told
    assert hint in told
    assert [path.name for path in tmp_path.iterdir()] == ["a.plan"]


SEARCHES = """
search best {
  model = llama_3_1_8b, node = h100_2
  vary tp in [1, 2], batch in [1, 8, 64]
  workload { input = 512, output = 64 }
  maximize throughput
}

search none {
  model = arctic_embed_m, node = h100_1
  vary batch in [1, 8]
  workload { input = 512, output = 0 }
  require ttft <= 1 us
  maximize throughput
}
"""


def test_a_file_of_searches_shows_the_best_plan_of_each_and_why_there_is_none(tmp_path: Path, capsys: Any) -> None:
    path, out = tmp_path / "a.plan", tmp_path / "a.html"
    path.write_text(SEARCHES)
    assert main(["report", str(path), "-o", str(out), "--json"]) == OK
    told = json.loads(capsys.readouterr().out)
    assert (told["plans"], told["searches"]) == (["best_best"], ["best", "none"])
    read = Read(out.read_text("utf-8"))
    scatter = read.charts["search-best-scatter"]["spec"]
    assert len(scatter["data"]["values"]) == 6
    assert {row["g"] for row in scatter["data"]["values"]} == {"tp 1", "tp 2"}
    assert sum(row["f"] for row in scatter["data"]["values"]) >= 1
    words = "".join(read.words)
    assert "nothing meets every requirement" in words
    fields = [
        panel["layer"][0]["encoding"]["x"]["field"] for panel in read.charts["search-none-scatter"]["spec"]["concat"]
    ]
    assert "tpot" not in fields, "an encoder has none"
    assert main(["report", str(path), "-o", str(out), "--search", "none"]) == OK
    assert "search-best" not in Read(out.read_text("utf-8")).all_of("id")


def test_a_plan_that_does_not_fit_has_a_page_that_says_so(tmp_path: Path) -> None:
    path, out = tmp_path / "a.plan", tmp_path / "a.html"
    load = "rate = 4 req/s, input = 512, output = 64, requests = 200"
    path.write_text(f"plan a {{ model = llama_3_1_405b, node = h100_1, engine = vllm\n workload {{ {load} }} }}")
    assert main(["report", str(path), "-o", str(out)]) == OK
    words = "".join(Read(out.read_text("utf-8")).words)
    assert "fitsno" in words
    assert "Not simulated: " in words


def test_without_graphviz_the_page_has_everything_else(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    def fails(*_: object) -> bytes:
        raise PlanError([Diagnostic("E430", "drawing needs Graphviz", hint="install Graphviz")])

    monkeypatch.setattr(importlib.import_module("plandsl.backends.graphviz.picture"), "render", fails)
    path, out = tmp_path / "a.plan", tmp_path / "a.html"
    path.write_text(SMALL)
    assert main(["report", str(path), "-o", str(out)]) == OK
    assert "N551" in capsys.readouterr().err
    read = Read(out.read_text())
    assert "The map of the devices is not drawn: drawing needs Graphviz." in read.words
    assert "plan-one-roofline" in read.charts


def test_plans_beyond_the_bound_are_compared_and_named(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("plandsl.commands.report.MOST_WHOLE", 2)
    path, out = tmp_path / "a.plan", tmp_path / "a.html"
    path.write_text("\n".join(SMALL.replace("plan one", f"plan p{n}") for n in range(4)))
    assert main(["report", str(path), "-o", str(out)]) == OK
    assert "N550" in capsys.readouterr().err
    read = Read(out.read_text())
    words = "".join(read.words)
    assert "Only compared: p2, p3." in words
    assert "plan-p1" in read.all_of("id")
    assert "plan-p2" not in read.all_of("id")
    assert main(["report", str(path), "-o", str(out), "--plan", "p2", "--plan", "p3"]) == OK
    assert "plan-p3" in Read(out.read_text()).all_of("id")


def test_every_code_of_reports_is_tested() -> None:
    text = Path(__file__).read_text()
    assert [code for code in REPORT_CODES if f'"{code}"' not in text] == []
    assert set(REPORT_CODES) <= set(CODES)
