"""Answers about servers that consist of others: two shardings on one cache, and a draft that guesses tokens."""

from __future__ import annotations

from typing import Any, NamedTuple


class Mode(NamedTuple):
    """One of two shardings, and the times of the plan if it had this sharding alone; an encoder has no TPOT."""

    sharding: str
    mesh: tuple[tuple[str, int], ...]
    ttft_s: float
    tpot_s: float | None

    def as_json(self) -> dict[str, Any]:
        """The ``base`` or ``tensor`` object."""
        out = {"sharding": self.sharding, "mesh": dict(self.mesh), "ttft_s": self.ttft_s}
        return out if self.tpot_s is None else out | {"tpot_s": self.tpot_s}


class Shift(NamedTuple):
    """Two shardings on one cache: ``base`` runs steps of more than ``threshold`` tokens, ``tensor`` all others.

    ``prefill`` and ``decode`` name the sharding that runs each phase. ``base`` is faster from ``prefill_tokens`` tokens
    of one request in a prefill step, and from ``decode_tokens`` requests in a decode step; None where it never is.
    Of an encoder ``decode`` is empty: no step decodes.
    """

    threshold: int
    prefill: str
    decode: str
    base: Mode
    tensor: Mode
    prefill_tokens: int | None
    decode_tokens: int | None

    def as_json(self) -> dict[str, Any]:
        """The ``shift`` object."""
        decodes = bool(self.decode)
        return {
            "threshold": self.threshold,
            "prefill": self.prefill,
            **({"decode": self.decode} if decodes else {}),
            "base": self.base.as_json(),
            "tensor": self.tensor.as_json(),
            "crossover": {
                "prefill_tokens": self.prefill_tokens,
                **({"decode_tokens": self.decode_tokens} if decodes else {}),
            },
        }


class Speculated(NamedTuple):
    """Tokens guessed ahead by the model ``draft`` (None: looked up in the text so far).

    A step brings a request ``tokens_per_step`` and takes ``step_s``, of which the draft takes ``draft_s``. The draft's
    prefill adds ``draft_prefill_s`` to TTFT, and its weights add ``draft_weights_bytes`` to a GPU. Without guesses TPOT
    is ``plain_tpot_s``. If every guess is right with the chance ``break_even``, TPOT is the same; None: with no chance.
    """

    draft: str | None
    mesh: tuple[tuple[str, int], ...]
    acceptance: tuple[float, ...]
    tokens_per_step: float
    step_s: float
    draft_s: float
    draft_prefill_s: float
    draft_weights_bytes: float
    plain_tpot_s: float
    break_even: float | None

    @property
    def draft_share(self) -> float:
        """The draft's share of the time of a step."""
        return self.draft_s / self.step_s if self.step_s else 0.0

    def as_json(self) -> dict[str, Any]:
        """The ``speculate`` object."""
        return {
            "draft": self.draft,
            "mesh": dict(self.mesh),
            "tokens": len(self.acceptance),
            "acceptance": list(self.acceptance),
            "tokens_per_step": self.tokens_per_step,
            "step_s": self.step_s,
            "draft_s": self.draft_s,
            "draft_share": self.draft_share,
            "draft_prefill_s": self.draft_prefill_s,
            "draft_weights_bytes": self.draft_weights_bytes,
            "plain_tpot_s": self.plain_tpot_s,
            "break_even_acceptance": self.break_even,
        }
