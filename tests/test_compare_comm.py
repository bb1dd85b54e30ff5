"""`planc compare-comm`: what several plans send, as the report's table of communication says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plandsl.backends.graphviz.compare import draw_compared
from plandsl.cli import main
from plandsl.driver import compare_communication, compile_file
from tests.pictures import cuts, faults, read_picture

ROOT = Path(__file__).parents[1]
PLANS = "examples/llama3_70b.plan"
POOLS = "examples/split_llama_3_3_70b.plan"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["compare-comm", *arguments])
    return status, *capsys.readouterr()


@pytest.fixture(autouse=True)
def here(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


def test_sums_are_those_of_the_report(capsys) -> None:
    assert main(["compile", PLANS, "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)["plans"]
    status, out, _ = run(capsys, PLANS, "--json")
    assert status == 0
    for found, report in zip(json.loads(out)["plans"], reports, strict=True):
        sent = report["communication"]
        assert found["plan"] == report["plan"]
        assert found["wire_bytes_per_request"] == sent["wire_bytes_per_request"]
        for phase, body in found["phases"].items():
            assert body["total"] == sent["totals"][phase]
            for axis in body["axes"]:
                rows = [row for row in sent["rows"] if (row["phase"], row["axis"]) == (phase, axis["axis"])]
                assert axis["calls"] == sum(row["calls"] for row in rows)
                assert axis["wire_bytes"] == pytest.approx(sum(row["wire_bytes"] for row in rows))


def test_the_table_has_a_line_for_each_plan_phase_and_axis(capsys) -> None:
    status, out, _ = run(capsys, PLANS, f"{POOLS}:split")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines if len(line) == 1] == ["prefill", "decode", "transfer"]
    hybrid = lines.index(next(line for line in lines if line[:2] == ["hybrid", "tensor"]))
    assert [line[0] for line in lines[hybrid + 1 : hybrid + 3]] == ["stage", "all"]
    assert "hybrid           stage 2 x tensor 4" in out
    assert all(len(line) <= 120 for line in out.splitlines())


def test_plans_of_one_name_are_told_apart_by_their_files(capsys, tmp_path) -> None:
    other = tmp_path / "other.plan"
    other.write_text((ROOT / POOLS).read_text())
    _, out, _ = run(capsys, f"{POOLS}:together", str(other), "--plan", "together", "--json")
    assert [one["plan"] for one in json.loads(out)["plans"]] == ["split_llama_3_3_70b:together", "other:together"]


def test_too_many_plans_are_refused(capsys, tmp_path) -> None:
    many = tmp_path / "many.plan"
    more = "\n".join(f"plan p{i} = p0" for i in range(1, 41))
    load = "workload { input = 100, output = 10, batch = 1 }"
    many.write_text(f"plan p0 {{ model = llama_3_2_1b, node = h100_1, {load} }}\n{more}\n")
    status, _, err = run(capsys, str(many))
    assert status == 2
    assert err.startswith("error[E458]: 41 plans are too many to compare: at most 40")
    assert f"planc compare-comm {many}:p0" in err


@pytest.mark.parametrize("arguments", [[f"{PLANS}:hybird"], ["nowhere.plan"], [PLANS, "-o", "x.jpeg"]])
def test_wrong_arguments_are_diagnosed(capsys, arguments: list[str]) -> None:
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err.startswith("error[E")


def test_its_picture_has_room_for_all_texts(capsys, tmp_path) -> None:
    plans = [*compile_file(PLANS), *compile_file("examples/shift_llama_3_3_70b.plan")[:4], *compile_file(POOLS)[:1]]
    dot = draw_compared(compare_communication(plans))
    assert (faults(dot), cuts(read_picture(dot))) == ([], [])
    assert "sends nothing" in read_picture(dot).words
    out = tmp_path / "x.dot"
    assert run(capsys, PLANS, "-o", str(out))[1].endswith(f"picture: {out}\n")
    assert out.read_text().startswith("digraph")
