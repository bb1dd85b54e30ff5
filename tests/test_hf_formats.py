"""Formats of quantised checkpoints: which weights `hf` stores in which format."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.cli import main
from plandsl.driver import compile_text
from plandsl.grammar import hf_modules
from plandsl.grammar.hf import translate
from plandsl.grammar.hf_patterns import UnreadablePattern, read_regex, read_wildcards
from tests.test_hf import findings, published, spec_of, text_of

LLAMA_FBGEMM = ["lm_head", *(f"model.layers.{n}.self_attn.{p}_proj" for n in range(126) for p in "qkvo")]
LLAMA_FBGEMM += [f"model.layers.{n}.mlp.{p}_proj" for n in (0, 125) for p in ("gate", "up", "down")]
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def stored(name: str, **table: Any) -> dict[str, str]:
    """The exceptions of a published model that is quantised as ``table`` says."""
    return dict(spec_of(quantised(name, **table)).stored)


def quantised(name: str, **table: Any) -> str:
    return translate(json.dumps(published(name) | {"quantization_config": table}).encode(), "config.json").text


def notes(**table: Any) -> list[str]:
    fields = published("llama_3_1_8b") | {"quantization_config": table}
    return [found.message for found in translate(json.dumps(fields).encode(), "config.json").found]


# ---- formats


@pytest.mark.parametrize(
    ("table", "weights", "compute"),
    [
        ({"quant_method": "fp8"}, "fp8", None),
        (BLOCKS, "fp8_128x128", None),
        ({"quant_method": "fp8", "weight_block_size": [64, 128]}, "fp8_128x64", None),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "fp8_channel", None),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4_128", "bf16"),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8_channel", "bf16"),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "int4_64", "bf16"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, "nvfp4", None),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 128}, "int4_128", "bf16"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "fp4_64", "bf16"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8_channel", None),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}, "int4_128", "bf16"),
        ({"quant_method": "modelopt_fp4"}, "nvfp4", None),
        (
            {
                "quant_method": "quark",
                "global_quant_config": {
                    "weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32},
                    "input_tensors": {"dtype": "fp4"},
                },
                "exclude": ["lm_head"],
            },
            "mxfp4",
            None,
        ),
        (
            {
                "quant_method": "quark",
                "global_quant_config": {
                    "weight": {"dtype": "fp8_e4m3", "qscheme": "per_channel"},
                    "input_tensors": {"dtype": "fp8_e4m3"},
                },
            },
            "fp8_channel",
            None,
        ),
    ],
)
def test_a_method_gives_the_format_of_layers(table: dict[str, Any], weights: str, compute: str | None) -> None:
    spec = spec_of(text_of(torch_dtype="bfloat16", quantization_config=table))
    assert (spec.weights, spec.compute) == (weights, compute)
    assert spec.stored == (("embedding", "activations"), ("head", "activations"))


def group(targets: list[str] | None = None, **weights: Any) -> dict[str, Any]:
    found = {"weights": weights, "input_activations": {"num_bits": 8}}
    return found if targets is None else found | {"targets": targets}


@pytest.mark.parametrize(
    ("weights", "word"),
    [
        ({"num_bits": 8, "type": "float", "strategy": "tensor"}, "fp8"),
        ({"num_bits": 8, "type": "float", "strategy": "channel"}, "fp8_channel"),
        ({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}, "fp8_128x128"),
        ({"num_bits": 8, "type": "int", "strategy": "channel"}, "int8_channel"),
        ({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}, "int4_128"),
        ({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}, "nvfp4"),
        ({"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}, "mxfp4"),
    ],
)
def test_a_group_of_compressed_tensors(weights: dict[str, Any], word: str) -> None:
    table = {"quant_method": "compressed-tensors", "config_groups": {"g": group(**weights)}, "ignore": ["lm_head"]}
    assert spec_of(text_of(quantization_config=table)).weights == word


def test_groups_of_compressed_tensors_have_formats_of_their_own() -> None:
    table = {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "attention": group(["re:.*self_attn.*_proj$"], num_bits=8, type="float", strategy="channel"),
            "rest": group(["Linear"], num_bits=4, type="int", strategy="group", group_size=128),
        },
        "ignore": ["lm_head", "re:.*mlp\\.gate$"],
    }
    text = quantised("qwen3_30b_a3b", **table)
    spec = spec_of(text)
    assert spec.weights == "int4_128"
    assert dict(spec.stored) == {
        "embedding": "activations", "head": "activations",
        **dict.fromkeys(("w_q", "w_k", "w_v", "w_o"), "fp8_channel"),
    }  # fmt: skip


def test_the_head_is_quantised_only_where_the_config_says_so() -> None:
    weights = {"num_bits": 8, "type": "int", "strategy": "channel"}
    table = {"quant_method": "compressed-tensors", "config_groups": {"g": group(["Linear"], **weights)}}
    assert stored("llama_3_1_8b", **table)["head"] == "int8_channel"
    assert stored("llama_3_1_8b", **table, ignore=["lm_head"])["head"] == "activations"
    assert stored("llama_3_1_8b", quant_method="gptq", bits=4, lm_head=True)["head"] == "int4_128"


# ---- modules that are kept


@pytest.mark.parametrize("key", ["modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"])
@pytest.mark.parametrize(
    "name",
    [
        "self_attn",
        "model.layers.*.self_attn",
        "re:.*self_attn.*",
        "*self_attn*",
        "re:^model\\.layers\\.\\d+\\.self_attn",
    ],
)
def test_a_name_without_a_number_means_all_layers(key: str, name: str) -> None:
    found = stored("llama_3_1_8b", **BLOCKS, **{key: [name]})
    assert {path for path, word in found.items() if word == "activations"} == {
        "embedding", "head", "w_q", "w_k", "w_v", "w_o"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mlp.down_proj", {"w_down"}),
        ("gate_up_proj", {"w_gate", "w_up"}),
        ("qkv_proj", {"w_q", "w_k", "w_v"}),
        ("re:.*(q|k)_proj", {"w_q", "w_k"}),
        ("model.layers.*.mlp", {"w_gate", "w_up", "w_down"}),
        ("mlp.gate", set()),
        ("input_layernorm", set()),
    ],
)
def test_a_name_means_modules_by_whole_words(name: str, weights: set[str]) -> None:
    found = stored("llama_3_1_8b", **BLOCKS, modules_to_not_convert=[name])
    assert set(found) - {"embedding", "head"} == weights


def test_names_of_latent_attention_and_shared_experts() -> None:
    names = ["q_b_proj", "kv_a_proj_with_mqa", "mlp.shared_experts"]
    found = stored("deepseek_v3", **BLOCKS, modules_to_not_convert=names)
    assert set(found) - {"embedding", "head", "w_join"} == {
        "w_uq", "w_qr", "w_dkv", "w_kr", "w_shared_gate", "w_shared_up", "w_shared_down"
    }  # fmt: skip


def test_layers_that_are_kept_become_blocks_of_their_own() -> None:
    kept = [f"model.layers.{n}.mlp" for n in (0, 31)] + ["model.layers.5"]
    text = quantised("llama_3_1_8b", **BLOCKS, modules_to_not_convert=kept)
    spec = spec_of(text)
    words = {n: spec.format_of("w_up", block.name) for block in spec.blocks for n in block.every.select(block.layers)}
    assert {n for n, word in words.items() if word == "bf16"} == {0, 5, 31}
    words = {n: spec.format_of("w_q", block.name) for block in spec.blocks for n in block.every.select(block.layers)}
    assert {n for n, word in words.items() if word == "bf16"} == {5}


def test_single_layers_that_need_too_many_blocks_are_told() -> None:
    kept = [f"model.layers.{n}.mlp" for n in (0, 1, 3, 4, 8, 9, 11, 14, 18, 19, 21, 25, 27, 28, 30)]
    table = BLOCKS | {"modules_to_not_convert": kept}
    letters = "qkvo"
    names = [f"model.layers.{n}.self_attn.{letters[bit]}_proj" for n in range(32) for bit in range(4) if n >> bit & 1]
    names += [f"model.layers.{n}.mlp" for n in range(32) if n & 16]
    many = table | {"modules_to_not_convert": names}
    few = translate(json.dumps(published("llama_3_1_8b") | {"quantization_config": table}).encode(), "config.json")
    assert few.text
    assert few.found == []
    fields = published("llama_3_1_8b") | {"quantization_config": many}
    found = translate(json.dumps(fields).encode(), "config.json")
    assert found.text
    assert any("single layers are left out" in d.message for d in found.found)


def test_only_some_modules_are_quantised() -> None:
    listed = [["self_attn.k_proj", "self_attn.v_proj"], ["mlp.experts"]]
    found = stored("qwen3_30b_a3b", quant_method="gptq", bits=4, modules_in_block_to_quantize=listed)
    assert found == dict.fromkeys(("embedding", "head", "w_q", "w_o"), "activations")


def test_the_config_of_a_model_whose_experts_alone_have_four_bits() -> None:
    """Kimi K2 Thinking: int4 in groups of 32 for routed experts only."""
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    ignore = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"]
    table = {"quant_method": "compressed-tensors", "config_groups": {"g": group(["Linear"], **weights)}}
    spec = spec_of(quantised("kimi_k2", **table, ignore=ignore))
    words = {(b.name, w): spec.format_of(w, b.name) for b in spec.blocks for w in ("w_gate", "w_down", "w_o", "w_dq")}
    assert {key for key, word in words.items() if word != "bf16"} == {
        (spec.blocks[1].name, "w_gate"), (spec.blocks[1].name, "w_down")
    }  # fmt: skip
    assert spec.format_of("w_shared_up", spec.blocks[1].name) == "bf16"


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.*.feed_forward.experts",
        "feed_forward.experts.down_proj",
        "re:.*experts\\.down_proj",
        "re:.*experts\\.\\d+\\.down_proj",
        "re:language_model\\.model\\.layers\\.\\d+\\.feed_forward\\.experts.*",
    ],
)
def test_experts_may_be_named_without_a_number(name: str) -> None:
    found = stored("llama_4_scout", **BLOCKS, modules_to_not_convert=[name])
    assert found["w_down"] == "activations"
    assert "w_o" not in found


def test_the_layer_after_the_last_is_the_one_that_predicts_further_tokens() -> None:
    found = stored("deepseek_v3", **BLOCKS, modules_to_not_convert=["model.layers.61"])
    assert found["mtp"] == "activations"
    assert found["w_join"] == "activations"
    assert "mtp" not in stored("deepseek_v3", **BLOCKS)


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["mtp"], True),
        (["mtp.layers.0.mlp", "mtp.layers.0.self_attn"], True),
        (["re:.*mtp.*"], True),
        (["re:mtp\\.layers\\.0\\..*"], True),
        (["mtp.*"], True),
        (["mtp.fc"], False),
        (["mtp.layers.1"], False),
    ],
)
def test_the_layer_that_predicts_further_tokens_may_have_a_name_of_its_own(names: list[str], kept: bool) -> None:
    found = stored("qwen3_5_27b", **BLOCKS, modules_to_not_convert=names)
    assert ("mtp" in found) == kept
    assert "w_up" not in found


def test_experts_are_kept_one_by_one_only_if_all_are_listed() -> None:
    names = [f"model.layers.{n}.block_sparse_moe.experts.{e}.w2" for n in range(32) for e in range(8)]
    found = stored("mixtral_8x7b", **BLOCKS, modules_to_not_convert=names)
    assert set(found) == {"embedding", "head", "w_down"}
    table = published("mixtral_8x7b") | {"quantization_config": BLOCKS | {"modules_to_not_convert": names[:-2]}}
    told = translate(json.dumps(table).encode(), "config.json").found
    assert any("some experts are kept" in d.message for d in told)


def test_a_name_that_means_nothing_is_told() -> None:
    assert notes(**BLOCKS, modules_to_not_convert=["lm_head", "model.layers.0.mlp.fc1", "model.layers.99.mlp"]) == [
        '"quantization_config": names that mean no module of the model: "model.layers.0.mlp.fc1", "model.layers.99.mlp"'
    ]
    assert (
        notes(**BLOCKS, modules_to_not_convert=["visual", "re:vision_tower.*", "lm_head", "embed_tokens", "norm"]) == []
    )


def test_a_pattern_that_cannot_be_read_is_told() -> None:
    assert any("cannot read these patterns" in why for why in notes(**BLOCKS, ignore=["re:(?!lm_head).*"]))


@pytest.mark.parametrize("value", ["lm_head", [1], {"a": 1}])
def test_a_list_of_modules_is_a_list_of_strings(value: Any) -> None:
    assert [code for code, _ in findings(quantization_config=BLOCKS | {"ignore": value})] == ["E210"]


def test_a_hostile_pattern_takes_little_time() -> None:
    started = time.process_time()
    text_of(quantization_config=BLOCKS | {"ignore": ["re:" + "(a|b|.*)*" * 20 + "!", "*a" * 90, "re:" + "(.*)*" * 60]})
    assert time.process_time() - started < 20  # `re` would need longer than the age of the universe


MODULES = (hf_modules.Module("self_attn.q_proj", ("w_q",)), hf_modules.Module("mlp.up_proj", ("w_up",)))


def test_a_pattern_that_names_a_layer_looks_at_the_modules_of_few_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the prefixes of other layers the pattern is in the same states."""
    looked: list[str] = []
    means = hf_modules._means

    def counted(pattern: hf_modules.Pattern, *rest: Any) -> bool:
        looked.append(pattern.text)
        return means(pattern, *rest)

    monkeypatch.setattr(hf_modules, "_means", counted)
    layers = tuple(hf_modules.Layer(n, MODULES) for n in range(80))
    pattern = hf_modules.read_pattern(r"re:.*layers\.3\.self_attn\..*")
    found = [(layer.number, module.name) for layer, module in hf_modules.matching(pattern, layers)]
    assert found == [(3, "self_attn.q_proj")]
    assert len(looked) <= 8 * len(MODULES)


NAMES = st.text(alphabet="ab.01_", max_size=8)
PIECES = ("a", "b", r"\.", ".", r"\d", r"[\d_]", "[ab]", "[^a]", "[0-1]", "(a|b0)", "(?:ab|)", "^", "$")
REGEXES = st.lists(
    st.tuples(st.sampled_from(PIECES), st.sampled_from(("", "", "*", "+", "?", "*?", "+?", "??"))), max_size=6
).map(lambda parts: "".join(piece + ("" if piece in "^$" else sign) for piece, sign in parts))


@given(REGEXES, NAMES)
def test_patterns_mean_what_they_mean_to_python(pattern: str, name: str) -> None:
    assert read_regex(pattern).matches(name) == (re.match(pattern, name) is not None)


@pytest.mark.parametrize("text", ["(", "a)", "[a", "*", r"\b", "(?=a)", "a{2}", "x" * 500, "((((((a))))))"])
def test_unreadable_patterns(text: str) -> None:
    with pytest.raises(UnreadablePattern):
        read_regex(text)


def test_patterns_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plandsl.grammar.hf_storage._MOST_PATTERNS", 3)
    with pytest.raises(UnreadablePattern):
        read_wildcards("*" * 500)
    table = BLOCKS | {"ignore": [f"re:model.layers.{n}.mlp" for n in range(4)]}
    assert findings(quantization_config=table) == [("E232", '"quantization_config": more than 3 patterns of names')]


def test_modules_of_their_own_settings_are_kept_or_told() -> None:
    """GPTQModel: `-:` excludes what a pattern means, `+:` gives it other settings."""
    table = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    kept = {"-:.*down_proj": {}, "+:.*q_proj": {"bits": 8}}
    assert stored("llama_3_1_8b", **table, dynamic=kept)["w_down"] == "activations"
    (told,) = notes(**table, dynamic=kept)
    assert told == '"quantization_config": settings of single modules are not read: "+:.*q_proj"'
    assert notes(**table, dynamic={"-:.*down_proj": {}}) == []
    assert any(
        '"Linear" in the list of modules to keep is not read' in why for why in notes(**BLOCKS, ignore=["Linear"])
    )


def test_wildcards_match_to_the_end() -> None:
    assert read_wildcards("a*c").matches("abbc")
    assert not read_wildcards("a*c").matches("abbcd")


# ---- published figures


def memory(text: str, tp: int, more: str = "") -> float:
    """GiB of weights of each GPU."""
    name = re.findall(r"model (\w+) \{", text)[0]
    model = f"{name} with {{ {more} }}" if more else name
    load = "workload { input = 100, output = 10 }"
    (plan,) = compile_text(f"{text}\nplan p {{ model = {model}, node = h200_8, sharding {{ tp = {tp} }}, {load} }}")
    return plan.estimate().memory.weights / 2**30


def test_the_fp8_checkpoint_of_llama_3_1_405b() -> None:
    """57.75 GiB on each of 8 GPUs (vLLM issue 6746). That checkpoint was the first, which had each KV head twice."""
    text = quantised("llama_3_1_405b", quant_method="fbgemm_fp8", modules_to_not_convert=LLAMA_FBGEMM)
    assert memory(text, 8, "kv_heads = 16") == pytest.approx(57.75, rel=0.002)
    assert memory(text, 8) == pytest.approx(57.75, rel=0.02)


@pytest.mark.parametrize(
    ("name", "tp", "seen", "table"),
    [
        # "weights" of vLLM 0.19's memory profile, H100 (llm-d-incubation/llm-d-planner, accuracy/results/v0.19.0)
        ("llama_3_1_8b", 1, 8.49, group(["Linear"], num_bits=8, type="int", strategy="channel")),
        ("llama_3_1_8b", 1, 8.49, group(["Linear"], num_bits=8, type="float", strategy="tensor")),
        ("llama_3_1_8b", 1, 5.38, group(["Linear"], num_bits=4, type="int", strategy="group", group_size=128)),
        ("llama_3_1_70b", 2, 33.88, group(["Linear"], num_bits=8, type="int", strategy="channel")),
        # vLLM PR 12569
        ("llama_3_1_70b", 1, 67.72, group(["Linear"], num_bits=8, type="int", strategy="channel")),
        # the same project, docs/empirical-vllm-memory-results.md
        ("llama_3_1_70b", 2, 33.88, group(num_bits=8, type="float", strategy="block", block_structure=[128, 128])),
    ],
)  # fmt: skip
def test_weights_that_vllm_loads(name: str, tp: int, seen: float, table: dict[str, Any]) -> None:
    text = quantised(name, quant_method="compressed-tensors", config_groups={"g": table}, ignore=["lm_head"])
    assert memory(text, tp) == pytest.approx(seen, rel=0.01)


def test_settings_that_cannot_be_read_have_a_way_out() -> None:
    table = {"quant_method": "gptq", "bits": 5, "group_size": 128}
    fields = published("llama_3_1_8b") | {"quantization_config": table}
    (found,) = (d for d in translate(json.dumps(fields).encode(), "config.json").found if d.code == "E232")
    assert "state `weights` and `stored` in the plan" in found.hint


def test_a_report_says_which_config_a_note_is_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"quant_method": "fp8", "modules_to_not_convert": ["nonsense"]}
    fields = published("llama_3_1_8b") | {"quantization_config": table}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    text = 'plan p { model = hf("config.json"), node = h100_1, workload { input = 100, output = 10 } }'
    (tmp_path / "a.plan").write_text(text, encoding="utf-8")
    main(["compile", str(tmp_path / "a.plan")])
    told = " ".join(capsys.readouterr().out.split())
    assert 'config.json: "quantization_config": names that mean no module' in told
