"""Every diagnostic code, with the line and the example that `planc explain CODE` prints.

`E1xx` syntax, `E2xx` names, types and sizes, `E3xx` sharding and collectives, `E4xx` commands and files;
`W...` warnings, `N...` notes. A test asks each error that a plan can cause for an example that causes it.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.codes_hf import HF_CODES
from plandsl.codes_names import NAME_CODES
from plandsl.codes_render import RENDER_CODES
from plandsl.codes_syntax import SYNTAX_CODES


class Code(NamedTuple):
    """What a code means, a plan that shows it, and what to do."""

    title: str
    text: str
    example: str = ""
    fix: str = ""


_PLAN = """plan p {{
  model = llama_3_1_8b
  node = {node}
  sharding {{ {sharding} }}
  workload {{ input = 1024, output = 128 }}
}}
"""


def _plan(sharding: str, node: str = "h100_8") -> str:
    return _PLAN.format(node=node, sharding=sharding)


_POOLS = """plan p {
  model = llama_3_1_8b
  workload { input = 1024, output = 128 }
  POOLS
}
"""
_PAIR = "prefill { node = h100_8 }\n  transfer { bandwidth = 50 GB/s, latency = 10 us }\n"

SHARDING_CODES: dict[str, tuple[str, str, str, str]] = {
    "E301": (
        "a dimension cannot be split by this degree",
        "Every shard of a dimension has the same size, so its size must divide by the number of shards. Exempt are "
        "layers (stages may differ by one), tokens, batch and context (padded), and kv_heads (replicated when there "
        "are fewer of them than shards and they divide the shards).",
        _plan("tp = 3"),
        "take one of the degrees that the hint names, or split the dimension over another axis.",
    ),
    "E302": (
        "more ranks than GPUs",
        "The product of all mesh axes is the number of GPUs that a plan uses. The node, or the cluster, has fewer.",
        _plan("tp = 8, pp = 2"),
        "lower a degree, or take a larger node.",
    ),
    "E303": (
        "more stages than layers",
        "Each pipeline stage runs at least one layer.",
        "model m = llama_3_1_8b with { layers = 4 }\n\n"
        + _plan("pp = 8").replace("model = llama_3_1_8b", "model = m with { block x[tokens, hidden] { x = x } }"),
        "use as many stages as there are layers, or fewer.",
    ),
    "E304": (
        "the GPU lists no peak for a dtype",
        "GEMMs multiply in the model's `compute` dtype (by default that of its weights where the GPU lists a peak for "
        "it, else that of its activations), and attention in that of its activations. Without a peak there is no "
        "estimate.",
        _plan("tp = 8").replace("llama_3_1_8b", "llama_3_1_8b with { compute = fp6 }"),
        "choose a dtype that the GPU lists (`planc catalog gpu NAME` shows them).",
    ),
    "E306": (
        "too many ranks",
        "The product of all mesh axes is bounded, so that a typing mistake does not take the machine down.",
        _plan("tp = 1_000_000_000_000"),
        "check the degrees.",
    ),
    "E307": (
        "a sum over replicated heads",
        "With fewer `kv_heads` than shards each is held by several ranks. A product that sums over `kv_heads` would "
        "count the copies as well.",
        "model m {\n  layers = 2, hidden = 64, kv_heads = 2, head_dim = 16, vocab = 128, weights = bf16\n"
        "  embedding w_embed[vocab, hidden]\n  block x[tokens, hidden] {\n"
        "    x = x + (x @ w_in[hidden, kv_heads, head_dim]) @ w_out[kv_heads, head_dim, hidden]\n  }\n"
        "  head x @ w_head[hidden, vocab]\n}\n\n" + _plan("tp = 4").replace("model = llama_3_1_8b", "model = m"),
        "split `kv_heads` at most as many ways as there are heads.",
    ),
    "E308": (
        "an axis that cannot be shared",
        "Along an axis that cuts the layers each rank runs other layers, and along the axis of `dp` it serves other "
        "requests: nothing else can be split over either.",
        _plan("pp = 2, mesh seq = 2\n    tokens -> stage, seq"),
        "give the other dimension an axis of its own (`mesh data = 2` without `dp` is an axis like any other).",
    ),
    "E309": (
        "a cost without a price",
        "The cost of a million tokens follows from the price of the GPU, which nobody stated.",
        _plan("tp = 8").rstrip().removesuffix("}") + "  require cost <= 2 USD\n}\n",
        "state a price: `node = h100_8 with { gpu { price = 2 USD/h } }`.",
    ),
    "W301": (
        "an axis that nothing lies on",
        "A rule names the axis, but no tensor of this model has the dimension, or not in that region.",
        _plan("mesh t = 4\n    in embedding { ffn -> t }"),
        "name a dimension that the model has.",
    ),
    "N304": (
        "weights that are whole on every rank",
        "Other weights are split over the axis and these are not, so every rank holds and multiplies all of them. "
        "The sugar `tp` knows heads, kv_heads, ffn, expert_ffn and vocab by name.",
        _plan("mesh t = 4\n    heads, kv_heads -> t"),
        "name their dimension in a rule.",
    ),
    "N301": (
        "some GPUs stay idle",
        "The plan uses fewer GPUs than the node, or the cluster, has.",
        _plan("tp = 4"),
        "nothing, if that is meant; else raise a degree, or add `dp` for more replicas.",
    ),
    "N302": (
        "KV heads are replicated",
        "There are fewer KV heads than shards: each is held by several ranks, which costs memory.",
        _plan("tp = 16", "big").replace("plan p", "node big = h100_8 with { count = 16 }\n\nplan p"),
        "nothing; a smaller degree for attention saves the memory.",
    ),
    "N303": (
        "stages of unlike length",
        "The layers do not divide by the stages: some stages run one more, and the longest sets the pace.",
        _plan("pp = 3"),
        "nothing, or a number of stages that divides the layers.",
    ),
    "N305": (
        "how tokens fall on experts",
        "Routing decides how many tokens the experts of each rank get, and the fullest rank sets the pace. The "
        "estimate takes them to get equally many, unless `experts(...)` says otherwise with `imbalance`.",
        _plan("ep = 8").replace("llama_3_1_8b", "mixtral_8x7b"),
        "nothing, or `imbalance = 1.2` if the fullest rank is known to get that many times the mean.",
    ),
    "N323": (
        "what the cache holds of chunks",
        "With `chunk = n` no query sees keys of a chunk that is over, so that an engine may give their memory back, as "
        "vLLM does for chunked local attention in its hybrid KV cache. Estimates take it to do so.",
        _plan("tp = 8").replace("llama_3_1_8b", "llama_4_scout"),
        "nothing, or leave `chunk` out to see what a cache of all keys takes.",
    ),
    "E310": (
        "an axis placed in a node leaves it",
        "`place AXES in node` makes the axes the innermost of the mesh and asks that no group of ranks along them "
        "spans two nodes. Ranks count node by node, so their sizes together must divide the GPUs of a node.",
        _plan("tp = 16, place tensor in node").replace("node = h100_8", "cluster = h100_8x4"),
        "place fewer axes, or take a size that the hint names.",
    ),
    "E311": (
        "two shardings that lay the KV cache out differently",
        "With `shift` one sharding writes the KV cache of a request and the other reads it, so each rank must keep the "
        "same part of it in both: the same heads, requests, positions, layers and replicas. Ranks count row-major over "
        "the mesh, so that the order of its axes matters: `sp = 4, tp = 2` gives rank (s, t) the heads of block "
        "t * 4 + s, and `tp = 8` those of block s * 2 + t.",
        _plan("sp = 4, tp = 2").rstrip().removesuffix("}") + "  shift { tensor { tp = 8 }, threshold = 256 }\n}\n",
        "give the second sharding the mesh of the first, and its cached dimensions the axes that they have there.",
    ),
    "E312": (
        "a cut that does not deal out the layers",
        "`cut = [48, 32]` says how many layers each stage of a pipeline gets, first to last: as many numbers as "
        "there are stages, which add up to the layers of the model. With `shift`, both shardings cut alike.",
        _plan("pp = 2, cut = [20, 20]"),
        "correct the numbers, or let the compiler choose: `cut = balanced`.",
    ),
    "N310": (
        "an axis crosses nodes",
        "Ranks count node by node, the last axis first. What groups of this axis exchange passes the network between "
        "nodes, which is slower than the links of a node.",
        _plan("pp = 4, tp = 8").replace("node = h100_8", "cluster = h100_8x4"),
        "nothing, if that is meant; `place AXIS in node` keeps another axis inside.",
    ),
    "N312": (
        "a format that only some of unlike GPUs multiply in",
        "Every rank runs the same program, so GEMMs multiply in what all GPUs list a peak for.",
        "node old_and_new {\n  gpus = [1 * a100_sxm, 1 * h100_sxm]\n"
        "  link { topology = switch, bandwidth = 300 GB/s, latency = 2 us }\n}\n\n"
        + _plan("tp = 2", "old_and_new").replace("llama_3_1_8b", "llama_3_1_8b with { weights = fp8 }"),
        "nothing; `compute = bf16` in the model says that it is meant.",
    ),
    "N313": (
        "how the layers were cut",
        "`cut = balanced` gives each stage as many layers as make the slowest stage quickest, head and embedding "
        "counted, over a prefill and all decode steps of a request. A cut that fits is preferred to one that does not.",
        _plan("pp = 2, tp = 2, cut = balanced"),
        "nothing; `cut = [17, 15]` would fix another one.",
    ),
    "N314": (
        "a setting that changes nothing",
        "The plan asks for communication and computation side by side where the program has nothing to run so: every "
        "op waits for the collective before it, no GEMM stands beside a collective, or there is one stage only.",
        _plan("tp = 8").replace("sharding", "overlap = collectives, sharding"),
        "nothing, if that is meant; else drop the setting.",
    ),
    "N322": (
        "what is taken for granted of tokens guessed ahead",
        "Each guess is taken to be right with the chance that `acceptance` gives it where those before it were, "
        "whatever the text and the load. Where no model drafts, guessing is taken to cost nothing.",
        _plan("tp = 2").replace("workload", "speculate { tokens = 3, acceptance = 60 % }\n  workload"),
        "nothing; measure the acceptance on your own texts, and compare it with the one that makes guesses worth it.",
    ),
    "E315": (
        "more micro-batches than requests",
        "`micro_batches = m` cuts the prefill of a batch by requests into m parts that follow one another through the "
        "stages, so that there is a request for each.",
        _plan("pp = 4").replace("output = 128 }", "output = 128, batch = 4 }\n  micro_batches = 8"),
        "lower `micro_batches`, or raise `batch`.",
    ),
    "E320": (
        "prompts that cannot be computed in parts",
        "Where a prompt is computed in parts (`reuse`, `chunked_prefill`), a part attends to what the cache holds of "
        "those before it. Attention that is not causal sees the parts after it as well, which nobody has computed.",
        _plan("tp = 8")
        .replace("llama_3_1_8b", "llama_3_1_8b with { causal = false }")
        .replace("output = 128", "output = 128, reuse = 50 %"),
        "compute prompts whole.",
    ),
    "E321": (
        "nodes of a cluster that two pools cannot share",
        "Where both pools lie in the plan's cluster, each says how many of its nodes it has with `nodes`, and they are "
        "no more than there are. KV cache then takes the network between them.",
        _POOLS.replace("POOLS", "cluster = h100_8x4\n  prefill { nodes = 2 }\n  decode { nodes = 3 }"),
        "lower one of them, or take a larger cluster.",
    ),
    "E322": (
        "pools that cannot go on with one another's work",
        "One pool computes prompts and the other one goes on with their KV cache, so both have one model, one "
        "`kv_cache` format, requests of one kind, and one model that drafts, whose KV cache goes along. What weights "
        "are stored in and multiply in may differ.",
        _POOLS.replace("POOLS", _PAIR + "  decode { node = h200_8, model = llama_3_1_70b }"),
        "say it outside the pools, for both.",
    ),
    "E324": (
        "steps without room for a prompt",
        "With `chunked_prefill` a step has one token for each running request, and a chunk of a prompt with the rest "
        "of its budget, which must be there.",
        _plan("tp = 8").replace("output = 128 }", "output = 128, batch = 64 }\n  chunked_prefill = 32"),
        "raise `chunked_prefill`, lower `batch`, or leave it out.",
    ),
    "N320": (
        "whose KV cache is reused",
        "Reused tokens lie in blocks of their request alone (as those of earlier turns do), or in blocks that all "
        "requests share (as those of a system prompt do), which takes memory once. Where the workload does not say, "
        "each request is taken to hold its own.",
        _plan("tp = 8").replace("output = 128", "output = 128, reuse = 50 %"),
        "nothing, or `prefix = shared`; `prefix = own` says that it is meant.",
    ),
    "E390": (
        "an operation of the compiled program is illegal",
        "The compiler checks its own program after every pass. This finding means a bug in plandsl.",
        "",
        "please report it with the plan and the output of `planc compile --dump`.",
    ),
    "E391": (
        "the compiled program is inconsistent",
        "The compiler checks its own program after every pass. This finding means a bug in plandsl.",
        "",
        "please report it with the plan and the output of `planc compile --dump`.",
    ),
}

COMMAND_CODES: dict[str, tuple[str, str, str, str]] = {
    "E400": (
        "wrong arguments",
        "The command line could not be understood.",
        "",
        "`planc COMMAND --help` lists them.",
    ),
    "E401": (
        "no plan to compile, or no search to run",
        "`planc compile` estimates the plans of a file, `planc search` runs its searches, and this file declares none.",
        "workload w { input = 1024, output = 128 }\n",
        "add a `plan NAME { ... }` or a `search NAME { ... }`, or use `planc check` for a file of parts.",
    ),
    "E402": (
        "not supported yet",
        "The language has a place for this; the compiler has not come to it.",
        "",
        "",
    ),
    "E403": (
        "several plans or searches, and one is wanted",
        "A picture shows one plan. A file takes the rows or the best plan of one search; a picture takes several "
        "searches where they go through the same configurations.",
        "",
        "pick one with `--plan NAME`, or with `--search NAME`.",
    ),
    "E404": ("no such pass", "`--dump` takes the name of a pass.", "", "`planc passes` lists them."),
    "E405": (
        "a file cannot be written",
        "The folder does not exist or may not be written to, the name is that of a folder, or the disk is full. A file "
        "is written beside its place and then renamed, so one that was there before is still whole.",
        "",
        "check the folder and its permissions.",
    ),
    "E406": ("not in the catalog", "The catalog has no such kind or entry.", "", "`planc catalog` lists it."),
    "E408": (
        "too many plans at once",
        "At most 200 plans of one file are compiled in one run.",
        "",
        "pick one with `--plan NAME`, or split the file.",
    ),
    "E409": (
        "a search of too many plans",
        "Plans that differ by more than their load are compiled one by one, at most 20,000 of them in one search.",
        "",
        "vary fewer fields, take fewer values, or add a `where`; loads may vary as they like: they are arrays.",
    ),
    "E410": (
        "Parquet needs a library",
        "`planc search --rows OUT.parquet` writes with pyarrow, which plandsl does not bring.",
        "",
        "`pip install 'plandsl[parquet]'`, or write a `.csv`.",
    ),
    "E411": (
        "a picture of a search needs a library",
        "`planc search --plot OUT` draws with matplotlib, which plandsl does not bring.",
        "",
        "`pip install 'plandsl[plot]'`, or write the rows with `--rows` and draw them elsewhere.",
    ),
    "E412": (
        "a search cannot be spread",
        "`planc search --scheduler ADDRESS` spreads the work over a Dask cluster: the library must be there, the "
        "scheduler must answer, and its workers must have the same version of plandsl and stay alive.",
        "",
        "`pip install 'plandsl[distributed]'`; `--scheduler local:4` starts four workers here; without "
        "`--scheduler` the search runs in this process, with the same answer.",
    ),
    "E440": (
        "too many ranks to run",
        "`planc verify` runs every rank in turn in one process, up to 64 of them (replicas count twice at most).",
        "",
        "verify the same sharding with smaller degrees.",
    ),
    "E450": (
        "measurements that cannot be read",
        "Calibration, evaluation and `measured` read CSV files with the columns that docs/calibration.md lists, of at "
        "most 16,777,216 bytes each. Every number in them lies in the range of its column: a time is above zero, a "
        "size is 1 or more, and nothing is infinite.",
        "",
        "correct the file; the message names the row and the column, and the hint the range.",
    ),
    "E451": (
        "fitting constants needs a library",
        "`planc calibrate` fits with scipy, which plandsl does not bring.",
        "",
        "`pip install 'plandsl[fit]'`.",
    ),
    "E413": (
        "which plans to compare is not said",
        "`planc diff` compares two plans. A file that has several stands for none of them, unless it has two and is "
        "the only one that is given.",
        "",
        "write `FILE:PLAN`, or `--plan NAME` for the plan of that name in both files.",
    ),
    "E407": ("no such code", "`planc explain` takes the code of a diagnostic.", "", "codes look like E301."),
}

CODES: dict[str, Code] = {
    name: Code(*parts)
    for table in (SYNTAX_CODES, NAME_CODES, HF_CODES, SHARDING_CODES, COMMAND_CODES, RENDER_CODES)
    for name, parts in table.items()
}
"""Code -> explanation, for every code that plandsl can print."""
