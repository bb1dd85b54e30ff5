"""A row of each kind of file of measurements, below the names of its columns."""

WHOLE = {
    "gemm": (
        ["gpu", "dtype", "m", "n", "k", "time_s", "framework", "act_quant_included"],
        ["h100_sxm", "bf16", 8, 1024, 1024, 1e-5, "vllm", 0],
    ),
    "attention_prefill": (
        ["gpu", "dtype", "kv_dtype", "batch", "seq_q", "seq_kv", "n_heads", "n_kv_heads", "head_dim", "time_s"],
        ["h100_sxm", "bf16", "bf16", 1, 512, 512, 32, 8, 128, 1e-4],
    ),
    "attention_decode": (
        ["gpu", "kv_dtype", "batch", "kv_len", "n_heads", "n_kv_heads", "head_dim", "time_s", "window"],
        ["h100_sxm", "bf16", 16, 2048, 32, 8, 128, 1e-4, 0],
    ),
    "attention_mixed": (
        ["gpu", "dtype", "n_heads", "n_kv_heads", "head_dim", "prefill_chunk", "kv_prefill", "n_decode", "kv_decode",
         "time_s"],
        ["rtx_pro_6000", "bf16", 32, 8, 128, 512, 1024, 16, 1024, 1e-4],
    ),
    "mla": (
        ["gpu", "phase", "dtype", "kv_dtype", "batch", "seq_q", "kv_len", "n_heads", "time_s", "framework"],
        ["h100_sxm", "decode", "bf16", "bf16", 8, 1, 2048, 16, 1e-4, "sglang"],
    ),
    "grouped_gemm": (
        ["gpu", "dtype", "kernel", "n_experts", "n_local_experts", "hidden", "inter", "tokens_per_local_expert",
         "up_time_s", "down_time_s"],
        ["h20", "fp8_block", "deepgemm_contiguous", 96, 48, 2048, 1560, 85, 6e-4, 3e-4],
    ),
    "elementwise": (
        ["gpu", "op", "dtype", "rows", "cols", "time_s", "framework"],
        ["h100_sxm", "rmsnorm", "bf16", 512, 4096, 1e-5, "vllm"],
    ),
    "collectives": (
        ["gpu", "op", "backend", "n_ranks", "n_nodes", "bytes", "cuda_graph", "time_s"],
        ["h100_sxm", "all_reduce", "nccl-2.27.3", 8, 1, 1048576, 0, 1e-4],
    ),
    "ep_alltoall": (
        ["gpu", "n_ranks", "n_nodes", "library", "mode", "op", "dtype", "tokens_per_rank", "hidden", "topk",
         "n_experts", "n_sms", "time_s", "reported_bw_gb_per_s", "bw_kind"],
        ["h100_sxm", 8, 1, "deepep", "normal", "dispatch", "fp8", 128, 4096, 6, 256, 24, 1e-4, "", ""],
    ),
    "moe": (
        ["gpu", "dtype", "tokens", "hidden", "inter", "topk", "n_experts", "tp", "ep", "routing", "time_s", "kernel",
         "framework"],
        ["h100_sxm", "bf16", 512, 4096, 1536, 8, 128, 1, 1, "balanced", 1e-3, "fused", "vllm-0.19.0"],
    ),
    "serving": (
        ["gpu", "n_gpu", "model", "precision", "framework", "serving_mode", "tp", "pp", "replicas", "isl_tokens",
         "osl_tokens", "load_kind", "concurrency", "ttft_s", "tpot_s"],
        ["h100_sxm", 2, "llama-3.1-8b", "fp8", "vllm-0.19.0", "aggregated", 2, 1, 1, 1024, 128,
         "closed_concurrency", 8, 0.1, 0.01],
    ),
    "mlperf": (
        ["gpu", "n_gpu", "bench", "scenario", "framework", "weight_dtype", "tp", "pp", "max_batch", "mean_osl_tokens",
         "tokens_per_s"],
        ["h100_sxm", 8, "llama2-70b-99", "Offline", "TensorRT-LLM", "fp8", 2, 1, 1024, 294, 2e4],
    ),
}  # fmt: skip
