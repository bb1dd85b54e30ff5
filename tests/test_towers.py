"""Towers: encoders of images that run before the prefill of a model, and the loads whose prompts have images."""

from __future__ import annotations

import json
from math import isclose

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.api.kinds import Model
from plandsl.api.plans import Plan
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import expected
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text, plain_programs
from plandsl.grammar.hf import translate
from plandsl.ir.meaning.elementwise import merge_tokens
from plandsl.show import show_plan
from plandsl.spec.plan import PlanSpec
from plandsl.testing import assert_laws, compiled, plans
from plandsl.testing.compare import bare
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.testing.laws_models import towers_are_never_free
from plandsl.testing.towers import with_images
from tests.draws import draws
from tests.test_hf import CONFIGS

VIT = """
model vit {
  layers = 4, hidden = 64, heads = 4, head_dim = 16, ffn = 256, patch = 588, merged = 4 * hidden, wide = 256, out = 128
  weights = bf16, causal = false
  embedding patches @ w_patch[patch, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
    k = rope(h @ w_k[hidden, heads, head_dim])
    x = x + attention(q, k, h @ w_v[hidden, heads, head_dim]) @ w_o[heads, head_dim, hidden]
    x = x + gelu(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  head gelu(merge(rms_norm(x), tokens = 4, into = merged) @ w_1[merged, wide]) @ w_2[wide, out]
}
"""
BLIND = """
model blind {
  layers = 4, hidden = 128, heads = 8, kv_heads = 4, head_dim = 16, ffn = 512, vocab = 1024
  weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    k = rope(h @ w_k[hidden, kv_heads, head_dim])
    a = attention(rope(h @ w_q[hidden, heads, head_dim]), k, h @ w_v[hidden, kv_heads, head_dim])
    x = x + a @ w_o[heads, head_dim, hidden]
    x = x + gelu(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  head rms_norm(x) @ w_embed[vocab, hidden]
}
model sees = blind with { tower = vit }
"""
CAUSAL = (
    VIT[VIT.index("causal") :].replace("false", "true").split("  head")[0]
    + "  head rms_norm(x) @ w_2[hidden, out]\n}\n"
)
TEXTS = "input = 1000, output = 20, batch = 8"
LOAD = f"{TEXTS}, images = 2, image_tokens = 128"


def plan_of(fields: str, load: str = LOAD, model: str = "sees") -> CompiledPlan:
    (plan,) = compile_text(
        f"{VIT}{BLIND}plan p {{\n model = {model}, node = h100_8\n {fields}\n workload {{ {load} }}\n}}"
    )
    return plan


@pytest.mark.parametrize(
    "fields",
    [
        "sharding { sp = 2, tp = 2, pp = 2 }",
        "sharding { tp = 4 }, tower { sharding { mesh gpu = 4; batch -> gpu } }",
        "sharding { tp = 2 }, tower { sharding { mesh gpu = 2; tokens -> gpu } }",
    ],
)
def test_the_sharded_tower_computes_the_same(fields: str) -> None:
    verdict = plan_of(fields).verify(steps=1)
    assert verdict.ok, verdict.message


@given(length=st.integers(1, 9), tokens=st.integers(2, 4), width=st.integers(1, 3))
@draws(1 / 2)
def test_merged_tokens_are_neighbours_behind_one_another(length: int, tokens: int, width: int) -> None:
    x = np.arange(1.0, 1 + 2 * length * width).reshape(2, length, width)
    joined, mean = (merge_tokens(x, 1, tokens, joins) for joins in (True, False))
    for b in range(2):
        rows = [*x[b], *np.zeros((-length % tokens, width))]
        for at in range(joined.shape[1]):
            near = rows[at * tokens : (at + 1) * tokens]
            assert np.array_equal(joined[b, at], np.concatenate(near))
            assert np.allclose(mean[b, at], sum(near) / tokens)


def test_the_tower_takes_what_an_encoder_of_its_images_takes() -> None:
    sharding = "sharding { tp = 4 }"
    sees, blind = plan_of(sharding).estimate(), plan_of(sharding, TEXTS).estimate()
    alone = plan_of(sharding, "input = 512, output = 0, batch = 16", model="vit").estimate()
    assert sees.tower is not None
    assert (sees.tower.patches, sees.tower.tower) == (512, "vit")
    assert isclose(sees.tower.time_s, alone.ttft_s)
    assert isclose(sees.ttft_s, blind.ttft_s + alone.ttft_s)
    assert sees.tpot_s == blind.tpot_s


def test_a_tower_takes_memory_and_parameters_without_images_too() -> None:
    sharding = "sharding { tp = 4 }"
    sees, blind = plan_of(sharding, TEXTS).estimate(), plan_of(sharding, TEXTS, model="blind").estimate()
    alone = plan_of(sharding, "input = 512, output = 0", model="vit").estimate()
    assert sees.parameters == blind.parameters + alone.parameters
    assert isclose(sees.memory.weights, blind.memory.weights + alone.memory.weights)
    assert sees.ttft_s == blind.ttft_s


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ((VIT[VIT.index("causal") :], CAUSAL), "E547", "the tower `vit` is causal"),
        (("tower = vit", "tower = blind"), "E547", "reads ids of tokens, and not patches"),
        (("tower = vit", "tower = no_such"), "E201", "there is no model named `no_such`"),
        (("wide = 256", "wide = 256, places = 256"), "", ""),
        (
            ("@ w_patch[patch, hidden]", "@ w_patch[patch, hidden] + lookup(w_at[places, hidden], by = position)"),
            "E546",
            "an image of 128 tokens has 512 patches, but `w_at` of the tower has 256 positions",
        ),
    ],
)
def test_a_tower_that_cannot_read_the_images_is_refused(change: tuple[str, str], code: str, words: str) -> None:
    text = f"{VIT}{BLIND}plan p {{\n model = sees, node = h100_8\n workload {{ {LOAD} }}\n}}"
    text = text.replace("wide = 256", "wide = 256, places = 256") if code == "E546" else text
    if not code:
        compile_text(text.replace(*change))
        return
    with pytest.raises(PlanError) as raised:
        compile_text(text.replace(*change))
    (found,) = (d for d in raised.value.diagnostics if d.severity == "error")
    assert (found.code, words in found.message) == (code, True)
    if code == "E546":
        most = found.hint.split()[-1].strip("`")
        compile_text(text.replace(*change).replace("image_tokens = 128", f"image_tokens = {most}"))


@pytest.mark.parametrize(("images", "rounds"), [(0.125, 1), (2, 4)])
def test_whole_images_are_dealt_to_the_ranks(images: float, rounds: int) -> None:
    """Of 8 requests: 1 and 16 images on 4 ranks. The fullest rank encodes so many, each as on one GPU."""
    load = LOAD.replace("images = 2", f"images = {images}")
    tower = plan_of("sharding { tp = 4 }, tower { sharding { mesh gpu = 4; batch -> gpu } }", load).estimate().tower
    alone = plan_of("", f"input = 512, output = 0, batch = {rounds}", model="vit").estimate()
    assert tower is not None
    assert isclose(tower.time_s, alone.ttft_s)
    assert isclose(tower.weights_bytes, alone.memory.weights)


def test_a_picture_of_prefill_says_that_the_tower_runs_first() -> None:
    drawn = str(plan_of("sharding { tp = 4 }").draw("timeline"))
    assert ("the tower, " in drawn, "draft" in drawn) == (True, False)


def test_chunks_of_a_prompt_share_its_images() -> None:
    (run,) = (r for r in plan_of("chunked_prefill = 512").cost.own.prefill.runs if r.part == "tower")
    assert isclose(float(run.bind["batch"]), 16)
    assert run.bind["input"] == 512


def test_a_simulation_pays_for_images() -> None:
    load = "input = 1000, output = 20, rate = 10 req/s, requests = 20"
    with_images = f"{load}, images = 2, image_tokens = 128"
    slow, fast = (
        plan_of("engine = vllm", each).simulate().simulation.summary.ttft.mean for each in (with_images, load)
    )
    alone = plan_of("", "input = 512, output = 0, batch = 2", model="vit").estimate()
    assert float(slow.value) - float(fast.value) > 0.9 * alone.ttft_s


@pytest.mark.parametrize(
    "fields",
    [
        "sharding { tp = 4 }, tower { sharding { mesh gpu = 4; batch -> gpu } }",
        "speculate { draft = blind, tokens = 2, acceptance = 70 % }",
        "shift { base { sp = 4 }, tensor { tp = 4 }, threshold = 256 }",
    ],
)
def test_a_plan_with_a_tower_reads_back(fields: str) -> None:
    spec = plan_of(fields).spec
    (again,) = compile_text(show_plan(spec))
    assert bare(again.spec) == bare(spec)


def test_a_draft_and_a_tower_add_up() -> None:
    guessing = "speculate { draft = blind, tokens = 2, acceptance = 70 % }"
    both, drafts = plan_of(guessing).estimate(), plan_of(guessing, TEXTS).estimate()
    towers = plan_of("").estimate()
    assert both.tower is not None
    assert towers.tower is not None
    assert isclose(both.tower.time_s, towers.tower.time_s)
    assert isclose(both.prefill.draft_s, drafts.prefill.draft_s)
    assert isclose(both.ttft_s, drafts.ttft_s + towers.tower.time_s)


def test_a_program_in_jax_has_the_functions_of_the_tower_beside_those_of_the_model() -> None:
    for plan, prefix in (
        (plan_of(""), "tower_prefill"),
        (plan_of("", "input = 512, output = 0", model="vit"), "prefill"),
    ):
        text = plan.jax_program()
        assert f"def {prefix}_head(w, cache, x, ids, past, total):" in text
        assert "patch=588" in text


PATCHES = {"qwen2_5_vl_7b": 4, "mistral_small_3_1": 4, "gemma_3_12b": 16, "qwen3_vl_4b": 4} | {
    "llama_4_scout": 4,
    "kimi_k2_5": 4,
}
"""Patches of a token, by the configs whose towers `hf` reads. `tests/test_hf.py` has their parameters."""


@pytest.mark.parametrize("name", PATCHES)
def test_the_tower_of_a_config_computes_the_same_when_sharded(name: str) -> None:
    text, _, found = translate((CONFIGS / f"{name}.json").read_bytes(), f"{name}.json")
    assert {d.code for d in found} <= {"N201"}
    assert ("mergers of the tower are left out, with 81833472 parameters" in text) == (name == "qwen3_vl_4b")
    load = "input = 2000, output = 20, images = 1, image_tokens = 128"
    (plan,) = compile_text(
        f"{text}plan p {{ model = {name}, node = h100_2, sharding {{ tp = 2 }}, workload {{ {load} }} }}"
    )
    tower = plan.tower
    assert tower is not None
    assert tower.spec.workload.input == 128 * PATCHES[name]
    assert tower.verify(steps=0).ok


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"patch_size": None}, 'config.json has no "patch_size"'),
        ({"hidden_size": 10**9}, "`merged` would be"),
        ({"spatial_merge_size": 1}, "no patches become one token"),
        ({"depth": "many"}, '"depth" must be a whole number'),
    ],
)
def test_a_tower_that_hf_cannot_write_is_told(more: dict[str, object], why: str) -> None:
    config = json.loads((CONFIGS / "qwen3_vl_4b.json").read_text())
    config["vision_config"] |= more
    text, _, found = translate(json.dumps(config).encode(), "config.json")
    assert "tower {" not in text
    assert any(d.message.startswith(f"the tower is left out: {why}") for d in found), found


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        (VIT.replace("causal = false", "causal = true"), "E548", "takes all tokens of a request"),
        (VIT.replace("tokens = 4, ", ""), "E548", "no number of `tokens`"),
        (VIT.replace("into = merged", "into = nothing"), "E548", "`into` must name"),
        (VIT.replace("h = rms_norm(x)", "h = merge(rms_norm(x), tokens = 4)"), "E548", "in the head"),
        (VIT.replace("patches @ w_patch[patch", "w_patch[patch"), "E547", "reads ids of tokens"),
        (VIT.replace("tokens = 4, into = merged) @ w_1[merged", "tokens = 4) @ w_1[hidden"), "W202", "`merged`"),
        (VIT.replace("out = 128", "out = 64"), "E547", "`out`, 64"),
    ],
)
def test_a_wrong_tower_is_told(text: str, code: str, part: str) -> None:
    try:
        (plan,) = compile_text(f"{text}{BLIND}plan p {{ model = sees, node = h100_8, workload {{ {LOAD} }} }}")
        found = plan.notes
    except PlanError as error:
        found = tuple(error.diagnostics)
    assert (code, True) in [(d.code, part in d.message) for d in found], [(d.code, d.message) for d in found]


def test_a_tower_in_place_is_printed_by_an_object_as_the_model_that_it_is() -> None:
    text = show_plan(plan_of("sharding { tp = 2 }").spec)
    plan = Plan.read(text)
    assert isinstance(plan.model.tower, Model)
    assert Plan.read(str(plan)) == plan
    (again,) = compile_text(str(plan))
    assert bare(again.spec) == bare(plan_of("sharding { tp = 2 }").spec)


def test_a_tower_is_never_free() -> None:
    plan = plan_of("sharding { tp = 2 }")
    assert towers_are_never_free(plan) is None
    with pytest.raises(DoesNotApply):
        towers_are_never_free(plan_of("sharding { tp = 2 }", TEXTS, model="blind"))


@given(plans().filter(lambda spec: not spec.workload.encodes and spec.model.tower is None).flatmap(with_images))
@draws(1 / 20)
def test_drawn_towers_keep_the_laws(spec: PlanSpec) -> None:
    assert_laws(compiled(spec))


def test_ranks_may_have_no_image_to_merge() -> None:
    assert merge_tokens(np.zeros((0, 5, 3)), 1, 2, joins=True).shape == (0, 3, 6)
    fields = "sharding { mesh a = 2, b = 2; batch -> a; heads, kv_heads, ffn -> b }, micro_batches = 2"
    verdict = plan_of(fields).verify(steps=1)
    assert verdict.ok, verdict.message


def test_a_tower_is_expected_to_read_patches_and_its_model_tokens() -> None:
    made = plan_of("sharding { tp = 2 }")
    assert made.spec.tower_plan is not None
    tower, model = shrink(made.spec.tower_plan), shrink(made.spec)
    patch, load = dict(tower.model.sizes)["patch"], tower.workload
    assert expected(tower, plain_programs(tower), steps=0).ids.shape == (load.batch, load.input, patch)
    load = model.workload
    assert expected(model, plain_programs(model), steps=1).ids.shape == (load.batch, load.input + 1)
