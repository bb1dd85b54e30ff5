"""Slips that people make who come from other tools: each has a place, a reason, and a fix that works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from plandsl.diagnostics import Diagnostic, PlanError, Span, nearest
from plandsl.driver import CompiledPlan, check_module, compile_text, open_text
from plandsl.grammar import hardware, models, places, requires, speculate, synonyms
from plandsl.grammar.modules import catalog_find, catalog_names
from plandsl.grammar.near import catalog_name
from plandsl.spec.formats import is_storage

ROOT = Path(__file__).parents[1]

MOST_NOISE = 3
"""Most diagnostics that one slip may have."""


def plan(
    model: str = "llama_3_1_8b",
    node: str = "h100_8",
    sharding: str = "tp = 8",
    workload: str = "input = 1000, output = 100",
    more: str = "",
) -> str:
    """A plan of one item on each line: the model is on line 2, ``more`` on line 6."""
    items = [f"model = {model}", f"node = {node}", f"sharding {{ {sharding} }}", f"workload {{ {workload} }}"]
    return "\n".join(["plan p {", *(f"  {item}" for item in [*items, *([more] if more else [])]), "}", ""])


class Slip(NamedTuple):
    """A text with one slip, the line and column of the caret, words of the reason, and the fix.

    The fix is pairs of a text that is written and the text to write instead, which a hint names. An empty text to write
    needs no naming, and where nothing is written the other text goes where the caret is. ``count`` is how many
    diagnostics there are.
    """

    text: str
    at: str
    says: str
    fix: tuple[tuple[str, str], ...]
    count: int = 1


def swap(old: str, new: str, *others: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """The fix that writes ``new`` instead of ``old``, and others."""
    return ((old, new), *others)


def model_id(written: str, meant: str) -> Slip:
    """An id of a model where its name stands."""
    return Slip(plan(model=written), "2:11", f"no model named `{written[:30]}", swap(written, meant))


def node_of(written: str, meant: str) -> Slip:
    """A number of GPUs where a node stands."""
    return Slip(plan(node=written), "3:10", f"no node named `{written}`", swap(written, meant))


def unknown_field(field: str, where: str, at: str, fix: tuple[tuple[str, str], ...]) -> Slip:
    """A field on the sixth line of a plan, or in one of its sections."""
    text = plan(more=field) if where == "plan" else plan(**{where: field})
    return Slip(text, at, f"no field `{field.split()[0]}`", fix)


INSERTED = swap("", "}")
"""The fix that writes a closing brace where the caret is."""

GPU = "gpu mine = h100_sxm with {{ {} }}\n"
BARE = "plan p {\n  model = llama_3_1_8b\n  node = h100_8\n"
LOAD = "  workload { input = 1000, output = 100 }\n"
DECLARED = "sharding hybrid { tp = 4 }\n\n" + plan(more="dp = 2").replace("sharding { tp = 8 }", "sharding = hybrid")

NAMES = {
    "a model id of Llama": model_id("meta-llama/Llama-3.1-70B", "llama_3_1_70b"),
    "a model id with a variant": model_id("meta-llama/Llama-3.1-70B-Instruct", "llama_3_1_70b"),
    "a model id with a format": model_id(
        "meta-llama/Llama-3.1-70B-Instruct-FP8", "llama_3_1_70b with { weights = fp8 }"
    ),
    "a model id that starts with its maker": model_id("meta-llama/Meta-Llama-3.1-8B", "llama_3_1_8b"),
    "a model id that the parser cannot read": model_id("Qwen/Qwen2.5-72B-Instruct", "qwen2_5_72b"),
    "a model id with a version": model_id("mistralai/Mistral-7B-v0.1", "mistral_7b_v0_1"),
    "a model id with a date": model_id("deepseek-ai/DeepSeek-V3-0324", "deepseek_v3"),
    "a model id with dashes only": model_id("openai/gpt-oss-120b", "gpt_oss_120b"),
    "a model id that says more than the name": model_id("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama_4_scout"),
    "dashes and a dot": model_id("llama-3.3-70b", "llama_3_3_70b"),
    "words": model_id("Llama 3.1 70B", "llama_3_1_70b"),
    "a GPU in words": node_of("8x NVIDIA H100 80GB", "h100_8"),
    "dots": model_id("llama3.1:8b", "llama_3_1_8b"),
    "a string for a model": Slip(
        plan(model='"llama_3_1_8b"'), "2:11", "found a string", swap('"llama_3_1_8b"', "llama_3_1_8b")
    ),
    "a model id in a string": Slip(
        plan(model='"Qwen/Qwen3-8B"'), "2:11", "found a string", swap('"Qwen/Qwen3-8B"', "qwen3_8b")
    ),
    "a count before a GPU": node_of("8xH100", "h100_8"),
    "a count and spaces": node_of("8 x H100", "h100_8"),
    "a count times a GPU": node_of("8 * h100", "h100_8"),
    "a count after a GPU": node_of("H100x8", "h100_8"),
    "a dash before the count": node_of("h100-8", "h100_8"),
    "a GPU with its memory": node_of("8xA100-80GB", "a100_80_8"),
    "a name of its maker": node_of("dgx_h100", "h100_8"),
    "a GPU without a count": node_of("H100", "h100_8"),
    "a gpu for a node": node_of("h100_sxm", "h100_sxm_8"),
    "an odd count": Slip(
        plan(node="6xH200", sharding="tp = 2"), "3:10", "no node named", swap("6xH200", "h200_8 with { count = 6 }")
    ),
    "a plan with a dash in its name": Slip(
        plan().replace("plan p", "plan my-plan"),
        "1:6",
        "`my-plan` is not a name",
        swap("plan my-plan {", "plan my_plan {"),
    ),
    "a plan with its name in quotes": Slip(
        plan().replace("plan p", 'plan "my plan"'), "1:6", "is not a name", swap('plan "my plan" {', "plan my_plan {")
    ),
    "a plan whose name starts with a digit": Slip(
        plan().replace("plan p", "plan 70b"), "1:6", "`70b` is not a name", swap("plan 70b {", "plan p70b {")
    ),
    "two names equally near": Slip(plan(node="h201_8"), "3:10", "no node named", swap("h201_8", "h200_8")),
    "the other of two names": Slip(plan(node="h201_8"), "3:10", "no node named", swap("h201_8", "h20_8")),
    "a version left out": Slip(
        plan(model="llama_3_70b"), "2:11", "no model named", swap("llama_3_70b", "llama_3_3_70b")
    ),
    "a typo": Slip(plan(model="lama_3_1_8b"), "2:11", "no model named", swap("lama_3_1_8b", "llama_3_1_8b")),
    "an engine in capitals": Slip(plan(more="engine = vLLM"), "6:12", "no engine named", swap("vLLM", "vllm")),
    "no engine": Slip(plan(more="engine = None"), "6:12", "no engine named", swap("  engine = None\n", "")),
    "a sharding by its degrees": Slip(
        plan().replace("sharding { tp = 8 }", "sharding = tp4_pp2"),
        "4:14",
        "no sharding named",
        swap("sharding = tp4_pp2", "sharding { tp = 4, pp = 2 }"),
    ),
}

QUOTES = {
    "typographic quotes": Slip(
        plan(model="“llama_3_1_8b”"), "2:11", "typographic", swap("“llama_3_1_8b”", "llama_3_1_8b")
    ),
    "French quotes": Slip(plan(model="«llama_3_1_8b»"), "2:11", "typographic", swap("«llama_3_1_8b»", "llama_3_1_8b")),
    "backticks": Slip(plan(model="`llama_3_1_8b`"), "2:11", "backticks", swap("`llama_3_1_8b`", "llama_3_1_8b")),
    "single quotes": Slip(
        plan(model="'llama_3_1_8b'"), "2:11", "single quotes", swap("'llama_3_1_8b'", "llama_3_1_8b")
    ),
    "a model id in typographic quotes": Slip(
        plan(model="“Qwen/Qwen3-8B”"), "2:11", "typographic", swap("“Qwen/Qwen3-8B”", "qwen3_8b")
    ),
    "quotes that do not match": Slip(plan(model='“qwen3_8b"'), "2:11", "typographic", swap('“qwen3_8b"', "qwen3_8b")),
    "a string in single quotes": Slip(
        GPU.format("source = 'a data sheet'"), "1:37", "double quotes", swap("'a data sheet'", '"a data sheet"')
    ),
    "a string in typographic quotes": Slip(
        GPU.format("source = \u2018a data sheet\u2019"),
        "1:37",
        "double quotes",
        swap("\u2018a data sheet\u2019", '"a data sheet"'),
    ),
    "a field in quotes": Slip(plan(sharding='"tp" = 8'), "4:14", "without quotes", swap('"tp" = 8', "tp = 8")),
}

PLACES = {
    "a degree straight in a plan": Slip(
        BARE + "  tp = 8\n" + LOAD + "}\n", "4:3", "no field `tp`", swap("tp = 8", "sharding { tp = 8 }")
    ),
    "two degrees straight in a plan": Slip(
        BARE + "  tp = 4\n  pp = 2\n" + LOAD + "}\n",
        "4:3",
        "no field `tp`",
        swap("  tp = 4\n", "", ("pp = 2", "sharding { tp = 4, pp = 2 }")),
    ),
    "lengths straight in a plan": Slip(
        BARE + "  input = 2000\n  output = 100\n}\n",
        "4:3",
        "no field `input`",
        swap("input = 2000", "workload { input = 2000, output = 100 }", ("  output = 100\n", "")),
    ),
    "a degree beside a sharding": unknown_field(
        "dp = 1", "plan", "6:3", swap("sharding { tp = 8 }", "sharding { tp = 8, dp = 1 }", ("  dp = 1\n", ""))
    ),
    "a degree beside a named sharding": Slip(
        DECLARED,
        "8:3",
        "no field `dp`",
        swap("sharding = hybrid", "sharding = hybrid with { dp = 2 }", ("  dp = 2\n", "")),
    ),
    "a batch beside a workload": unknown_field(
        "batch = 8",
        "plan",
        "6:3",
        swap(
            "workload { input = 1000, output = 100 }",
            "workload { input = 1000, output = 100, batch = 8 }",
            ("  batch = 8\n", ""),
        ),
    ),
    "a format beside a model": unknown_field(
        "weights = fp8",
        "plan",
        "6:3",
        swap("model = llama_3_1_8b", "model = llama_3_1_8b with { weights = fp8 }", ("  weights = fp8\n", "")),
    ),
    "a setting of the plan in a section": Slip(
        plan(sharding="tp = 8, memory_fraction = 0.9", more="# settings"),
        "4:22",
        "no field `memory_fraction`",
        swap(", memory_fraction = 0.9", "", ("# settings", "memory_fraction = 0.9")),
    ),
    "a field without a plan": Slip(
        "model = llama_3_1_8b\n", "1:7", "is a field of a plan", swap("model =", "model NAME =")
    ),
}

BRACES = {
    "an inner brace on one line": Slip(
        BARE + "  sharding { tp = 8\n" + LOAD + "}\n", "4:20", "to close the `sharding`", INSERTED
    ),
    "an inner brace of several lines": Slip(
        BARE + "  sharding {\n    tp = 8\n" + LOAD + "}\n",
        "5:11",
        "to close the `sharding`",
        INSERTED,
    ),
    "an inner brace without indentation": Slip(
        (BARE + "  sharding {\n    tp = 8\n" + LOAD + "}\n").replace("  ", ""),
        "5:7",
        "to close the `sharding`",
        INSERTED,
    ),
    "an inner brace within a line": Slip(
        "plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 8, workload { input = 1, output = 2 } }\n",
        "1:64",
        "to close the `sharding`",
        INSERTED,
    ),
    "the brace of a `with`": Slip(
        plan(model="llama_3_1_8b with { weights = fp8"), "2:44", "to close the `with`", INSERTED
    ),
    "the last inner brace": Slip(
        BARE + "  workload { input = 1000, output = 100\n}\nlet a = 1\n",
        "4:40",
        "to close the `workload`",
        INSERTED,
    ),
    "an opening brace": Slip(
        BARE + "  sharding tp = 8 }\n" + LOAD + "}\n",
        "4:11",
        "expected `{`",
        swap("sharding", "sharding {"),
    ),
    "an equals sign before a brace": Slip(
        plan().replace("sharding {", "sharding = {"), "4:12", "unexpected `=`", swap("sharding = {", "sharding {")
    ),
    "an equals sign before the brace of a plan": Slip(
        plan().replace("plan p {", "plan p = {"), "1:8", "unexpected `=`", swap("plan p = {", "plan p {")
    ),
    "a colon before a brace": Slip(
        plan().replace("sharding {", "sharding: {"), "4:11", "unexpected `:`", swap("sharding: {", "sharding {")
    ),
    "a plan without a name": Slip(
        plan().replace("plan p", "plan"), "1:6", "expected a name", swap("plan {", "plan NAME {")
    ),
}


def in_engine(word: str, value: str, engine: str) -> Slip:
    """A limit of an engine that stands in the plan."""
    hint = f"engine = {engine} with {{ max_requests = {value} }}"
    return unknown_field(f"{word} = {value}", "plan", "6:3", swap(f"{word} = {value}", hint))


def in_model(word: str, value: str, own: str) -> Slip:
    """A field of the model that stands in the plan."""
    changed = f"model = llama_3_1_8b with {{ {own} }}"
    return unknown_field(
        f"{word} = {value}", "plan", "6:3", swap("model = llama_3_1_8b", changed, (f"  {word} = {value}\n", ""))
    )


def of_format(word: str, own: str, field: str = "weights") -> Slip:
    """A number format of another tool."""
    text = plan(model=f"llama_3_1_8b with {{ {field} = {word} }}")
    return Slip(text, f"2:{34 + len(field)}", f"no number format `{word}`", swap(word, own))


OWN_MODEL = """\
model mine {
  layers = 2, hidden = 64, heads = 2, head_dim = 32, vocab = 128, weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    x = x + (x @ w_in[hidden, heads, head_dim]) @ w_out[heads, head_dim, hidden]
  }
  head x @ w_head[hidden, vocab]
}
"""

SYNONYMS = {
    "isl and osl": Slip(
        plan(workload="isl = 1000, osl = 100"),
        "5:14",
        "no field `isl`",
        swap("isl = 1000", "input = 1000", ("osl = 100", "output = 100")),
        count=2,
    ),
    "lengths of vLLM's benchmark": Slip(
        plan(workload="random_input_len = 1000, random_output_len = 100"),
        "5:14",
        "no field `random_input_len`",
        swap("random_input_len = 1000", "input = 1000", ("random_output_len = 100", "output = 100")),
        count=2,
    ),
    "max_tokens": unknown_field(
        "input = 1000, max_tokens = 100", "workload", "5:28", swap("max_tokens = 100", "output = 100")
    )._replace(says="no field `max_tokens`"),
    "request_rate": Slip(
        plan(workload="input = 1000, output = 100, request_rate = 2"),
        "5:42",
        "no field `request_rate`",
        swap("request_rate = 2", "rate = 2 req/s"),
    ),
    "max_concurrency": Slip(
        plan(workload="input = 1000, output = 100, max_concurrency = 64"),
        "5:42",
        "no field `max_concurrency`",
        swap("max_concurrency = 64", "concurrency = 64"),
    ),
    "num_prompts": Slip(
        plan(workload="input = 1000, output = 100, concurrency = 8, num_prompts = 64"),
        "5:59",
        "no field `num_prompts`",
        swap("num_prompts = 64", "requests = 64"),
    ),
    "batch_size": Slip(
        plan(workload="input = 1000, output = 100, batch_size = 64"),
        "5:42",
        "no field `batch_size`",
        swap("batch_size = 64", "batch = 64"),
    ),
    "tensor_parallel_size": unknown_field(
        "tensor_parallel_size = 8", "sharding", "4:14", swap("tensor_parallel_size = 8", "tp = 8")
    ),
    "tensor_parallel_size in a plan": Slip(
        BARE + "  tensor_parallel_size = 8\n" + LOAD + "}\n",
        "4:3",
        "no field `tensor_parallel_size`",
        swap("tensor_parallel_size = 8", "sharding { tp = 8 }"),
    ),
    "pipeline_parallel_size": unknown_field(
        "pipeline_parallel_size = 2", "sharding", "4:14", swap("pipeline_parallel_size = 2", "pp = 2")
    ),
    "tp_size": unknown_field("tp_size = 8", "sharding", "4:14", swap("tp_size = 8", "tp = 8")),
    "tensor_model_parallel_size": unknown_field(
        "tensor_model_parallel_size = 8", "sharding", "4:14", swap("tensor_model_parallel_size = 8", "tp = 8")
    ),
    "data_parallel_size": unknown_field(
        "data_parallel_size = 8", "sharding", "4:14", swap("data_parallel_size = 8", "dp = 8")
    ),
    "enable_expert_parallel": unknown_field(
        "enable_expert_parallel = true", "sharding", "4:14", swap("enable_expert_parallel = true", "ep = 8")
    )._replace(text=plan(model="mixtral_8x7b", sharding="enable_expert_parallel = true")),
    "a switch that is off": unknown_field(
        "enable_chunked_prefill = false", "plan", "6:3", swap("  enable_chunked_prefill = false\n", "")
    ),
    "a format that the other tool chooses": unknown_field(
        "kv_cache_dtype = auto", "plan", "6:3", swap("  kv_cache_dtype = auto\n", "")
    ),
    "a degree in capitals": unknown_field("TP = 8", "sharding", "4:14", swap("TP", "tp")),
    "a degree in one word": Slip(plan(sharding="TP8"), "4:14", "without a name", swap("TP8", "tp = 8")),
    "max_num_seqs": in_engine("max_num_seqs", "256", "vllm"),
    "max_running_requests": in_engine("max_running_requests", "256", "sglang"),
    "max_batch_size": in_engine("max_batch_size", "256", "trtllm"),
    "gpu_memory_utilization": unknown_field(
        "gpu_memory_utilization = 0.9", "plan", "6:3", swap("gpu_memory_utilization = 0.9", "memory_fraction = 0.9")
    ),
    "mem_fraction_static": unknown_field(
        "mem_fraction_static = 0.9", "plan", "6:3", swap("mem_fraction_static = 0.9", "memory_fraction = 0.9")
    ),
    "max_num_batched_tokens": unknown_field(
        "max_num_batched_tokens = 8192", "plan", "6:3", swap("max_num_batched_tokens = 8192", "step_tokens = 8192")
    ),
    "chunked_prefill_size": unknown_field(
        "chunked_prefill_size = 512", "plan", "6:3", swap("chunked_prefill_size = 512", "chunked_prefill = 512")
    ),
    "enable_chunked_prefill": unknown_field(
        "enable_chunked_prefill = true", "plan", "6:3", swap("enable_chunked_prefill = true", "chunked_prefill = 2048")
    ),
    "max_model_len": in_model("max_model_len", "8192", "max_context = 8192"),
    "dtype": in_model("dtype", "bfloat16", "weights = bf16"),
    "quantization": in_model("quantization", '"awq"', "weights = int4_128"),
    "kv_cache_dtype": in_model("kv_cache_dtype", "fp8_e4m3", "kv_cache = fp8"),
    "num_hidden_layers": Slip(
        OWN_MODEL.replace("layers = 2", "num_hidden_layers = 2"),
        "1:7",
        "no `layers`",
        swap("num_hidden_layers = 2", "layers = 2"),
    ),
    "gpu for a node": unknown_field("gpu = h200", "plan", "6:3", swap("gpu = h200", "node = h200_8"))._replace(
        text=plan(more="gpu = h200").replace("  node = h100_8\n", "\n")
    ),
    "bfloat16": of_format("bfloat16", "bf16"),
    "half": of_format("half", "fp16"),
    "fp8_e4m3": of_format("fp8_e4m3", "fp8"),
    "float8_e4m3fn for a cache": of_format("float8_e4m3fn", "fp8", "kv_cache"),
    "a format in capitals": of_format("FP8", "fp8"),
    "awq": of_format("awq", "int4_128"),
    "w8a8": of_format("w8a8", "int8_channel"),
    "itl": Slip(plan(more="require itl <= 20 ms"), "6:11", "no metric `itl`", swap("itl", "tpot")),
    "e2e_latency": Slip(plan(more="require e2e_latency <= 20 s"), "6:11", "no metric", swap("e2e_latency", "latency")),
    "a percentile as a prefix": Slip(
        plan(workload="input = 1000, output = 100, concurrency = 4", more="require p99_ttft <= 2 s"),
        "6:11",
        "no metric `p99_ttft`",
        swap("p99_ttft", "p99(ttft)"),
    ),
    "a metric in capitals": Slip(plan(more="require TTFT <= 2 s"), "6:11", "no metric `TTFT`", swap("TTFT", "ttft")),
}

WRITING = {
    "a comment with slashes": Slip(
        plan(more="step_tokens = 4096  // of the engine"),
        "6:23",
        "starts no comment",
        swap("// of the engine", "# of the engine"),
    ),
    "a comment of a whole line": Slip(
        "// my plan\n" + plan(), "1:1", "starts no comment", swap("// my plan", "# my plan")
    ),
    "a comment with a quote": Slip(
        "// what isn't in it\n" + plan(), "1:1", "starts no comment", swap("// what isn't in it", "# what isn't in it")
    ),
    "a comment with a star": Slip(
        "/* my plan */\n" + plan(), "1:1", "starts no comment", swap("/* my plan */", "# my plan")
    ),
    "a comment with dashes": Slip("-- my plan\n" + plan(), "1:1", "starts no comment", swap("-- my plan", "# my plan")),
    "a fence": Slip("```\n" + plan() + "```\n", "1:1", "Markdown", swap("```\n", "", ("```\n", ""))),
    "true in capitals": Slip(plan(more="fuse_norms = True"), "6:16", "no value named", swap("True", "true")),
    "a colon for an equals sign": Slip(plan(sharding="tp: 8"), "4:16", "expected `=`", swap("tp: 8", "tp = 8")),
    "a number with commas": Slip(
        plan(workload="input = 1,000, output = 100"), "5:22", "without commas", swap("1,000", "1_000")
    ),
    "a number of thousands": Slip(
        plan(workload="input = 2k, output = 100"), "5:23", "no unit `k`", swap("2k", "2_000")
    ),
    "a count of tokens": Slip(
        plan(workload="input = 1000 tokens, output = 100"), "5:27", "no unit `tokens`", swap("1000 tokens", "1000")
    ),
    "a rate without its unit": Slip(
        plan(workload="input = 1000, output = 100, rate = 2"),
        "5:49",
        "plain number",
        swap("rate = 2", "rate = 2 req/s"),
    ),
    "a time without its unit": Slip(
        plan(more="require ttft <= 2"), "6:19", "has no unit", swap("require ttft <= 2", "require ttft <= 2 s")
    ),
    "gigabits for gigabytes": Slip(GPU.format("memory = 80 Gb"), "1:40", "no unit `Gb`", swap("80 Gb", "80 GB")),
    "bits per second": Slip(
        GPU.format("bandwidth = 400 Gb/s"), "1:44", "no unit `Gb/s`", swap("400 Gb/s", "400 Gbit/s")
    ),
    "bytes per second in one word": Slip(
        GPU.format("bandwidth = 3 TBps"), "1:42", "no unit `TBps`", swap("TBps", "TB/s")
    ),
    "a unit per sec": Slip(GPU.format("bandwidth = 3 TB/sec"), "1:42", "no unit `TB/sec`", swap("TB/sec", "TB/s")),
    "a unit in words": Slip(
        GPU.format("memory = 80 gigabytes"), "1:40", "no unit `gigabytes`", swap("gigabytes", "GB")
    ),
    "a unit in small letters": Slip(GPU.format("memory = 80 gb"), "1:40", "no unit `gb`", swap("gb", "GB")),
}

SEARCH = "search best { plan = p, vary tp VALUES\n  GOAL throughput }\n" + plan()

WRITING |= {
    "a model id with fields": Slip(
        plan(model="meta-llama/Llama-3.1-8B with { weights = fp8 }"),
        "2:11",
        "no model named `meta-llama/Llama-3.1-8B`",
        swap("meta-llama/Llama-3.1-8B", "llama_3_1_8b"),
    ),
    "fields without `with`": Slip(
        plan(model="llama_3_1_8b { weights = fp8 }"),
        "2:24",
        "unexpected `{`",
        swap("llama_3_1_8b {", "llama_3_1_8b with {"),
    ),
    "a number in single quotes": Slip(plan(sharding="tp = '8'"), "4:19", "a number has no quotes", swap("'8'", "8")),
    "a number in a string": Slip(plan(sharding='tp = "8"'), "4:19", "found a string", swap('"8"', "8")),
    "an equals sign in a requirement": Slip(
        plan(more="require ttft = 200 ms"), "6:16", "unexpected `=`", swap("= 200 ms", "<= 200 ms")
    ),
    "a comparison the wrong way round": Slip(
        plan(more="require ttft =< 200 ms"), "6:16", "unexpected `=<`", swap("=<", "<=")
    ),
    "a sign of mathematics": Slip(
        plan(more="require ttft \u2264 2 s"), "6:16", "unexpected character", swap("\u2264", "<=")
    ),
    "an arrow": Slip(
        plan(sharding="mesh t = 8; heads, kv_heads, ffn \u2192 t"), "4:47", "unexpected character", swap("\u2192", "->")
    ),
    "a rate per sec": Slip(
        plan(workload="input = 1000, output = 100, rate = 2 req/sec"),
        "5:51",
        "no unit `req/sec`",
        swap("req/sec", "req/s"),
    ),
    "a rate of nothing": Slip(
        plan(workload="input = 1000, output = 100, rate = 2/s"), "5:50", "no unit `/s`", swap("2/s", "2 req/s")
    ),
    "a rate per minute": Slip(
        plan(workload="input = 1000, output = 100, rate = 120 req/min"),
        "5:53",
        "no unit `req/min`",
        swap("120 req/min", "120 req / 1 min"),
    ),
    "tokens per sec": Slip(
        plan(more="require throughput >= 1 tokens/sec"), "6:27", "no unit `tokens/sec`", swap("tokens/sec", "tok/s")
    ),
    "an equals sign in `vary`": Slip(
        SEARCH.replace("VALUES", "= [1, 2]").replace("GOAL", "maximize"), "1:33", "expected `in`", swap("tp =", "tp in")
    ),
    "a goal misspelt": Slip(
        SEARCH.replace("VALUES", "in [1, 2]").replace("GOAL", "maximise"),
        "2:12",
        "after `maximise`",
        swap("maximise", "maximize"),
    ),
    "a word of another tool that varies": Slip(
        SEARCH.replace("VALUES", "in [1, 2]").replace("GOAL", "maximize").replace("tp", "tensor_parallel_size", 1),
        "1:30",
        "that could vary",
        swap("vary tensor_parallel_size in", "vary tp in"),
    ),
    "a link by its brand": Slip(
        "node n = h100_8 with { link { topology = nvlink } }\n",
        "1:42",
        "no topology `nvlink`",
        swap("nvlink", "switch"),
    ),
    "an axis for a degree": Slip(
        plan(sharding="tensor = 8"), "4:14", "no field `tensor`", swap("tensor = 8", "tp = 8")
    ),
    "an import": Slip(
        'include "other.plan"\n' + plan(), "1:9", "expected a name after `include`", swap('include "other.plan"\n', "")
    ),
    "a constant": Slip("const a = 3\n", "1:1", "no kind of declaration", swap("const a =", "let a =")),
}

SHELL = "vllm serve meta-llama/Llama-3.1-8B --tensor-parallel-size 8 --max-num-seqs 64\n"
SHELL_PLAN = (
    "plan serve { model = llama_3_1_8b, node = h100_8, sharding { tp = 8 }, engine = vllm with { max_requests = 64 }, "
    "workload { input = 1000, output = 100 } }"
)
LONG_SHELL = """\
$ CUDA_VISIBLE_DEVICES=0,1 python -m sglang.launch_server --model-path Qwen/Qwen3-8B \\
    --tp 2 --mem-fraction-static 0.8
"""
LONG_PLAN = (
    "plan serve { model = qwen3_8b, node = h100_8, sharding { tp = 2 }, engine = sglang, "
    "workload { input = 1000, output = 100 }, memory_fraction = 0.8 }"
)
YAML = "# served so\nmodel: llama_3_1_8b\nsharding:\n  tp: 4\nworkload:\n  isl: 2000\n"
JSON = '{\n  "model": "meta-llama/Llama-3.1-8B",\n  "tensor_parallel_size": 2,\n  "osl": 50\n}\n'
PYTHON = 'from vllm import LLM\n\nllm = LLM(model="Qwen/Qwen3-8B", tensor_parallel_size=2, dtype="bfloat16")\n'
TOML = '[plan]\nmodel = "qwen3_8b"\nnode = "h200_8"\n'

PASTED = {
    "a command": Slip(SHELL, "1:1", "a command for a shell, not a plan", swap(SHELL, SHELL_PLAN)),
    "a command on two lines": Slip(LONG_SHELL, "1:1", "a command for a shell", swap(LONG_SHELL, LONG_PLAN)),
    "YAML": Slip(
        YAML,
        "2:1",
        "YAML, not a plan",
        swap(
            YAML,
            "plan serve { model = llama_3_1_8b, node = h100_8, sharding { tp = 4 }, "
            "workload { input = 2000, output = 100 } }",
        ),
    ),
    "JSON": Slip(
        JSON,
        "1:1",
        "JSON, not a plan",
        swap(
            JSON,
            "plan serve { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }, "
            "workload { input = 1000, output = 50 } }",
        ),
    ),
    "Python": Slip(
        PYTHON,
        "1:1",
        "Python, not a plan",
        swap(
            PYTHON,
            "plan serve { model = qwen3_8b with { weights = bf16 }, node = h100_8, sharding { tp = 2 }, engine = vllm, "
            "workload { input = 1000, output = 100 } }",
        ),
    ),
    "TOML": Slip(
        TOML,
        "1:1",
        "TOML, not a plan",
        swap(TOML, "plan serve { model = qwen3_8b, node = h200_8, workload { input = 1000, output = 100 } }"),
    ),
    "an option in a plan": Slip(
        BARE + "  --tensor-parallel-size 8\n" + LOAD + "}\n",
        "4:3",
        "not part of a plan",
        swap("--tensor-parallel-size 8", "sharding { tp = 8 }"),
    ),
    "Python above a plan": Slip("import plandsl\n" + plan(), "1:1", "this is Python", swap("import plandsl\n", "")),
    "a command of planc": Slip(
        "planc compile serve.plan\n", "1:1", "a command for a shell", swap("planc compile serve.plan\n", "")
    ),
}

TABLE = NAMES | QUOTES | PLACES | BRACES | SYNONYMS | WRITING | PASTED


def errors(text: str) -> list[Diagnostic]:
    """The errors about a text, in the order of the source; it is compiled if it has none."""
    found = [d for d in check_module(open_text(text)) if d.severity == "error"]
    return sorted(found, key=lambda d: d.span or Span("", 0, 0, 0, 0))


def test_the_table_is_long_and_says_everything_once() -> None:
    parts = (NAMES, QUOTES, PLACES, BRACES, SYNONYMS, WRITING, PASTED)
    assert len(TABLE) == sum(map(len, parts)) >= 80
    assert all(slip.count <= MOST_NOISE for slip in TABLE.values())
    assert all(slip.count == 1 or len(slip.fix) == slip.count for slip in TABLE.values())


@pytest.mark.parametrize("name", TABLE)
def test_a_slip_has_a_place_a_reason_and_a_fix_that_works(name: str) -> None:
    slip = TABLE[name]
    found = errors(slip.text)
    assert len(found) == slip.count
    first = found[0]
    assert first.span is not None
    assert f"{first.span.line}:{first.span.column}" == slip.at
    assert slip.says in first.message
    fixed = slip.text
    for written, instead in slip.fix:
        assert written in fixed
        assert any(instead in d.hint for d in found), [d.hint for d in found]
        fixed = fixed.replace(written, instead, 1) if written else insert(fixed, first.span, instead)
    assert not errors(fixed)


def insert(text: str, span: Span, new: str) -> str:
    """``text`` with something new where a span starts."""
    lines = text.split("\n")
    line = lines[span.line - 1]
    lines[span.line - 1] = line[: span.column - 1] + new + line[span.column - 1 :]
    return "\n".join(lines)


def test_each_word_of_another_tool_stands_for_a_field_of_a_plan() -> None:
    fields = places.SECTIONS | {"gpu": hardware.GPU, "model": models.FIELDS, "speculate": speculate.SPECULATE}
    for synonym in synonyms.FIELDS.values():
        section, _, name = synonym.path.rpartition(".")
        assert name in fields[section], synonym
    assert all(is_storage(own) for own, _ in synonyms.FORMATS.values())
    assert {own for own, _ in synonyms.METRICS.values()} <= requires.METRICS.keys()
    assert not any(word in names for word in synonyms.FIELDS for names in places.SECTIONS.values())


@pytest.mark.parametrize("brace", ["{", "}"])
def test_each_brace_left_out_is_told_at_its_line(brace: str) -> None:
    """The first finding is about the brace, and hardly anything follows from it."""
    text = (ROOT / "examples" / "experts.plan").read_text("utf-8")
    places = [match.start() for match in re.finditer(r"#.*|([{}])", text) if match[1] == brace]
    assert len(places) > 5
    for at in places:
        module = open_text(text[:at] + text[at + 1 :])
        module.check()
        found = sorted(module.errors, key=lambda d: d.span or Span("", 0, 0, 0, 0))
        assert len(found) <= MOST_NOISE
        assert found[0].code in ("E101", "E104")
        assert found[0].span is not None
        assert abs(found[0].span.line - text.count("\n", 0, at) - 1) <= 1


# ---- names that nobody means


@pytest.mark.parametrize("node", ["b100_8", "p100_8", "mi250_8", "rtx_5080_8", "tpu_v4_8"])
def test_other_hardware_is_not_offered(node: str) -> None:
    (found,) = errors(plan(node=node))
    assert found.hint == "the catalog has none like it: see `planc catalog node`, or declare `node NAME { ... }`"


@pytest.mark.parametrize("model", ["palm_2", "gpt_4", "grok_1", "gemini_2_27b", "yi_34b", "some-lab/Unheard-7B"])
def test_another_family_of_models_is_not_offered(model: str) -> None:
    (found,) = errors(plan(model=model))
    assert found.hint.startswith("the catalog has none like it")
    assert 'hf("config.json")' in found.hint


@pytest.mark.parametrize("kind", ["model", "gpu", "node", "cluster", "engine"])
def test_a_name_of_the_catalog_is_known_however_it_is_written(kind: str) -> None:
    for name in (name for name in catalog_names(kind) if catalog_find(kind, name)):
        dashed = name.replace("_", "-")
        for written in (name.upper(), dashed, name.replace("_", "."), f"some-lab/{dashed.title()}"):
            assert catalog_name(kind, written) == name, written


def test_names_of_the_file_are_offered_whatever_their_family() -> None:
    (found,) = errors("model zephyr = llama_3_1_8b\n" + plan(model="zefyr"))
    assert found.hint == "did you mean `zephyr`?"


def test_equally_near_names_are_all_offered() -> None:
    (found,) = errors(plan(node="h201_8"))
    assert found.hint == "did you mean `h20_8` or `h200_8`?"
    assert nearest("abx", ["abc", "abd", "acx", "zzz"]) == ["acx", "abd", "abc"]
    assert nearest("tpto", ["tpot", "ttft"]) == ["tpot"]


# ---- overrides and commands


def overridden(text: str, path: str, value: str) -> tuple[CompiledPlan, list[str]]:
    """The plan of a text with an override, and what notes say about it."""
    (compiled,) = compile_text(text, overrides=[(path, value)])
    return compiled, [note.message for note in compiled.notes if note.code == "N202"]


def test_with_takes_the_place_of_a_rival() -> None:
    text = "workload a { input = 1000, output = 100, batch = 8 }\nworkload b = a with { concurrency = 64 }\n"
    (compiled,) = compile_text(text + plan().replace("workload { input = 1000, output = 100 }", "workload = b"))
    assert (compiled.spec.workload.batch, compiled.spec.workload.concurrency) == (1, 64)


def test_an_override_takes_the_place_of_its_rival_and_says_so() -> None:
    batch = "input = 1000, output = 100, batch = 8"
    compiled, said = overridden(plan(workload=batch), "workload.concurrency", "64")
    assert (compiled.spec.workload.batch, compiled.spec.workload.concurrency) == (1, 64)
    assert said == ["`concurrency` takes the place of `batch = 8`"]
    ongoing = "input = 1000, output = 100, concurrency = 64, requests = 100"
    compiled, said = overridden(
        "workload w { "
        + ongoing
        + " }\n"
        + plan(more="").replace("workload { input = 1000, output = 100 }", "workload = w"),
        "workload.batch",
        "4",
    )
    assert (compiled.spec.workload.batch, compiled.spec.workload.concurrency) == (4, None)
    assert said == ["`batch` takes the place of `concurrency = 64`", "`batch` takes the place of `requests = 100`"]
    compiled, said = overridden(plan(), "cluster", "h100_8x4")
    assert compiled.spec.cluster is not None
    assert said == ["`cluster` takes the place of `node = h100_8`"]
    assert overridden(plan(workload=batch), "workload.batch", "16")[1] == []


@pytest.mark.parametrize(
    ("path", "value", "hint"),
    [
        ("model", "Qwen/Qwen2.5-72B", "write `qwen2_5_72b`"),
        ("node", "8xH200", "write `h200_8`"),
        ("dp", "2", "write `--set sharding.dp=2`"),
        ("batch", "64", "write `--set workload.batch=64`"),
        ("workload.isl", "64", "write `--set workload.input=64`"),
        ("tensor_parallel_size", "4", "write `--set sharding.tp=4`"),
        ("request_rate", "4", "write `--set 'workload.rate=4 req/s'`"),
    ],
)
def test_an_override_of_another_tool_gives_the_path(path: str, value: str, hint: str) -> None:
    module = open_text(plan(), overrides=[(path, value)])
    found = [d for d in check_module(module) if d.severity == "error"]
    assert len(found) == 1
    assert hint in found[0].hint


def test_the_other_command_is_named() -> None:
    search = plan().replace("plan p", "search best").replace("sharding { tp = 8 }", "maximize throughput")
    with pytest.raises(PlanError) as wrong:
        compile_text(search, "best.plan")
    assert [d.hint for d in wrong.value.diagnostics] == [
        "it has the search `best`: `planc search best.plan` finds its plans"
    ]


def test_a_sound_text_loads_no_word_of_another_tool() -> None:
    code = (
        "import sys; from plandsl.driver import compile_file; compile_file('examples/llama3_70b.plan');"
        "print([m for m in sys.modules if m.split('.')[-1] in ('near', 'homes', 'foreign', 'repair', 'synonyms')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
