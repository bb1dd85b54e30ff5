"""Wrong words of engines' commands: each gets a code, a caret under the word, and a hint that helps."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from plandsl.cli import main


class Wrong(NamedTuple):
    """A command, the code of its error, the word under the caret (empty: not asked), and words that are said."""

    command: str
    code: str
    said: tuple[str, ...]
    caret: str = ""


WRONG = (
    Wrong(
        "vllm serve llama_3_1_8b --tensor-paralel-size 2",
        "E506",
        caret="--tensor-paralel-size",
        said=("--tensor-parallel-size",),
    ),
    Wrong("vllm serve llama_3_1_8b --tp-size 2", "E506", caret="--tp-size", said=("a flag of SGLang",)),
    Wrong("vllm serve llama_3_1_8b --max-num-seqs many", "E507", caret="many", said=("a whole number",)),
    Wrong("vllm serve llama_3_1_8b --max-num-seqs", "E507", caret="--max-num-seqs", said=("a whole number",)),
    Wrong("vllm serve llama_3_1_8b --kv-cache-dtype fp88", "E507", caret="fp88", said=("`fp8`",)),
    Wrong("vllm serve llama_3_1_8b -tp 2 -tp 4", "E508", caret="-tp", said=("the first stands in column 25",)),
    Wrong("vllm serve llama_3_1_8b extra", "E506", caret="extra", said=("the checkpoint is `llama_3_1_8b`",)),
    Wrong(
        "vllm serve llama_3_1_8b --enable-expert-parallel",
        "E508",
        caret="--enable-expert-parallel",
        said=("drop the flag",),
    ),
    Wrong(
        "vllm serve llama_3_1_8b --enable-shift-parallel", "E508", caret="--enable-shift-parallel", said=("--ulysses",)
    ),
    Wrong(
        "vllm serve llama_3_1_8b --gpu-memory-utilization 90", "E508", caret="--gpu-memory-utilization", said=("0.9",)
    ),
    Wrong(
        "sglang serve qwen3_235b_a22b --tp 8 --attn-dp-size 3", "E508", caret="--attn-dp-size", said=("a divisor of 8",)
    ),
    Wrong("vllm serve nobody/knows-this", "E505", caret="nobody/knows-this", said=("--model",)),
    Wrong("docker run vllm", "E505", said=("planc import -- vllm serve",)),
    Wrong("vllm serve llama_3_1_8b --runner pool", "E507", caret="pool", said=("`pooling`",)),
    Wrong(
        "vllm serve llama_3_1_8b --kv-offloading-size=-4", "E508", caret="--kv-offloading-size=-4", said=("above 0",)
    ),
    Wrong(
        "vllm serve llama_3_1_8b --kv-offloading-size 4 --kv-offloading-backend lmcache",
        "E508",
        caret="--kv-offloading-backend",
        said=("native",),
    ),
    Wrong(
        "vllm serve llama_3_1_8b --mm-encoder-tp-mode data",
        "E508",
        caret="--mm-encoder-tp-mode",
        said=("drop the flag",),
    ),
    Wrong(
        "vllm serve llama_3_1_8b --kv-transfer-config.kv_connector NixlConnector --kv-offloading-size 9",
        "E508",
        caret="--kv-offloading-size",
        said=("name both in a MultiConnector",),
    ),
    Wrong(
        "vllm serve llama_3_1_8b --enable-lora --max-loras 2 --max-lora-rank 8 --lora-target-modules q_prj",
        "E508",
        caret="--lora-target-modules",
        said=("q_proj",),
    ),
    Wrong(
        "sglang serve llama_3_1_8b --lora-target-modules --tp 2", "E507", caret="--lora-target-modules", said=("words",)
    ),
    Wrong("sglang serve llama_3_1_8b --mamba-ssm-dtype fp32", "E507", caret="fp32", said=("float32",)),
    Wrong(
        "sglang serve llama_3_1_8b --enable-hicache --hicache-write-policy write_through_selective",
        "E508",
        caret="--hicache-write-policy",
        said=("write_back",),
    ),
    Wrong("sglang serve llama_3_1_8b --enable-hicash", "E506", caret="--enable-hicash", said=("--enable-hicache",)),
    Wrong(
        "vllm serve llama_3_1_8b --max-num-sequences 8", "E506", caret="--max-num-sequences", said=("--max-num-seqs",)
    ),
    Wrong("sglang serve llama_3_1_8b --mem-frac 0.8", "E506", caret="--mem-frac", said=("`--mem-fraction-static`",)),
    Wrong("vllm serve llama_3_1_8b --node h100_8", "E506", caret="--node", said=("before `--`",)),
    Wrong(
        "trtllm-serve llama_3_1_8b --free_gpu_memory_fraction 8",
        "E508",
        caret="--free_gpu_memory_fraction",
        said=("such as 0.9",),
    ),
    Wrong(
        'vllm serve llama_3_1_8b --speculative-config {"method":"eagle3","num_speculative_tokens":2}',
        "E508",
        caret="--speculative-config",
        said=("draft_model, mtp or ngram",),
    ),
    Wrong("vllm serve llama_3_1_8b --speculative-config 3", "E507", caret="3", said=("JSON",)),
    Wrong(
        "vllm serve llama_3_1_8b --decode-context-parallel-size 4",
        "E508",
        caret="--decode-context-parallel-size",
        said=("drop",),
    ),
    Wrong("vllm serve llama_3_1_8b --enable-prefix-caching maybe", "E506", caret="maybe", said=("flags start with",)),
    Wrong(
        "sglang serve llama_3_1_8b --speculative-algorithm NEXTN --speculative-num-steps 0",
        "E508",
        caret="--speculative-num-steps",
        said=("--speculative-num-steps 3",),
    ),
    Wrong(
        "sglang serve llama_3_1_8b --speculative-algorithm MEDUSA --speculative-num-steps 2",
        "E508",
        caret="--speculative-algorithm",
        said=("STANDALONE, NEXTN or NGRAM",),
    ),
    Wrong("sglang serve llama_3_1_8b --ep-size 2 --tp 2", "E508", caret="--ep-size", said=("drop the flag",)),
    Wrong(
        "sglang serve llama_3_1_8b --attn-dp-size 2 --tp 2",
        "E508",
        caret="--attn-dp-size",
        said=("--dp-size for whole copies",),
    ),
    Wrong("sglang serve llama_3_1_8b --schedule-policy lof", "E508", caret="--schedule-policy", said=("fcfs or lpm",)),
    Wrong(
        "trtllm-serve llama_3_1_8b --enable_attention_dp --tensor_parallel_size 2",
        "E508",
        caret="--enable_attention_dp",
        said=("drop the key",),
    ),
    Wrong(
        "trtllm-serve qwen3_235b_a22b --tp_size 8 --moe_expert_parallel_size 2 --moe_tensor_parallel_size 2",
        "E508",
        caret="--moe_expert_parallel_size",
        said=("their product must be 8",),
    ),
    Wrong(
        'trtllm-serve llama_3_1_8b --speculative_config {"decoding_type":"Medusa","max_draft_len":2}',
        "E508",
        said=("guesses by `medusa`", "NGram"),
    ),
    Wrong(
        'trtllm-serve llama_3_1_8b --lora_config {"lora_target_modules":[]}',
        "E508",
        said=("which weights have adapters", '["attn_q", "attn_k"'),
    ),
    Wrong(
        'trtllm-serve llama_3_1_8b --lora_config {"lora_target_modules":["mlp"]}',
        "E508",
        said=("`mlp` is no weight of `llama_3_1_8b`", "drop it"),
    ),
    Wrong(
        'trtllm-serve llama_3_1_8b --kv_cache_config {"free_gpu_memory_fraction":3}',
        "E508",
        said=("`3` is no share of memory", "at most 1"),
    ),
    Wrong(
        'trtllm-serve llama_3_1_8b --kv_cache_config {"mamba_ssm_cache_dtype":"fp3"}',
        "E508",
        said=("`fp3` is not what it takes", "bfloat16"),
    ),
    Wrong('trtllm-serve llama_3_1_8b --kv_cache_config {"dtype":"fp88"}', "E508", said=("`dtype`: `fp88`", "`fp8`")),
    Wrong('trtllm-serve llama_3_1_8b --kv_cache_config {"dtype":8}', "E508", said=("`dtype`: `8`", "`auto`")),
    Wrong(
        'trtllm-serve llama_3_1_8b --kv_cache_config {"free_gpu_memory_fraction":true}',
        "E508",
        said=("`true` is no share of memory",),
    ),
    Wrong(
        'trtllm-serve llama_3_1_8b --kv_cache_config {"tokens_per_block":"x"}', "E508", said=("`x` is no whole number",)
    ),
    Wrong('trtllm-serve llama_3_1_8b --kv_cache_config {"enable_block_reuse":3}', "E508", said=("true nor false",)),
    Wrong(
        'trtllm-serve llama_3_1_8b --scheduler_config {"capacity_scheduler_policy":"MAX_UTILISATION"}',
        "E508",
        caret="--scheduler_config",
        said=("`MAX_UTILISATION` is not what it takes", "`MAX_UTILIZATION`"),
    ),
    Wrong(
        'trtllm-serve llama_3_1_8b --scheduler_config {"context_chunking_policy":["EQUAL_PROGRESS"]}',
        "E508",
        said=('`["EQUAL_PROGRESS"]` is not what it takes', "`FIRST_COME_FIRST_SERVED`"),
    ),
    Wrong(
        'trtllm-serve llama_3_1_8b --pp_partition [16,"x",16] --pp_size 2',
        "E508",
        said=("`x` is no whole number of layers",),
    ),
    Wrong(
        "trtllm-serve llama_3_1_8b --enable_attention_dp=perhaps",
        "E507",
        said=("`perhaps` follows it", "expected nothing"),
    ),
    Wrong(
        "trtllm-serve llama_3_1_8b --nonsense 3",
        "E506",
        said=("`--nonsense` is no flag of TensorRT-LLM", "leave it out"),
    ),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.command)
def test_a_wrong_word_gets_a_caret_and_a_hint(wrong: Wrong, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--", *wrong.command.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error[{wrong.code}]"), err
    assert all(words in err for words in wrong.said), err
    if wrong.caret:
        source, carets = err.split("1 | ")[1].split("\n")[:2]
        start = carets.index("^") - len("  | ")
        assert source[start : start + carets.count("^")] == wrong.caret
