"""Words of other tools for what a plan says in its own words; diagnostics name both, nothing else reads them."""

from __future__ import annotations

from typing import NamedTuple


class Synonym(NamedTuple):
    """A field of a plan, as the path to it from the plan, and the tool that calls it something else.

    ``unit`` is what the other tool leaves out behind a number. ``switch`` is the value of the field where the other
    tool has it as a switch, which can only be on or off.
    """

    path: str
    tool: str
    unit: str = ""
    switch: str = ""


def _of(tool: str, **paths: str) -> dict[str, Synonym]:
    return {word: Synonym(path, tool) for word, path in paths.items()}


FIELDS: dict[str, Synonym] = {
    **_of(
        "vLLM",
        tensor_parallel_size="sharding.tp",
        tensor_parallel="sharding.tp",
        pipeline_parallel_size="sharding.pp",
        data_parallel_size="sharding.dp",
        decode_context_parallel_size="sharding.cp",
        prefill_context_parallel_size="sharding.cp",
        gpu_memory_utilization="memory_fraction",
        max_num_batched_tokens="step_tokens",
        max_num_seqs="engine.max_requests",
        enable_prefix_caching="engine.prefix_cache",
        max_model_len="model.max_context",
        kv_cache_dtype="model.kv_cache",
        quantization="model.weights",
        dtype="model.weights",
        num_speculative_tokens="speculate.tokens",
        speculative_model="speculate.draft",
    ),
    "enable_expert_parallel": Synonym("sharding.ep", "vLLM", switch="8"),
    "enable_chunked_prefill": Synonym("chunked_prefill", "vLLM", switch="2048"),
    **_of(
        "vLLM's benchmark",
        input_len="workload.input",
        output_len="workload.output",
        random_input_len="workload.input",
        random_output_len="workload.output",
        max_concurrency="workload.concurrency",
        num_prompts="workload.requests",
    ),
    "request_rate": Synonym("workload.rate", "vLLM's benchmark", "req/s"),
    **_of(
        "SGLang",
        tp_size="sharding.tp",
        pp_size="sharding.pp",
        dp_size="sharding.dp",
        ep_size="sharding.ep",
        model_path="model",
        mem_fraction_static="memory_fraction",
        chunked_prefill_size="chunked_prefill",
        max_prefill_tokens="step_tokens",
        max_running_requests="engine.max_requests",
        context_length="model.max_context",
    ),
    **_of(
        "TensorRT-LLM",
        moe_expert_parallel_size="sharding.ep",
        kv_cache_free_gpu_memory_fraction="memory_fraction",
        free_gpu_memory_fraction="memory_fraction",
        max_batch_size="engine.max_requests",
        max_num_tokens="step_tokens",
        max_seq_len="model.max_context",
    ),
    **_of(
        "Megatron",
        tensor_model_parallel_size="sharding.tp",
        pipeline_model_parallel_size="sharding.pp",
        expert_model_parallel_size="sharding.ep",
        expert_parallel_size="sharding.ep",
        context_parallel_size="sharding.cp",
        sequence_parallel_size="sharding.sp",
    ),
    **_of(
        "NVIDIA's benchmarks",
        isl="workload.input",
        osl="workload.output",
        request_count="workload.requests",
    ),
    **_of(
        "OpenAI's interface",
        prompt_tokens="workload.input",
        completion_tokens="workload.output",
        max_tokens="workload.output",
    ),
    **_of(
        "Hugging Face",
        max_new_tokens="workload.output",
        torch_dtype="model.weights",
        model_id="model",
        max_position_embeddings="model.max_context",
        num_hidden_layers="model.layers",
    ),
    **_of(
        "",
        batch_size="workload.batch",
        input_length="workload.input",
        output_length="workload.output",
        input_tokens="workload.input",
        output_tokens="workload.output",
        prompt_len="workload.input",
        prompt_length="workload.input",
        prompt="workload.input",
        generation_length="workload.output",
        num_requests="workload.requests",
        tensor="sharding.tp",
        pipeline="sharding.pp",
        stages="sharding.pp",
        expert="sharding.ep",
        sequence="sharding.sp",
        users="workload.concurrency",
        num_users="workload.concurrency",
        concurrent_requests="workload.concurrency",
        precision="model.weights",
        weight_dtype="model.weights",
        cache_dtype="model.kv_cache",
        num_replicas="sharding.dp",
        replicas="sharding.dp",
        model_name="model",
        hardware="node",
        machine="node",
        gpu="node",
        gpus="node",
        num_gpus="node",
        gpu_count="node",
        vram="gpu.memory",
        hbm="gpu.memory",
        memory_bandwidth="gpu.bandwidth",
        hbm_bandwidth="gpu.bandwidth",
        tdp="gpu.power_max",
    ),
    "rps": Synonym("workload.rate", "", "req/s"),
    "qps": Synonym("workload.rate", "", "req/s"),
    "arrival_rate": Synonym("workload.rate", "", "req/s"),
}
"""A field of another tool, with `_` where a command line has `-` -> the field of a plan."""

ENGINES = {"vLLM": "vllm", "SGLang": "sglang", "TensorRT-LLM": "trtllm"}
"""A tool -> the engine of the catalog that stands for it."""

FORMATS: dict[str, tuple[str, str]] = {
    "bfloat16": ("bf16", "PyTorch"),
    "float16": ("fp16", "PyTorch"),
    "half": ("fp16", "PyTorch"),
    "float32": ("fp32", "PyTorch"),
    "float": ("fp32", "PyTorch"),
    "float64": ("fp64", "PyTorch"),
    "f16": ("fp16", ""),
    "f32": ("fp32", ""),
    "float8": ("fp8", "PyTorch"),
    "float8_e4m3fn": ("fp8", "PyTorch"),
    "float8_e4m3fnuz": ("fp8", "PyTorch"),
    "float8_e5m2": ("fp8", "PyTorch"),
    "fp8_e4m3": ("fp8", "vLLM"),
    "fp8_e5m2": ("fp8", "vLLM"),
    "e4m3": ("fp8", ""),
    "e5m2": ("fp8", ""),
    "fp8_e4m3fn": ("fp8", ""),
    "float4_e2m1fn_x2": ("fp4", "PyTorch"),
    "e2m1": ("fp4", ""),
    "awq": ("int4_128", "vLLM"),
    "awq_marlin": ("int4_128", "vLLM"),
    "gptq": ("int4_128", "vLLM"),
    "gptq_marlin": ("int4_128", "vLLM"),
    "int4_awq": ("int4_128", "TensorRT-LLM"),
    "w4a16": ("int4_128", "llm-compressor"),
    "w8a8": ("int8_channel", "llm-compressor"),
    "modelopt_fp4": ("nvfp4", "vLLM"),
}
"""A number format of another tool -> the format of a plan, and the tool."""

WORDS: dict[str, tuple[str, str]] = {
    "nvlink": ("switch", "NVIDIA"),
    "nvswitch": ("switch", "NVIDIA"),
    "xgmi": ("mesh", "AMD"),
    "infinity_fabric": ("mesh", "AMD"),
    "infiniband": ("fat_tree", ""),
}
"""A word that a field of a plan takes under another name -> this name, and whose word it is."""

METRICS: dict[str, tuple[str, str]] = {
    "itl": ("tpot", "vLLM's benchmark"),
    "inter_token_latency": ("tpot", "NVIDIA's benchmarks"),
    "tbt": ("tpot", ""),
    "time_per_output_token": ("tpot", ""),
    "time_to_first_token": ("ttft", ""),
    "e2el": ("latency", "vLLM's benchmark"),
    "e2e": ("latency", ""),
    "e2e_latency": ("latency", "NVIDIA's benchmarks"),
    "request_latency": ("latency", "NVIDIA's benchmarks"),
    "output_throughput": ("throughput", "vLLM's benchmark"),
    "tps": ("throughput", ""),
    "tokens_per_second": ("throughput", ""),
    "price": ("cost", ""),
    "speed": ("throughput", ""),
    "rps": ("request_throughput", ""),
    "requests_per_second": ("request_throughput", ""),
    "watts": ("power", ""),
    "joules": ("energy", ""),
    "bill": ("spend", ""),
    "gpu_memory": ("memory", ""),
}
"""A metric of another tool -> the metric of a plan, and the tool."""


def plain(word: str) -> str:
    """A word as the tables above have it: in lower case, without the dashes of a command line."""
    return word.lower().strip("-").replace("-", "_")


def say(word: str, own: str, tool: str) -> str:
    """Whose word it is, and which word a plan has for it: ```dtype` of vLLM is `weights` here``."""
    return f"`{word}` of {tool} is `{own}` here" if tool else f"`{word}` is `{own}` here"
