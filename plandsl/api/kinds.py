"""The parts of plans, by the kinds that a `.plan` file has."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from plandsl.api.items import clauses, expression, items, sizes
from plandsl.api.parts import Given, Part, Section, ordered_section
from plandsl.arguments import guarded
from plandsl.grammar import engines, hardware, sharding, shift, speculate, split, traffic, workloads
from plandsl.grammar import syntax as s

ASSUMED = ("assumed",)
RULES = (s.Rule, s.Region, s.Place, s.Field)
"""What may stand among the rules of a sharding; a field is a degree whose place among them matters."""


class Calibration(Part):
    """Constants of a GPU's kernels: ``Calibration("h100_sxm", ...)``."""

    __slots__ = ()
    kind = "calibration"


class Gpu(Part):
    """A GPU: ``Gpu("h100_sxm", memory="96 GB")``."""

    __slots__ = ()
    kind = "gpu"
    known = (*hardware.GPU, *ASSUMED)
    parts = MappingProxyType({"calibration": Calibration})


class Link(Part):
    """The links between the GPUs of a node: ``Link(topology="switch", bandwidth="450 GB/s", latency="2 us")``."""

    __slots__ = ()
    kind = "link"
    known = hardware.LINK


class Network(Part):
    """The network between the nodes of a cluster."""

    __slots__ = ()
    kind = "network"
    known = hardware.NETWORK


class Node(Part):
    """A node: ``Node(gpu="h100_sxm", count=8, link=Link(...))``, or with unlike GPUs ``gpus=["4 * h100_sxm", ...]``."""

    __slots__ = ()
    kind = "node"
    known = (*hardware.NODE, *ASSUMED)
    parts = MappingProxyType({"gpu": Gpu, "link": Link})


class Cluster(Part):
    """Several nodes: ``Cluster(node="h100_8", count=4, network=Network(...))``."""

    __slots__ = ()
    kind = "cluster"
    known = (*hardware.CLUSTER, *ASSUMED)
    parts = MappingProxyType({"node": Node, "network": Network})


class Model(Part):
    """A model: ``Model("llama_3_1_70b", weights="fp8")``, or one of your own, whose other fields are its dimensions.

    ``embedding`` and ``head`` are expressions, ``blocks`` the texts of blocks and of `mtp`, all as in a file.
    """

    __slots__ = ()
    kind = "model"
    ordered = True
    special = MappingProxyType(
        {
            "embedding": expression("embedding"),
            "blocks": items(s.Block, s.Mtp, expected="the text of a `block` or of `mtp`"),
            "head": expression("head"),
        }
    )


Model.parts = MappingProxyType({"tower": Model})  # a model in place


class Engine(Part):
    """A serving engine: ``Engine("vllm", max_requests=512)``."""

    __slots__ = ()
    kind = "engine"
    known = (*engines.ENGINE, *ASSUMED)


class Sharding(Part):
    """How a model is split: by degrees, ``Sharding(tp=4, pp=2)``, or by a ``mesh`` and ``rules``.

    ``Sharding(mesh={"a": 4}, rules=["heads, ffn -> a", "place a in node", "in attention { tokens -> a }"])``. As in a
    file, the first rule wins: the order of degrees and rules has a meaning.
    """

    __slots__ = ()
    kind = "sharding"
    known = sharding.KNOWN
    ordered = True
    special = MappingProxyType(
        {
            "mesh": sizes,
            "rules": items(s.Rule, s.Region, s.Place, s.Field, expected="a rule such as `heads, ffn -> tensor`"),
        }
    )


class Sessions(Part):
    """Conversations of several turns: ``Sessions(turns="uniform(2, 6)", think="exponential(30 s)", system=200)``."""

    __slots__ = ()
    kind = "sessions"
    known = ("turns", "think", "system")


class RequestClass(Part):
    """One of several kinds of requests, with its share of the arrivals or a rate of its own."""

    __slots__ = ()
    kind = "class"
    known = traffic.CLASS
    parts = MappingProxyType({"sessions": Sessions})
    special = MappingProxyType({"require": clauses("require")})


def _classes(part: Part, key: str, given: Given) -> Section:
    made = {}
    for name, value in given.mapping().items():
        if not isinstance(value, RequestClass | Mapping):
            raise given.call.wrong(key, "a mapping of names to RequestClass(...)")
        made[name] = value if isinstance(value, RequestClass) else RequestClass(**value)
    return ordered_section(made)


class Workload(Part):
    """A load: a batch, requests always in flight (``concurrency``), or requests over time (``rate``, ``trace``).

    ``Workload(input=1024, output=128, batch=8)``, ``Workload(input="lognormal(mean = 900, p95 = 3000)", output=200,
    rate="12 req/s")``; ``classes`` maps names to `RequestClass`.
    """

    __slots__ = ()
    kind = "workload"
    known = (*workloads.STATIC, "requests", *workloads.PREFIX, *workloads.IMAGES, *workloads.TRAFFIC)
    parts = MappingProxyType({"sessions": Sessions})
    special = MappingProxyType({"classes": _classes})


class Shift(Part):
    """A second sharding for small steps: ``Shift(tensor=Sharding(tp=8), threshold=256)``; ``base`` is by keyword."""

    __slots__ = ()
    kind = "shift"
    known = shift.SHIFT
    parts = MappingProxyType({"base": Sharding, "tensor": Sharding})

    @guarded
    def __init__(self, **fields: Any) -> None:
        self._fill(None, "", fields)


class Speculate(Part):
    """Tokens guessed ahead: ``Speculate(draft="llama_3_2_1b", tokens=3, acceptance="80 %")``."""

    __slots__ = ()
    kind = "speculate"
    known = speculate.SPECULATE
    parts = MappingProxyType({"draft": Model, "sharding": Sharding})


class Tower(Part):
    """Where the tower of a model runs: ``Tower(sharding=Sharding(tp=1))``."""

    __slots__ = ()
    kind = "tower"
    known = ("sharding",)
    parts = MappingProxyType({"sharding": Sharding})


class Transfer(Part):
    """The link between two pools: ``Transfer(bandwidth="50 GB/s", latency="10 us")``."""

    __slots__ = ()
    kind = "transfer"
    known = ("bandwidth", "latency")


PARTS: dict[str, type[Part]] = {
    "model": Model,
    "node": Node,
    "cluster": Cluster,
    "sharding": Sharding,
    "workload": Workload,
    "calibration": Calibration,
    "engine": Engine,
    "shift": Shift,
    "speculate": Speculate,
    "tower": Tower,
}
"""The fields of a plan that are parts."""


class Pool(Part):
    """The fields of a plan for one of two pools: ``prefill=Pool(node="h100_8", sharding=Sharding(tp=4, dp=2))``."""

    __slots__ = ()
    kind = "pool"
    known = split.POOL
    parts = PARTS
