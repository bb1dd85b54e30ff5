"""SGLang's own scheduler, taken from its wheel and driven without a model."""

from __future__ import annotations

from array import array
from collections import deque
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.schedulers.scenes import Asked, Scene, Step, draw_requests
from benchmarks.schedulers.stubs import Off, load

PARTS = (
    "managers.scheduler", "managers.schedule_policy", "managers.schedule_batch",
    "managers.scheduler_components.new_token_ratio_tracker",
    "managers.scheduler_components.batch_result_processor", "mem_cache.base_prefix_cache",
    "mem_cache.radix_cache", "mem_cache.common", "mem_cache.allocation", "mem_cache.allocation_sizing",
    "mem_cache.prefill_budget", "mem_cache.cache_init_params", "mem_cache.utils", "mem_cache.evict_policy",
    "mem_cache.memory_pool", "mem_cache.allocator", "mem_cache.allocator.base", "mem_cache.allocator.token",
    "mem_cache.allocator.paged", "mem_cache.allocator.page_interleave",
    "mem_cache.unified_cache.component_type", "sampling.sampling_params",
    "model_executor.forward_batch_info", "beam_search.batch_tail", "dllm.mixin.req", "environ",
)  # fmt: skip
REAL = ("sglang._version", *(f"sglang.srt.{part}" for part in PARTS))

OUTSIDE = (
    "triton", "sgl_kernel", "zmq", "psutil", "transformers", "orjson", "xgrammar", "setproctitle", "pybase64", "PIL",
    "requests", "aiohttp", "fastapi", "uvloop",
)  # fmt: skip

LONGEST = 4096
"""Tokens that a request may have."""


def prepare(sources: Path) -> str:
    """Load the scheduler from an unpacked wheel. Returns the version."""
    load(sources, ["sglang", *OUTSIDE], REAL)
    import sglang.srt.runtime_context
    import sglang.srt.sampling.sampling_batch_info
    import sglang.srt.utils
    import sglang.srt.utils.common
    from sglang._version import __version__

    for module in (sglang.srt.utils, sglang.srt.utils.common):
        for name in ("is_hip", "is_npu", "is_cuda", "is_xpu", "is_cpu", "is_gfx95_supported", "use_mlx",
                     "is_pin_memory_available", "support_triton", "get_bool_env_var"):  # fmt: skip
            setattr(module, name, lambda *_, **__: False)
        module.ceil_align = lambda tokens, unit: -(-tokens // unit) * unit
        module.get_num_new_pages = _new_pages
    context = sglang.srt.runtime_context
    for name in ("context", "disagg", "exec", "memory", "observability", "parallel", "platform", "schedule", "serving",
                 "spec"):  # fmt: skip
        setattr(context, f"get_{name}", lambda: OPTIONS)
    context.attention_backends = lambda: ("torch_native", "torch_native")
    sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo = Off()
    return str(__version__)


OPTIONS = Off()
"""All options of the engine, as one value; those that are not set are off."""


def _new_pages(seq_lens: Any, page_size: int, prefix_lens: Any = None, decode: bool = False) -> int:
    """Pages that requests need beside those that they have, for one token each where they ``decode``."""
    before = seq_lens - 1 if decode else prefix_lens
    return int(((seq_lens + page_size - 1) // page_size - (before + page_size - 1) // page_size).sum())


class Driven:
    """SGLang's scheduler with its radix cache, in one scene. ``depth`` steps may be on their way."""

    def __init__(self, scene: Scene) -> None:
        limits = dict(scene.limits)
        self.ahead = limits.pop("ahead", True)
        self.depth = 1 + self.ahead
        options = {
            "max_micro_batch": limits.pop("max_running", 1000),
            "chunk": limits.pop("chunk"),
            "prefill": limits.pop("prefill_tokens", 16384),
            "mixed": limits.pop("mixed", False),
            "max_joining": limits.pop("max_joining", None),
            "policy": "lpm" if limits.pop("order", "fcfs") == "longest_prefix" else "fcfs",
        }
        OPTIONS.__dict__.update(
            schedule_conservativeness=limits.pop("conservativeness", 1.0),
            disaggregation_mode="null",
            radix_eviction_policy="lru",
            pp_max_micro_batch_size=options["max_micro_batch"],
            prefill_max_requests=options["max_joining"],
            schedule_policy=options["policy"],
            speculative_algorithm=None,
            pp_size=1,
        )
        assert not limits, limits
        self.scheduler = _scheduler(scene, options, self.ahead)
        self.processor = _processor(self.scheduler)
        self.requests: dict[str, Any] = {}

    def add(self, asked: Asked) -> None:
        """A request arrives."""
        from sglang.srt.managers.schedule_batch import Req
        from sglang.srt.sampling.sampling_params import SamplingParams

        sampling = SamplingParams(max_new_tokens=asked.output)
        sampling.normalize(None)
        request = Req(asked.name, "", array("q", asked.prompt), sampling, vocab_size=10**12)
        request.time_stats = Off()
        if not self.busy():  # what the engine does in a loop while it is idle
            self.scheduler.new_token_ratio_tracker.reset()
        self.requests[asked.name] = request
        self.scheduler._add_request_to_queue(request)

    def schedule(self) -> Step:
        """Compose a step."""
        s = self.scheduler
        waited = {request.rid for request in s.waiting_queue}
        counts = {name: request.retraction_count for name, request in self.requests.items()}
        plan = s.get_next_batch_to_run(running_batch=s.running_batch, last_batch=s.last_batch)
        s.running_batch, batch = plan.running_batch, plan.batch_to_run
        s.last_batch = batch
        tokens: dict[str, int] = {}
        if batch:
            s.result_queue.append((batch.copy(), None))
            extends = batch.forward_mode.is_extend()
            alone = {request.rid for request in batch.decoding_reqs or ()}
            for request in batch.reqs:
                tokens[request.rid] = request.extend_len if extends and request.rid not in alone else 1
        cache, pool = s.tree_cache, s.token_to_kv_pool_allocator
        return Step(
            tokens=tokens,
            admitted=tokens.keys() & waited,
            preempted=[name for name, count in counts.items() if self.requests[name].retraction_count > count],
            free=(pool.available_size() + cache.evictable_size()) // s.page_size,
            handle=batch,
        )

    def update(self, step: Step) -> None:
        """The results of a step are there."""
        if not step.handle:
            return
        import torch

        batch, _ = self.scheduler.result_queue.popleft()
        result = Off(next_token_ids=torch.tensor([self._sample(request.rid) for request in batch.reqs]), copy_done=None,
                     routed_experts_output=None, indexer_topk_output=None, auxiliary_host_output=None,
                     logits_output=None, get_num_generated_tokens=int)  # fmt: skip
        if batch.forward_mode.is_decode():
            self.processor.process_batch_result_decode(batch, result)
        else:
            self.processor.process_batch_result_prefill(batch, result)

    def _sample(self, name: str) -> int:
        """The next token of a request, of no other."""
        request = self.requests[name]
        return 10**9 + 10**4 * list(self.requests).index(name) + len(request.output_ids)

    def busy(self) -> bool:
        """Whether there is a request that is not done."""
        return not all(request.finished() for request in self.requests.values())


def _scheduler(scene: Scene, options: dict[str, Any], ahead: bool) -> Any:
    """An instance of the engine's class with what composing steps needs of it, and nothing else."""
    import torch
    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.managers.schedule_policy import PrefillAdder, SchedulePolicy
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.managers.scheduler_components.new_token_ratio_tracker import NewTokenRatioTracker
    from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator, TokenToKVPoolAllocator
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
    from sglang.srt.mem_cache.radix_cache import RadixCache

    size, page = scene.blocks * scene.block, scene.block
    rows = ReqToTokenPool.__new__(ReqToTokenPool)
    rows.__dict__.update(
        size=64, _alloc_size=65, max_context_len=LONGEST, device="cpu", free_slots=list(range(1, 65)),
        req_to_token=torch.zeros((65, LONGEST), dtype=torch.int32), _aux_cache=None,
        req_generation=torch.zeros(65, dtype=torch.int64),
    )  # fmt: skip
    if page == 1:
        pool = TokenToKVPoolAllocator(size, torch.float16, "cpu", None, need_sort=False)
    else:
        pool = PagedTokenToKVPoolAllocator(size, page, torch.float16, "cpu", None, need_sort=False)
        pool.use_triton_kernels = False
    cache = RadixCache(CacheInitParams(not scene.caching, rows, pool, page))
    s = object.__new__(Scheduler)
    s.__dict__.update(
        waiting_queue=[], running_batch=ScheduleBatch(reqs=[], batch_is_full=False), last_batch=None,
        result_queue=deque(), enable_skip_finishing_decode=ahead, enable_overlap=ahead, chunked_req=None,
        chunked_prefill_size=options["chunk"], is_mixed_chunk=options["mixed"], max_prefill_tokens=options["prefill"],
        max_running_requests=options["max_micro_batch"], page_size=page, tree_cache=cache, req_to_token_pool=rows,
        token_to_kv_pool_allocator=pool, policy=SchedulePolicy(options["policy"], cache, False, False, False),
        new_token_ratio_tracker=NewTokenRatioTracker.from_config(), processed_tokens_counter=0,
        model_config=Off(vocab_size=10**12), spec_algorithm=Off(is_none=lambda: True), device="cpu",
        dllm_config=None, _pending_chunked_abort_req=None, _prefill_decode_interval_remaining=0,
        prefill_decode_interval=0, prefill_delayer=None, min_free_slots_delayer=None, dynamic_chunk_sizer=None,
        truncation_align_size=None, decode_offload_manager=None, hisparse_coordinator=None, max_prefill_bs=0,
        priority_scheduling_preemption_threshold=0, disaggregation_mode=_null_mode(), forward_ct=0,
        dp_attn_adapter=SimpleNamespace(
            maybe_prepare_mlp_sync_batch=lambda batch, **_: batch, maybe_convert_decode_to_extend=lambda batch: batch
        ),
        ngram_embedding_manager=SimpleNamespace(prepare_for_forward=lambda batch, **_: batch),
        beam_coordinator=Off(pending_member_rows=lambda batch: 0, commit_decode=lambda batch: ()),
        get_prefill_adder_class=lambda: PrefillAdder,
    )  # fmt: skip
    for name in (
        "enable_hisparse", "require_mlp_sync", "grammar_manager", "enable_priority_preemption", "is_hybrid_swa",
        "enable_lora", "enable_hicache_storage", "enable_lmcache", "enable_hierarchical_cache",
        "enable_unified_cache_external_linker", "enable_priority_scheduling", "metrics_reporter", "load_inquirer",
        "_process_hicache_events", "_abort_on_queued_limit", "_prefetch_kvcache", "_set_or_validate_priority",
    ):  # fmt: skip
        s.__dict__[name] = Off()
    s._set_or_validate_priority = lambda request: True
    s.grammar_manager = Off(has_waiting_grammars=lambda: False)
    s.tp_worker = Off()
    return s


def _null_mode() -> Any:
    from sglang.srt.managers.scheduler import DisaggregationMode

    return DisaggregationMode.NULL


def _processor(scheduler: Any) -> Any:
    """What takes the results of steps, of the engine's own class."""
    from sglang.srt.managers.scheduler_components.batch_result_processor import SchedulerBatchResultProcessor

    processor = object.__new__(SchedulerBatchResultProcessor)
    given = {"is_generation": True, "metrics_reporter": Off(num_generated_tokens=0, forward_ct_decode=0)}
    for name in SchedulerBatchResultProcessor.__slots__:
        value = given.get(name, scheduler.__dict__.get(name, Off()))
        object.__setattr__(processor, name, value)
    return processor


def draw(rng: Random) -> Scene:
    """A scene at random, whose requests do not find room for all of them."""
    block = rng.choice((1, 1, 1, 4))
    longest, outputs = 24, rng.choice((4, 24))
    chunk = rng.randint(4, 2 * longest) // block * block
    limits: dict[str, Any] = {"chunk": chunk, "ahead": rng.random() < 0.5}
    if rng.random() < 0.3:
        limits["max_running"] = rng.randint(1, 4)
    if rng.random() < 0.2:
        limits["max_joining"] = rng.randint(1, 2)
    if rng.random() < 0.5:
        limits["conservativeness"] = rng.choice((0.0, 0.3, 1.3))
    if rng.random() < 0.2:
        limits["mixed"] = True
    if rng.random() < 0.3:
        limits["order"] = "longest_prefix"
    least = -(-(longest + outputs + 2 * block) // block)
    caching, count = rng.random() < 0.5, rng.randint(3, 9)
    return Scene(
        "drawn",
        limits,
        draw_requests(rng, count, longest, outputs, block),
        blocks=least * count if caching else rng.randint(least, 2 * least),  # the tree loses whole nodes, not blocks
        block=block,
        caching=caching,
    )
