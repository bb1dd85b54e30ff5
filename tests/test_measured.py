"""Tables of measured kernels: they answer first, inside what they measure, and are checked as plans are."""

import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from plandsl.backends.calibrate.kinds import KINDS
from plandsl.backends.cost.answers.figures import without_tables
from plandsl.backends.cost.machine.measured import WIDEST_GAP, Curve, Grid, Line, Surface
from plandsl.backends.cost.machine.tables import SORTS, findings
from plandsl.backends.cost.time.trace import HOT, trace
from plandsl.backends.cost.work.lookup import attach
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import check_module, compile_file, compile_text, open_file
from plandsl.limits import MAX_TABLE_BYTES, MAX_TABLES
from plandsl.measurements import NUMBERS
from plandsl.show import show_plan

GEMM = "gpu,dtype,m,n,k,time_s\n"
PREFILL = "gpu,dtype,kv_dtype,batch,seq_q,seq_kv,n_heads,n_kv_heads,head_dim,window,causal,time_s\n"
DECODE = "gpu,dtype,kv_dtype,batch,kv_len,n_heads,n_kv_heads,head_dim,window,time_s\n"
ELEMENTWISE = "gpu,op,dtype,rows,cols,time_s\n"
COLLECTIVES = "gpu,op,backend,n_ranks,n_nodes,bytes,cuda_graph,time_s\n"

DOWN = "h100_sxm,bf16,{m},4096,3584,{t}\n"
"""The GEMM `down` of Llama-3.1-8B over four ranks."""

PLAN = """plan p {{
  model = llama_3_1_8b
  node = {node}
  sharding {{ tp = 4 }}
  workload {{ input = 512, output = 65, batch = {batch} }}
{lines}}}
"""


def write(folder, name, header, *rows):
    (folder / name).write_text(header + "".join(rows))
    return folder / name


def plan(folder, *lines, node="h100_8", batch=16, before=""):
    """A plan file in ``folder``."""
    body = "".join(f"  {line}\n" for line in lines)
    file = folder / "p.plan"
    file.write_text(before + PLAN.format(node=node, batch=batch, lines=body))
    return file


def timed(folder, *lines, **more):
    """Ops of the two phases by name, of the plan with those lines."""
    (compiled,) = compile_file(plan(folder, *lines, **more))
    return ops_of(compiled, "prefill"), ops_of(compiled, "decode")


def ops_of(compiled, phase="decode"):
    """Ops of a phase: kernels by name, collectives with their word before it."""
    ops = getattr(compiled.estimate(), phase).ops
    return {f"{o.op} {o.name}" if o.communicates else o.name: o for o in ops}


def one(op):
    """Seconds of one run."""
    return op.time_s / op.count


def told(folder, *lines, **more):
    """What `planc check` and `planc compile` both find."""
    file = plan(folder, *lines, **more)
    checked = [d for d in check_module(open_file(file)) if d.severity != "note"]
    try:
        compiled = [d for one in compile_file(file) for d in one.notes if d.severity != "note"]
    except PlanError as error:
        compiled = [d for d in error.diagnostics if d.severity != "note"]
    assert checked == compiled
    return checked


# ---- interpolation


def test_a_curve_is_exact_at_its_points_and_geometric_between():
    curve = Curve((4.0, 16.0, 32.0), (3e-6, 5e-6, 11e-6))
    assert [curve.at(m) for m in (4, 16, 32)] == [3e-6, 5e-6, 11e-6]
    assert curve.at(8) == pytest.approx(math.sqrt(3e-6 * 5e-6), rel=1e-12)
    assert curve.at(16 * 2**0.25) == pytest.approx(5e-6 * (11 / 5) ** 0.25, rel=1e-12)
    assert [curve.at(m) for m in (3.999, 32.001, 0, -1)] == [0.0] * 4
    assert Curve((7.0,), (1e-6,)).at(7) == 1e-6
    assert Curve((7.0,), (1e-6,)).at(8) == 0.0


def test_points_far_apart_do_not_speak_for_what_lies_between():
    for gap, answered in ((WIDEST_GAP, True), (WIDEST_GAP * 1.01, False)):
        curve = Curve((8.0, 8.0 * gap), (1e-6, 2e-6))
        assert (curve.at(16) > 0) == answered
        assert (curve.at(np.array([16.0]))[0] > 0) == answered
        assert curve.at(8) == curve.at(np.array([8.0]))[0] == 1e-6
        surface = Surface((1.0, gap), (curve, curve))
        assert (surface.at(1.5, 8.0) > 0) == answered
        assert (surface.at(np.array([1.5]), 8.0)[0] > 0) == answered


SURFACE = Surface(
    (1.0, 2.0, 4.0, 8.0),
    (
        Curve((128.0, 512.0, 1024.0), (1e-6, 3e-6, 5e-6)),
        Curve((256.0, 512.0), (4e-6, 6e-6)),
        Curve((128.0, 256.0, 1024.0), (5e-6, 7e-6, 20e-6)),
        Curve((1024.0,), (50e-6,)),
    ),
)


def test_a_surface_lies_between_the_nearest_batches_that_bracket_the_context():
    assert SURFACE.at(2, 512) == 6e-6
    assert SURFACE.at(3, 256) == pytest.approx(4e-6 * (7 / 4) ** (math.log(1.5) / math.log(2)), rel=1e-12)
    # batch 2 was not measured at 1024 tokens: 1 and 4 were
    assert SURFACE.at(2, 1024) == pytest.approx(math.sqrt(5e-6 * 20e-6), rel=1e-12)
    assert SURFACE.at(6, 1024) == pytest.approx(20e-6 * 2.5 ** (math.log(1.5) / math.log(2)), rel=1e-12)
    outside = [(0.5, 512), (9, 1024), (6, 512), (4, 1025), (1, 127), (8, 1000)]
    assert [SURFACE.at(*point) for point in outside] == [0.0] * len(outside)


def test_arrays_equal_numbers():
    batches, contexts = np.arange(0.5, 10, 0.5)[:, None], np.geomspace(100, 1100, 40)[None, :]
    grid = SURFACE.at(batches, contexts)
    single = [[SURFACE.at(float(b), float(c)) for c in contexts[0]] for b in batches[:, 0]]
    np.testing.assert_allclose(grid, single, rtol=1e-12, atol=0)
    sizes = np.arange(0.0, 40.0, 0.5)
    curve = Curve((4.0, 16.0, 32.0), (3e-6, 5e-6, 11e-6))
    np.testing.assert_allclose(curve.at(sizes), [curve.at(float(s)) for s in sizes], rtol=1e-12, atol=0)


def test_the_first_table_that_answers_wins_element_by_element():
    line = Line((Curve((4.0, 8.0), (1e-6, 2e-6)), Curve((2.0, 8.0), (7e-6, 9e-6))), scale=2.0)
    rows = np.array([1.0, 2.0, 4.0, 5.0])
    assert line.seconds(rows, lambda: rows * 1e-3).tolist() == [7e-6, 1e-6, 2e-6, 5e-3]
    assert [line.seconds(r, lambda: 3e-3) for r in (1, 2, 4, 5)] == [7e-6, 1e-6, 2e-6, 3e-3]
    assert line.at(5) == 0.0


def test_what_a_table_answers_asks_nobody_else():
    def never():
        raise AssertionError("the layer below was asked")

    assert Line((Curve((4.0,), (1e-6,)),)).seconds(4, never) == 1e-6
    assert Grid((SURFACE,), prefill=False).seconds(2, 1, 512, never) == 6e-6


def test_a_table_of_prompts_does_not_answer_for_a_part_of_one():
    grid = Grid((SURFACE,), prefill=True)
    assert grid.at(2, 512, 512) == 6e-6
    assert grid.at(2, 256, 512) == 0.0
    position = np.array([512, 256])
    assert grid.seconds(2, position, 512, lambda: 1.0).tolist() == [6e-6, 1.0]


# ---- ops


def test_a_measured_gemm_is_exact_and_the_others_stay_as_they_were(tmp_path):
    write(tmp_path, "gemm.csv", GEMM, DOWN.format(m=16, t=1.25e-5), DOWN.format(m=8192, t=3e-4))
    plain_first, plain_step = timed(tmp_path)
    first, step = timed(tmp_path, 'measured = "gemm.csv"')
    assert (one(step["down"]), step["down"].layer) == (1.25e-5, "measured")
    assert (one(first["down"]), first["down"].layer) == (3e-4, "measured")
    assert step["down"].band == (1.0, 1.0)
    assert {n for n in step if step[n] != plain_step[n]} == {"down"}
    assert {o.layer for n, o in first.items() if n != "down"} == {"fitted"}
    assert plain_first["down"].layer == "fitted"


@pytest.mark.parametrize(
    "row",
    [
        DOWN.format(m=17, t=1e-5),
        "h100_sxm,bf16,16,4096,3585,1e-5\n",
        "h100_sxm,bf16,16,4097,3584,1e-5\n",
        "h100_sxm,fp8,16,4096,3584,1e-5\n",
        "h100_sxm,w8a16,16,4096,3584,1e-5\n",
    ],
)
def test_another_shape_answers_nothing(tmp_path, row):
    write(tmp_path, "gemm.csv", GEMM, row)
    assert timed(tmp_path, 'measured = "gemm.csv"') == timed(tmp_path)


def test_twelve_rows_lie_between_eight_and_sixteen(tmp_path):
    write(tmp_path, "gemm.csv", GEMM, DOWN.format(m=8, t=1e-5), DOWN.format(m=16, t=2e-5))
    times = {b: one(timed(tmp_path, 'measured = "gemm.csv"', batch=b)[1]["down"]) for b in (8, 12, 16, 17)}
    assert times[12] == pytest.approx(1e-5 * 2 ** (math.log(1.5) / math.log(2)), rel=1e-12)
    assert timed(tmp_path, 'measured = "gemm.csv"', batch=17)[1]["down"].layer == "fitted"


def test_weight_only_and_twin_formats_go_by_the_names_of_the_schema(tmp_path):
    write(tmp_path, "gemm.csv", GEMM, "h100_sxm,w8a16,16,4096,3584,1.5e-5\n", "h100_sxm,fp16,16,4096,3584,1.7e-5\n")
    found = timed(tmp_path, 'measured = "gemm.csv"')[1]["down"]
    assert one(found) == 1.7e-5  # bf16 and fp16 are of one width
    text = plan(tmp_path, 'measured = "gemm.csv"').read_text().replace("model = llama_3_1_8b", "model = m")
    (tmp_path / "w.plan").write_text("model m = llama_3_1_8b with { weights = int8, compute = bf16 }\n" + text)
    (compiled,) = compile_file(tmp_path / "w.plan")
    assert one(ops_of(compiled)["down"]) == 1.5e-5


def test_rows_that_quantise_as_well_are_passed_over(tmp_path):
    rows = "h100_sxm,bf16,16,4096,3584,1.5e-5,1\n", "h100_sxm,bf16,16,4096,3584,1.9e-5,0\n"
    write(tmp_path, "gemm.csv", GEMM.replace("\n", ",act_quant_included\n"), *rows)
    assert one(timed(tmp_path, 'measured = "gemm.csv"')[1]["down"]) == 1.9e-5


def test_attention_of_both_phases(tmp_path):
    prompt, token = "h100_sxm,bf16,bf16,16,{},512,8,2,128,0,{},{}\n", "h100_sxm,bf16,{},16,{},8,2,128,{},{}\n"
    others = prompt.format(256, 1, 1e-9), prompt.format(512, 0, 1e-9)
    write(tmp_path, "a.csv", PREFILL, prompt.format(512, 1, 9e-5), *others)
    others = token.format("fp8", 512, 0, 1e-9), token.format("bf16", 512, 128, 1e-9)
    write(tmp_path, "b.csv", DECODE, *(token.format("bf16", c, 0, 2e-5) for c in (512, 1024)), *others)
    first, step = timed(tmp_path, 'measured = ["a.csv", "b.csv"]')
    assert (one(first["attention"]), first["attention"].layer) == (9e-5, "measured")
    assert one(step["attention"]) == pytest.approx(2e-5, rel=1e-12)
    assert step["attention"].layer == "measured"


def test_collectives_take_the_fastest_library_and_the_median_of_its_repetitions(tmp_path):
    size = 16 * 4096 * 2
    row = "h100_sxm,all_reduce,{},4,{},{},0,{}\n".format
    repeated = (row("own", 1, size, t) for t in (1e-6, 5e-6, 7e-6))
    others = row("nccl", 2, size, 1e-7), row("nccl", 1, 2 * size, 1e-7)
    write(tmp_path, "c.csv", COLLECTIVES, row("nccl", 1, size, 9e-6), *repeated, *others)
    step = timed(tmp_path, 'measured = "c.csv"')[1]
    reduced = [o for o in step.values() if o.op == "all_reduce"]
    assert {one(o) for o in reduced} == {5e-6}
    assert {(o.layer, o.algorithm) for o in reduced} == {("measured", "measured")}
    forced = timed(tmp_path, 'measured = "c.csv"', "algorithm = ring")[1]
    assert "measured" not in {o.layer for o in forced.values()}


def test_elementwise_kernels_by_their_row(tmp_path):
    rows = {"silu_and_mul": 3584, "rmsnorm": 4096, "fused_add_rmsnorm": 4096, "rope": (8 + 2) * 128, "embedding": 4096,
            "residual_add": 4096}  # fmt: skip
    made = (f"h100_sxm,{op},bf16,16,{cols},{i + 1}e-5\n" for i, (op, cols) in enumerate(rows.items()))
    write(tmp_path, "e.csv", ELEMENTWISE, *made)
    step = timed(tmp_path, 'measured = "e.csv"')[1]
    layers = {o.name: round(1e5 * one(o)) for o in step.values() if o.layer == "measured"}
    assert layers == {"silu_mul": 1, "norm": 2, "head_norm": 2, "add_norm": 3, "rope": 4, "embedding": 5, "residual": 6}


def test_quantisation_goes_by_the_format_it_reads(tmp_path):
    rows = (f"h100_sxm,static_quant_fp8,{d},16,3584,{t}\n" for d, t in (("bf16", 1e-5), ("fp8", 1e-9)))
    write(tmp_path, "e.csv", ELEMENTWISE, *rows)
    text = plan(tmp_path, 'measured = "e.csv"').read_text()
    (tmp_path / "p.plan").write_text(text.replace("llama_3_1_8b", "llama_3_1_8b with { weights = fp8 }"))
    (compiled,) = compile_file(tmp_path / "p.plan")
    found = [o for o in compiled.estimate().decode.ops if o.layer == "measured"]
    assert [(o.op, one(o)) for o in found] == [("elementwise", 1e-5)]


def test_a_hop_between_stages_is_a_message_of_two(tmp_path):
    row = "h100_sxm,p2p_send_recv,nccl,{},1,{},0,{}\n".format
    write(tmp_path, "c.csv", COLLECTIVES, row(2, 16 * 4096 * 2, 3e-5), row(4, 16 * 4096 * 2, 1e-9))
    text = plan(tmp_path, 'measured = "c.csv"').read_text()
    (tmp_path / "p.plan").write_text(text.replace("tp = 4", "pp = 2"))
    (compiled,) = compile_file(tmp_path / "p.plan")
    assert compiled.cost.evaluate().decode.hop == 3e-5


def test_a_norm_over_heads_has_a_row_for_each_head(tmp_path):
    write(
        tmp_path, "e.csv", ELEMENTWISE, "h100_sxm,rmsnorm,bf16,128,128,1e-5\n", "h100_sxm,rmsnorm,bf16,16,1024,1e-9\n"
    )
    text = plan(tmp_path, 'measured = "e.csv"').read_text().replace("llama_3_1_8b", "qwen3_8b")
    (tmp_path / "p.plan").write_text(text)
    (compiled,) = compile_file(tmp_path / "p.plan")
    norms = [o for o in compiled.estimate().decode.ops if o.layer == "measured"]
    assert [one(o) for o in norms] == [1e-5]  # 8 heads of 16 tokens; keys have 2


def test_a_plans_table_beats_that_of_its_gpu(tmp_path):
    write(tmp_path, "plan.csv", GEMM, DOWN.format(m=16, t=1e-5))
    write(tmp_path, "gpu.csv", GEMM, DOWN.format(m=16, t=2e-5), DOWN.format(m=64, t=3e-5))
    node = 'h100_8 with { gpu { measured = "gpu.csv" } }'
    both = {b: one(timed(tmp_path, 'measured = "plan.csv"', node=node, batch=b)[1]["down"]) for b in (16, 64)}
    assert both == {16: 1e-5, 64: 3e-5}
    assert one(timed(tmp_path, node=node)[1]["down"]) == 2e-5


@pytest.mark.parametrize("key", ["mine", "base", "h100_sxm"])
def test_rows_may_name_the_gpu_that_one_was_made_from(tmp_path, key):
    write(tmp_path, "gemm.csv", GEMM, DOWN.format(m=16, t=1e-5).replace("h100_sxm", key))
    before = 'gpu base = h100_sxm with { price = 2 USD/h }\ngpu mine = base with { measured = "gemm.csv" }\n'
    assert one(timed(tmp_path, node="h100_8 with { gpu = mine }", before=before)[1]["down"]) == 1e-5


def test_the_nearest_name_counts_and_another_gpu_does_not(tmp_path):
    rows = (
        DOWN.format(m=16, t=t).replace("h100_sxm", g) for g, t in (("h100_sxm", 1e-6), ("mine", 2e-5), ("a40", 3e-7))
    )
    write(tmp_path, "gemm.csv", GEMM, *rows)
    before = 'gpu mine = h100_sxm with { measured = "gemm.csv" }\n'
    assert one(timed(tmp_path, node="h100_8 with { gpu = mine }", before=before)[1]["down"]) == 2e-5


def test_rows_may_say_another_name_that_the_catalog_has(tmp_path):
    write(tmp_path, "gemm.csv", GEMM, DOWN.format(m=16, t=1e-5).replace("h100_sxm", "b200_sxm"))
    (compiled,) = compile_file(plan(tmp_path, 'measured = "gemm.csv"', node="b200_8"))
    assert compiled.spec.node.gpu.name == "b200"
    assert ops_of(compiled)["down"].layer == "measured"


def test_arrays_of_batches_equal_numbers_partly_inside_the_table(tmp_path):
    write(tmp_path, "gemm.csv", GEMM, *(DOWN.format(m=m, t=m * 1e-6) for m in (8, 16, 32)))
    points = ((b, c) for b in (8, 16, 32) for c in (512, 1024))
    write(tmp_path, "d.csv", DECODE, *(f"h100_sxm,bf16,bf16,{b},{c},8,2,128,0,{b * c}e-9\n" for b, c in points))
    (compiled,) = compile_file(plan(tmp_path, 'measured = ["gemm.csv", "d.csv"]'))
    batches = np.array([4, 8, 11, 16, 31, 32, 33, 64])
    many = compiled.cost.evaluate(batch=batches)
    single = [compiled.cost.evaluate(batch=int(b)) for b in batches]
    np.testing.assert_allclose(many.tpot, [float(m.tpot) for m in single], rtol=1e-12)
    np.testing.assert_allclose(many.ttft, [float(m.ttft) for m in single], rtol=1e-12)
    (bare,) = compile_file(plan(tmp_path))
    outside = bare.cost.evaluate(batch=batches).tpot == many.tpot
    assert outside.tolist() == [True, False, False, False, False, False, True, True]


def test_json_says_which_layer_answered(tmp_path, capsys):
    write(tmp_path, "gemm.csv", GEMM, DOWN.format(m=16, t=1.25e-5))
    assert main(["compile", str(plan(tmp_path, 'measured = "gemm.csv"')), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["plans"]
    layers = {o["name"]: o["layer"] for o in found["decode"]["ops"] if o["op"] == "gemm"}
    assert layers == {"qkv": "fitted", "o": "fitted", "gate_up": "fitted", "down": "measured", "head": "fitted"}
    down = next(o for o in found["decode"]["ops"] if o["name"] == "down" and o["op"] == "gemm")
    assert down["band"] == [1.0, 1.0]


# ---- files


def test_paths_start_at_the_file_that_says_them(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", "gemm.csv", GEMM, DOWN.format(m=16, t=1e-5))
    write(tmp_path, "gemm.csv", GEMM, DOWN.format(m=16, t=2e-5))
    gpu = 'let tables = ["gemm.csv"]\ngpu mine = h100_sxm with { measured = %s }\n'
    for said in ('"gemm.csv"', "tables"):
        (tmp_path / "deep" / "gpu.plan").write_text(gpu % said)
        before = 'use "deep/gpu.plan"\n'
        assert one(timed(tmp_path, node="h100_8 with { gpu = mine }", before=before)[1]["down"]) == 1e-5
    (tmp_path / "deep" / "gpu.plan").write_text(gpu % '"../gemm.csv"')
    assert one(timed(tmp_path, node="h100_8 with { gpu = mine }", before=before)[1]["down"]) == 2e-5
    (compiled,) = compile_file(plan(tmp_path), overrides=[("measured", '"deep/gemm.csv"')])
    assert ops_of(compiled)["down"].layer == "measured"


def test_a_table_stays_in_the_tree_of_the_root_file(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    write(tmp_path, "gemm.csv", GEMM)
    write(tree, "gemm.txt", GEMM)
    (tree / "link.csv").symlink_to(tmp_path / "gemm.csv")
    (tree / "folder.csv").mkdir()
    os.mkfifo(tree / "pipe.csv")
    wrong = {
        "../gemm.csv": "is outside the folder", "link.csv": "is outside the folder",
        "/etc/gemm.csv": "must be relative",
        "folder.csv": "is not a regular file", "pipe.csv": "is not a regular file", "absent.csv": "there is no file",
        "gemm.txt": "reads `.csv` files only", "x" * 5000 + ".csv": "there is no file",
    }  # fmt: skip
    for path, why in wrong.items():
        (found,) = told(tree, f'measured = "{path}"')
        assert (found.code, found.span.line, found.span.column) == ("E209", 6, 14)
        assert why in found.message
    assert [d.code for d in told(tree, 'measured = ["absent.csv", "gone.csv"]')] == ["E209", "E209"]
    with pytest.raises(PlanError) as error:
        compile_text(PLAN.format(node="h100_8", batch=1, lines='measured = "gemm.csv"\n'))
    assert [d.code for d in error.value.diagnostics] == ["E209"]


def test_a_file_that_goes_away_is_a_finding(tmp_path):
    write(tmp_path, "gemm.csv", GEMM, DOWN.format(m=16, t=1e-5))
    (compiled,) = compile_file(plan(tmp_path, 'measured = "gemm.csv"'))
    (tmp_path / "gemm.csv").unlink()
    assert [d.code for d in findings(compiled.spec)] == ["E209"]
    with pytest.raises(PlanError, match=r"gemm\.csv"):
        compiled.estimate()


def test_a_file_that_changes_is_read_again(tmp_path):
    file = write(tmp_path, "gemm.csv", GEMM, DOWN.format(m=16, t=1e-5))
    assert one(timed(tmp_path, 'measured = "gemm.csv"')[1]["down"]) == 1e-5
    write(tmp_path, "gemm.csv", GEMM, DOWN.format(m=16, t=2e-5))
    os.utime(file, ns=(1, 1))
    assert one(timed(tmp_path, 'measured = "gemm.csv"')[1]["down"]) == 2e-5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no table of measured kernels has these columns: none"),
        ("gpu,power\nh100_sxm,7\n", "gpu, power"),
        (GEMM + DOWN.format(m=16, t=0), "row 2: `time_s` is `0`"),
        (GEMM + DOWN.format(m=16, t=1e-5) + DOWN.format(m=32, t=-1), "row 3: `time_s` is `-1`"),
        (GEMM + DOWN.format(m=16, t="soon"), "row 2: `time_s` is `soon`"),
        (GEMM + DOWN.format(m=16, t="nan"), "`nan`"),
        (GEMM + DOWN.format(m=16, t="inf"), "`inf`"),
        (GEMM + DOWN.format(m=16, t=""), "row 2: `time_s` is ``"),
        (GEMM + DOWN.format(m=0, t=1e-5), "row 2: `m` is `0`"),
        (GEMM + DOWN.format(m="", t=1e-5), "row 2: `m` is ``"),
        (GEMM + "h100_sxm,bf16,16\n", "row 2 has 3 cells, but the header has 6"),
        (GEMM + '"h100_sxm,bf16,16,4096', "no CSV file"),
        (b"\xff\xfe\x00\x01", "no CSV file"),
        (b"PAR1\x15\x04\x15\x00", "no table"),
        (GEMM + "x" * 200_000 + "\n", "no CSV file"),
        (DECODE + "h100_sxm,bf16,bf16,16,512,8,2,128,-1,1e-5\n", "row 2: `window` is `-1`"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_at_the_name_of_the_file(tmp_path, text, why):
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    (found,) = told(tmp_path, 'measured = "t.csv"')
    assert (found.code, found.span.line, found.span.column, found.span.end_column) == ("E450", 6, 14, 21)
    assert why in found.message
    assert '"t.csv"' in found.message
    assert len(found.message) < 300


def test_check_and_compile_fail_on_a_table_and_show_its_line(tmp_path, capsys):
    write(tmp_path, "t.csv", GEMM, DOWN.format(m=16, t=-1))
    file = str(plan(tmp_path, 'measured = "t.csv"'))
    for command in ("check", "compile"):
        assert main([command, file]) == 2
        shown = "".join(capsys.readouterr())
        assert "E450" in shown
        assert 'measured = "t.csv"' in shown
        assert "`time_s` is a number from 1e-12 to 1,000,000" in shown


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (GEMM.replace("\n", ",act_quant_included\n"), "h100_sxm,bf16,16,4096,3584,1e-5,0"),
        (PREFILL, "h100_sxm,bf16,bf16,16,512,512,8,2,128,0,1,1e-4"),
        (DECODE, "h100_sxm,bf16,bf16,16,512,8,2,128,0,1e-5"),
        (ELEMENTWISE, "h100_sxm,rmsnorm,bf16,16,4096,1e-5"),
        (COLLECTIVES, "h100_sxm,all_reduce,nccl,4,1,131072,0,1e-5"),
    ],
)
def test_a_wrong_number_in_any_column_is_told(tmp_path, header, row):
    columns, cells = header.strip().split(","), row.split(",")
    for at, column in enumerate(columns):
        for cell in ("nan", "inf", "-1", "0", "1e50", "text", ""):
            rows = [row, ",".join([*cells[:at], cell, *cells[at + 1 :]])]
            write(tmp_path, "t.csv", header, *(f"{r}\n" for r in rows))
            found = told(tmp_path, 'measured = "t.csv"')
            sound = (
                column not in NUMBERS
                or (cell == "0" and NUMBERS[column].least == 0)
                or (not cell and column in MAY_BE_EMPTY)
            )
            wanted = [] if sound else [("E450", f'"t.csv" cannot be used: row 3: `{column}` is `{cell}`')]
            assert [(d.code, d.message) for d in found] == wanted, (column, cell)


MAY_BE_EMPTY = {"window", "causal", "act_quant_included", "n_nodes", "cuda_graph"}


def sound_cells(column):
    return ("0",) if NUMBERS[column].least == 0 else ()


def test_a_large_file_is_not_read(tmp_path):
    with write(tmp_path, "t.csv", GEMM).open("ab") as file:
        file.truncate(MAX_TABLE_BYTES + 1)
    (found,) = told(tmp_path, 'measured = "t.csv"')
    assert found.code == "E450"
    assert f"{MAX_TABLE_BYTES:,}" in found.message


def test_rows_of_other_gpus_alone_are_warned_of(tmp_path):
    write(tmp_path, "gemm.csv", GEMM, "a100_sxm,bf16,16,4096,3584,1e-5\n", "b200_sxm,bf16,16,4096,3584,broken\n")
    (found,) = told(tmp_path, 'measured = "gemm.csv"')
    assert (found.code, found.span.line) == ("W206", 6)
    assert "`h100_sxm`" in found.message
    assert found.hint == "its rows are of a100_sxm, b200_sxm"
    assert {o.layer for o in timed(tmp_path, 'measured = "gemm.csv"')[1].values()} == {"fitted"}
    write(tmp_path, "gemm.csv", GEMM)
    (found,) = told(tmp_path, 'measured = "gemm.csv"')
    assert (found.code, found.hint) == ("W206", "it has no rows")


def test_rows_that_no_op_is_like_are_no_mistake(tmp_path):
    write(tmp_path, "gemm.csv", GEMM.replace("\n", ",act_quant_included\n"), "h100_sxm,fp8,16,4096,3584,1e-5,1\n")
    assert told(tmp_path, 'measured = "gemm.csv"') == []


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("8", "E210"), ("gemm", "E210"), ("true", "E210"), ("[8]", "E210"), ('[["a.csv"]]', "E210"),
        ("[{}]".format(", ".join(['"a.csv"'] * (MAX_TABLES + 1))), "E214"),
    ],
)  # fmt: skip
def test_measured_is_a_string_or_a_list_of_them(tmp_path, value, code):
    (found,) = told(tmp_path, f"measured = {value}")
    assert (found.code, found.span.line) == (code, 6)
    (found,) = told(tmp_path, before=f"gpu mine = h100_sxm with {{ measured = {value} }}\n")
    assert (found.code, found.span.line) == (code, 1)
    assert [d.code for d in told(tmp_path, "measured { }")] == ["E210"]


def test_elsewhere_a_name_is_only_a_name(tmp_path):
    before = (
        'calibration c = h100_sxm with { measured = "by us" }\nnode n = h100_8 with { measured = ["a", "b"] }\n'
        'cluster pod { node = n, count = 2, measured = "x"\n'
        "  network { topology = rail, bandwidth = 50 GB/s, latency = 5 us } }\n"
    )
    assert told(tmp_path, "calibration = c", node="n", before=before) == []
    assert [d.code for d in told(tmp_path, before=before.replace('"by us"', "8"))] == ["E210"]


def test_a_plan_with_tables_reads_back(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path, "a.csv", GEMM, DOWN.format(m=16, t=1e-5))
    write(tmp_path / "deep", "b.csv", GEMM, DOWN.format(m=16, t=2e-5))
    before = 'gpu base = h100_sxm\ngpu mine = base with { measured = ["a.csv", "deep/b.csv"] }\n'
    file = plan(tmp_path, 'measured = "deep/b.csv"', node="h100_8 with { gpu = mine }", before=before)
    (compiled,) = compile_file(file)
    text = show_plan(compiled.spec)
    assert 'measured = ["a.csv", "deep/b.csv"]' in text
    (again,) = compile_text(text, str(file))
    assert again.spec.measured == compiled.spec.measured
    gpu, first = again.spec.node.gpu, compiled.spec.node.gpu
    assert (gpu.name, gpu.bases, gpu.measured) == (first.name, first.bases, first.measured)
    assert gpu.bases == ("base", "h100_sxm")
    assert again.estimate().tpot_s == compiled.estimate().tpot_s


# ---- what it costs


def test_kinds_of_tables_are_those_of_the_calibration():
    columns = {(kind.name, frozenset(kind.columns)) for kind in KINDS}
    assert columns >= {(name, frozenset(sort.columns)) for name, sort in SORTS.items()}


def test_numbers_load_neither_numpy_nor_tables_where_none_is_named(tmp_path):
    write(tmp_path, "gemm.csv", GEMM, *(DOWN.format(m=m, t=m * 1e-6) for m in (8, 16, 32)))
    code = "import sys; from plandsl.cli import main; main(sys.argv[1:]); print('|', *sys.modules)"
    for lines, loads in (((), False), (('measured = "gemm.csv"',), True)):
        command = [sys.executable, "-c", code, "compile", str(plan(tmp_path, *lines))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        modules = done.stdout.rpartition("|")[2].split()
        assert "numpy" not in modules
        assert (attach.__module__ in modules, "csv" in modules) == (loads, loads)


def test_another_batch_takes_no_longer_than_some_without_tables(tmp_path):
    write(tmp_path, "gemm.csv", GEMM, *(DOWN.format(m=2**i, t=2**i * 1e-6) for i in range(14)))
    rows = [f"h100_sxm,bf16,bf16,{2**b},{2**c},8,2,128,0,{2 ** (b + c)}e-9\n" for b in range(9) for c in range(16)]
    write(tmp_path, "d.csv", DECODE, *rows)
    (compiled,) = compile_file(plan(tmp_path, 'measured = ["gemm.csv", "d.csv"]'))
    bare = compiled.cost.on(without_tables(compiled.spec))

    def seconds(model):
        """Seconds of the processor for many batches, once they are answered by straight code."""
        times = []
        for _ in range(5):
            start = time.process_time()
            for batch in range(1, 40):
                model.evaluate(batch=batch)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(compiled.cost) < 10 * seconds(bare)


def test_straight_code_looks_into_tables_too(tmp_path):
    """Sizes that a table has, that lie between, and that it lacks; attention in both phases."""
    write(tmp_path, "gemm.csv", GEMM, *(DOWN.format(m=m, t=t) for m, t in ((16, 1e-5), (32, 3e-5), (8192, 2e-3))))
    row = "h100_sxm,bf16,bf16,{b},{n},{n},8,2,128,0,1,{t}\n"
    write(tmp_path, "prefill.csv", PREFILL, *(row.format(b=b, n=512, t=b * 1e-4) for b in (1, 2, 4, 8, 16)))
    row = "h100_sxm,bf16,bf16,{b},{n},8,2,128,0,{t}\n"
    pairs = [(b, n) for b in (1, 4, 16) for n in (256, 512, 1024)]
    write(tmp_path, "decode.csv", DECODE, *(row.format(b=b, n=n, t=1e-5 + b * n * 1e-9) for b, n in pairs))
    (made,) = compile_file(plan(tmp_path, 'measured = ["gemm.csv", "prefill.csv", "decode.csv"]'))
    asked = [(b, i, o) for b in (1, 3, 16, 20, 500) for i in (300, 512) for o in (1, 65)]
    slow = [made.cost.together(*way)[:9] for way in asked]
    straight = trace(made.cost.together, "b", "i", "o")
    for _ in range(0, HOT, len(asked)):  # played, and compiled in the end
        assert [straight(*way)[:9] for way in asked] == slow
    bare = made.cost.on(without_tables(made.spec))
    assert bare.evaluate(16, 512, 65).ttft != made.cost.evaluate(16, 512, 65).ttft
