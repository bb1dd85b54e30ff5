"""What the playground answers, as functions of a text: estimates, reports, completions, and nothing of any file."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from plandsl.answers.text.estimate import more_parts, table_parts
from plandsl.codes import CODES
from plandsl.codes_serve import SERVE_CODES
from plandsl.driver import compile_text
from plandsl.playground.answers import KINDS, answer
from plandsl.playground.asked import FILE
from plandsl.playground.blocks import blocks
from plandsl.printing import print_lines
from plandsl.tables import Bar
from tests.draws import draws

ROOT = Path(__file__).parents[1]
EXAMPLE = (ROOT / "examples" / "llama3_70b.plan").read_text()
PLAN = """plan p {
  model = llama_3_1_8b
  node = h100_2
  sharding { tp = 2 }
  workload { input = 1024, output = 128, batch = 8 }
}
"""

SEARCH = """search s {
  model = llama_3_1_8b
  node = h100_2
  workload { input = 99, output = 9 }
  vary tp in [2]
}
"""


def ask(kind: str, text: str, **more: Any) -> dict[str, Any]:
    status, body = answer(kind, json.dumps({"text": text} | more).encode(), 60.0)
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


def codes(found: dict[str, Any]) -> list[str]:
    return [d["code"] for d in found["diagnostics"]]


def test_the_estimate_of_a_text_is_that_of_planc() -> None:
    found = ask("estimate", EXAMPLE, plan="hybrid")
    (plan,) = compile_text(EXAMPLE, plan="hybrid")
    e = plan.estimate()
    shown = {one["word"]: one["value"] for one in found["report"]["overview"]["numbers"]}
    assert found["report"]["plan"] == "hybrid"
    assert (shown["TTFT"], shown["TPOT"], shown["throughput"]) == ("36.0 s", "25.5 ms", "644 tok/s")
    assert f"{e.ttft_s:.1f} s" == shown["TTFT"]
    assert [r["ok"] for r in found["report"]["overview"]["requires"]] == [r.ok for r in e.requires]
    assert found["names"] == ["tensor_parallel", "pipeline", "hybrid"]
    rows = ask("compare", EXAMPLE)["plans"]
    assert [row["name"] for row in rows if "ttft" in row["best"]] == ["tensor_parallel"]
    assert [row["name"] for row in rows if "throughput" in row["best"]] == ["pipeline"]


def test_a_report_has_every_word_that_planc_prints() -> None:
    for name in ("own_model", "split_llama_3_3_70b"):
        plan = compile_text((ROOT / "examples" / f"{name}.plan").read_text())[0]
        e = plan.estimate()
        parts = [*more_parts(e), *table_parts(plan.spec, e)]
        console = Console(file=io.StringIO(), width=400, highlight=False, markup=False, emoji=False)
        print_lines(console, *parts)
        printed = re.sub(r"[█▏░]", " ", console.file.getvalue()).split()  # type: ignore[attr-defined]
        shown = json.dumps([*blocks(parts)], ensure_ascii=False)
        told = " ".join(piece for piece, _ in re.findall(r'\["((?:[^"\\]|\\.)*)", "([^"]*)"\]', shown)).split()
        assert sorted(printed) == sorted(told)


def test_a_bar_is_its_shares() -> None:
    from plandsl.answers.text.resources import memory_table

    (plan,) = compile_text(PLAN)
    e = plan.estimate()
    (block,) = blocks([memory_table(e)])
    bars = [cell["bar"] for row in block["table"]["rows"] for cell in row["cells"] if "bar" in cell]
    weights = e.memory.weights / e.memory.capacity
    assert bars[0][0][0] == pytest.approx(100 * weights, abs=0.5)
    assert sum(share for share, _ in bars[-1]) == pytest.approx(100)
    assert Bar.width == 30, "a report keeps its width"


def test_an_edit_of_one_plan_leaves_what_is_known_of_the_others() -> None:
    before = ask("compare", EXAMPLE)["plans"]
    after = ask("compare", "# a line more\n" + EXAMPLE.replace("tp = 4, pp = 2", "tp = 2, pp = 4"))["plans"]
    assert before[:2] == after[:2]
    assert before[2] != after[2]
    assert ask("compare", EXAMPLE)["plans"] == before


def test_diagnostics_stand_where_the_mistake_is() -> None:
    found = ask("estimate", PLAN.replace("llama_3_1_8b", "llama_3_1_8c"))
    (wrong,) = found["diagnostics"]
    assert (wrong["code"], wrong["line"], wrong["column"], wrong["here"]) == ("E201", 2, 11, True)
    assert "llama_3_1_8b" in wrong["hint"]
    assert "report" not in found
    assert codes(ask("estimate", "let a = 1\n")) == ["E401"]
    assert codes(ask("compare", "")) == ["E401"]


def test_requests_over_time_are_simulated_when_that_is_asked() -> None:
    text = PLAN.replace("batch = 8", "rate = 2 req/s, requests = 40, seed = 1")
    first, second = ask("estimate", text), ask("simulate", text)
    assert first["report"]["simulates"]
    assert "by simulation" not in json.dumps(first["report"])
    assert "by simulation" in json.dumps(second["report"])


def test_a_cursor_gets_words_and_their_meanings() -> None:
    labels = [one["label"] for one in ask("complete", PLAN, line=2, column=20)["options"]]
    assert "llama_3_1_8b" in labels
    assert "`tp`" in ask("hover", PLAN, line=4, column=15)["hover"]["text"]
    assert ask("hover", PLAN, line=6, column=1)["hover"] is None
    files = {one["label"] for one in ask("complete", "plan p { model = ", line=1, column=18)["options"]}
    assert not files & {"hf", "gguf"}


def test_format() -> None:
    assert ask("format", "let  a=1")["text"] == "let a = 1\n"
    assert codes(ask("format", "plan {"))[0].startswith("E1")


# ---- no file is read

READS = {
    "use": 'use "other.plan"\n' + PLAN,
    "hf": PLAN.replace("llama_3_1_8b", 'hf("config.json")'),
    "hf of a folder": PLAN.replace("llama_3_1_8b", 'hf("folder")'),
    "gguf": PLAN.replace("llama_3_1_8b", 'gguf("model.gguf")'),
    "trace": PLAN.replace("input = 1024, output = 128, batch = 8", 'trace = "service.csv"'),
    "lengths": PLAN.replace("1024", 'empirical("lengths.csv")').replace("batch = 8", "rate = 1 req/s"),
    "rate": PLAN.replace("batch = 8", 'rate = trace_rate("service.csv", 1 min)'),
    "measured": PLAN.replace("  model", '  measured = "gemm.csv"\n  model'),
}


@pytest.mark.parametrize("name", READS)
def test_no_file_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("other.plan", "config.json", "folder", "model.gguf", "service.csv", "lengths.csv", "gemm.csv"):
        (tmp_path / file).mkdir() if file == "folder" else (tmp_path / file).write_text(
            "arrived_at,input,output\n0,1,1\n"
        )
    monkeypatch.chdir(tmp_path)
    for kind in ("estimate", "simulate", "picture"):
        found = ask(kind, READS[name])
        assert codes(found) == ["E597"]
        assert found["diagnostics"][0]["hint"]
        assert found["diagnostics"][0]["line"] >= 1


# ---- whatever comes

BODIES = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "plan", "x", "line"]), inner)
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode()),
)


@draws(0.6)
@given(st.sampled_from(KINDS), BODIES)
@example("estimate", b"[" * 100_000)
@example("estimate", b'{"text": "\\ud800"}')
@example("estimate", b'{"text": "\\u0000"}')
@example("complete", b'{"text": "a\\u2028b", "line": 9, "column": 200}')
@example("hover", b'{"text": "", "line": 1, "column": 1}')
@example("picture", b'{"text": "", "view": "nothing"}')
@example("estimate", b'{"text": "", "text": {}}')
@example("estimate", b'{"text": "' + b"a" * 300_000 + b'"}')
def test_every_body_is_answered_with_diagnostics(kind: str, body: bytes) -> None:
    status, said = answer(kind, body, 1.0)
    assert status in (200, 400)
    found = json.loads(said)["diagnostics"]
    assert status == 200 or [d["code"] for d in found] == ["E599"]
    assert all(d["code"] in CODES and d["message"] for d in found)


@draws(0.3)
@given(st.text(alphabet='plan{}=\n "#,%[]()@8abtp', max_size=40))
def test_every_text_is_answered(text: str) -> None:
    for kind in KINDS:
        found = ask(kind, text, view="memory")
        assert all("span" not in d and (not d.get("here") or d["file"] == FILE) for d in found["diagnostics"])


def test_every_code_of_the_server_is_used_in_it() -> None:
    folders = ("plandsl/playground", "plandsl/commands", "backends/serve", "grammar")
    text = "".join(path.read_text() for folder in folders for path in (ROOT / folder).glob("*.py"))
    assert [code for code in SERVE_CODES if f'"{code}"' not in text] == []


def test_a_fix_is_an_edit_that_works() -> None:
    found = ask("fixes", PLAN.replace("llama_3_1_8b", "llama_3_1_8c").replace("tp =", "tpp ="))
    assert found["fixable"]
    for wrong in found["diagnostics"]:
        (edit,) = wrong["fixes"][0]["edits"]
        lines = PLAN.replace("llama_3_1_8b", "llama_3_1_8c").replace("tp =", "tpp =").split("\n")
        line = lines[edit["line"] - 1]
        lines[edit["line"] - 1] = line[: edit["column"] - 1] + edit["text"] + line[edit["end_column"] - 1 :]
        assert wrong["code"] not in codes(ask("estimate", "\n".join(lines)))
    assert not ask("fixes", PLAN)["fixable"]
    assert not ask("fixes", READS["hf"])["fixable"]


def test_searches_are_answered() -> None:
    text = (ROOT / "examples" / "search_70b.plan").read_text()
    assert ask("estimate", text)["searches"] == ["interactive", "offline"]
    found = ask("search", text)["searches"]
    assert list(found) == ["interactive", "offline"]
    assert "pp 8, batch 64" in json.dumps(found["offline"])
    assert codes(ask("estimate", SEARCH)) == []
    assert codes(ask("picture", SEARCH)) == ["E401"]
    assert codes(ask("search", PLAN)) == ["E401"]
    assert codes(ask("search", "search s { vary output in 1..9")) == ["E104"]
