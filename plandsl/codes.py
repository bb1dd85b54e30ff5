"""Every diagnostic code, with the line and the example that `planc explain CODE` prints.

`E1xx` syntax, `E2xx` names, types and sizes, `E3xx` sharding and collectives, `E4xx` commands and files;
`W...` warnings, `N...` notes. A test asks each error that a plan can cause for an example that causes it.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.codes_compare import COMPARE_CODES
from plandsl.codes_earlier import EARLIER_CODES
from plandsl.codes_editing import EDITING_CODES
from plandsl.codes_export import EXPORT_CODES
from plandsl.codes_headers import HEADER_CODES
from plandsl.codes_hf import HF_CODES
from plandsl.codes_index import INDEX_CODES
from plandsl.codes_limits import LIMIT_CODES
from plandsl.codes_measure import MEASURE_CODES
from plandsl.codes_models import MODEL_CODES
from plandsl.codes_money import MONEY_CODES
from plandsl.codes_names import NAME_CODES
from plandsl.codes_python import PYTHON_CODES
from plandsl.codes_render import RENDER_CODES
from plandsl.codes_report import REPORT_CODES
from plandsl.codes_serve import SERVE_CODES
from plandsl.codes_states import STATE_CODES
from plandsl.codes_syntax import SYNTAX_CODES
from plandsl.codes_towers import TOWER_CODES
from plandsl.codes_traces import TRACE_CODES
from plandsl.codes_version import VERSION_CODES


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
        "A plan uses one GPU for each rank: the product of all mesh axes. The node or cluster has fewer GPUs.",
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
        "GEMMs multiply in the model's `compute` dtype. Its default is the dtype of the weights if the GPU lists a "
        "peak for it, else the dtype of the activations. Attention multiplies in the dtype of the activations. Without "
        "a peak there is no estimate.",
        _plan("tp = 8").replace("llama_3_1_8b", "llama_3_1_8b with { compute = fp6 }"),
        "choose a dtype that the GPU lists (`planc catalog gpu NAME` shows them).",
    ),
    "E306": (
        "too many ranks",
        "The product of all mesh axes is limited, so that a typing mistake does not exhaust the computer's memory.",
        _plan("tp = 1_000_000_000_000"),
        "check the degrees.",
    ),
    "E307": (
        "a sum over replicated heads",
        "If there are fewer `kv_heads` than shards, several ranks hold a copy of the same head. A product that sums "
        "over `kv_heads` would count each copy.",
        "model m {\n  layers = 2, hidden = 64, kv_heads = 2, head_dim = 16, vocab = 128, weights = bf16\n"
        "  embedding w_embed[vocab, hidden]\n  block x[tokens, hidden] {\n"
        "    x = x + (x @ w_in[hidden, kv_heads, head_dim]) @ w_out[kv_heads, head_dim, hidden]\n  }\n"
        "  head x @ w_head[hidden, vocab]\n}\n\n" + _plan("tp = 4").replace("model = llama_3_1_8b", "model = m"),
        "split `kv_heads` over at most as many ranks as there are KV heads.",
    ),
    "E308": (
        "no other dimension can use this axis",
        "The ranks along an axis that splits `layers` run different layers, and the ranks along the axis of `dp` serve "
        "different requests. No other dimension can be split over such an axis.",
        _plan("pp = 2, mesh seq = 2\n    tokens -> stage, seq"),
        "give the other dimension an axis of its own (`mesh data = 2` without `dp` is an axis like any other).",
    ),
    "E309": (
        "the GPU has no price",
        "Money is computed from the price of the GPU, and neither the plan nor the catalog gives one, or none by the "
        "plan's `pricing`.",
        _plan("tp = 8", "h20_8").rstrip().removesuffix("}") + "  require cost <= 2 USD\n}\n",
        "state a price: `node = h20_8 with { gpu { price = 2 USD/h } }`; `price_reserved` with `pricing = reserved`.",
    ),
    "W301": (
        "an axis splits nothing",
        "A rule names the axis, but no tensor of this model, or of that region, has the dimension of the rule. All "
        "ranks of the axis do the same work.",
        _plan("mesh t = 4\n    in embedding { ffn -> t }"),
        "name a dimension that the model has.",
    ),
    "N304": (
        "every rank holds some weights in full",
        "The axis splits other weights, but not these, so every rank holds them in full and multiplies by them in "
        "full. `tp` splits the dimensions called heads, kv_heads, state_heads, state_groups, ffn, expert_ffn and "
        "vocab.",
        _plan("mesh t = 4\n    heads, kv_heads -> t"),
        "name a dimension of these weights in a rule.",
    ),
    "N301": (
        "some GPUs stay idle",
        "The plan uses fewer GPUs than the node or cluster has.",
        _plan("tp = 4"),
        "nothing, if this is intended; else raise a degree, or add `dp` for more replicas.",
    ),
    "N302": (
        "KV heads are replicated",
        "There are fewer KV heads than shards, so several ranks hold the same KV head, which costs memory.",
        _plan("tp = 16", "big").replace("plan p", "node big = h100_8 with { count = 16 }\n\nplan p"),
        "nothing; a smaller degree for attention saves the memory.",
    ),
    "N468": (
        "fewer requests than ranks for them",
        "Each replica (`dp`), and each rank of an axis that splits the batch (`ep`, `batch -> axis`), serves requests "
        "of its own. Where there are fewer requests than such ranks, some have none: they idle, or run steps that "
        "bring nothing.",
        _plan("dp = 8").replace("output = 128", "output = 128, concurrency = 4"),
        "serve more requests, or take a smaller degree.",
    ),
    "N469": (
        "an engine that was fitted on GPUs of another vendor",
        "The times that an engine adds, and how it runs collectives, were fitted to servers on GPUs of one vendor. On "
        "those of another it runs other kernels, so its times are a guess, wider than its bands say.",
        _plan("tp = 8", "mi300x_8").replace("workload", "engine = vllm\n  workload"),
        "take an engine with rows of this vendor, such as `vllm_rocm` or `atom` on AMD; `planc catalog engine vllm` "
        "lists the GPUs of its rows.",
    ),
    "N303": (
        "stages with different numbers of layers",
        "The number of stages does not divide the number of layers. Some stages run one layer more, and the stage with "
        "the most layers sets the pace.",
        _plan("pp = 3"),
        "nothing, or a number of stages that divides the layers.",
    ),
    "N305": (
        "experts are assumed to get equally many tokens",
        "Routing decides how many tokens go to the experts of each rank, and the rank with the most tokens sets the "
        "pace. The estimate assumes equally many tokens on all ranks, unless `experts(...)` has an `imbalance`.",
        _plan("ep = 8").replace("llama_3_1_8b", "mixtral_8x7b"),
        "nothing, or `imbalance = 1.2` if the fullest rank is known to get 1.2 times the mean.",
    ),
    "N323": (
        "the cache is assumed to hold one chunk of keys",
        "With `chunk = n` no later query sees the keys of a finished chunk, so an engine may free their memory, as "
        "vLLM does for chunked local attention in its hybrid KV cache. Estimates assume that the engine does.",
        _plan("tp = 8").replace("llama_3_1_8b", "llama_4_scout"),
        "nothing, or leave `chunk` out to see the size of a cache of all keys.",
    ),
    "E310": (
        "an axis placed in a node spans several nodes",
        "`place AXES in node` makes AXES the innermost axes of the mesh, and no group of ranks along them may span two "
        "nodes. Ranks are numbered node by node, so the product of their sizes must divide the GPUs of a node.",
        _plan("tp = 16, place tensor in node").replace("node = h100_8", "cluster = h100_8x4"),
        "place fewer axes, or choose a size that the hint names.",
    ),
    "E311": (
        "the two shardings of `shift` lay the KV cache out differently",
        "With `shift` one sharding writes the KV cache of a request and the other reads it. Each rank must hold the "
        "same part of the cache in both: the same heads, requests, positions, layers and replicas. Ranks are numbered "
        "row-major over the mesh, so the order of its axes matters: with `sp = 4, tp = 2` rank (s, t) holds the heads "
        "of block t * 4 + s, and with `tp = 8` the heads of block s * 2 + t.",
        _plan("sp = 4, tp = 2").rstrip().removesuffix("}") + "  shift { tensor { tp = 8 }, threshold = 256 }\n}\n",
        "give both shardings the same mesh, and split the cached dimensions over the same axes in both.",
    ),
    "E312": (
        "invalid cut",
        "`cut = [48, 32]` gives the number of layers of each pipeline stage, first to last. There must be one number "
        "for each stage, and the numbers must add up to the layers of the model. With `shift`, both shardings must "
        "have the same cut.",
        _plan("pp = 2, cut = [20, 20]"),
        "correct the numbers, or let the compiler choose: `cut = balanced`.",
    ),
    "N310": (
        "an axis crosses nodes",
        "Ranks are numbered node by node, and the last axis varies fastest. Groups of ranks along this axis span "
        "several nodes, so they exchange data over the network between nodes, which is slower than the links of a "
        "node.",
        _plan("pp = 4, tp = 8").replace("node = h100_8", "cluster = h100_8x4"),
        "nothing, if this is intended; `place AXIS in node` keeps another axis inside a node.",
    ),
    "N312": (
        "only some of the GPUs multiply in this format",
        "Every rank runs the same program, so GEMMs multiply in a format for which all GPUs list a peak.",
        "node old_and_new {\n  gpus = [1 * a100_sxm, 1 * h100_sxm]\n"
        "  link { topology = switch, bandwidth = 300 GB/s, latency = 2 us }\n}\n\n"
        + _plan("tp = 2", "old_and_new").replace("llama_3_1_8b", "llama_3_1_8b with { weights = fp8 }"),
        "nothing; `compute = bf16` in the model states this choice and silences the note.",
    ),
    "N313": (
        "the cut that the compiler chose",
        "`cut = balanced` chooses the layers of each stage that minimise the time of the slowest stage, head and "
        "embedding included, over a prefill and all decode steps of a request. A cut that fits into memory is "
        "preferred to one that does not.",
        _plan("pp = 2, tp = 2, cut = balanced"),
        "nothing; `cut = [17, 15]` fixes another cut.",
    ),
    "N314": (
        "a setting has no effect",
        "The plan asks for overlap of communication and computation, but the program has nothing to overlap: every op "
        "waits for the collective before it, no GEMM is next to a collective, or there is only one stage.",
        _plan("tp = 8").replace("sharding", "overlap = collectives, sharding"),
        "nothing, if this is intended; else drop the setting.",
    ),
    "N315": (
        "a power limit lowers the clock",
        "The GPU may draw less than its board: `power` is below `power_max`, or below the `power` of the gpu that it "
        "was made from. The clock of its units falls, and kernels that calculate take longer; the clock of the memory "
        "stays. The bands do not contain the error of the law. Rows of measured tables count as measured under the "
        "limit.",
        _plan("tp = 8", "h100_8 with { gpu { power = 450 W } }"),
        "nothing; measured tables of the limited GPU take precedence over the law.",
    ),
    "N322": (
        "assumptions about speculative decoding",
        "`acceptance` is the share of guesses that are right if all guesses before them are. The estimate uses it for "
        "every text and load. Without a draft model, a guess is assumed to cost nothing.",
        _plan("tp = 2").replace("workload", "speculate { tokens = 3, acceptance = 60 % }\n  workload"),
        "nothing; measure the acceptance on your own texts, and compare it with the least acceptance that is worth it, "
        "which the report gives.",
    ),
    "E315": (
        "more micro-batches than requests",
        "`micro_batches = m` divides the requests of a prefill batch into m parts, which run through the stages one "
        "after another. Each part needs at least one request.",
        _plan("pp = 4").replace("output = 128 }", "output = 128, batch = 4 }\n  micro_batches = 8"),
        "lower `micro_batches`, or raise `batch`.",
    ),
    "E320": (
        "prompts of this model cannot be computed in parts",
        "If a prompt is computed in parts (`reuse`, `chunked_prefill`), each part attends to the keys of earlier "
        "parts, which are in the cache. Attention that is not causal also needs the keys of later parts, which are not "
        "computed yet.",
        _plan("tp = 8")
        .replace("llama_3_1_8b", "llama_3_1_8b with { causal = false }")
        .replace("output = 128", "output = 128, reuse = 50 %"),
        "compute prompts whole.",
    ),
    "E321": (
        "invalid division of a cluster into two pools",
        "If both pools are parts of the plan's cluster, each pool gives its number of nodes with `nodes`, and the sum "
        "is at most the nodes of the cluster. The KV cache is then sent over the network of the cluster.",
        _POOLS.replace("POOLS", "cluster = h100_8x4\n  prefill { nodes = 2 }\n  decode { nodes = 3 }"),
        "lower `nodes` of one pool, or choose a larger cluster.",
    ),
    "E322": (
        "prefill and decode pools must serve the same model",
        "The prefill pool computes prompts, and the decode pool continues with their KV cache. Both pools must have "
        "the same model, the same formats of the KV cache and of states, the same requests, and the same draft model, "
        "whose KV cache is sent along. The `weights` and `compute` formats may differ.",
        _POOLS.replace("POOLS", _PAIR + "  decode { node = h200_8, model = llama_3_1_70b }"),
        "give the field once, outside the pools, for both.",
    ),
    "E324": (
        "steps without room for a prompt",
        "With `chunked_prefill = n` a step has n tokens: one for each running request, and the rest for a chunk of a "
        "prompt. At least one token must be left for the prompt. An engine that runs prompts in steps of their own "
        "(SGLang without `mixed`) needs no such room.",
        _plan("tp = 8").replace("output = 128 }", "output = 128, batch = 64 }\n  chunked_prefill = 32"),
        "raise `chunked_prefill`, lower `batch`, or leave it out.",
    ),
    "E328": (
        "no room for a KV cache",
        "The weights, and the largest step, leave no block of KV cache on some GPU. A server that holds no request "
        "serves none.",
        "",
        "use more GPUs for each replica, or weights in fewer bits.",
    ),
    "E329": (
        "no largest rate",
        "`planc simulate --find-rate` finds the largest rate, or concurrency, at which a plan is stable and meets its "
        "requirements. Requests that arrive at once have no rate, and a closed loop is stable at every concurrency.",
        "",
        "give the workload a `rate`, a `trace` or `concurrency`, and the plan a requirement on `ttft`, `tpot` or "
        "`latency`.",
    ),
    "E330": (
        "no replicas over the day",
        "`planc autoscale` finds the replicas for each interval of a load from the rate there. A batch, a closed loop "
        "and requests that arrive at once have no rate, and two pools do not grow by whole replicas.",
        "",
        "give the workload a `rate` or a `trace`.",
    ),
    "E345": (
        "shards cut groups of weights that share a scale",
        "A scale of `fp8_128x128` serves a block of 128 inputs and 128 outputs of a weight, a scale of `int4_128` the "
        "128 inputs of an output. vLLM and SGLang do not start if a rank's part of a weight does not consist of whole "
        "blocks or groups. Of integers in groups, their Marlin kernels take multiples of 128 inputs and 64 outputs.",
        _plan("tp = 8", "h20_8")
        .replace("llama_3_1_8b", "qwen3_30b_a3b with { weights = fp8_128x128 }")
        .replace("workload", "engine = vllm\n  workload"),
        "take a degree that the hint names, spread whole experts (`ep`), or store these weights in another format.",
    ),
    "N345": (
        "shards cut groups of weights, and nobody refuses",
        "As E345, in a plan without an engine that is known to refuse it: neighbouring ranks then hold the same "
        "scales. vLLM pads shards of `mxfp4` to whole groups; the estimate does not count the padding.",
        _plan("tp = 8", "h20_8").replace("llama_3_1_8b", "qwen3_30b_a3b with { weights = fp8_128x128 }"),
        "nothing, if the engine can do this; else take a degree that cuts no group.",
    ),
    "N346": (
        "the engine pads the vocabulary",
        "vLLM and SGLang pad the vocabulary to a multiple of 64 and then split it, so its size need not divide by the "
        "ranks. The estimate counts the largest part of the vocabulary as it is.",
        _plan("tp = 8", "h20_8")
        .replace("llama_3_1_8b", "llama_3_1_8b with { vocab = 50_257 }")
        .replace("workload", "engine = vllm\n  workload"),
        "nothing: this is how the engine works.",
    ),
    "N320": (
        "each request is assumed to hold its reused tokens in its own blocks",
        "Requests hold the KV cache of reused tokens in blocks of their own (such as earlier turns of a chat), or all "
        "requests share the same blocks (such as a system prompt), which are held once. If the workload does not say "
        "which, each request is assumed to have its own blocks.",
        _plan("tp = 8").replace("output = 128", "output = 128, reuse = 50 %"),
        "`prefix = shared` to hold them once, or `prefix = own` to state the assumption.",
    ),
    "E390": (
        "illegal operation in the compiled program",
        "The compiler checks its own program after every pass. This finding means a bug in plandsl.",
        "",
        "please report it with the plan and the output of `planc compile --dump`.",
    ),
    "E391": (
        "inconsistent compiled program",
        "The compiler checks its own program after every pass. This finding means a bug in plandsl.",
        "",
        "please report it with the plan and the output of `planc compile --dump`.",
    ),
}

COMMAND_CODES: dict[str, tuple[str, str, str, str]] = {
    "E400": (
        "wrong arguments",
        "planc does not understand the command line.",
        "",
        "`planc COMMAND --help` lists the arguments.",
    ),
    "E401": (
        "no plan to compile, or no search to run",
        "`planc compile` estimates the plans of a file, and `planc search` runs its searches. This file declares none.",
        "workload w { input = 1024, output = 128 }\n",
        "add a `plan NAME { ... }` or a `search NAME { ... }`, or use `planc check` for a file of parts.",
    ),
    "N290": (
        "a steady load stands for requests over time",
        "A formula knows no single requests. `planc explain`, `planc diff`, `planc render` and arrays in Python answer "
        "for requests of the mean lengths, as many in flight as serve the mean rate. Bursts are not seen. Where "
        "requests arrive faster than they are served, the message tells both rates.",
        "",
        "`planc simulate` serves the requests one by one.",
    ),
    "N430": (
        "narrow weights are slower than wide ones here",
        "Kernels of both formats were measured, and at these sizes those of fewer bits take longer: inputs have to be "
        "quantised, or the library has another kernel for them. The message names the GEMMs, and the sections of the "
        "calibration that say so. A format without measurements is never slower than one with more bits: it has the "
        "form of a kernel that was measured, with fewer bytes.",
        "",
        "nothing; `planc explain` shows the times. Another engine may have a better kernel, and weights of 8 bits may "
        "be multiplied in 16 (`compute = bf16`).",
    ),
    "N291": (
        "no short simulation",
        "`planc compile` serves some requests of a load over time one by one, and puts what comes of it beside the "
        "closed form. Here there is none, and the message tells why. Requirements on percentiles and goodput have no "
        "answer in closed form: they are not checked.",
        "",
        "`planc simulate` serves the requests one by one, however long it takes.",
    ),
    "E403": (
        "more than one plan or search",
        "A picture of a plan shows one plan. An output file holds the rows, or the best plan, of one search. A picture "
        "of searches can show several if they go through the same configurations.",
        "",
        "pick one with `--plan NAME`, or with `--search NAME`.",
    ),
    "E404": ("no such pass", "`--dump` takes the name of a pass.", "", "`planc passes` lists them."),
    "E405": (
        "a file cannot be written",
        "The folder does not exist, writing to it is not permitted, the name is the name of a folder, or the disk is "
        "full. planc writes a temporary file and then renames it, so an earlier file of this name is unchanged.",
        "",
        "check the folder and its permissions.",
    ),
    "E406": ("not in the catalog", "The catalog has no such kind or entry.", "", "`planc catalog` lists all entries."),
    "E408": (
        "too many plans in one run",
        "At most 200 plans of one file are compiled in one run.",
        "",
        "pick one with `--plan NAME`, or split the file.",
    ),
    "E409": (
        "too many plans in a search",
        "Plans that differ by more than their load are compiled one by one, at most 20,000 plans in one search.",
        "",
        "vary fewer fields, choose fewer values, or add a `where`. Values of the load do not count: they are computed "
        "as arrays.",
    ),
    "E410": (
        "the library for Parquet is missing",
        "`planc search --rows OUT.parquet` needs pyarrow, which is not installed with plandsl.",
        "",
        "`pip install 'plandsl[parquet]'`, or write a `.csv`.",
    ),
    "E411": (
        "the library for plots is missing",
        "`planc search --plot OUT`, `planc simulate --plot OUT` and `planc render --view tradeoff` need matplotlib, "
        "which is not installed with plandsl.",
        "",
        "`pip install 'plandsl[plot]'`, or write the rows of a search or a simulation with `--rows` and draw them "
        "elsewhere.",
    ),
    "E412": (
        "the Dask cluster cannot do the work",
        "`--scheduler ADDRESS` of `planc search`, `simulate` and `autoscale` spreads the work over a Dask cluster. "
        "Dask must be installed, the scheduler must answer, and its workers must have the same version of plandsl and "
        "stay alive.",
        "",
        "`pip install 'plandsl[distributed]'`; `--scheduler local:4` starts four workers on this machine; without "
        "`--scheduler` everything runs in this process, with the same result.",
    ),
    "E440": (
        "too many ranks to run",
        "`planc verify` runs all ranks in one process, one after another, and at most 64 ranks. Of several replicas it "
        "runs two.",
        "",
        "verify the same sharding with smaller degrees.",
    ),
    "E450": (
        "invalid file of measurements",
        "Calibration, evaluation and `measured` read CSV files of at most 16,777,216 bytes each, with the columns that "
        "docs/calibration.md lists. Every number must lie in the range of its column: a time is above zero, a size is "
        "1 or more, and no number is infinite.",
        "",
        "correct the file; the message names the row and the column, and the hint the range.",
    ),
    "N450": (
        "wrong cells of a file of measurements",
        "`planc accuracy` leaves a row with a wrong cell unanswered and counts it. The note names the row and the "
        "column of the first such cell of a file, and the range of the column. Other commands refuse the file (E450).",
        "",
        "correct the cell, or leave it empty if nobody knows it.",
    ),
    "E452": (
        "invalid trace",
        "A trace, or a file of lengths, has a row that cannot be understood, or a format that is not known by its "
        "columns. docs/traffic.md lists the formats. A file is read up to 1,073,741,824 bytes, a line up to 1,048,576.",
        "",
        "correct the row; the message names its line and column.",
    ),
    "N452": (
        "requests of a trace that failed",
        "These rows of the trace have an output of 0 tokens: requests that failed. They are left out.",
        "",
        "",
    ),
    "E453": (
        "unknown law",
        "`planc laws --law NAME` and `plandsl.testing.laws.check` know laws by name.",
        "",
        "`planc laws --list` prints the names of all laws, and what each says.",
    ),
    "N453": (
        "a law does not apply",
        "The law says nothing about this plan, for the reason that the note gives: a law about replicas needs two of "
        "them, and a law about requests over time needs a load of such requests.",
        "",
        "",
    ),
    "E454": (
        "laws are asked of plans",
        "`plandsl.testing.laws` takes a compiled plan, a `PlanSpec`, `.plan` text, or a sharding with `model=` and "
        "`node=`. The strategies take a model or a machine as it is, by its name in the catalog, as `FILE.plan:NAME`, "
        "or from a compiled plan that has it.",
        "",
        "give one of these.",
    ),
    "E455": (
        "the library for drawing plans is missing",
        "`planc laws` draws neighbours of a plan with Hypothesis, which is not installed with plandsl. The laws of the "
        "plan itself need no library.",
        "",
        "`pip install 'plandsl[testing]'`, or `--draws 0`.",
    ),
    "E456": (
        "a law of your own cannot be loaded",
        "`planc laws --law FILE.py:FUNCTION` runs the file, and asks each plan for the function: it takes a compiled "
        "plan, and fails an assertion, or returns False, where the law is broken.",
        "",
        "name a Python file that runs, and a function that it defines.",
    ),
    "E451": (
        "fitting constants needs a library",
        "`planc calibrate` and `planc compare --fit` fit with scipy, which plandsl does not bring.",
        "",
        "`pip install 'plandsl[fit]'`.",
    ),
    "E413": (
        "the plans to compare are not named",
        "`planc diff` compares two plans. If a file has several plans, name one. A single file with exactly two plans "
        "needs no name.",
        "",
        "write `FILE:PLAN`, or `--plan NAME` for the plan of that name in both files.",
    ),
    "E458": (
        "too many plans to compare",
        "`planc compare-comm` puts the communication of all plans of its files side by side, at most 40 of them.",
        "",
        "name some of them as `FILE:PLAN`, or the plan of one name in every file with `--plan NAME`.",
    ),
    "E407": (
        "nothing of this name to explain",
        "`planc explain` takes a file, the code of a diagnostic, or a word that reports use.",
        "",
        "codes look like E301; words are written as in the report, capitals or not.",
    ),
}

CODES: dict[str, Code] = {
    name: Code(*parts)
    for table in (
        *(SYNTAX_CODES, NAME_CODES, HF_CODES, HEADER_CODES, MODEL_CODES, SHARDING_CODES),
        *(COMMAND_CODES, RENDER_CODES, MONEY_CODES, PYTHON_CODES, EDITING_CODES, EXPORT_CODES),
        *(STATE_CODES, TOWER_CODES, TRACE_CODES, COMPARE_CODES, MEASURE_CODES, INDEX_CODES, REPORT_CODES),
        *(SERVE_CODES, VERSION_CODES, EARLIER_CODES, LIMIT_CODES),
    )
    for name, parts in table.items()
}
"""Code -> explanation, for every code that plandsl can print."""
