"""The model families that `hf` knows, and the family of a config.json.

Source of the differences between families: the classes of Hugging Face transformers.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.diagnostics import suggest
from plandsl.grammar.hf_config import Config, json_list, json_text


class Feed(NamedTuple):
    """Experts: the fields with their number, their width and the width of dense layers; and how they are chosen.

    ``bias``: the router's bias is added to its ``logits``, to the ``choice`` of experts only, or (empty) there is none.
    """

    experts: str
    width: str
    dense: str = ""
    bias: str = ""
    score: str = "softmax"
    normalized: bool = True  # default for a file that does not say
    weigh: str = ""  # the value that gates multiply, if it is not the result
    shared: int = 0  # experts that get all tokens, if no field gives their number
    step: str = "decoder_sparse_step"  # field with the distance from one sparse layer to the next


class Family(NamedTuple):
    """The features of a family. A ``..._bias`` is the field that says whether there is a bias, ``always``, or empty."""

    architecture: str
    types: tuple[str, ...]
    qkv_bias: str = ""
    out_bias: str = ""
    mlp_bias: str = ""
    biased: bool = False  # default for a file that does not say
    qk_norm: bool = False
    post_norm: bool = False
    window: str = "never"  # layers with a sliding window: never, all, late, even, sixth (all but each sixth), chunked
    asks_window: bool = False
    states_head_dim: bool = False
    activation: str = "silu"
    tied: bool = False
    feed: Feed | None = None
    latent: bool = False
    sinks: bool = False
    limited: bool = False  # both inputs of the gated product are clamped to `swiglu_limit`
    defaults: dict[str, int] = {}  # noqa: RUF012  never changed


_GEMMA_3 = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
}
_GPT_OSS = Feed("num_local_experts", "intermediate_size", bias="logits")
_DEEPSEEK = Feed("n_routed_experts", "moe_intermediate_size", "intermediate_size", "choice", "sigmoid")
_QWEN_3 = Feed("num_experts", "moe_intermediate_size", "intermediate_size", normalized=False)
_LLAMA_4 = Feed(
    "num_local_experts", "intermediate_size", "intermediate_size_mlp", score="sigmoid", normalized=False,
    weigh="input", shared=1, step="interleave_moe_layer_step",
)  # fmt: skip
_MIXTRAL = Feed("num_local_experts", "intermediate_size")
_BIAS = "attention_bias"

FAMILIES = (
    Family("LlamaForCausalLM", ("llama",), _BIAS, _BIAS, "mlp_bias"),
    Family(
        "Llama4ForCausalLM", ("llama4_text", "llama4"), _BIAS, _BIAS, window="chunked", states_head_dim=True,
        feed=_LLAMA_4,
    ),
    Family("MistralForCausalLM", ("mistral",), window="all", asks_window=True),
    Family("MixtralForCausalLM", ("mixtral",), window="all", feed=_MIXTRAL),
    Family("Qwen2ForCausalLM", ("qwen2",), "always", window="late"),
    Family("Qwen3ForCausalLM", ("qwen3",), _BIAS, _BIAS, qk_norm=True, window="late", states_head_dim=True),
    Family("Qwen3MoeForCausalLM", ("qwen3_moe",), _BIAS, _BIAS, qk_norm=True, states_head_dim=True, feed=_QWEN_3),
    Family("DeepseekV3ForCausalLM", ("deepseek_v3", "kimi_k2"), feed=_DEEPSEEK, latent=True),
    Family(
        "GptOssForCausalLM", ("gpt_oss",), _BIAS, _BIAS, "always", biased=True,
        window="even", states_head_dim=True, feed=_GPT_OSS, sinks=True, limited=True,
    ),
    Family(
        "Gemma2ForCausalLM", ("gemma2",), _BIAS, _BIAS, post_norm=True, window="even",
        states_head_dim=True, activation="gelu", tied=True,
    ),
    Family(
        "Gemma3ForCausalLM", ("gemma3_text", "gemma3"), _BIAS, _BIAS, qk_norm=True, post_norm=True, window="sixth",
        states_head_dim=True, activation="gelu", tied=True, defaults=_GEMMA_3,
    ),
)  # fmt: skip

_LACKS = {
    "bert": "an encoder without a cache",
    "t5": "an encoder and cross-attention",
    "bart": "an encoder and cross-attention",
    "whisper": "an encoder and cross-attention",
    "gpt2": "learned positions",
    "opt": "learned positions",
    "falcon": "attention and MLP side by side",
    "gpt_neox": "attention and MLP side by side",
    "mamba": "a state-space layer",
    "jamba": "a state-space layer",
    "qwen3_next": "linear attention",
    "deepseek_v32": "sparse attention",
}
"""Model types that `hf` cannot translate, by the start of their name, and the feature that it lacks."""


def family_of(config: Config) -> Family | None:
    """The family that ``architectures`` or ``model_type`` names; None, and a finding, if `hf` does not know it."""
    kind = config.word("model_type")
    named = config.items("architectures", str) or []
    known = {family.architecture: family for family in FAMILIES}
    by_type = next((family for family in FAMILIES if kind in family.types), None)
    family = known.get(named[0]) if named else None
    # a multimodal file names its language model by `model_type` only
    whole = bool(named) and not named[0].endswith("ForConditionalGeneration")
    if family is None and by_type is not None and not whole:
        return by_type
    if family is None:
        _report_unknown(config, named[0] if named else "", kind or "", known)
    elif kind is not None and kind not in family.types:
        hint = f"{family.architecture} has {json_list(family.types)}"
        why = f"{json_text(named[0])} and the type {json_text(kind)} belong to different families"
        config.fail("E231", why, "model_type", hint)
    return family


def _report_unknown(config: Config, named: str, kind: str, known: dict[str, Family]) -> None:
    if not named and not kind:
        hint = 'add "architectures": ["LlamaForCausalLM"], or the name of another family'
        config.fail("E231", f"{config.file} names no architecture", hint=hint)
        return
    types = [name for family in known.values() for name in family.types]
    lacks = next((what for start, what in _LACKS.items() if kind.startswith(start)), "")
    if not lacks and named and kind in types:
        lacks = "another head than that of a language model"
    why = f": it has {lacks}" if lacks else ""
    hint = suggest(named or kind, known if named else types)
    hint += "; any other model is written as a block" if hint.startswith("known") else ""
    key = "architectures" if named else "model_type"
    config.fail("E231", f"`hf` knows no {key.replace('_', ' ').rstrip('s')} {json_text(named or kind)}{why}", key, hint)
