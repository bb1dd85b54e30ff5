"""What plans send, beside what XLA's partitioner makes of the same functions: `make partitioner`.

XLA gets the function of `benchmarks.unsharded` twice: with the plan's layouts at its ends (weights, cache, token ids
and logits), and with those before and after every exchange too. `benchmarks.hlo` counts what XLA adds. This module
writes the table of docs/partitioner.md, and fails where numbers differ and no reason is given.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from benchmarks.engine_page import replace_table
from benchmarks.hlo import Exchange, HloModule
from benchmarks.unsharded import Given, Unsharded, lacks_counterpart, unsharded
from plandsl.driver import compile_text
from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, ReduceScatter, Rescale, Ring
from plandsl.ir.extents import Extents
from plandsl.ir.program import PHASES, PREFILL, Program
from plandsl.ir.types import TensorType
from plandsl.units import show_bytes

PAGE = Path(__file__).parents[1] / "docs" / "partitioner.md"
HEAD = "| sharding | step |"
"""How the table of the page begins."""

INPUT, OUTPUT, BATCH = 4096, 64, 16
"""Tokens of a prompt, decode steps that the cache has room for, and requests."""

DEVICES = 8
ENDS, INSIDE = MODES = ("ends", "inside")
"""Where the function has the plan's layouts."""

LLAMA = "llama_3_1_8b"
MIXTURE = "qwen3_30b_a3b with { experts = 8 }"
"""Every token goes to all 8 experts, so that the function on whole tensors multiplies no more than kernels do."""

HEADS = "heads, kv_heads, ffn, vocab"

MOVES_CACHE = "XLA moves the cache of each layer to a split of requests, and back"
AS_TENSOR = "XLA splits heads in all of attention, as `tp` does, and sums its results"
GATHERS_WEIGHTS = (
    "XLA gathers the weights of the FFN. Each rank then multiplies the whole FFN of its requests: fewer bytes, and "
    "four times the FLOPs"
)
MERGES = "XLA completes maximum, sum and result of each softmax; the plan sends one statistic, and scatters the results"
EACH_EXPERT = "XLA completes the result of each expert; the plan weighs and adds partial sums, and completes one"


class Row(NamedTuple):
    """A sharding of the table. ``why`` has the reason for each difference, under ``ends`` or ``inside``, or under one
    phase of it (``decode ends``).
    """

    title: str
    rules: str
    why: Mapping[str, str] = {}
    model: str = LLAMA

    def reason(self, phase: str, mode: str) -> str:
        """Why XLA sends something else; empty where no reason is given."""
        return self.why.get(f"{phase} {mode}", self.why.get(mode, ""))


ROWS = (
    Row("`tp = 8`", "tp = 8"),
    Row(
        "`tp = 8`, tokens split outside",
        f"mesh tensor = 8\n{HEADS} -> tensor\ntokens -> tensor",
        {
            ENDS: "XLA keeps norms and residuals whole; the embedding alone then sends more",
            INSIDE: "XLA completes the embedding on every rank: a check of bounds stands between its sum and its slice",
        },
    ),
    Row("`sp = 8`", "sp = 8", {"prefill ends": AS_TENSOR, "decode ends": MOVES_CACHE}),
    Row("`sp = 4, tp = 2`", "sp = 4, tp = 2", {"prefill ends": AS_TENSOR, "decode ends": MOVES_CACHE}),
    Row("`cp = 8`", "cp = 8", {"decode ends": MOVES_CACHE, "decode inside": MERGES}),
    Row("`cp = 2, tp = 4`", "cp = 2, tp = 4", {"decode ends": MOVES_CACHE, "decode inside": MERGES}),
    Row("requests over 8", "mesh data = 8\nbatch -> data"),
    Row("requests over 2, `tp = 4`", f"mesh data = 2, tensor = 4\nbatch -> data\n{HEADS} -> tensor"),
    Row("`ep = 8`", "ep = 8", model=MIXTURE),
    Row("`tp = 4`, whole experts", "mesh tensor = 4\nheads, kv_heads, vocab, experts -> tensor", model=MIXTURE),
    Row(
        "`tp = 4`, each expert split",
        "tp = 4",
        {ENDS: EACH_EXPERT, INSIDE: EACH_EXPERT},
        MIXTURE,
    ),
    Row(
        "requests and experts over 4, `tp = 2`",
        "mesh expert = 4, tensor = 2\nbatch, experts -> expert\nheads, kv_heads, vocab -> tensor",
        model=MIXTURE,
    ),
    Row("FFN and vocabulary over 8", "mesh f = 8\nffn, vocab -> f"),
    Row("hidden states over 8", "mesh h = 8\nhidden -> h"),
    Row("weights over 4 x 2", f"mesh x = 4, y = 2\n{HEADS} -> x\nhidden -> y"),
    Row(
        "`head_dim` over 4",
        "mesh h = 4\nhead_dim, ffn, vocab -> h",
        {ENDS: "XLA keeps `head_dim` split inside attention, and completes every score"},
    ),
    Row(
        "FFN over 2 x 4, requests over 2 in attention",
        "mesh a = 2, b = 4\nvocab, ffn -> a, b\nheads, kv_heads -> b\nin attention { batch -> a }",
        {
            "prefill ends": GATHERS_WEIGHTS,
            "decode ends": "XLA keeps requests split between attention and FFN; the rules of the next row say so",
        },
    ),
    Row(
        "FFN over 2 x 4, requests over 2 everywhere",
        "mesh a = 2, b = 4\nbatch -> a\nvocab, ffn -> a, b\nheads, kv_heads -> b",
        {
            "prefill ends": GATHERS_WEIGHTS,
            "decode ends": "as the plan, and XLA completes the embedding on every rank",
            INSIDE: "XLA completes sums over all 8 ranks and then slices; the plan scatters over 2 and sums over 4",
        },
    ),
)


def compile_row(row: Row, phase: str) -> tuple[Program, dict[str, int]]:
    """The program of a row in a phase, and the numbers of its symbols."""
    load = f"workload {{ input = {INPUT}, output = {OUTPUT}, batch = {BATCH} }}"
    text = f"plan p {{\nmodel = {row.model}\nnode = h100_8\nsharding {{\n{row.rules}\n}}\n{load}\n}}"
    (plan,) = compile_text(text)
    context = INPUT if phase == PREFILL else INPUT + OUTPUT
    return plan.program(phase), {"batch": BATCH, "input": INPUT, "context": context}


def planned(program: Program, bind: Mapping[str, int]) -> tuple[list[Exchange], int]:
    """The collectives of a program, and how many calls have no counterpart in a function of whole tensors."""
    extents, found, lacking = Extents(program, bind), list[Exchange](), 0
    for region in program.regions:
        for op in region.ops:
            match op:
                case AllReduce() | ReduceScatter() | AllToAll():
                    kind, held = op.keyword, float(extents.bytes(op.x.type))
                case AllGather():
                    kind, held = op.keyword, float(extents.bytes(op.out.type))
                case Rescale():  # gathers one fp32 statistic for each row
                    rows = extents.bytes(TensorType("fp32", op.x.type.dims[:-1]))
                    kind, held = AllGather.keyword, float(rows * extents.ways(op.axes))
                case Ring():
                    kind, held = op.keyword, 0.0
                case _:
                    continue
            ranks = int(extents.ways(op.axes))
            if ranks > 1 and lacks_counterpart(op):
                lacking += region.repeats
            elif ranks > 1:
                found.append(Exchange(kind, ranks, held, region.repeats))
    return found, lacking


class Xla:
    """XLA with `DEVICES` devices of the host, whose dumps go to a folder that is removed at the end.

    jax must not be loaded before it.
    """

    def __enter__(self) -> Xla:
        self.folder = Path(tempfile.mkdtemp())
        flags = [
            f"--xla_force_host_platform_device_count={DEVICES}",
            f"--xla_dump_to={self.folder}",
            "--xla_dump_hlo_pass_re=spmd.*",
            "--xla_backend_optimization_level=0",  # only what stands after the partitioner is of interest
            "--xla_llvm_disable_expensive_passes=true",
        ]
        os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self.folder)

    @property
    def version(self) -> str:
        """The version of jax."""
        import jax

        return str(jax.__version__)

    def partition(self, program: Program, made: Unsharded, mode: str) -> HloModule:
        """The module that XLA makes of ``made``, whose layouts lie on the mesh of ``program``."""
        import jax
        import numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        sizes = [size for _, size in program.mesh.axes]
        devices = np.array(jax.devices()[: program.mesh.ranks]).reshape(sizes)
        mesh = Mesh(devices, [name for name, _ in program.mesh.axes])
        module: dict[str, Any] = {"INSIDE": mode == INSIDE, "MESH": mesh, "__name__": "unsharded"}
        exec(compile(made.text, "unsharded.py", "exec"), module)

        def layout(text: str) -> NamedSharding:
            return NamedSharding(mesh, eval(text, {"P": PartitionSpec}))

        def each(tree: Any, make: Any) -> Any:
            return jax.tree.map(make, tree, is_leaf=lambda x: isinstance(x, Given))

        def array(given: Given) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(given.shape, module[given.dtype], sharding=layout(given.spec))

        ids, same = (jax.ShapeDtypeStruct(made.ids, np.int32, sharding=layout(text)) for text in (made.takes, "P()"))
        number = jax.ShapeDtypeStruct((), np.int32, sharding=layout("P()"))
        out = layout(made.gives), each(made.caches, lambda given: layout(given.spec))
        function = jax.jit(module[made.function], out_shardings=out)
        arguments = each(made.weights, array), each(made.caches, array), ids, same, number, number
        return HloModule(self._dump_of(lambda: function.lower(*arguments).compile()))

    def _dump_of(self, build: Any) -> str:
        """The text of the module after the partitioner that ``build`` compiles."""
        build()
        (file,) = self.folder.glob("*.after_spmd-partitioning*.txt")
        text = file.read_text(encoding="utf-8")
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        return text


class Line(NamedTuple):
    """One line of the table: a row in a phase."""

    row: Row
    phase: str
    ours: list[Exchange]
    lacking: int
    theirs: dict[str, list[Exchange]]

    def differs(self, mode: str) -> bool:
        """Whether XLA sends something else."""
        return _sums(self.theirs[mode]) != _sums(self.ours)

    @property
    def unexplained(self) -> list[str]:
        """The modes in which XLA sends something else without a reason."""
        return [mode for mode in MODES if self.differs(mode) and not self.row.reason(self.phase, mode)]

    def text(self) -> str:
        """The line in Markdown."""
        found = {mode: self.row.reason(self.phase, mode) for mode in MODES if self.differs(mode)}
        same = len(found) == len(MODES) and len({*found.values()}) == 1
        reasons = [found[ENDS]] if same else [f"{mode}: {reason}" for mode, reason in found.items()]
        left_out = [f"{self.lacking} calls have no counterpart"] if self.lacking else []
        cells = [self.row.title, self.phase, *(show_calls(found) for found in (self.ours, *self.theirs.values()))]
        return f"| {' | '.join([*cells, '; '.join([*left_out, *reasons]) or 'the same'])} |"


def _sums(found: Iterable[Exchange]) -> tuple[int, int]:
    """Calls, and bytes that a rank sends."""
    every = list(found)
    return sum(one.calls for one in every), round(sum(one.wire for one in every))


def show_calls(found: list[Exchange]) -> str:
    """``132, 61.1 GB``; for sums that XLA writes as all_reduce and slice, also the bytes as written."""
    calls, wire = _sums(found)
    text = f"{calls}, {show_bytes(wire)}" if calls else "none"
    if any(one.sliced for one in found):
        written = [one._replace(kind="all_reduce") if one.sliced else one for one in found]
        sliced = sum(one.calls for one in found if one.sliced)
        text += f" ({sliced} written as all_reduce: {show_bytes(_sums(written)[1])})"
    return text


def lines(xla: Xla, rows: Iterable[Row]) -> Iterator[Line]:
    """The lines of ``rows``, in both phases."""
    for row in rows:
        for phase in PHASES:
            program, bind = compile_row(row, phase)
            tokens = bind["input"] if phase == PREFILL else 1
            made = unsharded(program, bind["batch"], tokens, bind["context"])
            theirs = {mode: xla.partition(program, made, mode).exchanges() for mode in MODES}
            ours, lacking = planned(program, bind)
            yield Line(row, phase, ours, lacking, theirs)


def main() -> int:
    """Write the table of the page, and print it. 1 where a difference has no reason."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.partitioner", description="write docs/partitioner.md")
    parser.parse_args()
    with Xla() as xla:
        table, wrong = list[str](), list[str]()
        for line in lines(xla, ROWS):
            table.append(line.text())
            print(table[-1], flush=True)
            wrong += [f"{line.row.title}, {line.phase}, {mode}" for mode in line.unexplained]
        text = replace_table(PAGE.read_text(encoding="utf-8"), HEAD, table)
        version = f"With jax {xla.version}, in bytes that each rank sends in a step"
    PAGE.write_text(_with_version(text, version), encoding="utf-8")
    for one in wrong:
        print(f"no reason is given: {one}", file=sys.stderr)
    return 1 if wrong else 0


def _with_version(text: str, version: str) -> str:
    """The page with its line that names the version of jax."""
    parts = text.splitlines(keepends=True)
    return "".join(f"{version}:\n" if part.startswith("With jax ") else part for part in parts)


if __name__ == "__main__":
    sys.exit(main())
