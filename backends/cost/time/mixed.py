"""Times of steps that mix a chunk of prompts with tokens of each running request."""

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
    """A mixed step on one of the ranks that share requests: ``chunk`` tokens of prompts behind ``before`` keys.

    The tokens belong to ``prompts`` prompts (1 unless prompts are shorter than chunks). Beside them ``decodes``
    requests decode ``queries`` tokens each, the last of which sees ``context`` keys. ``decodes`` is None where steps
    never have any.
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
    """Sizes for ops of a mixed step: all tokens, tokens that need logits, prompts, requests that decode."""

    tokens: Binding
    logits: Binding
    chunk: Binding
    decodes: Binding | None


class Mixer:
    """Times mixed steps by the ops of both phases of one plan.

    An op that both phases have runs once: GEMMs, collectives and kernels of memory traffic have a row for each token of
    either kind, the head has a row for each token that needs logits. An op that only prefill has (unpacking a latent
    cache, keys around a ring) runs for the prompts. An op that only decode has runs for the other requests, beside
    their attention. Attention of the chunk and of the decodes runs in one call where a calibration has constants for
    such calls (`attention_mixed`), else one after the other. An engine runs at its rate of prefill.
    """

    def __init__(self, prefill: PhaseModel, decode: PhaseModel) -> None:
        self.prefill = prefill
        self.kinds = [_KindMixer(*pair) for pair in zip(prefill.kinds, decode.kinds, strict=True)]
        self.ways = self.kinds[0].ways

    def step(self, mix: Mix, in_flight: Number) -> PhaseTimes:
        """Times of a mixed step. Attention is linear in keys before a chunk, so their mean stands for all."""
        found = self.prefill.slowest_kind([kind.seconds(mix) for kind in self.kinds])
        return self.prefill.play_stages(found, in_flight)


class _KindMixer:
    """Mixed steps on one kind of GPU."""

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
        if sizes.decodes is not None and mix.decodes is not None:
            for i in alone:
                found[beside] = found[beside] + theirs[name][i].seconds(sizes.decodes) * (mix.decodes > 0)
        return found

    def _attention(self, work: Softmax, other: Softmax, mix: Mix, sizes: Sizes) -> Number:
        """Seconds of attention of one prompt with the decodes, and of the other prompts."""
        first = work.seconds(sizes.chunk)
        if mix.decodes is None or sizes.decodes is None:
            return first
        call = Mixed(mix.chunk / mix.prompts, mix.before, mix.decodes * mix.queries, mix.context)
        if (one := work.mixed(self.prefill.machine, call)) is not None:
            return one + first * (1 - 1 / mix.prompts)
        return first + other.seconds(sizes.decodes) * (mix.decodes > 0)


class Places(NamedTuple):
    """Which ops of a region go together.

    ``shared`` maps an op of prefill to the same op of decode. ``alone`` are the ops that only decode has; they count
    with op ``beside`` of prefill.
    """

    shared: Mapping[int, int]
    alone: Sequence[int]
    beside: int


def _places(ours: Sequence[Work], theirs: Sequence[Work]) -> Places:
    """The ops of one region aligned between the phases: attentions first, then the ops between them."""
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
    """Equal for the same op in both phases: its keyword, function, weights, and dimensions of its result."""
    weights = tuple(w.name for w in op.weights) if isinstance(op, Gemm) else ()
    kept = tuple(n for x in op.results[:1] for n in x.type.names if n not in ("batch", "position"))
    return op.keyword, getattr(op, "fn", ""), weights, () if weights else kept
