"""Single words of launch files, both ways: how a word reads in a plan, and what a plan writes or is refused for."""

from __future__ import annotations

from pathlib import Path

import pytest

from plandsl.backends.engines.commands import CONNECTOR
from plandsl.backends.engines.plans import deploy
from plandsl.backends.engines.scripts import write_script
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_file, compile_text
from plandsl.spec.scheduler import SchedulerName
from tests.test_engines_unsaid import told

LOAD = "workload { input = 64, output = 8, batch = 8 }"
SHORT = "input = 9, output = 9"
CONFIGS = "trtllm-serve llama_3_1_8b "
ADAPTERS = (
    "model = llama_3_1_8b with { lora { adapters = 4, rank = RANK, targets = [w_q], host_bandwidth = 20 GB/s, "
    "load_time = 2 ms, host_adapters = 40, disk_bandwidth = 2 GB/s } }"
)
WAVES = (
    "workload { input = uniform(32, 96), output = uniform(4, 12), "
    "rate = on_off(9 req/s, on = 2 s, off = 3 s), duration = 60 s }"
)


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        ('trtllm-serve deepseek_v3 --tp_size 8 --speculative_config {"decoding_type":"MTP","max_draft_len":2}',
         "speculate { draft = mtp, tokens = 2,"),
        ('trtllm-serve deepseek_v3 --tp_size 8 --speculative_config {"decoding_type":"MTP",'
         '"num_nextn_predict_layers":3}',
         "speculate { draft = mtp, tokens = 3,"),
        (CONFIGS + '--speculative_config {"decoding_type":"NGram","max_draft_len":4}', "speculate { tokens = 4,"),
        (CONFIGS + '--speculative_config {"decoding_type":"Draft_Target","max_draft_len":2,"speculative_model":'
         '"llama_3_2_1b"}', "draft = llama_3_2_1b, tokens = 2,"),
        ('vllm serve deepseek_v3 -tp 8 --speculative-config {"method":"deepseek_mtp","num_speculative_tokens":2}',
         "draft = mtp, tokens = 2,"),
        ('vllm serve llama_3_1_8b -tp 2 --speculative-config {"model":"llama_3_2_1b","num_speculative_tokens":2}',
         "acceptance = 70 %, sharding { tp = 1 } }"),
        ("sglang serve llama_3_1_8b --speculative-algorithm STANDALONE --speculative-num-steps 2 "
         "--speculative-draft-model-path llama_3_2_1b", "draft = llama_3_2_1b, tokens = 2,"),
        ("sglang serve qwen3_235b_a22b --tp 8 --attn-dp-size 4 --ep-size 2", "batch -> whole, dealt\n"),
        ("sglang serve qwen3_235b_a22b --tp 8 --attn-dp-size 4 --ep-size 2", "expert_ffn -> dealt, inner\n"),
        ("vllm serve qwen3_235b_a22b -tp 2 -dp 4", "expert_ffn -> dealt, inner\n"),
        ("vllm serve qwen3_235b_a22b -tp 2 -dp 4 -pp 2 --enable-expert-parallel", "experts -> whole, heads\n"),
        ("vllm serve llama_3_1_8b -tp 2 -pp 2 -dp 2", "sharding { tp = 2, pp = 2, dp = 2 }"),
        ("vllm serve llama_3_1_8b --max-model-len auto", "engine own = vllm\n"),
    ],
)  # fmt: skip
def test_words_of_an_engine_become_words_of_a_plan(words: str, plan: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--node", "h200_8", "--", *words.split()]) == 0
    assert plan in capsys.readouterr().out


def test_words_that_a_plan_does_not_need_are_listed_by_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    words = '--cuda_graph_config {"a":1} --backend pytorch'
    assert main(["import", "--", *CONFIGS.split(), *words.split()]) == 0
    err = capsys.readouterr().err
    assert "these flags say nothing of a plan: --backend\n" in err
    assert "an import does not read these flags of TensorRT-LLM" in err
    assert "--cuda_graph_config" in err


def exported(engine: SchedulerName, fields: str) -> tuple[str, str]:
    (plan,) = compile_text(f"plan p {{ node = h200_8, {fields} }}")
    made = deploy(plan.spec, engine, plan.closed_form(), plan.sources)
    return write_script(made, engine, CONNECTOR[engine]), told(made)


@pytest.mark.parametrize(
    ("engine", "fields", "code", "why"),
    [
        ("trtllm", f"model = llama_3_1_8b, sharding {{ cp = 2, tp = 2 }}, {LOAD}", "E503", "is not known to be `cp`"),
        ("trtllm", f"model = qwen3_235b_a22b, sharding {{ ep = 4, tp = 2 }}, {LOAD}", "E503", "all ranks of a stage"),
        ("sglang", f"model = llama_3_1_8b, sharding {{ cp = 2, tp = 2 }}, {LOAD}", "E503", "and `cp` adds ranks"),
        ("vllm", f"model = llama_3_1_8b, sharding {{ cp = 2, sp = 2 }}, {LOAD}", "E503", "beside tp and pp alone"),
        ("vllm", f"{ADAPTERS.replace('RANK', '513')}, {LOAD}", "E503", "adapters of rank 512 at most"),
        ("vllm", f"model = llama_3_1_8b, sharding {{ mesh a = 2; heads -> a }}, {LOAD}", "E502", "but not `kv_heads`"),
        ("vllm", f"model = llama_3_1_8b, sharding {{ mesh a = 2; heads, kv_heads -> a }}, {LOAD}", "E502",
         "but not `ffn`"),
        ("sglang", f"model = mixtral_8x7b, sharding {{ mesh a = 2; heads, kv_heads, vocab -> a }}, {LOAD}", "E502",
         "neither `experts` nor `expert_ffn`"),
        ("vllm", "model = llama_3_1_8b, sharding { mesh a = 2; heads, kv_heads, ffn, vocab -> a; "
         f"in embedding {{ hidden -> a }} }}, {LOAD}", "E502", "a rule for `embedding` alone"),
    ],
)  # fmt: skip
def test_a_plan_that_an_engine_cannot_run_is_refused(engine: SchedulerName, fields: str, code: str, why: str) -> None:
    with pytest.raises(PlanError) as caught:
        exported(engine, fields)
    first = caught.value.diagnostics[0]
    assert (first.code, first.span is not None, bool(first.hint)) == (code, True, True)
    assert why in first.message


@pytest.mark.parametrize(
    ("engine", "fields", "words"),
    [
        ("trtllm", f"model = llama_3_1_8b, sharding {{ pp = 2, cut = [10, 22] }}, {LOAD}", "pp_partition: [10, 22]"),
        ("vllm", f"model = llama_3_1_8b, sharding {{ pp = 2, cut = [10, 22] }}, {LOAD}",
         "VLLM_PP_LAYER_PARTITION=10,22 "),
        ("sglang", f"model = llama_3_1_8b, sharding {{ pp = 2, cut = [10, 22] }}, {LOAD}",
         "SGLANG_PP_LAYER_PARTITION=10,22 "),
        ("vllm", f"model = llama_3_1_8b, sharding {{ cp = 2, tp = 2 }}, {LOAD}", "--prefill-context-parallel-size 2 "),
        ("vllm", f"{ADAPTERS.replace('RANK', '16')}, {LOAD}", "--max-cpu-loras 40 "),
        ("sglang", f"{ADAPTERS.replace('RANK', '16')}, {LOAD}", "--max-loaded-loras 40 "),
        ("trtllm", f"{ADAPTERS.replace('RANK', '16')}, {LOAD}", "max_cpu_loras: 40"),
        ("trtllm", f"model = deepseek_v3, sharding {{ tp = 8 }}, {LOAD}, "
         "speculate { draft = mtp, tokens = 2, acceptance = 70 % }", 'decoding_type: "MTP"'),
        ("trtllm", f"model = llama_3_3_70b, sharding {{ tp = 8 }}, {LOAD}, "
         "speculate { draft = llama_3_2_1b, tokens = 2, acceptance = 70 % }", 'decoding_type: "Draft_Target"'),
        ("vllm", f"model = llama_3_1_8b, engine = vllm, {WAVES}", "--random-range-ratio 0.5 "),
    ],
)  # fmt: skip
def test_a_field_is_written_in_the_engines_word(engine: SchedulerName, fields: str, words: str) -> None:
    assert words in exported(engine, fields)[0]


SENT = {
    f"{SHORT}, rate = 4 req/s, duration = 5 min": "--num-prompts 1200 --request-rate 4 ",
    f"{SHORT}, rate = 4 req/s, duration = 5 min, requests = 7": "--num-prompts 7 --request-rate 4 ",
    f"{SHORT}, rate = on_off(9 req/s, on = 2 s, off = 1 s), duration = 50 s": "--num-prompts 300 --request-rate 6 ",
    f"{SHORT}, rate = varying([[0 s, 2 req/s], [10 s, 4 req/s]]), duration = 40 s":
        "--num-prompts 140 --request-rate 3.5 ",
    f"{SHORT}, rate = varying([[0 s, 2 req/s], [10 s, 4 req/s]], every = 20 s)":
        "--num-prompts 1000 --request-rate 3 ",
    f"{SHORT}, rate = at_once, requests = 9": "--num-prompts 9 --request-rate inf ",
    f"requests = 9; class a {{ rate = 4 req/s, {SHORT} }}; class b {{ rate = 5 req/s, {SHORT} }}":
        "--num-prompts 9 --request-rate 9 ",
    f"{SHORT}, rate = 4 req/s, duration = 50 s, sessions {{ turns = 3, think = 1 s }}":
        "--num-prompts 600 --request-rate 12 ",
    f"rate = 8 req/s, requests = 9; class a {{ share = 75 %, {SHORT} }}; "
    f"class b {{ share = 25 %, {SHORT}, sessions {{ turns = uniform(2, 4), think = 1 s }} }}":
        "--num-prompts 9 --request-rate 12 ",
    f"{SHORT}, rate = gamma(mean = 4 req/s, burstiness = 0.5), requests = 9":
        "--num-prompts 9 --request-rate 4 --burstiness 0.5 ",
    f"{SHORT}, concurrency = 3": "--num-prompts 30 --max-concurrency 3 ",
}  # fmt: skip
"""Loads, and how the benchmark sends them."""


TALKS = "rate = 0.001 req/s, requests = 30, sessions { turns = 3, think = 1 s, system = 100 }"
"""Conversations that end before the next one starts, so that all turns of each are sent."""


@pytest.mark.parametrize(
    ("engine", "load", "words", "remark"),
    [
        # before the turns are 100, 100 + 250 and 100 + 500 tokens
        ("vllm", f"input = 200, output = 50, {TALKS}",
         "--random-input-len 200 --random-output-len 50 --random-range-ratio 0 --random-prefix-len 350 ",
         "before its 200 new tokens are 350 tokens of system prompt and earlier turns, which all requests share"),
        ("sglang", f"input = 200, output = 50, {TALKS}", "--random-input-len 550 --random-output-len 50 ",
         "of its 550 tokens, which are all new, 350 tokens of system prompt and earlier turns would be in the cache"),
        ("vllm", f"class talk {{ input = 200, output = 50, {TALKS.replace('requests = 30, ', '')} }}; requests = 30",
         "--random-input-len 200 --random-output-len 50 --random-range-ratio 0 --random-prefix-len 350 ",
         "the benchmark has no classes"),
        ("vllm", 'input = empirical("lengths.csv", column = "tokens"), output = 50, rate = 1 req/s, requests = 99',
         "--random-input-len 70 --random-output-len 50 ", "it sends the mean lengths"),
    ],
)  # fmt: skip
def test_the_benchmark_sends_prompts_as_long_as_the_plan_does(
    engine: SchedulerName, load: str, words: str, remark: str, tmp_path: Path
) -> None:
    (tmp_path / "lengths.csv").write_text("tokens\n70\n")
    (tmp_path / "p.plan").write_text(f"plan p {{ node = h200_1, model = llama_3_1_8b, workload {{ {load} }} }}")
    (plan,) = compile_file(tmp_path / "p.plan")
    made = deploy(plan.spec, engine, plan.closed_form(), plan.sources)
    assert words in " ".join(write_script(made, engine, CONNECTOR[engine]).replace("\\\n", " ").split())
    assert remark in told(made)


@pytest.mark.parametrize("load", SENT)
def test_the_benchmark_sends_as_many_requests_as_the_load_has(load: str) -> None:
    script, _ = exported("vllm", f"model = llama_3_1_8b, workload {{ {load} }}")
    assert SENT[load] in " ".join(script.replace("\\\n", " ").split())
    other, _ = exported("sglang", f"model = llama_3_1_8b, workload {{ {load} }}")
    assert "--burstiness" not in other, "SGLang's benchmark has no such flag"


@pytest.mark.parametrize(
    ("engine", "fields", "why"),
    [
        ("vllm", f"model = llama_3_1_8b, engine = vllm, {WAVES}", 
         "no arrivals like `on_off`: it sends at a mean rate, as a Poisson process"),
        ("vllm", f"model = llama_3_1_8b, workload {{ {SHORT}, rate = constant(2 req/s) }}", "arrivals like `constant`"),
        ("sglang", f"model = llama_3_1_8b, workload {{ {SHORT}, rate = gamma(mean = 2 req/s, cv = 2) }}",
         "no arrivals like `gamma`"),
        ("vllm", f"model = llama_3_1_8b, workload {{ "
         f"class a {{ {SHORT}, rate = varying([[0 s, 2 req/s]], every = 9 s) }}; "
         f"class b {{ {SHORT}, rate = gamma(mean = 2 req/s, cv = 2) }} }}",
         "no arrivals like `varying` and `gamma`"),
        ("vllm", f"model = llama_3_1_8b, engine = vllm, {WAVES}", "and not after `duration`"),
        ("vllm", "model = llama_3_1_8b, engine = vllm, workload { rate = 9 req/s, requests = 20, "
         "class a { share = 40 %, input = 20, output = 3 }, class b { share = 60 %, input = 40, output = 3 } }",
         "the benchmark has no classes"),
        ("sglang", "model = llama_3_1_8b, workload { input = 64, output = 8, batch = 8, reuse = 50 % }",
         "whole prompts: `reuse` is left out"),
        ("vllm", f"model = deepseek_v3_2 with {{ index_cache = bf16 }}, sharding {{ tp = 8 }}, {LOAD}",
         "counts with `index_cache = bf16`"),
    ],
)  # fmt: skip
def test_what_a_benchmark_or_an_engine_leaves_out_is_told(engine: SchedulerName, fields: str, why: str) -> None:
    assert why in exported(engine, fields)[1]
