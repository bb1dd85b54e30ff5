"""Pictures whose texts are measured: none crosses the edge of a box, none lies on another, no line runs through one."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.graphviz import PHASES, VIEWS
from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.fonts import text_width
from plandsl.driver import CompiledPlan, compile_file, compile_text
from plandsl.testing import compiled, deployments
from tests.draws import draws
from tests.pictures import cuts, faults, read_picture
from tests.test_cluster import text
from tests.test_flows import assert_bytes_add_up

ROOT = Path(__file__).parents[1] / "examples"
SKIPPED = ("common", "search_70b", "search_study", "latency_70b", "latency_405b", "throughput_405b", "capacity")
"""No plan with a load, or plans that differ from others only in their numbers."""

EXAMPLES = sorted(path for path in ROOT.rglob("*.plan") if path.stem not in SKIPPED)

LOAD = "workload { input = 2048, output = 256, batch = 16 }"
NETWORK = "network { topology = switch, bandwidth = 50 GB/s, latency = 5 us }"


def nodes(count: int) -> str:
    return f"cluster {{ node = h100_8, count = {count}, {NETWORK} }}"


LARGE = {
    "rack": "model = deepseek_v3, node = gb200_8 with { count = 72 }, sharding { ep = 64 }",
    "replicas": "model = llama_3_1_405b, node = gb200_8 with { count = 72 }, sharding { tp = 8, dp = 9 }",
    "stages": f"model = llama_3_1_405b, {nodes(4)}, sharding {{ tp = 8, pp = 4 }}",
    "in_nodes": f"model = llama_3_1_70b, {nodes(2)}, sharding {{ tp = 4, pp = 4 }}",
    "over_nodes": f"model = llama_3_1_405b, {nodes(2)}, sharding {{ tp = 16 }}",
    "many_nodes": f"model = llama_3_1_70b, {nodes(64)}, sharding {{ tp = 8, dp = 64 }}",
    "too_large": "model = llama_3_1_405b, node = a100_sxm_8, sharding { tp = 8 }",
}
"""Plans on many GPUs, and one that does not fit."""


@cache
def large(name: str) -> CompiledPlan:
    (plan,) = compile_text(f"plan {name} {{ {LARGE[name]}, {LOAD} }}")
    return plan


@cache
def drawn(name: str, view: str = "devices") -> str:
    return large(name).draw(view)


# ---- measuring


def test_widths_cover_the_widest_font_that_machines_fall_back_to() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font, LoadFlags

    for bold, file in ((False, "DejaVuSans.ttf"), (True, "DejaVuSans-Bold.ttf")):
        font = FT2Font(str(Path(get_data_path()) / "fonts" / "ttf" / file))
        font.set_size(1000, 72)
        for code in (*range(32, 127), *map(ord, "\N{MULTIPLICATION SIGN}\N{MIDDLE DOT}\N{HORIZONTAL ELLIPSIS}")):
            drawn = font.load_char(code, LoadFlags.NO_HINTING).linearHoriAdvance / 65536
            assert text_width(chr(code), 1000, bold) >= drawn - 1


def test_faults_are_found() -> None:
    canvas = Canvas("t")
    canvas.box(0, 0, 40, 20, "#ffffff", name="box")
    canvas.text(2, 10, "longer than its box")
    canvas.text(60, 12, "on it")
    canvas.line([(0, 40), (200, 40)], "#000000", name="line")
    canvas.text(0, 40, "struck")
    canvas.line([(0, 60), (200, 60)], "#000000", name="hidden")
    canvas.box(0, 50, 100, 20, "#ffffff", name="ground")
    canvas.text(4, 60, "fine")
    assert faults(canvas.dot()) == [
        "`longer than its box` crosses `box`",
        "`longer than its box` on `on it`",
        "`line` through `struck`",
    ]


def test_texts_are_read_as_they_were_written() -> None:
    canvas = Canvas("t")
    for bold in (False, True):
        canvas.text(0, 20 + 20 * bold, 'a "b" \\l <c> & d', bold=bold)
    assert read_picture(canvas.dot()).words == ('a "b" \\l <c> & d',) * 2


# ---- the law


@pytest.mark.parametrize(("at", "path"), list(enumerate(EXAMPLES)), ids=lambda value: getattr(value, "stem", ""))
def test_texts_of_examples_have_room(at: int, path: Path) -> None:
    """The plans of a file take turns with the views, from another view on in each file."""
    names = list(VIEWS)
    for i, plan in enumerate(compile_file(path)[:4]):
        view = names[(at + i) % len(names)]
        dot = plan.draw(view, PHASES[i % 2])
        assert (view, faults(dot), cuts(read_picture(dot))) == (view, [], [])


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("view", ["devices", "communication"])
def test_texts_of_large_machines_have_room(name: str, view: str) -> None:
    dot = drawn(name, view)
    assert (faults(dot), cuts(read_picture(dot))) == ([], [])


# ---- the devices view


@pytest.mark.parametrize("name", LARGE)
def test_every_gpu_is_drawn_or_counted(name: str) -> None:
    plan = large(name)
    picture = read_picture(drawn(name))
    cards = [int(b.name.split()[1]) for b in picture.boxes if re.fullmatch(r"GPU \d+", b.name)]
    idle = plan.spec.gpus - plan.spec.ranks
    counted = sum(int(m[1]) for word in picture.words if (m := re.fullmatch(r"(\d+) more GPUs?", word)))
    others = sum(int(m[1]) for word in picture.words if (m := re.search(r"to \d+, (\d+) GPUs", word)))
    assert len(set(cards)) == len(cards)
    assert sum(card < plan.spec.ranks for card in cards) + counted + others == plan.spec.ranks
    assert sum(card >= plan.spec.ranks for card in cards) == min(idle, 16)


def test_a_plan_with_two_shardings_shows_both() -> None:
    (plan,) = compile_file(ROOT / "shift_llama_3_3_70b.plan", plan="shift")
    picture = read_picture(plan.draw("devices"))
    assert {"ulysses", "ulysses_tp"} <= set(picture.words)
    assert "steps of more than 256 tokens, here prefill; drawn: what prefill sends" in picture.words
    assert "steps of at most 256 tokens, here decode; drawn: what decode sends" in picture.words
    assert sum(box.name.startswith("ulysses GPU") and box.name[-1].isdigit() for box in picture.boxes) == 8


@pytest.mark.parametrize("name", ["stages", "in_nodes", "over_nodes"])
def test_every_send_has_an_arrow_and_its_bytes(name: str) -> None:
    dot = drawn(name)
    arrows = {line.name.removeprefix("arrow: ") for line in read_picture(dot).lines if line.name.startswith("arrow: ")}
    said = {word for word in read_picture(dot).words if re.search(r" over \w+.*: |^stage \d+ to \d+: ", word)}
    assert {re.sub(r" \(\d+\)$", "", arrow) for arrow in arrows} == said
    assert all(re.search(r"\d [KMGT]?B", word) for word in said)
    between = [line for line in read_picture(dot).lines if re.match(r"node \d+ to node", line.name)]
    labels = [word for word in read_picture(dot).words if re.fullmatch(r"[\d.]+ [KMGT]?B(, .*)?", word)]
    assert between
    assert labels


WIDE = """
node big { gpu = g, count = 20, link { topology = switch, bandwidth = 150 GB/s, latency = 2 us } }
cluster wide { node = big, count = 24, network { topology = fat_tree, bandwidth = 25 GB/s, latency = 5 us } }
gpu h = g with { memory = 40 GB }
node other = n with { gpu = h }
cluster mixed { nodes = [2 * n, 2 * other], network { topology = fat_tree, bandwidth = 25 GB/s, latency = 5 us } }
node pair = n with { count = 2 }
cluster pairs = wide with { node = pair, count = 8 }
"""
"""Machines on which few plans run."""


def on_nodes(sharding: str, machine: str) -> str:
    """The devices of a plan of 8 layers, whose picture has room for all that it says."""
    (plan,) = compile_text(text(sharding, f"cluster = {machine}").replace("layers = 2", "layers = 8") + WIDE)
    dot = plan.draw("devices")
    assert (faults(dot), cuts(read_picture(dot))) == ([], [])
    return dot


def test_gpus_and_nodes_beyond_the_bound_are_counted() -> None:
    picture = read_picture(on_nodes("tp = 4, dp = 5", "wide"))
    named = [box.name for box in picture.boxes if re.fullmatch(r"node \d+( and others)?", box.name)]
    assert named == [*(f"node {n}" for n in range(8)), "node 8 and others"]
    assert {"5 more GPUs", "16 nodes, idle"} <= set(picture.words)


def test_lines_of_a_node_beyond_the_bound_are_counted() -> None:
    words = read_picture(on_nodes("pp = 4, tp = 2", "pod")).words
    assert "and 3 more" in words
    assert sum(" over tensor: " in word or re.match(r"stage \d to", word) is not None for word in words) == 5


def test_each_kind_of_node_is_described() -> None:
    words = " ".join(read_picture(on_nodes("tp = 8, dp = 2", "mixed")).words)
    assert re.search(r"\bn: 8 . g: 80\.0 GB.*; other: 8 . h: 40\.0 GB", words)


@pytest.mark.parametrize(
    "sharding",
    ["tp = 2, pp = 8", "cp = 8, tp = 2", "dp = 2, cp = 4, tp = 2", "mesh a = 8, b = 2; ffn -> a; heads -> b"],
)
def test_every_pair_of_nodes_that_exchange_has_an_arrow(sharding: str) -> None:
    picture = read_picture(on_nodes(sharding, "pairs"))
    arrows = {line.name for line in picture.lines if re.match(r"node \d+ to node", line.name)}
    if "pp" in sharding:
        assert arrows == {f"node {n} to node {n + 1}, stages" for n in range(7)}
    else:
        axis = "a" if "mesh" in sharding else "context"
        wide = 4 if "dp" in sharding else 8
        assert {f"node {n} to node {n + 1}, {axis}" for n in range(7) if (n + 1) % wide} <= arrows


def test_arrows_go_around_the_nodes_between() -> None:
    """The ranks of one axis stand in every other node, or in every fourth one."""
    for sharding, step in (
        ("mesh a = 4, b = 4; ffn -> a; heads -> b", 2),
        ("mesh a = 2, b = 8; ffn -> a; heads -> b", 4),
    ):
        picture = read_picture(on_nodes(sharding, "pairs"))
        arrows = {line.name for line in picture.lines if line.name.endswith(", a")}
        assert arrows == {f"node {n} to node {n + step}, a" for n in range(8 - step)}


# ---- drawn plans


@draws(1 / 6)
@given(deployments(), st.sampled_from(sorted(VIEWS)), st.sampled_from(PHASES))
def test_drawn_plans_have_room_for_all_texts_and_bytes_that_add_up(spec, view: str, phase: str) -> None:
    plan = compiled(spec)
    if spec.workload.encodes:  # no step decodes
        phase = PHASES[0]
    assert faults(plan.draw(view, phase)) == []
    assert_bytes_add_up(plan)
