"""Diagnostics and differences as build services show them: SARIF, commands of GitHub, plans that a change touches."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from plandsl.annotations import github, sarif
from plandsl.cli import main
from plandsl.diagnostics import Diagnostic, Label, Span

PLAN = """plan p {
  model = llama_3_1_8b, node = h100_8, sharding { tp = TP }
  workload { input = 100, output = 10, batch = 4 }
}
plan q = p with { workload { batch = 8 } }
"""
WRONG = PLAN.replace("TP", "3")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return run


def undone(text: str) -> str:
    """What GitHub reads of an escaped text."""
    return re.sub("%([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), text)


def findings(run) -> list[dict]:
    """Those of `wrong.plan`, in the order of the source."""
    found = json.loads(run("check", "wrong.plan", "--format", "json")[1])["diagnostics"]
    assert found == json.loads(run("check", "wrong.plan", "--json")[1])["diagnostics"]
    return sorted(found, key=lambda d: (d["line"], d["column"], d["end_line"], d["end_column"]))


def test_github_gets_a_command_for_each_finding_and_people_their_text(run):
    Path("wrong.plan").write_text(WRONG)
    status, out, err = run("check", "wrong.plan", "--format", "github")
    _, _, usual = run("check", "wrong.plan")
    assert (status, err) == (2, usual)
    found = findings(run)
    assert len(out.splitlines()) == len(found) > 0
    at = next(i for i, d in enumerate(found) if d["code"] == "E301")
    fields, text = re.fullmatch("::error (.*?)::(.*)", out.splitlines()[at]).groups()
    first = WRONG.splitlines()[1].index("tp") + 1
    assert fields == f"file=wrong.plan,line=2,endLine=2,col={first},endColumn={first + 1},title=E301"
    assert undone(text).splitlines()[0] == found[at]["message"]
    assert undone(text).splitlines()[-1] == f"help: {found[at]['hint']}"


def test_what_ends_a_command_or_a_field_is_escaped():
    odd = Diagnostic("W301", "100 %\nof a, b: c", Span("a,b:c.plan", 1, 2, 3, 4), hint="x")
    assert github([odd, Diagnostic("N290", "so")]) == (
        "::warning file=a%2Cb%3Ac.plan,line=1,endLine=3,title=W301::100 %25%0Aof a, b: c%0Ahelp: x\n"
        "::notice title=N290::so\n"
    )


def test_sarif_has_a_rule_for_each_code_and_a_place_for_each_span(run):
    Path("wrong.plan").write_text(WRONG)
    status, out, _ = run("check", "wrong.plan", "--format", "sarif")
    found = findings(run)
    log = json.loads(out)
    (one,) = log["runs"]
    assert (status, log["version"], len(one["results"])) == (2, "2.1.0", len(found))
    rules = one["tool"]["driver"]["rules"]
    for result, d in zip(one["results"], found, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == d["code"]
        assert (result["level"], result["message"]["text"].splitlines()[0]) == (d["severity"], d["message"])
        (place,) = result["locations"]
        region = {"startLine": d["line"], "startColumn": d["column"], "endLine": d["end_line"]}
        region |= {"endColumn": d["end_column"]}
        physical = {"artifactLocation": {"uri": "wrong.plan"}, "region": region}
        assert place == {"physicalLocation": physical}
        assert [r["message"]["text"] for r in result.get("relatedLocations", [])] == [
            r["message"] for r in d.get("related", [])
        ]


def test_notes_are_told_to_machines_alone(run):
    Path("right.plan").write_text(PLAN.replace("TP", "4"))
    status, out, err = run("check", "right.plan", "--format", "sarif")
    assert (status, err) == (0, "")
    assert {result["level"] for result in json.loads(out)["runs"][0]["results"]} == {"note"}
    assert sarif([])["runs"][0]["results"] == []


def test_paths_are_uris():
    def uri(file):
        span = Span(file, 1, 1, 1, 2)
        d = Diagnostic("E301", "x", span, labels=(Label(span, "y"),))
        (result,) = sarif([d])["runs"][0]["results"]
        assert result["relatedLocations"][0]["physicalLocation"] == result["locations"][0]["physicalLocation"]
        return result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]

    assert (uri("a b/c.plan"), uri("/a b/c.plan")) == ("a%20b/c.plan", "file:///a%20b/c.plan")


def test_each_plan_is_compared_with_its_namesake(run):
    Path("old.plan").write_text(PLAN.replace("TP", "4") + "plan gone = p with { workload { batch = 2 } }\n")
    Path("new.plan").write_text(PLAN.replace("tp = TP", "tp = 8").replace("plan q", "plan r"))
    status, out, err = run("diff", "--each", "old.plan", "new.plan")
    assert (status, err) == (0, "")
    one = run("diff", "old.plan:p", "new.plan:p")[1]
    assert out == one + "\nremoved: q, gone\nadded: r\n"
    body = json.loads(run("diff", "--each", "old.plan", "new.plan", "--json")[1])
    assert [p["name"] for p in body["plans"]] == ["p"]
    assert (body["removed"], body["added"]) == (["q", "gone"], ["r"])
    assert run("diff", "--each", "old.plan", "old.plan")[1] == "the same: p, q, gone\n"


def test_each_takes_two_files(run):
    Path("old.plan").write_text(PLAN.replace("TP", "4"))
    status, out, err = run("diff", "--each", "old.plan")
    assert (status, out) == (2, "")
    assert err.startswith("error[E400]: `planc diff --each` compares the plans of two files, found 1")
