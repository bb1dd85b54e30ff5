"""What names stand for, across files; and that a rename changes every use and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.diagnostics import PlanError
from plandsl.driver import compile_text
from plandsl.editing.actions import apply, rename
from plandsl.editing.reading import Reading
from plandsl.editing.symbols import Occurrence, definitions, occurrences, path_of, symbol_at, used
from plandsl.grammar.fmt import same_tree
from plandsl.grammar.parse import parse
from tests.draws import draws
from tests.marks import marked

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.plan"))
OWN = (ROOT / "examples" / "own_model.plan").read_text("utf-8")


def names(reading: Reading) -> list[Occurrence]:
    return [o for unit in reading.unit.everywhere() for o in occurrences(unit, reading.module.library)]


def at(text: str, file: str = "<text>") -> tuple[Reading, list[Occurrence], Occurrence]:
    place = marked(text)
    reading = Reading(place.text, file)
    found = names(reading)
    one = symbol_at(found, path_of(reading.unit), place.line, place.column)
    assert one is not None
    return reading, found, one


DECLARED = {
    OWN.replace("model = small", "model = sm¦all"): (3, "small"),
    OWN.replace("h @ w_k[hidden", "h @ w_k[hid¦den"): (5, "hidden"),
    OWN.replace("= own with { sharding = split_tokens", "= o¦wn with { sharding = split_tokens"): (25, "own"),
    OWN.replace("sharding = split_norms", "sharding = split_n¦orms"): (46, "split_norms"),
    OWN.replace("tokens -> seq", "tokens -> s¦eq"): (37, "seq"),
    OWN.replace("a @ w_o", "a¦ @ w_o"): (15, "a"),
    OWN.replace("gelu(h @", "gelu(h¦ @"): (17, "h"),
    OWN.replace("rope(h @ w_k", "rope(h¦ @ w_k"): (11, "h"),
    OWN.replace("@ w_embed", "@ w_em¦bed"): (9, "w_embed"),
    "model m {\n block a x[tokens, hidden] { k = x\n x = k }\n block b x[tokens, hidden] { x = earlier.¦k }\n}": (
        2,
        "k",
    ),
    "let slo = 2 s\nplan p { require ttft <= s¦lo }\n": (1, "slo"),
    "model a { hidden = 8 }\nmodel b = a with { ffn = 2 * hi¦dden }\n": (1, "hidden"),
    "model a {\n hidden = 8 }\nmodel b = a with { } with { ffn = 2 * hi¦dden }\n": (2, "hidden"),
    "let room = mi¦ne.memory\ngpu mine = h100_sxm\n": (2, "mine"),
    "let top = 8\nsearch s { vary batch in 1..to¦p }": (1, "top"),
    "let top = 8\nsearch s { vary batch in 1..64 by + to¦p }": (1, "top"),
    "let one = 1\nlet other = 3 - -o¦ne\n": (1, "one"),
    "workload chat { }\nsearch s { vary workload in [ch¦at] }": (1, "chat"),
    "let many = 2\nsearch s { vary workload.batch in [ma¦ny] }": (1, "many"),
    "engine mine = vllm\nsearch s { vary engine in [vllm, mi¦ne] }": (1, "mine"),
    "workload w {\n class fa¦st { share = 1 } }": (2, "fast"),
    "let part = 1\nworkload w { class fast { share = pa¦rt } }": (1, "part"),
    "let first = 3\nmodel m { block a [layers = 0..fi¦rst] x[tokens] { x = x } }": (1, "first"),
    "model m {\n block qu¦iet x[tokens] { x = x } }": (2, "quiet"),
    "model m {\n block quiet x[tokens] { x = x }\n stored { qui¦et { w_up = fp8 } } }": (2, "quiet"),
    "model m {\n block x[tokens] { x = x @ w_up[hidden] }\n stored { w_u¦p = fp8 } }": (2, "w_up"),
    "model m {\n block quiet x[tokens] { x = x @ w_up[hidden] }\n stored { quiet { w_u¦p = fp8 } } }": (2, "w_up"),
    "model m {\n embedding e = w_rows[vocab] {\n h = rms_norm(e¦)\n h } }": (2, "e"),
    "model m {\n embedding e = w_rows[vocab] {\n h = rms_norm(e)\n h¦ } }": (3, "h"),
    "model m {\n block x[tokens] { x = x @ w_up[hidden] }\n mtp x[tokens] with e[tokens] { x = x + e¦ } }": (3, "e"),
    "model m { block x[tokens] {\n y = experts(x, w_r[tokens]) {\n g = x\n g¦ } } }": (3, "g"),
    "model a {\n block x[tokens] { x = x @ w_up[hidden] } }\nmodel b = a with { stored { w_u¦p = fp8 } }": (2, "w_up"),
    "plan p { sharding {\n mesh wide = 2\n heads -> w¦ide } }": (2, "wide"),
    "sharding s {\n mesh wide = 2 }\nplan p { sharding = s with { heads -> wi¦de } }": (2, "wide"),
    "sharding s {\n mesh wide = 2\n place wi¦de in node }": (2, "wide"),
}


@pytest.mark.parametrize("text", DECLARED)
def test_a_name_leads_to_where_it_is_declared(text):
    reading, found, one = at(text)
    (line, name) = DECLARED[text]
    (found_at,) = definitions(found, one)
    assert (found_at.span.line, reading.slice(found_at.span)) == (line, name)


@pytest.mark.parametrize(
    "text",
    [
        "model a = nothing with { hid¦den = 2 }",
        "model a = nothing with { block x[tokens] { x = x @ w_u¦p[hidden] } }",
        "model a = nothing with { embedding w_row¦s[vocab, hidden] }",
        "model a = nothing with { stored { qui¦et { w_up = fp8 } } }",
        "sharding a = nothing with { mesh wi¦de = 2 }",
        "model a = b\nmodel b = a with { hid¦den = 2 }",
        "model m { block x[tokens] { x = earlier.no¦thing } }",
        "model m { block a x[tokens] { k = x\n x = earlier.k¦ } }",
        "search s { vary 3 + 4 in [chat¦] }\nworkload chat { }",
        "search s { vary nothing.at in [chat¦] }\nworkload chat { }",
        "workload chat { }\nsearch s { vary batch in [ch¦at] }",
        "let tokens = 2\nmodel m { block x[tok¦ens] { x = x } }",
    ],
)
def test_a_name_that_nothing_declares_leads_nowhere(text):
    place = marked(text)
    reading = Reading(place.text)
    assert symbol_at(names(reading), path_of(reading.unit), place.line, place.column) is None


def test_a_name_of_the_catalog_leads_into_its_file():
    _, _, one = at(OWN.replace("node = h100_8", "node = h1¦00_8"))
    assert one.symbol.home == "catalog/nodes/h100.plan"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_occurrence_is_the_name_that_stands_there(path):
    reading = Reading(path.read_text("utf-8"), str(path))
    for one in occurrences(reading.unit, reading.module.library):
        assert reading.slice(one.span) == one.symbol.name or one.symbol.kind == "axis"
    own = [o for o in names(reading) if not o.symbol.home.startswith("catalog/")]
    declared = {o.symbol for o in own if o.defines}
    assert {o.symbol for o in own} == declared, "each is declared somewhere"


@draws(0.5)
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_renamed_text_means_the_same(path, data):
    """Renamed back it is the text that it was, and its plans have the numbers that they had."""
    text = path.read_text("utf-8")
    reading = Reading(text, str(path))
    found = occurrences(reading.unit, reading.module.library)
    one = data.draw(st.sampled_from(found))
    try:
        edits = rename({str(path): reading}, names(reading), one, "renamed_1")
    except PlanError as error:
        refused = [d.code for d in error.diagnostics]
    else:
        refused = []
    if refused:
        assert refused == ["E585"]
        return
    changed = apply(text, edits.pop(path_of(reading.unit)))
    assert changed != text
    used_files = {Path(other): apply(Path(other).read_text("utf-8"), made) for other, made in edits.items()}
    assert [d for d in Reading(changed, str(path), used_files).look() if d.severity == "error"] == []
    tree, _ = parse(changed.replace("renamed_1", one.symbol.name), "a")
    assert same_tree(tree, parse(text, "a")[0])


def test_a_rename_keeps_the_numbers():
    reading, found, one = at(OWN.replace("heads = 24", "hea¦ds = 24"))
    with pytest.raises(PlanError, match="with the name `mine` there would be a mistake"):
        rename({"<text>": reading}, found, one, "mine")  # the rules of shardings say `heads`
    reading, found, one = at(OWN.replace("head_dim = 80", "head_d¦im = 80"))
    edits = rename({"<text>": reading}, found, one, "width")
    assert len(edits["<text>"]) == 6
    before, after = compile_text(OWN), compile_text(apply(reading.text, edits["<text>"]))
    assert [p.estimate().ttft_s for p in before] == [p.estimate().ttft_s for p in after]


def test_a_rename_reaches_every_open_file(tmp_path):
    (tmp_path / "shared.plan").write_text("workload chat { input = 10, output = 10 }\n")
    root, other = tmp_path / "a.plan", tmp_path / "b.plan"
    text = 'use "shared.plan"\nplan p { model = qwen3_8b, node = h100_1, workload = chat }\n'
    root.write_text(text)
    readings = {str(path): Reading(text, str(path)) for path in (root, other)}
    found = [o for reading in readings.values() for o in names(reading)]
    one = symbol_at(found, str(root), 2, 54)
    assert one is not None
    edits = rename(readings, found, one, "talk")
    assert {Path(path).name: len(of) for path, of in edits.items()} == {"a.plan": 1, "b.plan": 1, "shared.plan": 1}
    assert len(list(used(found, one))) == 3


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("plan p { model = qwen3¦_8b }", "mine", "belongs to the catalog"),
        ("let a¦b = 1", "8b", "is no name"),
        ("let a¦b = 1", "mesh", "is a word of the language"),
        ("let a¦b = 1", "a b", "is no name"),
        ("let a¦b = 1\nlet cd = 2", "cd", "`let cd` is declared twice"),
        ("sharding s { t¦p = 2 }", "mine", "is the axis of a degree"),
    ],
)
def test_a_rename_that_cannot_be_says_why(text, name, says):
    reading, found, one = at(text)
    with pytest.raises(PlanError, match=says):
        rename({"<text>": reading}, found, one, name)
