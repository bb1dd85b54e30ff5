"""TensorRT-LLM's arguments (the keys of `LlmArgs`) from a server, and a server from them."""

from __future__ import annotations

from plandsl.backends.engines.flags import Settings
from plandsl.backends.engines.formats import CACHES, DTYPES, READ_DTYPES, cache_word, read_cache, state_word
from plandsl.backends.engines.reading import Reading, shown
from plandsl.backends.engines.refusing import refuse
from plandsl.backends.engines.server import Degrees, Draft, HostCache, Lora, Server
from plandsl.diagnostics import Diagnostic, PlanError, clip
from plandsl.spec.plan import PlanSpec

ROOMS = {"no_evict": "GUARANTEED_NO_EVICT", "max_utilisation": "MAX_UTILIZATION", "static_batch": "STATIC_BATCH"}
"""The limit `room` in the language -> `scheduler_config.capacity_scheduler_policy`."""

CHUNKING = ("EQUAL_PROGRESS", "FIRST_COME_FIRST_SERVED")
"""Values of `scheduler_config.context_chunking_policy`: with and without `equal`."""

BLOCK = "tokens_per_block"
"""Tokens of a block, in `kv_cache_config`."""

HOST = "host_cache_size"
"""Bytes of host memory for each rank, in `kv_cache_config` (`KvCacheConfig` in tensorrt_llm/llmapi/llm_args.py)."""

BACKENDS = {"nixl": "NIXL", "mooncake": "MOONCAKE"}


def write_trtllm(server: Server, plan: PlanSpec, connector: str = "nixl") -> Settings:
    """Keys of `trtllm-serve --config`. Raises `PlanError` at the plan's words for what it cannot do (E503, E504)."""
    d = server.degrees
    _check(server, plan)
    group = d.tensor * d.attention
    out: Settings = {"tensor_parallel_size": group, "pipeline_parallel_size": d.pipeline}
    if d.layers:
        out["pp_partition"] = list(d.layers)
    if server.routed and group > 1:
        out |= {"moe_tensor_parallel_size": d.expert_tensor, "moe_expert_parallel_size": d.experts}
    if d.attention > 1:
        out["enable_attention_dp"] = True
    out |= _limits(server)
    cache = cache_word("trtllm", server.kv_cache, plan)
    known = {"dtype": cache, "free_gpu_memory_fraction": server.memory_fraction,
             "tokens_per_block": server.kv_block, "enable_block_reuse": server.prefix_cache,
             "mamba_ssm_cache_dtype": state_word("trtllm", server.state_cache, plan) if server.state_cache else None,
             HOST: None if server.host_cache is None else round(server.host_cache.size)}  # fmt: skip
    out["kv_cache_config"] = {name: value for name, value in known.items() if value is not None}
    options = dict(server.options)
    scheduler: dict[str, object] = {}
    if "room" in options:
        scheduler["capacity_scheduler_policy"] = ROOMS[str(options["room"])]
    if "equal" in options:
        scheduler["context_chunking_policy"] = CHUNKING[0 if options["equal"] else 1]
    if scheduler:
        out["scheduler_config"] = scheduler
    if options.get("ahead") is False:
        out["disable_overlap_scheduler"] = True
    if server.draft is not None:
        out["speculative_config"] = _draft(server.draft)
    if server.lora is not None:
        out["lora_config"] = _lora(server.lora, plan)
    if server.role:
        out["cache_transceiver_config"] = {"backend": BACKENDS[connector]}
    return out


def _check(server: Server, plan: PlanSpec) -> None:
    d = server.degrees
    group = d.tensor * d.attention
    if server.shift is not None or d.sequence > 1:
        raise refuse(plan, ("tokens",), "TensorRT-LLM has neither Ulysses' sequence parallelism nor a shift",
                     "vLLM with Arctic Inference has both: `--to vllm`")  # fmt: skip
    if d.context > 1:
        raise refuse(plan, ("context",), "TensorRT-LLM's `context_parallel_size` is not known to be `cp`",
                     "`--to vllm`, or `tp` instead of `cp`")  # fmt: skip
    if d.attention > 1 and d.tensor > 1:
        why = "TensorRT-LLM deals requests to all ranks of a stage or to none (`enable_attention_dp`)"
        raise refuse(plan, ("batch",), why, f"`ep = {group}` without tp")
    if server.routed and d.experts * d.expert_tensor != group:
        why = f"TensorRT-LLM lays experts over all {group} ranks: ep times the cuts of an expert must be {group}"
        hint = "split `experts` or `expert_ffn` over every axis of these ranks"
        raise refuse(plan, ("experts", "expert_ffn"), why, hint)


def _limits(server: Server) -> Settings:
    tokens = server.step_tokens if server.chunk is None else server.chunk
    rows: tuple[tuple[str, int | None], ...] = (
        ("max_batch_size", server.max_requests),
        ("max_num_tokens", tokens),
        ("max_seq_len", server.max_context),
    )
    out: Settings = {name: value for name, value in rows if value is not None}
    if server.chunk is not None:
        out["enable_chunked_prefill"] = True
    elif "chunked" in (options := dict(server.options)):
        out["enable_chunked_prefill"] = options["chunked"]
    return out | {"dtype": DTYPES.get(server.activations, "auto")}


def _draft(draft: Draft) -> dict[str, object]:
    match draft.kind:
        case "mtp":
            return {"decoding_type": "MTP", "max_draft_len": draft.tokens}
        case "ngram":
            return {"decoding_type": "NGram", "max_draft_len": draft.tokens}
        case "model":
            return {"decoding_type": "Draft_Target", "max_draft_len": draft.tokens, "speculative_model": draft.model}


MODULES = {
    "w_q": "attn_q", "w_k": "attn_k", "w_v": "attn_v", "w_o": "attn_dense",
    "w_gate": "mlp_h_to_4h", "w_up": "mlp_gate", "w_down": "mlp_4h_to_h",
}  # fmt: skip
"""Weights as the catalog names them -> modules with adapters.

Source: `get_default_trtllm_modules_to_hf_modules` in tensorrt_llm/lora_helper.py at 037d4ba1; `mlp_gate` is the
`up_proj` of a checkpoint, `mlp_h_to_4h` its `gate_proj`.
"""

QKV = ("w_q", "w_k", "w_v")
RANK = 64
"""`max_lora_rank` unless it is given (`LoraConfig` in the same file)."""


def fill_qkv(targets: tuple[str, ...]) -> list[str]:
    """Of q, k and v the weights that get adapters of zeros, since others of them are targets.

    Source: `get_missing_qkv_modules_from_lora_modules` in the same file.
    """
    return [name for name in QKV if name not in targets] if set(QKV) & set(targets) else []


def _lora(lora: Lora, plan: PlanSpec) -> dict[str, object]:
    unknown = [name for name in lora.targets if name not in MODULES or name in lora.inside]
    if unknown:
        inside = " inside experts" if unknown[0] in lora.inside else ""
        why = f"TensorRT-LLM's modules with adapters are those of {', '.join(MODULES)}, not of `{unknown[0]}`{inside}"
        named = ", ".join(name for name in lora.targets if name not in unknown) or "w_q, w_k, w_v"
        hint = f"`targets = [{named}]`, or `--to vllm`"
        raise PlanError([Diagnostic("E503", why, plan.model.span or plan.span, hint=hint)])
    out: dict[str, object] = {
        "lora_target_modules": [MODULES[name] for name in lora.targets],
        "max_lora_rank": lora.rank,
        "max_loras": lora.adapters,
    }
    return out if lora.host is None else out | {"max_cpu_loras": lora.host}


def _read_lora(r: Reading) -> Lora | None:
    config = r.json("lora_config")
    if not config:
        return None
    known = {theirs: ours for ours, theirs in MODULES.items()}
    modules = config.get("lora_target_modules")
    if not isinstance(modules, list) or not modules or not all(isinstance(name, str) for name in modules):
        why = "a plan says which weights have adapters"
        raise r.wrong("lora_config", why, 'add "lora_target_modules": ["attn_q", "attn_k", "attn_v"]')
    for name in modules:
        if name not in known or not r.has_weight(known[name]):
            raise r.wrong("lora_config", f"`{clip(name)}` is no weight of `{r.model.name}` with adapters", "drop it")
    rank = r.inner_whole("lora_config", config, "max_lora_rank") if "max_lora_rank" in config else RANK
    host = r.inner_whole("lora_config", config, "max_cpu_loras") if "max_cpu_loras" in config else None
    return Lora(r.inner_whole("lora_config", config, "max_loras"), rank, host, tuple(known[name] for name in modules))


def read_trtllm(r: Reading) -> Server:
    """The server that keys of `trtllm-serve --config` start."""
    routed, group = r.model.routed, r.whole("tensor_parallel_size", 1)
    attention = group if r.flag("enable_attention_dp") else 1
    if attention > 1 and not routed:
        why = f"a plan deals requests to ranks of a model with experts, and `{r.model.name}` has none"
        raise r.wrong("enable_attention_dp", why, "drop the key")
    experts = r.whole("moe_expert_parallel_size", 1)
    cuts = r.whole("moe_tensor_parallel_size", group // experts if group % experts == 0 else 1)
    if routed and experts * cuts != group:
        why = f"moe_expert_parallel_size x moe_tensor_parallel_size is {experts * cuts}, tensor_parallel_size {group}"
        raise r.wrong("moe_expert_parallel_size", why, f"their product must be {group}")
    cache = r.json("kv_cache_config")
    tokens, chunked = r.maybe_whole("max_num_tokens"), r.flag("enable_chunked_prefill")
    fraction = r.inner_share("kv_cache_config", "free_gpu_memory_fraction") or r.share("free_gpu_memory_fraction")
    options: list[tuple[str, bool | int | float | str]] = []
    if policy := r.inner_word("scheduler_config", "capacity_scheduler_policy", ROOMS.values()):
        options.append(("room", next(ours for ours, theirs in ROOMS.items() if theirs == policy)))
    if chunking := r.inner_word("scheduler_config", "context_chunking_policy", CHUNKING):
        options.append(("equal", chunking == CHUNKING[0]))
    if r.flag("disable_overlap_scheduler"):
        options.append(("ahead", False))
    if chunked is False:
        options.append(("chunked", False))
    return Server(
        r.model.name,
        Degrees(
            tensor=group // attention,
            pipeline=r.whole("pipeline_parallel_size", 1),
            replicas=r.copies,
            attention=attention,
            experts=experts if routed else 1,
            expert_tensor=cuts if routed else 1,
            layers=_read_layers(r),
        ),
        role=r.hint if r.json("cache_transceiver_config") else "",
        weights=r.stored(),
        kv_cache=_read_cache(r) or r.auto_cache(),
        activations=r.dtype() or r.model.activations,
        routed=routed,
        dense=r.dense,
        step_tokens=None if chunked else tokens,
        max_requests=r.maybe_whole("max_batch_size"),
        memory_fraction=fraction,
        max_context=r.maybe_whole("max_seq_len") or r.model.max_context,
        chunk=tokens if chunked else None,
        prefix_cache=r.inner_flag("kv_cache_config", "enable_block_reuse"),
        kv_block=None if cache.get(BLOCK) is None else r.inner_whole("kv_cache_config", cache, BLOCK),
        draft=_read_draft(r),
        lora=_read_lora(r),
        state_cache=_read_state(r) or r.own_state(),
        host_cache=_read_host(r),
        options=tuple(options),
        gpus=r.gpus,
    )


def _read_layers(r: Reading) -> tuple[int, ...]:
    """Layers of each stage, as `pp_partition` has them."""
    layers: list[int] = []
    for one in r.items("pp_partition"):
        if not isinstance(one, int) or isinstance(one, bool) or one < 1:
            raise r.wrong("pp_partition", f"`{shown(one)}` is no whole number of layers of a stage", "[16, 16]")
        layers.append(one)
    return tuple(layers)


def _read_cache(r: Reading) -> str | None:
    """The format of the KV cache; None for that of the checkpoint."""
    words = dict.fromkeys(("auto", *CACHES["trtllm"].values(), *READ_DTYPES))
    word = r.inner_word("kv_cache_config", "dtype", words)
    return read_cache("trtllm", word or "auto") or READ_DTYPES.get(word)


def _read_state(r: Reading) -> str:
    word = r.inner_word("kv_cache_config", "mamba_ssm_cache_dtype", ("auto", *READ_DTYPES))
    return READ_DTYPES.get(word, "") if r.model.stateful else ""


def _read_host(r: Reading) -> HostCache | None:
    config = r.json("kv_cache_config")
    if config.get(HOST) in (None, 0):
        return None
    return HostCache(float(r.inner_whole("kv_cache_config", config, HOST)))


def _read_draft(r: Reading) -> Draft | None:
    config = r.json("speculative_config")
    if not config:
        return None
    kind = str(config.get("decoding_type", "")).lower()
    if kind == "mtp":
        key = "max_draft_len" if "max_draft_len" in config else "num_nextn_predict_layers"
        return Draft("mtp", r.inner_whole("speculative_config", config, key))
    tokens = r.inner_whole("speculative_config", config, "max_draft_len")
    if kind == "ngram":
        return Draft("ngram", tokens)
    if kind.replace("_", "") == "drafttarget":
        model = config.get("speculative_model") or config.get("speculative_model_dir") or ""
        return Draft("model", tokens, str(model), r.whole("tensor_parallel_size", 1))
    raise r.wrong("speculative_config", f"a plan has no guesses by `{kind}`", "MTP, NGram or Draft_Target")
