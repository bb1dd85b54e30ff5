"""SGLang's arguments from a server, and a server from them."""

from __future__ import annotations

from plandsl.backends.engines.flags import Settings
from plandsl.backends.engines.formats import DTYPES, WEIGHTS, cache_word, read_cache, read_weights, state_word
from plandsl.backends.engines.modules import own_modules, weights_of
from plandsl.backends.engines.reading import Reading
from plandsl.backends.engines.refusing import refuse
from plandsl.backends.engines.server import Degrees, Draft, HostCache, Lora, Server
from plandsl.spec.plan import PlanSpec

OPTIONS = {
    "max_joining": "prefill-max-requests",
    "conservativeness": "schedule-conservativeness",
    "prefill_tokens": "max-prefill-tokens",
}
"""Limits of the scheduler in the language -> SGLang's argument."""

WRITES: dict[str, str] = {"through": "write_through", "back": "write_back"}
"""`kv_write` in the language -> `--hicache-write-policy`."""

ORDERS = {"fcfs": "fcfs", "longest_prefix": "lpm"}


def write_sglang(server: Server, plan: PlanSpec, connector: str = "mooncake") -> Settings:
    """Arguments of `sglang.launch_server`. Raises `PlanError` for what SGLang cannot do (E503, E504)."""
    d = server.degrees
    _check(server, plan)
    group = d.tensor * d.attention
    out: Settings = {"served-model-name": server.model, "tp-size": group}
    rows = (("pp-size", d.pipeline), ("dp-size", d.replicas), ("attn-dp-size", d.attention), ("ep-size", d.experts))
    out |= {name: size for name, size in rows if size > 1}
    if d.attention > 1 and d.tensor == 1 and server.dense:
        out["moe-dense-tp-size"] = 1
    out["dtype"] = DTYPES.get(server.activations, "auto")
    if server.weights in WEIGHTS["sglang"]:
        out["quantization"] = WEIGHTS["sglang"][server.weights]
    same = server.kv_cache == server.activations
    out["kv-cache-dtype"] = "auto" if same else cache_word("sglang", server.kv_cache, plan)
    out |= _limits(server)
    if server.draft is not None:
        out |= _draft(server.draft)
    if server.lora is not None:
        out |= {"enable-lora": True, "max-loras-per-batch": server.lora.adapters, "max-lora-rank": server.lora.rank}
        out["lora-target-modules"] = list(own_modules(server.lora.targets, server.lora.inside))
        if server.lora.host is not None:
            out["max-loaded-loras"] = server.lora.host
    if server.state_cache:
        out["mamba-ssm-dtype"] = state_word("sglang", server.state_cache, plan)
    if server.encodes:
        out["is-embedding"] = True
    if server.whole_images is not None:
        out["mm-enable-dp-encoder"] = server.whole_images
    if server.host_cache is not None:
        out |= _host_cache(server.host_cache)
    if server.role:
        out |= {"disaggregation-mode": server.role, "disaggregation-transfer-backend": connector}
    return out


def _host_cache(host: HostCache) -> Settings:
    """HiCache. Its size is in whole GB for each rank: `host_size * 1e9` in sglang/srt/mem_cache/pool_host/base.py."""
    out: Settings = {"enable-hierarchical-cache": True, "hicache-size": max(1, round(host.size / 1e9))}
    return out | ({"hicache-write-policy": WRITES[host.write]} if host.write else {})


def _check(server: Server, plan: PlanSpec) -> None:
    d = server.degrees
    if server.shift is not None:
        raise refuse(plan, ("tokens",), "SGLang has one sharding for all steps: it cannot shift between two",
                     "vLLM with Arctic Inference can: `--to vllm`")  # fmt: skip
    if d.sequence > 1:
        raise refuse(plan, ("tokens",), "SGLang has no sequence parallelism of tokens and heads (Ulysses)",
                     "`--to vllm`, or `tp` instead of `sp`")  # fmt: skip
    if d.context > 1:
        why = "SGLang splits a context inside its tensor parallel ranks, and `cp` adds ranks"
        raise refuse(plan, ("context",), why, "`--to vllm`, or `tp` instead of `cp`")
    group = d.tensor * d.attention
    if server.routed and d.experts * d.expert_tensor != group:
        why = f"SGLang lays experts over all {group} ranks of a stage: ep times the cuts of an expert must be {group}"
        hint = "split `experts` or `expert_ffn` over every axis of these ranks"
        raise refuse(plan, ("experts", "expert_ffn"), why, hint)


def _limits(server: Server) -> Settings:
    options = dict(server.options)
    rows: tuple[tuple[str, int | float | None], ...] = (
        ("context-length", server.max_context),
        ("max-running-requests", server.max_requests),
        ("max-prefill-tokens", server.step_tokens),
        ("chunked-prefill-size", server.chunk),
        ("mem-fraction-static", server.memory_fraction),
        ("page-size", server.kv_block),
    )
    out: Settings = {name: value for name, value in rows if value is not None}
    if options.get("mixed"):
        out["enable-mixed-chunk"] = True
    if server.prefix_cache is False:
        out["disable-radix-cache"] = True
    if options.get("ahead") is False:
        out["disable-overlap-schedule"] = True
    if (order := options.get("order")) == "priority":
        out["enable-priority-scheduling"] = True
    elif order is not None:
        out["schedule-policy"] = ORDERS[str(order)]
    return out | {theirs: options[ours] for ours, theirs in OPTIONS.items() if ours in options}


def _draft(draft: Draft) -> Settings:
    out: Settings = {"speculative-algorithm": {"model": "STANDALONE", "mtp": "NEXTN", "ngram": "NGRAM"}[draft.kind]}
    if draft.kind == "model":
        out["speculative-draft-model-path"] = draft.model
    if draft.kind != "ngram":
        out |= {"speculative-num-steps": draft.tokens, "speculative-eagle-topk": 1}
    return out | {"speculative-num-draft-tokens": draft.tokens + 1}


def read_sglang(r: Reading) -> Server:
    """The server that arguments of `sglang.launch_server` start."""
    routed, group = r.model.routed, r.whole("tp-size", 1)
    old = r.flag("enable-dp-attention")
    attention = r.whole("dp-size", 1) if old else r.whole("attn-dp-size", 1)
    copies, experts = 1 if old else r.whole("dp-size", 1), r.whole("ep-size", 1)
    for name, size in (("dp-size" if old else "attn-dp-size", attention), ("ep-size", experts)):
        if group % size:
            raise r.wrong(name, f"{size} does not divide tp-size = {group}", f"a divisor of {group}")
    if attention > 1 and not routed:
        raise r.wrong("dp-size" if old else "attn-dp-size",
                      f"a plan deals requests to ranks of a model with experts, and `{r.model.name}` has none",
                      "--dp-size for whole copies")  # fmt: skip
    if experts > 1 and not routed:
        r.fail("ep-size", f"`{r.model.name}` has no routed experts", "drop the flag")
    degrees = Degrees(
        tensor=group // attention,
        pipeline=r.whole("pp-size", 1),
        replicas=copies * r.copies,
        attention=attention,
        experts=experts if routed else 1,
        expert_tensor=group // experts if routed else 1,
        layers=r.partition("SGLANG_PP_LAYER_PARTITION"),
    )
    chunk = r.maybe_whole("chunked-prefill-size")
    return Server(
        r.model.name,
        degrees,
        role=r.role(r.word("disaggregation-mode")),
        weights=read_weights("sglang", r.word("quantization")) or r.stored(),
        kv_cache=read_cache("sglang", r.word("kv-cache-dtype") or "auto") or r.auto_cache(),
        activations=r.dtype() or r.model.activations,
        routed=routed,
        dense=r.dense,
        step_tokens=r.maybe_whole("max-prefill-tokens"),
        max_requests=r.maybe_whole("max-running-requests"),
        memory_fraction=r.share("mem-fraction-static"),
        max_context=r.maybe_whole("context-length") or r.model.max_context,
        chunk=chunk if chunk and chunk > 0 else None,
        prefix_cache=False if r.flag("disable-radix-cache") else None,
        kv_block=r.maybe_whole("page-size"),
        draft=_read_draft(r),
        lora=_read_lora(r),
        encodes=bool(r.flag("is-embedding")),
        state_cache=r.state("mamba-ssm-dtype") or r.own_state(),
        host_cache=_read_host(r),
        whole_images=r.whole_images("mm-enable-dp-encoder", r.flag("mm-enable-dp-encoder")),
        options=_read_options(r),
        gpus=r.gpus,
    )


def _read_lora(r: Reading) -> Lora | None:
    found = r.lora("max-loras-per-batch", "max-loaded-loras")
    return found and found._replace(targets=weights_of(r, "lora-target-modules"))


HOST_RATIO = 2.0
"""`--hicache-ratio` where neither it nor a size is given: `hicache_ratio` in sglang/srt/arg_groups/fields/memory.py."""


def _read_host(r: Reading) -> HostCache | None:
    if not r.flag("enable-hierarchical-cache"):
        return None
    word = r.word("hicache-write-policy")
    if word == "write_through_selective":
        why = "a plan has no cache whose blocks are copied only after several hits"
        raise r.wrong("hicache-write-policy", why, "write_through or write_back")
    write = "back" if word == WRITES["back"] else "through" if word else ""
    if size := r.positive("hicache-size"):
        return HostCache(size * 1e9, write=write)
    return HostCache(ratio=r.positive("hicache-ratio") or HOST_RATIO, write=write)


def _read_options(r: Reading) -> tuple[tuple[str, bool | int | float | str], ...]:
    out: list[tuple[str, bool | int | float | str]] = []
    if r.flag("enable-mixed-chunk"):
        out.append(("mixed", True))
    if r.flag("disable-overlap-schedule"):
        out.append(("ahead", False))
    if r.flag("enable-priority-scheduling"):
        out.append(("order", "priority"))
    elif policy := r.word("schedule-policy"):
        named = {theirs: ours for ours, theirs in ORDERS.items()}
        if policy not in named:
            raise r.wrong("schedule-policy", f"a plan has no order `{policy}`", "fcfs or lpm")
        out.append(("order", named[policy]))
    given = ((ours, r.any(theirs)) for ours, theirs in OPTIONS.items() if ours != "prefill_tokens")  # `step_tokens`
    return (*out, *((name, value) for name, value in given if value is not None))


def _read_draft(r: Reading) -> Draft | None:
    algorithm = r.word("speculative-algorithm")
    if not algorithm:
        return None
    tokens = r.whole("speculative-num-steps", r.whole("speculative-num-draft-tokens", 2) - 1)
    if tokens < 1:
        raise r.wrong("speculative-num-steps", "a draft guesses a token at least", "--speculative-num-steps 3")
    path = r.word("speculative-draft-model-path")
    match algorithm.upper():
        case "NGRAM":
            return Draft("ngram", tokens)
        case "STANDALONE":
            return Draft("model", tokens, path, r.whole("tp-size", 1))
        case "NEXTN" | "EAGLE" if not path:
            return Draft("mtp", tokens)
        case _:
            why = f"a plan has no guesses by `{algorithm}`"
            raise r.wrong("speculative-algorithm", why, "STANDALONE, NEXTN or NGRAM")
