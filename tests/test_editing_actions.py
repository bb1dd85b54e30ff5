"""Fixes, the outline, folds, the meaning of tokens, and the texts between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.editing import changes, dense
from plandsl.diagnostics import Span
from plandsl.editing.actions import LONG, MOST_READ, Edit, actions, apply
from plandsl.editing.inlays import inlays
from plandsl.editing.outline import TYPES, folds, outline, painted
from plandsl.editing.reading import Reading
from plandsl.limits import MAX_ERRORS
from tests.draws import pick
from tests.test_slips import TABLE

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.plan"))
OWN = (ROOT / "examples" / "own_model.plan").read_text("utf-8")

UNMENDED = {
    "a command of planc",
    "a fence",
    "a plan without a name",
    "a rate per minute",
    "a word of another tool that varies",
    "an equals sign in `vary`",
}
"""Slips whose hint leaves something to be chosen: a name, a list, which lines, or whose fix brings another mistake."""


@pytest.mark.parametrize("name", sorted(TABLE)[pick(6, "actions") :: 6])
def test_a_hint_is_an_action_that_works(name):
    """An action is offered for each slip that has one fix; what it makes lacks this mistake, and has no new one."""
    reading = Reading(TABLE[name].text)
    found = [d for d in reading.check() if d.severity == "error"]
    offered = actions(reading, found)
    assert bool(offered) != (name in UNMENDED)
    for action in offered[:3]:
        after = Reading(apply(reading.text, action.edits))
        errors = [d for d in after.check() if d.severity == "error"]
        old = [(d.code, d.message) for d in found]
        assert old.count((action.of.code, action.of.message)) > sum(d.message == action.of.message for d in errors)
        assert all((d.code, d.message) in old or d.code[:2] > action.of.code[:2] for d in errors)


def test_what_is_missing_is_written_at_the_end_of_its_body():
    text = "plan p {\n  model = qwen3_8b\n  node = h100_8 # here\n}\n"
    reading = Reading(text)
    (action,) = actions(reading, reading.check())
    assert apply(text, action.edits) == text.replace("}", "  workload { input = 1000, output = 100, batch = 8 }\n}")
    empty = Reading("plan p { }")
    fixed = [apply(empty.text, one.edits) for one in actions(empty, empty.check())]
    assert fixed[:2] == ["plan p { model = llama_3_1_70b }", "plan p { node = mi325x_8 }"]


A_PLAN = "plan p { model = qwen3_8b, node = h100_8, BODYworkload { input = 1000, output = 100, batch = 8 } }\n"


@pytest.mark.parametrize(
    ("text", "titles", "fixed"),
    [
        (
            A_PLAN.replace("BODY", "sharding { tp = 4, tp = 8 }, "),
            ["remove `tp = 8`", "remove `tp = 4`"],
            [A_PLAN.replace("BODY", f"sharding {{ tp = {n} }}, ") for n in (4, 8)],
        ),
        (
            A_PLAN.replace("BODY", "\n  node = h100_4\n  "),
            ["remove `node = h100_4`", "remove `node = h100_8`"],
            [A_PLAN.replace("BODY", "\n  "), A_PLAN.replace("node = h100_8, BODY", "\n  node = h100_4\n  ")],
        ),
        (
            A_PLAN.replace("BODY", "").replace("batch = 8", "batch = 8, concurrency = 4"),
            ["remove `concurrency = 4`", "remove `batch = 8`"],
            [A_PLAN.replace("BODY", "").replace("batch = 8", field) for field in ("batch = 8", "concurrency = 4")],
        ),
        (A_PLAN.replace("BODY", "").replace(", node", ",, node"), ["remove `,`"], [A_PLAN.replace("BODY", "")]),
        (A_PLAN.replace("BODY", "") + "}", ["remove `}`"], [A_PLAN.replace("BODY", "")]),
        ("let a = (1 + 2))\n", ["remove `)`"], ["let a = (1 + 2)\n"]),
        (
            A_PLAN.replace("BODY", "require ttft =< 3 s, "),
            ["write `<=`"],
            [A_PLAN.replace("BODY", "require ttft <= 3 s, ")],
        ),
        (
            A_PLAN.replace("BODY", "require throughput => 3 tok/s, "),
            ["write `>=`"],
            [A_PLAN.replace("BODY", "require throughput >= 3 tok/s, ")],
        ),
        ("plan = { }\n", [], []),
    ],
    ids=[
        "a field twice in a row", "a field twice on a line of its own", "fields that exclude each other",
        "a comma too many", "a brace at the end", "a bracket too many", "signs the wrong way round",
        "other signs the wrong way round", "no name to write",
    ],
)  # fmt: skip
def test_what_is_too_much_is_removed_alone(text, titles, fixed):
    reading = Reading(text)
    found = [d for d in reading.check() if d.severity == "error"]
    offered = actions(reading, found[:1])
    assert [one.title for one in offered] == titles
    assert [apply(text, one.edits) for one in offered] == fixed


def test_a_word_is_written_into_a_body_behind_the_bodies_in_it():
    text = "plan p { model = qwen3_8b, node = h100_8, sharding { tp = 8, cut = [36] } }"
    reading = Reading(text)
    (found,) = [d for d in reading.check() if d.severity == "error"]
    (action,) = actions(reading, [found])
    assert apply(text, action.edits) == f"{text[:-2]}, workload {{ input = 1000, output = 100, batch = 8 }} }}"


def test_no_fix_is_sought_for_a_finding_elsewhere():
    reading = Reading("let a = (1 + 2))\n")
    (found,) = reading.look()
    assert actions(reading, [found])
    assert actions(reading, [found._replace(span=None)]) == []
    assert actions(reading, [found._replace(span=found.span._replace(file="other.plan"))]) == []


def test_a_long_text_has_few_fixes_tried():
    """Each fix that is tried reads the whole text again."""
    many = "".join(f"plan p{n} {{ modle = qwen3_8b, node = h100_9 }}\n" for n in range(60))
    reading = Reading(many + "# " + "x" * 4 * LONG)
    found = [d for d in reading.look() if d.severity == "error"]
    assert len(found) == MAX_ERRORS
    assert len(actions(reading, found)) <= MOST_READ / 16


def test_an_action_says_what_it_writes():
    reading = Reading("plan p {\n  model = lama_3_1_8b\n  node = h100_8\n  workload { input = 1, output = 1 }\n}\n")
    (found,) = [d for d in reading.check() if d.severity == "error"]
    first = actions(reading, [found])[0]
    assert first.title == "write `llama_3_1_8b`"
    assert apply(reading.text, first.edits) == reading.text.replace("lama", "llama", 1)


def test_edits_are_made_from_the_end_to_the_start():
    reading = Reading("let a = 1\nlet b = 2\n")
    spans = [let.name.span for let in reading.unit.lets.values()]
    assert apply(reading.text, [Edit(span, "long_name") for span in spans]) == "let long_name = 1\nlet long_name = 2\n"
    last = Span("", 2, 1, 3, 1)  # with its line end, which a last line may lack
    assert apply("let a = 1\nlet b = 2", [Edit(last, "")]) == "let a = 1\n"


@pytest.mark.parametrize("path", EXAMPLES[pick(4, "outline") :: 4], ids=lambda p: p.stem)
def test_the_shape_of_a_text_is_that_of_its_brackets(path):
    reading = Reading(path.read_text("utf-8"), str(path))
    entries = outline(reading)
    assert [e.name for e in entries if e.kind == "plan"] == reading.plans
    for entry in entries:
        assert reading.slice(entry.at) == entry.name
        for part in entry.parts:
            assert entry.span[1:3] <= part.span[1:3] <= part.at[1:3] <= part.span[3:5] <= entry.span[3:5]
    for fold in folds(reading):
        assert fold.first < fold.last <= len(reading.lines)
    tokens = painted(reading)
    assert [t.span for t in tokens] == sorted(t.span for t in tokens)
    assert {t.type for t in tokens} <= set(TYPES)
    words = {t.span for t in reading.tokens if t.text[:1].isalnum()}
    assert words <= {t.span for t in tokens}, "every word has a meaning"


def test_inlays_say_what_is_derived():
    said = {(one.line, one.text) for one in inlays(Reading(OWN), 1, 60)}
    texts = dict(said)
    assert texts[28] == "= 8 GPUs"
    assert texts[16] == "16 x 3,000 x 1,536, all_reduce over tensor"
    assert texts[25].startswith("TTFT ")
    some = inlays(Reading("model m { hidden = 8, ffn = 4 * hidden }\nlet a = 2 GB / 1 GB/s\n"), 1, 9)
    assert [(one.line, one.text) for one in some] == [(1, "= 32"), (2, "= 2.00 s")]
    assert inlays(Reading(OWN), 1, 60, stopped=lambda: True) == []


def test_the_outline_has_every_kind_of_part():
    text = """let a = 2
model m {
  layers = 2, hidden = 8
  stored { w_up = fp8 }
  block attn x[tokens, hidden] { x = x }
  block y[tokens, hidden] { y = f(y) + z }
  head rms_norm(x)
}
workload w { rate = 2 req/s, class chat { input = 9, output = 9 } }
plan p = q with { require p99(ttft) <= 2 s, require tpot <= 9 ms, 3 }
"""
    told = [(e.kind, e.name, [(part.kind, part.name) for part in e.parts]) for e in outline(Reading(text))]
    blocks = [("block", "attn"), ("block", "block")]
    assert told == [
        ("let", "a", []),
        ("model", "m", [("field", "layers"), ("field", "hidden"), ("section", "stored"), *blocks]),
        ("workload", "w", [("field", "rate"), ("class", "chat")]),
        ("plan", "p", [("require", "require p99"), ("require", "require tpot")]),
    ]
    painted_words = {Reading(text).slice(one.span): one.type for one in painted(Reading(text))}
    assert (painted_words["p99"], painted_words["tpot"], painted_words["a"]) == ("function", "enumMember", "variable")
    assert painted_words["ttft"] == "enumMember", "in a percentile"


def test_inlays_say_nothing_of_what_is_not_seen_or_does_not_compile():
    text = "plan p { model = qwen3_embedding_8b, node = h100_8, workload { input = 100, output = 0 } }\n"
    (one,) = inlays(Reading(text), 1, 1)
    assert "TPOT" not in one.text
    assert "TTFT" in one.text
    assert inlays(Reading("\n\n" + text), 1, 2) == []
    assert inlays(Reading(text.replace("qwen3_embedding_8b", "no_such_model")), 1, 9) == []
    kept = text.replace("output = 0 }", "output = 0 }, require ttft <= 9 s")
    assert inlays(Reading(kept), 1, 1)[0].text.endswith("all requirements met")


def test_a_dense_file_has_its_size():
    assert 500 <= dense(500).count("\n") <= 540
    assert [d for d in Reading(dense(500)).look() if d.severity == "error"] == []
    assert len(set(changes(dense(500)))) >= 20
