"""A server that guesses tokens ahead: a draft runs before each step, which verifies its guesses.

A step of the model takes each request's next token and ``k`` guesses of those after it; the first guess that is wrong
ends what counts, and the model's own token takes its place. Source: Leviathan, Kalman and Matias, "Fast inference from
transformers via speculative decoding", 2023, arXiv 2211.17192.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from plandsl.backends.cost.deployments.contents import Contents
from plandsl.backends.cost.deployments.memory import MemoryModel, ProgramMemory
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.shift import Modes
from plandsl.backends.cost.deployments.single import Single
from plandsl.backends.cost.deployments.step import Decode, Step
from plandsl.backends.cost.num import largest, maximum, where
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec, SpeculateSpec

if TYPE_CHECKING:
    from plandsl.backends.cost.deployments.deployment import Deployment


def tokens_per_step(acceptance: Sequence[Number]) -> Number:
    """Expected tokens that a step brings, whose guesses are right with the chances ``acceptance``, one after the other.

    ``1 + a_1 + a_1 a_2 + ...``: a guess counts where it and all before it are right, and the model adds one token.
    With one chance ``a`` for all ``k`` it is ``(1 - a^(k+1)) / (1 - a)`` (arXiv 2211.17192, equation 1).
    """
    total: Number = 1.0
    chance: Number = 1.0
    for rate in acceptance:
        chance = chance * rate
        total = total + chance
    return total


def expected_tokens(acceptance: Number, tokens: Number) -> Number:
    """`tokens_per_step` of ``tokens`` guesses with one ``acceptance``, either of which may be an array."""
    wrong = maximum(1 - acceptance, 1e-12)
    return where(acceptance < 1, (1 - acceptance ** (tokens + 1)) / wrong, tokens + 1.0)


def break_even(gain: float, tokens: int) -> float | None:
    """The acceptance of each of ``tokens`` guesses from which a step brings ``gain`` tokens; None where it never does.

    Their sum grows with the acceptance: bisected.
    """
    if gain > tokens + 1:
        return None
    low, high = 0.0, 1.0
    if gain <= 1:
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens_per_step([middle] * tokens) < gain else (low, middle)
    return high


class Guesses(NamedTuple):
    """What guesses tokens ahead: ``draft`` runs on the GPUs of the server, None where guesses are looked up at no cost.

    ``added`` are the bytes of weights that the draft adds to a GPU. ``plain`` makes the deployment of the same plan
    without guesses.
    """

    spec: SpeculateSpec
    draft: Single | None
    added: Number
    plain: Callable[[], Deployment]


class Drafted:
    """``verify`` with its ``draft`` before it: one prefill of the draft, and a decode step of it for each guess.

    Batches in flight draft one after the other, on the GPUs of every stage. ``guessed`` tokens bring ``gain`` in a
    step: those of the plan unless given. A `Server`.
    """

    def __init__(
        self,
        verify: Server,
        speculate: SpeculateSpec,
        draft: Single | None,
        plain: Callable[[], Deployment],
        guessed: Number | None = None,
        gain: Number | None = None,
    ) -> None:
        self.plan, self.verify, self.speculate, self.draft, self.plain = verify.plan, verify, speculate, draft, plain
        self.in_flight = verify.in_flight
        self.guessed = speculate.tokens if guessed is None else guessed
        self.queries = self.guessed + 1
        self.gain = tokens_per_step(speculate.acceptance) if gain is None else gain
        held = draft.memory if draft else None
        self.memory = DraftedMemory(verify.memory, held, self.guessed, speculate.own)

    def on(self, plan: PlanSpec) -> Drafted:
        """The same schedules and memory under other figures."""
        drafting = plan.draft_plan
        draft = self.draft.on(drafting) if self.draft and drafting else None
        return Drafted(
            self.verify.on(plan), self.speculate, draft=draft, plain=self.plain, guessed=self.guessed, gain=self.gain
        )

    def guessing(self, tokens: Number, acceptance: Number) -> Drafted:
        """The same with other guesses, each right with chance ``acceptance``; numbers or arrays, as a load."""
        gain = expected_tokens(acceptance, tokens)
        return Drafted(self.verify, self.speculate, draft=self.draft, plain=self.plain, guessed=tokens, gain=gain)

    @property
    def main(self) -> Single:
        """The server of the verifying model."""
        return self.verify.main

    @property
    def modes(self) -> Modes | None:
        """Of two shardings, each with the draft."""
        found = self.verify.modes
        if found is None:
            return None
        base, tensor = (Drafted(mode, self.speculate, self.draft, self.plain) for mode in (found.base, found.tensor))
        return Modes(found.threshold, base, tensor)

    @property
    def guesses(self) -> Guesses:
        """What guesses."""
        return Guesses(self.speculate, self.draft, self.memory.added, self.plain)

    def step(self, step: Step, in_flight: Number) -> PhaseTimes:
        """How long a step takes: that of the model, after a prefill of the draft and a step of it for each guess.

        The draft takes its first step with its prefill, where a step has both.
        """
        times = self.verify.step(step, in_flight)
        if self.draft is None:
            return times
        alone = None if step.decode is None else _draft_step(step.decode)
        if step.prompt is not None:
            times = _add_draft(self.draft.step(Step(step.prompt, alone), in_flight), 1, times)
        if alone is None:
            return times
        if step.prompt is None:
            return _add_draft(self.draft.step(Step(decode=alone), in_flight), self.guessed, times)
        count = maximum(self.guessed - 1, 0) * (alone.requests > 0)
        some = alone._replace(requests=maximum(alone.requests, 1))
        return _add_draft(self.draft.step(Step(decode=some), in_flight), count, times)


def _draft_step(decode: Decode) -> Decode:
    """The same requests in a step of the draft, which has one token of each."""
    return decode._replace(context=decode.cached + 1, queries=1)


def _add_draft(draft: PhaseTimes, count: Number, times: PhaseTimes) -> PhaseTimes:
    """``times`` of a step before which a draft runs ``count`` times."""
    return times._replace(
        through=times.through + count * draft.through,
        period=times.period + count * draft.period,
        drafted=times.drafted + count * draft.through,
        runs=(*times.runs, *(run._replace(part=DRAFT, count=count) for run in draft.runs)),
    )


DRAFT = "draft"
"""What runs of the draft are called."""


class DraftedMemory(MemoryModel):
    """Memory with a draft: its weights and cache on the GPUs of every stage, and the larger step's activations.

    A draft that is the model's ``own`` reads the embedding and the head of it where a stage holds them.
    """

    def __init__(self, target: MemoryModel, draft: ProgramMemory | None, tokens: Number, own: bool) -> None:
        super().__init__(target.plan, target.program)
        self.target, self.draft = target.verifying(tokens + 1), draft
        self.weights, self.own = target.weights, own
        self.added: Number = 0.0
        if draft is not None:
            added = [_added(target.main.contents, draft.contents, stage, own) for stage in range(len(target.weights))]
            self.weights = [held + more for held, more in zip(target.weights, added, strict=True)]
            self.added = largest(added)

    @property
    def main(self) -> ProgramMemory:
        """That of the verifying model."""
        return self.target.main

    def of_stage(self, stage: int) -> tuple[object, ...]:
        """What a stage holds; of the draft's caches and steps every stage holds the same."""
        return self.weights[stage], self.target.of_stage(stage)

    def verifying(self, queries: Number) -> DraftedMemory:
        """The same with ``queries`` tokens of each request in a step, one of which is no guess."""
        return DraftedMemory(self.target, self.draft, queries - 1, self.own)

    def kv_per_request(self, stage: int, length: Number) -> Number:
        """Bytes that a request keeps on a GPU of ``stage``, in both caches.

        Where the draft's GPUs share the requests of a batch otherwise, a local request stands for as many of theirs.
        """
        held = self.target.kv_per_request(stage, length)
        if self.draft is None:
            return held
        return held + self.draft.kv_per_request(0, length) * self.ways(stage) / self.draft.ways(0)

    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in the largest step of either model."""
        ours = self.target.step(stage, batch, input_)
        if self.draft is None:
            return ours
        theirs = self.draft.step(0, batch, input_)
        return maximum(ours[0], theirs[0]), maximum(ours[1], theirs[1])


def _added(target: Contents, draft: Contents, stage: int, own: bool) -> Number:
    """Weights of the draft on a GPU of one stage, but those that are there already."""
    here = {region.name for region, _ in target.regions(stage) if region.layers is None} if own else set()
    return draft.weights_of(0, {(r.name, w) for r, _ in draft.regions(0) if r.name in here for w in r.weights})
