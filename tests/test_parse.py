"""The grammar: what parses, to which tree, with which words for what does not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.codes_syntax import SYNTAX_CODES
from plandsl.diagnostics import render
from plandsl.grammar import build
from plandsl.grammar import syntax as s
from plandsl.grammar.fmt import same_tree
from plandsl.grammar.layout import Layout
from plandsl.grammar.parse import decode, parse
from plandsl.grammar.tokens import KEYWORDS, scan
from plandsl.limits import MAX_CHAIN, MAX_ERRORS, MAX_FILE_BYTES, MAX_NESTING
from tests.draws import draws

ERRORS = Path(__file__).parent / "golden" / "errors"
CASES = sorted(p.stem for p in ERRORS.glob("e1*.plan"))

MODEL = """\
model llama_3_1_70b {
  layers = 80
  hidden = 8192, heads = 64, kv_heads = 8, head_dim = 128, ffn = 28672, vocab = 128256
  max_context = 131072

  weights = bf16, activations = bf16, kv_cache = bf16      # fp32 tf32 bf16 fp16 fp8 int8

  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    v = h @ w_v[hidden, kv_heads, head_dim]
    a = attention(q, k, v)
    x = x + a @ w_o[heads, head_dim, hidden]
    h = rms_norm(x)
    g = silu(h @ w_gate[hidden, ffn]) * (h @ w_up[hidden, ffn])
    x = x + g @ w_down[ffn, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
"""
EXPERTS = """\
model sparse {
  block dense [layers = 0..3] x[tokens, hidden] {
    c = rms_norm(h @ w_dkv[hidden, kv_rank]), kr = rope(h @ w_kr[hidden, rope_dim])
    a = attention(q, latent(c, kr, w_uk[kv_rank, heads, nope_dim], w_uv[kv_rank, heads, v_dim]))
    w = attention(q, k, v, window = 4096, causal = false) + b_q[heads, head_dim]
  }
  block sparse [layers = 3..61] x[tokens, hidden] {
    y = experts(h, w_router[hidden, experts], top_k = 8) {
      g = silu(h @ w_gate[hidden, expert_ffn]) * (h @ w_up[hidden, expert_ffn])
      g @ w_down[expert_ffn, hidden]
    }
    n = rms_norm(q, over = head_dim, gain = none)
  }
  block [layers = 61..64] x[tokens, hidden] { x = x }
  block last x[tokens, hidden] { x = x }
}
model m = hf("config.json")
"""
HARDWARE = """\
gpu mi325x {
  memory    = 256 GB
  bandwidth = 6.0 TB/s
  compute { fp8 = 2614.9 TFLOP/s, bf16 = 1307.4 TFLOP/s, fp32 = 163.4 TFLOP/s }
}
node mi325x_8 {
  gpu   = mi325x
  count = 8
  link { topology = mesh, bandwidth = 64 GB/s, latency = 2 us }    # per direction, per pair for a mesh
}
node mixed {
  gpus = [4 * h100_sxm, 4 * h200_sxm]
  link { topology = torus(2, 4) }
}
cluster pod {
  node  = mi325x_8
  count = 4
  network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }   # per GPU, per direction
}
calibration study_2603_05692 {
  source = "arXiv 2603.05692"
  gemm = 0.46, attention_prefill = 0.48, hbm = 0.72, link = 0.75      # fractions of peak
  # ... overheads, efficiency curves: whatever the cost backend can be tuned by, by name
}
"""
SHARDINGS = """\
sharding tp8 { tp = 8 }

sharding hybrid {                        # what { tp = 4, pp = 2 } means
  mesh stage = 2, tensor = 4             # major axis first: neighbours in the last axis are neighbours
  layers -> stage
  heads, kv_heads, ffn, vocab -> tensor
}

sharding ulysses {                       # sp = 4, tp = 2
  mesh seq = 4, tensor = 2
  tokens -> seq
  heads, kv_heads, ffn, vocab -> tensor
  in attention { heads, kv_heads -> tensor, seq }    # so: all_to_all in, all_to_all out, over seq
  in head { vocab -> tensor }
  place tensor, seq in node
}
"""
PLANS = """\
workload longalpaca { input = 9092, output = 208, batch = 256 }
workload chat { input = lognormal(mean = 900, p95 = 3200), rate = 12 req/s, requests = 20_000 }
workload replay     { trace = "conv.csv", speed = 2.0 }
plan p { model = m, node = n, sharding { tp = 8 }, workload = w with { batch = 4 } }
plan serve {
  model    = llama_3_1_70b with { weights = fp8, kv_cache = fp8 }
  node     = mi325x_8                     # or: cluster = pod
  sharding = hybrid                       # or inline: sharding { tp = 4, pp = 2 }
  workload = longalpaca
  calibration = study_2603_05692          # optional
  kv_residency = one_batch                # optional
  step_tokens = 8192                      # optional: see memory in section 5
  require ttft <= 90 s
  require tpot <= 100 ms
  require memory <= 95 %
}
search best {
  model = llama_3_1_70b, node = mi325x_8, workload = longalpaca
  vary tp in [1, 2, 4, 8], pp in [1, 2, 4, 8], batch in 1..1024 by * 2
  where tp * pp <= 8 and not pp == 8 or workload.batch > 1
  require tpot <= 50 ms
  maximize throughput
}
let budget = 256 GB / 6 TB/s
use "other.plan"
node mine = mi325x_8 with { count = 4, link { latency = 1 us } }
node theirs = mi325x_8 { count = 2 }
plan alias = serve
"""
SAMPLES = {"model": MODEL, "experts": EXPERTS, "hardware": HARDWARE, "shardings": SHARDINGS, "plans": PLANS}
ALL = "".join(SAMPLES.values())


def clean(text: str) -> s.File:
    tree, found = parse(text, "t.plan")
    assert not found, render(found, {"t.plan": text})
    return tree


def only_item(text: str) -> s.Item:
    """The one item of a body that consists of this text."""
    (declaration,) = clean(f"plan p {{ {text} }}").items
    assert isinstance(declaration, s.Decl)
    assert declaration.body is not None
    (item,) = declaration.body.items
    return item


def expression(text: str) -> str:
    """An expression, fully bracketed."""
    (let,) = clean(f"let x = {text}").items
    assert isinstance(let, s.Let)
    return spell(let.value)


def spell(node: s.Expr) -> str:
    match node:
        case s.Num(value=value, unit=unit):
            return f"{value}{unit or ''}"
        case s.Ref(name=name):
            return name
        case s.Unary(op=op, x=x):
            return f"({op} {spell(x)})"
        case s.Binary(op=op, a=a, b=b):
            return f"({spell(a)} {op} {spell(b)})"
        case s.Dot(base=base, name=name):
            return f"{spell(base)}.{name.text}"
        case s.With(base=base):
            return f"({spell(base)} with)"
        case s.Index(name=name, dims=dims):
            return f"{name.text}[{' '.join(d.text for d in dims)}]"
        case s.Call(func=func, args=args, kwargs=kwargs):
            return f"{func.text}({' '.join([*map(spell, args), *(f'{k.name.text}={spell(k.value)}' for k in kwargs)])})"
        case s.Seq(items=items):
            return f"[{' '.join(map(spell, items))}]"
        case s.Range(lo=lo, hi=hi, by=by, step=step):
            return f"{spell(lo)}..{spell(hi)}" + (f" by {by}{spell(step)}" if step else "")
    raise AssertionError(node)


# ---- what parses


@pytest.mark.parametrize("name", SAMPLES)
def test_every_construct_of_the_language_parses(name: str) -> None:
    clean(SAMPLES[name])
    clean(SAMPLES[name].replace("\n", "\r\n"))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("1 + 2 * 3", "(1 + (2 * 3))"),
        ("1 - 2 - 3", "((1 - 2) - 3)"),
        ("a @ w[x, y] * b / 2", "(((a @ w[x y]) * b) / 2)"),
        ("-a * b", "((- a) * b)"),
        ("not a <= b and c or d", "(((not (a <= b)) and c) or d)"),
        ("(a + b) * c", "((a + b) * c)"),
        ("256 GB / 6 TB/s", "(256GB / 6TB/s)"),
        ("95% - 3 %", "(95% - 3%)"),
        ("1_000_000 * 1.5e-3", "(1000000 * 0.0015)"),
        ("a.b.c with { d = 1 } with { e = 2 }", "((a.b.c with) with)"),
        ("f(a, b, over = c, )", "f(a b over=c)"),
        ("[1, 2 KiB, 0..3, 1..8 by * 2, 2..9 by + 3]", "[1 2KiB 0..3 1..8 by *2 2..9 by +3]"),
        ("f(\n  a,\n\n  b # why\n)", "f(a b)"),
        ("1 +\n  2 *\n\n  3", "(1 + (2 * 3))"),
        ("2 USD/h + 12 req/s", "(2USD/h + 12req/s)"),
        ("1e3 s", "1000.0s"),
    ],
)
def test_expressions_bind_as_written(text: str, tree: str) -> None:
    assert expression(text) == tree


@pytest.mark.parametrize("word", sorted(KEYWORDS - {"with", "and", "or", "not", "by", "in"}))
def test_keywords_are_names_where_no_item_starts(word: str) -> None:
    field = only_item(f"topology = {word}")
    assert isinstance(field, s.Field)
    assert spell(field.value) == word
    assert isinstance(only_item(f"{word} = 2"), s.Field)
    assert isinstance(only_item(f"{word}, layers -> {word}, stage"), s.Rule)
    assert isinstance(only_item(f"in {word} {{ heads -> tensor }}"), s.Region)
    assert isinstance(only_item(f"x = f({word} = 1, {word}, a.{word}, w[{word}])"), s.Field)
    clean(f"sharding {word} {{ mesh {word} = 2 }}")
    if word != "block":
        assert isinstance(only_item(f"{word} {{ a = 1 }}"), s.Section)


@pytest.mark.parametrize("word", ["model", "gpu", "node", "cluster", "calibration", "sharding", "workload", "plan"])
def test_kinds_are_ordinary_names(word: str) -> None:
    assert isinstance(only_item(f"{word} = {word}"), s.Field)
    assert isinstance(only_item(f"{word} {{ tp = 8 }}"), s.Section)
    clean(f"{word} {word} {{ }}")


def test_a_misspelt_kind_is_left_to_the_resolver() -> None:
    (declaration,) = clean("modle m { layers = 2 }").items
    assert isinstance(declaration, s.Decl)
    assert declaration.kind.text == "modle"


def test_a_base_without_with_is_overridden_all_the_same() -> None:
    assert same_tree(clean('model m = hf("c") { a = 1 }'), clean('model m = hf("c") with { a = 1 }'))


def test_separators_are_newlines_commas_and_semicolons() -> None:
    wanted = clean("plan p {\n  a = 1\n  b = 2\n  heads, ffn -> tensor\n  mesh x = 2, y = 4\n  c = 3\n}\n")
    for text in (
        "plan p { a = 1, b = 2, heads, ffn -> tensor; mesh x = 2, y = 4; c = 3 }",
        "plan p { a = 1; b = 2, heads, ffn -> tensor\n mesh x = 2,\n\n y = 4\n c = 3, }",
        "plan p { # 1\n a = 1, # 2\n b = 2,\n\n heads, # 3\n ffn -> # 4\n tensor; mesh x = 2, y = 4\n, c = 3\n}",
    ):
        assert same_tree(clean(text), wanted)


def test_a_quantity_is_one_word_and_a_range_is_not() -> None:
    vary = only_item("vary batch in 1..1024 by * 2, b in [1]")
    assert isinstance(vary, s.Vary)
    assert [spell(domain) for _, domain in vary.entries] == ["1..1024 by *2", "[1]"]
    number = only_item("memory = 256  GB")
    assert isinstance(number, s.Field)
    assert isinstance(number.value, s.Num)
    assert (number.value.value, number.value.unit) == (256, "GB")
    assert number.value.unit_span is not None
    assert (number.value.unit_span.column, number.value.unit_span.end_column) == (24, 26)


def test_blocks_with_and_without_names_and_attributes() -> None:
    model = clean(EXPERTS).items[0]
    assert isinstance(model, s.Decl)
    assert model.body is not None
    blocks = [b for b in model.body.items if isinstance(b, s.Block)]
    assert [b.name and b.name.text for b in blocks] == ["dense", "sparse", None, "last"]
    assert [len(b.attributes) for b in blocks] == [1, 1, 1, 0]
    experts = blocks[1].body.items[0]
    assert isinstance(experts, s.Field)
    assert isinstance(experts.value, s.Call)
    assert experts.value.body is not None
    assert isinstance(experts.value.body.items[-1], s.Bare)


def test_spans_cover_what_they_name() -> None:
    text = ALL
    lines = text.split("\n")

    def check(node: object) -> None:
        if isinstance(node, tuple) and hasattr(node, "span"):
            span = node.span
            assert span.file == "t.plan"
            if span.line == span.end_line and isinstance(node, s.Name | s.Ref):
                written = lines[span.line - 1][span.column - 1 : span.end_column - 1]
                assert written == getattr(node, "text", getattr(node, "name", None))
            for part in node:
                if hasattr(part, "span"):
                    assert (span.line, span.column) <= (part.span.line, part.span.column)
                    assert (part.span.end_line, part.span.end_column) <= (span.end_line, span.end_column)
        if isinstance(node, tuple) and type(node).__name__ != "Span":
            for part in node:
                check(part)

    check(clean(text))


# ---- what does not


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_told_in_the_words_of_the_plan(case: str, request: pytest.FixtureRequest) -> None:
    source = ERRORS / f"{case}.plan"
    text = source.read_text(encoding="utf-8")
    _, found = parse(text, source.name)
    shown = render(found, {source.name: text}) + "\n"
    golden = source.with_suffix(".err")
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(shown, encoding="utf-8", newline="\n")
    assert shown == golden.read_text(encoding="utf-8")


def test_each_golden_shows_its_code() -> None:
    for case in CASES:
        text = (ERRORS / f"{case}.plan").read_text(encoding="utf-8")
        assert case[:4].upper() in {d.code for d in parse(text, "t")[1]}


@pytest.mark.parametrize("code", SYNTAX_CODES)
def test_each_code_has_an_example_that_produces_it(code: str) -> None:
    example = SYNTAX_CODES[code][2]
    assert [d.code for d in parse(example, "t")[1]] == ([code] if example else [])


def test_a_mistake_leaves_the_rest_of_the_tree() -> None:
    tree, found = parse("plan p {\n  a = 1\n  b = = 2\n  c = 3\n}\nlet d = 4\n", "t")
    assert [d.code for d in found] == ["E101"]
    plan, let = tree.items
    assert isinstance(plan, s.Decl)
    assert plan.body is not None
    assert [i.name.text for i in plan.body.items if isinstance(i, s.Field)] == ["a", "c"]
    assert isinstance(let, s.Let)


def test_one_mistake_gives_one_message() -> None:
    """Leave out any one token of the samples, or write it twice: there is hardly ever more than one message."""
    starts = [0]
    for line in ALL.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    counts = []
    for token in scan(ALL, "t")[::9]:
        if token.kind in ("NEWLINE", "COMMENT", "END"):
            continue
        start = starts[token.span.line - 1] + token.span.column - 1
        stop = start + len(token.text)
        counts += [len(parse(ALL[:start] + ALL[stop:], "t")[1])]
        counts += [len(parse(ALL[:stop] + " " + ALL[start:], "t")[1])]
    assert max(counts) <= 3
    assert sum(n > 1 for n in counts) < 0.02 * len(counts)


@pytest.mark.parametrize(
    ("data", "code", "line", "column"),
    [
        (b"let a = 1\nlet b = \xff\n", "E109", 2, 9),
        ("let a = 1\nlet é = \0".encode(), "E109", 2, 9),
        (b"\xef\xbb\xbflet \0", "E109", 1, 5),
        ("let a = 1".encode("utf-16"), "E109", 1, 1),
        (b" " * (MAX_FILE_BYTES + 1), "E108", 1, 1),
    ],
)
def test_what_is_no_text_is_told_with_its_place(data: bytes, code: str, line: int, column: int) -> None:
    _, found = decode(data, "t")
    assert [(d.code, d.span and (d.span.line, d.span.column)) for d in found] == [(code, (line, column))]


def test_a_byte_order_mark_does_no_harm() -> None:
    text, found = decode("\ufefflet a = 1".encode(), "t")
    assert not found
    assert clean(text).items[0].span.column == 1
    assert clean("\ufefflet a = 1").items[0].span.column == 1


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("let x = " + "(" * 20_000, ["E107"]),
        ("let x = " + "(" * 20_000 + ")" * 20_000, ["E107"]),
        ("let x = " + "1 + " * 10_000 + "1", ["E107"]),
        ("let x = " + "-" * 10_000 + "1", ["E107"]),
        ("let x = a" + ".b" * 10_000, ["E107"]),
        ("let x = " + "(" * MAX_NESTING + "1" + ")" * MAX_NESTING, []),
        ("let x = 1" + " + 1" * MAX_CHAIN, []),
        ("let x = [" + "1 + 1, " * 5_000 + "]", []),
        ("let x = " + "9" * 200_000, ["E106"]),
        ("plan p {" + "a, " * 50_000 + "}", []),
        (" " * 200_000, []),
        ("plan p {" + "a 8\n" * 20_000 + "}", ["E101"] * MAX_ERRORS),
        ("}" * 100_000, ["E105"] * MAX_ERRORS),
        ("$ " * 100_000, ["E102"] * MAX_ERRORS),
        (" " * (MAX_FILE_BYTES + 1), ["E108"]),
    ],
)
def test_hostile_texts_are_answered_in_bounded_time(text: str, codes: list[str]) -> None:
    before = time.process_time()
    _, found = parse(text, "t")
    assert time.process_time() - before < 3
    assert [d.code for d in found] == codes


PIECES = st.one_of(
    st.sampled_from(sorted({t.text for t in scan(ALL, "t")})),
    st.sampled_from(list("{}()[],;=:$\"'#\n\u201c.%\0")),
)


@draws(25 / 2)
@given(st.text() | st.lists(PIECES, max_size=60).map(" ".join) | st.lists(PIECES, max_size=60).map("".join))
def test_any_text_gives_a_tree_and_diagnostics(text: str) -> None:
    tree, found = parse(text, "t")
    assert isinstance(tree, s.File)
    render(found, {"t": text})
    for diagnostic in found:
        assert diagnostic.code in {*SYNTAX_CODES, "E201"}  # an id such as `Qwen/Qwen2.5` is no name, but may mean one
        assert diagnostic.span is not None
        assert 1 <= diagnostic.span.line <= text.count("\n") + 1


@draws(25 / 3)
@given(st.sampled_from(list(SAMPLES.values())), st.floats(0, 1), st.integers(0, 30), PIECES | st.just(""))
def test_a_changed_plan_gives_a_tree_and_diagnostics(text: str, share: float, size: int, piece: str) -> None:
    start = int(share * len(text))
    tree, found = parse(text[:start] + piece + text[start + size :], "t")
    assert isinstance(tree, s.File)
    assert len(found) < 15


@draws(25 / 3)
@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_reported(data: bytes) -> None:
    text, _ = decode(data, "t")
    parse(text, "t")


# ---- the tables


def test_the_tables_are_made_from_the_grammar() -> None:
    """Lark accepts the grammar without conflicts and overlaps (strict), and gives the tables that we ship."""
    pytest.importorskip("interegular")
    assert build.TABLES.read_text(encoding="utf-8") == build.text()


@pytest.mark.parametrize("name", SAMPLES)
def test_larks_own_parser_agrees(name: str) -> None:
    from lark import Token

    parser = build.build_lark().parse_interactive()
    for token in Layout(scan(SAMPLES[name], "t")).tokens:
        parser.feed_token(Token("$END" if token.kind == "END" else token.kind, token.text))


def test_reading_a_plan_does_not_import_lark() -> None:
    script = (
        "import sys; from plandsl.grammar.parse import parse; parse('let a = 1', 't'); print('lark' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
