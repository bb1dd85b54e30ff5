"""Files of measurements: reading CSV of bounded size, and the range of valid numbers in each column.

Calibration, evaluation and `measured` read the same files; docs/calibration.md lists their columns.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from plandsl import limits
from plandsl.diagnostics import clip
from plandsl.files import Place, read_file


class Unfit(Exception):
    """An invalid file or cell: the message says what is wrong, ``hint`` how to fix it."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(message)


# ---- columns


class Range(NamedTuple):
    """The least and the greatest valid number of a column."""

    least: float
    most: float

    def __str__(self) -> str:
        return " to ".join(f"{x:,.0f}" if x == 0 or x >= 1 else f"{x:g}" for x in self)


SECONDS = Range(1e-12, 1e6)
RATE = Range(1e-12, 1e12)
"""Tokens, requests or GB per second."""
FLAG = Range(0, 1)
SIZE = Range(1, 1e12)
"""Rows, columns or tokens that one kernel works on."""
WIDTH = Range(1, 1e9)
"""A dimension of a model, a batch, a length."""
LENGTH = Range(0, 1e9)
"""A length or a number of sequences, which may be 0."""
COUNT = Range(1, 100_000)
"""GPUs, ranks, experts, heads. No deployment has more, and some forms loop over them."""
CHOSEN = Range(1, 256)
"""Experts of a token; some forms loop over them."""

NUMBERS: dict[str, Range] = {
    **dict.fromkeys(("time_s", "up_time_s", "down_time_s", "ttft_s", "tpot_s"), SECONDS),
    **dict.fromkeys(("ttft_limit_s", "tpot_limit_s"), SECONDS),
    **dict.fromkeys(("reported_bw_gb_per_s", "output_tok_per_s", "tokens_per_s", "request_rate_per_s"), RATE),
    **dict.fromkeys(("causal", "cuda_graph", "act_quant_included"), FLAG),
    **dict.fromkeys(("m", "n", "k", "rows", "cols", "tokens", "tokens_per_rank", "tokens_per_gpu"), SIZE),
    **dict.fromkeys(("batch", "seq_q", "seq_kv", "kv_len", "hidden", "inter", "head_dim"), WIDTH),
    **dict.fromkeys(("isl_tokens", "osl_tokens", "mean_osl_tokens", "concurrency", "max_batch"), WIDTH),
    **dict.fromkeys(("window", "prefill_chunk", "kv_prefill", "n_decode", "kv_decode"), LENGTH),
    **dict.fromkeys(("n_heads", "n_kv_heads", "n_experts", "n_local_experts", "n_sms"), COUNT),
    **dict.fromkeys(("n_gpu", "n_nodes", "tp", "pp", "ep", "attn_dp", "replicas"), COUNT),
    **{f"{pool}_{name}": COUNT for pool in ("prefill", "decode") for name in ("workers", "tp", "attn_dp", "ep")},
    **dict.fromkeys(("median_s", "p90_s"), SECONDS),
    "repetitions": WIDTH,
    "value": Range(1e-12, 1e24),
    "n_ranks": Range(2, 100_000),
    "tokens_per_local_expert": Range(1e-6, 1e9),
    "bytes": Range(1, 1e15),
    "topk": CHOSEN,
}  # fmt: skip
"""Every column that holds numbers, in any file; the other columns hold text."""

MEASURED = ("time_s", "up_time_s", "down_time_s", "ttft_s", "tpot_s", "output_tok_per_s", "tokens_per_s")
"""Columns that hold a measured result. The other columns describe the case that was measured."""

AT_MOST = (("seq_q", "seq_kv"), ("seq_q", "kv_len"), ("n_kv_heads", "n_heads"), ("n_local_experts", "n_experts"),
           ("topk", "n_experts"))  # fmt: skip
"""Pairs of columns: in each row the number of the first column must be at most that of the second."""


def read_number(column: str, cell: str) -> float:
    """The number in a cell. Raises `Unfit` on text that is no number, and on a number outside the column's range."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    allowed = NUMBERS[column]
    if not allowed.least <= value <= allowed.most:
        raise Unfit(f"`{column}` is `{clip(cell)}`", f"`{column}` is a number from {allowed}")
    return value


# ---- files

FILE = "file"
"""The column of a file that holds rows of several tables: the name of the table that a row belongs to."""

GPU_NAME = re.compile(r"[a-z_][a-z0-9_]*")
"""Names of GPUs that `planc measure` measured: a calibration has the name in its text."""

HINT = "a table has a line of column names, then rows: docs/calibration.md lists the columns of each kind"


def repeated(header: Sequence[str]) -> str | None:
    """The first name that stands twice in the header of a CSV file; columns without a name do not count."""
    seen: set[str] = set()
    for name in filter(None, header):
        if name in seen:
            return name
        seen.add(name)
    return None


def read_rows(path: Place, *, resolved: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with their row numbers, the header first (row 1); blank lines are skipped.

    ``resolved`` as for `plandsl.files.open_ordinary`.

    Raises `Unfit` on a file that is too large or no CSV text, on a column that is named twice, and on a row that is not
    as long as the header; `OSError` on a file that cannot be read.
    """
    import csv

    data = read_file(path, limits.MAX_TABLE_BYTES, resolved=resolved)
    if len(data) > limits.MAX_TABLE_BYTES:
        raise Unfit(
            f"it is larger than {limits.MAX_TABLE_BYTES:,} bytes", limits.MAX_TABLE_BYTES.hint("split the file")
        )
    width = 0
    try:
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
        for at, cells in enumerate(csv.reader(text, strict=True), 1):
            if not width and (twice := repeated(cells)) is not None:
                raise Unfit(f"row {at} names the column `{clip(twice)}` twice", "rename one of the two")
            width = width or len(cells)
            if cells and len(cells) != width:
                raise Unfit(f"row {at} has {len(cells)} cells, but the header has {width}")
            if cells:
                yield at, cells
    except (UnicodeDecodeError, csv.Error) as error:
        raise Unfit(f"it is no CSV file: {error}", HINT) from None
