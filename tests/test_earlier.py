"""Layers that take values of earlier layers: keys with their cache, picks, and what the embedding made."""

from __future__ import annotations

import pytest

from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import verify_long_prefill
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.collectives import Send
from plandsl.ir.compute import CacheWrite
from plandsl.ir.earlier import Earlier
from plandsl.ir.index import PickKeys
from plandsl.ir.names import HOPS
from plandsl.ir.text import read, show
from plandsl.passes.cut_stages import split_layers
from plandsl.show import show_plan
from plandsl.spec.earlier import group_starts

OWN = """
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    v = h @ w_v[hidden, kv_heads, head_dim]
    a = attention(q, k, v, window = 4096)
"""
PICKS = (
    "    picked = index(h @ w_iq[hidden, index_heads, index_dim], h @ w_ik[hidden, index_dim], top_k = 2048)\n"
    + OWN.replace("window", "among = picked, window")
)
SHARED = "    a = attention(q, earlier.k, earlier.v, window = 4096)\n"
SHARED_PICKS = SHARED.replace("window", "among = earlier.picked, window")
ROWS = "    x = x + (gelu(x @ w_gate[hidden, row]) * earlier.start) @ w_row[row, hidden]\n"
ITEMS = ROWS.replace("earlier.start", "item(earlier.start, over = each, at = layer)")
START = "embedding e = rms_norm(w_embed[vocab, hidden]) {\n    start = e @ w_start[hidden, row]\n    e\n  }"


def model(own: str = OWN, shared: str = SHARED, more: str = "", layers: int = 8, first: str = "[0, 1, 3, 4]") -> str:
    """A model in which layers 0, 1, 3 and 4 make keys, and the others take those of the last such layer."""
    start = START if more else "embedding w_embed[vocab, hidden]"
    sizes = ", index_heads = 4, index_dim = 32" if "index" in own else ""
    sizes += ", row = 24" if more else ""
    if "each" in more:  # a row for each layer
        start, sizes = start.replace("hidden, row", "hidden, each, row"), f"{sizes}, each = {layers}"
    return f"""
model m {{
  layers = {layers}, hidden = 64, heads = 16, kv_heads = 8, head_dim = 16, vocab = 1000{sizes}
  weights = bf16
  {start}
  block own [layers = {first}] x[tokens, hidden] {{
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
{own}
    x = x + a @ w_o[heads, head_dim, hidden]
{more}  }}
  block shared x[tokens, hidden] {{
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
{shared}
    x = x + a @ w_o[heads, head_dim, hidden]
{more}  }}
  head rms_norm(x) @ w_embed[vocab, hidden]
}}
"""


def plan(text: str, sharding: str = "tp = 1", more: str = "") -> CompiledPlan:
    load = "workload { input = 5000, output = 100, batch = 16 }"
    (made,) = compile_text(f"{text}plan p {{ model = m, node = h100_8, sharding {{ {sharding} }}\n {load}\n {more} }}")
    return made


CASES = (
    (model(), "tp = 4", ""),
    (model(), "tp = 2, pp = 2", "micro_batches = 2"),
    (model(), "cp = 2, tp = 2, dp = 2", "chunked_prefill = 512"),
    (model(), "sp = 2, tp = 2", "speculate { tokens = 3, acceptance = 0.8 }"),
    (model(), "tp = 2, cp = 2, context_form = gather", ""),
    (model(), "mesh keys = 2\n context -> keys", ""),
    (model(PICKS, SHARED_PICKS), "tp = 4, cp = 2", ""),
    (model(PICKS, SHARED_PICKS), "tp = 2, pp = 2, cut = [3, 5]", ""),
    (model(more=ROWS), "tp = 2, pp = 2", "chunks = 2"),
    (model(more=ITEMS), "tp = 2, pp = 2", ""),
    (model(more=ITEMS), "mesh a = 2\n row, each, heads, kv_heads -> a", ""),
    (model(more=ROWS), "mesh a = 2, b = 2\n row, heads, kv_heads -> a\n tokens -> b", ""),
)


@pytest.mark.parametrize(("text", "sharding", "more"), CASES)
def test_ranks_compute_what_the_whole_model_computes(text: str, sharding: str, more: str) -> None:
    verdict = plan(text, sharding, more).verify(steps=1)
    assert verdict.ok, verdict.message


@pytest.mark.parametrize("text", [model(), model(PICKS, SHARED_PICKS, ROWS)])
def test_decode_continues_a_prefill_with_the_keys_of_earlier_layers(text: str) -> None:
    made = CompiledPlan(shrink(plan(text).spec), ())
    verdict = verify_long_prefill((made.prefill.program, made.decode.program), {"batch": 2, "input": 5}, steps=2)
    assert verdict.ok, verdict.message


def test_a_layer_takes_the_keys_of_the_last_layer_before_it() -> None:
    """The same model with its layers written one by one: each shared layer names the layer whose keys it has."""
    names = {0: "0", 1: "1", 3: "3", 4: "4"}
    source = {2: "1", 5: "4", 6: "4", 7: "4"}
    blocks = []
    for layer in range(8):
        kept = OWN.replace(" k =", f" k{names.get(layer)} =").replace(" v =", f" v{names.get(layer)} =")
        kept = kept.replace("k, v,", f"k{names.get(layer)}, v{names.get(layer)},")
        taken = SHARED.replace("earlier.k", f"earlier.k{source.get(layer)}").replace(
            "earlier.v", f"earlier.v{source.get(layer)}"
        )
        blocks.append(
            f"  block b{layer} [layers = {layer}..{layer + 1}] x[tokens, hidden] {{\n    h = rms_norm(x)\n"
            f"    q = rope(h @ w_q[hidden, heads, head_dim])\n{kept if layer in names else taken}"
            "    x = x + a @ w_o[heads, head_dim, hidden]\n  }\n"
        )
    head, _, _ = model().partition("  block own")
    apart = head + "".join(blocks) + "  head rms_norm(x) @ w_embed[vocab, hidden]\n}\n"
    long, short = plan(apart).estimate(), plan(model()).estimate()
    assert group_starts(plan(apart).spec.model) == group_starts(plan(model()).spec.model) == [0, 1, 3, 4]
    assert (long.parameters, long.kv_bytes_per_token) == (short.parameters, short.kv_bytes_per_token)


# ---- memory, and what is spared


def test_a_layer_that_shares_keys_has_no_cache_and_no_weights_of_its_own() -> None:
    shared, own = (plan(model(shared=text)).estimate() for text in (SHARED, OWN))
    per_layer = 2 * 8 * 16 * 2
    assert (shared.kv_bytes_per_token, own.kv_bytes_per_token) == (4 * per_layer, 8 * per_layer)
    assert own.parameters - shared.parameters == 4 * 2 * 64 * 8 * 16


def test_a_layer_that_shares_picks_scores_no_keys() -> None:
    made = plan(model(PICKS, SHARED_PICKS))
    for program in (made.prefill.program, made.decode.program):
        own, shared = (region for region in program.regions if region.layers is not None)
        assert sum(isinstance(op, PickKeys) for op in own.ops) == 1
        assert not any(isinstance(op, PickKeys | CacheWrite) for op in shared.ops)
        assert {op.made for op in shared.ops if isinstance(op, Earlier)} == {"k.cached", "v.cached", "picked"}


def test_what_the_embedding_made_is_alive_in_every_layer_and_travels_with_the_stream() -> None:
    made = plan(model(more=ROWS), "pp = 2")
    program = made.prefill.program
    for region in (region for region in program.regions if region.layers is not None):
        assert [v.type.names for v in region.through] == [("batch", "position", "row")]
    hops = [region for region in program.regions if region.name in HOPS]
    sent = [op.x.type.names[-1] for op in hops[0].ops if isinstance(op, Send)]
    assert (sent, [v.type.names[-1] for v in hops[1].results]) == (["hidden", "row"], ["hidden", "row"])


# ---- stages


def test_stages_begin_where_no_layer_is_parted_from_its_keys() -> None:
    starts = group_starts(plan(model()).spec.model)
    assert starts == [0, 1, 3, 4]
    assert split_layers(8, 2, starts) == [(0, 4), (4, 8)]
    assert split_layers(8, 4, starts) == [(0, 1), (1, 3), (3, 4), (4, 8)]
    assert split_layers(126, 8, range(126)) == split_layers(126, 8)
    assert plan(model(), "pp = 2, cut = balanced").verify().ok


def test_what_embeddings_make_parts_no_stages() -> None:
    text = model(shared=OWN, more=ROWS)
    assert group_starts(plan(text).spec.model) == list(range(8))


# ---- text, and what is refused


def test_programs_and_plans_read_back() -> None:
    made = plan(model(PICKS, SHARED_PICKS, ROWS), "tp = 2, pp = 2")
    for program in (made.prefill.program, made.decode.program):
        assert read(show(program)) == program
    again = compile_text(show_plan(made.spec))[0]
    assert show_plan(again.spec) == show_plan(made.spec)


REFUSED = {
    "missing": (model(shared=SHARED.replace("earlier.k", "earlier.keys")), "E568", "makes a value `keys`"),
    "late": (model(first="[1, 3, 4]"), "E568", "no layer before layer 0"),
    "uncached": (model(OWN.replace("q, k, v", "q, k, k")), "E568", "no attention of block `own`"),
    "reach": (model(shared=SHARED.replace("4096", "8192")), "E569", "keeps the last 4,096 keys"),
    "mask": (model(PICKS, SHARED_PICKS.replace("4096", "1024")), "E569", "picks among the last 4,096 keys"),
    "unused": (model(PICKS.replace("among = picked, ", ""), SHARED_PICKS), "E568", "nothing is picked there"),
    "tensor": (model(PICKS, SHARED_PICKS.replace("earlier.k", "earlier.picked")), "E531", "a choice of keys"),
    "dims": (
        model(shared=SHARED.replace("earlier.v,", "earlier.v,") + "    k = q\n    x = x + 0 * rms_norm(x)\n"),
        "E568",
        "in block `shared`",
    ),
    "items": (model(more=ITEMS).replace("each = 8", "each = 9"), "E570", "9 items, and the model 8 layers"),
    "which": (model(more=ITEMS.replace(", at = layer", "")), "E570", "which item"),
    "number": (model(more=ITEMS.replace("at = layer", "at = 8")), "E570", "item 8 of `each`"),
    "over": (model(more=ITEMS.replace("over = each", "over = tokens")), "E570", "other than its first"),
    "outside": (
        model(more=ITEMS).replace("    e\n", "    f = item(start, over = each, at = layer)\n    e\n"),
        "E570",
        "only a block",
    ),
    "head": (model().replace("head rms_norm(x)", "head rms_norm(earlier.h)"), "E568", "only a block of layers"),
    "nameless": (model().replace("embedding w_", "embedding e = w_"), "E213", "a block of statements"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_earlier_layer_can_give_is_refused(case: str) -> None:
    text, code, words = REFUSED[case]
    with pytest.raises(PlanError) as error:
        plan(text)
    assert any(d.code == code and words in d.message for d in error.value.diagnostics), error.value


@pytest.mark.parametrize("sharding", ["pp = 2, cut = [2, 6]", "pp = 8"])
def test_stages_that_part_shared_keys_are_refused(sharding: str) -> None:
    with pytest.raises(PlanError) as error:
        plan(model(), sharding)
    assert {d.code for d in error.value.diagnostics if d.severity == "error"} == {"E567"}
