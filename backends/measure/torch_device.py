"""Kernels by PyTorch: its own GEMMs, attention, norms and maps, one after another.

On a GPU the kernels of a repetition are captured in one CUDA graph, as engines replay a step: the host starts it once,
and the time is that of the kernels. On a CPU they are called in a loop.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable
from functools import partial
from typing import Any

from plandsl.backends.measure.cases import COLLECTIVE, COPY, LAUNCH, MATRIX, PEAKS, READ, STORED, Case, multiplies
from plandsl.backends.measure.devices import About, Refused, Repetition
from plandsl.backends.measure.host import cores, host_memory, reason, timed
from plandsl.spec.formats import base_format

CALLS = 50
"""Calls of a small function in one repetition."""

VOCAB = 32_000
"""Rows of the table of an embedding."""

DTYPES = {
    "fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8_e4m3fn", "int8": "int8",
}  # fmt: skip
"""Formats of the language -> PyTorch's."""

SCALED = ("fp8",)
"""Formats that `torch._scaled_mm` multiplies, with a scale for each operand."""

ATTENDS = ("fp64", "fp32", "bf16", "fp16")
"""Formats of `scaled_dot_product_attention`."""

SEVERAL = ("rope", "silu_and_mul", "fused_add_rmsnorm")
"""Ops that engines run as one kernel, and PyTorch as several."""

Step = Callable[[int], object]
"""Runs the kernel on the operands with this number."""


class TorchDevice:
    """The first GPU that PyTorch finds, else the CPU."""

    def __init__(self) -> None:
        import torch

        self.torch, self.f = torch, torch.nn.functional
        host = not torch.cuda.is_available()
        self.on = torch.device("cpu" if host else "cuda")
        about = None if host else torch.cuda.get_device_properties(0)
        self.about = About(
            name=platform.processor() or platform.machine() or "cpu" if about is None else about.name,
            library=f"torch {torch.__version__}",
            units=cores() if about is None else about.multi_processor_count,
            memory=host_memory() if about is None else float(about.total_memory),
            devices=1 if host else torch.cuda.device_count(),
            host=host,
        )

    def prepare(self, case: Case, copies: int) -> Repetition:
        """As `Device.prepare`."""
        if case.file == COLLECTIVE:
            raise Refused("collectives need a process for each rank: `--with jax` measures them, and nccl-tests does")
        try:
            with self.torch.inference_mode():
                step = self._step(case, copies)
                if case.file == PEAKS and case.text("metric") == LAUNCH:
                    return self._launches(step)
                run = self._loop(step, copies)
                run()
        except (RuntimeError, TypeError, ValueError, MemoryError) as error:
            raise Refused(reason(error)) from error
        return partial(timed, run, copies)

    # ---- loops

    def _loop(self, step: Step, copies: int) -> Callable[[], object]:
        """A call that runs all ``copies``, and returns when they are done."""
        if self.about.host:
            return lambda: self._each(step, copies)
        step(0)  # workspaces are made before a graph is captured
        self.torch.cuda.synchronize()
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            self._each(step, copies)

        def run() -> None:
            graph.replay()
            self.torch.cuda.synchronize()

        return run

    def _each(self, step: Step, copies: int) -> None:
        with self.torch.inference_mode():
            for at in range(copies):
                step(at)

    def _launches(self, step: Step) -> Repetition:
        def run() -> None:
            with self.torch.inference_mode():
                for _ in range(CALLS):
                    step(0)
                    if not self.about.host:
                        self.torch.cuda.synchronize()

        run()
        return partial(timed, run, CALLS)

    # ---- kernels

    def _step(self, case: Case, copies: int) -> Step:
        match case.file:
            case "gemm.csv":
                sizes = (case.whole(name) for name in "mnk")
                return self._gemm(case.text("dtype"), *sizes, copies=copies)
            case "attention_prefill.csv" | "attention_decode.csv":
                return self._attention(case, copies)
            case "elementwise.csv":
                return self._elementwise(case)
            case _:
                return self._peak(case, copies)

    def _type(self, word: str) -> Any:
        """PyTorch's name of a format. Raises `Refused` if it has none."""
        if (name := DTYPES.get(base_format(word))) is None:
            raise Refused(f"PyTorch has no `{word}`")
        return getattr(self.torch, name)

    def _filled(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Numbers around 0: equal numbers would draw less power than those of a model."""
        made = self.torch.randn(shape, device=self.on, dtype=self.torch.float32) / max(shape[-1], 1) ** 0.5
        return (made * 100).to(dtype) if dtype == self.torch.int8 else made.to(dtype)

    def _gemm(self, dtype: str, m: int, n: int, k: int, *, copies: int) -> Step:
        compute, stored = self._type(multiplies(dtype)), self._type(STORED.get(dtype, (dtype,))[0])
        x = self._filled((m, k), compute)
        weights = [self._filled((n, k), stored).t() for _ in range(copies)]  # rows of k, as checkpoints have them
        if multiplies(dtype) in SCALED:
            one = self.torch.ones((), device=self.on)
            scaled = partial(self.torch._scaled_mm, scale_a=one, scale_b=one, out_dtype=self.torch.bfloat16)
            return lambda at: scaled(x, weights[at])
        if stored != compute:
            return lambda at: x @ weights[at].to(compute)
        return lambda at: x @ weights[at]

    def _attention(self, case: Case, copies: int) -> Step:
        """Over a cache that has no other keys, whose heads queries share."""
        cells = dict(case.cells)
        kept = cells["kv_dtype"]
        dtype = cells.get("dtype", kept)
        if dtype != kept or base_format(kept) not in ATTENDS:
            raise Refused(f"PyTorch has no attention in `{dtype}` over a cache in `{kept}`")
        tokens, keys = int(cells.get("seq_q", 1)), int(cells.get("seq_kv") or cells["kv_len"])
        window, causal = case.whole("window"), cells.get("causal", "1") == "1" and tokens > 1
        heads, kv_heads, dim = (case.whole(name) for name in ("n_heads", "n_kv_heads", "head_dim"))
        mask = None
        if window and tokens == 1:
            keys = min(keys, window)  # one query sees the last keys alone
        elif window:
            far = self.torch.arange(tokens, device=self.on)[:, None] - self.torch.arange(keys, device=self.on)
            mask, causal = (far < window) & ((far >= 0) if causal else (far > -window)), False
        q = self._filled((case.whole("batch"), heads, tokens, dim), self._type(dtype))
        kv = [self._filled((2, case.whole("batch"), kv_heads, keys, dim), self._type(kept)) for _ in range(copies)]
        attend = partial(self.f.scaled_dot_product_attention, attn_mask=mask, is_causal=causal, enable_gqa=True)
        return lambda at: attend(q, kv[at][0], kv[at][1])

    def _elementwise(self, case: Case) -> Step:
        dtype, op = self._type(case.text("dtype")), case.text("op")
        rows, cols = case.whole("rows"), case.whole("cols")
        if op in SEVERAL:
            raise Refused(f"PyTorch runs `{op}` as several kernels, and engines as one: `--with jax` measures it fused")
        x, more, gain = (self._filled(shape, dtype) for shape in ((rows, cols), (rows, cols), (cols,)))
        match op:
            case "rmsnorm":
                return lambda at: self.f.rms_norm(x, (cols,), gain)
            case "layernorm":
                return lambda at: self.f.layer_norm(x, (cols,), gain)
            case "residual_add":
                return lambda at: x.add(more)
            case "embedding":
                table = self._filled((VOCAB, cols), dtype)
                ids = self.torch.arange(rows, device=self.on) * 7919 % VOCAB
                return lambda at: self.f.embedding(ids, table)
            case "gelu":
                return lambda at: self.f.gelu(x, approximate="tanh")
            case "silu" | "relu" | "tanh" | "sigmoid" | "softplus":
                return partial(_ignoring_number, getattr(self.f, op), x)
            case "exp":
                return lambda at: x.exp()
            case _:
                raise Refused(f"PyTorch has no kernel `{op}`")

    def _peak(self, case: Case, copies: int) -> Step:
        metric, size = case.text("metric"), case.whole("config")
        if metric == MATRIX:
            return self._gemm(case.text("dtype"), size, size, size, copies=copies)
        if metric == LAUNCH:
            x = self.torch.zeros(8, device=self.on)
            return lambda at: x.add_(1)
        some = [self.torch.zeros(size // 4, dtype=self.torch.float32, device=self.on) for _ in range(2)]
        turns = itertools.cycle(((some[0], some[1]), (some[1], some[0])))
        if metric == COPY:
            return lambda at: _copy(*next(turns))
        if metric == READ:
            return lambda at: some[at % 2].sum()
        raise Refused(f"no such rate: {metric}")


def _ignoring_number(work: Callable[[Any], object], x: Any, at: int) -> object:
    return work(x)


def _copy(to: Any, from_: Any) -> object:
    return to.copy_(from_)
