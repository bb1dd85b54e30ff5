"""`hf("config.json")`: models made from the configs of Hugging Face checkpoints.

The files in tests/configs hold published values: those that have a part in shapes, and some that have none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from plandsl.cli import main
from plandsl.codes import CODES
from plandsl.codes_hf import HF_CODES
from plandsl.diagnostics import Diagnostic, PlanError, render
from plandsl.driver import compile_file, open_text
from plandsl.grammar import hf
from plandsl.grammar.fmt import format_text
from plandsl.grammar.hf import translate
from plandsl.grammar.hf_families import architectures, model_types
from plandsl.grammar.hf_text import Kind, cover
from plandsl.grammar.resolve import Module, load
from plandsl.ir.text import show
from plandsl.limits import MAX_FILE_BYTES, MAX_FILES
from plandsl.passes.build import build_model
from plandsl.spec.model import ModelSpec
from tests.draws import draws

CONFIGS = Path(__file__).parent / "configs"

PARAMETERS = {  # of the checkpoints, as published; those of gpt-oss have 64 sinks more in each layer
    "llama_3_1_8b": 8_030_261_248,
    "llama_3_1_70b": 70_553_706_496,
    "llama_3_1_405b": 405_853_388_800,
    "llama_3_2_1b": 1_235_814_400,
    "mistral_7b": 7_248_023_552,
    "mistral_7b_v0_1": 7_241_732_096,
    "mixtral_8x7b": 46_702_792_704,
    "mixtral_8x22b": 140_620_634_112,
    "qwen2_5_7b": 7_615_616_512,
    "qwen3_8b": 8_190_735_360,
    "qwen3_32b": 32_762_123_264,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_235b_a22b": 235_093_634_560,
    "deepseek_v3": 671_026_419_200,
    "kimi_k2": 1_026_408_232_448,
    # with the towers, less the class token that a note tells
    "llama_4_scout": 107_769_861_120 + 871_932_416 - 1_408,
    "llama_4_maverick": 400_711_848_960 + 871_932_416 - 1_408,
    "kimi_k2_5": 1_026_408_232_448 + 416_866_032 + 54_277_888,  # MoonViT, and what projects its patches
    "gpt_oss_20b": 20_914_757_184,
    "gpt_oss_120b": 116_829_156_672,
    "gemma_2_2b": 2_614_341_888,
    "gemma_2_9b": 9_241_705_984,
    "gemma_2_27b": 27_227_128_320,
    "gemma_3_1b": 999_885_952,
    "gemma_3_12b": 12_187_325_040,
    # Hugging Face counts these in the headers of the files of Qwen/Qwen2.5-VL-7B-Instruct and Qwen/Qwen3-VL-4B-Instruct
    "qwen2_5_vl_7b": 8_292_166_656,
    "mistral_small_3_1": 24_011_361_280,  # and these for mistralai/Mistral-Small-3.1-24B-Base-2503
    "qwen3_vl_4b": 4_437_815_808 - 81_833_472,  # less three mergers that a note tells
}

KV_ELEMENTS = {  # that a token adds over all layers
    "llama_3_1_8b": 65_536,
    "llama_3_1_405b": 258_048,
    "mixtral_8x22b": 114_688,
    "qwen2_5_7b": 28_672,
    "qwen3_32b": 131_072,
    "qwen3_30b_a3b": 49_152,
    "deepseek_v3": 35_136,
    "kimi_k2": 35_136,
    "gpt_oss_120b": 36_864,
    "llama_4_scout": 98_304,
    "gpt_oss_20b": 24_576,
    "gemma_2_9b": 2 * 8 * 256 * 42,
}

CATALOG = (
    "llama_4_scout",
    "llama_4_maverick",
    "llama_3_1_8b",
    "llama_3_1_70b",
    "llama_3_1_405b",
    "mistral_7b",
    "mistral_7b_v0_1",
    "qwen2_5_7b",
    "qwen3_8b",
    "qwen3_32b",
)

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}

PLAN = """plan p {{
  model = {model}
  node = h100_8
  sharding {{ tp = 2, pp = 2 }}
  workload {{ input = 100, output = 10, batch = 4 }}
}}
"""


def published(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text("utf-8"))
    return found


def made(config: dict[str, Any] | str) -> tuple[str, list[Diagnostic]]:
    """The text of a model, and what was found."""
    text = config if isinstance(config, str) else json.dumps(config)
    done = translate(text.encode(), "config.json")
    return done.text, done.found


def text_of(**fields: Any) -> str:
    """The text of the small model, with other fields."""
    text, found = made(SMALL | fields)
    assert text, found
    return text


def findings(**fields: Any) -> list[tuple[str, str]]:
    """What is found wrong with the small model with other fields; a field of None is left out."""
    config = {key: value for key, value in (SMALL | fields).items() if value is not None}
    text, found = made(config)
    wrong = [(d.code, d.message) for d in found if d.code[0] == "E"]
    assert bool(text) is not bool(wrong)
    return wrong


def spec_of(text: str) -> ModelSpec:
    """The model that a text declares, which is without mistakes."""
    module = open_text(text)
    module.check()
    assert not module.diagnostics, render(module.diagnostics, module.sources)
    spec = module.spec("model", module.declarations[0].name.text)
    assert isinstance(spec, ModelSpec)
    return spec


def write(folder: Path, model: str, config: dict[str, Any] | str | None = None) -> Path:
    """A plan of ``model`` beside a config.json."""
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "config.json").write_text(text, "utf-8")
    path = folder / "root.plan"
    path.write_text(PLAN.format(model=model), "utf-8")
    return path


def codes(path: Path) -> list[str]:
    """What checking a file finds, notes of a plan apart."""
    module: Module = load(None, path)
    module.check()
    return [d.code for d in module.diagnostics]


# ---- published models


def test_each_config_is_listed() -> None:
    from tests.test_families import COUNTS

    assert sorted([*PARAMETERS, *COUNTS]) == sorted(path.stem for path in CONFIGS.glob("*.json"))


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_model_has_as_many_parameters_as_published(name: str, tmp_path: Path) -> None:
    (plan,) = compile_file(write(tmp_path, 'hf("config.json")', published(name)))
    estimate = plan.estimate()
    assert estimate.parameters == PARAMETERS[name]
    if name in KV_ELEMENTS:
        assert estimate.kv_bytes_per_token == KV_ELEMENTS[name] * 2


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_text_is_canonical_and_resolves_without_a_finding(name: str) -> None:
    text, _ = made(published(name))
    assert format_text(text, "x.plan") == text
    assert spec_of(text).source == "config.json"


@pytest.mark.parametrize("name", CATALOG)
def test_a_model_of_the_catalog_is_the_one_that_its_config_gives(name: str) -> None:
    ours = spec_of(made(published(name))[0])
    theirs = open_text("").spec("model", name)
    assert isinstance(theirs, ModelSpec)
    for part in ("layers", "sizes", "weights", "activations", "kv_cache", "compute", "causal", "max_context"):
        assert getattr(ours, part) == getattr(theirs, part), part
    for phase in ("prefill", "decode"):
        named = evolve(ours, name=name)
        a, b = (show(build_model(spec, phase, spec.activations)) for spec in (named, theirs))
        assert a == b


def test_estimates_are_those_of_the_catalog(tmp_path: Path) -> None:
    (ours,) = compile_file(write(tmp_path, 'hf("config.json")', published("llama_3_1_8b")))
    (theirs,) = compile_file(write(tmp_path, "llama_3_1_8b"))
    a, b = ours.estimate().as_json(), theirs.estimate().as_json()
    for body in (a, b):
        del body["notes"]
    assert a == b


# ---- fields


def test_head_dim_is_the_stated_one_or_follows() -> None:
    assert "head_dim = 16" in text_of()
    assert "head_dim = 32" in text_of(head_dim=32)
    assert findings(num_attention_heads=6, num_key_value_heads=6)[0][0] == "E207"
    assert findings(architectures=["Qwen3ForCausalLM"]) == [("E207", 'config.json has no "head_dim"')]


def test_kv_heads_that_are_null_are_as_many_as_heads() -> None:
    assert "kv_heads = 4" in made(json.dumps(SMALL | {"num_key_value_heads": None}))[0]
    assert findings(num_key_value_heads=None) == [("E207", 'config.json has no "num_key_value_heads"')]
    assert findings(num_key_value_heads=3)[0][0] == "E214"


def test_ties_the_head() -> None:
    assert "head rms_norm(x) @ w_head[hidden, vocab]" in text_of()
    assert "head rms_norm(x) @ w_embed[vocab, hidden]" in text_of(tie_word_embeddings=True)
    assert "w_head" not in made(published("gemma_2_9b"))[0]
    assert "w_head" in made(published("gemma_2_9b") | {"tie_word_embeddings": False})[0]


def test_biases_are_where_the_family_has_them() -> None:
    def biases(text: str) -> list[str]:
        return [letter for letter in ("q", "k", "v", "o", "gate", "up", "down") if f" b_{letter}[" in text]

    assert biases(text_of()) == []
    assert biases(text_of(attention_bias=True)) == ["q", "k", "v", "o"]
    assert biases(text_of(mlp_bias=True)) == ["gate", "up", "down"]
    assert biases(text_of(architectures=["Qwen2ForCausalLM"])) == ["q", "k", "v"]
    assert biases(made(published("gpt_oss_20b"))[0]) == ["q", "k", "v", "o", "gate", "up", "down"]
    assert biases(made(published("gpt_oss_20b") | {"attention_bias": None})[0])[:4] == ["q", "k", "v", "o"]
    assert biases(made(published("gpt_oss_20b") | {"attention_bias": False})[0]) == ["gate", "up", "down"]


@pytest.mark.parametrize(("word", "function"), [("silu", "silu"), ("gelu_pytorch_tanh", "gelu"), ("relu2", "relu2")])
def test_activations(word: str, function: str) -> None:
    assert f"g = {function}(h @ w_gate" in text_of(hidden_act=word)


def test_an_unknown_activation_is_refused() -> None:
    assert findings(hidden_act="mish") == [("E232", '`hf` knows no activation "mish"')]


@pytest.mark.parametrize(
    ("fields", "formats"),
    [
        ({}, "weights = bf16, activations = bf16, kv_cache = bf16"),
        ({"torch_dtype": "float16"}, "weights = fp16, activations = fp16, kv_cache = fp16"),
        ({"torch_dtype": None, "dtype": "float32"}, "weights = fp32, activations = fp32, kv_cache = fp32"),
        ({"quantization_config": {"quant_method": "fp8"}}, "weights = fp8, activations = bf16, kv_cache = bf16"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}, "torch_dtype": "float16"},
            "weights = int4_128, activations = fp16, kv_cache = fp16, compute = fp16",
        ),
        (
            {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}},
            "weights = nvfp4, activations = bf16, kv_cache = fp8",
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {
                        "group_0": {
                            "weights": {"num_bits": 8, "type": "float"},
                            "input_activations": {"num_bits": 8, "type": "float"},
                        }
                    },
                    "kv_cache_scheme": {"num_bits": 8, "type": "float"},
                }
            },
            "weights = fp8, activations = bf16, kv_cache = fp8",
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
                }
            },
            "weights = int4_32, activations = bf16, kv_cache = bf16, compute = bf16",
        ),
    ],
)
def test_number_formats(fields: dict[str, Any], formats: str) -> None:
    text = text_of(**{"torch_dtype": "bfloat16"} | fields)
    assert f"\n  {formats}\n" in text
    assert spec_of(text).weights == formats.split(",")[0].split()[-1]


def test_mxfp4_is_the_format_of_experts_alone() -> None:
    text, _ = made(published("gpt_oss_20b"))
    assert "weights = bf16, activations = bf16, kv_cache = bf16, compute = bf16" in text
    assert text.count("top_k = 4, weights = mxfp4)") == 2


@pytest.mark.parametrize(
    "table",
    [
        {"quant_method": "bitsandbytes"},
        {"quant_method": "gptq", "bits": 3},
        {"quant_method": "fp8", "weight_block_size": [128]},
        {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"},
        {"quant_method": "compressed-tensors", "config_groups": {}},
        {"quant_method": ["fp8"]},
        {},
    ],
)
def test_an_unknown_way_to_quantise_is_refused(table: dict[str, Any]) -> None:
    assert [code for code, _ in findings(quantization_config=table)] == ["E232"]


def test_an_unknown_number_format_is_refused() -> None:
    assert findings(torch_dtype="int3") == [("E217", '`hf` knows no number format "int3"')]


# ---- layers that differ


def blocks(text: str) -> list[tuple[str, str]]:
    """The header of each block, and how it attends."""
    heads = [line.split(" x[")[0].strip() for line in text.splitlines() if line.startswith("  block")]
    attends = [line.partition("attention(")[2] for line in text.splitlines() if " a = attention(" in line]
    return list(zip(heads, attends, strict=True))  # each block attends once


def test_windows_of_each_family() -> None:
    mistral = SMALL | {"architectures": ["MistralForCausalLM"]}
    assert blocks(made(mistral | {"sliding_window": 128})[0]) == [("block", "q, k, v, window = 128)")]
    assert blocks(made(mistral | {"sliding_window": None})[0]) == [("block", "q, k, v)")]
    late = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 128, "max_window_layers": 3}
    assert blocks(text_of(**late)) == [("block", "q, k, v)")]
    assert blocks(text_of(**late, use_sliding_window=True)) == [
        ("block full [layers = 0..3]", "q, k, v)"),
        ("block sliding [layers = 3..4]", "q, k, v, window = 128)"),
    ]
    assert blocks(made(published("gemma_2_9b"))[0]) == [
        ("block sliding [layers = 0..42 by 2]", "q, k, v, window = 4096, softcap = 50)"),
        ("block full [layers = 1..42 by 2]", "q, k, v, softcap = 50)"),
    ]
    assert blocks(made(published("gemma_3_1b"))[0]) == [
        ("block sliding", "q, k, v, window = 512)"),
        ("block full [layers = 5..26 by 6]", "q, k, v)"),
    ]


def test_layer_types_prevail() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    assert blocks(text_of(layer_types=kinds, sliding_window=8)) == [
        ("block full", "q, k, v)"),
        ("block sliding [layers = 1..3]", "q, k, v, window = 8)"),
    ]
    assert findings(layer_types=kinds) == [("E207", 'config.json has no "sliding_window"')]
    assert findings(layer_types=kinds[:3], sliding_window=8)[0][0] == "E214"
    wrong = [*kinds[:3], "linear_attention"]
    assert findings(layer_types=wrong, sliding_window=8) == [
        ("E232", '"layer_types": `hf` cannot write "linear_attention"')
    ]
    assert findings(layer_types=["full_attention", 1, 2, 3])[0][0] == "E210"


def test_a_window_that_nobody_states_is_asked_for() -> None:
    assert findings(architectures=["MistralForCausalLM"]) == [("E207", 'config.json has no "sliding_window"')]
    gemma = {k: v for k, v in published("gemma_2_9b").items() if k != "sliding_window"}
    assert [d.message for d in made(gemma)[1] if d.code == "E207"] == ['config.json has no "sliding_window"']


def test_layers_with_experts() -> None:
    qwen = published("qwen3_30b_a3b")
    for fields, heads in (
        ({}, ["block"]),
        ({"decoder_sparse_step": 2}, ["block dense [layers = 0..48 by 2]", "block sparse [layers = 1..48 by 2]"]),
        ({"mlp_only_layers": [0, 1]}, ["block dense [layers = 0..2]", "block sparse [layers = 2..48]"]),
    ):
        assert [head for head, _ in blocks(made(qwen | fields)[0])] == heads
    assert "ffn = 6144" not in made(qwen)[0]
    assert "  expert_ffn = 768, experts = 128, vocab" in made(qwen)[0]
    assert "experts(h, w_router[hidden, experts], top_k = 8) {" in made(qwen)[0]
    assert "top_k = 8, normalize = false) {" in made(qwen | {"norm_topk_prob": False})[0]


def test_experts_of_deepseek() -> None:
    text, found = made(published("deepseek_v3"))
    router = "w_router[hidden, experts], b_router[experts], top_k = 8, score = sigmoid, scale = 2.5"
    assert f"y = experts(h, {router}) {{" in text
    assert "mtp x[tokens, hidden] with e[tokens, hidden] {" in text
    assert "predict further tokens" not in "".join(d.message for d in found)
    more = made(published("deepseek_v3") | {"num_nextn_predict_layers": 3})[1]
    assert [d.message for d in more][
        -1
    ] == "the first of the layers that predict further tokens is written, as `mtp`; the others are left out"
    assert "mtp" not in made(published("deepseek_v3") | {"num_nextn_predict_layers": 0})[0]
    two = made(published("deepseek_v3") | {"n_shared_experts": 2, "q_lora_rank": None})[0]
    assert "shared = 2" in two
    assert "w_shared_gate[hidden, shared, expert_ffn]" in two
    assert "w_dq" not in two
    spec_of(two)
    assert "w_shared" not in made(published("deepseek_v3") | {"n_shared_experts": None})[0]


def test_more_experts_than_there_are() -> None:
    found = made(published("mixtral_8x7b") | {"num_experts_per_tok": 9})[1]
    assert [(d.code, d.message) for d in found] == [("E214", "9 experts for each token, but there are only 8")]


def test_layers_without_a_pattern_are_listed() -> None:
    kinds = [("full_attention", "sliding_attention")[n.bit_count() % 2] for n in range(256)]
    text = text_of(num_hidden_layers=256, layer_types=kinds, sliding_window=8)
    assert format_text(text, "x.plan") == text
    assert max(map(len, text.splitlines())) <= 120
    spec = spec_of(text)
    listed = {block.name: set(block.every.select(block.layers)) for block in spec.blocks}
    assert listed["sliding"] == {n for n, kind in enumerate(kinds) if kind == "sliding_attention"}


KINDS = st.sampled_from([Kind((("sliding", a), ("sparse", b))) for a, b in ((0, 0), (1, 0), (1, 1))])


@given(st.lists(KINDS, min_size=1, max_size=5), st.lists(KINDS, min_size=1, max_size=6), st.integers(0, 30))
def test_blocks_cover_each_layer_once(lead: list[Kind], pattern: list[Kind], more: int) -> None:
    kinds = [*lead, *(pattern[n % len(pattern)] for n in range(more))]
    blocks = cover(kinds)
    found: dict[int, Kind] = {}
    for kind, text in blocks:
        ends, _, step = text.partition(" by ")
        start, end = map(int, ends.split("..")) if ".." in ends else (0, 0)
        listed = json.loads(text) if text.startswith("[") else range(start, end, int(step or 1))
        for layer in listed:
            assert layer not in found
            found[layer] = kind
    rest = [kind for kind, text in blocks if not text]
    assert len(rest) <= 1
    assert [found.get(layer, *rest) for layer in range(len(kinds))] == kinds
    assert len(blocks) <= len(lead) + len(pattern)


# ---- what is refused, and what is told


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"])
def test_a_missing_field_is_named(missing: str) -> None:
    assert findings(**{missing: None}) == [("E207", f'config.json has no "{missing}"')]


def test_all_that_is_missing_is_named_one_by_one() -> None:
    _, found = made({"architectures": ["LlamaForCausalLM"]})
    missing = [d.message.split('"')[1] for d in found if d.code == "E207"]
    assert sorted(missing) == sorted(set(SMALL) - {"architectures", "torch_dtype"})


@pytest.mark.parametrize("value", ["64", 64.0, True, [64], {}, 0, -1, 10**10, 10**4000])
def test_a_size_is_a_whole_number_within_bounds(value: Any) -> None:
    text = json.dumps(SMALL | {"hidden_size": 12345}, indent=2).replace("12345", json.dumps(value))
    text = text.replace("{", "{\n\n", 1)
    made_text, found = made(text)
    assert not made_text
    (wrong,) = [d for d in found if d.code in ("E210", "E214")]
    assert wrong.span is not None
    assert (wrong.span.file, wrong.span.line) == ("config.json", 7)
    assert text.split("\n")[6][wrong.span.column - 1 :].startswith(json.dumps(value)[:1])


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"is_encoder_decoder": True}, "E232"),
        ({"use_bidirectional_attention": True}, "E232"),
        ({"architectures": ["Qwen3MoeForCausalLM"], "use_sliding_window": True}, "E232"),
        ({"architectures": ["DeepseekV3ForCausalLM"], "attention_bias": True}, "E232"),
        ({"attention_bias": "yes"}, "E210"),
        ({"tie_word_embeddings": 1}, "E210"),
        ({"hidden_act": 3}, "E210"),
        ({"quantization_config": "fp8"}, "E210"),
        ({"architectures": ["DeepseekV3ForCausalLM"], "routed_scaling_factor": 0}, "E214"),
        ({"architectures": ["DeepseekV3ForCausalLM"], "scoring_func": "tanh"}, "E232"),
    ],
)
def test_what_changes_the_program_and_cannot_be_written_is_refused(fields: dict[str, Any], code: str) -> None:
    found = findings(**fields)
    assert code in [found_code for found_code, _ in found]
    assert any(f'"{list(fields)[-1]}"' in message or "scores" in message for _, message in found)


def test_fields_without_a_part_change_nothing() -> None:
    more = {
        "rope_theta": 1e6,
        "rope_scaling": {"factor": 8.0},
        "rms_norm_eps": 1e-6,
        "use_cache": True,
        "mlp_bias": False,
    }
    assert text_of(**more) == text_of()
    assert made(SMALL | more)[1] == []


def test_a_field_that_nobody_reads_is_told() -> None:
    text, found = made(SMALL | {"clip_qkv": 8.0, "odd\ud800": 1, "nothing": None, "off": False})
    assert [(d.code, d.message) for d in found] == [("N201", '`hf` does not read "clip_qkv", "odd\\ud800"')]
    assert '# `hf` does not read "clip_qkv"' in text


def test_defaults_that_matter_are_told() -> None:
    _, found = made(published("gemma_3_12b"))
    told = " ".join(d.message for d in found)
    assert "head_dim = 256, vocab_size = 262,208" in told
    assert "left out" not in told
    assert [d.message for d in made({k: v for k, v in SMALL.items() if k != "torch_dtype"})[1]] == [
        'there is no "torch_dtype": bf16 is assumed'
    ]


# ---- families


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"architectures": ["LamaForCausalLM"]}, '"LamaForCausalLM"', "any other model is written as a block"),
        ({"architectures": ["XyzModel"]}, '"XyzModel"', "`hf` knows "),
        ({"architectures": None, "model_type": "qwen9"}, 'model type "qwen9"', "DeepseekV3, "),
        ({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, "state-space layers", ""),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "cross-attention", ""),
        ({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}, "another head", ""),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "mistral"}, "belong to different families", ""),
        ({"architectures": None}, "config.json names no architecture", "LlamaForCausalLM"),
    ],
)
def test_an_unknown_family_is_named_with_those_that_are_known(fields: dict[str, Any], message: str, hint: str) -> None:
    config = {key: value for key, value in (SMALL | fields).items() if value is not None}
    text, found = made(config)
    assert not text
    (wrong,) = found
    assert wrong.code == "E231"
    assert message in wrong.message
    assert hint in wrong.hint


def test_the_type_alone_names_a_family() -> None:
    config = SMALL | {"model_type": "llama"}
    del config["architectures"]
    assert made(config)[0] == made(SMALL | {"model_type": "llama"})[0]


def test_the_language_model_of_a_multimodal_one() -> None:
    inner = {key: value for key, value in SMALL.items() if key != "architectures"}
    inner |= {"model_type": "mistral", "sliding_window": None}
    config = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": inner}
    text, found = made(config | {"vision_config": {"hidden_size": 1}, "image_token_index": 10, "hidden_size": 7})
    assert spec_of(text).size("hidden") == 64
    assert [d.code for d in found] == ["N201"]


# ---- in plans


def test_with_changes_what_hf_makes(tmp_path: Path) -> None:
    for model in ('hf("config.json") with { weights = fp8 }', 'hf("config.json") { weights = fp8 }'):
        (plan,) = compile_file(write(tmp_path, model, SMALL))
        assert (plan.spec.model.weights, plan.spec.model.activations) == ("fp8", "bf16")
    (plan,) = compile_file(write(tmp_path, 'hf("config.json")'), overrides=[("model.kv_cache", "fp8")])
    assert plan.spec.model.kv_cache == "fp8"


def test_a_declaration_and_a_let_may_stand_for_it(tmp_path: Path) -> None:
    path = write(tmp_path, "m", SMALL)
    for line in (
        'model m = hf("config.json")',
        'let m = hf("config.json")',
        'let m = hf("config.json") with { ffn = 8 }',
    ):
        path.write_text(PLAN.format(model="m") + line + "\n", "utf-8")
        assert codes(path) == []
    assert compile_file(path)[0].spec.model.size("ffn") == 8


def test_a_path_starts_at_the_file_that_says_it(tmp_path: Path) -> None:
    deep = tmp_path / "Models" / "Tiny-1.5"
    deep.mkdir(parents=True)
    write(deep, "m", SMALL)
    (tmp_path / "Models" / "all.plan").write_text('model m = hf("Tiny-1.5/config.json")\n')
    path = write(tmp_path, "m")
    path.write_text('use "Models/all.plan"\n' + path.read_text(), "utf-8")
    assert codes(path) == []
    path.write_text(PLAN.format(model='hf("Models/Tiny-1.5/config.json")'), "utf-8")
    (plan,) = compile_file(path)
    assert plan.spec.model.name == "tiny_1_5"
    assert plan.spec.model.source == "Models/Tiny-1.5/config.json"


def test_paths_stay_in_the_folder_of_the_root_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    write(tmp_path, "m", SMALL)
    (tree / "link.json").symlink_to(tmp_path / "config.json")
    (tree / "folder.json").mkdir()
    (tree / "config.txt").write_text("{}")
    for name in (
        "../config.json",
        "link.json",
        "absent.json",
        "folder.json",
        "config.txt",
        str(tmp_path / "config.json"),
    ):
        assert codes(write(tree, f'hf("{name}")')) == ["E209"], name
    module = open_text(PLAN.format(model='hf("config.json")'))
    module.check()
    assert [d.code for d in module.diagnostics] == ["E209"]


def test_configs_are_limited_in_number(tmp_path: Path) -> None:
    lines = []
    for number in range(MAX_FILES + 2):
        (tmp_path / f"c{number}.json").write_text(json.dumps(SMALL))
        lines.append(f'model m{number} = hf("c{number}.json")\n')
    path = tmp_path / "root.plan"
    path.write_text("".join(lines))
    assert codes(path) == ["E209"] * 2


@pytest.mark.parametrize(
    "call", ["hf()", 'hf("a.json", "b.json")', "hf(config)", 'hf("a.json", x = 1)', "hf(8)", 'hf("config.json") with 3']
)
def test_hf_takes_one_path(call: str, tmp_path: Path) -> None:
    assert codes(write(tmp_path, call, SMALL))[0][:2] in ("E1", "E2")


def test_only_a_model_is_made(tmp_path: Path) -> None:
    path = write(tmp_path, "llama_3_1_8b", SMALL)
    path.write_text('gpu g = hf("config.json")\n', "utf-8")
    assert codes(path) == ["E210"]


def test_a_wrong_config_is_told_once(tmp_path: Path) -> None:
    path = write(tmp_path, 'hf("config.json")', {"architectures": ["NoSuch"]})
    path.write_text(path.read_text() + path.read_text().replace("plan p", "plan q"), "utf-8")
    assert codes(path) == ["E231"]


def test_each_config_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, 'hf("config.json")', SMALL)
    path.write_text(path.read_text() + path.read_text().replace("plan p", "plan q"), "utf-8")
    read: list[str] = []
    real = hf.read_bytes
    monkeypatch.setattr(hf, "read_bytes", lambda file, **how: read.append(file.name) or real(file, **how))
    assert len(compile_file(path)) == 2
    assert read == ["config.json"]


def test_a_mistake_in_with_points_at_the_plan(tmp_path: Path) -> None:
    path = write(tmp_path, 'hf("config.json") with { weights = fp7 }', SMALL)
    module = load(None, path)
    module.check()
    (found,) = module.diagnostics
    assert found.span is not None
    assert (found.code, found.span.file) == ("E217", str(path))


def test_notes_are_in_the_report(tmp_path: Path) -> None:
    (plan,) = compile_file(write(tmp_path, 'hf("config.json")', SMALL | {"clip_qkv": 8.0}))
    notes = [note for note in plan.estimate().as_json()["notes"] if note["code"] == "N201"]
    assert [note["message"] for note in notes] == ['`hf` does not read "clip_qkv"']


# ---- what is no config


@pytest.mark.parametrize(
    ("text", "line", "column", "why"),
    [
        ('{\n  "a": 1,\n}', 3, 1, "property name"),
        ('{\n  "a" 1}', 2, 7, "':'"),
        ("", 1, 1, "expecting value"),
        ("[1, 2]", 1, 1, "expected an object, found [1, 2]"),
        ("null", 1, 1, "expected an object, found null"),
        ('{"a": NaN}', 1, 1, "it holds an invalid number"),
        ('{"a": ' + "1" * 5000 + "}", 1, 1, "it holds an invalid number"),
        ("[" * 100_000, 1, 1, "it nests too deeply"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(text: str, line: int, column: int, why: str) -> None:
    made_text, (found,) = made(text)
    assert not made_text
    assert found.code == "E230"
    assert why.lower() in found.message.lower()
    assert found.span is not None
    assert (found.span.line, found.span.column) == (line, column)


def test_bytes_that_are_no_text() -> None:
    for data, code in ((b'{"a": "\xff"}', "E109"), (b"\0", "E109"), (b" " * (MAX_FILE_BYTES + 1), "E108")):
        done = translate(data, "config.json")
        assert [d.code for d in done.found] == [code]
    assert translate(b"\xef\xbb\xbf" + json.dumps(SMALL).encode(), "config.json").text


def test_a_field_that_is_given_twice() -> None:
    text = json.dumps(SMALL)[:-1] + ', "hidden_size": 8}'
    assert [(d.code, d.message) for d in made(text)[1]] == [("E202", '"hidden_size" is given twice')]
    nested = json.dumps(SMALL)[:-1] + ', "rope_scaling": {"a": [{"b": 1}, {"b": 2}], "c": 1}, "rope_theta": 1}'
    assert made(nested)[1] == []


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
NAMES = st.sampled_from(
    sorted(
        {key for name in PARAMETERS for key in published(name)} | {"use_sliding_window", "layer_types", "text_config"}
    )
)
WORDS = st.sampled_from([*architectures(), *model_types(), "fp8", "awq", "sliding_attention"])


def judged(text: str) -> None:
    """Nothing but a sound model or diagnostics comes of a text."""
    done, found = made(text)
    assert {d.code for d in found} <= set(CODES)
    assert all(d.message.isprintable() for d in found)
    render(found, {"config.json": text}).encode()
    if not done:
        assert any(d.severity == "error" for d in found)
        return
    assert not any(d.severity == "error" for d in found)
    module = open_text(done)
    module.check()
    assert not any(d.severity == "error" for d in module.diagnostics), render(module.diagnostics, module.sources)


@given(st.dictionaries(NAMES | st.text(max_size=8), VALUES | WORDS | st.lists(WORDS, max_size=3), max_size=12))
def test_any_object_gives_a_model_or_diagnostics(config: dict[str, Any]) -> None:
    judged(json.dumps(config))


@draws(25 / 2)
@given(
    st.sampled_from(sorted(PARAMETERS)),
    st.dictionaries(NAMES, st.integers(0, 300) | VALUES | WORDS, max_size=3),
    st.sets(NAMES, max_size=2),
)
@example("qwen3_30b_a3b", {"mlp_only_layers": [True], "decoder_sparse_step": 7}, set())
@example("deepseek_v3", {"num_hidden_layers": 0, "quantization_config": {"quant_method": "fp8"}}, set())
def test_a_published_config_with_other_fields_gives_a_model_or_diagnostics(
    name: str, fields: dict[str, Any], dropped: Sequence[str]
) -> None:
    config = {key: value for key, value in (published(name) | fields).items() if key not in dropped}
    judged(json.dumps(config))


@given(st.text(max_size=40) | st.text('{}[]":,0123456789ae\\ \n', max_size=60))
def test_any_text_gives_diagnostics(text: str) -> None:
    made(text)


# ---- commands and codes


def test_the_catalog_command_prints_the_model_of_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(CONFIGS / "qwen3_8b.json")
    assert main(["catalog", "model", path]) == 0
    text = capsys.readouterr().out
    assert spec_of(text).name == "qwen3_8b"
    assert main(["catalog", "model", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == text


def test_the_catalog_command_refuses_a_wrong_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "model", str(tmp_path / "absent.json")]) == 2
    assert "E209" in capsys.readouterr().err
    (tmp_path / "wrong.json").write_text("{")
    assert main(["catalog", "model", str(tmp_path / "wrong.json")]) == 2
    assert "wrong.json:1:2" in capsys.readouterr().err


@pytest.mark.parametrize("code", HF_CODES)
def test_the_example_of_a_code_produces_it_alone(code: str) -> None:
    assert [d.code for d in made(CODES[code].example)[1]] == [code]


def test_a_wrong_config_in_a_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as raised:
        compile_file(write(tmp_path, 'hf("config.json")', '{"architectures": }'))
    assert [d.code for d in raised.value.diagnostics] == ["E230"]
    assert "config.json:1:19" in str(raised.value)
