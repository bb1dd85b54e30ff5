"""Wrong words of engines' commands: each gets a code, a caret under the word, and a hint that helps."""

from __future__ import annotations

import pytest

from plandsl.cli import main

WRONG: tuple[tuple[str, ...], ...] = (
    ("vllm serve llama_3_1_8b --tensor-paralel-size 2", "E506", "--tensor-paralel-size", "--tensor-parallel-size"),
    ("vllm serve llama_3_1_8b --tp-size 2", "E506", "--tp-size", "a flag of SGLang"),
    ("vllm serve llama_3_1_8b --max-num-seqs many", "E507", "many", "a whole number"),
    ("vllm serve llama_3_1_8b --max-num-seqs", "E507", "--max-num-seqs", "a whole number"),
    ("vllm serve llama_3_1_8b --kv-cache-dtype fp88", "E507", "fp88", "`fp8`"),
    ("vllm serve llama_3_1_8b -tp 2 -tp 4", "E508", "-tp", "the first stands in column 25"),
    ("vllm serve llama_3_1_8b extra", "E506", "extra", "the checkpoint is `llama_3_1_8b`"),
    ("vllm serve llama_3_1_8b --enable-expert-parallel", "E508", "--enable-expert-parallel", "drop the flag"),
    ("vllm serve llama_3_1_8b --enable-shift-parallel", "E508", "--enable-shift-parallel", "--ulysses"),
    ("vllm serve llama_3_1_8b --gpu-memory-utilization 90", "E508", "--gpu-memory-utilization", "0.9"),
    ("sglang serve qwen3_235b_a22b --tp 8 --attn-dp-size 3", "E508", "--attn-dp-size", "a divisor of 8"),
    ("vllm serve nobody/knows-this", "E505", "nobody/knows-this", "--model"),
    ("docker run vllm", "E505", "", "planc import -- vllm serve"),
    ("vllm serve llama_3_1_8b --runner pool", "E507", "pool", "`pooling`"),
    ("vllm serve llama_3_1_8b --kv-offloading-size=-4", "E508", "--kv-offloading-size=-4", "above 0"),
    (
        "vllm serve llama_3_1_8b --kv-offloading-size 4 --kv-offloading-backend lmcache",
        "E508",
        "--kv-offloading-backend",
        "native",
    ),
    ("vllm serve llama_3_1_8b --mm-encoder-tp-mode data", "E508", "--mm-encoder-tp-mode", "drop the flag"),
    (
        "vllm serve llama_3_1_8b --kv-transfer-config.kv_connector NixlConnector --kv-offloading-size 9",
        "E508",
        "--kv-offloading-size",
        "name both in a MultiConnector",
    ),
    (
        "vllm serve llama_3_1_8b --enable-lora --max-loras 2 --max-lora-rank 8 --lora-target-modules q_prj",
        "E508",
        "--lora-target-modules",
        "q_proj",
    ),
    ("sglang serve llama_3_1_8b --lora-target-modules --tp 2", "E507", "--lora-target-modules", "words"),
    ("sglang serve llama_3_1_8b --mamba-ssm-dtype fp32", "E507", "fp32", "float32"),
    (
        "sglang serve llama_3_1_8b --enable-hicache --hicache-write-policy write_through_selective",
        "E508",
        "--hicache-write-policy",
        "write_back",
    ),
    ("sglang serve llama_3_1_8b --enable-hicash", "E506", "--enable-hicash", "--enable-hicache"),
    ("vllm serve llama_3_1_8b --max-num-sequences 8", "E506", "--max-num-sequences", "--max-num-seqs"),
    ("sglang serve llama_3_1_8b --mem-frac 0.8", "E506", "--mem-frac", "`--mem-fraction-static`"),
    ("vllm serve llama_3_1_8b --node h100_8", "E506", "--node", "before `--`"),
    ("trtllm-serve llama_3_1_8b --free_gpu_memory_fraction 8", "E508", "--free_gpu_memory_fraction", "such as 0.9"),
    (
        'vllm serve llama_3_1_8b --speculative-config {"method":"eagle3","num_speculative_tokens":2}',
        "E508",
        "--speculative-config",
        "draft_model, mtp or ngram",
    ),
    ("vllm serve llama_3_1_8b --speculative-config 3", "E507", "3", "JSON"),
    ("vllm serve llama_3_1_8b --decode-context-parallel-size 4", "E508", "--decode-context-parallel-size", "drop"),
    ("vllm serve llama_3_1_8b --enable-prefix-caching maybe", "E506", "maybe", "flags start with"),
    (
        "sglang serve llama_3_1_8b --speculative-algorithm NEXTN --speculative-num-steps 0",
        "E508",
        "--speculative-num-steps",
        "--speculative-num-steps 3",
    ),
    (
        "sglang serve llama_3_1_8b --speculative-algorithm MEDUSA --speculative-num-steps 2",
        "E508",
        "--speculative-algorithm",
        "STANDALONE, NEXTN or NGRAM",
    ),
    ("sglang serve llama_3_1_8b --ep-size 2 --tp 2", "E508", "--ep-size", "drop the flag"),
    ("sglang serve llama_3_1_8b --attn-dp-size 2 --tp 2", "E508", "--attn-dp-size", "--dp-size for whole copies"),
    ("sglang serve llama_3_1_8b --schedule-policy lof", "E508", "--schedule-policy", "fcfs or lpm"),
    (
        "trtllm-serve llama_3_1_8b --enable_attention_dp --tensor_parallel_size 2",
        "E508",
        "--enable_attention_dp",
        "drop the key",
    ),
    (
        "trtllm-serve qwen3_235b_a22b --tp_size 8 --moe_expert_parallel_size 2 --moe_tensor_parallel_size 2",
        "E508",
        "--moe_expert_parallel_size",
        "their product must be 8",
    ),
    (
        'trtllm-serve llama_3_1_8b --speculative_config {"decoding_type":"Medusa","max_draft_len":2}',
        "E508",
        "",
        "guesses by `medusa`",
        "NGram",
    ),
    (
        'trtllm-serve llama_3_1_8b --lora_config {"lora_target_modules":[]}',
        "E508",
        "",
        "which weights have adapters",
        '["attn_q", "attn_k"',
    ),
    (
        'trtllm-serve llama_3_1_8b --lora_config {"lora_target_modules":["mlp"]}',
        "E508",
        "",
        "`mlp` is no weight of `llama_3_1_8b`",
        "drop it",
    ),
    (
        'trtllm-serve llama_3_1_8b --kv_cache_config {"free_gpu_memory_fraction":3}',
        "E508",
        "",
        "`3` is no share of memory",
        "at most 1",
    ),
    (
        'trtllm-serve llama_3_1_8b --kv_cache_config {"mamba_ssm_cache_dtype":"fp3"}',
        "E508",
        "",
        "`fp3` is no format of states",
        "bfloat16",
    ),
    ("trtllm-serve llama_3_1_8b --enable_attention_dp=perhaps", "E507", "", "`perhaps` follows it", "expected nothing"),
    ("trtllm-serve llama_3_1_8b --nonsense 3", "E506", "", "`--nonsense` is no flag of TensorRT-LLM", "leave it out"),
)
"""A command, the code of its error, what the caret marks (empty: not asked), and words that are said."""


@pytest.mark.parametrize("row", WRONG, ids=lambda row: row[0])
def test_a_wrong_word_gets_a_caret_and_a_hint(row: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    command, code, mark, *said = row
    assert main(["import", "--", *command.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error[{code}]"), err
    assert all(words in err for words in said), err
    if mark:
        source, carets = err.split("1 | ")[1].split("\n")[:2]
        start = carets.index("^") - len("  | ")
        assert source[start : start + carets.count("^")] == mark
