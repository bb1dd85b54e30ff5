"""How the ranks of a row share a model, and the text of its plan."""

from __future__ import annotations

import re
from collections.abc import Callable

from attrs import frozen

from plandsl.backends.accuracy.names import Known, kv_dtype

RACKS = ("gb200", "gb300")
"""GPUs whose links reach past eight: 72 in one NVLink domain."""

RACK = 72

SIZES = (8, 4, 2, 1)
"""GPUs of the catalog's nodes, the largest first."""

NETWORK = "network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }"
"""Between nodes: a port of 400 Gbit/s for each GPU, as in the catalog's clusters."""

TRANSFER = "transfer { bandwidth = 50 GB/s, latency = 10 us }"
"""Between the pools of prefill and decode, which no row states: the same port (assumed)."""

TENSOR = ("heads", "kv_heads", "ffn", "vocab")
"""Dimensions that tensor parallelism splits, where a model has them."""

AXES = ("group", "rest", "last")


class Refused(Exception):
    """Why a row has no plan."""


@frozen
class Spread:
    """How the ranks of an engine share a model.

    Attention is split over ``tp`` ranks in each of ``attn_dp`` groups, which split the requests. The same
    ``attn_dp tp`` ranks hold the experts, in ``ep`` groups. There are ``pp`` stages, and ``dp`` independent engines.
    """

    dp: int = 1
    pp: int = 1
    tp: int = 1
    attn_dp: int = 1
    ep: int = 1

    @property
    def ranks(self) -> int:
        """The ranks of a stage."""
        return self.tp * self.attn_dp

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.dp * self.pp * self.ranks

    def sharding(self, has: Callable[[str], bool]) -> str:
        """The sharding as a plan says it, for a model that ``has`` some dimensions; nothing for one GPU."""
        degrees = [f"{name} = {n}" for name, n in (("dp", self.dp), ("pp", self.pp)) if n > 1]
        if self.ranks > 1 and self.attn_dp == 1 and self.ep == 1:
            degrees.append(f"tp = {self.tp}")
        elif self.ranks > 1:
            degrees += self._mesh(has)
        return "sharding { " + "; ".join(degrees) + " }" if degrees else ""

    def _mesh(self, has: Callable[[str], bool]) -> list[str]:
        """Axes that end where groups of attention or of experts do, and what each of them splits."""
        ends = sorted({self.attn_dp, self.ep, self.ranks} - {1})
        begins = [1, *ends[:-1]]
        if any(end % begin for begin, end in zip(begins, ends, strict=True)):
            raise Refused(f"{self.attn_dp} groups of attention and {self.ep} groups of experts do not nest")
        axes = dict(zip(AXES, ends, strict=False))
        sizes = [end // begin for begin, end in zip(begins, ends, strict=True)]
        dims = [
            ("experts", 1, self.ep) if has("experts") else ("", 1, 1),
            ("expert_ffn", self.ep, self.ranks) if has("experts") else ("", 1, 1),
            ("batch", 1, self.attn_dp),
            (", ".join(filter(has, TENSOR)), self.attn_dp, self.ranks),
        ]
        rules = [f"mesh {', '.join(f'{name} = {size}' for name, size in zip(axes, sizes, strict=True))}"]
        for split, begin, end in dims:
            over = [name for name, last in axes.items() if begin < last <= end]
            rules += [f"{split} -> {', '.join(over)}"] if split and over else []
        return rules


def machine(gpu: str, ranks: int, known: Known, name: str = "machines") -> tuple[str, str]:
    """The GPUs of a plan: what is defined before it, if anything, and the field that names them."""
    size = next((n for n in SIZES if known("node", f"{gpu}_{n}")), 0)
    if not size:
        raise Refused(f"the catalog has no node of {gpu}")
    node = f"{gpu}_{size}"
    if ranks <= size:
        return "", f"node = {node}"
    if gpu in RACKS and ranks <= RACK:
        return "", f"node = {node} with {{ count = {ranks} }}"
    count = -(-ranks // size)
    return f"cluster {name} {{ node = {node}, count = {count}, {NETWORK} }}\n", f"cluster = {name}"


MIXED = ("gpt_oss",)
"""Models whose checkpoints store experts otherwise than the rest: the catalog's entry says how."""


@frozen
class Served:
    """What is served, and by which engine of the catalog: weights and cache in these formats."""

    model: str
    gpu: str
    weights: str
    cache: str
    engine: str

    @property
    def field(self) -> str:
        """The model as a plan names it."""
        cache = kv_dtype(self.engine, self.gpu, self.weights, self.cache)
        kept = "" if self.model.startswith(MIXED) else f"weights = {self.weights}, "
        return f"model = {self.model} with {{ {kept}kv_cache = {cache} }}"


WORKLOAD = "workload { input = 1000, output = 100 }"
"""Stands for the load, which is not part of the plan of a row."""


def plan_text(served: Served, spread: Spread, known: Known) -> str:
    """A plan of one pool."""
    before, field = machine(served.gpu, spread.gpus, known)
    sharding = spread.sharding(_has(served.model, known))
    return before + _text(served, [field, sharding, WORKLOAD])


def pools_text(served: Served, prefill: Spread, decode: Spread, known: Known) -> str:
    """A plan of a pool that prefills and a pool that decodes."""
    definitions, fields = "", []
    for name, spread in (("prefill", prefill), ("decode", decode)):
        before, field = machine(served.gpu, spread.gpus, known, f"{name}_machines")
        definitions += before
        parts = [field, spread.sharding(_has(served.model, known))]
        fields.append(f"{name} {{ {', '.join(filter(None, parts))} }}")
    return definitions + _text(served, [WORKLOAD, *fields, TRANSFER])


ROOM = "memory_fraction = 97 %"
"""What an engine is told to take of a GPU where its default leaves no room."""


def with_room(plan: str) -> str:
    """The same plan whose engine takes nearly all memory; the same text where it names no engine."""

    def field(found: re.Match[str]) -> str:
        return f"engine = {found[1]} with {{ {', '.join(filter(None, (found[2], ROOM)))} }}"

    return re.sub(r"engine = (\w+)(?: with \{ (.*?) \})?", field, plan)


def _has(model: str, known: Known) -> Callable[[str], bool]:
    return lambda dim: known("dimension", f"{model}.{dim}")


def _text(served: Served, fields: list[str]) -> str:
    lines = [served.field, *fields, f"engine = {served.engine}" if served.engine else ""]
    return "plan row {\n" + "".join(f"  {line}\n" for line in lines if line) + "}\n"
