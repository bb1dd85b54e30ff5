"""Mistakes in a single word that no other test makes: each has a code, a place and words that say what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from plandsl.driver import open_text
from plandsl.editing.reading import Reading
from plandsl.grammar.hf_schemes import Scheme, schemes_of

LAYER = (
    "model m {{ layers = 2, hidden = 64, heads = 4, vocab = 32, weights = bf16\n embedding w_e[vocab, hidden]\n {}\n"
    + (" head x @ w_e[vocab, hidden] }}")
)
BLOCK = LAYER.replace("\n {}\n", "\n block x[tokens, hidden] {{ {} }}\n")
LOAD = "workload w {{ input = 64, output = 8, {} }}"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (LOAD.format("rate = varying(3)"), "E240", "needs a list"),
        (LOAD.format("rate = [[0 s, 1 req/s, 3]]"), "E2", "each step must be a time and a rate"),
        (LOAD.format("rate = poisson(1e-30 req/s)"), "E240", "must be from 1e-09 to 1e+09"),
        (LOAD.format("rate = [[0 s, 9e12 req/s]]"), "E240", "up to"),
        (LOAD.format("rate = poisson(3 req/s) { }"), "E2", "has no block"),
        (LOAD.format("rate = trace_rate(3, bin = 5 s)"), "E210", "must be a string"),
        ("workload w { rate = 3 req/s, class a { input = 1, output = 1 }, class a { input = 2, output = 1 } }", "E202",
         "class `a` is given twice"),
        ("gpu g = h100_sxm with { compute { } }\ngpu f { memory = 80 GB, bandwidth = 3 TB/s, compute { } }", "E207",
         "bf16"),
        ("node n { gpu = h100_sxm, count = 2, link { bandwidth = 50 GB/s, latency = 2 us } }", "E207", "topology"),
        ("engine e = vllm with { host { otherwise = -3 } }", "E2", ""),
        (BLOCK.format("x = 3"), "E213", "expected a tensor, found a number"),
        (BLOCK.format("x = x @ (w_up[hidden, vocab] * 3)"), "E213", "weight"),
        (BLOCK.format("x = x with { hidden = 3 }"), "E2", ""),
        (BLOCK.format("x = short_conv(w_c[hidden], w_k[hidden])"), "E475", ""),
        ("let a = 1..3", "E101", "a range is not allowed here"),
        ("let a = (" + " + 1" * 3 + ")", "E1", ""),
        ("plan p { model = llama_3_1_8b, node = h100_8, tower { tp = 2 }, workload { input = 64, output = 8 } }", "E",
         "has no tower"),
        ("plan p { model = llama_3_1_8b, node = h100_8, prefill { batch = 2 }, decode { }, "
         "transfer { bandwidth = 50 GB/s, latency = 1 us }, workload { input = 64, output = 0 } }", "E",
         "nothing comes out of this load"),
        ("workload w { input = 64, output = 8, images = 2 }", "E207", "image_tokens"),
        ("import torch\nx = 3\n", "E1", ""),
        ('{"architectures": ["LlamaForCausalLM"],\n "hidden_size": 3}\n', "E1", ""),
    ],
)  # fmt: skip
def test_a_wrong_word_is_told_where_it_stands(text: str, code: str, says: str) -> None:
    found = [d for d in Reading(text).look() if d.severity == "error"]
    assert found, "it is an error"
    assert any(d.code.startswith(code) and says in f"{d.message} {d.label} {d.hint}" for d in found), found
    assert all(d.span is not None for d in found)


def test_a_rate_by_its_name_is_that_rate() -> None:
    loads = [open_text(LOAD.format(f"rate = {rate}")).spec("workload", "w") for rate in ("poisson(3 req/s)", "3 req/s")]
    assert loads[0] is not None
    assert loads[0].traffic == loads[1].traffic


def compressed(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"0": {"targets": ["Linear"], "weights": weights}}}


def quark(**weight: Any) -> dict[str, Any]:
    return {"quant_method": "quark", "global_quant_config": {"weight": weight}}


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (quark(dtype="fp8_e4m3", qscheme="per_tensor"), "fp8"),
        (quark(dtype="int8", qscheme="per_tensor"), "int8"),
        (quark(dtype="int8", qscheme="per_channel"), "int8_channel"),
        (quark(dtype="int4", qscheme="per_group", group_size=64), "int4_64"),
        (quark(dtype="int4", qscheme="per_group", group_size="64"), None),
        (quark(dtype="int4", qscheme="per_row"), None),
        ({"quant_method": "quark", "global_quant_config": 3}, None),
        ({"quant_method": "quark", "global_quant_config": {"weight": None}}, None),
        (compressed(type="float", num_bits=8, strategy="block", block_structure=[128, 128]), "fp8_128x128"),
        (compressed(type="int", num_bits=4, strategy="group", group_size=64), "int4_64"),
        (compressed(type="float", num_bits=3, strategy="group", group_size=64), None),
        ({"quant_method": "compressed-tensors", "config_groups": {"0": {"targets": ["Linear"], "weights": 3}}}, None),
        ({"quant_method": "compressed-tensors", "config_groups": {"0": {"targets": 3, "weights": {}}}}, None),
    ],
)
def test_a_scheme_of_a_checkpoint_has_its_format_or_none(table: dict[str, Any], word: str | None) -> None:
    found = schemes_of(table)
    assert [scheme.word for scheme in found] == ([] if word is None else [word])
    assert all(isinstance(scheme, Scheme) for scheme in found)
