"""The shape of a model, from the fields of its config.json and its family."""

from __future__ import annotations

import math
from typing import NamedTuple

from plandsl.diagnostics import suggest
from plandsl.grammar.hf_config import Config, json_text
from plandsl.grammar.hf_families import Family, Feed
from plandsl.limits import MAX_LAYERS

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
}
"""Activation in a config.json -> function of the language."""

QUICK = 1.702
"""The slope of a `quick_gelu`: ``x sigmoid(1.702 x)``."""


CHUNK = "attention_chunk_size"


class Kind(NamedTuple):
    """The kind of a layer: whether attention is limited (window or chunk), has experts, rotates queries and keys.

    ``stored`` are the formats of weights in which layers of the model differ.
    """

    slides: bool = False
    sparse: bool = False
    roped: bool = True
    stored: tuple[tuple[str, str], ...] = ()


class Router(NamedTuple):
    """How a token's experts are chosen and weighed."""

    top_k: int
    bias: str
    score: str
    normalize: bool
    scale: float
    weigh: str


class Shape(NamedTuple):
    """Everything that `model_text` needs to write the text of a model."""

    sizes: dict[str, int]
    layers: tuple[Kind, ...]
    window: int
    router: Router | None
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    post_norm: bool
    activation: str
    latent: bool
    tied: bool
    softcap: bool
    max_context: int
    predicts: bool = False
    sinks: bool = False
    limit: float = 0.0
    reach: str = "window"  # how layers that slide limit their keys: by a window or a chunk
    turned_norm: bool = False  # queries and keys are normalised without gain after their rotation


def shape_of(config: Config, family: Family) -> Shape:
    """The shape of a model; findings about wrong or missing fields are recorded in ``config``."""
    count = config.whole("num_hidden_layers", most=MAX_LAYERS)
    sizes = {"hidden": config.whole("hidden_size")}
    sizes |= _latent_sizes(config) if family.latent else _head_sizes(config, family, sizes["hidden"])
    sizes |= _feed_sizes(config, family)
    sizes["vocab"] = config.known("vocab_size", family.defaults)
    predicts = config.whole("num_nextn_predict_layers", 0, MAX_LAYERS, least=0) > 0
    if predicts:
        sizes["pair"] = 2 * sizes["hidden"]
    sliding, window = _sliding_layers(config, family, count)
    sparse = _sparse_layers(config, family, count)
    return Shape(
        sizes=sizes,
        layers=tuple(map(Kind, sliding, sparse, _roped_layers(config, family, count))),
        window=window,
        router=_router(config, family.feed, sizes["experts"]) if family.feed else None,
        qkv_bias=_bias(config, family.qkv_bias, family.biased),
        out_bias=_bias(config, family.out_bias, family.biased),
        mlp_bias=_bias(config, family.mlp_bias, family.biased),
        qk_norm=family.qk_norm,
        post_norm=family.post_norm,
        activation=_activation(config, family),
        latent=family.latent,
        tied=config.flag("tie_word_embeddings", family.tied),
        softcap=config.get("final_logit_softcapping") is not None,
        max_context=config.known("max_position_embeddings", {"max_position_embeddings": 0} | family.defaults),
        predicts=predicts,
        sinks=family.sinks,
        limit=_limit(config) if family.limited else 0.0,
        reach="chunk" if family.window == "chunked" else "window",
        turned_norm=family.window == "chunked" and config.flag("use_qk_norm", True),
    )


def _bias(config: Config, key: str, biased: bool) -> bool:
    return key == "always" or (key != "" and config.flag(key, biased))


def _head_sizes(config: Config, family: Family, hidden: int) -> dict[str, int]:
    heads = config.known("num_attention_heads", family.defaults)
    stated = "num_key_value_heads" in config.values and config.get("num_key_value_heads") is None
    kv_heads = heads if stated else config.known("num_key_value_heads", family.defaults)
    if heads and kv_heads and heads % kv_heads:
        config.fail("E214", f"{heads} heads cannot share {kv_heads} KV heads evenly", "num_key_value_heads")
    if config.get("head_dim") is not None or family.states_head_dim:
        head_dim = config.known("head_dim", family.defaults)
    else:
        if heads and hidden % heads:
            message = f'{config.file} has no "head_dim", and {heads} heads do not divide the hidden size {hidden}'
            config.fail("E207", message, hint='add "head_dim" with its value')
        head_dim = hidden // max(heads, 1)
    return {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}


def _latent_sizes(config: Config) -> dict[str, int]:
    config.skip("num_key_value_heads", "head_dim", "qk_head_dim")
    if config.flag("attention_bias"):
        config.fail("E232", '"attention_bias": `hf` writes latent attention without biases', "attention_bias")
    sizes = {"heads": config.whole("num_attention_heads"), "kv_rank": config.whole("kv_lora_rank")}
    if "q_lora_rank" not in config.values or config.get("q_lora_rank") is not None:
        sizes["q_rank"] = config.whole("q_lora_rank")
    keys = {"nope_dim": "qk_nope_head_dim", "rope_dim": "qk_rope_head_dim", "v_dim": "v_head_dim"}
    return sizes | {name: config.whole(key) for name, key in keys.items()}


def _feed_sizes(config: Config, family: Family) -> dict[str, int]:
    feed = family.feed
    if feed is None:
        return {"ffn": config.whole("intermediate_size")}
    sizes = {"experts": config.whole(feed.experts), "expert_ffn": config.whole(feed.width)}
    if feed.dense:
        sizes["ffn"] = config.whole(feed.dense)
    if family.latent:
        given = "n_shared_experts" in config.values and config.get("n_shared_experts") is None
        sizes["shared"] = 0 if given else config.whole("n_shared_experts", least=0)
    if feed.shared:
        sizes["shared"] = feed.shared
    return sizes


def _router(config: Config, feed: Feed, experts: int) -> Router:
    key = config.first("num_experts_per_tok", "experts_per_token")
    top_k = config.whole(key)
    if experts and top_k > experts:
        config.fail("E214", f"{top_k} experts for each token, but there are only {experts}", key)
    score = config.word("scoring_func") or feed.score
    if score not in ("softmax", "sigmoid"):
        config.fail("E232", f"`hf` knows no scores {json_text(score)}", "scoring_func", "softmax or sigmoid")
    bias = feed.bias
    if bias == "choice" and config.word("topk_method") not in (None, "noaux_tc"):
        bias = ""
    normalize = config.flag("norm_topk_prob", feed.normalized)
    return Router(top_k, bias, score, normalize=normalize, scale=_scale(config), weigh=feed.weigh)


def _scale(config: Config) -> float:
    return _positive(config, "routed_scaling_factor", 1.0)


def _limit(config: Config) -> float:
    """The bound to which both inputs of the gated product are clamped. The gate must have the slope of `quick_gelu`."""
    if abs(_positive(config, "swiglu_alpha", QUICK) - QUICK) > 1e-6:
        config.fail("E232", f'"swiglu_alpha": `hf` writes gates with a slope of {QUICK}', "swiglu_alpha")
    return _positive(config, "swiglu_limit", 7.0)


def _positive(config: Config, key: str, default: float) -> float:
    """A number above zero; ``default`` is the default of the model's class."""
    value = config.get(key)
    if value is None:
        return default
    number = float(value) if isinstance(value, int | float) and abs(value) < 1e7 else math.nan
    if isinstance(value, bool) or not 0 < number <= 1e6:
        config.fail("E214", f'"{key}" must be a number above 0, and at most 1,000,000, found {json_text(value)}', key)
        return default
    return number


def _activation(config: Config, family: Family) -> str:
    key = config.first("hidden_activation", "hidden_act")
    word = config.word(key)
    if word is None or word in ACTIVATIONS:
        return ACTIVATIONS[word] if word else family.activation
    config.fail("E232", f"`hf` knows no activation {json_text(word)}", key, suggest(word, ACTIVATIONS))
    return family.activation


# ---- which layers are which


def _sliding_layers(config: Config, family: Family, count: int) -> tuple[list[bool], int]:
    """Whether each layer slides, and the window."""
    config.skip("max_window_layers")
    layers = [False] * count
    if family.window == "chunked":
        layers = _roped_layers(config, family, count)
    elif family.window == "never":
        if config.flag("use_sliding_window"):
            config.fail("E232", '"use_sliding_window": `hf` writes this family without a window', "use_sliding_window")
    elif config.flag("use_sliding_window", family.window != "late"):
        layers = _sliding_by_rule(config, family, count)
    if family.window not in ("never", "chunked"):
        config.skip("sliding_window", "sliding_window_size", "sliding_window_pattern", "_sliding_window_pattern")
    kinds = config.items("layer_types", str)
    if kinds is not None:
        layers = _sliding_by_name(config, kinds, count, "chunked" if family.window == "chunked" else "sliding")
    key = CHUNK if family.window == "chunked" else "sliding_window"
    if not any(layers) or (key == CHUNK and config.get(CHUNK) is None):
        return [False] * count, 0
    return layers, config.whole(key)


def _roped_layers(config: Config, family: Family, count: int) -> list[bool]:
    """Whether each layer rotates queries and keys (RoPE); in Llama 4 three of four layers do."""
    if family.window != "chunked":
        return [True] * count
    turned = config.items("no_rope_layers", int)  # 1 for a layer with RoPE, despite the name
    if not turned:
        each = config.whole("no_rope_layer_interval", 4, MAX_LAYERS) or 1
        return [(layer + 1) % each != 0 for layer in range(count)]
    if len(turned) != count:
        config.fail("E214", f'"no_rope_layers" lists {len(turned)} layers, but the model has {count}', "no_rope_layers")
        return [True] * count
    return [flag != 0 for flag in turned]


def _sliding_by_rule(config: Config, family: Family, count: int) -> list[bool]:
    if config.values.get("sliding_window") is None:
        # null means no window; a file without the field has a window if the class has one by default
        asked = family.window != "all" or family.asks_window
        return [asked and "sliding_window" not in config.values] * count
    match family.window:
        case "all":
            return [True] * count
        case "even":
            return [layer % 2 == 0 for layer in range(count)]
        case "late":
            start = config.whole("max_window_layers", least=0)
            return [layer >= start for layer in range(count)]
        case "sixth":
            key = config.first("sliding_window_pattern", "_sliding_window_pattern")
            each = config.whole(key, 6, MAX_LAYERS) or 1
            return [(layer + 1) % each != 0 for layer in range(count)]
    return [False] * count


def _sliding_by_name(config: Config, kinds: list[str], count: int, some: str) -> list[bool]:
    names = ("full_attention", f"{some}_attention")
    wrong = next((kind for kind in kinds if kind not in names), None)
    if wrong is not None:
        config.fail(
            "E232", f'"layer_types": `hf` cannot write {json_text(wrong)}', "layer_types", suggest(wrong, names)
        )
    elif len(kinds) != count:
        config.fail("E214", f'"layer_types" lists {len(kinds)} layers, but the model has {count}', "layer_types")
    else:
        return [kind == names[1] for kind in kinds]
    return [False] * count


def _sparse_layers(config: Config, family: Family, count: int) -> list[bool]:
    """Whether each layer has experts."""
    if family.feed is None:
        return [False] * count
    if family.latent:
        first = config.whole("first_k_dense_replace", least=0)
        each = config.whole("moe_layer_freq", 1) or 1
        return [layer >= first and layer % each == 0 for layer in range(count)]
    if not family.feed.dense:
        return [True] * count
    if (sparse := config.items("moe_layers", int)) is not None:
        config.skip(family.feed.step)
        return [layer in sparse for layer in range(count)]
    each = config.whole(family.feed.step, 1) or 1
    dense = set(config.items("mlp_only_layers", int) or ())
    return [layer not in dense and (layer + 1) % each == 0 for layer in range(count)]
