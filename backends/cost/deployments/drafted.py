"""A server that guesses tokens ahead: a draft runs before each step, which verifies its guesses.

A step of the model takes each request's next token and ``k`` guesses of the tokens after it. Guesses count up to the
first wrong one, and the model's own token takes the place of this one. Source: Leviathan, Kalman and Matias, "Fast
inference from transformers via speculative decoding", 2023, arXiv 2211.17192.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from plandsl.backends.cost.deployments.blocks import Layers
from plandsl.backends.cost.deployments.contents import Contents
from plandsl.backends.cost.deployments.memory import MemoryModel, ProgramMemory
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.shift import Modes
from plandsl.backends.cost.deployments.single import Single
from plandsl.backends.cost.deployments.step import Decode, Step
from plandsl.backends.cost.num import largest, maximum, where
from plandsl.backends.cost.time.phase import DRAFT, PhaseTimes
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec, SpeculateSpec

if TYPE_CHECKING:
    from plandsl.backends.cost.deployments.deployment import Deployment


def tokens_per_step(acceptance: Sequence[Number]) -> Number:
    """Expected tokens of a step, where guess i is right with the chance ``acceptance[i]`` if all before it are.

    ``1 + a_1 + a_1 a_2 + ...``: a guess counts where it and all guesses before it are right, and the model adds one
    token. With one chance ``a`` for all ``k`` this is ``(1 - a^(k+1)) / (1 - a)`` (arXiv 2211.17192, equation 1).
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
    """The acceptance of ``tokens`` guesses at which a step brings ``gain`` tokens; None where it never does.

    Found by bisection, as the tokens of a step grow with the acceptance.
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
    """The source of guesses: ``draft`` runs on the GPUs of the server; None where guesses are looked up at no cost.

    ``added`` is the bytes of weights that the draft adds to a GPU. ``plain`` makes the deployment of the same plan
    without guesses.
    """

    spec: SpeculateSpec
    draft: Single | None
    added: Number
    plain: Callable[[], Deployment]


class Drafted:
    """A `Server` that runs ``draft`` before ``verify``: a prefill of the draft, and a decode step of it for each guess.

    Batches in flight draft one after the other, on the GPUs of every stage. A step with ``guessed`` guesses brings
    ``gain`` tokens; both come from the plan unless given.
    """

    tower: None = None

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
        """The same server with the figures of ``plan``."""
        drafting = plan.draft_plan
        draft = self.draft.on(drafting) if self.draft and drafting else None
        return Drafted(
            self.verify.on(plan), self.speculate, draft=draft, plain=self.plain, guessed=self.guessed, gain=self.gain
        )

    def guessing(self, tokens: Number, acceptance: Number) -> Drafted:
        """The same server with ``tokens`` guesses of chance ``acceptance`` each; numbers or arrays, as a load."""
        gain = expected_tokens(acceptance, tokens)
        return Drafted(self.verify, self.speculate, draft=self.draft, plain=self.plain, guessed=tokens, gain=gain)

    @property
    def main(self) -> Single:
        """The server of the verifying model."""
        return self.verify.main

    @cached_property
    def modes(self) -> Modes | None:
        """The servers of both shardings, each with the draft; None for one sharding."""
        found = self.verify.modes
        if found is None:
            return None
        base, tensor = (Drafted(mode, self.speculate, self.draft, self.plain) for mode in (found.base, found.tensor))
        return Modes(found.threshold, base, tensor)

    @property
    def guesses(self) -> Guesses:
        """The source of guesses."""
        return Guesses(self.speculate, self.draft, self.memory.added, self.plain)

    def step(self, step: Step, in_flight: Number) -> PhaseTimes:
        """Times of a step: the draft's prefill or its steps, one for each guess, then the step of the model.

        Where a step has prompts and requests that decode, the draft's prefill includes its first decode step.
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
    """The same requests in a step of the draft: one token of each."""
    return decode._replace(context=decode.cached + 1, queries=1)


def _add_draft(draft: PhaseTimes, count: Number, times: PhaseTimes) -> PhaseTimes:
    """``times`` of a step, with a draft that runs ``count`` times before it."""
    return times._replace(
        through=times.through + count * draft.through,
        period=times.period + count * draft.period,
        drafted=times.drafted + count * draft.through,
        runs=(*times.runs, *(run._replace(part=DRAFT, count=count) for run in draft.runs)),
    )


class DraftedMemory(MemoryModel):
    """Memory with a draft: its weights and cache on the GPUs of every stage, and the activations of the larger step.

    A draft that is the model's ``own`` reads the model's embedding and head on stages that hold them.
    """

    def __init__(self, target: MemoryModel, draft: ProgramMemory | None, tokens: Number, own: bool) -> None:
        super().__init__(target.plan, target.program)
        self.target, self.draft = target.verifying(tokens + 1), draft
        self.weights, self.own = target.weights, own
        self.added: Number = 0.0
        if draft is not None:
            added = [
                _draft_weights(target.main.contents, draft.contents, stage, own) for stage in range(len(target.weights))
            ]
            self.weights = [held + more for held, more in zip(target.weights, added, strict=True)]
            self.added = largest(added)

    @property
    def main(self) -> ProgramMemory:
        """The memory of the verifying model."""
        return self.target.main

    @property
    def kinds(self) -> list[int]:
        """As the model has them."""
        return self.target.kinds

    def of_stage(self, stage: int) -> Hashable:
        """What a stage holds; of the draft's caches and steps every stage holds the same."""
        return self.weights[stage], self.target.of_stage(stage)

    def verifying(self, queries: Number) -> DraftedMemory:
        """The same with ``queries`` tokens of each request in a step, one of which is no guess."""
        return DraftedMemory(self.target, self.draft, queries - 1, self.own)

    def kv_per_request(self, stage: int, length: Number) -> Number:
        """Bytes that a request keeps on a GPU of ``stage``, in both caches.

        The draft may share the requests of a batch between more or fewer ranks than the model: its bytes count in
        proportion.
        """
        held = self.target.kv_per_request(stage, length)
        if self.draft is None:
            return held
        return held + self.draft.kv_per_request(0, length) * self.ways(stage) / self.draft.ways(0)

    def layers(self, stage: int) -> list[Layers]:
        """The caches of both models."""
        ours = self.target.layers(stage)
        if self.draft is None:
            return ours
        scale = self.ways(stage) / self.draft.ways(0)
        return [*ours, *(one._replace(bytes=one.bytes * scale) for one in self.draft.layers(0))]

    def profiled(self, stage: int) -> Number:
        """Bytes of the larger of both models' profiled steps."""
        ours = self.target.profiled(stage)
        return ours if self.draft is None else maximum(ours, self.draft.profiled(0))

    def step(self, stage: int, batch: Number, input_: Number) -> tuple[Number, Number]:
        """Bytes of activations and collective buffers in the largest step of either model."""
        ours = self.target.step(stage, batch, input_)
        if self.draft is None:
            return ours
        theirs = self.draft.step(0, batch, input_)
        return maximum(ours[0], theirs[0]), maximum(ours[1], theirs[1])


def _draft_weights(target: Contents, draft: Contents, stage: int, own: bool) -> Number:
    """Bytes of the draft's weights on a GPU of one stage, without weights that the model has there."""
    here = {region.name for region, _ in target.regions(stage) if region.layers is None} if own else set()
    return draft.weights_of(0, {(r.name, w) for r, _ in draft.regions(0) if r.name in here for w in r.weights})
