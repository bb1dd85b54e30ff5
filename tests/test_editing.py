"""What an editor knows of a text that is being written: findings as it changes, completions, hovers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.driver import check_module, open_text
from plandsl.editing.complete import complete
from plandsl.editing.hover import about_entry, hover
from plandsl.editing.reading import Reading
from plandsl.grammar.modules import FOLDERS, catalog_names
from plandsl.grammar.parse import parse
from plandsl.grammar.parse_again import parse_again
from plandsl.limits import MAX_ERRORS, MAX_FILE_BYTES
from tests.draws import draws, pick
from tests.marks import marked

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.plan"))
OWN = (ROOT / "examples" / "own_model.plan").read_text("utf-8")


# ---- findings


def test_findings_are_those_of_check():
    for path in EXAMPLES[pick(5, "check") :: 5]:
        text = path.read_text("utf-8")
        assert set(Reading(text, str(path)).check()) == set(check_module(open_text(text, str(path))))


WORDS = (
    "",
    "}",
    "{",
    " = ",
    "tp = 3\n",
    "\n\n",
    "chat",
    "x",
    "8 GB",
    "plan q = own\n",
    "let chat = 2\n",
    "# ",
    "hidden",
)


@draws(0.4)
@given(st.data())
def test_findings_after_edits_are_those_of_a_fresh_reading(data):
    """What is taken over from an earlier version is what would be found anew, at its new place."""
    text, reading = OWN, Reading(OWN)
    for _ in range(data.draw(st.integers(1, 4), "edits")):
        start = data.draw(st.integers(0, len(text)))
        gone = data.draw(st.sampled_from((0, 0, 1, 7, 40)))
        text = text[:start] + data.draw(st.sampled_from(WORDS)) + text[start + gone :]
        reading = Reading(text, before=reading)
        assert reading.unit.tree == parse(text, reading.file)[0]
        assert reading.look() == Reading(text).look(), text


@draws(2)
@given(st.sampled_from(EXAMPLES), st.data())
def test_the_tree_of_a_changed_text_is_that_of_the_whole(path, data):
    """Only the lines around a change are parsed again, where that gives the same."""
    text = path.read_text("utf-8")
    tree, _ = parse(text, "a")
    start = data.draw(st.integers(0, len(text)))
    gone = data.draw(st.sampled_from((0, 0, 1, 3)))
    new = (
        text[:start]
        + data.draw(st.sampled_from((*WORDS, "+ 1", "; let z = 1", ",", "= 2", '"')))
        + text[start + gone :]
    )
    again = parse_again(tree, text, new)
    whole, found = parse(new, "a")
    assert again in (None, whole)
    if again is not None:
        assert found == []


def test_a_text_of_a_newer_version_stays_one():
    newer = Reading("plandsl = 9\nlet a = 1\n")
    assert [d.code for d in newer.look()] == ["E600"]
    assert [d.code for d in Reading(newer.text, before=newer).look()] == ["E600"]
    assert Reading("plandsl = 1\nlet a = 1\n", before=newer).look() == []


def test_a_change_looks_again_at_what_depends_on_it_alone():
    before = Reading(OWN)
    before.check()
    other = Reading(
        OWN.replace("tokens -> seq", "tokens, batch -> seq").replace("# A model", "#\n# A model"), before=before
    )
    other.check()
    kept = {key for key in other.pieces if other._look_at(key) is before._look_at(key)}
    assert kept == set(other.pieces) - {("sharding", "split_tokens"), ("plan", "ulysses")}


def test_an_error_that_broken_text_hid_shows_once_the_text_is_whole():
    text = "workload w { input = other, output = 1 }\nlet BROKEN\n"
    broken = Reading(text)
    assert [d.code for d in broken.look()] == ["E101"], "`other` may be what could not be read"
    whole = Reading(text.replace("BROKEN", "b = 1"), before=broken)
    assert [d.code for d in whole.look()] == ["E201"]
    again = Reading(text, before=whole)
    assert again.look() == broken.look()


def test_compiled_findings_move_with_their_lines():
    text = "# one\n" + OWN.replace("tp = 4, pp = 2", "tp = 4")
    before = Reading(text)
    found = [d for d in before.check() if d.span is not None]
    moved = Reading("\n\n\n" + text, before=before)
    assert any(d.code == "N301" for d in found), "four of eight GPUs are idle"
    assert [d.span.line for d in moved.check() if d.span] == [d.span.line + 3 for d in found if d.span]
    assert moved.plan("own") is before.plan("own")


def test_unsaved_texts_of_used_files_count_and_nothing_else_is_read(tmp_path):
    (tmp_path / "shared.plan").write_text("let many = 1\n")
    text = 'use "shared.plan"\nworkload w { input = many, output = other }\n'
    root = str(tmp_path / "root.plan")
    assert [d.code for d in Reading(text, root).look()] == ["E201"]
    unsaved = {tmp_path / "shared.plan": "let many = 1\nlet other = 2\n", tmp_path / "new.plan": "let new = 1\n"}
    assert Reading(text, root, unsaved).look() == []
    assert Reading('use "new.plan"\nlet a = new\n', root, unsaved).look() == []
    outside = {tmp_path.parent / "secret.plan": "let a = 1\n"}
    (found,) = Reading('use "../secret.plan"\n', root, outside).look()
    assert "outside the folder" in found.message


def test_huge_and_hostile_texts_are_bounded():
    (found,) = Reading("x" * (MAX_FILE_BYTES + 1)).look()
    assert found.code == "E108"
    assert complete(Reading("x" * (MAX_FILE_BYTES + 1)), 1, 5).items == []
    many = Reading("".join(f"plan p{n} {{ }}\n" for n in range(800)))
    assert len([d for d in many.look() if d.severity == "error"]) <= MAX_ERRORS
    deep = "let a = " + "(" * 2000
    assert Reading(deep).look()
    hover(Reading(deep), 1, 5)
    assert complete(Reading(deep), 1, len(deep)).column


def test_a_reading_that_nobody_waits_for_stops():
    reading = Reading(OWN)
    assert reading.check(lambda: True) == reading.module.diagnostics
    assert reading._checked == {}


# ---- completion

OFFERS = {
    "pl¦": ["plan"],
    "plan p { mod¦ }": ["model"],
    "plan p { node = h100¦ }": ["h100_8", "h100_sxm_8"],
    "plan p { model = llama_3_1_8b ¦ }": ["with"],
    "plan p { model = mine with { weights = ¦ } }": ["bf16", "fp8"],
    "plan p { workload { inp¦": ["input"],
    "plan p { sharding { ¦": ["tp", "mesh", "place"],
    "plan p { prefill { node = h200¦": ["h200_8"],
    "plan p { require tt¦": ["ttft"],
    "plan p { require ttft <= 8 ¦": ["ms", "s"],
    "plan p { require ttft <= 8 m¦": ["ms", "min"],
    "plan p { require cost <= 8 ¦": ["USD"],
    "plan p { engine = vl¦": ["vllm"],
    "gpu a { memory = 80 G¦": ["GB", "GiB"],
    "gpu a { compute { bf16 = 1 ¦": ["TFLOP/s"],
    "gpu a { assumed { mem¦": ["memory"],
    "node n { link { topology = ¦": ["switch", "torus"],
    "engine e { kernels = ¦": ["vllm", "sglang"],
    "workload w { input = ¦": ["lognormal"],
    "workload w { input = lognormal(¦": ["mean", "p95"],
    "workload w { rate = ¦": ["poisson", "at_once"],
    "workload w { class a { req¦": ["require"],
    "search s { vary tp in [1, 2], ¦": ["pp", "batch"],
    "search s { vary node in [h1¦": ["h100_8"],
    "search s { vary model.¦": ["weights"],
    "search s { vary tp in [1]\n where ¦": ["tp", "gpus"],
    "search s { vary tp in [1]\n maximize ¦": ["throughput_per_gpu"],
    "let a = mi325x.mem¦": ["memory"],
    "let big = 2\nworkload w { batch = b¦": ["big"],
    "sharding s { mesh a = 2, b = 3\n heads -> ¦": ["a", "b"],
    "sharding s { mesh a = 2, b = 3\n place a in ¦": ["node"],
    "sharding s { in ¦": ["attention"],
    "model m { hidden = 3, ffn = 4 * hi¦": ["hidden"],
    "model m { hidden = 3\n block x[tokens, hidden] {\n h = rms_norm(x)\n q = ¦": ["h", "x", "rope"],
    "model m { hidden = 3\n block x[tokens, hidden] {\n h = rms_norm(x, ¦": ["over", "gain"],
    "model m { hidden = 3\n block x[tokens, hidden] {\n h = x @ w[¦": ["hidden", "tokens"],
    "model m { hidden = 3\n ¦": ["layers", "block", "head"],
    "plan p = q with { mod¦": ["model"],
    "model m { block a x[tokens, hidden] { k = x\n x = k }\n block b x[tokens, hidden] { x = earlier.¦": ["k"],
    "sharding s { mesh a = 2\n in attention { heads -> ¦": ["a"],
    "sharding s { mesh a = 2\n place ¦": ["a", "tensor", "in"],
    "sharding s { in attention { heads -> a }\n mesh a = 2,\n b = 3\n heads -> ¦": ["a", "b"],
    "sharding s { mesh a = 2, # of nodes\n b = 3\n heads -> ¦": ["a", "b"],
    "sharding s { mesh a = 2\n in attention { heads -> ¦ }\n mesh b = 2 }": ["a", "b"],
    "sharding s { mesh a = 2, b = 2, c = 2, d = 2, e = 2, f = 2, g = 2\n heads -> ¦": ["a", "g"],
    "model m { head x @ w_up[hidden, vocab]\n stored { ¦": ["w_up"],
    "model m { stored { w_up = ¦": ["bf16", "activations"],
    "plan q { }\nplan p = ¦": ["q"],
    "workload chat { }\nplan p { workload = ¦": ["chat"],
    "search s { vary tp ¦": ["in"],
    "search s { vary nonsense in [1] ¦": ["by"],
    "search { vary tp in [1]\n where ¦": ["gpus", "not"],
    "search s { vary node.link.bandwidth in [8 ¦": ["GB/s"],
    "model m { hidden = 3\n block a [¦": ["layers"],
    "model m { hidden = 3\n block x[¦": ["tokens", "hidden"],
}


@pytest.mark.parametrize("text", OFFERS)
def test_what_may_stand_at_the_cursor_is_offered(text):
    at = marked(text)
    offered = [item.label for item in complete(Reading(at.text), at.line, at.column).items]
    assert set(OFFERS[text]) <= set(offered), offered[:40]


@pytest.mark.parametrize(
    "text", ["# pl¦", "plan ¦", "plan p {\n  model = qwen3_8b\n  mod¦\n}", "let a = 8 ¦x", 'gpu a { source = "me¦']
)
def test_nothing_is_offered_where_nothing_fits(text):
    at = marked(text)
    offered = [item.label for item in complete(Reading(at.text), at.line, at.column).items]
    assert "model" not in offered
    assert "llama_3_1_8b" not in offered


WITHHELD = {
    "workload w { input = lognormal(mean = ¦": "p95",
    "plan p { require ttft <= ¦": "tpot",
    "let batch = 2\nworkload w { batch = ¦": "batch",
    "sharding s { mesh ¦": "heads",
    "sharding s { mesh a = 2 }\nsharding t { mesh b = 2\n heads -> ¦ }": "a",
    "sharding s { mesh a = 2\n heads -> ¦\n }\nsharding t { mesh b = 2 }": "b",
    "sharding s { heads -> ¦ }\nsharding t { mesh b = 2 }": "b",
    "sharding s { in attention { heads -> ¦ } }\nsharding t { mesh b = 2 }": "b",
    "sharding s { mesh a = 2\n cut = balanced\n heads -> ¦ }": "cut",
    "sharding s { mesh a = 2; cut = balanced; heads -> ¦ }": "cut",
    "model m { hidden = 3\n block x[tokens, hidden] {\n ¦": "rope",
    "let a = nonsense.¦": "memory",
    "workload w { rate = 8 ¦": "GB",
    "search s { vary node.link.bandwidth in [8 ¦": "USD",
}


@pytest.mark.parametrize("text", WITHHELD)
def test_what_may_not_stand_at_the_cursor_is_not_offered(text):
    at = marked(text)
    offered = [item.label for item in complete(Reading(at.text), at.line, at.column).items]
    assert WITHHELD[text] not in offered


def test_names_of_used_files_are_offered_with_their_file(tmp_path):
    (tmp_path / "shared.plan").write_text("workload chat { input = 1, output = 1 }\n")
    text = 'use "shared.plan"\nworkload own { }\nplan p { workload = '
    found = complete(Reading(text, str(tmp_path / "root.plan")), 3, 21).items
    details = {item.label: item.detail for item in found if item.of == "workload" and item.kind == "name"}
    assert details["own"] == "workload"
    assert details["chat"].startswith("workload, ")
    assert details["chat"].endswith("shared.plan")


def test_files_are_offered_after_use_in_the_folder_of_the_root_file_alone(tmp_path):
    inner = tmp_path / "root"
    (inner / "deep").mkdir(parents=True)
    for name in ("root/a.plan", "root/b.txt", "root/deep/c.plan", "outside.plan"):
        (tmp_path / name).write_text("")
    (inner / ".hidden.plan").write_text("")
    (inner / "link.plan").symlink_to(inner / "a.plan")

    def offered(typed: str) -> list[str]:
        reading = Reading(f'use "{typed}"', str(inner / "root.plan"))
        return [item.label for item in complete(reading, 1, 6 + len(typed)).items]

    assert offered("") == ["a.plan", "deep/"]
    assert offered("deep/") == ["deep/c.plan"]
    assert offered("../") == offered("/") == offered("..") == []


def test_every_completion_that_names_an_entry_exists():
    for kind in FOLDERS:
        names = catalog_names(kind)
        assert f"`{names[0]}`" in about_entry(kind, names[pick(1, kind)])
    assert about_entry("gpu", "no_such") == ""


@draws(1.5)
@given(st.sampled_from(EXAMPLES), st.data())
def test_any_place_of_any_text_has_completions_and_a_hover_that_point_at_it(path, data):
    text = path.read_text("utf-8")
    cut = data.draw(st.integers(0, len(text)))
    text = text[:cut] + text[cut + data.draw(st.sampled_from((0, 0, 3, 200))) :]
    reading = Reading(text)
    line = data.draw(st.integers(1, len(reading.lines)))
    column = data.draw(st.integers(1, len(reading.lines[line - 1]) + 1))
    found = complete(reading, line, column)
    assert 1 <= found.column <= column
    assert len({item.label for item in found.items}) == len(found.items)
    if (said := hover(reading, line, column)) is not None:
        assert said.span.line == line
        assert said.span.column <= column <= said.span.end_column
        assert said.text.strip()


# ---- hover

SAYS = {
    OWN.replace("plan own", "plan o¦wn"): ("TTFT", "TPOT", "fits", "tpot <= 10 ms: met"),
    OWN.replace("k = rope", "k¦ = rope"): ("rope", "heads@tensor", "16 x 3,000 x 6 x 80"),
    OWN.replace("a @ w_o", "a @ w¦_o"): ("all_reduce over tensor", "147 MB"),
    OWN.replace("require tpot", "require tp¦ot"): ("Time per output token", "`tpot <= 10 ms` is met"),
    OWN.replace("h100_8", "h100¦_8"): ("node `h100_8`", "8 x h100_sxm", "source:"),
    OWN.replace("ffn = 4800", "f¦fn = 4 * hidden"): ("a dimension of the model, 6,144",),
    OWN.replace("layers = 13", "lay¦ers = 13"): ("how often the block runs", "needed"),
    OWN.replace("bf16", "bf¦16"): ("16 bits",),
    OWN.replace("rms_norm(x) @", "rms_¦norm(x) @"): ("over the last dimension", "In a prefill of plan `own`"),
    OWN.replace("window =", "win¦dow ="): ("the last so many positions",),
    OWN.replace("tp = 4", "t¦p = 4"): ("axis: `tensor`",),
    OWN.replace("w_v[hidden", "w_¦v[hidden"): ("1,536 x 1 x 80 on one rank", "246 KB", "13 layers", "another line"),
    OWN.replace("tokens -> seq", "tokens -> s¦eq"): ("an axis of the mesh",),
    OWN.replace("in attention", "in att¦ention"): ("attention alone",),
    "search s { vary t¦p in [1, 2] }": ("axis: `tensor`", "sharding.tp"),
    "workload w { input = logn¦ormal(mean = 9, p95 = 12) }": ("for example `lognormal(",),
    "node n { link { topology = swi¦tch } }": ("a value of `topology`",),
    "let a = 2 * 4 GB¦\n": ("1 GB is 1,000,000,000",),
    "let ¦a = 2 * 4 GB\n": ("8.00 GB",),
    "plan p { model = llama_3_1_8b wi¦th { } }": ("with other fields",),
    "gpu a = h100_sxm with { mem¦ory = 2 }": ("bytes that a program sees",),
    "plan own { }\nplan next = o¦wn with { }": ("plan `own`",),
    "let room = mi3¦25x.memory\n": ("gpu `mi325x`** of the catalog", "source:"),
    "let one = 3\nlet other = on¦e\n": ("let `one`", "= `3`"),
    "let mine = h100_8\nnode its = mi¦ne\n": ("let `mine`", "`h100_8`"),
    "let many = 3\nworkload w { batch = ma¦ny }": ("let `many`", "= `3`"),
    OWN.replace("workload = chat", "workload = ch¦at"): ("workload `chat`", "input = 3000, output = 300, batch = 16"),
    OWN.replace("ulysses = own with { sharding = split", "u = own with { sharding = sp¦lit"): (
        "```plan\nsharding split",
    ),
    "sharding s {\n" + "\n".join(f" mesh a{n} = 2" for n in range(20)) + "\n}\nplan p { sharding = ¦s }": (
        "a10 = 2\n...\n",
    ),
    "plan bro¦ken { model = none }": ("plan `broken`",),
    OWN.replace("ffn = 4800", "ffn = 4 * hid¦den"): ("`hidden`: a dimension of the model, 1,536",),
    OWN.replace("head rms_norm(x) @ w_embed", "head rms_norm(x) @ w_em¦bed"): (
        "weight `w_embed`",
        "12,800 x 1,536 on one rank",
    ),
    OWN.replace("head rms_norm", "head rms_n¦orm"): ("over the last dimension", "In a prefill of plan `own`"),
    OWN.replace("block x[tokens", "block x[tok¦ens"): ("the tokens of a step", "the compiler sets it"),
    OWN.replace("h @ w_v[hidden", "h @ w_v[hid¦den"): ("`hidden`: a dimension of the model, 1,536",),
    OWN.replace("a = attention(", "a = atten¦tion("): ("softmax attention over the KV cache", "In a decode"),
    OWN.replace("a @ w_o[heads, ", "a @ w_o[tok¦ens, "): ("the tokens of a step", "the compiler sets it"),
    OWN.replace("head rms_norm(x)", "head rms_norm(x, ga¦in = none)"): ("without a gain",),
    "workload w { inp¦ut = 2 * 30 }": ("here: 60",),
    "workload w { inp¦ut = 30 }": ("takes a whole number",),
    "sharding s { mesh a = 2\n hea¦ds -> a }": ("`heads`: a dimension, split over the axes",),
    "sharding s { mesh a = 2\n tok¦ens -> a }": ("`tokens`: a dimension, split", "the tokens of a step"),
    "sharding s { mesh a = 2\n place a in no¦de }": ("groups of these axes stay in one node",),
    "search s { vary tp i¦n [1, 2] }": ("the values that the field takes",),
}


@pytest.mark.parametrize("text", SAYS)
def test_a_hover_says_what_follows_from_a_word(text):
    at = marked(text)
    said = hover(Reading(at.text), at.line, at.column)
    assert said is not None
    assert [part for part in SAYS[text] if part not in said.text] == [], said.text


@pytest.mark.parametrize(
    "text",
    [
        "# a wo¦rd\n",
        "let a = 3¦2\n",
        "node its = no¦thing\n",
        "let a = no¦thing\n",
        "sharding s { no¦thing }",
        "sharding s { in no¦thing { } }",
        "search s { vary no¦thing in [1] }",
    ],
)
def test_a_hover_says_nothing_of_what_means_nothing(text):
    at = marked(text)
    assert hover(Reading(at.text), at.line, at.column) is None


def test_a_line_of_a_model_is_that_of_a_plan_that_compiles():
    at = marked(OWN.replace("plan own {", "plan first { model = small }\nplan own {").replace("a @ w_o", "a @ w¦_o"))
    said = hover(Reading(at.text), at.line, at.column)
    assert said is not None
    assert "of plan `own`" in said.text
    alone = marked(at.text[: at.text.index("plan own")].replace("a @ w_o", "a @ w¦_o"))
    assert hover(Reading(alone.text), alone.line, alone.column) is None


def test_numbers_of_a_hover_are_those_of_the_estimate():
    at = marked(OWN.replace("plan own", "plan o¦wn"))
    said = hover(Reading(at.text), at.line, at.column)
    plan = Reading(OWN).plan("own")
    assert said is not None
    assert plan is not None
    (ttft,) = re.findall(r"TTFT \| ([\d.]+) ms", said.text)
    assert abs(float(ttft) / 1e3 / plan.estimate().ttft_s - 1) < 5e-3, "three digits"
