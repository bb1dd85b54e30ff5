"""Words of reports about where time goes, and how a plan is spread over GPUs."""

from __future__ import annotations

Entries = dict[str, tuple[str, tuple[str, ...], str]]

NUMBERS = "docs/language.md#what-the-numbers-mean"
EXPLAIN = "docs/language.md#explain"
COLLECTIVES = "docs/cost.md#collectives"
COMMUNICATION = "docs/language.md#communication"
POOLS = "docs/language.md#two-pools"

WORK: Entries = {
    "where the time goes": (
        "The ops of both phases, the longest first, with their share of the phase.",
        ("where the time goes, busiest stage", "share"),
        NUMBERS,
    ),
    "runs": ("How often a device runs an op in one pass.", ("calls", "count"), NUMBERS),
    "bound": (
        "What limits an op: `compute` (FLOP/s), `memory` (bandwidth), `link`, or `latency` (launches and messages).",
        ("bound by", "bottleneck"),
        EXPLAIN,
    ),
    "roofline": (
        "A chart of ops: the FLOP/s that each reaches, over its FLOP for each byte of memory. The lines are what "
        "the GPU's memory and arithmetic could give at most.",
        ("roof", "FLOP per byte", "arithmetic intensity"),
        "docs/report.md#what-it-shows",
    ),
    "compute": ("Time of kernels. As a bound: the op is limited by FLOP/s.", ("FLOP/s", "compute-bound"), NUMBERS),
    "HBM bandwidth": (
        "How fast a GPU reads and writes its own memory. An op with the bound `memory` is limited by it.",
        ("memory-bound", "bandwidth"),
        EXPLAIN,
    ),
    "communication": (
        "Time of collectives that no kernel hides, and of sends between stages.",
        ("communication, all stages", "comm_share"),
        COMMUNICATION,
    ),
    "exposed": (
        "The part of a collective that no kernel hides. What kernels hide is `overlapped`, and costs no time.",
        ("overlap", "overlapped", "hidden"),
        "docs/cost.md#timeline",
    ),
    "link": (
        "The wires between GPUs of a node. An op with this bound is limited by their bandwidth.",
        ("link bandwidth",),
        COLLECTIVES,
    ),
    "network": (
        "The ports between nodes. An op with this bound is limited by their bandwidth.",
        ("network bandwidth", "nodes"),
        "docs/cost.md#between-nodes",
    ),
    "message": ("The fixed time of each message of a collective.", ("message latency",), COLLECTIVES),
    "launch": (
        "The fixed time of starting a kernel, or of its shortest run.",
        ("kernel launches", "launches"),
        "docs/cost.md#ops",
    ),
    "index": (
        "The kernels of sparse attention that score all keys of a request, and pick those that each query attends to.",
        ("pick_keys", "indexer", "lightning indexer", "sparse attention", "top-k of keys", "DSA"),
        "docs/cost.md#sparse-attention",
    ),
    "recurrence": (
        "A layer that updates a state of each request: in a prompt a scan in chunks, in a decode step one update.",
        ("scan", "gated delta net", "Mamba", "linear attention", "lightning attention"),
        "docs/cost.md#layers-with-a-state",
    ),
    "short_conv": (
        "A causal convolution over the last few tokens of each channel, with the function after it.",
        ("short convolution", "convolution"),
        "docs/cost.md#layers-with-a-state",
    ),
    "unit": (
        "A part of a GPU that its other units wait for, such as special functions in attention.",
        ("bandwidth of a unit",),
        EXPLAIN,
    ),
    "ranks": (
        "Engine time that grows with the ranks of a replica.",
        ("engine times of further ranks",),
        "docs/cost.md#steps",
    ),
    "engine time": (
        "Time that the engine adds to a step: scheduling, sampling, the host.",
        ("engine times",),
        "docs/cost.md#steps",
    ),
    "bubble": (
        "The time that a stage of a pipeline waits for the slowest one.",
        ("waiting for a stage", "GPUs idle", "idle"),
        "docs/cost.md#timeline",
    ),
    "MFU": (
        "Model FLOPs utilisation: FLOPs that the unsharded model needs, over what the GPUs could do in the time.",
        ("model flops utilisation",),
        "docs/cost.md#utilisation",
    ),
    "MBU": (
        "Memory bandwidth utilisation: bytes that kernels move in memory, over what it could move in the time.",
        ("memory bandwidth utilisation", "MFU, MBU"),
        "docs/cost.md#utilisation",
    ),
    "total": ("The sum of the lines above.", ("total, all stages", "all"), NUMBERS),
    "time": ("Of all runs of an op, or of all calls of a kind, in one pass.", (), NUMBERS),
    "more": ("The smaller ops of a group, added up.", (), EXPLAIN),
    "fused": (
        "The op runs in the kernel of an op before it; the line has what it adds there.",
        (),
        "docs/cost.md#ops-in-one-kernel",
    ),
    "calibration": (
        "The constants of a GPU's kernels and links, fitted to measurements.",
        ("constants",),
        "docs/cost.md#calibrations",
    ),
    "layer": (
        "A layer of the model; in `by layer`, a layer of the cost model: measured tables, fitted forms, efficiencies.",
        ("layers", "by layer", "kernels and links by layer", "fitted", "efficiency", "efficiencies"),
        "docs/cost.md#layers",
    ),
    "1 % more of": (
        "How much each metric changes if a figure of the hardware, the engine or the load is 1 % larger. Two numbers: "
        "the slope below and the slope above.",
        ("sensitivity", "slope", "GPU memory, with the largest batch"),
        "docs/cost.md#slopes-and-bottlenecks",
    ),
    "draft": (
        "The small model that guesses tokens ahead.",
        ("guessed ahead", "speculate", "speculation", "TPOT without"),
        "docs/cost.md#guessed-tokens",
    ),
    "tower": (
        "The encoder of a model that turns the images of prompts into vectors.",
        ("images", "patches", "in TTFT"),
        "docs/cost.md#towers",
    ),
    "accepted": (
        "The share of guessed tokens that the model accepts; from `worth it` on, guessing is faster than not.",
        ("acceptance", "brings", "worth it"),
        "docs/cost.md#guessed-tokens",
    ),
    "attention": (
        "The kernel in which each token reads the KV cache of those before it.",
        ("latent_attention",),
        "docs/cost.md#ops",
    ),
    "gemm": (
        "A multiplication of activations by a matrix of weights.",
        ("GEMMs", "grouped_gemm", "head_gemm", "matmul", "head"),
        "docs/cost.md#ops",
    ),
    "norm": ("A kernel that normalises each token's vector.", ("norms", "add_norm"), "docs/cost.md#ops"),
    "elementwise": (
        "Kernels that touch each number once: activations, additions, rotary embeddings, conversions, the write of "
        "the KV cache.",
        (
            "element-wise",
            "embedding",
            "rope",
            "cache_write",
            "quantize",
            "concat",
            "merge",
            "scale",
            "top_k",
            "last_token",
            "residual",
        ),
        "docs/cost.md#ops",
    ),
    "experts": (
        "Parts of a layer of which each token uses a few (mixture of experts).",
        ("dispatch", "combine", "expert", "experts hit"),
        "docs/cost.md#experts",
    ),
}

SPREAD: Entries = {
    "rank": ("A GPU of the plan, with its place in the mesh.", (), "docs/language.md#sharding"),
    "mesh": (
        "The axes of a sharding and their sizes; the ranks are their product.",
        ("sharding",),
        "docs/language.md#sharding",
    ),
    "axis": (
        "A direction of the mesh along which something is split: tensor, stage, data, sequence, context, experts.",
        ("along", "axes"),
        "docs/language.md#sharding",
    ),
    "tensor parallelism": (
        "Each layer is split over the ranks of the axis `tensor`, which exchange sums.",
        ("tp", "tensor"),
        "docs/language.md#sharding",
    ),
    "stage": (
        "Neighbouring layers on their own GPUs: the stages form a pipeline.",
        ("stages", "pp", "pipeline parallelism", "busiest stage", "all stages"),
        "docs/language.md#stages",
    ),
    "data parallelism": (
        "The ranks of the axis `data` serve different requests.",
        ("dp", "data"),
        "docs/language.md#sharding",
    ),
    "sequence parallelism": (
        "Norms and activations are split by tokens along the axis `seq`.",
        ("sp", "seq", "sequence"),
        "docs/language.md#sharding",
    ),
    "context parallelism": (
        "The tokens of one prompt and its KV cache are split along the axis `context`.",
        ("cp", "context"),
        "docs/cost.md#keys-split-by-context",
    ),
    "expert parallelism": (
        "The experts of a layer are dealt to the ranks of an axis; tokens travel to theirs.",
        ("ep",),
        "docs/cost.md#experts",
    ),
    "collective": (
        "A call in which all ranks of an axis exchange data.",
        ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "rescale", "ring", "send", "collectives"),
        COLLECTIVES,
    ),
    "by": (
        "The algorithm or library of a collective, such as `nccl`, `vllm`, `ring`, `direct`.",
        ("algorithm", "nccl", "vllm", "sglang", "trtllm", "direct", "one_shot", "tree", "layerwise", "deepep"),
        COLLECTIVES,
    ),
    "payload": ("The bytes of the buffers of a call, as nccl-tests counts them.", (), COMMUNICATION),
    "sends": ("The bytes that leave a rank.", ("wire",), COMMUNICATION),
    "per request": ("What one request sends in all, prompt and answer.", (), COMMUNICATION),
    "pools": (
        "Separate GPUs for prefill and for decode, between which the KV cache travels.",
        ("pool", "limits"),
        POOLS,
    ),
    "transfer": (
        "The KV cache of a request on its way from the prefill pool to the decode pool.",
        ("kv_transfer", "transfer bandwidth", "port"),
        POOLS,
    ),
    "sustains": ("Requests per second that a pool, or the transfer, can serve at most.", (), POOLS),
    "shift": (
        "Two shardings of the same weights: `base` for large steps, `tensor` for small ones.",
        ("base", "threshold", "larger steps"),
        "docs/language.md#two-shardings",
    ),
}
