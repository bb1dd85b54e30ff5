"""The codes of results of benchmarks, which `planc compare` reads: title, text, an example, and what to do."""

from __future__ import annotations

_FILES = "`planc compare` reads what vLLM's, SGLang's, AIPerf's, GuideLLM's and InferenceX's benchmarks write"

COMPARE_CODES: dict[str, tuple[str, str, str, str]] = {
    "E542": (
        "plan and results are swapped",
        "`planc compare` takes the plan first, and behind it the results of benchmarks.",
        "",
        "write the plan first.",
    ),
    "E560": (
        "a result of a benchmark cannot be read",
        f"{_FILES}: JSON, or a JSON object on each line. The file cannot be opened, is too large, or is no such text.",
        "",
        "name the file that the benchmark wrote, whole: `vllm bench serve --save-result`.",
    ),
    "E561": (
        "a result of no known benchmark",
        f"{_FILES}. Each has keys of its own, by which it is recognised; this file has those of none.",
        "",
        "look at the keys that the message names: is this another file of the same folder?",
    ),
    "E562": (
        "a wrong or missing field in a result of a benchmark",
        "The message has the path of the field, what was found, and what was expected. A run must say how many "
        "requests were served, which load was sent, and at least one latency or throughput.",
        "",
        "run the benchmark again; a result that is edited or cut is not compared.",
    ),
    "E563": (
        "the load of a run cannot be simulated",
        "Either no request was served, or the times at which requests were sent are not in the file: a benchmark that "
        "replays a trace does not write them.",
        "",
        "for a trace, state it in the plan (`workload { trace = ... }`) and use `planc simulate`.",
    ),
    "E565": (
        "the plan cannot serve the load of a run",
        "The requests of the run are simulated on the plan. None of them fits its KV cache, or the plan has an "
        "encoder, of which nothing comes out.",
        "",
        "compare with the plan that ran: `planc compile` shows its memory.",
    ),
    "E566": (
        "no engine can be fitted to these runs",
        "`planc compare --fit` moves constants of the plan's engine until the predictions come closest to the runs. "
        "It needs a plan that names an engine, the same for both pools of a plan with two, and runs with TTFT or TPOT.",
        "",
        "add `engine = vllm` (or another engine of the catalog) to the plan.",
    ),
    "N535": (
        "a run is of another model",
        "The file names a model that is not the plan's. Models with the same layers and sizes may have different "
        "names: then the note changes nothing.",
        "",
        "compare with a plan of the model that ran.",
    ),
    "N536": (
        "a run had another number of GPUs",
        "The file says on how many GPUs the server ran, and the plan has more or fewer ranks.",
        "",
        "compare with a plan of the same degrees.",
    ),
    "N537": (
        "a run had another load than the plan",
        "Each run is simulated with the load of its file, not with the plan's `workload`. The note says where they "
        "differ.",
        "",
        "nothing to do.",
    ),
    "N538": (
        "the server of a run had other settings than the plan's engine",
        "The file has settings of the server that a plan can state, and the plan's engine has other values.",
        "",
        "`--set`, as the hint says, compares with the settings that ran.",
    ),
    "N539": (
        "something of a run was assumed or left out",
        "A file does not say everything about its load: how lengths differ between requests, for example. The note "
        "says what the simulation assumed, and what it leaves out.",
        "",
        "let the benchmark write each request: `vllm bench serve --save-detailed`.",
    ),
}
