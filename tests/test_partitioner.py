"""What XLA's partitioner makes of plans: the reader of its texts, the page, and one small run with jax.

The texts are written by hand, in the form in which XLA prints a module.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.hlo import Exchange, HloError, HloModule, replica_groups
from benchmarks.partitioner import GATHERS_WEIGHTS, PAGE, ROWS, compile_row, planned, show_calls
from benchmarks.unsharded import unsharded
from plandsl.driver import compile_text
from plandsl.ir.program import PHASES

ROOT = Path(__file__).parents[1]

HEAD = "HloModule jit_f, num_partitions=4\n"

LOOP = """
%body (p: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %p = (s32[], bf16[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(STEP)
  %next = s32[] add(%i, %one)
  %x = bf16[8,16]{1,0} get-tuple-element(%p), index=1
  BODY
  ROOT %out = (s32[], bf16[8,16]{1,0}) tuple(%next, %x)
}

%condition (q: (s32[], bf16[8,16])) -> pred[] {
  %q = (s32[], bf16[8,16]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %bound = s32[] constant(10)
  ROOT %less = pred[] compare(%j, %bound), direction=LT
}

ENTRY %main (a: bf16[8,16]) -> bf16[8,16] {
  %a = bf16[8,16]{1,0} parameter(0)
  %start = s32[] constant(0)
  %init = (s32[], /*index=1*/bf16[8,16]{1,0}) tuple(%start, %a)
  %loop = (s32[], bf16[8,16]{1,0}) while(%init), condition=%condition, body=%body, metadata={op_name="while=3"}
  ROOT %end = bf16[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""

SCATTER = """
ENTRY %main (a: bf16[8,16], k: s32[]) -> bf16[4,16] {
  %a = bf16[8,16]{1,0} parameter(0)
  %k = s32[] parameter(1)
  %zero = s32[] constant(0)
  %sum = bf16[8,16]{1,0} all-reduce(%a), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  %table = u32[4]{0} constant({PLACES})
  %id = u32[] partition-id()
  %mine = u32[1]{0} dynamic-slice(%table, %id), dynamic_slice_sizes={1}
  %part = u32[] reshape(%mine)
  %rows = s32[2]{0} constant({0, 4})
  %row = s32[1]{0} dynamic-slice(%rows, %part), dynamic_slice_sizes={1}
  %at = s32[] reshape(%row)
  %same = bf16[8,16]{1,0} copy(%sum)
  ROOT %cut = bf16[4,16]{1,0} dynamic-slice(%same, WHERE, %zero), dynamic_slice_sizes={4,16}
}
"""


def exchanges(text: str) -> list[Exchange]:
    return HloModule(HEAD + text).exchanges()


def entry(lines: list[str]) -> str:
    return "\n".join(["ENTRY %main (a: bf16[8,16]) -> bf16[8,16] {", *(f"  {line}" for line in lines), "}"])


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("{}", [[0, 1, 2, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'b','a'}", [[0, 2, 1, 3]]),
        ("mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("mesh['a'=8] {'a':(1)2,'a':(4)2}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}", [[3, 2], [1, 0]]),
    ],
)
def test_every_way_to_write_groups_is_read(text: str, groups: list[list[int]]) -> None:
    assert replica_groups(f", channel_id=1, replica_groups={text}, use_global_device_ids=true", 4) == groups


@pytest.mark.parametrize(("step", "trips"), [(1, 10), (3, 4)])
def test_what_a_loop_holds_counts_as_often_as_it_runs(step: int, trips: int) -> None:
    gather = "%g = bf16[8,64]{1,0} all-gather(%x), channel_id=1, replica_groups=[1,4]<=[4], dimensions={1}"
    (found,) = exchanges(LOOP.replace("STEP", str(step)).replace("BODY", gather))
    assert found == Exchange("all_gather", 4, 8 * 64 * 2, trips)
    assert found.wire == trips * 3 / 4 * 1024


def test_a_loop_whose_end_is_not_known_is_refused() -> None:
    with pytest.raises(HloError, match="trip count"):
        exchanges(LOOP.replace("constant(10)", "custom-call(%q)").replace("compare", "maximum"))


@pytest.mark.parametrize(
    ("places", "where", "kind"),
    [
        ("0, 1, 0, 1", "%at", "reduce_scatter"),
        ("0, 0, 1, 1", "%at", "all_reduce"),  # both ranks of a group keep the same part
        ("0, 1, 0, 1", "%k", "all_reduce"),  # nobody knows which part
    ],
)
def test_a_sum_of_which_each_rank_keeps_its_part_is_a_reduce_scatter(places: str, where: str, kind: str) -> None:
    (found,) = exchanges(SCATTER.replace("PLACES", places).replace("WHERE", where))
    assert (found.kind, found.ranks, found.payload, found.calls) == (kind, 2, 8 * 16 * 2, 1)
    assert found.sliced == (kind == "reduce_scatter")
    written = "1 written as all_reduce: 256 B" in show_calls([found])
    assert written == found.sliced


def test_a_sum_with_two_uses_is_no_reduce_scatter() -> None:
    text = SCATTER.replace("PLACES", "0, 1, 0, 1").replace("WHERE", "%at")
    (found,) = exchanges(text.replace("  ROOT", "  %other = bf16[8,16]{1,0} negate(%sum)\n  ROOT"))
    assert found.kind == "all_reduce"


def test_tuples_permutes_and_groups_of_one() -> None:
    found = exchanges(
        entry(
            [
                "%a = bf16[8,16]{1,0} parameter(0)",
                "%b = (bf16[8,16]{1,0}, f32[4]{0}) all-reduce(%a, %s), replica_groups={{0,1,2,3}}, to_apply=%add",
                "%c = (s8[2]{0}, s8[2]{0}) all-to-all(%u, %v), replica_groups={{0,1},{2,3}}",
                "%d = bf16[8,16]{1,0} collective-permute(%a), source_target_pairs={{0,1},{1,0},{2,2}}",
                "%e = bf16[2,16]{1,0} reduce-scatter(%a), replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%add",
                "ROOT %f = bf16[8,16]{1,0} all-gather(%a), replica_groups={{0},{1},{2},{3}}, dimensions={0}",
            ]
        )
    )
    assert found == [
        Exchange("all_reduce", 4, 256 + 16, 1),
        Exchange("all_to_all", 2, 4, 1),
        Exchange("permute", 4, 256, 1, moving=0.5),
        Exchange("reduce_scatter", 4, 4 * 64, 1),
    ]
    assert [one.wire for one in found] == [1.5 * 272, 2, 128, 192]


@pytest.mark.parametrize("opcode", ["ragged-all-to-all", "all-gather-start", "collective-broadcast"])
def test_what_is_not_counted_is_refused(opcode: str) -> None:
    with pytest.raises(HloError, match=opcode):
        exchanges(entry([f"ROOT %a = bf16[8,16]{{1,0}} {opcode}(%b), replica_groups={{}}"]))


# ---- the plan's side


def test_the_page_has_what_the_plans_send() -> None:
    """When this fails, a pass has changed what plans send: run `make partitioner`."""
    told = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = {(line[0].removeprefix("| "), line[1]): line[2] for line in told}
    for row in ROWS:
        for phase in PHASES:
            assert cells[row.title, phase] == show_calls(planned(*compile_row(row, phase))[0]), row.title


def test_the_page_says_why_where_xla_sends_fewer_bytes() -> None:
    fewer = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and re.search(r"\| (prefill|decode) \|", line):
            title, phase, *cells, why = (cell.strip() for cell in line.strip("|").split(" | "))
            ours, *theirs = (_bytes(cell) for cell in cells)
            if ours > 1.001 * min(theirs):
                fewer[title, phase] = why
    apart, everywhere = "FFN over 2 x 4, requests over 2 in attention", "FFN over 2 x 4, requests over 2 everywhere"
    assert set(fewer) == {(apart, "prefill"), (apart, "decode"), (everywhere, "prefill")}
    assert all(GATHERS_WEIGHTS in why for (_, phase), why in fewer.items() if phase == "prefill")
    assert "the rules of the next row say so" in fewer[apart, "decode"]


def _bytes(cell: str) -> float:
    """The bytes of a cell such as ``66, 61.1 GB``."""
    found = re.match(r"\d+, ([\d.]+) ([KMGT])B", cell)
    return float(found[1]) * 1000.0 ** (1 + "KMGT".index(found[2])) if found else 0.0


@pytest.mark.parametrize("sharding", ["tp = 8", "sp = 4, tp = 2", "mesh x = 4, y = 2\nffn, vocab -> x\nhidden -> y"])
def test_both_count_what_the_report_counts(sharding: str) -> None:
    load = "workload { input = 512, output = 8, batch = 16 }"
    (plan,) = compile_text(f"plan p {{ model = llama_3_1_8b, node = h100_8, sharding {{\n{sharding}\n}}, {load} }}")
    rows = plan.closed_form().communication
    for phase in PHASES:
        found, _ = planned(plan.program(phase), {"batch": 16, "input": 512, "context": 520})
        ours, told = Counter[str](), Counter[str]()
        for one in found:
            ours[one.kind] += round(one.calls * one.payload)
        for row in rows.of(phase):
            told[row.op] += round(row.payload)
        assert ours == told


def test_the_function_has_no_collective_and_states_every_layout() -> None:
    program, bind = compile_row(ROWS[2], "prefill")
    made = unsharded(program, bind["batch"], bind["input"], bind["context"])
    assert not any(word in made.text[made.text.index("def prefill_block") :] for word in ("lax.p", "lax.all"))
    before, after = 'P(None, "seq")', 'P(None, None, "seq")'
    assert f"constrain(q_1, {before}, {after})" in made.text
    assert made.weights["block"]["w_q"].shape == (32, 4096, 32, 128)


@pytest.mark.extras
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed: plandsl[run]")
def test_xla_sends_what_a_small_plan_sends() -> None:
    """`tp` and `sp` of two layers; in a process of its own, because jax is told its devices before it starts."""
    script = """
from benchmarks import partitioner
small = partitioner.LLAMA + " with { layers = 2 }"
rows = [row._replace(model=small) for row in (partitioner.ROWS[0], partitioner.ROWS[2])]
with partitioner.Xla() as xla:
    for line in partitioner.lines(xla, rows):
        print(line.text())
        assert not line.unexplained and not line.differs(partitioner.INSIDE)
        assert line.differs(partitioner.ENDS) == (line.row.title != "`tp = 8`")
"""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]))
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr[-2000:]
    assert done.stdout.count("\n") == 4
