"""Times of steps that mix a chunk of prompts with tokens of each running request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import NamedTuple

from plandsl.backends.cost.num import maximum, minimum
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes
from plandsl.backends.cost.work.attention import Mixed, Softmax
from plandsl.backends.cost.work.work import Binding, Work
from plandsl.ir.compute import Gemm
from plandsl.ir.index import PickKeys
from plandsl.ir.names import Blocks, RunKey
from plandsl.ir.ops import Op
from plandsl.ir.states import States
from plandsl.ir.types import Number


class Mix(NamedTuple):
    """A mixed step on one of the ranks that share requests: ``chunk`` tokens of prompts behind ``before`` keys.

    The tokens belong to ``prompts`` prompts (1 unless prompts are shorter than chunks). Beside them ``decodes``
    requests decode ``queries`` tokens each, the last of which sees ``context`` keys. ``decodes`` is None where steps
    never have any; below 1 it is the share of such steps that have one.
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

    def __init__(self, prefill: PhaseModel, decode: PhaseModel, places: Mapping[RunKey, Places]) -> None:
        self.prefill = prefill
        self.kinds = [_KindMixer(*pair, places) for pair in zip(prefill.kinds, decode.kinds, strict=True)]
        self.ways = self.kinds[0].ways

    def step(self, mix: Mix, in_flight: Number) -> PhaseTimes:
        """Times of a mixed step. Attention is linear in keys before a chunk, so their mean stands for all."""
        found = self.prefill.slowest_kind([kind.seconds(mix) for kind in self.kinds])
        return self.prefill.play_stages(found, in_flight)


class _KindMixer:
    """Mixed steps on one kind of GPU."""

    def __init__(self, prefill: PhaseModel, decode: PhaseModel, places: Mapping[RunKey, Places]) -> None:
        self.prefill, self.decode, self.places = prefill, decode, places
        attentions = [w for ops in prefill.work.values() for w in ops if isinstance(w, Softmax)]
        self.ways = prefill.extents.ways(attentions[0].batch.axes) if attentions else 1

    def seconds(self, mix: Mix) -> dict[RunKey, list[Number]]:
        """Seconds of each op of prefill's program, with what decode has beside it."""
        sizes = self._sizes(mix)
        return self.prefill._at_engine_rates({name: self._region(name, mix, sizes) for name in self.places})

    def _sizes(self, mix: Mix) -> Sizes:
        own = mix.chunk / mix.prompts
        keys = mix.before + own
        requests = mix.prompts if mix.decodes is None else mix.prompts + mix.decodes
        rows = {"batch": self.ways, "input": mix.chunk + mix.logits, "context": keys, "each": requests}
        prompts = {"batch": mix.prompts * self.ways, "input": own, "context": keys}
        decodes = None
        if mix.decodes is not None:
            count = maximum(mix.decodes * self.ways, 1)  # what none of them takes is left out
            alone = {"batch": count, "context": mix.context, "queries": mix.queries}
            decodes = self.decode.bound_sizes(alone, mix.context)
        return Sizes(
            self.prefill.bound_sizes(rows),
            self.prefill.bound_sizes(rows | {"batch": (mix.logits + mix.prompts) * self.ways, "each": 1}),
            self.prefill.bound_sizes(prompts, keys),
            decodes,
        )

    def _region(self, name: RunKey, mix: Mix, sizes: Sizes) -> list[Number]:
        """Seconds of the ops of a region."""
        prefill = self.prefill
        shared, alone, beside = self.places[name]
        found: list[Number] = []
        for i, work in enumerate(prefill.work[name]):
            if isinstance(work, Softmax):
                found.append(self._attention(name, i, mix, sizes))
                continue
            if isinstance(work.op, States | PickKeys):
                found.append(self._apart(name, i, mix, sizes))
                continue
            if any(isinstance(n, Blocks) for x in work.op.results for n in x.type.names):  # of the prompts alone
                found.append(prefill.op_seconds(name, i, sizes.chunk))
                continue
            lone = work.rows and all(d.name == "batch" for d in work.rows)
            where = sizes.logits if lone else sizes.tokens if i in shared else sizes.chunk
            found.append(prefill.op_seconds(name, i, where))
        if sizes.decodes is not None:
            for i in alone:
                found[beside] = found[beside] + self._decode_seconds(name, i, mix, sizes.decodes)
        return found

    def _apart(self, name: RunKey, i: int, mix: Mix, sizes: Sizes) -> Number:
        """Seconds of an op that has kernels of its own for prompts and for decodes: a state's, or a choice of keys."""
        found = self.prefill.op_seconds(name, i, sizes.chunk)
        if sizes.decodes is None:
            return found
        return found + self._decode_seconds(name, self.places[name].shared[i], mix, sizes.decodes)

    def _attention(self, name: RunKey, i: int, mix: Mix, sizes: Sizes) -> Number:
        """Seconds of attention of one prompt with the decodes, and of the other prompts."""
        work = self.prefill.work[name][i]
        assert isinstance(work, Softmax), "only attention has keys"
        first = self.prefill.op_seconds(name, i, sizes.chunk)
        if mix.decodes is None or sizes.decodes is None:
            return first
        call = Mixed(mix.chunk / mix.prompts, mix.before, mix.decodes * mix.queries, mix.context)
        if (one := work.mixed(self.prefill.machine, call)) is not None:
            return one + first * (1 - 1 / mix.prompts)
        return first + self._decode_seconds(name, self.places[name].shared[i], mix, sizes.decodes)

    def _decode_seconds(self, name: RunKey, i: int, mix: Mix, at: Binding) -> Number:
        """Seconds of op ``i`` of decode, in the share of the steps that have a request that decodes."""
        assert mix.decodes is not None, "sizes of decodes come with their number"
        return self.decode.op_seconds(name, i, at) * minimum(mix.decodes, 1)


class Places(NamedTuple):
    """Which ops of a region go together.

    ``shared`` maps an op of prefill to the same op of decode. ``alone`` are the ops that only decode has; they count
    with op ``beside`` of prefill.
    """

    shared: Mapping[int, int]
    alone: Sequence[int]
    beside: int


def align_phases(prefill: PhaseModel, decode: PhaseModel) -> dict[RunKey, Places]:
    """Which ops of the two phases of a plan go together, by run."""
    return {name: _places(ops, decode.work[name]) for name, ops in prefill.work.items()}


def _places(ours: Sequence[Work], theirs: Sequence[Work]) -> Places:
    """The ops of one region aligned between the phases: attentions first, then the ops between them."""
    a, b = ([_key(w.op) for w in works] for works in (ours, theirs))
    attention = [[i for i, w in enumerate(works) if isinstance(w, Softmax)] for works in (ours, theirs)]
    shared = dict(zip(*attention, strict=True))
    ends = [(-1, -1), *shared.items(), (len(a), len(b))]
    for (i, j), (k, m) in pairwise(ends):
        blocks = SequenceMatcher(None, a[i + 1 : k], b[j + 1 : m], autojunk=False).get_matching_blocks()
        shared |= {i + 1 + block.a + n: j + 1 + block.b + n for block in blocks for n in range(block.size)}
    for kind in {w.op.keyword for w in ours if isinstance(w.op, States | PickKeys)}:  # on either side of an attention
        both = ([i for i, w in enumerate(works) if w.op.keyword == kind] for works in (ours, theirs))
        shared |= dict(zip(*both, strict=True))
    alone = [j for j in range(len(theirs)) if j not in shared.values()]
    return Places(shared, alone, attention[0][0] if attention[0] else 0)


def _key(op: Op) -> tuple[object, ...]:
    """Equal for the same op in both phases: its keyword, function, weights, and dimensions of its result."""
    weights = tuple(w.name for w in op.weights) if isinstance(op, Gemm) else ()
    kept = tuple(n for x in op.results[:1] for n in x.type.names if n not in ("batch", "position"))
    return op.keyword, getattr(op, "fn", ""), weights, () if weights else kept
