"""The families of `hf`: one published config of each, its parameters, and its sharded program.

The counts are those of the class of transformers 5.24 that has the config's sizes (instantiated without memory), and
equal the published ones to the digits published; beside them the biases that only choose experts count here, which the
classes keep as buffers. Active parameters are those of one token, the embedding included.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest

from plandsl.backends.cost.answers.counts import active_parameters, parameters
from plandsl.driver import compile_text
from plandsl.grammar.hf_config import read
from plandsl.grammar.hf_families import FOLDER, SUFFIX, family, family_of
from plandsl.grammar.hf_modules import layers_of
from plandsl.grammar.hf_shape import shape_of
from plandsl.passes.build import build_model
from tests.draws import some
from tests.test_hf import CONFIGS, made, published, spec_of

# Where the values of the configs come from:
# - published files, as ai-dynamo/aiconfigurator has them (model_configs): deepseek_v3_2, glm_4_7,
#   glm_5, nemotron_3_nano_30b_a3b, nemotron_h_56b, qwen3_5_*, qwen3_next_80b, qwen3_vl_* and minimax_m2 (of M2.5);
# - glm_5_2: glm_5 with the fields of IndexShare and the context that copies of its config in public tests have;
# - the defaults of the class of transformers, whose file names the checkpoint: bert_base, command_r, ernie_4_5_*,
#   falcon_7b, gemma_7b, gpt_neox_20b, jamba_v0_1, phi_1, phi_3_mini and qwen1_5_moe_a2_7b. Not so: the window of
#   phi_3_mini (2048 in Lightning-AI/litgpt, litgpt/config.py) and the context of qwen1_5_moe_a2_7b;
# - the defaults of a class that names another checkpoint: glm_4_9b_0414 (Glm4Config, with another context) and mpt_1b
#   (MptConfig). That checkpoints of these names have these sizes is assumed;
# - litgpt/config.py, which copies published files: olmo_2_13b and phi_4;
# - internlm3_8b: the defaults of Internlm3Config in Huawei's atb_llm;
# - minimax_m1: the card of MiniMax-Text-01, of the same shapes, and PaddlePaddle/FastDeploy pull request 6797;
# - granite_4_h_small: sizes of the published file in a public document (Granite-4.0-H-Small, of 32.2 B parameters, 9 B
#   of them active), and for the rest the defaults of GraniteMoeHybridConfig. The four layers that attend stand as in
#   Granite-4.0-H-1B, which is assumed;
# - gemma_3n_e4b: the defaults of Gemma3nTextConfig. llama.cpp prints 6.87 B parameters for its checkpoint, which has
#   keys and values for the 15 layers that take those of earlier layers, too;
# - gemma_4_*: copies of the published files in tests of public repositories (rasbt/LLMs-from-scratch, ollama/ollama and
#   others); google's model card has 30.7 B, 25.2 B and 3.8 B of them active; the counts follow from modeling_gemma4.py;
# - copies of their configs in logs and tests of public repositories: baichuan_2_7b, bge_m3 (of a reranker of
#   XLM-RoBERTa with these sizes), bloom_176b, command_r7b, dbrx_132b, deepseek_v2, granite_3_1_2b and hunyuan_7b;
# - starcoder2_15b: Starcoder2Config15B of NVIDIA NeMo. No copy of the config was found: the head is assumed.
COUNTS: dict[str, tuple[int, int]] = {
    "baichuan_2_7b": (7_505_973_248, 7_505_973_248),
    "bert_base": (109_482_240, 109_482_240),
    "bge_m3": (567_754_752, 567_754_752),
    "bloom_176b": (176_247_271_424, 176_247_271_424),
    "command_r": (34_980_831_232, 34_980_831_232),
    "command_r7b": (8_028_033_024, 8_028_033_024),
    "dbrx_132b": (131_596_523_520, 36_469_708_800),
    "deepseek_v2": (235_741_434_880, 21_375_800_320),
    "deepseek_v3_2": (671_026_419_200 + 851_524_864, 37_552_297_472 + 851_524_864),  # the second is the indexer
    "ernie_4_5_0_3b": (360_748_032, 360_748_032),
    "ernie_4_5_21b_a3b": (21_825_437_888, 3_352_150_208),
    "falcon_7b": (6_921_720_704, 6_921_720_704),
    "gemma_3n_e4b": (6_866_696_688 - 15 * 2_097_408, 6_866_696_688 - 15 * 2_097_408),  # less keys of no use
    "gemma_4_26b_a4b": (25_233_141_760 - 30 * 128, 3_822_530_560 - 30 * 128),  # less the scales of the gates
    "gemma_4_31b": (30_697_345_280, 30_697_345_280),
    "gemma_4_e2b": (4_628_569_344, 4_628_569_344),
    "gemma_4_e4b": (7_463_013_376, 7_463_013_376),
    "gemma_7b": (8_537_680_896, 8_537_680_896),
    "glm_4_7": (352_797_814_784 + 89 * 160, 33_632_266_144),
    "glm_4_9b_0414": (9_400_279_040, 9_400_279_040),
    "glm_5": (743_180_209_920 + 731_008_512, 41_053_720_320 + 731_008_512),  # the second is the indexer
    "glm_5_2": (743_180_209_920 + 196_809_984, 41_053_720_320 + 196_809_984),  # the second are 21 indexers
    "gpt_neox_20b": (20_554_567_680, 20_554_567_680),
    "granite_3_1_2b": (2_533_531_648, 2_533_531_648),
    "granite_4_h_small": (32_207_337_984, 8_803_121_664),
    "hunyuan_7b": (7_504_568_320, 7_504_568_320),
    "internlm3_8b": (8_804_241_408, 8_804_241_408),
    "jamba_v0_1": (51_570_323_328, 12_110_311_296),
    "minimax_m1": (456_089_655_296, 48_403_306_496),
    "minimax_m2": (228_689_748_992 + 62 * 256, 11_030_553_088),
    "mpt_1b": (1_311_213_568, 1_311_213_568),
    "nemotron_3_nano_30b_a3b": (31_577_937_344 + 23 * 128, 3_580_076_352),
    "nemotron_h_56b": (56_324_350_464, 56_324_350_464),
    "olmo_2_13b": (13_716_198_400, 13_716_198_400),
    "phi_1": (1_418_270_720, 1_418_270_720),
    "phi_3_mini": (3_821_079_552, 3_821_079_552),
    "phi_4": (14_659_507_200, 14_659_507_200),
    "qwen1_5_moe_a2_7b": (14_315_784_192, 2_689_173_504),
    "qwen3_5_27b": (26_895_998_464, 26_895_998_464),
    "qwen3_5_397b_a17b": (396_346_350_336, 17_349_040_896),
    "qwen3_next_80b": (79_674_391_296, 3_874_929_408),
    "qwen3_vl_30b_a3b": (30_532_122_624, 3_353_032_704),
    "qwen3_vl_32b": (32_762_123_264, 32_762_123_264),
    "starcoder2_15b": (15_957_889_024, 15_957_889_024),
}

TINY = {
    "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 100,
    "num_key_value_heads": 2, "head_dim": 16, "torch_dtype": "bfloat16",
}  # fmt: skip
SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "glm": (TINY | {"architectures": ["GlmForCausalLM"]}, 87_616),
    "olmo3": (TINY | {"architectures": ["Olmo3ForCausalLM"], "sliding_window": 128}, 87_488),
    "hunyuan_v1_moe": (
        TINY
        | {"architectures": ["HunYuanMoEV1ForCausalLM"], "num_experts": 8, "moe_topk": 2, "tie_word_embeddings": True},
        279_488,
    ),
}
"""Families of which no published config was found: small sizes, and the count of the class of transformers."""

SHORT = 8  # layers


def short(config: dict[str, Any]) -> dict[str, Any]:
    """The config with its first layers alone, in all lists that speak of layers."""
    inner = {key: short(value) for key, value in config.items() if key == "text_config"}
    found = config | inner
    counts = [key for key in ("num_hidden_layers", "n_layers", "n_layer") if key in config]
    if not counts:
        return found
    count = config[counts[0]]
    cut = {key: value[:SHORT] for key, value in found.items() if isinstance(value, list | str) and len(value) == count}
    shared = {key: min(value, SHORT - 5) for key, value in found.items() if key == "num_kv_shared_layers"}
    return found | cut | shared | {counts[0]: min(count, SHORT)}


FAMILIES = sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}") if family(path.stem).architectures)


@cache
def configs() -> dict[str, str]:
    """A published config of each family."""
    found = {}
    for path in sorted(CONFIGS.glob("*.json"), key=lambda path: -path.stat().st_size):
        config, _, _ = read(path.read_bytes(), path.name)
        assert config is not None
        known = family_of(config)
        assert known is not None
        found[known.name] = path.stem
    return found


def config_of(name: str) -> dict[str, Any]:
    return SMALL[name][0] if name in SMALL else published(configs()[name])


@pytest.mark.parametrize("name", COUNTS)
def test_a_model_has_as_many_parameters_as_published(name: str) -> None:
    text, found = made(published(name))
    assert not [d for d in found if d.code != "N201"]
    assert not any("does not read" in d.message for d in found)
    program = build_model(spec_of(text), "decode", "bf16")
    assert (parameters(program), active_parameters(program)) == COUNTS[name]


def test_layers_take_the_keys_that_an_earlier_layer_picked() -> None:
    """By a list of all layers, by letters, or by a period: the same text."""
    config = published("glm_5_2")
    full = [layer < 3 or layer % 4 == 2 for layer in range(78)]
    words = [{"indexer_types": ["full" if one else "shared" for one in full]}]
    words.append({"index_topk_pattern": "".join("F" if one else "S" for one in full)})
    period = {key: value for key, value in config.items() if "topk_freq" not in key and "skip_topk" not in key}
    assert {made(period | more)[0] for more in words} == {made(config)[0]}
    assert made(config)[0].count("among = earlier.picked") == 1
    _, found = made(config | {"indexer_types": ["shared", *["full"] * 77]})
    assert [d.code for d in found] == ["E214"]


@pytest.mark.parametrize("name", ["gemma_3n_e4b", "gemma_4_31b", "gemma_4_e2b", "glm_5_2"])
def test_the_sharded_program_of_layers_that_share_is_the_unsharded_one(name: str) -> None:
    text, _ = made(short(published(name)))
    model = re.findall(r"model (\w+) \{", text)[0]
    load = "workload { input = 100, output = 10, batch = 4 }"
    (plan,) = compile_text(f"{text}plan p {{ model = {model}, node = h100_8, sharding {{ tp = 2 }}, {load} }}\n")
    assert plan.verify().ok


@pytest.mark.parametrize(
    ("changes", "mebibytes"),
    [
        ({}, 810),
        ({"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 16}, 464),
    ],
    ids=["27b", "9b"],
)
def test_the_layer_of_qwen3_5_that_predicts_is_as_large_as_its_file(changes: dict[str, int], mebibytes: int) -> None:
    """The cards of guru87/Qwen3.6-27B-MTP and guru87/Qwen3.5-9B-MTP, which hold these layers alone, in bf16."""
    config = published("qwen3_5_27b")
    spec = spec_of(made(config | {"text_config": config["text_config"] | changes})[0])
    assert spec.predictor is not None
    sizes = dict(spec.sizes)
    shared = 2 * sizes["vocab"] * sizes["hidden"]
    own = parameters(build_model(spec.predictor, "decode", "bf16")) - shared
    assert round(2 * own / 2**20) == mebibytes


def test_the_layer_of_qwen3_5_that_predicts_runs_sharded_and_attends() -> None:
    """Also where the last layer of the model has a state."""
    config = published("qwen3_5_27b")
    cut = config | {"text_config": config["text_config"] | {"layer_types": ["linear_attention"] * 64}}
    for each in (config, cut):
        text, found = made(short(each))
        assert not [d for d in found if "predict" in d.message]
        assert text.split("  mtp")[1].count("attention(") == 1
    model = re.findall(r"model (\w+) \{", text)[0]
    load = "workload { input = 100, output = 10, batch = 4 }, speculate { draft = mtp, tokens = 1, acceptance = 85 % }"
    (plan,) = compile_text(f"{text}plan p {{ model = {model}, node = h100_8, sharding {{ tp = 2 }}, {load} }}\n")
    assert plan.verify().ok


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("llama_3_1_8b", "head_dim"),
        ("gemma_2_27b", "head_dim"),
        ("deepseek_v3", "qk_rope_head_dim"),
        ("minimax_m2", "head_dim"),
        ("gemma_4_31b", "global_head_dim"),
    ],
)
def test_rope_turns_pairs_of_elements(name: str, field: str) -> None:
    config = published(name)
    more = {"text_config": config["text_config"] | {field: 3}} if "text_config" in config else {field: 3}
    text, found = made(config | more)
    assert not text
    assert [(d.code, "turns" in d.message) for d in found if d.severity == "error"] == [("E214", True)]


def test_keys_of_an_indexer_have_the_elements_that_are_turned() -> None:
    text, found = made(published("deepseek_v3_2") | {"index_head_dim": 32})
    assert not text
    assert [d.code for d in found if d.severity == "error"] == ["E214"]


def test_a_head_that_a_config_of_starcoder2_does_not_speak_of_is_assumed_and_told() -> None:
    config = published("starcoder2_15b")
    for more, words in (({}, "a head apart from"), ({"hidden_size": 3072, "num_attention_heads": 24}, "as head")):
        text, (note,) = made(config | more)
        assert words in note.message
        assert "is assumed" in note.message
        assert ("w_head" in text) == (not more)
    assert not made(config | {"tie_word_embeddings": False})[1]


def test_groups_of_heads_are_normalised_together() -> None:
    text, found = made(published("nemotron_h_56b"))
    assert "over = state_dim, groups = state_groups, gain = none) * g_state[" in text
    assert not [d for d in found if "normalised" in d.message]


@pytest.mark.parametrize("name", SMALL)
def test_a_small_model_has_as_many_parameters_as_its_class(name: str) -> None:
    config, count = SMALL[name]
    assert parameters(build_model(spec_of(made(config)[0]), "decode", "bf16")) == count


PARTS = 12
"""Tests that share the families; each run takes half of them."""


@pytest.mark.parametrize("part", range(PARTS))
def test_the_sharded_program_of_each_family_is_the_unsharded_one(part: int) -> None:
    for name in some(sorted(FAMILIES)[part::PARTS], 2, part):
        a_sharded_program_is_the_unsharded_one(name)


def a_sharded_program_is_the_unsharded_one(name: str) -> None:
    """On two ranks, or on two stages where the heads or the vocabulary are odd."""
    text, _ = made(short(config_of(name)))
    odd = any(size % 2 for _, size in spec_of(text).sizes if size > 1)
    degrees = "pp = 2" if odd else "tp = 2"
    model = re.findall(r"model (\w+) \{", text)[0]
    load = "workload { input = 100, output = 10, batch = 4 }"
    (plan,) = compile_text(f"{text}plan p {{ model = {model}, node = h100_8, sharding {{ {degrees} }}, {load} }}\n")
    verdict = plan.verify()
    assert verdict.ok, verdict.message
    assert verdict.worst < 1e-9


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_that_a_config_lists_with_a_window_have_one_or_are_refused(name: str) -> None:
    config = short(config_of(name))
    inner = config.get("text_config", config)
    count = next(inner[key] for key in ("num_hidden_layers", "n_layers", "n_layer") if key in inner)
    inner |= {"layer_types": ["sliding_attention"] * count, "sliding_window": 77}
    text, found = made(config)
    if not text:
        assert any("sliding_attention" in one.message for one in found)
        return
    spec_of(text)
    used = re.findall(r"attention\(.*", text.split("  mtp")[0])
    assert used
    assert all("window = 77" in one for one in used)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_modules_of_a_family_hold_the_weights_of_its_layers(name: str) -> None:
    """A quantised checkpoint names modules: each weight of a GEMM, the router apart, is in one, and no other weight."""
    config = config_of(name) | {"quantization_config": {"quant_method": "fp8"}}
    text, found = made(config)
    assert not [d for d in found if d.severity == "error"]
    assert "weights = fp8" in text
    blocks = re.findall(r"^  (?:block|mtp).*?^  \}", text, re.MULTILINE | re.DOTALL)
    used = {weight for block in blocks for weight in re.findall(r"@ (w_\w+)\[", block)}
    used |= {weight for block in blocks for weight in re.findall(r"(w_u[kv])\[", block)}
    read_config, _, _ = read(json.dumps(config).encode(), "config.json")
    assert read_config is not None
    shape = shape_of(read_config, family(name))
    named = {w for layer in layers_of(shape, family(name)) for module in layer.modules for w in module.weights}
    assert named == used - {"w_router", "w_share"}
