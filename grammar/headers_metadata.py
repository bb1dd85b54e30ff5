"""The metadata of a GGUF file as the config of a Hugging Face checkpoint, and its tensors by the names of modules.

Source: ggml-org/llama.cpp, gguf-py/gguf/constants.py (`Keys`, `TENSOR_NAMES`) and conversion scripts, which give each
key the value of a field of the config.
"""

from __future__ import annotations

import json
import re
from typing import Any

from plandsl.diagnostics import Diagnostic, Span, clip
from plandsl.grammar.headers import Checkpoint, Tensor, Unreadable
from plandsl.grammar.headers_gguf import Gguf
from plandsl.grammar.hf_config import Config

TYPES = {
    "llama": "llama",
    "llama4": "llama4_text",
    "qwen2": "qwen2",
    "qwen2moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "deepseek2": "deepseek_v3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gpt-oss": "gpt_oss",
    "phi3": "phi3",
    "granite": "granite",
    "command-r": "cohere",
    "cohere2": "cohere2",
    "olmo2": "olmo2",
    "starcoder2": "starcoder2",
    "glm4": "glm4",
    "glm4moe": "glm4_moe",
    "ernie4_5": "ernie4_5",
    "ernie4_5-moe": "ernie4_5_moe",
    "minimax-m2": "minimax_m2",
}
"""`general.architecture` -> `model_type` of a config. A `llama` with experts is a Mixtral."""

_FIELDS = {
    "block_count": ("num_hidden_layers",),
    "embedding_length": ("hidden_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "feed_forward_length": ("intermediate_size", "intermediate_size_mlp"),
    "context_length": ("max_position_embeddings",),
    "attention.sliding_window": ("sliding_window",),
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_count": ("n_shared_experts",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "leading_dense_block_count": ("first_k_dense_replace",),
    "interleave_moe_layer_step": ("interleave_moe_layer_step",),
    "attention.q_lora_rank": ("q_lora_rank",),
    "attention.kv_lora_rank": ("kv_lora_rank",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "expert_weights_norm": ("norm_topk_prob",),
    "nextn_predict_layers": ("num_nextn_predict_layers",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "logit_scale": ("logit_scale",),
}
_LATENT = ("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
_SCORES = {1: "softmax", 2: "sigmoid"}
_MODULES = {
    "attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_qkv": "qkv_proj", "attn_output": "o_proj",
    "attn_q_a": "q_a_proj", "attn_q_b": "q_b_proj", "attn_kv_a_mqa": "kv_a_proj_with_mqa", "attn_kv_b": "kv_b_proj",
    "attn_q_norm": "q_norm", "attn_k_norm": "k_norm", "attn_q_a_norm": "q_a_layernorm", "attn_sinks": "sinks",
    "attn_kv_a_norm": "kv_a_layernorm", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate", "exp_probs_b": "mlp.gate.e_score_correction_bias",
    "ffn_gate_exps": "mlp.experts.gate_proj", "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj", "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj", "ffn_down_shexp": "mlp.shared_experts.down_proj",
    "nextn.eh_proj": "eh_proj", "nextn.enorm": "enorm", "nextn.hnorm": "hnorm",
}  # fmt: skip
"""A tensor of a layer by the name of its module in the checkpoint from which it was made."""

_OWN = {
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
    "glm4": {
        "ffn_up": "mlp.gate_up_proj", "post_attention_norm": "post_self_attn_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
    },
}  # fmt: skip
"""Where the modules of a type have other names. `ffn_up` holds the rows of the gate too in files of these types.

Source: `MODEL_TENSOR.FFN_UP`, `ATTN_POST_NORM` and `FFN_POST_NORM` in gguf-py/gguf/tensor_mapping.py, and the shape
`{ n_embd, 2 * n_ff }` in src/models/phi3.cpp.
"""

_FEEDS = {"mixtral": "block_sparse_moe", "minimax_m2": "block_sparse_moe", "llama4_text": "feed_forward"}
_ENDS = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}


def config_of(made: Gguf, file: str) -> Config:
    """The config that the metadata and the shapes of tensors stand for. Raises `Unreadable`."""
    architecture = made.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise Unreadable("it has no `general.architecture`: it is no model")
    if made.metadata.get("general.type", "model") != "model":
        raise Unreadable(f"it is a file of type {clip(ascii(made.metadata['general.type']))}, not a model")
    values = _values(made, architecture)
    return Config(file, values, {}, Span(file, 1, 1, 1, 2))


def _values(made: Gguf, architecture: str) -> dict[str, Any]:
    metadata, prefix = made.metadata, f"{architecture}."
    given = {key.removeprefix(prefix): _one(value) for key, value in metadata.items() if key.startswith(prefix)}
    values = {name: given[key] for key, names in _FIELDS.items() if key in given for name in names}
    kind = TYPES.get(architecture, architecture)
    values["model_type"] = "mixtral" if kind == "llama" and given.get("expert_count") else kind
    shapes = {tensor.name: tensor.shape for tensor in made.tensors}
    if (table := shapes.get("token_embd.weight")) and len(table) == 2:
        values["vocab_size"] = table[0]
    values["tie_word_embeddings"] = "output.weight" not in shapes
    values["attention_bias"] = "blk.0.attn_q.bias" in shapes
    values["head_dim"] = given.get("attention.key_length")
    values["scoring_func"] = _SCORES.get(given.get("expert_gating_func", 0))
    if architecture == "deepseek2":
        _add_latent(values, given)
    if values["model_type"] == "gpt_oss":
        values |= {"intermediate_size": given.get("expert_feed_forward_length"), "attention_bias": True}
    if values["model_type"] == "llama4_text":
        values["intermediate_size"] = given.get("expert_feed_forward_length")
    predicted = values.get("num_nextn_predict_layers")
    if isinstance(predicted, int) and isinstance(values.get("num_hidden_layers"), int):
        values["num_hidden_layers"] -= predicted  # `block_count` counts them too
    types = {tensor.type for tensor in made.tensors if len(tensor.shape) > 1}
    values["torch_dtype"] = "bfloat16" if "bf16" in types else "float32" if types == {"fp32"} else "float16"
    return {key: value for key, value in values.items() if value is not None}


def _one(value: Any) -> Any:
    """The one value of an array that gives each layer the same."""
    return value[0] if isinstance(value, list) and value and all(item == value[0] for item in value) else value


def _add_latent(values: dict[str, Any], given: dict[str, Any]) -> None:
    rope = given.get("rope.dimension_count")
    keys = given.get("attention.key_length_mla", given.get("attention.key_length"))
    widths = given.get("attention.value_length_mla", given.get("attention.value_length"))
    values.pop("num_key_value_heads", None)
    values |= {
        "head_dim": None,
        "qk_rope_head_dim": rope,
        "v_head_dim": widths,
        "q_lora_rank": values.get("q_lora_rank"),
    }
    if isinstance(keys, int) and isinstance(rope, int):
        values["qk_nope_head_dim"] = keys - rope


def checkpoint_of(made: Gguf, model_type: str) -> Checkpoint:
    """The tensors by the names that the modules of a family have."""
    feed, modules = _FEEDS.get(model_type, "mlp"), _MODULES | _OWN.get(model_type, {})
    return Checkpoint(tuple(tensor._replace(module=_renamed(tensor, feed, modules)) for tensor in made.tensors))


def _renamed(tensor: Tensor, feed: str, modules: dict[str, str]) -> str:
    found = re.fullmatch(r"(?:blk\.(\d{1,6})\.)?(.+?)(?:\.(weight|bias))?", tensor.name)
    if found is None:
        return tensor.name
    layer, name, suffix = found[1], found[2], found[3] or "weight"
    if layer is None:
        return f"{_ENDS[name]}.{suffix}" if name in _ENDS else tensor.name
    if name in ("attn_k_b", "attn_v_b"):  # the two parts of `kv_b_proj`
        return f"model.layers.{layer}.self_attn.kv_b_proj.{suffix}"
    if (module := modules.get(name)) is None:
        return tensor.name
    part = "self_attn." if name.startswith("attn_") and name != "attn_norm" else ""
    end = "" if module.endswith("_bias") else f".{suffix}"
    return f"model.layers.{layer}.{part}{module.replace('mlp', feed, 1)}{end}"


def notes_of(made: Gguf, config: Config) -> None:
    """Record what a GGUF file does not say."""
    if {t.type for t in made.tensors} - {"fp32", "fp16", "bf16"}:
        told = json.dumps(config.values.get("torch_dtype"))
        why = f"a GGUF file names no type of activations: {told} is assumed, and weights are unpacked to it"
        config.found.append(Diagnostic("N201", why, config.span))
