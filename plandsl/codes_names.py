"""The codes of names, units and sizes: title, text, an example that produces it, and what to do."""

from __future__ import annotations


def _plan(*lines: str, model: str = "llama_3_1_8b") -> str:
    parts = (f"model = {model}", "node = mi325x_8", "workload { input = 1000, output = 100 }", *lines)
    return "plan serve {\n" + "".join(f"  {part}\n" for part in parts) + "}\n"


def _model(block: str, fields: str = "", attributes: str = "") -> str:
    return (
        "model tiny {\n"
        f"  layers = 4, hidden = 64, vocab = 1000, weights = bf16{fields}\n"
        "  embedding w_embed[vocab, hidden]\n"
        f"  block {attributes}x[tokens, hidden] {{\n    {block}\n  }}\n"
        "  head rms_norm(x) @ w_head[hidden, vocab]\n"
        "}\n"
    )


NAME_CODES: dict[str, tuple[str, str, str, str]] = {
    "E201": (
        "unknown name",
        "A name is looked up in its own file, then in the files that this file uses, then in the catalog, among the "
        "declarations of the expected kind. In a block, a value is known after the statement that computes it; "
        "dimensions are fields of the model. A name is a letter, then letters, digits and `_`, so that an id such as "
        "`meta-llama/Llama-3.1-70B` is none.",
        _plan(model="lama_3_1_8b"),
        "write the name that the hint offers, declare the name, or `use` the file that does. `planc catalog` lists "
        "what ships.",
    ),
    "E202": (
        "declared or given twice",
        "A file declares a name once for each kind, and a body gives a field once.",
        "workload chat {\n  input = 900\n  output = 100\n  input = 800\n}\n",
        "remove one of the two, or rename it.",
    ),
    "E203": (
        "unknown unit",
        "Units are bytes `B KB MB GB TB KiB MiB GiB TiB`, rates `GB/s Gbit/s TFLOP/s TOP/s tok/s req/s`, time "
        "`ns us ms s min h`, `%`, money `USD USD/h` and power `W`. Upper and lower case matter.",
        "let memory = 256 gb\n",
        "write one of the known units.",
    ),
    "E204": (
        "quantity of the wrong dimension",
        "Quantities that are added or compared must have the same dimension, and each field has a dimension: a memory "
        "is in bytes, a latency is a time.",
        "let total = 1 GB + 2 s\n",
        "write a quantity of the dimension that the message asks for.",
    ),
    "E205": (
        "a number without its unit",
        "The compiler does not guess units: a number without a unit is an error where a quantity is expected.",
        "gpu mine {\n  memory = 256\n  bandwidth = 6 TB/s\n  compute { bf16 = 1307 TFLOP/s }\n}\n",
        "write the unit after the number.",
    ),
    "E206": (
        "unknown field",
        "Each kind of declaration has its fields, and each function its options. Any other name is an error. In a "
        "model, a field with another name is a dimension, and its value a whole number. Where another tool or another "
        "section of a plan has a field of this name, the hint says what to write.",
        "workload chat { input = 900, output = 100, bach = 8 }\n",
        "write what the hint shows, or remove the field.",
    ),
    "E207": (
        "missing field",
        "The declaration needs this field.",
        "workload chat { input = 900 }\n",
        "add the line that the hint shows.",
    ),
    "E208": (
        "circular definition, or a chain of definitions that is too long",
        "A chain of aliases, `with` and `let` has at most 64 links, and must not come back to its start. The work to "
        "resolve a whole file is limited too.",
        "let a = b + 1\nlet b = a - 1\n",
        "break the circle, or write the value out.",
    ),
    "E209": (
        "a file cannot be read or used",
        "A path in `use` starts at the folder of the file that contains it, with `/` between folders. After links are "
        "followed, it must lead to a regular `.plan` file in the folder of the root file or below. At most 64 files "
        "are used, and a file cannot use itself, directly or through others. The same rules hold for `.csv` files in "
        "`measured` and `.json` files in `hf`. Pipes and devices are not regular files: pass `-` to read standard "
        "input.",
        'use "common/fleet.plan"\n',
        "correct the path, or move the file into the tree.",
    ),
    "E210": (
        "wrong type of value or item",
        "For example a value instead of a section, a string instead of a number, or an item in a body that cannot hold "
        "it.",
        "gpu mine {\n  memory = 256 GB\n  bandwidth = 6 TB/s\n  compute = 1307 TFLOP/s\n}\n",
        "write what the message asks for.",
    ),
    "E211": (
        "unknown kind of declaration",
        "A file can declare `model gpu node cluster calibration engine sharding workload plan search`, and have `let` "
        "and `use`.",
        "modle mine = llama_3_1_8b\n",
        "correct the keyword.",
    ),
    "E212": (
        "arithmetic error",
        "The expression divides by zero, or its result is too large.",
        "let share = 8 / 0\n",
        "correct the expression.",
    ),
    "E213": (
        "error in a model's block",
        "`a @ w[...]` contracts the dimensions that both sides share. `+ - *` need the same dimensions on both sides, "
        "or fewer on one side. A block must not change the dimensions of its argument. A weight has the same "
        "dimensions wherever it is named.",
        _model("x = x + x @ w_up[hidden, vocab]"),
        "compare the dimensions that the message shows.",
    ),
    "E214": (
        "value out of range",
        "Sizes, degrees and counts are whole numbers from 1 to a maximum; quantities are more than zero.",
        "workload chat { input = 900, output = 100, batch = 0 }\n",
        "write a size within the bounds.",
    ),
    "E215": (
        "the blocks do not cover every layer once",
        "Each layer has exactly one block. A block with `[layers = a..b]` covers the layers from a to b, `b` excluded; "
        "with `a..b by 2` it covers every second layer of them. A block without `layers` covers the layers that no "
        "other block names.",
        _model("x = x + rms_norm(x)", attributes="first [layers = 0..3] "),
        "make the ranges meet, from 0 to the number of layers.",
    ),
    "E216": (
        "invalid requirement",
        "A requirement compares one metric with a constant; `and` joins several requirements. The metrics are `ttft "
        "tpot latency throughput throughput_per_gpu memory kv_capacity max_batch comm_share mfu mbu cost`.",
        _plan("require ttft <= tpot"),
        "write it like `require ttft <= 2 s`.",
    ),
    "E217": (
        "unknown number format",
        "Formats are `fp64 fp32 tf32 bf16 fp16 fp8 int8 fp6 fp4 int4 int32`, and the block formats `mxfp8 mxfp6 mxfp4 "
        "nvfp4`, whose size includes their scales.",
        _plan(model="llama_3_1_8b with { weights = fp7 }"),
        "choose one of the formats.",
    ),
    "E218": (
        "invalid override",
        "`--set PATH=VALUE` changes one field in every plan of the file. PATH goes through sections to a field, such "
        "as `workload.batch` or `node.link.bandwidth`, and VALUE is written as in a plan.",
        "",
        "write it like `--set workload.batch=64`.",
    ),
    "E219": (
        "unknown dimension, axis or region in a rule",
        "A rule splits dimensions of the model (or `tokens`, `batch`, `context`, `layers`) over axes that `mesh` or a "
        "degree declares. Regions are `attention`, `experts`, `embedding` and `head`.",
        _plan("sharding { mesh tensor = 8\n    heds -> tensor }"),
        "correct the spelling, or declare the axis.",
    ),
    "E220": (
        "invalid degree",
        "A degree stands for an axis and its rules. The model must have a dimension that the degree splits, and a "
        "`mesh` with the same axis must give it the same size.",
        _plan("sharding { ep = 4 }"),
        "leave the degree out, or correct it.",
    ),
    "E221": (
        "contradictory load",
        "A workload is one batch of requests that start together (`batch`), or an ongoing load: `concurrency` requests "
        "are always in flight, or requests arrive over time (`rate`, `trace`). Fields of two kinds contradict each "
        "other, and `requests` and lengths that vary need an ongoing load.",
        _plan().replace("output = 100", "output = 100, batch = 8, concurrency = 64"),
        "keep the fields of one kind.",
    ),
    "E222": (
        "nodes with different numbers of GPUs",
        "The `nodes` of a cluster may have different GPUs and links, but must have equally many GPUs, because ranks "
        "are numbered node by node.",
        "cluster pod {\n  nodes = [2 * h100_8, 2 * h200_4]\n"
        "  network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }\n}\n",
        "choose nodes of one size, as the hint says.",
    ),
    "E227": (
        "invalid attention sinks",
        "The fourth argument of `attention` is a weight with one logit for each query head. The logit is added to the "
        "denominator of the softmax of its head, like the score of a key that has no value.",
        "model m = llama_3_1_8b with {\n  block x[tokens, hidden] {\n    q = x @ w_q[hidden, heads, head_dim]\n"
        "    a = attention(q, q, q, w_sinks[kv_heads])\n    x = x + a @ w_o[heads, head_dim, hidden]\n  }\n}\n",
        "write `w_sinks[heads]`, with the dimension of the queries' heads.",
    ),
    "E228": (
        "both a window and a chunk",
        "With `window = n` a query sees the last n keys, up to and including its own. With `chunk = n` positions are "
        "cut into chunks of n, and a query sees the keys of its own chunk. One attention can have one of the two.",
        "model m = llama_3_1_8b with {\n  block x[tokens, hidden] {\n    q = x @ w_q[hidden, heads, head_dim]\n"
        "    a = attention(q, q, q, window = 64, chunk = 64)\n    x = x + a @ w_o[heads, head_dim, hidden]\n  }\n}\n",
        "leave one of the two out.",
    ),
    "E224": (
        "invalid acceptance",
        "`acceptance` is the probability that a guessed token is right, provided that all guesses before it were "
        "right: one share for all `tokens`, or a list with one share for each token.",
        _plan("speculate { tokens = 3, acceptance = [80 %, 60 %] }"),
        "give one share from 0 to 100 %, or a list with one share for each token.",
    ),
    "E225": (
        "invalid draft",
        "Guesses are verified in one step, so the model must be causal, and the draft must have the same vocabulary. "
        "The number of ranks of the draft must divide the ranks of a stage, and its sharding has no replicas and no "
        "stages.",
        _plan("speculate { draft = mistral_7b, tokens = 3, acceptance = 80 % }"),
        "name a smaller model of the same family, and give it a `sharding` that fits.",
    ),
    "E226": (
        "invalid imbalance",
        "`imbalance` is the load of the fullest rank divided by the mean load; or `zipf(s)`, where the popularity of "
        "the r-th most popular expert is proportional to r^-s; or `lognormal(mean = ..., p95 = ...)`, the distribution "
        "of the load of the fullest rank divided by the mean load.",
        "model m = mixtral_8x7b with {\n  block x[tokens, hidden] {\n    h = rms_norm(x)\n"
        "    x = x + experts(h, w_router[hidden, experts], top_k = 2, imbalance = zipf(-1)) {\n"
        "      silu(h @ w_up[hidden, expert_ffn]) @ w_down[expert_ffn, hidden]\n    }\n  }\n}\n",
        "write one of these three forms.",
    ),
    "E229": (
        "a limit of another scheduler",
        "Each scheduler has its own limits: `watermark` belongs to vLLM's, `conservativeness` to SGLang's, `room` to "
        "TensorRT-LLM's. An engine has the scheduler that its field `scheduler` names, else that of the library whose "
        "`kernels` it runs.",
        "engine mine = vllm with { conservativeness = 0.5 }\n",
        "drop the limit, or name the scheduler that has it.",
    ),
    "E243": (
        "invalid tiers of KV memory",
        "`kv_tiers` lists memory behind that of the GPUs, the fastest first: a size and a rate for each GPU, and the "
        "latency of a load if it matters. Blocks there are found by the prefix cache, so that it must be on. "
        "`kv_write` says when blocks are copied there.",
        "engine mine = vllm with { kv_tiers = [[200 GB, 50 GB/s]], prefix_cache = false }\n",
        "write sizes and rates with their units, and leave the prefix cache on.",
    ),
    "E223": (
        "invalid reuse",
        "`reuse` is the share of the input that is in the KV cache before the request arrives. The last token of a "
        "prompt is always computed, so the share is below 100 %. `prefix` says whether requests share the reused "
        "tokens, and has no meaning without `reuse`.",
        _plan().replace("output = 100", "output = 100, reuse = 100 %"),
        "lower `reuse`, or drop it.",
    ),
    "E240": (
        "invalid rate",
        "`rate` says when requests arrive: a number of requests per second (a Poisson process), a list of times and "
        "rates such as `[[0 h, 2 req/s], [8 h, 20 req/s]]`, `at_once`, or one of `poisson`, `constant`, `gamma`, "
        "`vllm_rate`, `on_off`, `varying` and `trace_rate`. The times of a list start at 0 and increase, and a rate "
        "that stays is above zero. `trace_rate` cuts its trace into at most 100,000 bins.",
        "workload w { input = 900, output = 100, rate = [[1 h, 2 req/s]] }\n",
        "correct the number that the message names.",
    ),
    "E241": (
        "invalid distribution",
        "The numbers fit no distribution: the median of a lognormal distribution lies below its mean and its 95th "
        "percentile, the upper end of a range is not below the lower one, and no spread is negative.",
        "workload w { input = lognormal(mean = 900, p95 = 800), output = 100, rate = 2 req/s }\n",
        "correct the number that the message names.",
    ),
    "E242": (
        "invalid classes of requests",
        "The classes of a workload each have a `share` of its `rate` or its `concurrency`, 100 % together, or each "
        "have a `rate` of their own. A workload has at most 64 classes. `rate = at_once` is for the workload: a class "
        "does not say how many requests it has.",
        "workload w {\n  rate = 10 req/s\n  class chat { share = 70 %, input = 900, output = 100 }\n}\n",
        "make the shares add up to 100 %.",
    ),
    "E244": (
        "invalid figure of a GPU's board",
        "`memory_total` is what the driver reports, `memory` what a program sees of it, which is less. `power` limits "
        "the power of a board, `power_max`, to no more than that and to no less than a quarter of it.",
        "gpu mine = h100_sxm with { memory = 80 GiB, memory_total = 79 GiB }\n",
        "correct the figure; another board states its own `memory_total` and `power_max`.",
    ),
    "E250": (
        "invalid link",
        "`pcie` is the generation of the ports of a node's GPUs, 1 to 6, and `lanes` their lanes: 1, 2, 4, 8 or 16. "
        "Both give the bandwidth, which is not stated beside them. They and `p2p` belong to `topology = pcie`; "
        "`bridge` joins pairs of GPUs beside `pcie`, `ring` and `mesh`.",
        "node mine = l40s_8 with { link { topology = switch, pcie = 4 } }\n",
        "correct the field that the message names, or leave it out.",
    ),
    "E490": (
        "invalid torus",
        "A torus has two or three sizes. `wrap = off` says that no links join the ends of its axes, so that each axis "
        "is a line and not a ring; other topologies have no such ends.",
        "node mine = h100_8 with { link { wrap = off } }\n",
        "leave out `wrap`, or state a torus.",
    ),
    "N202": (
        "an override takes the place of another field",
        "Some fields say one thing in two ways: a workload has a `batch`, a `concurrency` or a `rate`, and a plan a "
        "`node` or a `cluster`. `--set` of one of them takes the place of the other that the file has.",
        "",
        "nothing, if this is intended; else set the field that the file has.",
    ),
    "W201": (
        "unused result",
        "The statement costs time and memory in the estimate, and nothing uses its result.",
        _model("h = rms_norm(x)\n    x = x + rms_norm(x)"),
        "remove the statement, or use its result.",
    ),
    "W202": (
        "unused dimension",
        "Any whole number in a model declares a dimension, so a misspelt field is not an error. No weight has this "
        "dimension.",
        _model("x = x + rms_norm(x)", fields=", hiden = 128"),
        "correct the spelling, or remove the field.",
    ),
    "W203": (
        "requests longer than the model's context",
        "Input and output together exceed `max_context`. The plan is estimated nevertheless.",
        _plan().replace("input = 1000", "input = 200_000"),
        "shorten the requests, or raise `max_context` if the model can serve longer ones.",
    ),
    "W204": (
        "no rule names this axis",
        "All ranks along such an axis hold the same data and do the same work. In a sharding, a comma after `mesh` "
        "continues the list of axes, so `mesh stage = 2, tp = 4` declares an axis `tp`, not the degree.",
        _plan("sharding { mesh stage = 2, tp = 4\n    layers -> stage }"),
        "name the axis in a rule, or put the degree on a line of its own.",
    ),
    "W205": (
        "unused constant",
        "A calibration may hold any constant, but the cost backend does not read this one.",
        'calibration c {\n  source = "measured here"\n  gem = 0.5\n}\n',
        "correct the name, or drop it.",
    ),
    "W206": (
        "no measurements of the plan's GPU",
        "`measured` names a table without a row for the plan's GPU. A row is for this GPU if its column `gpu` holds "
        "the name of the gpu, the name of the gpu that it was made from, or another name of it in the catalog. The "
        "calibrated model is used instead.",
        "",
        "correct the column, or drop the file.",
    ),
}
