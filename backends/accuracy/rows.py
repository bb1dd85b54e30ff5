"""Every row of serving.csv and mlperf.csv with what is predicted of it, as columns: `planc accuracy DATA --rows`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.accuracy.run import SERVING, read
from plandsl.backends.accuracy.serving import Predicted
from plandsl.backends.calibrate.table import Table
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.measurements import read_rows
from plandsl.progress import Tick, count_parts, silent

DESCRIBED = (
    "source", "source_version", "division", "submitter", "system_id", "date", "gpu", "gpu_name", "n_gpu",
    "gpus_per_node", "n_nodes", "interconnect", "model", "checkpoint", "precision", "framework", "bench", "scenario",
    "weight_dtype", "precision_cfg", "serving_mode", "tp", "pp", "attn_dp", "replicas", "ep", "prefill_workers",
    "prefill_tp", "prefill_attn_dp", "prefill_ep", "decode_workers", "decode_tp", "decode_attn_dp", "decode_ep",
    "max_batch", "max_num_tokens", "isl_tokens", "osl_tokens", "nominal_isl_tokens", "mean_osl_tokens",
    "length_jitter", "load_kind", "concurrency", "request_rate_per_s", "ttft_limit_s", "tpot_limit_s", "config_file",
    "notes",
)  # fmt: skip
"""Columns that say what was measured."""

MEASURED = (
    "ttft_s", "ttft_stat", "tpot_s", "tpot_stat", "output_tok_per_s", "total_tok_per_s", "e2e_latency_s",
    "tokens_per_s", "samples_per_s", "scheduled_samples_per_s", "ttft_mean_s", "ttft_p50_s", "ttft_p99_s",
    "tpot_mean_s", "tpot_p50_s", "tpot_p99_s", "lat_mean_s",
)  # fmt: skip
"""Columns that say what came out."""

NAMES = {"ttft": "predicted_ttft_s", "tpot": "predicted_tpot_s", "throughput": "predicted_output_tok_per_s"}
"""The column of each prediction; its band is in two columns more, ``_low`` and ``_high``."""

OWN = (
    "file", *(f"{name}{end}" for name in NAMES.values() for end in ("", "_low", "_high")), "answered_by", "reason",
)  # fmt: skip
"""Columns that are added."""

Columns = dict[str, NDArray[Any]]


class Written(NamedTuple):
    """The rows as columns; how many there are, what answered how many, why others have no answer; notes (N450)."""

    columns: Columns
    rows: int
    answered: dict[str, int]
    refused: dict[str, int]
    notes: tuple[Diagnostic, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The machine form."""
        notes = [note.as_json() for note in self.notes]
        return {"rows": self.rows, "answered": self.answered, "refused": self.refused, "notes": notes}


def deployment_files(place: Path) -> list[Path]:
    """The files of deployments in a folder, or the one that is named. Raises `PlanError` (E450) where there is none."""
    found = [place / name for name in SERVING] if os.path.isdir(place) else [place]
    found = [path for path in found if path.name in SERVING and os.path.isfile(path)]
    if not found:
        hint = f"rows of deployments are in files named {' or '.join(SERVING)}"
        raise PlanError([Diagnostic("E450", f"no deployments in {place}", hint=hint)])
    return found


def predict_files(
    paths: Sequence[Path], predict: Callable[[Table, str, Tick], Predicted], tick: Tick = silent
) -> Written:
    """A line for each row of the files, in their order.

    Raises `PlanError` (E450) on a file that is no table.
    """
    parts, columns = [], []
    notes: list[Diagnostic] = []
    for at, path in enumerate(paths):
        table = read(path, notes=notes)
        parts.append(predict(table, path.stem, count_parts(tick, at, len(paths))))
        columns.append(_raw(path))
    reason = np.concatenate([part.answers["ttft"].reason for part in parts])
    by = np.concatenate([part.by for part in parts])
    refused = np.array([why if not what else "" for why, what in zip(reason, by, strict=True)], dtype=np.str_)
    names = [np.full(len(part.by), path.name) for part, path in zip(parts, paths, strict=True)]
    out: Columns = {"file": np.concatenate(names)}
    known = [name for name in (*DESCRIBED, *MEASURED) if any(name in c for c in columns)]
    other = list(dict.fromkeys(n for c in columns for n in c if n not in (*DESCRIBED, *MEASURED, *OWN)))
    out |= {name: _joined(columns, name) for name in known}
    for metric, name in NAMES.items():
        answers = [part.answers[metric] for part in parts]
        out[name] = np.concatenate([a.predicted for a in answers])
        out[f"{name}_low"] = np.concatenate([a.low for a in answers])
        out[f"{name}_high"] = np.concatenate([a.high for a in answers])
    out |= {"answered_by": by, "reason": refused}
    out |= {name: _joined(columns, name) for name in other}
    return Written(out, len(by), _counts(by), _counts(refused), tuple(notes))


def _raw(path: Path) -> Columns:
    """The cells of a file as they stand there."""
    (_, header), *rows = read_rows(path)
    return {name: np.array([row[i] for _, row in rows], dtype=np.str_) for i, name in enumerate(header)}


def _joined(columns: Sequence[Columns], name: str) -> NDArray[Any]:
    """A column of all files; empty for the rows of a file that lacks it."""
    return np.concatenate([c[name] if name in c else np.full(len(next(iter(c.values()))), "") for c in columns])


def _counts(texts: NDArray[np.str_]) -> dict[str, int]:
    """How often each text occurs, the most frequent first; without the empty one."""
    names, counts = np.unique(texts[texts != ""], return_counts=True)
    pairs = sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return dict(pairs)
