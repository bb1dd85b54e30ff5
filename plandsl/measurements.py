"""Files of measurements: CSV of bounded size, and the range that the numbers of each column lie in.

Calibration, evaluation and `measured` read the same files; docs/calibration.md lists their columns.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import NamedTuple

from plandsl.diagnostics import clip
from plandsl.files import Place, read_file
from plandsl.limits import MAX_TABLE_BYTES


class Unfit(Exception):
    """What is wrong with a file or a cell, and a way out."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(message)


# ---- columns


class Range(NamedTuple):
    """The least and the most that a number may be."""

    least: float
    most: float

    def __str__(self) -> str:
        return " to ".join(f"{x:,.0f}" if x == 0 or x >= 1 else f"{x:g}" for x in self)


SECONDS = Range(1e-12, 1e6)
RATE = Range(1e-12, 1e12)
"""Tokens, requests or GB per second."""
FLAG = Range(0, 1)
SIZE = Range(1, 1e12)
"""Rows, columns, tokens: what one kernel works on."""
WIDTH = Range(1, 1e9)
"""A dimension of a model, a batch, a length."""
LENGTH = Range(0, 1e9)
"""A length or a number of sequences that may be none."""
COUNT = Range(1, 100_000)
"""GPUs, ranks, experts, heads. No deployment has more, and forms count some of them one by one."""
CHOSEN = Range(1, 256)
"""Experts of a token, which forms go through one by one."""

NUMBERS: dict[str, Range] = {
    **dict.fromkeys(("time_s", "up_time_s", "down_time_s", "ttft_s", "tpot_s"), SECONDS),
    **dict.fromkeys(("reported_bw_gb_per_s", "output_tok_per_s", "tokens_per_s", "request_rate_per_s"), RATE),
    **dict.fromkeys(("causal", "cuda_graph", "act_quant_included"), FLAG),
    **dict.fromkeys(("m", "n", "k", "rows", "cols", "tokens", "tokens_per_rank", "tokens_per_gpu"), SIZE),
    **dict.fromkeys(("batch", "seq_q", "seq_kv", "kv_len", "hidden", "inter", "head_dim"), WIDTH),
    **dict.fromkeys(("isl_tokens", "osl_tokens", "mean_osl_tokens", "concurrency", "max_batch"), WIDTH),
    **dict.fromkeys(("window", "prefill_chunk", "kv_prefill", "n_decode", "kv_decode"), LENGTH),
    **dict.fromkeys(("n_heads", "n_kv_heads", "n_experts", "n_local_experts", "n_sms"), COUNT),
    **dict.fromkeys(("n_gpu", "n_nodes", "tp", "pp", "ep", "attn_dp", "replicas"), COUNT),
    "n_ranks": Range(2, 100_000),
    "tokens_per_local_expert": Range(1e-6, 1e9),
    "bytes": Range(1, 1e15),
    "topk": CHOSEN,
}  # fmt: skip
"""Every column that holds numbers, in any file; the other columns hold text."""

MEASURED = ("time_s", "up_time_s", "down_time_s", "ttft_s", "tpot_s", "output_tok_per_s", "tokens_per_s")
"""Columns that hold what was measured, not what it was measured of."""

AT_MOST = (("seq_q", "seq_kv"), ("seq_q", "kv_len"), ("n_kv_heads", "n_heads"), ("n_local_experts", "n_experts"),
           ("topk", "n_experts"))  # fmt: skip
"""Pairs of columns whose first number is at most the second."""


def read_number(column: str, cell: str) -> float:
    """The number in a cell. Raises `Unfit` on what is none, or lies outside of the range of its column."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    allowed = NUMBERS[column]
    if not allowed.least <= value <= allowed.most:
        raise Unfit(f"`{column}` is `{clip(cell)}`", f"`{column}` is a number from {allowed}")
    return value


# ---- files

HINT = "a table has a line of column names, then rows: docs/calibration.md lists the columns of each kind"


def read_rows(path: Place) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with their numbers, the header first (row 1); blank lines are passed over.

    Raises `Unfit` on a file that is too large, is no CSV text, or has a row that is not as long as the header;
    `OSError` on one that cannot be read.
    """
    import csv

    data = read_file(path, MAX_TABLE_BYTES)
    if len(data) > MAX_TABLE_BYTES:
        raise Unfit(f"it has more than the {MAX_TABLE_BYTES:,} bytes that are read", "split the file")
    width = 0
    try:
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
        for at, cells in enumerate(csv.reader(text, strict=True), 1):
            width = width or len(cells)
            if cells and len(cells) != width:
                raise Unfit(f"row {at} has {len(cells)} cells, and the header {width}")
            if cells:
                yield at, cells
    except (UnicodeDecodeError, csv.Error) as error:
        raise Unfit(f"it is no CSV file: {error}", HINT) from None
