"""Steps that mix a chunk of a prompt with a token of each running request: chunked prefill.

A prompt goes through in chunks, of as many tokens as a step's budget leaves beside one for each request that runs.
Source: Agrawal et al., "Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve", OSDI 2024.
"""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.forms.attention import MIXED_CONSTANTS, mixed_seconds
from plandsl.backends.cost.num import ceil_div, clip, maximum, minimum
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes, Played, attention_seconds
from plandsl.backends.cost.work.costing import AttentionForm, Softmax, Work
from plandsl.ir.extents import Extents
from plandsl.ir.types import Number


class Mix(NamedTuple):
    """A mixed step on one rank of those that share requests: ``chunk`` tokens of prompts that have ``before`` keys.

    They belong to ``prompts`` prompts (1 unless prompts are shorter than chunks); ``decodes`` requests run beside them,
    each with ``context`` keys.
    """

    chunk: Number
    before: Number
    prompts: Number
    decodes: Number
    context: Number


class Chunks(NamedTuple):
    """How a prompt, or a batch of them, gets through: in ``steps`` mixed steps, each timed by ``times``.

    ``after`` is how many of them a request of the batch is in once its own prompt is done, on average.
    """

    steps: Number
    times: PhaseTimes
    after: Number = 0.0

    @property
    def whole(self) -> PhaseTimes:
        """All steps together."""
        n, t = self.steps, self.times

        def more(p: Played) -> Played:
            return Played(p.span * n, p.compute * n)

        return PhaseTimes(
            {name: [s * n for s in seconds] for name, seconds in t.seconds.items()},
            {name: more(p) for name, p in t.regions.items()},
            [more(p) for p in t.stages],
            t.hop * n,
            t.period * n,
            t.period * n,
            t.hops * n,
        )


class Mixer:
    """Times mixed steps by the ops of both phases of one plan.

    GEMMs, collectives and kernels of memory traffic have a row for each token of either kind; the head has one for
    each running request and for the prompt. Attention is that of the chunk and that of the decodes, in one call where
    a calibration has constants for such calls (`attention_mixed`), else one after the other.
    """

    def __init__(self, prefill: PhaseModel, decode: PhaseModel, budget: int) -> None:
        self.prefill, self.decode, self.budget = prefill, decode, budget
        attentions = [w for ops in prefill.work.values() for w in ops if isinstance(w, Softmax)]
        self.ways = prefill.extents.ways(attentions[0].batch.axes) if attentions else 1
        self.pairs = self._pairs()

    def _pairs(self) -> dict[int, Softmax]:
        """The attention of decode that goes with each one of prefill: programs of one model have the same, in order."""
        found: dict[int, Softmax] = {}
        for region, ops in self.prefill.work.items():
            ours = [w for w in ops if isinstance(w, Softmax)]
            theirs = [w for w in self.decode.work[region] if isinstance(w, Softmax)]
            found |= {id(a): b for a, b in zip(ours, theirs, strict=True)}
        return found

    def together(self, batch: Number, new: Number, input_: Number, in_flight: Number) -> Chunks:
        """``batch`` prompts that start together; those that are done run beside the others.

        On average ``(n - 1) / 2`` of n run, so that ``n new / (budget - (n - 1) / 2)`` steps, rounded up, do it. The
        last prompt is done with the last step, the one before it by its share of them and half a step to the end of it.
        """
        n = ceil_div(batch, self.ways)
        share = new / maximum(self.budget - (n - 1) / 2, 1)
        steps = ceil_div(n * share, 1)
        after = (n - 1) / n * (steps - clip(n * share / 2 + 0.5, 1, steps))
        made = self._chunks(steps, n * new / steps, new, input_, n * after / steps, in_flight)
        return made._replace(after=after)

    def one(self, running: Number, new: Number, input_: Number, in_flight: Number) -> Chunks:
        """One prompt among ``running`` requests; steps may be parts of one, where prompts share it."""
        beside = running / self.ways
        chunk = maximum(self.budget - beside, 1)
        return self._chunks(new / chunk, chunk, new, input_, beside, in_flight)

    def _chunks(
        self, steps: Number, chunk: Number, new: Number, input_: Number, beside: Number, in_flight: Number
    ) -> Chunks:
        own = minimum(chunk, new)
        mix = Mix(chunk, input_ - new + (new - own) / 2, chunk / own, beside, input_)
        return Chunks(steps, self.step(mix, in_flight))

    def step(self, mix: Mix, in_flight: Number) -> PhaseTimes:
        """A mixed step. Keys before a chunk grow evenly, and attention with them: their mean stands for all chunks."""
        program, mesh = self.prefill.schedule.program, self.prefill.extents.mesh
        keys = mix.before + mix.chunk / mix.prompts
        rows = {"batch": self.ways, "input": mix.chunk + mix.decodes, "context": keys}
        tokens = Extents(program, rows, mesh)
        requests = Extents(program, rows | {"batch": (mix.decodes + 1) * self.ways}, mesh)
        prompts = {"batch": mix.prompts * self.ways, "input": mix.chunk / mix.prompts, "context": keys}
        chunk = Extents(program, prompts, mesh)
        alone = {"batch": mix.decodes * self.ways, "context": mix.context}
        decodes = Extents(self.decode.schedule.program, alone, self.decode.extents.mesh)

        def seconds(work: Work) -> Number:
            if isinstance(work, Softmax):
                return self._attention(work, mix, chunk, decodes)
            lone = all(d.name == "batch" for d in work.rows)
            return self.prefill._seconds(work, requests if lone and work.rows else tokens, {})

        found = {name: [seconds(w) for w in ops] for name, ops in self.prefill.work.items()}
        return self.prefill._pipeline(found, in_flight)

    def _attention(self, work: Softmax, mix: Mix, chunk: Extents, decodes: Extents) -> Number:
        """Of one prompt with the decodes, and of the other prompts."""
        form, own = work.form, mix.chunk / mix.prompts
        first = attention_seconds(work, chunk, mix.before + own)
        if isinstance(form, AttentionForm) and not work.op.window and (c := self._constants(work)):
            one = mixed_seconds(c, form.chip, form.heads, own, mix.before, mix.decodes, mix.context)
            return one + first * (1 - 1 / mix.prompts)
        return first + attention_seconds(self.pairs[id(work)], decodes, mix.context) * (mix.decodes > 0)

    def _constants(self, work: Softmax) -> dict[str, float]:
        found = self.prefill.machine.calibration.section(f"attention_mixed.{work.op.q.type.dtype}")
        return found if found.keys() >= set(MIXED_CONSTANTS) else {}
