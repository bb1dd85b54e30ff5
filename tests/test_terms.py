"""Words that `planc explain` defines: every label of every report, and what a name stands for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from plandsl import printing
from plandsl.answers.explanation import BOUNDS
from plandsl.answers.text.explanation import NAMES
from plandsl.answers.text.resources import SUMS
from plandsl.cli import main
from plandsl.codes import CODES
from plandsl.driver import compile_file
from plandsl.ir.ops import COLLECTIVES
from plandsl.tables import Sheet, cell_text
from plandsl.terms import TERMS, find_term, plain_word

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"of", "a", "the", "in", "per", "and", "to", "on", "by", "at", "with", "had", "for", "ms", "s", "none"}
"""Words that stand between terms."""

FILES = ("llama3_70b", "split_llama_3_3_70b", "shift_llama_3_3_70b", "speculate", "unlike_gpus", "experts")
PLANS = {"shift_llama_3_3_70b": "shift", "speculate": "guessed", "llama3_70b": "hybrid"}


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[Sheet]:
    """The tables that are printed."""
    found: list[Sheet] = []
    fits = printing._fits
    monkeypatch.setattr(printing, "_fits", lambda sheet, width: found.append(sheet) or fits(sheet, width))
    return found


def labels(sheet: Sheet) -> list[str]:
    """What stands in the head and in the first column."""
    head = [cell_text(column.header).plain for column in sheet.columns] if sheet.show_header else []
    names = sheet.columns[::2] if sheet.pairs else sheet.columns[:1]
    names = [] if head[:1] == ["what differs"] else names  # fields of plans
    return [*head, *(cell_text(cell).plain for column in names for cell in column.cells)]


def explained(label: str, names: set[str]) -> bool:
    """Whether a label, or each of its words, is a term, a number or one of the ``names`` that plans declare."""
    if find_term(label) or not label.strip() or label in CODES:
        return True
    if ", " in label:
        return all(explained(part, names) for part in label.split(", "))
    words = re.findall(r"[A-Za-z_]\w*(?:[/-]\w+)*", label)
    return all(find_term(word) or word in SMALL | names for word in words)


def unexplained(found: list[Sheet], names: set[str]) -> set[str]:
    return {one.strip() for sheet in found for one in labels(sheet) if not explained(one, names)}


def test_every_label_of_the_reports_of_plans_is_explained(sheets, capsys) -> None:
    names: set[str] = set()
    for name in FILES:
        path = ROOT / f"examples/{name}.plan"
        plan = next(p for p in compile_file(path) if p.name == PLANS.get(name, p.name))
        e = plan.estimate()
        names |= {plan.name, "dp8", "ulysses", "ulysses_tp"} | {op.gpu for op in e.prefill.ops}
        names |= {op.name for phase in (e.prefill, e.decode) for op in phase.ops}
        main(["compile", str(path), "--plan", plan.name])
    main(["explain", str(ROOT / "examples/speculate.plan"), "--plan", "guessed"])
    main(["diff", str(ROOT / "examples/shift_llama_3_3_70b.plan:dp8"), str(ROOT / "examples/speculate.plan:guessed")])
    assert unexplained(sheets, names) == set()


def test_every_label_of_the_other_reports_is_explained(sheets, capsys) -> None:
    operator = str(ROOT / "examples/traffic/operator.plan")
    main(["simulate", operator, "--requests", "20"])
    main(["simulate", operator, "--requests", "10", "--find-rate", "--plan", "one_h100", "--plan", "two_h100"])
    main(["autoscale", operator, "--requests", "10", "--every", "10min"])
    main(["search", str(ROOT / "examples/search_70b.plan"), "--search", "interactive"])
    assert len(sheets) > 12
    assert unexplained(sheets, {"two_l40s", "one_h100", "two_h100"}) == set()
    for word in ("gpu", "group", "rows", "answered", "median", "mean", "p90", "bias", "in band"):  # of `planc accuracy`
        assert find_term(word)


def test_every_bound_and_origin_is_explained() -> None:
    for word in (*BOUNDS, *BOUNDS.values(), *NAMES, *(name for name, _ in SUMS), *(op.keyword for op in COLLECTIVES)):
        assert explained(word, set()), word


# ---- what a name stands for


def told(capsys, *words: str) -> tuple[int, str, str]:
    status = main(["explain", *words])
    return (status, *capsys.readouterr())


def test_spellings_are_of_one_term() -> None:
    words = [plain_word(word) for name, term in TERMS.items() for word in (name, *term.also)]
    assert sorted(words) == sorted(set(words))
    assert not {word.upper() for word in words} & set(CODES)


@pytest.mark.parametrize("word", ["TTFT", "ttft", "KV cache", "kv-cache", "in_flight", "Exposed", "p95", "dominated"])
def test_a_word_is_found_however_it_is_written(word, capsys) -> None:
    status, out, err = told(capsys, *word.split())
    assert (status, err) == (0, "")
    assert out.startswith(f"{find_term(word)}: ")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("tpto", "did you mean `TPOT`?"), ("bubbel", "did you mean `bubble`?"), ("preemtion", "`preemption`"),
        ("E998", "did you mean `E"), ("X123", "known here"),
        ("h100_8", "`planc catalog h100_8` prints"), ("qqqq", "words of reports are explained"),
    ],
)  # fmt: skip
def test_a_near_miss_is_told_what_is_meant(word, hint, capsys) -> None:
    status, _, err = told(capsys, word)
    assert status == 2
    assert "error[E407]" in err
    assert hint in err


def test_a_file_comes_before_a_code_and_a_word(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    plan = "plan p { model = llama_3_1_8b, node = h100_1, workload { input = 100, output = 10 } }\n"
    for name, other in (("band", "term:band"), ("E301", "code:E301")):
        assert told(capsys, name)[1].startswith(f"{name}: ")
        Path(name).write_text(plan)
        status, out, err = told(capsys, name)
        assert status == 0
        assert "where the time goes" in out
        assert f"planc explain {other}" in err
        status, out, err = told(capsys, other)
        assert (status, err) == (0, "")
        assert out.startswith(f"{name}: ")


def test_a_folder_is_no_file(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("memory").mkdir()
    Path("things").mkdir()
    assert told(capsys, "memory")[1].startswith("memory per GPU: ")
    assert "a folder has this name" in told(capsys, "things")[2]


def test_terms_have_a_machine_form(capsys) -> None:
    body = json.loads(told(capsys, "MFU", "--json")[1])
    assert body["term"] == "MFU"
    assert body["page"] == "docs/cost.md#utilisation"


def test_terms_point_at_pages_that_exist() -> None:
    for name, term in TERMS.items():
        path, _, anchor = term.page.partition("#")
        heads = re.findall(r"^#+ (.*)$", (ROOT / path).read_text("utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, name
        assert term.text.endswith((".", ")."))
