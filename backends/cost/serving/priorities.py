"""Requests of several priorities: the lowest number comes first, and the highest goes back first."""

from __future__ import annotations

from collections.abc import Sequence

from plandsl.backends.cost.serving.scheduler import Batch, Live, State


def sort_waiting(state: State) -> None:
    """Sort the queue by priority; among equals the order stays."""
    waiting = state.waiting
    if any(a.priority > b.priority for a, b in zip(waiting, list(waiting)[1:], strict=False)):
        ordered = sorted(waiting, key=lambda live: live.priority)
        waiting.clear()
        waiting.extend(ordered)


def pick_victim(running: Sequence[Live]) -> int:
    """The place of the request that goes back: of the highest number the one that was admitted last."""
    return max(range(len(running)), key=lambda at: (running[at].priority, at))


def take_out(state: State, batch: Batch, live: Live, queries: int) -> int:
    """Take a request out of the step that is being composed. Returns the tokens that it had there."""
    if live.step != state.number:
        return 0
    live.step = state.number - 1  # it may have been in that one
    if live in batch.spent:
        batch.spent.remove(live)
        return queries
    if live in batch.decodes:
        at = batch.decodes.index(live)
        del batch.decodes[at]
        live.made -= batch.gained.pop(at)
        return queries
    at = next(i for i, piece in enumerate(batch.prompts) if piece.live is live)
    piece = batch.prompts.pop(at)
    live.made -= piece.last
    return piece.tokens
