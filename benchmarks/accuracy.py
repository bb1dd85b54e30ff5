"""Errors of predictions on measurements that the fits did not see: `python -m benchmarks.accuracy DATA`.

Writes `docs/accuracy.md` and its pictures, and prints what it says of servers. This module computes every figure there;
`CAUSES` has the words that explain the worst ones. The same data give the same files.

`--residuals FILE` is a table that `python -m benchmarks.engines DATA --residuals FILE` wrote: errors of engines on what
their fits left out. `--rows FILE` is what `planc accuracy DATA --rows FILE` wrote; with it, rows of servers are not
simulated again.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.deployments import Servers, sections
from benchmarks.splits import Splits, divide, judged_errors
from plandsl.backends.accuracy.run import SERVING
from plandsl.backends.accuracy.run import judged as judged_file
from plandsl.backends.accuracy.score import Judged
from plandsl.backends.accuracy.serving import by_column
from plandsl.backends.accuracy.show import percent
from plandsl.backends.calibrate.distance import EDGE
from plandsl.backends.calibrate.fit import HELD_OUT, THIN
from plandsl.backends.calibrate.relatives import RELATIVES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "accuracy.md"
PICTURES = "images/accuracy"

BIAS = 0.08
"""A larger bias is listed, even where the error is within its target."""

POINTS = 300
"""Most points of a picture. Of more points, a fixed random sample is drawn."""

SERIES = 7
"""Most groups with their own colour in a picture."""


class Target(NamedTuple):
    """Target median errors: for shapes without measurements, and for GPUs without measurements."""

    shapes: float
    gpus: float


TARGETS = {
    "gemm": Target(0.10, 0.20),
    "attention_prefill": Target(0.12, 0.20),
    "attention_decode": Target(0.12, 0.20),
    "attention_mixed": Target(0.12, 0.20),
    "mla": Target(0.18, 0.20),
    "moe": Target(0.18, 0.20),
    "grouped_gemm": Target(0.18, 0.20),
    "elementwise": Target(0.15, 0.25),
    "collectives": Target(0.10, 0.25),
    "ep_alltoall": Target(0.10, 0.25),
}

Key = tuple[str, str, str]

TUNED = "each shape was timed with its best tuned kernel; the form has one kernel for all shapes"

CAUSES: dict[Key, str] = {
    ("gemm", "mi300x", "*"): TUNED,
    ("gemm", "mi355x", "*"): TUNED,
    ("moe", "mi300x", "*"): TUNED,
    ("moe", "mi355x", "*"): TUNED,
    ("attention_prefill", "mi300x", "fp16"): "too few rows to fit: the constants are those of another kernel",
    ("collectives", "mi355x", "bf16"): "too few rows to fit: the constants are those of another library",
    (
        "collectives",
        "rtx_pro_6000",
        "*",
    ): "measured times of one point differ by a factor of two to four without NVLink",
}
"""Known causes of errors, by kind, GPU and group; ``*`` stands for any. Words without figures, since figures change."""

LEFT_OUT: dict[Key, str] = {
    ("gemm", "*", "*"): "each generation has its own kernels and reaches different shares of its peak",
    ("gemm", "mi300x", "*"): "the tuned tables come from another software release than the relative's",
    ("gemm", "mi355x", "*"): "the tuned tables come from another software release than the relative's",
    ("gemm", "h20", "*"): "its compute is a seventh of the relative's, its memory is not reduced: other limits apply",
    ("attention_prefill", "*", "*"): "each generation has its own kernels (FlashAttention's versions, CUTLASS)",
    ("attention_decode", "*", "*"): "each generation has its own kernels, which split the context differently",
    ("elementwise", "*", "*"): "size and speed of the cache, and start times, are the relative's",
    ("collectives", "*", "*"): "start times and protocols come from another generation of links",
    ("mla", "*", "*"): "each generation has its own kernels, which split the context differently",
    ("moe", "*", "*"): "tile sizes come from a tuning file for each GPU, and libraries differ by generation",
    ("ep_alltoall", "*", "*"): "start times and protocols come from another generation of links",
}
"""Known causes of errors on GPUs that are left out of the fit."""

UNKNOWN = "not known"
FEW = "not known; few rows"

Table = list[list[str]]


# ---- tables


def mean_of_medians(whole: Judged) -> float | None:
    """The mean of the groups' medians, weighted by their rows."""
    parts = [some.score() for _, _, some in whole.by_group()]
    found = [(s.median, s.answered) for s in parts if s.median is not None]
    return sum(m * n for m, n in found) / sum(n for _, n in found) if found else None


def name_of(whole: Judged) -> str:
    """The name of a file, and the metric unless it is the time."""
    return whole.file if whole.metric == "time_s" else f"{whole.file}, {whole.metric}"


def totals(parts: Sequence[Judged], target: Callable[[Target], float] | None) -> Table:
    """A row for each file and metric."""
    head = ["kind", "rows", "answered", "median", "groups' medians", "p90", "bias", "in band"]
    out = [head + (["target", "met"] if target else [])]
    for whole in parts:
        s, mean = whole.score(), mean_of_medians(whole)
        line = [name_of(whole), str(s.n), str(s.answered), percent(s.median), percent(mean)]
        line += [percent(s.p90), percent(s.bias, signed=True), percent(s.in_band)]
        if target:
            wanted = target(TARGETS[whole.file]) if whole.file in TARGETS else None
            met = "-" if wanted is None or mean is None else "yes" if mean <= wanted else "no"
            line += ["-" if wanted is None else f"{100 * wanted:.0f} %", met]
        out.append(line)
    return out


def groups(whole: Judged) -> Table:
    """A row for each GPU and group of a file."""
    out = [["GPU", "group", "rows", "answered", "median", "mean", "p90", "bias", "in band"]]
    for gpu, group, some in whole.by_group():
        s = some.score()
        line = [f"`{gpu}`", group, str(s.n), str(s.answered), percent(s.median), percent(s.mean), percent(s.p90)]
        out.append([*line, percent(s.bias, signed=True), percent(s.in_band)])
    return out


def misses(parts: Sequence[Judged], target: Callable[[Target], float], causes: dict[Key, str]) -> Table:
    """A row for each GPU and group that misses its target or is biased, the most measurements first within a file."""
    out = [["kind", "GPU", "group", "rows", "median", "target", "bias", "cause"]]
    for whole in parts:
        wanted = target(TARGETS[whole.file]) if whole.file in TARGETS else np.inf
        lines = [(gpu, group, some.score()) for gpu, group, some in whole.by_group()]
        for gpu, group, s in sorted(lines, key=lambda x: (-x[2].answered, x[0], x[1])):
            if s.median is None or s.bias is None or (s.median <= wanted and abs(s.bias) <= BIAS):
                continue
            shown = "-" if np.isinf(wanted) else f"{100 * wanted:.0f} %"
            line = [name_of(whole), f"`{gpu}`", group, str(s.answered), percent(s.median), shown]
            why = cause(causes, whole.file, gpu, group)
            why = FEW if why == UNKNOWN and s.answered < THIN else why
            out.append([*line, percent(s.bias, signed=True), why])
    return out


def cause(causes: dict[Key, str], file: str, gpu: str, group: str) -> str:
    """The known cause of a miss: for this GPU and group, for the GPU, for the group, or for the kind."""
    keys = ((file, gpu, group), (file, gpu, "*"), (file, "*", group), (file, "*", "*"))
    return next((causes[key] for key in keys if key in causes), UNKNOWN)


def refusals(parts: Sequence[Judged]) -> Table:
    """Reasons why rows have no prediction, with counts."""
    out = [["kind", "rows", "reason"]]
    for whole in parts:
        found = sorted(whole.score().refused, key=lambda x: (-x[1], x[0]))
        out += [[name_of(whole), str(count), reason] for reason, count in found]
    return out


def markdown(table: Table) -> str:
    """A markdown table, with columns of figures aligned to the right."""
    head, *body = table
    if not body:
        return "None.\n"
    right = [all(row[i][:1] in "+-0123456789" for row in body) for i in range(len(head))]
    rule = ["---:" if r else "---" for r in right]
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, rule, *body))


# ---- pictures


def picture(whole: Judged, path: Path) -> bool:
    """Draw predicted against measured to ``path``. False where there is nothing to draw."""
    from benchmarks.figures import pyplot, scatter

    ok = whole.answer.answered
    if not ok.any():
        return False
    at = np.flatnonzero(ok)
    if len(at) > POINTS:
        at = np.sort(np.random.default_rng(0).choice(at, POINTS, replace=False))
    gpus = whole.gpus[at]
    names, counts = np.unique(gpus, return_counts=True)
    common = [str(n) for n, _ in sorted(zip(names, counts, strict=True), key=lambda x: (-x[1], x[0]))]
    shown = common if len(common) <= SERIES else common[: SERIES - 1]
    series = [g if g in shown else "others" for g in map(str, gpus)]
    order = np.argsort([[*shown, "others"].index(s) for s in series], kind="stable")
    unit = "s" if whole.metric.endswith("_s") and not whole.metric.endswith("_per_s") else "1/s"
    measured, predicted = whole.measured[at][order], whole.answer.predicted[at][order]
    with pyplot().rc_context({"svg.fonttype": "none"}):
        scatter(measured, predicted, [series[i] for i in order], path, unit=unit, title=name_of(whole))
    path.write_text(slim(path.read_text("utf-8")), encoding="utf-8")
    return True


def slim(svg: str) -> str:
    """Shrink an SVG to a third of its bytes: round coordinates to tenths of a point, and write shared styles once."""
    svg = re.sub(r'( [xy]="-?\d+\.\d)\d+', r"\1", re.sub(r"\n +", "\n", svg))
    svg = svg.replace(" font-family: 'DejaVu Sans';", "").replace("; font-family: 'DejaVu Sans'", "")
    svg = svg.replace("<svg ", "<svg font-family=\"'DejaVu Sans', Verdana, sans-serif\" ", 1)

    def share(m: re.Match[str]) -> str:
        styles = set(re.findall(r' style="[^"]*"', m[2]))
        return m[0] if len(styles) != 1 else m[1] + (style := styles.pop()) + ">" + m[2].replace(style, "")

    return re.sub(r'(<g clip-path="[^"]*")>((?:\n<use [^>]*/>)+)', share, svg)


# ---- the page


class Part(NamedTuple):
    """A part of the page, for one division of the measurements: heading, text, errors, target, causes, pictures."""

    title: str
    text: str
    judged: list[Judged]
    target: Callable[[Target], float] | None
    causes: dict[Key, str] | None
    pictures: str = ""


INTRO = """# Accuracy

Predictions beside measurements that the fits did not see. `make accuracy DATA=FOLDER` writes this page and its pictures
from a folder of measurements ([their files](calibration.md#files)), with `RESIDUALS=FILE` also the errors of engines on
rows that were left out of their fits; no figure on it is typed by hand. `planc accuracy
FOLDER` compares the calibrations that ship with any folder. These calibrations are fitted to all rows except one shape
in {held}, as here, so `planc accuracy` shows slightly smaller errors on the rows of the fit.

The error of one measured time is |predicted / measured - 1|. `median`, `mean` and `p90` are over rows; `groups'
medians` is the mean of the medians of each GPU and group, weighted by their rows, and is compared with the target.
`bias` is the median of predicted / measured - 1. `in band` is the share of measurements inside the band, which should
hold 80 % of them; for kernels it is made from other GPUs' rows. Pictures show at most {points} rows, and figures in
their legends are for these rows.
"""

SHAPES = """\
One shape in {held} was left out of the fit, by a hash of the shape, so that all rows of a shape are on one side. Sets
with too few rows to fit are judged with the constants that the model uses instead.
"""

SIZES = """\
The smallest and the largest {edge:.0f} % of each set, by the size that its form gives, were left out of the fit: this
shows how well the forms extrapolate. There is no target.
"""

GPUS = """\
All rows of a GPU, predicted from the constants of its relatives and its own published figures, as for a GPU without
measurements. The constants come from the nearest relative that has the set.
"""

DEPLOYMENTS = """\
Whole deployments, predicted with the engines and calibrations that ship, by engine, model and GPU. The constants of
kernels were fitted without these rows; the constants of engines were fitted to the rows whose model is in the catalog.
"""


def page(data: Path, draw: Callable[[Judged, str], str], servers: Servers | None = None) -> str:
    """The text of the page. ``draw`` makes a picture and returns the markdown that shows it."""
    servers = servers or Servers.read(data)
    parts = list(measured_parts(data, servers))
    text = [INTRO.format(held=HELD_OUT, points=POINTS), "## Totals\n"]
    for part in parts:
        text += [f"### {part.title} in total\n", markdown(totals(part.judged, part.target))]
    for part in parts:
        text += [f"## {part.title}\n", part.text]
        if part.causes is not None and part.target is not None:
            text += [f"### {part.title} that miss\n", f"Beyond the target, or with a bias beyond {100 * BIAS:.0f} %.\n"]
            text.append(markdown(misses(part.judged, part.target, part.causes)))
        if part.title == "Unseen GPUs":
            text.append(markdown(lenders({str(g) for j in part.judged for g in np.unique(j.gpus)})))
        for whole in part.judged:
            text += [f"### {part.title}: {name_of(whole)}\n"]
            text += [draw(whole, part.pictures)] if part.pictures else []
            text.append(markdown(groups(whole)))
        text += [f"### {part.title}: rows without a prediction\n", markdown(refusals(part.judged))]
    text[1:1] = sections(servers, markdown)
    return "\n".join(t for t in text if t)


def measured_parts(data: Path, servers: Servers) -> Iterator[Part]:
    """Every part for which the folder has measurements."""
    splits: Splits = divide(data)
    own = list(judged_errors(data, splits.own(splits.rest), splits.shapes))
    if own:
        text = SHAPES.format(held=HELD_OUT)
        yield Part("Unseen shapes", text, own, target=lambda t: t.shapes, causes=CAUSES, pictures="shapes")
        edges = list(judged_errors(data, splits.own(splits.middle), splits.sizes))
        yield Part("Unseen sizes", SIZES.format(edge=100 * EDGE), edges, None, None)
        lent = list(judged_errors(data, splits.relatives()))
        yield Part("Unseen GPUs", GPUS, lent, target=lambda t: t.gpus, causes=LEFT_OUT, pictures="gpus")
    whole = [
        j
        for name in SERVING
        if (data / name).is_file()
        for j in judged_file(
            name, data / name, splits.own({}), lambda table, file: by_column(servers.predicted[file], file)
        )
    ]
    if whole:
        yield Part("Deployments", DEPLOYMENTS, whole, target=None, causes=None, pictures="serving")


def lenders(gpus: set[str]) -> Table:
    """The relatives whose constants predict each GPU."""
    out = [["GPU", "constants of", "which are"]]
    for name, (relatives, why, _) in RELATIVES.items():
        if name in gpus:
            out.append([f"`{name}`", ", ".join(f"`{r}`" for r in relatives), why])
    return out


def main(data: Path, target: Path = PAGE, servers: Servers | None = None) -> None:
    """Write the page and its pictures, and print the tables of servers."""
    servers = servers or Servers.read(data)
    sys.stdout.writelines(f"{part}\n" for part in sections(servers, markdown))
    folder = target.parent / PICTURES

    def draw(whole: Judged, prefix: str) -> str:
        path = folder / f"{prefix}_{whole.file}_{whole.metric}.svg"
        if not picture(whole, path):
            return ""
        return f"![{name_of(whole)}: predicted against measured]({PICTURES}/{path.name})\n"

    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(data, draw, servers), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description="write docs/accuracy.md")
    parser.add_argument("data", type=Path, help="a folder of measurements (docs/calibration.md)")
    parser.add_argument("--residuals", type=Path, help="errors of engines on rows left out of their fits")
    parser.add_argument("--rows", type=Path, help="what `planc accuracy DATA --rows` wrote")
    asked = parser.parse_args()
    if not asked.data.is_dir():
        parser.error(f"{asked.data} is no folder of measurements (docs/calibration.md)")
    main(asked.data, servers=Servers.read(asked.data, asked.residuals, asked.rows))
