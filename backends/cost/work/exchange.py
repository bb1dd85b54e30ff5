"""The work of what travels between ranks: collectives, rings, and hops from stage to stage."""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

from plandsl.backends.cost.forms.collective import (
    EXCHANGES,
    Course,
    collective_course,
    collective_volume,
    least_seconds,
)
from plandsl.backends.cost.machine import links
from plandsl.backends.cost.machine.links import COLLECTIVES, Algorithm, Fabric, all_gather, choose, fabric, send
from plandsl.backends.cost.machine.machine import MEASURED_ANSWER, Answer, Machine, Rates, form_answer
from plandsl.backends.cost.machine.measured import Line
from plandsl.backends.cost.num import are_numbers, maximum, minimum, where
from plandsl.backends.cost.work.kernel import Kernel, memory_kernel
from plandsl.backends.cost.work.site import ROW_DIMS, Site
from plandsl.backends.cost.work.work import Binding, ContextUse, Demand, Path, Shape
from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, Recv, ReduceScatter, Rescale, Ring, Send
from plandsl.ir.extents import Extents
from plandsl.ir.names import axes_of, group_of
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.types import Dim, Number, TensorType
from plandsl.spec.constants import CollectiveConstants, FormConstants
from plandsl.spec.formats import item_bytes
from plandsl.spec.hardware import LinkSpec
from plandsl.values import kept

OWN = {
    "vllm": ("vllm", "quickreduce"),
    "sglang": ("sglang", "quickreduce"),
    "trtllm": ("trtllm",),
    "aiter": ("aiter", "quickreduce"),
}
"""The all_reduce kernels that each engine brings itself, as far as they were measured; quickreduce runs on AMD GPUs."""

ANY = ("vllm", "sglang", "trtllm", "aiter", "quickreduce")
"""All_reduce kernels to choose from where a plan names no engine."""


NOWHERE = LinkSpec("switch", 1.0, 0.0)
"""The links of a message without bytes."""

FEW = 1e-3
"""The share by which a message is lengthened to see how long its bytes take."""


class Fastest(NamedTuple):
    """The fastest algorithm or library for an exchange, and its constants if it was fitted.

    A rank sends ``volume`` bytes over the links for each byte of payload.
    """

    name: str
    volume: Number
    constants: FormConstants | None = None


class Form(Protocol):
    """How an exchange is timed: by its ``ranks``, the ``rows`` of one rank, and the bytes of these rows."""

    def seconds(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """Seconds of one call."""

    def fastest(self, ranks: Number, payload: float) -> Fastest:
        """The algorithm or library whose time `seconds` gives, for a plain number of bytes."""

    def least(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """Seconds that the nominal latency and bandwidth of the links need at least."""

    @property
    def port(self) -> float | None:
        """Nominal bytes/s of the links where bytes also take time off the links; None where only links take time."""

    def span_nodes(self, nodes: int, port: float) -> "Form | None":
        """The form for ranks on several nodes with ``port`` bytes/s for each GPU; None where `crossing` has one."""


class Algorithms(NamedTuple):
    """The fastest of several algorithms of `machine.links` for ``op`` over ``link``, and a launch."""

    choices: tuple[Algorithm, ...]
    launch: float
    link: LinkSpec
    op: str

    def seconds(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """Affine in the payload."""
        return links.seconds(self.choices, payload) + self.launch

    def fastest(self, ranks: Number, payload: float) -> Fastest:
        """The algorithm."""
        way = links.fastest(self.choices, payload)
        return Fastest(way.name, way.volume)

    def least(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """The bytes of the payload through the port, and on a ring or torus those that a GPU hands on for others."""
        handed_on = self.link.topology in ("ring", "torus")
        return least_seconds(self.link, self.op, ranks, payload, volume=self.choices[0].volume if handed_on else None)

    @property
    def port(self) -> None:
        """None: bytes take time on the links alone."""

    def span_nodes(self, nodes: int, port: float) -> None:
        """None: other algorithms cross a network."""


class ExchangeForm(NamedTuple):
    """A collective by the fastest of several libraries, timed by `forms.collective`.

    ``libraries`` are (name, constants, whether it is an engine's own all_reduce kernel).
    """

    libraries: tuple[tuple[str, CollectiveConstants, bool], ...]
    link: LinkSpec
    op: str

    def _library_seconds(self, ranks: Number, payload: Number) -> Sequence[Number]:
        """Seconds of each library."""
        if ranks.__class__ is int and payload.__class__ is float:
            return _known_seconds(self, ranks, payload)
        courses = _known_courses(self, ranks) if ranks.__class__ is int else _courses(self, ranks)
        return [course.seconds(payload) for course in courses]

    def seconds(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """Seconds by the fastest library."""
        best, *others = self._library_seconds(ranks, payload)
        for time in others:
            best = minimum(best, time)
        return best

    def fastest(self, ranks: Number, payload: float) -> Fastest:
        """The fastest library."""
        times = [float(t) for t in self._library_seconds(ranks, payload)]
        least = min(times)
        name, constants, own = self.libraries[times.index(least)]
        n = float(ranks)
        volume = collective_volume(constants, self.link, self.op, n=n, payload=payload, seconds=least, custom=own)
        return Fastest(name.removesuffix("_exchange"), volume, constants)

    def least(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """The bytes of the payload through the port."""
        return least_seconds(self.link, self.op, ranks, payload)

    @property
    def port(self) -> None:
        """None: bytes take time on the links alone."""

    def span_nodes(self, nodes: int, port: float) -> None:
        """None: collectives between nodes have other constants."""


def _courses(form: ExchangeForm, ranks: Number) -> tuple[Course, ...]:
    """The course of each library."""
    return tuple(collective_course(c, form.link, op=form.op, n=ranks, custom=own) for _, c, own in form.libraries)


_known_courses = kept(512)(_courses)


@kept(512)
def _known_seconds(form: ExchangeForm, ranks: int, payload: float) -> tuple[Number, ...]:
    """Seconds of each library, for plain numbers: the seconds of an exchange and its fastest library are both asked."""
    return tuple(course.seconds(payload) for course in _known_courses(form, ranks))


@lru_cache(512)
def _only(form: ExchangeForm) -> ExchangeForm:
    """One object for equal forms: what was found of one of them is known of the others."""
    return form


class Bridged(NamedTuple):
    """An exchange over the bridge of a ``pair`` where two ranks take part, else over the links of ``all_`` GPUs."""

    pair: "Algorithms | ExchangeForm"
    all_: "Algorithms | ExchangeForm"

    def seconds(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """Seconds of one call."""
        if isinstance(ranks, int):
            return (self.pair if ranks == 2 else self.all_).seconds(ranks, rows, payload)
        pair, all_ = (form.seconds(ranks, rows, payload) for form in self)
        return where(ranks == 2, pair, all_)

    def fastest(self, ranks: Number, payload: float) -> Fastest:
        """The algorithm or library of the links that count."""
        return (self.pair if float(ranks) == 2 else self.all_).fastest(ranks, payload)

    def least(self, ranks: Number, rows: Number, payload: Number) -> Number:
        """What the links that count need at least."""
        pair, all_ = (form.least(ranks, rows, payload) for form in self)
        return where(ranks == 2, pair, all_)

    @property
    def port(self) -> None:
        """None: bytes take time on the links alone."""

    def span_nodes(self, nodes: int, port: float) -> None:
        """None: bridges stay inside a node."""


class Judged(NamedTuple):
    """What the calibrated model says of one call: how it runs, its seconds, and what bounds it.

    It holds the ``form``, so that no other form gets its identity.
    """

    fastest: Fastest
    seconds: float
    bound: str
    form: Form


class Exchange(NamedTuple):
    """An op on the links: ``payload_per_row * rows`` bytes between ``ranks`` on ``nodes``, timed by ``form``.

    There are ``times`` calls. Where a collective leaves work to do, every rank runs ``kernel`` after each call. A
    ``table`` answers first. An engine runs collectives at ``rate`` times their speed by themselves; what the model says
    is so long that no wire carries more than its nominal bandwidth at this rate.
    """

    op: Op
    axis: str
    ranks: Number
    rows: tuple[Dim, ...]
    payload_per_row: Number
    form: Form
    table: Line | None = None
    nodes: int = 1
    times: Number = 1
    kernel: Kernel | None = None
    rate: float = 1.0

    def modelled_seconds(self, n: Number) -> Number:
        """Seconds of one call with ``n`` rows by the calibrated model; 0 along an axis of size 1."""
        if isinstance(self.ranks, int) and self.ranks == 1:
            return 0.0
        asked = self.ranks, n, self.payload_per_row * n
        time = maximum(self.form.seconds(*asked), self.form.least(*asked) * max(self.rate, 1.0))
        return time if isinstance(self.ranks, int) else time * (self.ranks > 1)

    def _call_seconds(self, at: Binding, n: Number) -> Number:
        """Seconds of one call: measured where a table answers."""
        return self._modelled(at, n) if self.table is None else self.table.seconds(n, partial(self._modelled, at, n))

    def _modelled(self, at: Binding, n: Number) -> Number:
        """`modelled_seconds`, found once for all exchanges of a pass that are equal."""
        return at.modelled(self, n, self._alike if are_numbers(self.ranks, self.payload_per_row) else None)

    @property
    def _alike(self) -> Hashable:
        """What an equal exchange has too: its form is one object with ours."""
        return id(self.form), self.ranks, self.payload_per_row, self.rate

    def _seconds(self, at: Binding, n: Number) -> Number:
        """Seconds of all calls and their kernels."""
        time = self._call_seconds(at, n)
        if self.kernel is not None:
            time = time + self.kernel.modelled_seconds(n) * (self.ranks > 1)
        return time if isinstance(self.times, int) and self.times == 1 else time * self.times

    def _is_measured(self, at: Binding) -> bool:
        return self.table is not None and bool(self.table.at(at.rows(self.rows)) > 0)

    def _tensors(self) -> int:
        """Messages of one call: a hop sends each tensor in a message."""
        return self.op.tensors if isinstance(self.op, Send | Recv) else 1

    # ---- what the cost model asks

    def context_use(self, extents: Extents) -> ContextUse | None:
        """None: it does not depend on the context."""
        return None

    def seconds(self, at: Binding) -> Number:
        """Seconds of its rows."""
        return at.time_rows(self.rows, partial(self._seconds, at))

    def demand(self, at: Binding) -> Demand:
        """The bytes of one message."""
        return Demand(payload=self.payload_per_row * at.rows(self.rows) / self._tensors())

    def least(self, at: Binding, machine: Machine, pace: float) -> Number | None:
        """None: `modelled_seconds` is bounded by the links."""
        return None

    def bound(self, at: Binding, demand: Demand) -> str:
        """``link`` where the bytes take at least half of the time, judged by adding a few more; else ``latency``."""
        return self._judge(at).bound

    def answer(self, at: Binding, machine: Machine) -> Answer:
        """A table, fitted constants, or the algorithms of the links. A table does not say which algorithm ran."""
        (name, volume, constants), once, *_ = self._judge(at)
        if self._is_measured(at):
            return MEASURED_ANSWER._replace(algorithm="measured", volume=volume)
        found = machine.flat if constants is None else form_answer(constants, once)
        return found._replace(algorithm=name, volume=volume)

    def _judge(self, at: Binding) -> Judged:
        """What its calibrated model says; that of equal exchanges in a pass is asked for once."""
        key = self._alike, self.rows
        if (found := at.judged.get(key)) is None:
            rows = at.rows(self.rows)
            payload = float(self.payload_per_row * rows)
            once, more = float(self._modelled(at, rows)), float(self.modelled_seconds(rows * (1 + FEW)))
            if self.form.port is not None:
                more = once + FEW * payload / self.form.port
            bound = "link" if 2 * (more - once) >= FEW * once else "latency"
            found = at.judged[key] = Judged(self.form.fastest(self.ranks, payload), once, bound, self.form)
        return found

    def path(self, program: Program) -> Path:
        """Its axis; of several axes, those with more than one rank. A hop goes along the axes that cut the stages."""
        axes = axes_of(self.axis) or program.stage_axes
        named = group_of([a for a in axes if program.mesh.size(a) > 1] or axes)
        return Path(named, self.nodes, self._tensors() * int(self.times))

    def pace(self, rates: Rates) -> float:
        """The rate of collectives."""
        return rates.links

    def shape(self, at: Binding) -> Shape:
        """Empty: reports show no sizes."""
        return ()


# ---- from ops


def collective(op: AllReduce | ReduceScatter | AllGather | AllToAll, site: Site) -> Exchange:
    """Payloads as nccl-tests count them: total output of an all_gather, else the rank's buffer."""
    main = op.out.type if isinstance(op, AllGather) or _replicates_heads(op, site) else op.x.type
    elements, rows = site.split(main)
    ranks = site.extents.ways(op.axes)
    size = elements * item_bytes(main.dtype)
    return Exchange(
        op,
        op.axis,
        ranks=ranks,
        rows=rows,
        payload_per_row=size,
        form=node_form(op, site),
        rate=site.machine.rates[2],
    )


def _replicates_heads(op: AllReduce | ReduceScatter | AllToAll, site: Site) -> bool:
    """Whether the exchange replicates heads."""
    if not isinstance(op, AllToAll):
        return False
    dim = op.x.type.dim(op.split)
    ways = site.extents.ways(op.out.type.on(op.split))
    return dim.name not in ROW_DIMS and bool(ways > site.extents.sizes[dim.name])


def node_form(op: AllReduce | ReduceScatter | AllGather | AllToAll, site: Site) -> Form:
    """How a collective is timed inside a node."""
    ranks = site.extents.ways(op.axes)
    return _form(op, site, op.axes[-1], lambda fabric: COLLECTIVES[op.keyword](fabric, ranks))


def _form(op: Op, site: Site, axis: str | None, ways: Callable[[Fabric], list[Algorithm]], pairs: bool = True) -> Form:
    """How an exchange between ranks along ``axis`` is timed; two neighbours that a bridge joins use it.

    Without ``pairs`` some messages between two ranks pass from one pair to another.
    """
    link, stride = site.machine.link, 1 if axis is None else site.program.mesh.stride(axis)
    all_, pair = _form_over(op, site.machine, link, stride, ways), link.pair if stride == 1 and pairs else None
    return all_ if pair is None else Bridged(_form_over(op, site.machine, pair, stride, ways), all_)


def _form_over(
    op: Op, m: Machine, link: LinkSpec, stride: int, ways: Callable[[Fabric], list[Algorithm]]
) -> Algorithms | ExchangeForm:
    """The engine's own all_reduce kernel or the vendor's library, whichever is faster, over ``link``.

    Where neither has fitted constants, the fastest of ``ways``. Kernels of engines need GPUs that reach one another's
    memory.
    """
    word = op.measured_as
    names = ["nccl_exchange"] if word in EXCHANGES else ["nccl"]
    names += OWN.get(m.kernels, ANY) if word == "all_reduce" and link.host is None else ()
    sets = [(n, m.calibration.constants(CollectiveConstants, f"collective.{n}")) for n in names]
    found = tuple((n, c, not n.startswith("nccl")) for n, c in sets if c is not None)
    if found and m.algorithm == "auto":
        return _only(ExchangeForm(found, link, word))
    algorithms = choose(ways(fabric(link, m.link_share, stride)), m.algorithm)
    return Algorithms(tuple(algorithms), m.launch_collective, link, word)


def rescale(op: Rescale, site: Site) -> Exchange:
    """An all_gather of one fp32 statistic for each row of each rank, and a pass over the means."""
    ranks = site.extents.mesh[op.axis]
    statistics = TensorType("fp32", op.x.type.dims[:-1])
    elements, rows = site.split(statistics)
    payload = elements * item_bytes(statistics.dtype) * ranks
    form = _form(op, site, op.axis, lambda fabric: all_gather(fabric, ranks))
    means = memory_kernel(op, site, op.out.type, [op.x.type, op.out.type])
    return Exchange(
        op,
        op.axis,
        ranks=ranks,
        rows=rows,
        payload_per_row=payload,
        form=form,
        kernel=means,
        rate=site.machine.rates[2],
    )


def ring(op: Ring, site: Site) -> Exchange:
    """``n - 1`` messages to the next rank, each with one rank's part of all tensors."""
    payload: Number = 0.0
    for x in op.xs:
        payload = payload + site.split(x.type)[0] * item_bytes(x.type.dtype)
    _, rows = site.split(op.xs[0].type)
    around = site.extents.mesh[op.axis]
    form = _form(op, site, op.axis, send, pairs=isinstance(around, int) and around == 2)
    return Exchange(
        op,
        op.axis,
        ranks=2,
        rows=rows,
        payload_per_row=payload,
        form=form,
        times=around - 1,
        rate=site.machine.rates[2],
    )


def send_hop(op: Send, site: Site) -> Exchange:
    """A hop: the residual stream to the next stage, ``tensors`` tensors of its size."""
    elements, rows = site.split(op.x.type)
    payload = elements * item_bytes(op.x.type.dtype) * op.tensors
    mesh, axes = site.program.mesh, site.program.stage_axes
    form = _form(op, site, None, send, pairs=mesh.ways(axes) == 2 and mesh.stride(axes[-1]) == 1)
    return Exchange(op, "", ranks=2, rows=rows, payload_per_row=payload, form=form, rate=site.machine.rates[2])


def recv(op: Recv) -> Exchange:
    """No time: the hop counts for the sender."""
    nothing = Algorithms((Algorithm("direct", 0.0, 0.0),), 0.0, NOWHERE, op.measured_as)
    return Exchange(op, "", ranks=2, rows=(), payload_per_row=0.0, form=nothing)
