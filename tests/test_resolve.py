"""From text to resolved declarations: what plans mean, and what is said about those that mean nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plandsl.codes import CODES
from plandsl.codes_names import NAME_CODES
from plandsl.diagnostics import Diagnostic, render
from plandsl.grammar.modules import CATALOG, FOLDERS, catalog_names
from plandsl.grammar.resolve import Module, Spec, load
from plandsl.grammar.sharding import SUGAR
from plandsl.limits import MAX_ERRORS, MAX_EXPANSION, MAX_FILES
from plandsl.spec.hardware import CalibrationSpec, ClusterSpec, GpuSpec, LinkSpec, NodeSpec
from plandsl.spec.model import Apply, ModelSpec, Term, Var, Weight
from plandsl.spec.origins import UNMEASURED
from plandsl.spec.plan import PlanSpec, ShardingSpec, WorkloadSpec
from tests.draws import draws

ERRORS = Path(__file__).parent / "golden" / "errors"
PATTERNS = ("e2*.plan", "e306*.plan", "e475*.plan", "e530*.plan", "e49*.plan", "w2*.plan", "w4*.plan")
CASES = sorted(p.stem for pattern in PATTERNS for p in ERRORS.glob(pattern))
ENTRIES = [(kind, path.stem) for kind, folder in FOLDERS.items() for path in sorted((CATALOG / folder).glob("*.plan"))]
MODELS = [name for kind, name in ENTRIES if kind == "model"]

PARTS = "model = llama_3_1_8b, node = mi325x_8, workload { input = 1000, output = 100 }"
LANGUAGE = """\
sharding tp8 { tp = 8 }

sharding hybrid {                        # what { tp = 4, pp = 2 } means
  mesh stage = 2, tensor = 4             # major axis first
  layers -> stage
  heads, kv_heads, ffn, vocab -> tensor
}

sharding ulysses {                       # sp = 4, tp = 2
  mesh seq = 4, tensor = 2
  tokens -> seq
  heads, kv_heads, ffn, vocab -> tensor
  in attention { heads, kv_heads -> tensor, seq }
}
workload longalpaca { input = 9092, output = 208, batch = 256 }
workload chat       { input = lognormal(mean = 900, p95 = 3200), output = 180, rate = 12 req/s, requests = 20_000 }
workload replay     { trace = "conv.csv", speed = 2.0 }
cluster pod {
  node  = mi325x_8
  count = 4
  network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }   # per GPU, per direction
}
node mixed {
  gpus = [4 * h100_sxm, 4 * h200_sxm]
  link { topology = torus(2, 2, 2), bandwidth = 64 GB/s, latency = 2 us }
}
calibration mine {
  source = "measured"
  gemm = 0.46, attention_prefill = 48 %, launch = 3 us
  efficiency { fp8 = 0.4, deep { bf16 = 0.5 } }
}
plan serve {
  model    = llama_3_1_70b with { weights = fp8, kv_cache = fp8 }
  node     = mi325x_8                     # or: cluster = pod
  sharding = hybrid                       # or inline: sharding { tp = 4, pp = 2 }
  workload = longalpaca
  calibration = study_2603_05692          # optional
  kv_residency = one_batch
  step_tokens = 4096
  require ttft <= 90 s
  require tpot <= 100 ms
  require memory <= 95 %
}
search best {
  model = llama_3_1_70b, node = mi325x_8, workload = longalpaca
  vary tp in [1, 2, 4, 8], pp in [1, 2, 4, 8], batch in 1..1024 by * 2
  require tpot <= 50 ms
  maximize throughput
}
"""


def module(text: str, **more: list[tuple[str, str]]) -> Module:
    return load(text, "<text>", **more)


def sound(text: str, **more: list[tuple[str, str]]) -> Module:
    """The module of a text without mistakes."""
    found = module(text, **more)
    found.check()
    wrong = [d for d in found.diagnostics if d.code != "W205"]  # tests name constants as they like
    assert not wrong, render(wrong, found.sources)
    return found


def plan(text: str, name: str = "p", **more: list[tuple[str, str]]) -> PlanSpec:
    spec = sound(text, **more).plan(name)
    assert spec is not None
    return spec


def only_plan(body: str) -> PlanSpec:
    return plan(f"plan p {{ {PARTS}\n{body} }}")


def findings(text: str, **more: list[tuple[str, str]]) -> list[Diagnostic]:
    found = module(text, **more)
    found.check()
    return found.diagnostics


def codes(text: str, **more: list[tuple[str, str]]) -> list[str]:
    return [d.code for d in findings(text, **more)]


def specs(text: str, kind: str, name: str) -> Spec:
    spec = sound(text).spec(kind, name)
    assert spec is not None
    return spec


# ---- the catalog


@pytest.mark.parametrize(("kind", "stem"), ENTRIES)
def test_every_catalog_file_resolves_without_a_finding(kind: str, stem: str) -> None:
    catalog = module("")
    file = CATALOG / FOLDERS[kind] / f"{stem}.plan"
    for name in re.findall(rf"^{kind} (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
        spec = catalog.spec(kind, name)
        assert spec is not None, render(catalog.diagnostics, catalog.sources)
        assert spec.name == name
        if isinstance(spec, ModelSpec | GpuSpec | NodeSpec | CalibrationSpec):
            assert spec.source
        if isinstance(spec, NodeSpec | ClusterSpec):  # fitted constants are for links of the usual latency
            link = spec.link if isinstance(spec, NodeSpec) else spec.network
            node = spec if isinstance(spec, NodeSpec) else spec.node
            assert link.latency == link.usual or node.count == 1 or node.gpu.calibration == UNMEASURED
    assert not catalog.diagnostics


def test_every_name_the_catalog_offers_is_there() -> None:
    catalog = module("")
    for kind in FOLDERS:
        for name in catalog_names(kind):
            assert catalog.spec(kind, name) is not None, name


def walk(term: Term) -> list[Term]:
    if not isinstance(term, Apply):
        return [term]
    return [term, *(t for arg in (*term.args, *(s.term for s in term.body)) for t in walk(arg))]


def parameters(model: ModelSpec) -> int:
    """Weights and gains of a model, counted from its terms."""
    sizes = dict(model.sizes)

    def count(terms: list[Term], known: dict[str, int]) -> int:
        gains = 0
        for term in (t for root in terms for t in walk(root)):
            if isinstance(term, Weight):
                known[term.name] = 1
                for dim in term.dims:
                    known[term.name] *= sizes[dim]
            elif isinstance(term, Apply) and term.fn.endswith("_norm") and term.option("gain", "") != "none":
                gains += sizes[str(term.option("over", ""))]
        return gains

    outer: dict[str, int] = {}
    entry = [*(statement.term for statement in model.prelude), model.entry or model.embedding]
    total = count([*entry, model.head], outer) + sum(outer.values())
    for block in model.blocks:
        inner: dict[str, int] = {}
        gains = count([statement.term for statement in block.statements], inner)
        total += (gains + sum(inner.values())) * block.every.count(block.layers)
    return total


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_parameters_that_its_file_says(name: str) -> None:
    text = (CATALOG / "models" / f"{name}.plan").read_text(encoding="utf-8")
    exactly = re.search(r"Exactly: ([0-9,]+)", text)
    assert exactly, "the file says how many"
    model = module("").spec("model", name)
    assert isinstance(model, ModelSpec)
    assert parameters(model) == int(exactly[1].replace(",", "").strip())


# ---- what plans mean


def test_the_examples_of_the_language_resolve() -> None:
    serve = plan(LANGUAGE, "serve")
    assert (serve.model.name, serve.model.weights, serve.model.kv_cache) == ("llama_3_1_70b", "fp8", "fp8")
    assert (serve.node.gpu.name, serve.node.count, serve.node.link.topology) == ("mi325x", 8, "mesh")
    assert (serve.sharding.name, serve.sharding.ranks, serve.sharding.replicas) == ("hybrid", 8, 1)
    assert (serve.workload.input, serve.workload.output, serve.workload.batch) == (9092, 208, 256)
    assert (serve.kv_residency, serve.step_tokens, serve.calibration.name) == ("one_batch", 4096, "study_2603_05692")
    assert [r.text for r in serve.requires] == ["ttft <= 90 s", "tpot <= 100 ms", "memory <= 95 %"]


def test_defaults_of_a_plan() -> None:
    spec = only_plan("")
    assert (spec.sharding.axes, spec.workload.batch, spec.in_flight) == ((), 1, None)
    assert (spec.kv_residency, spec.step_tokens, spec.memory_fraction) == ("all_batches", 8192, 1.0)
    assert (spec.hop_tensors, spec.fuse_norms, spec.algorithm) == (1, True, "auto")


def test_the_calibration_is_the_plans_else_that_of_its_gpu_else_generic() -> None:
    assert only_plan("").calibration.name == "mi300x"
    assert only_plan("calibration = generic").calibration.name == "generic"
    assert plan(f"plan p {{ {PARTS.replace('mi325x_8', 'h100_8')} }}").calibration.name == "h100_sxm"
    own = "gpu g { memory = 80 GB, bandwidth = 3 TB/s, compute { bf16 = 900 TFLOP/s, fp8 = 1800 TFLOP/s } }\n"
    parts = PARTS.replace("mi325x_8", "mi325x_8 with { gpu = g }")
    assert plan(f"{own}plan p {{ {parts} }}").calibration.name == "generic"
    inline = only_plan("calibration { gemm = 0.5 }").calibration
    assert (inline.name, inline.values) == ("p", (("gemm", 0.5),))


def test_constants_in_sections_get_dotted_names_and_si_values() -> None:
    mine = specs(LANGUAGE, "calibration", "mine")
    assert isinstance(mine, CalibrationSpec)
    names = dict(mine.values)
    assert names == {
        "gemm": 0.46,
        "attention_prefill": 0.48,
        "launch": 3e-6,
        "efficiency.fp8": 0.4,
        "efficiency.deep.bf16": 0.5,
    }


def test_a_block_becomes_terms() -> None:
    model = module("").spec("model", "qwen3_8b")
    assert isinstance(model, ModelSpec)
    (block,) = model.blocks
    assert (block.layers, block.arg) == ((0, 36), "x")
    query = block.statements[1]
    assert query.target == "q"
    assert isinstance(query.term, Apply)
    assert query.term.fn == "rope"
    (norm,) = query.term.args
    assert isinstance(norm, Apply)
    assert (norm.fn, norm.options) == ("rms_norm", (("over", "head_dim"),))
    (gemm,) = norm.args
    assert isinstance(gemm, Apply)
    assert gemm.fn == "matmul"
    value, weight = gemm.args
    assert isinstance(value, Var)
    assert isinstance(weight, Weight)
    assert (value.name, weight.name, weight.dims) == ("h", "w_q", ("hidden", "heads", "head_dim"))


TINY = """\
model tiny {{
  layers = 4, hidden = 64, heads = 8, kv_heads = 2, head_dim = hidden / heads, ffn = 2 * hidden, vocab = 1000
  weights = bf16
  embedding w_embed[vocab, hidden]
  {blocks}
  head rms_norm(x) @ w_embed[vocab, hidden]
}}
"""


def tiny(*blocks: str) -> ModelSpec:
    model = module(TINY.format(blocks="\n  ".join(blocks))).spec("model", "tiny")
    assert isinstance(model, ModelSpec)
    return model


def first_term(block: str) -> Term:
    return tiny(f"block x[tokens, hidden] {{ {block} }}").blocks[0].statements[0].term


def test_dimensions_may_follow_from_one_another_even_when_overridden() -> None:
    text = TINY.format(blocks="block x[tokens, hidden] { x = x + x @ w_a[hidden, ffn] @ w_b[ffn, hidden] }")
    model = module(text + "model wide = tiny with { hidden = 128 }\n").spec("model", "wide")
    assert isinstance(model, ModelSpec)
    assert (model.size("ffn"), model.size("head_dim")) == (256, 16)


def test_an_elementwise_operand_with_fewer_dimensions_comes_second() -> None:
    biased = first_term("x = w_b[hidden] + x")
    assert isinstance(biased, Apply)
    assert (biased.fn, type(biased.args[0]), type(biased.args[1])) == ("add", Var, Weight)


def test_blocks_of_layer_ranges_are_in_order() -> None:
    model = tiny(
        "block last [layers = 1..layers] x[tokens, hidden] { x = silu(x) }",
        "block [layers = 0..1] x[tokens, hidden] { x = gelu(x) }",
    )
    assert [(b.name, b.layers) for b in model.blocks] == [("block0", (0, 1)), ("last", (1, 4))]


def test_attention_options_are_values() -> None:
    model = module("").spec("model", "mistral_7b_v0_1")
    assert isinstance(model, ModelSpec)
    terms = [t for s in model.blocks[0].statements for t in walk(s.term)]
    (attention,) = [t for t in terms if isinstance(t, Apply) and t.fn == "attention"]
    assert attention.options == (("window", 4096),)


# ---- arithmetic


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3 - 4 / 2", 5.0),
        ("-(2 - 5)", 3.0),
        ("7 / 2", 3.5),
        ("10 - 3 - 2", 5.0),
        ("95 %", 0.95),
        ("2 us", 2e-6),
        ("3 min", 180.0),
        ("1 KiB", 1024.0),
        ("8 Gbit/s", 1e9),
        ("256 GB / 6 TB/s", 256 / 6000),
        ("36 USD/h * 1 s", 0.01),
        ("2 TFLOP/s * 3 ms", 6e9),
        ("mi325x_8.gpu.memory / mi325x.bandwidth", 255.98 * 2**30 / 6e12),
        ("llama_3_1_8b.hidden / 2", 2048.0),
        ("1_000 tok / 4 s", 250.0),
        ("one + one", 2.0),
    ],
)
def test_arithmetic(text: str, value: float) -> None:
    spec = specs(f"let one = 1\ncalibration c {{ a = {text} }}\n", "calibration", "c")
    assert isinstance(spec, CalibrationSpec)
    assert spec.values == (("a", pytest.approx(value, rel=1e-15)),)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 GB < 2 GB and not 3 s >= 4 s", True), ("1 == 2 or 1 != 2", True), ("false", False), ("not true", False)],
)
def test_comparison(text: str, value: bool) -> None:
    assert only_plan(f"fuse_norms = {text}").fuse_norms is value


def test_a_quotient_that_comes_out_even_is_whole() -> None:
    assert only_plan("step_tokens = 8192 / 2").step_tokens == 4096
    assert codes(f"plan p {{ {PARTS}, step_tokens = 8192 / 3 }}") == ["E214"]


def test_a_node_of_one_gpu_needs_no_link() -> None:
    node = specs("node alone { gpu = h100_sxm, count = 1 }", "node", "alone")
    assert isinstance(node, NodeSpec)
    assert node.count == 1


def test_a_bridge_joins_pairs_beside_links_that_every_gpu_has() -> None:
    text = "node n { gpu = h100_pcie, count = 8, link { topology = %s, bandwidth = 64 GB/s, latency = 5 us%s } }"
    bridged = specs(text % ("pcie", ", bridge = 300 GB/s"), "node", "n")
    plain = specs(text % ("pcie", ""), "node", "n")
    assert isinstance(bridged, NodeSpec)
    assert isinstance(plain, NodeSpec)
    assert (bridged.link.bridge, plain.link.bridge) == (300e9, 0.0)
    assert bridged.link.bandwidth == plain.link.bandwidth == 64e9
    ring = specs(text % ("ring", ", bridge = 300 GB/s"), "node", "n")
    assert isinstance(ring, NodeSpec)
    assert ring.link.pair == LinkSpec("mesh", 300e9, 2e-6, usual=2e-6)  # as long as a message over NVLink
    assert codes(text % ("switch", ", bridge = 300 GB/s")) == ["E250"]


def test_the_axes_of_a_torus_close_to_rings_unless_the_node_says_not() -> None:
    text = "node n { gpu = h100_sxm, count = 8, link { topology = %s, bandwidth = 64 GB/s, latency = 5 us%s } }"
    closed, lines = (specs(text % ("torus(2, 4)", more), "node", "n") for more in ("", ", wrap = off"))
    assert isinstance(closed, NodeSpec)
    assert isinstance(lines, NodeSpec)
    assert (closed.link.wrap, lines.link.wrap) == (True, False)
    assert codes(text % ("switch", ", wrap = off")) == ["E490"]


def test_a_cluster_takes_the_network_of_its_nodes_unless_it_has_its_own() -> None:
    text = """
    node n = h100_8 with { network { topology = rail, bandwidth = 50 GB/s }, host_memory = 1 TB
      assumed { network { latency = 5 us } } }
    cluster c { node = n, count = 2 }
    cluster d { node = n, count = 2, network { topology = switch, bandwidth = 9 GB/s, latency = 1 us } }
    cluster e { node = h100_8, count = 2 }
    """
    alone = text.replace("cluster e", "# cluster e")
    node, taken, own = specs(alone, "node", "n"), specs(alone, "cluster", "c"), specs(alone, "cluster", "d")
    assert isinstance(node, NodeSpec)
    assert isinstance(taken, ClusterSpec)
    assert isinstance(own, ClusterSpec)
    assert (taken.network, own.network.topology, node.host_memory) == (node.network, "switch", 1e12)
    assert ("network.latency", "5 us") in taken.assumed
    assert "network.latency" not in dict(node.assumed) | dict(own.assumed)  # who uses it assumes it
    assert codes(text) == ["E207"]


# ---- with, aliases, let, use


def test_with_overrides_at_any_depth_also_behind_a_name() -> None:
    text = f"""
    plan base {{ {PARTS}, sharding {{ tp = 8 }}
      require ttft <= 2 s }}
    plan p = base with {{
      model {{ weights = fp8 }}
      node {{ link {{ latency = 1 us }}, gpu {{ memory = 100 GB }} }}
      workload {{ batch = 8 }}
      sharding {{ pp = 2, tp = 4 }}
      require tpot <= 50 ms
    }}
    """
    base, spec = plan(text, "base"), plan(text)
    assert (spec.name, spec.model.name, spec.model.weights) == ("p", "llama_3_1_8b", "fp8")
    assert (spec.node.link.latency, spec.node.link.bandwidth) == (1e-6, base.node.link.bandwidth)
    assert (spec.node.gpu.memory, spec.node.gpu.bandwidth) == (100e9, base.node.gpu.bandwidth)
    assert (spec.workload.input, spec.workload.batch) == (1000, 8)
    assert [(a.name, a.size) for a in spec.sharding.axes] == [("stage", 2), ("tensor", 4)]
    assert [r.metric for r in spec.requires] == ["ttft", "tpot"]
    assert base.model.weights == "bf16", "the base is as it was"


def test_a_name_replaces_a_section_and_a_section_a_part_of_a_name() -> None:
    text = f"sharding wide {{ tp = 8 }}\nplan a {{ {PARTS}, sharding {{ tp = 2 }} }}\n"
    assert plan(text + "plan p = a { sharding = wide }").sharding.ranks == 8
    assert plan(text + "plan p = a { sharding = wide with { tp = 4 } }").sharding.ranks == 4


def test_a_block_a_head_and_an_embedding_are_replaced_whole() -> None:
    text = TINY.format(blocks="block x[tokens, hidden] { x = silu(x) }") + (
        "model other = tiny with { block x[tokens, hidden] { x = gelu(x) }, head x @ w_out[hidden, vocab] }\n"
    )
    other = module(text).spec("model", "other")
    assert isinstance(other, ModelSpec)
    (statement,) = other.blocks[0].statements
    assert isinstance(statement.term, Apply)
    assert statement.term.fn == "gelu"
    assert [t.name for t in walk(other.head) if isinstance(t, Weight)] == ["w_out"]


def test_new_rules_go_before_those_of_the_base_and_axes_keep_their_place() -> None:
    text = """
    sharding base { mesh stage = 2, tensor = 4
      layers -> stage
      heads -> tensor }
    sharding s = base with { mesh tensor = 2, seq = 2
      tokens -> seq }
    """
    spec = specs(text, "sharding", "s")
    assert isinstance(spec, ShardingSpec)
    assert [(a.name, a.size) for a in spec.axes] == [("stage", 2), ("tensor", 2), ("seq", 2)]
    assert [rule.dims for rule in spec.rules] == [("tokens",), ("layers",), ("heads",)]


def test_let_names_belong_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "fleet.plan").write_text(
        "let room = 100 GB\nlet shared = 4\nnode small = mi325x_4 with { gpu { memory = room } }\n"
    )
    root = tmp_path / "root.plan"
    root.write_text(
        'use "fleet.plan"\nlet room = 1 GB\n'
        f"plan p {{ {PARTS.replace('mi325x_8', 'small')}, sharding {{ tp = shared }} }}\n"
    )
    found = load(None, root)
    spec = found.plan("p")
    assert not found.diagnostics
    assert spec is not None
    assert (spec.node.gpu.memory, spec.sharding.ranks) == (100e9, 4)
    assert set(found.sources) >= {str(root), str(tmp_path / "fleet.plan"), "catalog/gpus/mi325x.plan"}


def test_lets_stand_for_words_names_and_declarations() -> None:
    text = f"""
    let format = fp8
    let fleet = mi325x_4
    let small = llama_3_1_8b with {{ weights = format }}
    let most = mi325x.bandwidth * 1 s / 2 + 3 GB
    plan p {{ {PARTS.replace("llama_3_1_8b", "small").replace("mi325x_8", "fleet")}
      require memory <= most }}
    """
    spec = plan(text)
    assert (spec.model.weights, spec.node.count, spec.requires[0].bound) == ("fp8", 4, 3003e9)


def test_assumed_figures_count_and_are_listed() -> None:
    text = """
    gpu mine {
      memory = 1 GB
      compute { bf16 = 1 TFLOP/s }
      assumed { bandwidth = 1 TB/s, compute { fp8 = 2 * 1 TFLOP/s } }   # said nowhere
    }
    gpu known = mine with { bandwidth = 3 TB/s }
    """
    mine, known = specs(text, "gpu", "mine"), specs(text, "gpu", "known")
    assert isinstance(mine, GpuSpec)
    assert isinstance(known, GpuSpec)
    assert mine.assumed == (("compute.fp8", "2 * 1 TFLOP/s"), ("bandwidth", "1 TB/s"))
    assert (mine.peak("fp8"), mine.peak("bf16"), mine.bandwidth) == (2e12, 1e12, 1e12)
    assert known.assumed == (("compute.fp8", "2 * 1 TFLOP/s"),)


def test_a_plan_is_judged_alone_when_it_is_asked_for() -> None:
    found = module(f"plan good {{ {PARTS} }}\nplan bad {{ model = nope }}\nlet wrong = 1 / 0\n")
    assert found.plans == ["good", "bad"]
    assert found.plan("good") is not None
    assert not found.diagnostics
    assert found.plan("bad") is None
    assert {d.code for d in found.diagnostics} == {"E201", "E207"}


def test_an_unknown_plan_is_a_finding() -> None:
    found = module(f"plan serve {{ {PARTS} }}")
    assert found.plan("serv") is None
    assert [(d.code, d.hint) for d in found.diagnostics] == [("E201", "did you mean `serve`?")]


# ---- sharding


def axes(body: str) -> list[tuple[str, int]]:
    return [(axis.name, axis.size) for axis in only_plan(f"sharding {{ {body} }}").sharding.axes]


def rules(body: str) -> list[tuple[str, str]]:
    shown = []
    for rule in only_plan(f"sharding {{ {body} }}").sharding.rules:
        shown.append((f"{', '.join(rule.dims)} -> {', '.join(rule.axes)}", rule.region))
    return shown


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pp = 2", [("layers -> stage", "")]),
        ("tp = 2", [("heads, kv_heads, ffn, vocab -> tensor", "")]),
        ("sp = 2", [("tokens -> seq", ""), ("heads, kv_heads -> seq", "attention")]),
        ("cp = 2", [("tokens -> context", ""), ("context -> context", "")]),
        ("ep = 1", [("batch -> expert", "")]),
        ("dp = 2", []),
        (
            "sp = 4, tp = 2",
            [
                ("tokens -> seq", ""),
                ("heads, kv_heads -> tensor, seq", "attention"),
                ("heads, kv_heads, ffn, vocab -> tensor", ""),
            ],
        ),
    ],
)
def test_degrees_are_sugar_for_rules(body: str, expected: list[tuple[str, str]]) -> None:
    assert rules(body) == expected


def test_degrees_lie_major_to_minor_whatever_their_order() -> None:
    assert axes("tp = 1, sp = 2, cp = 3, pp = 4, dp = 5") == [
        ("data", 5),
        ("stage", 4),
        ("context", 3),
        ("seq", 2),
        ("tensor", 1),
    ]
    assert list(SUGAR) == ["dp", "pp", "cp", "sp", "ep", "tp"]


def test_written_axes_come_before_those_of_degrees_and_replicas_before_all() -> None:
    assert axes("tp = 2, mesh b = 2, a = 3\n dp = 2\n tokens -> b\n heads -> a") == [
        ("data", 2),
        ("b", 2),
        ("a", 3),
        ("tensor", 2),
    ]
    spec = only_plan("sharding { dp = 2, tp = 4 }").sharding
    assert (spec.replica_axes, spec.replicas, spec.ranks) == (("data",), 2, 8)


def test_rules_and_degrees_keep_the_order_of_the_text() -> None:
    assert rules("mesh seq = 2\n tokens -> seq\n tp = 2\n in head { vocab -> seq }") == [
        ("tokens -> seq", ""),
        ("heads, kv_heads, ffn, vocab -> tensor", ""),
        ("vocab -> seq", "head"),
    ]


def test_a_degree_and_an_axis_of_its_name_and_size_are_one() -> None:
    assert axes("mesh tensor = 4\n tp = 4") == [("tensor", 4)]


def test_settings_of_a_sharding_reach_the_plan() -> None:
    spec = only_plan("sharding { cp = 2, context_form = gather, hop_tensors = 2 }")
    assert (spec.sharding.context_form, spec.hop_tensors) == ("gather", 2)
    assert only_plan("sharding { pp = 2, hop_tensors = 2 }, hop_tensors = 1").hop_tensors == 1


# ---- requirements


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttft <= 90 s", ("ttft", "<=", 90.0, False)),
        ("100 ms >= tpot", ("tpot", "<=", 0.1, False)),
        ("memory < 95 %", ("memory", "<", 0.95, True)),
        ("memory < 200 GB", ("memory", "<", 200e9, False)),
        ("0.4 <= mfu", ("mfu", ">=", 0.4, False)),
        ("comm_share <= 20 %", ("comm_share", "<=", 0.2, True)),
        ("kv_capacity >= 1_000", ("kv_capacity", ">=", 1000.0, False)),
        ("kv_capacity >= 1_000 tok", ("kv_capacity", ">=", 1000.0, False)),
        ("throughput  >=   2 * 500 tok/s", ("throughput", ">=", 1000.0, False)),
        ("cost <= 0.5 USD", ("cost", "<=", 0.5, False)),
        ("max_batch >= 64", ("max_batch", ">=", 64.0, False)),
    ],
)
def test_a_requirement_has_its_metric_on_the_left(text: str, expected: tuple[object, ...]) -> None:
    (found,) = only_plan(f"require {text}").requires
    assert (found.metric, found.op, found.bound, found.share) == expected
    assert found.text == " ".join(text.split())


def test_and_makes_several_requirements_of_one() -> None:
    found = only_plan("require ttft <= 2 s and (tpot <= 50 ms and memory <= 90 %)").requires
    assert [r.text for r in found] == ["ttft <= 2 s", "tpot <= 50 ms", "memory <= 90 %"]


# ---- --set


@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("workload.batch", "64", lambda p: p.workload.batch == 64),
        ("sharding.tp", "4", lambda p: p.sharding.ranks == 4),
        ("model.weights", "fp8", lambda p: p.model.weights == "fp8"),
        ("node.link.bandwidth", "100 GB/s", lambda p: p.node.link.bandwidth == 100e9),
        ("node.gpu.memory", "2 * 50 GB", lambda p: p.node.gpu.memory == 100e9),
        ("step_tokens", "0", lambda p: p.step_tokens == 0),
        ("model", "qwen3_8b with { weights = fp8 }", lambda p: (p.model.name, p.model.weights) == ("qwen3_8b", "fp8")),
    ],
)
def test_an_override_is_one_more_with(path: str, value: str, read: object) -> None:
    assert callable(read)
    assert read(plan(f"plan p {{ {PARTS} }}", overrides=[(path, value)]))


def test_unknown_fields_are_told_in_their_order() -> None:
    """Not in that of a set, which is another one in each process."""
    names = ["zq", "bq", "yq", "cq", "xq", "dq", "wq", "eq"]
    found = module("\n".join([f"plan p {{ {PARTS}", *(f"{name} = 1" for name in names), "}"]))
    assert found.plan("p") is None
    lines = [d.span.line for d in found.diagnostics if d.code == "E206" and d.span]
    assert lines == list(range(2, 10))


def test_later_overrides_win() -> None:
    assert plan(f"plan p {{ {PARTS} }}", overrides=[("sharding.tp", "4"), ("sharding.tp", "2")]).sharding.ranks == 2


@pytest.mark.parametrize(
    ("path", "value", "code", "column"),
    [
        ("workload.bach", "64", "E206", 16),
        ("workload.batch", "64 GB", "E204", 22),
        ("workload.batch.size", "1", "E210", 16),
        ("sharding.tp", "", "E218", 7),
        ("sharding tp", "4", "E218", 7),
        ("sharding.tp", "4\nlet x = 3", "E218", 7),
        ("sharding.tp", "(", "E218", 7),
        ("model.weights", "fp7", "E217", 21),
    ],
)
def test_a_wrong_override_points_at_itself(path: str, value: str, code: str, column: int) -> None:
    found = module(f"plan p {{ {PARTS} }}", overrides=[("step_tokens", "0"), (path, value)])
    assert found.plan("p") is None
    (wrong,) = found.diagnostics
    assert wrong.span is not None
    assert (wrong.code, wrong.span.file, wrong.span.line, wrong.span.column) == (code, "--set", 2, column)
    assert f"--set {path}=" in render([wrong], found.sources)


# ---- use


def test_what_a_file_uses_is_visible_through_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.plan").write_text("workload w { input = 10, output = 10 }\n")
    (tmp_path / "a.plan").write_text('use "deep/b.plan"\nsharding s { tp = 2 }\n')
    (tmp_path / "root.plan").write_text(
        'use "a.plan"\nuse "deep/b.plan"\n'
        "plan p { model = llama_3_1_8b, node = mi325x_8, sharding = s, workload = w }\n"
    )
    found = load(None, tmp_path / "root.plan")
    found.check()
    assert not found.diagnostics
    assert found.plan("p") is not None


def use_codes(folder: Path, text: str) -> list[tuple[str, str]]:
    (folder / "root.plan").write_text(text)
    found = load(None, folder / "root.plan")
    found.check()
    return [(d.code, d.message) for d in found.diagnostics]


def test_a_file_does_not_use_its_user(tmp_path: Path) -> None:
    (tmp_path / "a.plan").write_text('use "root.plan"\n')
    ((code, message),) = use_codes(tmp_path, 'use "a.plan"\n')
    assert code == "E209"
    assert "uses this file, directly or through others" in message
    ((code, message),) = use_codes(tmp_path, 'use "root.plan"\n')
    assert code == "E209"


def test_use_stays_in_the_tree_of_the_root_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tmp_path / "secret.plan").write_text("let x = 1\n")
    (tree / "link.plan").symlink_to(tmp_path / "secret.plan")
    (tree / "out").symlink_to(tmp_path)
    os.mkfifo(tree / "pipe.plan")
    (tree / "inner" / "up.plan").write_text('use "../fine.plan"\n')
    (tree / "fine.plan").write_text("let y = 1\n")
    assert use_codes(tree, 'use "inner/up.plan"\n') == []
    for path in ("../secret.plan", "link.plan", "out/secret.plan", "inner/../../secret.plan"):
        ((code, message),) = use_codes(tree, f'use "{path}"\n')
        assert code == "E209"
        assert "is outside the folder" in message
    for path in ("pipe.plan", "inner", "absent.plan", "/etc/passwd", "fine.txt", "", "x" * 5000 + ".plan"):
        assert [code for code, _ in use_codes(tree, f'use "{path}"\n')][-1:] == ["E209"], path


def test_a_text_without_a_place_uses_nothing() -> None:
    assert codes('use "pyproject.plan"\n') == ["E209"]


def test_files_are_limited(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 3):
        (tmp_path / f"f{number}.plan").write_text("")
    uses = "".join(f'use "f{number}.plan"\n' for number in range(MAX_FILES + 3))
    assert [code for code, _ in use_codes(tmp_path, uses)] == ["E209"] * 4


def test_the_same_name_from_two_used_files_is_ambiguous(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.plan").write_text("workload w { input = 1, output = 1 }\n")
    use = 'use "a.plan"\nuse "b.plan"\n'
    text = use + "plan p { model = llama_3_1_8b, node = mi325x_8, workload = w }\n"
    assert [code for code, _ in use_codes(tmp_path, text)] == ["E202"]
    assert use_codes(tmp_path, text + "workload w { input = 2, output = 2 }\n") == []


def test_a_missing_root_file_is_a_finding(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.plan", tmp_path):
        found = load(None, path)
        assert [d.code for d in found.diagnostics] == ["E209"]


# ---- mistakes


@pytest.mark.parametrize("case", CASES)
def test_diagnostics(case: str, request: pytest.FixtureRequest) -> None:
    source = ERRORS / f"{case}.plan"
    found = load(source.read_text(encoding="utf-8"), source.name)
    found.check()
    shown = render(found.diagnostics, found.sources) + "\n"
    golden = source.with_suffix(".err")
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(shown, encoding="utf-8", newline="\n")
    assert shown == golden.read_text(encoding="utf-8")
    assert case.split("_")[0].upper() in {d.code for d in found.diagnostics}


@pytest.mark.parametrize("code", [code for code, parts in NAME_CODES.items() if parts[2]])
def test_each_code_has_an_example_that_causes_it_alone(code: str) -> None:
    assert codes(NAME_CODES[code][2]) == [code]


def test_the_codes_without_an_example_have_a_test() -> None:
    assert [code for code, parts in NAME_CODES.items() if not parts[2]] == ["E218", "N202", "W206"]
    elsewhere = {"E218", "N202", "E224", "E225", "E226", "W202", "W203", "W205", "W206"}
    assert {case.split("_")[0].upper() for case in CASES} | elsewhere >= set(NAME_CODES)


def test_many_warnings_hide_no_error() -> None:
    sizes = ", ".join(f"d{n} = 8" for n in range(3 * MAX_ERRORS))
    blocks = "block x[tokens, hidden] { x = silu(x) }"
    text = TINY.format(blocks=blocks).replace("layers = 4", f"layers = 4, {sizes}") + "let wrong = 1 / 0\n"
    found = codes(text + "let worse = 1 gb\n")
    assert [code for code in found if code[0] == "E"] == ["E212", "E203"]
    assert found.count("W202") == MAX_ERRORS


def test_one_mistake_behind_many_plans_counts_once() -> None:
    plans = "".join(f"plan p{n} {{ {PARTS}, step_tokens = wrong }}\n" for n in range(2 * MAX_ERRORS))
    assert codes(f"let wrong = 1 / 0\n{plans}let other = 1 gb\n") == ["E212", "E203"]


def test_syntax_errors_do_not_bring_up_missing_names() -> None:
    text = (
        "workload w { input = 10, output = }\nlet a = \nplan p { model = , node = mi325x_8, workload = v }\nlet b = a\n"
    )
    assert {code[:2] for code in codes(text)} == {"E1"}


def test_a_file_that_cannot_be_used_is_the_only_finding(tmp_path: Path) -> None:
    text = f"plan p {{ {PARTS.replace('mi325x_8', 'fleet')}, step_tokens = chunk }}\n"
    assert [code for code, _ in use_codes(tmp_path, 'use "absent.plan"\n' + text)] == ["E209"]
    (tmp_path / "broken.plan").write_text("node fleet = = mi325x_8\nlet chunk = 4\n")
    assert {code[:2] for code, _ in use_codes(tmp_path, 'use "broken.plan"\n' + text)} == {"E1"}


def test_one_mistake_in_a_block_is_told_once() -> None:
    text = TINY.format(blocks="block x[tokens, hidden] { h = silu(y), g = gelu(h), x = x + g }")
    assert codes(text) == ["E201"]


# ---- files made to hurt


def chain(count: int, step: str) -> str:
    return "let a0 = 10\n" + "".join(f"let a{n + 1} = {step.format(f'a{n}')}\n" for n in range(count))


WIDE = "".join(f"a{n}=1\n" for n in range(9000))
PLANS = "plan p{0} {{ model=llama_3_1_8b,node=h100_8,workload{{input=1,output=1}} }}\n"
HOSTILE = {
    "a huge degree": f"plan p {{ {PARTS}, sharding {{ tp = 1000000000000 }} }}",
    "huge axes": f"plan p {{ {PARTS}, sharding {{ mesh {', '.join(f'a{n} = 10' + '0' * 17 for n in range(400))} }} }}",
    "many axes": "sharding s { mesh " + ", ".join(f"a{n} = 1" for n in range(4000)) + "}",
    "idle axes and a mistake": "sharding s { mesh " + ", ".join(f"a{n} = 2" for n in range(400)) + "\n tp = 0 }",
    "many rules": "sharding s { mesh a = 1\n" + "heads -> a\n" * 9000 + "}",
    "lists of lists": chain(60, "[{0}, {0}]"),
    "powers": chain(60, "{0} * {0}"),
    "sums": chain(60, "{0} + {0}"),
    "a long chain": chain(5000, "{0} + 1"),
    "a long chain, last first": "".join(f"let a{n} = a{n + 1}\nlet b{n} = a{n} + 1\n" for n in range(5000)),
    "a long chain of models": "".join(f"model a{n} = a{n + 1}\n" for n in range(9000)),
    "brackets on brackets": "".join(f"let a{n} = {'(' * 60}a{n + 1}{'+1)' * 60}\n" for n in range(62))
    + "let a62 = 1\n",
    "fields of fields": "".join(f"gpu g{n} {{ memory = g{n + 1}.memory, bandwidth = 1 TB/s }}\n" for n in range(2000)),
    "a wide model, many times": f"model b {{ {WIDE} }}\n" + "model m = b {}\n" * 9000,
    "the same name": "let a = 1\n" * 20000,
    "unknown names": "".join(f"plan p{n} {{ model = x{n} }}\n" for n in range(8000)),
    "unknown fields": "gpu g {" + "".join(f"a{n} = 1\n" for n in range(20000)) + "}",
    "many uses": 'use "x.plan"\n' * 8000,
    "withs": "model m = a " + "with {} " * 9000,
    "many plans": "".join(PLANS.format(n) for n in range(3000)),
    "many requirements": f"plan p {{ {PARTS}\n" + "require ttft <= 1 s\n" * 9000 + "}",
    "many blocks": TINY.format(
        blocks="".join(f"block [layers={n}..{n + 1}] x[tokens,hidden]{{x=x+x}}\n" for n in range(4000))
    ).replace("layers = 4", "layers = 4000"),
    "many statements": TINY.format(blocks="block x[tokens, hidden] {" + "x = x + x\n" * 20000 + "}"),
}


def seconds(call: Callable[[], object]) -> float:
    """Seconds of the processor, which do not depend on what else runs."""
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.fixture(scope="module")
def plain_seconds() -> float:
    """Seconds of an ordinary plan, when what it uses of the catalog is read."""
    return max(seconds(module(f"plan p {{ {PARTS} }}").check) for _ in range(3))


@pytest.mark.parametrize("case", HOSTILE)
def test_resolving_takes_no_longer_than_some_parsing(case: str, plain_seconds: float) -> None:
    made: list[Module] = []
    parsing = seconds(lambda: made.append(module(HOSTILE[case])))  # has a test of its own
    (found,) = made
    assert seconds(found.check) < 10 * (parsing + plain_seconds)
    assert len(found.errors) <= MAX_ERRORS
    assert len(found.diagnostics) <= 2 * MAX_ERRORS


def test_a_chain_has_a_limit_whichever_end_is_asked_first() -> None:
    fits = chain(MAX_EXPANSION - 1, "{0} + 1")
    assert codes(fits) == []
    assert codes(chain(MAX_EXPANSION, "{0} + 1")) == ["E208"]
    assert codes("\n".join(reversed(fits.splitlines()))) == []
    assert codes("\n".join(reversed(chain(MAX_EXPANSION, "{0} + 1").splitlines()))) == ["E208"]


WORDS = re.compile(r"\s+|\w+|->|[<>=!]=|\.\.|[^\w\s]")
SEEDS = [LANGUAGE, TINY.format(blocks="block x[tokens, hidden] { x = x + w_b[hidden] }"), f"plan p {{ {PARTS} }}"]
SEEDS += [p.read_text(encoding="utf-8") for p in sorted(CATALOG.glob("*/*.plan"))[::7]]
SEEDS += [p.read_text(encoding="utf-8") for p in sorted(ERRORS.glob("e2*.plan"))]
POOL = sorted({word for seed in SEEDS for word in WORDS.findall(seed) if not word.isspace()})


@st.composite
def mutated_plans(draw: st.DrawFn) -> str:
    """A text of the corpus with some words exchanged, dropped, doubled or moved."""
    words = WORDS.findall(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(words) - 1))
        match draw(st.sampled_from(["replace", "drop", "double", "swap", "insert"])):
            case "replace":
                words[at] = draw(st.sampled_from(POOL))
            case "drop" if len(words) > 1:
                del words[at]
            case "double":
                words[at:at] = words[at : at + draw(st.integers(1, 12))]
            case "swap":
                other = draw(st.integers(0, len(words) - 1))
                words[at], words[other] = words[other], words[at]
            case _:
                words.insert(at, f" {draw(st.sampled_from(POOL))} ")
    return "".join(words)


@given(mutated_plans())
@settings(deadline=None)
def test_fuzz_any_plan_resolves_or_yields_diagnostics(text: str) -> None:
    found = module(text)
    found.check()
    for name in found.plans:
        spec = found.plan(name)
        assert spec is not None or any(d.severity == "error" for d in found.diagnostics)
    for diagnostic in found.diagnostics:
        assert diagnostic.code in CODES
        assert diagnostic.message
        if diagnostic.span is not None:
            assert 1 <= diagnostic.span.line <= found.sources[diagnostic.span.file].count("\n") + 1
    render(found.diagnostics, found.sources)


@given(mutated_plans(), st.sampled_from(["workload.batch", "model.x", "a.b.c", "sharding.tp", "node.gpu"]), st.text())
@draws(25 / 6)
def test_fuzz_any_override_resolves_or_yields_diagnostics(text: str, path: str, value: str) -> None:
    found = module(text, overrides=[(path, value)])
    for name in found.plans:
        found.plan(name)
    render(found.diagnostics, found.sources)


# ---- start-up


def test_resolving_imports_nothing_heavy() -> None:
    script = (
        "import sys; from plandsl.grammar.resolve import load; "
        f"m = load('plan p {{ {PARTS} }}', '<text>'); assert m.plan('p') is not None; "
        "print(sorted({'numpy', 'rich', 'lark', 'difflib', 'graphviz'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_static_workloads_only_carry_numbers() -> None:
    spec = specs(LANGUAGE, "workload", "longalpaca")
    assert isinstance(spec, WorkloadSpec)
    assert (spec.input, spec.output, spec.batch, spec.in_flight) == (9092, 208, 256, None)
