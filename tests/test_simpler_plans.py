"""The steps by which a plan that breaks a law is made smaller: each changes what it names, and nothing else."""

from __future__ import annotations

import pytest

from plandsl.driver import CompiledPlan, open_text
from plandsl.fields import changes
from plandsl.spec.plan import PlanSpec
from plandsl.testing.reduce import reduce_plan, simpler_plans

LOAD = "workload { input = 64, output = 16, batch = 8 }"
LINK = "topology = switch, bandwidth = 450 GB/s, latency = 2 us"
MODEL = """model m {{ {layers}, hidden = 64, ffn = 33, vocab = 32
  weights = bf16, max_context = 100
  {more}
  embedding w_embed[vocab, hidden]
  {blocks}
  head rms_norm(x) @ w_embed[vocab, hidden] }}
plan p {{ model = m, node = h100_1, workload {{ input = 1, output = 1, batch = 1 }} }}"""
BLOCK = "block {} x[tokens, hidden] {{ x = x + gelu(x @ w_up[hidden, ffn]) @ w_down[ffn, hidden] }}"

STEPS = {
    "two shardings": (
        f"""sharding base {{ sp = 2 }}
        sharding wide {{ mesh seq = 2; heads, kv_heads, ffn, vocab -> seq }}
        plan p {{ model = llama_3_2_1b, node = h100_2, {LOAD}
          shift {{ base = base, tensor = wide, threshold = 16 }} }}""",
        {"shift = None & ...": 1, "sharding = wide & shift = None & ...": 1, "node.count": 0, "sharding.sp = 1": 0},
    ),
    "guesses": (
        f"""plan p {{ model = llama_3_2_1b, node = h100_1, {LOAD}
          speculate {{ draft = none, tokens = 2, acceptance = [70 %, 60 %] }} }}""",
        {"speculate = None": 1, "speculate = { acceptance = [0.7] }": 1},
    ),
    "fields": (
        f"plan p {{ model = llama_3_2_1b, node = h100_1, {LOAD}, engine = vllm, chunks = 2, fuse_norms = false }}",
        {
            "engine = None": 1,
            "memory_fraction = 1 & fuse_norms = true & chunks = 1": 1,
            "chunks = 1": 1,
            "fuse_norms = true": 1,
            "workload.output = 1": 1,
            "workload.input = 32": 1,
            "workload.batch = 7": 1,
        },
    ),
    "unlike GPUs": (
        f"""node mixed {{ gpus = [2 * h100_sxm, 2 * h200_sxm], link {{ {LINK} }} }}
        plan p {{ model = llama_3_2_1b, node = mixed, sharding {{ pp = 2, tp = 2, cut = [10, 6] }}, {LOAD}
          require memory <= 95 % }}""",
        {
            "calibration = h100_sxm & node.gpus = None & node.gpu = h100_sxm & node.count = 4": 1,
            "calibration = h100_sxm": 1,
            "sharding.pp = None": 1,
            "sharding.cut = None": 1,
            "require memory = None": 1,
            "node.count = 2": 0,
        },
    ),
    "nodes": (
        f"""node home {{ gpu = h100_sxm, count = 2, link {{ {LINK} }} }}
        cluster mesh {{ node = home, count = 4
          network {{ topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }} }}
        plan p {{ model = llama_3_2_1b, cluster = mesh, {LOAD}
          sharding {{ mesh seq = 3, tensor = 8
            place tensor in node
            heads, kv_heads -> tensor
            context_form = gather }} }}""",
        {
            "node.count = 1": 1,
            "sharding.mesh tensor = 4 & node.count = 1": 1,
            "sharding.mesh seq = 1 & node.count = 1": 0,
            "cluster.count = 2": 1,
            "sharding.mesh seq = 2": 1,
            "sharding.mesh seq = 1": 1,
            "sharding.mesh tensor = 2": 1,
            "sharding.mesh tensor = 4": 1,
            "sharding.mesh tensor = None & sharding.heads, kv_heads = None & sharding.place = None": 1,
            "sharding.place = None": 1,
            "sharding.context_form = None": 1,
            "sharding.heads, kv_heads = None": 1,
            "sharding.heads, kv_heads = None & sharding.kv_heads = tensor": 1,
            "sharding.heads, kv_heads = None & sharding.heads = tensor": 1,
        },
    ),
    "traffic": (
        """plan p { model = llama_3_2_1b, node = h100_1, engine = vllm
          workload { input = uniform(20, 90), output = 9, rate = 10 req/s, requests = 20, seed = 3 } }""",
        {
            "workload.input = 55 & workload.rate = None & workload.seed = None & workload.concurrency = 4": 1,
            "workload.requests = 8": 1,
            "workload.output = 1": 0,
        },
    ),
    "little traffic": (
        """plan p { model = llama_3_2_1b, node = h100_1, engine = vllm
          workload { input = uniform(20, 90), output = 9, rate = 10 req/s, requests = 8 } }""",
        {"workload.requests = 8": 0},
    ),
    "kept prompts": (
        """plan p { model = llama_3_2_1b, node = h100_1
          workload { input = 64, output = 1, batch = 1, reuse = 50 %, in_flight = 2 } }""",
        {"workload.reuse = None": 1, "workload.in_flight = None": 1, "workload.output = 1": 0, "workload.batch = 1": 0},
    ),
    "one block": (
        MODEL.format(layers="layers = 6", more="", blocks=BLOCK.format("a")),
        {
            "model.layers = 1 & ...": 1,
            "model.layers = 2 & ...": 1,
            "model.layers = 3 & ...": 1,
            "model.hidden = 32": 1,
            "model.vocab = 16": 1,
            "model.ffn = 16": 0,
        },
    ),
    "two blocks": (
        MODEL.format(
            layers="layers = 3",
            more="stored { b = fp8 }",
            blocks=BLOCK.format("a [layers = 0..1]") + "\n  " + BLOCK.format("b [layers = 1..3]"),
        ),
        {"model.stored.b = None": 1, "model.layers = 1 & ...": 1, "model.layers = 2 & ...": 1, "model.layers = 2": 0},
    ),
}


def spec_of(text: str) -> PlanSpec:
    module = open_text(text)
    spec = module.plan("p")
    assert spec is not None, module.diagnostics
    return spec


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_changes_what_it_names(kind: str) -> None:
    """``A & B``: both fields change in one step; ``A & ...``: so do further ones."""
    text, expected = STEPS[kind]
    spec = spec_of(text)
    steps = []
    for simpler in simpler_plans(spec):
        assert simpler != spec
        steps.append(" & ".join(f"{change.path} = {change.after}" for change in changes(spec, simpler)))
    assert {step: sum(is_step(one, step) for one in steps) for step in expected} == expected, steps


def is_step(step: str, expected: str) -> bool:
    return step.startswith(expected.removesuffix("...")) if expected.endswith("...") else step == expected


def test_what_a_model_drafts_with_goes_first() -> None:
    spec = spec_of(
        f"model m = deepseek_v3 with {{ max_context = 9000 }}\nplan p {{ model = m, node = h200_8, {LOAD} }}"
    )
    assert spec.model.mtp is not None
    simpler = [one for one in simpler_plans(spec) if one.model != spec.model]
    assert (simpler[0].model.mtp, simpler[0].model.blocks) == (None, spec.model.blocks)
    assert simpler[1].model.stored == (), "and then the weights with a format of their own"


def test_a_reduction_ends_with_its_tries() -> None:
    asked = []

    def breaks(plan: CompiledPlan) -> bool:
        asked.append(plan)
        return False

    spec = spec_of(STEPS["kept prompts"][0])
    assert reduce_plan(spec, breaks, tries=2) is spec
    assert len(asked) == 2
