"""Steps that mix a chunk of prompts with tokens of each running request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import NamedTuple

from plandsl.backends.cost.num import maximum
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes
from plandsl.backends.cost.work.attention import Mixed, Softmax
from plandsl.backends.cost.work.work import Binding, Work
from plandsl.ir.compute import Gemm
from plandsl.ir.extents import Extents
from plandsl.ir.names import RunKey
from plandsl.ir.ops import Op
from plandsl.ir.types import Number


class Mix(NamedTuple):
    """A mixed step on one rank of those that share requests: ``chunk`` tokens of prompts that have ``before`` keys.

    They belong to ``prompts`` prompts (1 unless prompts are shorter than chunks); ``decodes`` requests run beside them,
    each with ``queries`` tokens, the last of which sees ``context`` keys. None: no step of these has any.
    """

    chunk: Number
    before: Number
    prompts: Number
    decodes: Number | None
    context: Number
    queries: Number = 1

    @property
    def logits(self) -> Number:
        """Tokens of requests that decode."""
        return 0 if self.decodes is None else self.decodes * self.queries


class Sizes(NamedTuple):
    """Sizes under which ops of a mixed step run: all tokens, those that need logits, prompts, requests that decode."""

    tokens: Binding
    logits: Binding
    chunk: Binding
    decodes: Binding | None


class Mixer:
    """Times mixed steps by the ops of both phases of one plan.

    An op that both phases have runs once: GEMMs, collectives and kernels of memory traffic have a row for each token of
    either kind, the head has one for each that needs logits. An op that only prefill has (unpacking a latent cache,
    keys around a ring) runs for the prompts. One that only decode has runs for the others, beside its attention.
    Attention is that of the chunk and that of the decodes, in one call where a calibration has constants for such calls
    (`attention_mixed`), else one after the other. An engine runs at its rate of prefill.
    """

    def __init__(self, prefill: PhaseModel, decode: PhaseModel) -> None:
        self.prefill = prefill
        self.kinds = [_KindMixer(*pair) for pair in zip(prefill.kinds, decode.kinds, strict=True)]
        self.ways = self.kinds[0].ways

    def step(self, mix: Mix, in_flight: Number) -> PhaseTimes:
        """A mixed step. Keys before a chunk grow evenly, and attention with them: their mean stands for all chunks."""
        found = self.prefill.slowest_kind([kind.seconds(mix) for kind in self.kinds])
        return self.prefill._pipeline(found, in_flight)


class _KindMixer:
    """The same on one kind of GPU."""

    def __init__(self, prefill: PhaseModel, decode: PhaseModel) -> None:
        self.prefill, self.decode = prefill, decode
        attentions = [w for ops in prefill.work.values() for w in ops if isinstance(w, Softmax)]
        self.ways = prefill.extents.ways(attentions[0].batch.axes) if attentions else 1
        self.places = {name: _places(ops, decode.work[name]) for name, ops in prefill.work.items()}

    def seconds(self, mix: Mix) -> dict[RunKey, list[Number]]:
        """Seconds of each op of prefill's program, with what decode has beside it."""
        sizes = self._sizes(mix)
        works = [(1.0, self.prefill.work, self.decode.work)]
        if self.prefill.varied:
            both = zip(self.prefill.varied, self.decode.varied, strict=True)
            works = [(weight, ours, theirs) for (weight, ours), (_, theirs) in both]
        found: dict[RunKey, list[Number]] = {}
        for weight, ours, theirs in works:
            for name in self.places:
                times = self._region(name, ours, theirs, mix, sizes)
                before = found.get(name, [0.0] * len(times))
                found[name] = [a + weight * t for a, t in zip(before, times, strict=True)]
        return self.prefill._at_engine_rates(found)

    def _sizes(self, mix: Mix) -> Sizes:
        program, mesh = self.prefill.schedule.program, self.prefill.extents.mesh
        own = mix.chunk / mix.prompts
        keys = mix.before + own
        rows = {"batch": self.ways, "input": mix.chunk + mix.logits, "context": keys}
        prompts = {"batch": mix.prompts * self.ways, "input": own, "context": keys}
        decodes = None
        if mix.decodes is not None:
            count = maximum(mix.decodes * self.ways, 1)  # what none of them takes is left out
            alone = {"batch": count, "context": mix.context, "queries": mix.queries}
            decodes = Binding(Extents(self.decode.schedule.program, alone, self.decode.extents.mesh), mix.context)
        return Sizes(
            Binding(Extents(program, rows, mesh)),
            Binding(Extents(program, rows | {"batch": (mix.logits + mix.prompts) * self.ways}, mesh)),
            Binding(Extents(program, prompts, mesh), keys),
            decodes,
        )

    def _region(
        self,
        name: RunKey,
        ours: Mapping[RunKey, Sequence[Work]],
        theirs: Mapping[RunKey, Sequence[Work]],
        mix: Mix,
        sizes: Sizes,
    ) -> list[Number]:
        """Seconds of the ops of a region."""
        shared, alone, beside = self.places[name]
        found: list[Number] = []
        for i, work in enumerate(ours[name]):
            if isinstance(work, Softmax):
                attention = theirs[name][shared[i]]
                assert isinstance(attention, Softmax), "attention goes with attention"
                found.append(self._attention(work, attention, mix, sizes))
                continue
            lone = work.rows and all(d.name == "batch" for d in work.rows)
            where = sizes.logits if lone else sizes.tokens if i in shared else sizes.chunk
            found.append(work.seconds(where))
        if sizes.decodes is not None:
            there = mix.decodes > 0  # type: ignore[operator]
            for i in alone:
                found[beside] = found[beside] + theirs[name][i].seconds(sizes.decodes) * there
        return found

    def _attention(self, work: Softmax, other: Softmax, mix: Mix, sizes: Sizes) -> Number:
        """Of one prompt with the decodes, and of the other prompts."""
        first = work.seconds(sizes.chunk)
        if mix.decodes is None or sizes.decodes is None:
            return first
        call = Mixed(mix.chunk / mix.prompts, mix.before, mix.decodes * mix.queries, mix.context)
        if (one := work.mixed(self.prefill.machine, call)) is not None:
            return one + first * (1 - 1 / mix.prompts)
        return first + other.seconds(sizes.decodes) * (mix.decodes > 0)


class Places(NamedTuple):
    """Which ops of a region go together.

    ``shared`` gives for ops of prefill those of decode that are the same, ``alone`` are those that only decode has, and
    ``beside`` is the op of prefill that they are counted with.
    """

    shared: Mapping[int, int]
    alone: Sequence[int]
    beside: int


def _places(ours: Sequence[Work], theirs: Sequence[Work]) -> Places:
    """The ops of one region in both phases, aligned: attentions with one another, then what lies between."""
    a, b = ([_key(w.op) for w in works] for works in (ours, theirs))
    attention = [[i for i, w in enumerate(works) if isinstance(w, Softmax)] for works in (ours, theirs)]
    shared = dict(zip(*attention, strict=True))
    ends = [(-1, -1), *shared.items(), (len(a), len(b))]
    for (i, j), (k, m) in pairwise(ends):
        blocks = SequenceMatcher(None, a[i + 1 : k], b[j + 1 : m], autojunk=False).get_matching_blocks()
        shared |= {i + 1 + block.a + n: j + 1 + block.b + n for block in blocks for n in range(block.size)}
    alone = [j for j in range(len(theirs)) if j not in shared.values()]
    return Places(shared, alone, attention[0][0] if attention[0] else 0)


def _key(op: Op) -> tuple[object, ...]:
    """What makes two ops of different phases the same: what they do, with which weights, to tensors of which kind."""
    weights = tuple(w.name for w in op.weights) if isinstance(op, Gemm) else ()
    kept = tuple(n for x in op.results[:1] for n in x.type.names if n not in ("batch", "position"))
    return op.keyword, getattr(op, "fn", ""), weights, () if weights else kept
