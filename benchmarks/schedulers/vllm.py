"""vLLM's own scheduler (V1), taken from its wheel and driven without a model."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.schedulers.scenes import Asked, Scene, Step, draw_requests
from benchmarks.schedulers.stubs import load

REAL = (
    "vllm.v1.core.*", "vllm.v1.request", "vllm.v1.kv_cache_interface", "vllm.v1.kv_cache_spec_registry",
    "vllm.v1.kv_cache_layout", "vllm.utils.math_utils", "vllm.v1.outputs", "vllm.v1.engine", "vllm.v1.metrics.stats",
    "vllm.version", "vllm._version",
)  # fmt: skip

LONGEST = 100_000
"""Tokens that a request may have."""

END = 7
"""The token that ends an answer."""


def prepare(sources: Path) -> str:
    """Load the scheduler from an unpacked wheel. Returns the version."""
    load(sources, ["vllm"], REAL)
    import vllm.multimodal.utils
    import vllm.platforms
    import vllm.utils
    import vllm.v1.structured_output.request
    import vllm.v1.utils
    from vllm.version import __version__

    vllm.platforms.current_platform = SimpleNamespace(
        is_xpu=lambda: False, register_custom_kv_cache_specs=lambda config: None
    )
    vllm.multimodal.utils.strip_covered_mm_data = lambda *_, **__: []
    vllm.utils.length_from_prompt_token_ids_or_embeds = lambda tokens, embeds: len(tokens)
    vllm.v1.structured_output.request.StructuredOutputRequest = SimpleNamespace(
        from_sampling_params=lambda sampling: None
    )
    vllm.v1.utils.ConstantList = lambda tokens: tokens
    vllm.v1.utils.record_function_or_nullcontext = nullcontext
    return str(__version__)


class Driven:
    """vLLM's scheduler with its block manager, in one scene. ``depth`` steps may be on their way."""

    def __init__(self, scene: Scene) -> None:
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler

        def hashed(value: object) -> bytes:
            return sha256(pickle.dumps(value)).digest()

        init_none_hash(hashed)
        self.hasher = get_request_block_hasher(scene.block, hashed) if scene.caching else None
        ahead = scene.limits.get("ahead", True)
        self.depth = scene.stages + ahead
        config, cache = _configs(scene)
        made = AsyncScheduler if ahead else Scheduler
        structured = SimpleNamespace(
            accept_tokens=lambda request, tokens: True, validate_tokens=lambda request, tokens: tokens
        )
        self.scheduler = made(config, cache, structured, scene.block)
        self.requests: dict[str, Any] = {}
        self.outputs: dict[str, int] = {}
        self.first: dict[str, int] = {}
        self.ahead, self.guesses = ahead, scene.guesses
        self.capped = scene.limits.get("capped", True)

    def add(self, asked: Asked) -> None:
        """A request arrives."""
        from vllm.v1.request import Request

        sampling = SimpleNamespace(
            max_tokens=asked.output if self.capped else LONGEST, extra_args=None, skip_reading_prefix_cache=None,
            eos_token_id=END, stop_token_ids=(), min_tokens=0, repetition_detection=None, num_logprobs=None,
        )  # fmt: skip
        arrival = asked.arrival + 1e-9 * len(self.first)  # no two at one moment
        request = Request(
            asked.name, list(asked.prompt), sampling, None, arrival_time=arrival, block_hasher=self.hasher,
            priority=asked.priority,
        )  # fmt: skip
        self.requests[asked.name], self.outputs[asked.name] = request, asked.output
        self.first[asked.name] = 10**9 + 10**6 * len(self.first)
        self.scheduler.add_request(request)

    def schedule(self) -> Step:
        """Compose a step."""
        scheduler = self.scheduler
        running = {request.request_id for request in scheduler.running}
        before = {name: request.num_preemptions for name, request in self.requests.items()}
        output = scheduler.schedule()
        tokens = output.num_scheduled_tokens
        return Step(
            tokens=tokens,
            admitted=tokens.keys() - running,
            preempted=[name for name, count in before.items() if self.requests[name].num_preemptions > count],
            free=scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            handle=(output, {name for name in tokens if not self.requests[name].is_prefill_chunk}),
        )

    def update(self, step: Step) -> None:
        """The results of a step are there."""
        from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput

        output, makes = step.handle
        names = list(step.tokens)
        right = all(self.guesses)
        counts = {name: 1 + right * len(guess) for name, guess in output.scheduled_spec_decode_tokens.items()}
        sampled = [self._sample(name, counts.get(name, 1)) if name in makes else [] for name in names]
        self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(names, {name: at for at, name in enumerate(names)}, sampled_token_ids=sampled),
        )
        for name in names:
            if name in self.requests and name not in self.scheduler.requests:
                del self.requests[name]
        if self.guesses and not self.ahead:
            there = [name for name in names if name in makes and name in self.requests]
            self.scheduler.update_draft_token_ids(DraftTokenIds(there, [[0] * len(self.guesses) for _ in there]))

    def _sample(self, name: str, count: int) -> list[int]:
        """The next tokens of a request, of no other; the last one ends it, unless its limit does."""
        request = self.requests.get(name)
        if request is None:
            return [0]
        made = range(len(request.output_token_ids) + 1, len(request.output_token_ids) + 1 + count)
        last = 0 if self.capped else self.outputs[name]
        return [END if at == last else self.first[name] + at for at in made]

    def busy(self) -> bool:
        """Whether there is a request that is not done."""
        return bool(self.scheduler.has_requests())


def _configs(scene: Scene) -> tuple[Any, Any]:
    """What the scheduler reads of vLLM's configuration, and of its KV memory: one group of layers."""
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    limits = dict(scene.limits)
    ahead = limits.pop("ahead", True)
    limits.pop("capped", None)
    lookahead = limits.pop("lookahead", 0)
    guessing = None
    if scene.guesses:
        guessing = SimpleNamespace(
            max_num_new_slots_for_drafting=0, num_speculative_tokens_per_batch_size=None, use_eagle=lambda: False,
            use_eagle_block_drop=lambda: False, needs_eagle_block_drop=lambda: False,
        )  # fmt: skip
    budget = limits.pop("budget")
    scheduler = SimpleNamespace(
        max_num_seqs=limits.pop("max_running", 1024), max_num_active_seqs=None, max_num_scheduled_tokens=None,
        max_num_batched_tokens=budget, long_prefill_token_threshold=limits.pop("long_prompt", 0),
        long_prefill_token_threshold_adaptive=limits.pop("adaptive", False), policy=limits.pop("order", "fcfs"),
        enable_chunked_prefill=limits.pop("chunked", True), prefill_schedule_interval=1,
        scheduler_reserve_full_isl=limits.pop("whole_prompt", True), watermark=limits.pop("watermark", 0.0),
        async_scheduling=ahead,
    )  # fmt: skip
    assert not limits, limits
    blocks = scene.blocks + 1  # one of them is a placeholder of vLLM's
    config = SimpleNamespace(
        scheduler_config=scheduler,
        cache_config=SimpleNamespace(
            num_gpu_blocks=blocks, enable_prefix_caching=scene.caching, enable_mamba_shared_prefix_checkpoint=False,
            mamba_cache_mode="none",
        ),
        model_config=SimpleNamespace(
            uses_mrope=False, is_encoder_decoder=False, max_model_len=LONGEST, runner_type="generate",
            is_diffusion=False, supports_multimodal_inputs=False, return_sampling_mask=False,
        ),
        parallel_config=SimpleNamespace(
            data_parallel_index=0, decode_context_parallel_size=1, prefill_context_parallel_size=1,
            pipeline_parallel_size=scene.stages, data_parallel_size=1,
        ),
        observability_config=SimpleNamespace(
            per_request_spec_decode_metrics=None, kv_cache_metrics=False, enable_mfu_metrics=False,
            enable_logging_iteration_details=False,
        ),
        ec_manager_config=SimpleNamespace(get_encoder_cache_manager_obj=lambda: None),
        aux_output_config=SimpleNamespace(enabled=False),
        lora_config=None, kv_events_config=None, is_mm_encoder_only=False, kv_transfer_config=None,
        ec_transfer_config=None, speculative_config=guessing, num_speculative_tokens=len(scene.guesses),
        num_lookahead_tokens=lookahead,
        num_prefill_lookahead_tokens=0, use_v2_model_runner=True, num_hash_lookahead_tokens=0,
        max_in_flight_tokens=budget * (scene.stages + ahead), max_concurrent_batches=scene.stages + ahead,
    )  # fmt: skip
    layers = FullAttentionSpec(block_size=scene.block, num_kv_heads=1, head_size=1, dtype=torch.float16)
    return config, KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], layers)])


def draw(rng: Random) -> Scene:
    """A scene at random, whose requests do not find room for all of them."""
    block = rng.choice((2, 4, 8))
    longest, outputs = 8 * block, rng.choice((4, 3 * block))
    limits: dict[str, Any] = {"budget": rng.randint(4, 3 * longest), "ahead": rng.random() < 0.5}
    if rng.random() < 0.3:
        limits["max_running"] = rng.randint(1, 4)
    if rng.random() < 0.3:
        limits["long_prompt"] = rng.randint(1, longest)
        limits["adaptive"] = rng.random() < 0.5
    if rng.random() < 0.3:
        limits["whole_prompt"] = False
    if rng.random() < 0.2:
        limits["watermark"] = 0.2
    if rng.random() < 0.3:
        limits["capped"] = False
    if rng.random() < 0.2:
        limits |= {"chunked": False, "budget": longest + outputs}
    stages = 1 if limits["ahead"] else rng.choice((1, 1, 2))  # ahead, vLLM's empty steps are on their way like others
    least = -(-(longest + outputs) // block)
    return Scene(
        "drawn",
        limits,
        draw_requests(rng, rng.randint(3, 9), longest, outputs, block, at_once=stages > 1),
        blocks=rng.randint(least, 2 * least),
        block=block,
        caching=rng.random() < 0.7,
        stages=stages,
    )
