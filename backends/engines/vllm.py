"""vLLM's arguments from a server, and a server from them; Arctic Inference's for sequence and shift parallelism."""

from __future__ import annotations

from plandsl.backends.engines.flags import Settings
from plandsl.backends.engines.formats import DTYPES, WEIGHTS, cache_word, read_cache, read_weights, state_word
from plandsl.backends.engines.modules import merged_modules, weights_of
from plandsl.backends.engines.reading import Reading
from plandsl.backends.engines.refusing import refuse
from plandsl.backends.engines.server import Degrees, Draft, HostCache, Lora, Server
from plandsl.diagnostics import Diagnostic, PlanError, clip
from plandsl.spec.plan import PlanSpec

CONNECTORS = {"nixl": "NixlConnector", "mooncake": "MooncakeConnector"}
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be (`MaxLoRARanks` in vllm/config/lora.py)."""

MULTI, OFFLOADING, HOST_BYTES = "MultiConnector", "OffloadingConnector", "cpu_bytes_to_use"
"""Of `--kv-transfer-config`: several connectors in one; the one to host memory; its bytes, for all ranks together."""

EXTRA = "kv_connector_extra_config"

_ROLES = {"nixl": ("kv_both", "kv_both"), "mooncake": ("kv_producer", "kv_consumer")}


_READ_ROLES = {"kv_producer": "prefill", "kv_consumer": "decode"}


def write_vllm(server: Server, plan: PlanSpec, connector: str = "nixl") -> Settings:
    """Arguments of `vllm serve`. Raises `PlanError` at the plan's words for what vLLM cannot do (E503, E504)."""
    d = server.degrees
    _check(server, plan)
    out: Settings = {"served-model-name": server.model, "tensor-parallel-size": d.tensor}
    if d.pipeline > 1:
        out["pipeline-parallel-size"] = d.pipeline
    if d.attention > 1 or (d.replicas > 1 and not server.routed):
        out["data-parallel-size"] = d.attention * (1 if server.routed else d.replicas)
    if server.nodes > 1 and d.attention > 1:
        out["data-parallel-size-local"] = max(1, d.attention // server.nodes)
    if d.context > 1:
        out |= {"prefill-context-parallel-size": d.context, "decode-context-parallel-size": d.context}
    if d.experts > 1:
        out["enable-expert-parallel"] = True
    if d.sequence > 1:
        out["ulysses-sequence-parallel-size"] = d.sequence
    if server.shift is not None:
        out |= {"enable-shift-parallel": True, "shift-parallel-threshold": server.shift}
    out |= _formats(server, plan) | _limits(server)
    if server.draft is not None:
        out["speculative-config"] = _draft(server.draft)
    if server.lora is not None:
        _check_adapters(server.lora, d, plan)
        out |= {"enable-lora": True, "max-loras": server.lora.adapters, "max-lora-rank": lora_rank(server.lora, plan)}
        if server.lora.host is not None:
            out["max-cpu-loras"] = server.lora.host
        if modules := merged_modules(server.lora.targets, server.lora.inside):
            out["lora-target-modules"] = list(modules)
    if server.encodes:
        out["runner"] = "pooling"
    if server.whole_images is not None:
        out["mm-encoder-tp-mode"] = "data" if server.whole_images else "weights"
    return out | _connectors(server, connector)


def _connectors(server: Server, connector: str) -> Settings:
    """What moves blocks of the KV cache to another pool, and to host memory.

    `--kv-offloading-size` takes the place of any connector (`_post_init_kv_transfer_config` in vllm/config/vllm.py), so
    a pool that offloads names both in a `MultiConnector`.
    """
    host = None if server.host_cache is None else round(server.host_cache.size * _sharing(server))
    if not server.role:
        return {} if host is None else {"kv-offloading-size": _gib(host), "kv-offloading-backend": "native"}
    role = _ROLES[connector][server.role == "decode"]
    own: dict[str, object] = {"kv_connector": CONNECTORS[connector], "kv_role": role}
    if host is None:
        return {"kv-transfer-config": own}
    offload: dict[str, object] = {"kv_connector": OFFLOADING, "kv_role": "kv_both", EXTRA: {HOST_BYTES: host}}
    both: dict[str, object] = {"kv_connector": MULTI, "kv_role": "kv_both", EXTRA: {"connectors": [own, offload]}}
    return {"kv-transfer-config": both}


def _sharing(server: Server) -> int:
    """The ranks of an engine, which share the size of host memory: those of one of the replicas of attention."""
    return server.degrees.ranks // server.degrees.attention


def _gib(size: int) -> float:
    found = size / 2**30
    return int(found) if found.is_integer() else round(found, 9)


def _check_adapters(lora: Lora, degrees: Degrees, plan: PlanSpec) -> None:
    """Source: `FusedMoEWithLoRA` in vllm/lora/layers/fused_moe.py, which has no expert parallelism."""
    if lora.inside and degrees.experts > 1:
        why = f"vLLM has no adapters inside experts (`{lora.inside[0]}`) where ranks have experts of their own"
        raise refuse(plan, ("experts",), why, "`tp` in place of `ep`, which cuts each expert, or other `targets`")


def lora_rank(lora: Lora, plan: PlanSpec) -> int:
    """The rank of adapters that vLLM reserves memory for. Raises `PlanError` (E503) above the largest."""
    if found := [rank for rank in RANKS if rank >= lora.rank]:
        return found[0]
    why = f"vLLM holds adapters of rank {RANKS[-1]} at most"
    raise PlanError([Diagnostic("E503", why, plan.span, hint=f"`rank = {RANKS[-1]}`")])


def _check(server: Server, plan: PlanSpec) -> None:
    d = server.degrees
    group = d.tensor * d.attention * d.context
    whole = d.experts == group and d.expert_tensor == 1
    if server.routed and group > 1 and not whole and not (d.experts == 1 and d.expert_tensor == group):
        why = f"vLLM puts experts on all {group} ranks of a stage, or cuts each expert over all of them"
        hint = f"`experts -> ...` with all axes of these ranks, or `ep = {group}` without tp"
        raise refuse(plan, ("experts", "expert_ffn"), why, hint)
    if d.sequence > 1 and (d.context > 1 or d.attention > 1):
        raise refuse(plan, ("tokens",), "Arctic Inference has sequence parallelism beside tp and pp alone",
                     "drop cp and ep, or sp")  # fmt: skip


def _formats(server: Server, plan: PlanSpec) -> Settings:
    out: Settings = {"dtype": DTYPES.get(server.activations, "auto")}
    if server.weights in WEIGHTS["vllm"]:
        out["quantization"] = WEIGHTS["vllm"][server.weights]
    out["kv-cache-dtype"] = "auto" if server.kv_cache == server.activations else cache_word(
        "vllm", server.kv_cache, plan)  # fmt: skip
    if server.state_cache:
        out["mamba-ssm-cache-dtype"] = state_word("vllm", server.state_cache, plan)
    return out


def _limits(server: Server) -> Settings:
    out: Settings = {}
    options = dict(server.options)
    tokens = server.step_tokens if server.chunk is None else server.chunk
    rows: tuple[tuple[str, int | float | None], ...] = (
        ("max-model-len", server.max_context),
        ("max-num-seqs", server.max_requests if tokens is None or server.max_requests is None
         else min(server.max_requests, tokens)),
        ("max-num-batched-tokens", tokens),
        ("gpu-memory-utilization", server.memory_fraction),
        ("block-size", server.kv_block),
    )  # fmt: skip
    out |= {name: value for name, value in rows if value is not None}
    if server.chunk is not None:
        out["enable-chunked-prefill"] = True
    elif "chunked" in options:
        out["enable-chunked-prefill"] = options["chunked"]
    if server.prefix_cache is not None:
        out["enable-prefix-caching"] = server.prefix_cache
    for ours, theirs in OPTIONS.items():
        if ours in options:
            out[theirs] = options[ours]
    return out


OPTIONS = {
    "order": "scheduling-policy",
    "long_prompt": "long-prefill-token-threshold",
    "adaptive": "long-prefill-token-threshold-adaptive",
    "watermark": "watermark",
    "whole_prompt": "scheduler-reserve-full-isl",
    "ahead": "async-scheduling",
}
"""Limits of the scheduler in the language -> vLLM's argument."""


def _draft(draft: Draft) -> dict[str, object]:
    out: dict[str, object] = {"method": {"model": "draft_model"}.get(draft.kind, draft.kind)}
    if draft.kind == "model":
        out |= {"model": draft.model, "draft_tensor_parallel_size": draft.tensor}
    return out | {"num_speculative_tokens": draft.tokens}


def read_vllm(r: Reading) -> Server:
    """The server that arguments of `vllm serve` start."""
    tensor, data = r.whole("tensor-parallel-size", 1), r.whole("data-parallel-size", 1)
    context = r.whole("prefill-context-parallel-size", 1)
    routed, group = r.model.routed, tensor * data * context
    expert = r.flag("enable-expert-parallel") or False
    if expert and not routed:
        r.fail("enable-expert-parallel", f"`{r.model.name}` has no routed experts", "drop the flag")
    if r.whole("decode-context-parallel-size", 1) not in (1, context):
        r.fail("decode-context-parallel-size", "a plan has no cache split by tokens inside tp", "drop the flag")
    degrees = Degrees(
        tensor=tensor,
        pipeline=r.whole("pipeline-parallel-size", 1),
        replicas=r.copies * (1 if routed else data),
        sequence=r.whole("ulysses-sequence-parallel-size", 1),
        context=context,
        attention=data if routed else 1,
        experts=group if expert else 1,
        expert_tensor=group if routed and not expert else 1,
        layers=r.partition("VLLM_PP_LAYER_PARTITION"),
    )
    shift = r.whole("shift-parallel-threshold", 512) if r.flag("enable-shift-parallel") else None
    if shift is not None and degrees.sequence == 1:
        hint = "add --ulysses-sequence-parallel-size"
        r.fail("enable-shift-parallel", "shift parallelism needs sequence parallelism", hint)
    tokens = r.maybe_whole("max-num-batched-tokens")
    chunked = r.flag("enable-chunked-prefill")
    mode = r.word("mm-encoder-tp-mode")
    roles = {_READ_ROLES.get(str(one.get("kv_role")), "") for one in _each_connector(r)} - {""}
    limit = r.maybe_whole("max-model-len")
    options = [(ours, r.any(theirs)) for ours, theirs in OPTIONS.items()]
    options.append(("chunked", False if chunked is False else None))
    return Server(
        r.model.name,
        degrees,
        role=r.role(roles.pop() if len(roles) == 1 else ""),
        weights=read_weights("vllm", r.word("quantization")) or r.stored(),
        kv_cache=read_cache("vllm", r.word("kv-cache-dtype") or "auto") or r.auto_cache(),
        activations=r.dtype() or r.model.activations,
        routed=routed,
        dense=r.dense,
        shift=shift,
        step_tokens=None if chunked else tokens,
        max_requests=r.maybe_whole("max-num-seqs"),
        memory_fraction=r.share("gpu-memory-utilization"),
        max_context=limit if limit and limit > 0 else r.model.max_context,
        chunk=tokens if chunked else None,
        prefix_cache=r.flag("enable-prefix-caching"),
        kv_block=r.maybe_whole("block-size"),
        draft=_read_draft(r),
        lora=_read_lora(r),
        encodes=r.word("runner") == "pooling" or r.word("convert") in ("embed", "classify", "reward"),
        state_cache=r.state("mamba-ssm-cache-dtype") or r.state("mamba-cache-dtype") or r.own_state(),
        host_cache=_read_host(r, degrees.ranks // degrees.attention),
        whole_images=r.whole_images("mm-encoder-tp-mode", {"data": True, "weights": False}.get(mode)),
        options=tuple((name, value) for name, value in options if value is not None),
        gpus=r.gpus,
    )


def _read_lora(r: Reading) -> Lora | None:
    found = r.lora("max-loras", "max-cpu-loras")
    return found and found._replace(targets=weights_of(r, "lora-target-modules"))


def _read_host(r: Reading, ranks: int) -> HostCache | None:
    """Host memory behind the KV cache: of `--kv-offloading-size`, or of an offloading connector."""
    if (size := r.positive("kv-offloading-size")) is not None:
        other = r.json("kv-transfer-config").get("kv_connector", OFFLOADING)
        if other != OFFLOADING:
            why = f"vLLM puts its own connector in the place of `{clip(str(other))}`, and no cache is sent on"
            r.fail("kv-offloading-size", why, f"name both in a {MULTI}: `planc export` of a plan with `kv_tiers` does")
        if r.word("kv-offloading-backend") == "lmcache":
            why = "LMCache's own server says how large it is, and not this flag"
            raise r.wrong("kv-offloading-backend", why, "`--kv-offloading-backend native`, or drop both flags")
        return HostCache(size * 2**30 / ranks)
    for one in _each_connector(r):
        extra = one.get(EXTRA)
        if one.get("kv_connector") == OFFLOADING and isinstance(extra, dict):
            return HostCache(r.inner_whole("kv-transfer-config", extra, HOST_BYTES) / ranks)
    return None


def _each_connector(r: Reading) -> list[dict[str, object]]:
    """The connectors of `--kv-transfer-config`: those inside of a `MultiConnector`, or the one."""
    config = r.json("kv-transfer-config")
    inner = config.get(EXTRA)
    several = inner.get("connectors") if isinstance(inner, dict) else None
    return [one for one in several if isinstance(one, dict)] if isinstance(several, list) else [config]


def _read_draft(r: Reading) -> Draft | None:
    config = r.json("speculative-config")
    if not config:
        return None
    tokens = r.inner_whole("speculative-config", config, "num_speculative_tokens")
    method = str(config.get("method", "draft_model" if "model" in config else ""))
    if method == "ngram":
        return Draft("ngram", tokens)
    if method == "mtp" or method.endswith("_mtp"):
        return Draft("mtp", tokens)
    if method == "draft_model":
        tensor = config.get("draft_tensor_parallel_size", 1)
        return Draft("model", tokens, str(config.get("model", "")), tensor if isinstance(tensor, int) else 1)
    raise r.wrong("speculative-config", f"a plan has no guesses by `{method}`", "draft_model, mtp or ngram")
