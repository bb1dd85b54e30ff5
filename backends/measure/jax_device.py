"""Kernels by jax: the functions of exported programs, run layer after layer as those programs run them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from plandsl.backends.jax.formats import type_name
from plandsl.backends.jax.sources import functions_of_one, meanings
from plandsl.backends.jax.texts import HEAD, ON_A_DEVICE
from plandsl.backends.measure.cases import COLLECTIVE, COPY, LAUNCH, MATRIX, PEAKS, READ, STORED, Case, multiplies
from plandsl.backends.measure.devices import About, Refused, Repetition
from plandsl.backends.measure.host import cores, host_memory, reason, timed
from plandsl.diagnostics import PlanError
from plandsl.ir.functions import MAPS

CALLS = 50
"""Calls of an empty function in one repetition."""

VOCAB = 32_000
"""Rows of the table of an embedding."""

SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""Variables for the share of a GPU's memory that jax may take, new name first (docs.jax.dev, "GPU memory allocation").
"""

SHARE = "0.9"
"""The share that is set here where neither variable is, so that the whole memory follows from jax's limit."""

HEAD_DIMS = (128, 64)
"""Dimensions of a head in ``rope``, whose rows tell only the width of all heads: the first that divides it."""

Step = Callable[[Any, Any], Any]


class Loop(NamedTuple):
    """A kernel in a loop: ``step(carry, operand)`` gives the next carry, so that no turn can be left out.

    ``stack`` holds an operand for each turn, as the stacked layers of an exported program; None: turns have none.
    """

    step: Step
    carry: Any
    stack: Any = None


class JaxDevice:
    """The devices that jax finds; those of the host by ``devices``, which jax hears only before it starts."""

    def __init__(self, devices: int | None = None) -> None:
        if devices is not None and "jax" not in sys.modules:
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        if not any(name in os.environ for name in SHARES):
            os.environ |= dict.fromkeys(SHARES, SHARE)
        import jax

        self.jax, self.jnp, self.lax = jax, jax.numpy, jax.lax
        self.helpers = _helpers()
        first = jax.devices()[0]
        host = first.platform == "cpu"
        self.about = About(
            name=first.device_kind,
            library=f"jax {jax.__version__}",
            units=cores() if host else getattr(first, "core_count", None),
            memory=host_memory() if host else _device_memory(first),
            devices=len(jax.devices()),
            host=host,
        )
        self._stack: tuple[object, Any] = (None, None)

    def prepare(self, case: Case, copies: int) -> Repetition:
        """As `Device.prepare`."""
        try:
            if case.file == PEAKS and case.text("metric") == LAUNCH:
                return self._launches()
            if case.file == COLLECTIVE:
                run = self._collective(case, copies)
            else:
                run = self._looped(self._loop(case, copies), copies)
            run()
        except PlanError as error:  # a format that jax.numpy has not
            raise Refused(error.diagnostics[0].message) from error
        except (RuntimeError, TypeError, ValueError, MemoryError) as error:
            raise Refused(reason(error)) from error
        return partial(timed, run, copies)

    # ---- loops

    def _looped(self, loop: Loop, copies: int) -> Callable[[], object]:
        def run(carry: Any, stack: Any) -> Any:
            return self.lax.scan(lambda c, w: (loop.step(c, w), None), carry, stack, length=copies)[0]

        return self._state(self.jax.jit(run, donate_argnums=0), loop.carry, loop.stack)

    def _state(self, made: Callable[..., Any], carry: Any, *more: Any) -> Callable[[], object]:
        """Calls of ``made``, each on the result of the call before, whose memory it takes: nothing is copied."""
        held = [carry]

        def run() -> None:
            held[0] = self.jax.block_until_ready(made(held[0], *more))

        return run

    def _loop(self, case: Case, copies: int) -> Loop:
        match case.file:
            case "gemm.csv":
                return self._gemm(
                    case.text("dtype"), case.whole("m"), case.whole("n"), k=case.whole("k"), copies=copies
                )
            case "attention_prefill.csv" | "attention_decode.csv":
                return self._attention(case, copies)
            case "elementwise.csv":
                return self._elementwise(case)
            case _:
                return self._peak(case, copies)

    def _type(self, word: str) -> Any:
        return getattr(self.jnp, type_name(word))

    def _filled(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Numbers around 0: equal numbers would draw less power than those of a model."""
        pattern = self.jnp.sin(self.jnp.arange(shape[-1], dtype=self.jnp.float32) * 1.7)
        return self.jax.block_until_ready(
            (self.jnp.broadcast_to(pattern, shape) / max(shape[-1], 1) ** 0.5).astype(dtype)
        )

    def _stacked(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """As `_filled`; the last one is kept, because neighbouring cases share weights."""
        if self._stack[0] != (shape, dtype):
            self._stack = None, None  # the old one makes room first
            self._stack = (shape, dtype), self._filled(shape, dtype)
        return self._stack[1]

    def _gemm(self, dtype: str, m: int, n: int, *, k: int, copies: int) -> Loop:
        compute = self._type(multiplies(dtype))
        stored = self._type(STORED[dtype][0]) if dtype in STORED else compute
        out = compute if compute.dtype.itemsize > 1 else self.jnp.bfloat16

        def step(carry: Any, w: Any) -> Any:
            x, y = carry
            x = x.at[0, 0].add((y[0, 0] * 0).astype(x.dtype))
            return x, self.helpers.gemm("mk,kn->mn", x, w, compute, out)

        carry = self._filled((m, k), compute), self.jnp.zeros((m, n), out)
        return Loop(step, carry, self._stacked((copies, k, n), stored))

    def _attention(self, case: Case, copies: int) -> Loop:
        """Over a cache that has no other keys, whose heads are repeated for the queries that share them."""
        cells = dict(case.cells)
        kept, wide, tokens = self._type(cells["kv_dtype"]), self.helpers.wide, int(cells.get("seq_q", 1))
        dtype = self._type(cells.get("dtype", cells["kv_dtype"]))
        keys = int(cells.get("seq_kv") or cells["kv_len"])
        heads, kv_heads, dim = (case.whole(name) for name in ("n_heads", "n_kv_heads", "head_dim"))
        queries = self.helpers.positions(tokens, keys - tokens)
        mask = partial(self.helpers.Mask, causal=cells.get("causal", "1") == "1", window=case.whole("window"))

        def step(q: Any, kv: Any) -> Any:
            k, v = (wide(self.jnp.repeat(x, heads // kv_heads, axis=2)) for x in (kv[0], kv[1]))
            seen = mask(queries, self.helpers.known(self.jnp.arange(keys), keys))
            return self.helpers.attention(wide(q), k, v, seen).astype(dtype)

        batch = case.whole("batch")
        stack = self._stacked((copies, 2, batch, keys, kv_heads, dim), kept)
        return Loop(step, self._filled((batch, tokens, heads, dim), dtype), stack)

    def _elementwise(self, case: Case) -> Loop:
        """Each turn works on the result of the one before it, as ops of a layer do."""
        dtype, op = self._type(case.text("dtype")), case.text("op")
        rows, cols = case.whole("rows"), case.whole("cols")
        there, wide = self.helpers, self.helpers.wide
        x, gain, more = (self._filled(shape, dtype) for shape in ((1, rows, cols), (cols,), (1, rows, cols)))

        def over(work: Step, with_: Any = None) -> Loop:
            """``x = work(x, with_)``; ``with_`` is an argument, since a constant might be computed with beforehand."""
            return Loop(lambda both, _: (work(*both).astype(dtype), both[1]), (x, with_))

        match op:
            case "rmsnorm":
                return over(lambda x, gain: there.rms_norm(wide(x), 2) * gain, gain)
            case "layernorm":
                return over(lambda x, gain: there.layer_norm(wide(x), 2) * gain, gain)
            case "silu_and_mul":
                return over(lambda x, up: there.silu(wide(x)) * up, more)
            case "residual_add":
                return over(lambda x, more: x + more, more)
            case "rope":
                dim = next((d for d in HEAD_DIMS if cols % d == 0), cols)
                x = x.reshape(1, rows, cols // dim, dim)
                return over(lambda x, _: there.rope(wide(x), there.positions(rows, 0), 1))
            case "fused_add_rmsnorm":

                def add_norm(held: Any, _: Any) -> Any:
                    total = (held[0] + held[1]).astype(dtype)
                    return total, (there.rms_norm(wide(total), 2) * held[2]).astype(dtype), held[2]

                return Loop(add_norm, (x, more, gain))
            case "embedding":

                def look_up(held: Any, _: Any) -> Any:
                    ids, found, table = held
                    ids = (ids + (found[0, 0] * 0).astype(ids.dtype)) % VOCAB
                    return ids, there.embed(ids, table).astype(dtype), table

                ids = self.jnp.arange(rows) * 7919 % VOCAB
                return Loop(look_up, (ids, self.jnp.zeros((rows, cols), dtype), self._filled((VOCAB, cols), dtype)))
            case _ if op in MAPS and hasattr(there, op):
                return over(lambda x, _: getattr(there, op)(wide(x)))
            case _:
                raise Refused(f"exported programs have no kernel `{op}`")

    def _peak(self, case: Case, copies: int) -> Loop:
        match case.text("metric"):
            case metric if metric == MATRIX:
                size = case.whole("config")
                return self._gemm(case.text("dtype"), size, size, k=size, copies=copies)
            case metric if metric == COPY:
                return Loop(lambda x, _: x + 1, self.jnp.zeros(case.whole("config") // 4, self.jnp.float32))
            case metric if metric == READ:
                many = self.jnp.ones(case.whole("config") // 4, self.jnp.float32)

                def read(held: Any, _: Any) -> Any:
                    x = held[0].at[0].set(held[1])  # another array in each turn
                    return x, x.sum()

                return Loop(read, (many, self.jnp.float32(0)))
            case metric:
                raise Refused(f"no such rate: {metric}")

    def _launches(self) -> Repetition:
        made, x = self.jax.jit(lambda x: x + 1), self.jnp.zeros(8)

        def run() -> None:
            for _ in range(CALLS):
                self.jax.block_until_ready(made(x))

        run()
        return partial(timed, run, CALLS)

    # ---- several devices

    def _collective(self, case: Case, copies: int) -> Callable[[], object]:
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        ranks, op, lax = case.whole("n_ranks"), case.text("op"), self.lax
        if ranks > self.about.devices:
            more = " (--devices makes more of a CPU)" if self.about.host else ""
            raise Refused(f"{ranks} devices are needed, and jax has {self.about.devices}{more}")
        size = max(case.whole("bytes") // 4 // ranks, 1) * ranks  # elements that all ranks can share
        ring = [(i, (i + 1) % ranks) for i in range(ranks)]

        def all_gather(both: Any) -> Any:
            x = both[0].at[0].add(both[1][-1])
            return x, lax.all_gather(x, "x", tiled=True)

        def reduce_scatter(both: Any) -> Any:
            x = both[0].at[0].add(both[1][-1])
            return x, lax.psum_scatter(x, "x", tiled=True)

        whole, part = self.jnp.zeros(size * ranks), self.jnp.zeros(size)
        turns: dict[str, tuple[Callable[[Any], Any], Any]] = {
            "all_reduce": (lambda x: lax.psum(x, "x"), whole),
            "all_gather": (all_gather, (part, whole)),
            "reduce_scatter": (reduce_scatter, (whole, part)),
            "all_to_all": (lambda x: lax.all_to_all(x, "x", 0, 0, tiled=True), whole),
            "p2p": (lambda x: lax.ppermute(x, "x", ring), whole),
        }
        turn, carry = turns[op]
        mesh = Mesh(self.jax.devices()[:ranks], ("x",))
        along = PartitionSpec("x")
        laid = self.jax.device_put(carry, NamedSharding(mesh, along))

        def run(x: Any) -> Any:
            return lax.scan(lambda c, _: (turn(c), None), x, None, length=copies)[0]

        mapped = self.jax.shard_map(run, mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
        return self._state(self.jax.jit(mapped, donate_argnums=0), laid)


def _helpers() -> Any:
    """The functions that every exported program has, as a module."""
    made = ModuleType("plandsl_program")
    text = "\n\n\n".join([HEAD, meanings(), functions_of_one(set(MAPS)), ON_A_DEVICE])
    sys.modules[made.__name__] = made  # named tuples look their module up
    exec(compile(text, "<exported program>", "exec"), made.__dict__)
    return made


def _device_memory(device: Any) -> float:
    """Bytes of a GPU, of which jax may take a share; 0 where jax does not say."""
    share = float(next(os.environ[name] for name in SHARES if name in os.environ))
    return float((device.memory_stats() or {}).get("bytes_limit", 0.0)) / share
