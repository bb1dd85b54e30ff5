"""Words of reports about times, loads and memory."""

from __future__ import annotations

Entries = dict[str, tuple[str, tuple[str, ...], str]]

NUMBERS = "docs/language.md#what-the-numbers-mean"
TOLD = "docs/traffic.md#what-is-told"

TIMES: Entries = {
    "TTFT": (
        "Time to first token: from the arrival of a request to its first token. In closed form it is the time of "
        "the prefill of a full batch.",
        ("time to first token",),
        NUMBERS,
    ),
    "TPOT": (
        "Time per output token: the mean time between the tokens of a request after its first. In closed form it "
        "is the time of a decode step, over the tokens that a step brings.",
        ("time per output token",),
        NUMBERS,
    ),
    "ITL": (
        "Inter-token latency: each time between two tokens of a request, pooled over all requests. TPOT is the mean "
        "of one request.",
        ("inter-token latency",),
        TOLD,
    ),
    "latency": (
        "From the arrival of a request to its last token: TTFT + (output - 1) * TPOT. As a bound of an op it says "
        "that launches and messages take most of the time.",
        ("end-to-end latency", "e2e"),
        NUMBERS,
    ),
    "throughput": ("Output tokens per second of the whole plan, all replicas together.", ("tok/s",), NUMBERS),
    "per GPU": ("Throughput divided by the GPUs of the plan.", ("throughput_per_gpu",), NUMBERS),
    "goodput": ("Requests per second that keep every bound on their times (`require ttft <= ...`).", (), TOLD),
    "bearable": ("The largest rate of requests that a plan serves without a growing queue.", (), TOLD),
    "largest rate": (
        "The largest rate of requests, or number in flight, that meets every requirement.",
        ("rate", "at most"),
        "docs/traffic.md#the-largest-rate",
    ),
    "cost": (
        "US dollars per million output tokens: GPUs * price / throughput.",
        ("USD", "M tokens", "per M output", "in money", "an hour"),
        "docs/money.md#prices",
    ),
    "energy": (
        "Joules per output token: the average power of the plan over its throughput, by a law fitted to H100 and B200.",
        ("J", "kWh", "W", "power", "energy, token", "energy per token"),
        "docs/money.md#energy",
    ),
    "copies": (
        "Whole plans, each on its own GPUs, that serve the `demand` of a workload together.",
        ("copy", "fleet", "demand"),
        "docs/money.md#fleets",
    ),
    "prefill": ("The phase that computes the prompt of a request and its first token.", ("prompt",), NUMBERS),
    "decode": (
        "The phase that computes one token of each running request in a step, after the first.",
        ("decode step", "decode steps"),
        NUMBERS,
    ),
    "step": (
        "One pass of a server through the model: a token for each request that decodes, and parts of prompts.",
        ("steps",),
        "docs/cost.md#steps",
    ),
    "chunked prefill": (
        "A long prompt is computed in parts (chunks), in steps that also decode for other requests.",
        ("chunked", "chunk", "chunks"),
        "docs/cost.md#chunks-of-prompts",
    ),
    "waiting": (
        "The time that a first token waits: for room in the KV cache, for other prefills, at the start of a load.",
        ("wait",),
        NUMBERS,
    ),
    "prefill of others": (
        "Time that prefills of other requests add to a mean decode step. It is negative where steps "
        "mixed with prompts are shorter than full ones.",
        ("mixed", "prefills of others"),
        NUMBERS,
    ),
}

LOADS: Entries = {
    "load": (
        "What the plan serves: tokens in, tokens out, and how many requests at once.",
        ("workload",),
        "docs/language.md#workload",
    ),
    "input": ("Tokens of a prompt.", ("in", "isl", "prompt length"), "docs/language.md#workload"),
    "output": ("Tokens of an answer.", ("osl", "tokens", "token"), "docs/language.md#workload"),
    "batch": ("Requests that are computed together, on one replica.", (), "docs/language.md#workload"),
    "in flight": (
        "Batches, or requests, that are being served at the same time. Stages of a pipeline work on different "
        "batches in flight.",
        ("concurrency",),
        "docs/language.md#workload",
    ),
    "running": (
        "Requests that have room in the KV cache and get tokens; the others wait.",
        ("requests that run", "at once"),
        "docs/cost.md#requests-that-follow-one-another",
    ),
    "requests that wait": ("Requests that have arrived and have no room yet.", ("queue",), TOLD),
    "largest batch": (
        "The largest batch with which every stage fits in memory, on each replica.",
        ("max_batch",),
        NUMBERS,
    ),
    "replicas": (
        "Copies of the model that serve different requests: the size of `dp` without experts.",
        ("replica", "server", "servers"),
        "docs/traffic.md#several-servers",
    ),
    "requirements": (
        "`require` lines of a plan, and whether its numbers meet them. One that is missed gives exit status 1.",
        ("require", "met", "FAILED", "misses"),
        "docs/language.md#plan",
    ),
    "queue grows": (
        "Requests arrive faster than they are served, so that waiting times depend on how long one looks.",
        (),
        TOLD,
    ),
    "served": ("Requests that got all their tokens, of those that arrived.", ("requests",), TOLD),
    "found at admission": (
        "The share of prompt tokens whose KV cache is still on the GPU when a request is admitted.",
        ("prompt tokens", "cached", "hit rate"),
        "docs/traffic.md#kv-memory",
    ),
    "tier": (
        "Memory behind that of the GPU (of the host, of a disk) that keeps KV cache, from which it is loaded.",
        ("loaded from tier", "bytes of a GPU"),
        "docs/traffic.md#tiers-of-kv-memory",
    ),
    "adapter": (
        "A low-rank change of a model's weights (LoRA). Each request may name another; a GPU has slots for some.",
        ("LoRA", "adapters", "slots", "requests with adapters", "waited for one of"),
        "docs/traffic.md#adapters",
    ),
    "preemption": (
        "A running request loses its KV cache because there is no room for more tokens; it is computed anew later.",
        ("preemptions", "preempted"),
        "docs/traffic.md#schedulers",
    ),
    "scheduler": (
        "The part of an engine that decides which requests and how many tokens a step has.",
        ("engine",),
        "docs/traffic.md#schedulers",
    ),
    "seed": (
        "The number from which random arrivals and lengths are drawn. The same seed gives the same requests.",
        ("seeds",),
        "docs/traffic.md#several-seeds",
    ),
    "router": (
        "What gives each request to one of several servers: `round_robin`, `least_loaded`, `two_choices`, "
        "`prefix` or `adapter`.",
        ("round_robin", "least_loaded", "two_choices", "prefix"),
        "docs/traffic.md#several-servers",
    ),
    "by simulation": (
        "Requests are served one by one, step by step, as the scheduler of the engine would.",
        ("simulation", "simulated", "simulate"),
        "docs/traffic.md#how-it-works",
    ),
    "closed form": (
        "Formulas for requests that are all alike, without serving them one by one.",
        (),
        "docs/cost.md#requests-that-follow-one-another",
    ),
    "percentile": (
        "p95 is the value that 95 % of the requests stay at or below. `+-5 %` beside it is half the width of "
        "its 95 % interval.",
        ("p50", "p90", "p95", "p99", "interval", "peak", "mean", "median"),
        TOLD,
    ),
}

MEMORY: Entries = {
    "fits": (
        "Whether weights, KV cache, activations and buffers are within the memory of each GPU.",
        ("does not fit in memory",),
        NUMBERS,
    ),
    "memory per GPU": (
        "The memory in use on the fullest GPU, by part.",
        ("memory", "fullest stage", "fullest GPU", "fuller pool", "smallest"),
        "docs/cost.md#memory",
    ),
    "weights": ("A rank's part of every weight of its stage.", ("parameters",), NUMBERS),
    "KV cache": (
        "Keys and values of the tokens of running requests, kept so that they are not computed again.",
        ("KV", "blocks of KV cache", "blocks", "cache"),
        NUMBERS,
    ),
    "states": (
        "What layers with a state keep of running requests: the same bytes for each request, however long it is.",
        ("state", "of it states", "recurrent state"),
        "docs/cost.md#layers-with-a-state",
    ),
    "KV capacity": ("Tokens of KV cache that fit beside the rest of the memory, over all replicas.", (), NUMBERS),
    "activations": ("The largest set of values that exist at once in a step.", (), NUMBERS),
    "buffers": ("Memory of collectives: the largest result of one in a step.", (), NUMBERS),
    "free": ("Memory of a GPU that a plan leaves; `over by` is what it lacks.", ("over by",), NUMBERS),
    "longest request": (
        "The longest prompt with its answer that the KV cache of a started engine holds.",
        (),
        "docs/language.md#what-an-engine-starts-with",
    ),
    "starts with": (
        "The KV cache that an engine sets aside when it starts, by its own rule.",
        ("in theory", "enough by itself"),
        "docs/language.md#what-an-engine-starts-with",
    ),
}
