"""What is asked of a deployment over time: when requests arrive, how long they are, what they share with others."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from plandsl import limits
from plandsl.diagnostics import Diagnostic, PlanError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
OFTEN = 64
"""Requests between two calls of a `Tick`."""


class Hashes(NamedTuple):
    """Identities of the blocks of prompts: request i has ``ids[starts[i]:starts[i + 1]]``, each for ``size`` tokens.

    Two prompts with the same id at the same place have equal tokens up to the end of that block. Ids are not negative.
    The last block of a prompt may be shorter than ``size``. What a prompt has beyond its ids is its own.
    """

    starts: Ints
    ids: Ints
    size: int


class Requests(NamedTuple):
    """``n`` requests in the order of their arrival: ``arrival_s`` float64[n], ``input`` and ``output`` int64[n] tokens.

    ``session`` int64[n] joins the turns of a conversation: a turn arrives at its time, or when the turn before it has
    ended if that is later. Negative: no session. ``kind`` int64[n] tells classes of requests apart.

    ``priority`` int64[n]: the lowest number comes first where a scheduler heeds it; None: all are equal.

    ``adapter`` int64[n]: the adapter (LoRA) that a request names, from 1; 0: none. None: no request names one.
    ``images`` int64[n]: the images of a prompt; None: each token has its share of the mean of the load.
    """

    arrival_s: Floats
    input: Ints
    output: Ints
    blocks: Hashes | None = None
    session: Ints | None = None
    kind: Ints | None = None
    priority: Ints | None = None
    adapter: Ints | None = None
    images: Ints | None = None


class Closed(NamedTuple):
    """Requests of a closed loop: ``concurrency`` start at once, and one that ends starts the next.

    The times of arrival in `Requests` are not used then, nor its sessions. If ``timed``, they are used: a request is
    sent at its time, or when another one ends if ``concurrency`` are in flight then. The wait is the sender's, and no
    part of the request: `--max-concurrency` is a semaphore around it in the benchmarks of vLLM and SGLang.
    """

    concurrency: int
    timed: bool = False


def share_prefix(requests: Requests, tokens: int | Floats, size: int = 1) -> Requests:
    """The same requests, whose first ``tokens`` tokens, or as many of each, are equal in all, in blocks of ``size``.

    Shorter prompts are part of that prefix. Raises `PlanError` as `check_blocks` does.
    """
    common = np.minimum(requests.input, tokens).astype(np.int64) // size
    check_blocks(common)
    starts = np.concatenate(([0], np.cumsum(common)))
    ids = np.arange(starts[-1])
    ids -= np.repeat(starts[:-1], common)
    return split_blocks(requests._replace(blocks=Hashes(starts, ids, size)))


def check_blocks(many: Ints) -> None:
    """Raise `PlanError` (E602) where requests with so many blocks each have more than a load may have.

    Each block of a prompt that others may find again has an id in memory.
    """
    total = int(many.sum())
    if total <= limits.MAX_BLOCKS:
        return
    fit = int(np.searchsorted(np.cumsum(many), limits.MAX_BLOCKS, side="right"))
    hint = f"the first {fit:,} requests fit" if fit else "no request fits: lower its `input`, or what it shares"
    why = (
        f"the prompts of this load have {total:,} blocks to be found again, and at most {limits.MAX_BLOCKS:,} are kept"
    )
    raise PlanError([Diagnostic("E602", why, hint=limits.MAX_BLOCKS.hint(hint, total))])


def split_blocks(requests: Requests) -> Requests:
    """The same requests, of which those with unlike adapters share no blocks.

    An adapter changes keys and values, so that engines look for a block by its tokens and the adapter: vLLM by the
    `extra_keys` of a block's hash (`vllm/v1/core/kv_cache_utils.py`), SGLang by the `extra_key` of its tree,
    TensorRT-LLM by `BlockKey::loraTaskId`.
    """
    blocks, adapter = requests.blocks, requests.adapter
    if blocks is None or adapter is None:
        return requests
    both = np.stack([blocks.ids, np.repeat(adapter, np.diff(blocks.starts))])
    _, ids = np.unique(both, axis=1, return_inverse=True)
    return requests._replace(blocks=blocks._replace(ids=ids.reshape(-1).astype(np.int64)))


def take(requests: Requests, which: Ints) -> Requests:
    """Some of the requests, in the order of ``which``."""
    columns = requests.session, requests.kind, requests.priority, requests.adapter, requests.images
    session, kind, priority, adapter, images = (None if column is None else column[which] for column in columns)
    blocks = None if requests.blocks is None else take_blocks(requests.blocks, which)
    return Requests(
        requests.arrival_s[which], requests.input[which], requests.output[which],
        blocks=blocks, session=session, kind=kind, priority=priority, adapter=adapter, images=images,
    )  # fmt: skip


def take_blocks(blocks: Hashes, which: Ints) -> Hashes:
    """The blocks of some requests, in the order of ``which``."""
    many = np.diff(blocks.starts)[which]
    starts = np.concatenate(([0], np.cumsum(many)))
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], many)
    return Hashes(starts, blocks.ids[np.repeat(blocks.starts[which], many) + place], blocks.size)


def shares_blocks(requests: Requests) -> bool:
    """Whether prompts may share blocks."""
    return requests.blocks is not None and len(requests.blocks.ids) > 0


def find_turns(requests: Requests) -> tuple[list[int], list[int]]:
    """For each request the turn before it in its session, and the one behind it; -1 where there is none."""
    n = len(requests.input)
    before, behind = [-1] * n, [-1] * n
    latest: dict[int, int] = {}
    for index, session in enumerate([] if requests.session is None else requests.session.tolist()):
        if session < 0:
            continue
        if session in latest:
            before[index] = latest[session]
            behind[latest[session]] = index
        latest[session] = index
    return before, behind
