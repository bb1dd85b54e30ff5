"""Steps that mix a chunk of prompts with tokens of each running request."""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.forms.attention import MIXED_CONSTANTS, mixed_seconds
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes, attention_seconds
from plandsl.backends.cost.work.costing import AttentionForm, Softmax, Work
from plandsl.ir.extents import Extents
from plandsl.ir.types import Number


class Mix(NamedTuple):
    """A mixed step on one rank of those that share requests: ``chunk`` tokens of prompts that have ``before`` keys.

    They belong to ``prompts`` prompts (1 unless prompts are shorter than chunks); ``decodes`` requests run beside them,
    each with ``queries`` tokens, the last of which sees ``context`` keys.
    """

    chunk: Number
    before: Number
    prompts: Number
    decodes: Number
    context: Number
    queries: Number = 1

    @property
    def rows(self) -> Number:
        """Tokens of both."""
        return self.chunk + self.decodes * self.queries


class Mixer:
    """Times mixed steps by the ops of both phases of one plan.

    GEMMs, collectives and kernels of memory traffic have a row for each token of either kind; the head has one for
    each running request and for the prompt. Attention is that of the chunk and that of the decodes, in one call where
    a calibration has constants for such calls (`attention_mixed`), else one after the other.
    """

    def __init__(self, prefill: PhaseModel, decode: PhaseModel) -> None:
        self.prefill, self.decode = prefill, decode
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

    def step(self, mix: Mix, in_flight: Number) -> PhaseTimes:
        """A mixed step. Keys before a chunk grow evenly, and attention with them: their mean stands for all chunks."""
        program, mesh = self.prefill.schedule.program, self.prefill.extents.mesh
        keys = mix.before + mix.chunk / mix.prompts
        rows = {"batch": self.ways, "input": mix.rows, "context": keys}
        tokens = Extents(program, rows, mesh)
        requests = Extents(program, rows | {"batch": (mix.decodes * mix.queries + 1) * self.ways}, mesh)
        prompts = {"batch": mix.prompts * self.ways, "input": mix.chunk / mix.prompts, "context": keys}
        chunk = Extents(program, prompts, mesh)
        alone = {"batch": mix.decodes * self.ways, "context": mix.context, "queries": mix.queries}
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
