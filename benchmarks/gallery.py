"""Draws the pictures of the pages in docs/, and writes docs/gallery.md with one of each kind: `make figures`."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from plandsl.cli import FAILED, OK, main

ROOT = Path(__file__).parents[1]
IMAGES = "docs/images"

LLAMA, SCOUT, EXPERTS = "examples/llama3_70b.plan", "examples/llama_4_scout.plan", "examples/experts.plan"
SPLIT, SHIFT, GUESS = (
    "examples/split_llama_3_3_70b.plan",
    "examples/shift_llama_3_3_70b.plan",
    "examples/speculate.plan",
)
RACKS, UNLIKE, OPERATOR = "examples/clusters/racks.plan", "examples/unlike_gpus.plan", "examples/traffic/operator.plan"
BURSTS, SERVICES, STUDY = "examples/traffic/shift.plan", "examples/search_70b.plan", "examples/search_study.plan"


class Picture(NamedTuple):
    """A picture of the gallery: what it shows, the command that draws it, and its file below docs/images."""

    title: str
    words: str
    command: str
    file: str

    @property
    def shown(self) -> str:
        """The command as a reader types it, with the name of the file alone."""
        return self.command_to(Path(self.file).name)

    def command_to(self, output: str) -> str:
        """The command that draws to ``output``."""
        return f"planc {self.command} {'--plot' if self.command.startswith(('simulate', 'search')) else '-o'} {output}"


def render(file: str, plan: str, view: str = "", phase: str = "") -> str:
    """A `planc render` of one plan."""
    return f"render {file} --plan {plan}{f' --view {view}' if view else ''}{f' --phase {phase}' if phase else ''}"


SECTIONS: dict[str, tuple[Picture, ...]] = {
    "Devices: what each GPU holds, and what is sent": (
        Picture(
            "Tensor parallelism",
            "Every layer is split over all eight GPUs, which sum their parts after attention and after the "
            "feed-forward part. An arrow with two heads stands before what they exchange, with its bytes and its time.",
            render(LLAMA, "tensor_parallel"),
            "gallery/devices_tp.svg",
        ),
        Picture(
            "A pipeline",
            "Each GPU has ten layers, and hands the residual stream on.",
            render(LLAMA, "pipeline"),
            "gallery/devices_pp.svg",
        ),
        Picture(
            "Both: two stages of four GPUs",
            "Sums stay inside a stage; only hops pass from one to the next.",
            render(LLAMA, "hybrid"),
            "hybrid_devices.svg",
        ),
        Picture(
            "Context parallelism",
            "Two groups of four GPUs each hold half of a long context; keys and values go around a ring.",
            render(SCOUT, "context"),
            "gallery/devices_cp.svg",
        ),
        Picture(
            "Expert parallelism",
            "Requests and experts are dealt to the GPUs: tokens travel to their experts, and results back.",
            render(EXPERTS, "dealt"),
            "gallery/devices_ep.svg",
        ),
        Picture(
            "A pool for prefill and a pool for decode",
            "The KV cache of each request goes from the upper pool to the lower one.",
            render(SPLIT, "split"),
            "gallery/devices_pools.svg",
        ),
        Picture(
            "Two shardings on one cache",
            "Shift parallelism: large steps run with one sharding, small steps with the other, on the same GPUs.",
            render(SHIFT, "shift"),
            "gallery/devices_shift.svg",
        ),
        Picture(
            "Four nodes",
            "A stage on each node: arrows between nodes are what passes the network.",
            render(RACKS, "nodes"),
            "gallery/devices_nodes.svg",
        ),
        Picture(
            "A rack",
            "Of 64 GPUs fifteen are drawn, and the last card counts the others.",
            render(RACKS, "rack"),
            "gallery/devices_rack.svg",
        ),
    ),
    "Communication: which GPU sends how much to which": (
        Picture(
            "Two stages of four GPUs",
            "Rows send and columns receive. The colour is the mesh axis, the shade the bytes. Below stands what the "
            "report's table of communication says of each axis.",
            render(LLAMA, "hybrid", "communication"),
            "gallery/communication_hybrid.svg",
        ),
        Picture(
            "Two pools",
            "Between the pools, each GPU of the first sends what a GPU of the second keeps.",
            render(SPLIT, "split", "communication"),
            "gallery/communication_pools.svg",
        ),
        Picture(
            "Four nodes",
            "Strong lines part the nodes. Only the hops from stage to stage cross them.",
            render(RACKS, "nodes", "communication"),
            "gallery/communication_nodes.svg",
        ),
        Picture(
            "Three plans side by side",
            "Which share of a step each plan sends, along which axis.",
            f"compare-comm {LLAMA}",
            "gallery/compare_comm.svg",
        ),
    ),
    "Block: the dataflow of a layer": (
        Picture(
            "One layer on one GPU",
            "Local shapes, weights and times, with what bounds each op; the dark line is the residual stream.",
            render(LLAMA, "tensor_parallel", "block"),
            "gallery/block.svg",
        ),
    ),
    "Timeline: when each stage works": (
        Picture(
            "Eight batches enter a pipeline",
            "A prefill: the first tokens of batch 0 are there at the dashed line.",
            render(LLAMA, "pipeline", "timeline"),
            "gallery/timeline_prefill.svg",
        ),
        Picture(
            "A decode step in the steady state",
            "Two batches take turns on two stages.",
            render(LLAMA, "hybrid", "timeline", "decode"),
            "gallery/timeline_decode.svg",
        ),
        Picture(
            "A step with a draft model",
            "Three tokens are guessed ahead, and verified in one step; below, one layer op by op.",
            render(GUESS, "guessed", "timeline", "decode"),
            "gallery/timeline_draft.svg",
        ),
    ),
    "Memory: what fills each GPU": (
        Picture(
            "Unlike GPUs",
            "Two stages on GPUs with different memory, and what that leaves for the KV cache.",
            render(UNLIKE, "even", "memory"),
            "gallery/memory.svg",
        ),
    ),
    "Throughput against latency, and searches": (
        Picture(
            "Three plans under more and more load",
            "A diamond is the knee, a dot the plan as written, a shade the band.",
            f"render {LLAMA} --view tradeoff",
            "search/tradeoff.svg",
        ),
        Picture(
            "A search for two services",
            "The front and the best of each service; below, for each batch and degree, the goal or what forbids it.",
            f"search {SERVICES}",
            "search/services.svg",
        ),
        Picture(
            "What the study found",
            "Without requirements every configuration counts: the most throughput takes a deep pipeline.",
            f"search {STUDY} --search throughput_70b",
            "search/study_70b.svg",
        ),
    ),
    "Simulations": (
        Picture(
            "Three candidates and a promise",
            "Which share of the requests had what within which time; a curve must not enter the shaded corner.",
            f"simulate {OPERATOR}",
            "traffic/operator.svg",
        ),
        Picture(
            "What a server holds over time",
            "Arrivals, requests that wait and that run, and the share of the KV memory in use.",
            f"simulate {OPERATOR} --plan one_h100 --view occupancy",
            "gallery/occupancy.svg",
        ),
        Picture(
            "The busiest moment, step by step",
            "Prompt tokens above, requests that decode below; a triangle is an arrival.",
            f"simulate {OPERATOR} --plan one_h100 --view steps",
            "gallery/steps.svg",
        ),
        Picture(
            "Times over the rate",
            "How percentiles grow until the server is saturated.",
            f"simulate {OPERATOR} --plan one_h100 --view rates",
            "gallery/rates.svg",
        ),
    ),
}
"""The pictures of the gallery, by the heading of their section."""

OTHERS = (
    Picture("", "", f"simulate {BURSTS}", "traffic/shift.svg"),
    Picture("", "", f"search {STUDY} --search throughput_405b", "search/study_405b.svg"),
)
"""Pictures of other pages."""

INTRO = """# Gallery

Every picture that `planc` draws, from the plans in [examples/](../examples), with the command that draws it; `make
figures` draws all of them again, and writes this page. Each is SVG here, and PNG or PDF where the name of the file ends
so. They have a ground of their own, so that they also read well on a dark page.
"""


def pictures() -> Iterator[Picture]:
    """Every picture of the pages in docs/, those of `benchmarks.accuracy` aside."""
    for section in SECTIONS.values():
        yield from section
    yield from OTHERS


def page() -> str:
    """The text of docs/gallery.md."""
    parts = [INTRO]
    for heading, section in SECTIONS.items():
        parts.append(f"## {heading}\n")
        for one in section:
            parts.append(f"### {one.title}\n\n{one.words}\n\n`{one.shown}`\n\n![{one.title}](images/{one.file})\n")
    return "\n".join(parts)


def draw(one: Picture) -> None:
    """Draw a picture to its file. A plan that breaks its promise is drawn too. Raises `SystemExit` if nothing is."""
    command = one.command_to(f"{IMAGES}/{one.file}")
    with contextlib.redirect_stdout(io.StringIO()):
        status = main(shlex.split(command)[1:])
    if status not in (OK, FAILED):
        raise SystemExit(f"failed: {command}")
    sys.stdout.write(f"{command}\n")


def draw_all() -> None:
    """Draw every picture, and write the page."""
    os.chdir(ROOT)
    for one in pictures():
        (Path(IMAGES) / one.file).parent.mkdir(parents=True, exist_ok=True)
        draw(one)
    (ROOT / "docs" / "gallery.md").write_text(page(), "utf-8")


if __name__ == "__main__":
    draw_all()
