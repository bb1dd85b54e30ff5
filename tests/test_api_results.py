"""What answers show of themselves, and their tables."""

from __future__ import annotations

import io
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import plandsl
from plandsl import Plan, PlanError, Search, Sharding, Table, Workload
from plandsl.backends.graphviz.picture import Picture
from plandsl.ir.text import show

SERVE = Plan(
    name="serve",
    model="llama_3_1_8b",
    node="h100_8",
    sharding=Sharding(tp=2, pp=2),
    workload=Workload(input=1024, output=128, batch=8),
    require=["tpot <= 50 ms"],
)
CHAT = SERVE.with_(
    name="chat",
    engine="vllm",
    workload=Workload(input="uniform(100, 900)", output=20, rate="10 req/s", requests=20, seed=3),
)


@cache
def answers() -> dict[str, Any]:
    """One answer of each kind, with what its line starts with."""
    chat, serve = CHAT.compile(), SERVE.compile()
    search = Search(plan=SERVE, vary={"tp": [1, 2], "batch": [1, 8]}, where="tp <= 2")
    return {
        "<Estimate serve: fits, TTFT ": serve.estimate(),
        "<Explanation serve: TTFT bound by FLOP/s, ": serve.explain(),
        "<Difference serve -> chat: ttft ": serve.diff(chat),
        "<Run chat: 20 requests, TTFT p50 ": chat.simulate(),
        "<FoundRate chat: ": chat.find_rate(requests=10),
        "<OverSeeds chat: 2 seeds, ok": chat.simulate_seeds(2),
        "<SearchAnswer search: 4 of 4 configurations": search.run(),
        "<CompiledPlan serve: llama_3_1_8b on h100_8, 4 GPUs>": serve,
        "<Plans serve>": plandsl.compile_all(SERVE),
        "<Program llama_3_1_8b decode: ": serve.program("decode"),
        "Plan(name='serve', model='llama_3_1_8b', ": SERVE,
        "<Table decode: ": serve.estimate().table("decode"),
    }


def test_a_program_names_its_mesh() -> None:
    text = "plan p { model = llama_3_1_8b, node = h100_8, SHARDING workload { input = 9, output = 9 } }"
    sharded = "sharding { tp = 2, sp = 2 },"
    (alone,), (split,) = (plandsl.compile_all(text.replace("SHARDING", s)) for s in ("", sharded))
    assert repr(alone.program("decode")).endswith(", on one device>")
    assert repr(split.program("decode")).endswith(", on seq 2 x tensor 2>")


def test_answers_are_a_line_a_report_and_html() -> None:
    for start, answer in answers().items():
        line, html = repr(answer), answer._repr_html_()
        assert line.startswith(start)
        assert "\n" not in line
        assert html.startswith(("<pre", "<table"))
        file = io.StringIO()
        Console(file=file, width=120).print(answer)
        report = file.getvalue()
        assert len(report.splitlines()) >= 2
        for word in re.findall(r"[a-z_]{6,}", report)[:20]:
            assert word in html


def test_a_report_is_the_one_that_planc_prints(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    from plandsl.cli import main

    path = tmp_path / "serve.plan"
    path.write_text(str(SERVE))
    assert main(["compile", str(path)]) == 0
    file = io.StringIO()
    Console(file=file, width=120).print(SERVE.estimate())
    assert file.getvalue() == capsys.readouterr().out


def test_names_with_markup_are_shown_as_they_are() -> None:
    table = Table("t", {"name": np.array(["[bold]x[/bold]", "<b>"])})
    file = io.StringIO()
    Console(file=file, width=120).print(SERVE.compile().program("decode"))
    assert show(SERVE.compile().program("decode")).split("\n")[1] in file.getvalue()
    assert "&lt;b&gt;" in table._repr_html_()


@pytest.mark.usefixtures("drawing")
def test_pictures_show_themselves_as_svg() -> None:
    picture = SERVE.draw("timeline")
    assert isinstance(picture, Picture)
    assert picture.startswith("digraph")
    svg = picture._repr_svg_()
    assert svg is not None
    assert svg.startswith("<svg")


def test_a_picture_without_graphviz_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PlanError([plandsl.Diagnostic("E430", "Graphviz is missing")])

    monkeypatch.setattr("plandsl.backends.graphviz.picture.render", fail)
    assert SERVE.draw()._repr_svg_() is None


def test_every_table_has_columns_of_one_length() -> None:
    names = {}
    for answer in answers().values():
        for name in getattr(answer, "tables", ()):
            table = answer.table(name)
            assert len({len(column) for column in table.columns.values()}) == 1
            assert len(list(table)) == len(table)
            names[name] = table
    assert {"decode", "memory", "communication", "requires", "stages", "rows", "front", "records", "percentiles"} <= {
        *names
    }


def test_tables_say_what_the_answers_say() -> None:
    e, why = SERVE.estimate(), answers()["<Explanation serve: TTFT bound by FLOP/s, "]
    ops = e.table("decode")
    assert ops["time_s"].sum() == pytest.approx(sum(op.time_s for op in e.decode.ops))
    assert ops["count"].dtype == np.int64
    assert e.table("memory")["share"].sum() == pytest.approx(1)
    sent = e.table("communication")
    assert sent["wire_bytes_per_request"].sum() == pytest.approx(e.communication.per_request)
    flows = SERVE.flows()[1]
    assert flows.table()["bytes"].sum() == pytest.approx(flows.total)
    assert e.table("money")["value"][0] == e.money.usd_per_h  # type: ignore[union-attr]
    assert e.table("stages")["total_bytes"].tolist() == [held.total for held in e.stages]
    assert next(iter(e.table("requires"))) == {"text": "tpot <= 50 ms", "value": e.tpot_s, "ok": True}
    assert why.table("tpot")["value"].sum() == pytest.approx(e.tpot_s)
    found = answers()["<Difference serve -> chat: ttft "]
    assert found.table("tpot")["change"].sum() == pytest.approx(found.tpot.change)
    run = answers()["<Run chat: 20 requests, TTFT p50 "]
    assert run.table("records")["ttft_s"].mean() == pytest.approx(run.simulation.summary.ttft.mean.value)
    assert run.table("percentiles")["p50"][0] == run.simulation.summary.ttft.p50.value


def test_metrics_of_arrays_are_a_table_with_the_load() -> None:
    found = SERVE.evaluate(batch=np.array([1, 8]), output=np.array([[16], [64]]))
    table = found.table()
    assert table["batch"].tolist() == [1, 8, 1, 8]
    assert table["output"].tolist() == [16, 16, 64, 64]
    assert table["latency_s"].tolist() == found.latency.ravel().tolist()
    assert repr(found).startswith("<Metrics of 2 x 2 configurations")
    assert repr(SERVE.evaluate()).startswith("<Metrics: fits, TTFT ")


def test_tables_are_read_only_and_have_types() -> None:
    table = Table.of_rows("t", [{"a": 1, "b": None, "c": "x", "d": True}, {"a": 2, "b": 0.5, "c": None, "d": False}])
    assert [column.dtype.kind for column in table.columns.values()] == ["i", "f", "O", "b"]
    with pytest.raises(ValueError, match="read-only"):
        table["a"][0] = 3
    assert (len(Table.of_rows("t", [], ("a", "b"))), repr(Table.of_rows("t", [], ("a",)))) == (
        0,
        "<Table t: 0 rows of a>",
    )


def test_arrow_takes_every_table() -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra [arrow]")
    for answer in answers().values():
        for name in getattr(answer, "tables", ()):
            table = answer.table(name)
            taken = pyarrow.table(table)  # by __arrow_c_stream__
            assert taken.column_names == list(table.columns)
            assert taken.num_rows == len(table)
            assert pyarrow.schema(table) == taken.schema
    table = Table.of_rows("t", [{"a": 1.0, "c": "x"}, {"a": None, "c": None}])
    assert pyarrow.table(table).to_pylist() == [{"a": 1.0, "c": "x"}, {"a": None, "c": None}]


def test_without_pyarrow_arrow_is_a_diagnostic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(PlanError) as caught:
        SERVE.estimate().table("memory").to_arrow()
    assert "plandsl[arrow]" in caught.value.diagnostics[0].hint


def test_ipython_prints_a_mistake_without_a_traceback() -> None:
    with pytest.raises(PlanError) as caught:
        SERVE.with_(sharding={"tp": 3}).compile()
    shown = re.sub("\033\\[[0-9;]*m", "", "\n".join(caught.value._render_traceback_()))
    assert shown == str(caught.value)
    assert "serve.plan:4:14" in shown
