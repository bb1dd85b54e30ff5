"""The codes of exported traces, and of loads that are served one by one: title, text, an example, and what to do."""

from __future__ import annotations

TRACE_CODES: dict[str, tuple[str, str, str, str]] = {
    "E510": (
        "unknown ranks of a trace",
        "`--ranks` chooses the ranks of a trace: `all` of them, `stages` for the first rank of each stage, `replica` "
        "for all ranks of the first copy of the model, or numbers and ranges such as `0..7,64`. Ranks count from 0. "
        "Of two pools, each has ranks of its own.",
        "",
        "name ranks that the plan has.",
    ),
    "E511": (
        "the trace is too large",
        "A trace has an event for each op of each layer on each rank, in each step; a simulation has one for each "
        "step of each server. Viewers and simulators cannot open traces without end, so that their number is bounded.",
        "",
        "write fewer ranks (`--ranks stages`), fewer steps (`--steps 1`) or fewer requests (`--requests 1000`).",
    ),
    "E602": (
        "too many blocks of prompts",
        "A simulation keeps an id for each block of a prompt that another request may find in the KV cache again: of "
        "conversations, and of a `reuse` that all share. The number of ids in a load is bounded.",
        "",
        "serve fewer requests (`--requests 1000`), shorten prompts, or take an engine with larger blocks (`kv_block`).",
    ),
}
