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
        "a name that nobody declared",
        "A name is looked up in its own file, then in the files it uses, then in the catalog, among the declarations "
        "of the kind that is due. Inside a block, values are known from the statement that makes them, and dimensions "
        "from the fields of the model.",
        _plan(model="lama_3_1_8b"),
        "correct the spelling, declare the name, or `use` the file that does. `planc catalog` lists what ships.",
    ),
    "E202": (
        "the same thing twice",
        "In one file a name is declared once for each kind, and in one body a field is given once; neither the first "
        "nor the last would win without surprise.",
        "workload chat {\n  input = 900\n  output = 100\n  input = 800\n}\n",
        "remove one of the two, or rename it.",
    ),
    "E203": (
        "an unknown unit",
        "Units are bytes `B KB MB GB TB KiB MiB GiB TiB`, rates `GB/s Gbit/s TFLOP/s TOP/s tok/s req/s`, time "
        "`ns us ms s min h`, `%`, money `USD USD/h` and power `W`. Upper and lower case matter.",
        "let memory = 256 gb\n",
        "write one of the known units.",
    ),
    "E204": (
        "a quantity of another dimension",
        "What is added or compared must have one dimension, and a field takes quantities of its own: a memory is in "
        "bytes, a latency is a time.",
        "let total = 1 GB + 2 s\n",
        "write a quantity of the dimension that the message asks for.",
    ),
    "E205": (
        "a number without its unit",
        "Nothing is guessed: where a quantity is due, a bare number is an error.",
        "gpu mine {\n  memory = 256\n  bandwidth = 6 TB/s\n  compute { bf16 = 1307 TFLOP/s }\n}\n",
        "write the unit behind the number.",
    ),
    "E206": (
        "an unknown field",
        "Each kind of declaration has fields of its own, and so have functions options. A name that nothing reads is "
        "taken for a mistake. In a model every whole number names a dimension.",
        "workload chat { input = 900, output = 100, bach = 8 }\n",
        "correct the spelling, or remove the field.",
    ),
    "E207": (
        "a field is missing",
        "The declaration cannot be understood without it.",
        "workload chat { input = 900 }\n",
        "add the line that the hint shows.",
    ),
    "E208": (
        "a name that stands for itself, or hangs on too much",
        "Aliases, `with` and `let` build on one another in a chain of at most 64; a chain that comes back to its "
        "start has no value. Resolving a whole file is bounded too.",
        "let a = b + 1\nlet b = a - 1\n",
        "break the ring, or write the value out.",
    ),
    "E209": (
        "a file cannot be read or used",
        "`use` takes a path from the file that says it, with `/` between folders. It reads ordinary `.plan` files in "
        "the folder of the root file or below, links followed, at most 64 of them, and none that uses its user. "
        "`measured` takes paths to `.csv` files by the same rules, and `hf` to `.json` files. Pipes and devices are no "
        "ordinary files: what is piped is read as `-`.",
        'use "common/fleet.plan"\n',
        "correct the path, or move the file into the tree.",
    ),
    "E210": (
        "something of another sort is wanted here",
        "A value stands where a section is due, a string where a number, an item in a body that does not take it.",
        "gpu mine {\n  memory = 256 GB\n  bandwidth = 6 TB/s\n  compute = 1307 TFLOP/s\n}\n",
        "write what the message asks for.",
    ),
    "E211": (
        "an unknown declaration",
        "A file declares `model gpu node cluster calibration engine sharding workload plan search`, beside `let` and "
        "`use`.",
        "modle mine = llama_3_1_8b\n",
        "correct the keyword.",
    ),
    "E212": (
        "arithmetic without a result",
        "Division by zero has none, and results are bounded.",
        "let share = 8 / 0\n",
        "correct the expression.",
    ),
    "E213": (
        "a mistake in a model's block",
        "`a @ w[...]` contracts the dimensions that both share; `+ - *` want the same dimensions on both sides, or "
        "fewer on one; a block leaves its argument with the dimensions it came with; a weight named again has the "
        "same dimensions.",
        _model("x = x + x @ w_up[hidden, vocab]"),
        "compare the dimensions that the message shows.",
    ),
    "E214": (
        "a size out of range",
        "Sizes, degrees and counts are whole numbers of at least 1, and bounded; quantities are more than zero.",
        "workload chat { input = 900, output = 100, batch = 0 }\n",
        "write a size within the bounds.",
    ),
    "E215": (
        "blocks that do not cover the layers",
        "Each layer has exactly one block. `[layers = a..b]` says which a block covers, `b` excluded, and `a..b by 2` "
        "takes every other one of them; a block without it covers those that no other block names.",
        _model("x = x + rms_norm(x)", attributes="first [layers = 0..3] "),
        "make the ranges meet, from 0 to the number of layers.",
    ),
    "E216": (
        "a requirement that cannot be judged",
        "A requirement compares one metric with a constant; several are joined by `and`. The metrics are `ttft tpot "
        "latency throughput throughput_per_gpu memory kv_capacity max_batch comm_share mfu mbu cost`.",
        _plan("require ttft <= tpot"),
        "write it like `require ttft <= 2 s`.",
    ),
    "E217": (
        "an unknown number format",
        "Formats are `fp64 fp32 tf32 bf16 fp16 fp8 int8 fp6 fp4 int4 int32`, and with their scales included `mxfp8 "
        "mxfp6 mxfp4 nvfp4`.",
        _plan(model="llama_3_1_8b with { weights = fp7 }"),
        "choose one of the formats.",
    ),
    "E218": (
        "an override that says nothing",
        "`--set PATH=VALUE` lays one field over every plan of the file: the path goes through sections and fields, "
        "such as `workload.batch` or `node.link.bandwidth`, and the value is written as in a plan.",
        "",
        "write it like `--set workload.batch=64`.",
    ),
    "E219": (
        "a rule names what does not exist",
        "A rule shards dimensions of the model (or `tokens`, `batch`, `context`, `layers`) over axes that `mesh` or a "
        "degree declares. Regions are `attention`, `experts`, `embedding` and `head`.",
        _plan("sharding { mesh tensor = 8\n    heds -> tensor }"),
        "correct the spelling, or declare the axis.",
    ),
    "E220": (
        "a degree that cannot be meant",
        "A degree stands for an axis and rules. It must find a dimension of the model to split, and agree with a "
        "`mesh` that sizes the same axis.",
        _plan("sharding { ep = 4 }"),
        "leave the degree out, or correct it.",
    ),
    "E221": (
        "two kinds of load in one",
        "A workload is one batch that starts together (`batch`), or requests that follow one another: `concurrency` of "
        "them always in flight, `requests` in all.",
        _plan().replace("output = 100", "output = 100, batch = 8, concurrency = 64"),
        "keep the fields of one kind.",
    ),
    "E222": (
        "nodes of unlike size",
        "The `nodes` of a cluster may have other GPUs and links, but equally many GPUs: ranks count node by node.",
        "cluster pod {\n  nodes = [2 * h100_8, 2 * h200_4]\n"
        "  network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }\n}\n",
        "take nodes of one size, as the hint says.",
    ),
    "E227": (
        "attention sinks that are none",
        "A fourth argument of `attention` is a weight with one logit for each query head. It joins the sum below the "
        "softmax of its head, as the score of a key without a value would.",
        "model m = llama_3_1_8b with {\n  block x[tokens, hidden] {\n    q = x @ w_q[hidden, heads, head_dim]\n"
        "    a = attention(q, q, q, w_sinks[kv_heads])\n    x = x + a @ w_o[heads, head_dim, hidden]\n  }\n}\n",
        "write `w_sinks[heads]`, with the dimension of the queries' heads.",
    ),
    "E228": (
        "a window and a chunk of one attention",
        "With `window = n` a query sees the n keys up to its own. With `chunk = n` positions are cut into chunks of n, "
        "and a query sees the keys of its own chunk.",
        "model m = llama_3_1_8b with {\n  block x[tokens, hidden] {\n    q = x @ w_q[hidden, heads, head_dim]\n"
        "    a = attention(q, q, q, window = 64, chunk = 64)\n    x = x + a @ w_o[heads, head_dim, hidden]\n  }\n}\n",
        "leave one of the two out.",
    ),
    "E224": (
        "an acceptance that cannot be meant",
        "`acceptance` is the chance that a guessed token is right where all before it were: one share for all "
        "`tokens`, or a list with one for each of them.",
        _plan("speculate { tokens = 3, acceptance = [80 %, 60 %] }"),
        "give one rate from 0 to 100 %, or as many as there are tokens.",
    ),
    "E225": (
        "a draft that cannot guess for this model",
        "Guesses are verified in one step, so the model is causal, and its draft has the same vocabulary. The draft "
        "runs on ranks that divide those of a stage, without replicas or stages of its own.",
        _plan("speculate { draft = mistral_7b, tokens = 3, acceptance = 80 % }"),
        "name a smaller model of the same family, and give it a `sharding` that fits.",
    ),
    "E226": (
        "an imbalance that is no distribution",
        "`imbalance` is the load of the fullest rank over the mean; or `zipf(s)`, where the r-th most popular expert "
        "is used as r^-s; or `lognormal(mean = ..., p95 = ...)`, where that load varies.",
        "model m = mixtral_8x7b with {\n  block x[tokens, hidden] {\n    h = rms_norm(x)\n"
        "    x = x + experts(h, w_router[hidden, experts], top_k = 2, imbalance = zipf(-1)) {\n"
        "      silu(h @ w_up[hidden, expert_ffn]) @ w_down[expert_ffn, hidden]\n    }\n  }\n}\n",
        "write one of the three.",
    ),
    "E223": (
        "a prefix that cannot be reused",
        "`reuse` is the share of the input whose KV cache is there before the request comes. The last token of a "
        "prompt is computed in any case, so the share is below 100 %. `prefix` says whether requests share those "
        "blocks, and means nothing without `reuse`.",
        _plan().replace("output = 100", "output = 100, reuse = 100 %"),
        "lower `reuse`, or drop it.",
    ),
    "E290": (
        "not supported yet",
        "The language has it, and this version understands but does not compile it.",
        _plan().replace("output = 100", "output = 100, rate = 12 req/s"),
        "leave it out for now.",
    ),
    "W201": (
        "a result that nothing uses",
        "The statement costs time and memory in the estimate, and its result goes nowhere.",
        _model("h = rms_norm(x)\n    x = x + rms_norm(x)"),
        "remove the statement, or use its result.",
    ),
    "W202": (
        "a dimension that nothing uses",
        "Any whole number in a model names a dimension, so a misspelt field is not an error. This one is in no weight.",
        _model("x = x + rms_norm(x)", fields=", hiden = 128"),
        "correct the spelling, or remove the field.",
    ),
    "W203": (
        "longer than the model's context",
        "Input and output together exceed `max_context`. The estimate is made all the same.",
        _plan().replace("input = 1000", "input = 200_000"),
        "shorten the requests, or raise `max_context` if the model is served that way.",
    ),
    "W204": (
        "an axis that no rule names",
        "Ranks along such an axis hold the same and do the same. In a sharding a comma goes on with the list of "
        "`mesh`, so a degree after it becomes an axis too.",
        _plan("sharding { mesh stage = 2, tp = 4\n    layers -> stage }"),
        "name the axis in a rule, or put the degree on a line of its own.",
    ),
    "W205": (
        "a constant that nothing uses",
        "A calibration may hold any constant, but the cost backend reads only those it knows.",
        'calibration c {\n  source = "measured here"\n  gem = 0.5\n}\n',
        "correct the name, or drop it.",
    ),
    "W206": (
        "measurements of other GPUs",
        "`measured` names a table without a row for the plan's GPU: its column `gpu` holds the gpu's name, that of the "
        "gpu it was made from, or another name that the catalog has for it. The calibrated model answers instead.",
        "",
        "correct the column, or drop the file.",
    ),
}
