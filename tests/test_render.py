import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import fromstring

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost import Replicas, Single, estimate
from plandsl.backends.cost.deployments.batch import decode_step
from plandsl.backends.cost.time.phase import play, play_slots
from plandsl.backends.cost.time.pipeline import play_pipeline, play_sends
from plandsl.backends.graphviz import PHASES, VIEWS, draw, write
from plandsl.backends.graphviz.canvas import Canvas
from plandsl.backends.graphviz.fonts import fit, text_width
from plandsl.backends.graphviz.write import PYGRAPHVIZ, failure_reason, render
from plandsl.cli import main
from plandsl.codes_render import RENDER_CODES
from plandsl.diagnostics import PlanError
from plandsl.ir.base import COMPUTE, LINK
from plandsl.ir.schedule import Slot
from plandsl.passes import compile_phase
from plandsl.spec.hardware import CalibrationSpec, GpuSpec, LinkSpec, NodeSpec
from plandsl.spec.model import Apply, BlockSpec, ModelSpec, Statement, Var, Weight
from plandsl.spec.plan import AxisSpec, PlanSpec, RuleSpec, ShardingSpec, WorkloadSpec

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="about the program dot, which is not here")
needs_pygraphviz = pytest.mark.skipif(
    importlib.util.find_spec("pygraphviz") is None, reason="about pygraphviz, which is not here"
)

ENGINES = {"dot": ["dot", "-Tsvg"], "pygraphviz": [sys.executable, "-c", PYGRAPHVIZ, "svg"]}
"""Both ways to draw, as commands from DOT text to SVG."""

GOLDEN = Path(__file__).parent / "golden" / "render"


# ---- plans


def matmul(x: str | Apply, name: str, *dims: str) -> Apply:
    return Apply("matmul", (Var(x) if isinstance(x, str) else x, Weight(name, dims)))


def statements() -> tuple[Statement, ...]:
    h = Statement("h", Apply("rms_norm", (Var("x"),)))
    gate = Apply("silu", (matmul("h", "w_gate", "hidden", "ffn"),))
    return (
        h,
        Statement("q", Apply("rope", (matmul("h", "w_q", "hidden", "heads", "head_dim"),))),
        Statement("k", Apply("rope", (matmul("h", "w_k", "hidden", "kv_heads", "head_dim"),))),
        Statement("v", matmul("h", "w_v", "hidden", "kv_heads", "head_dim")),
        Statement("a", Apply("attention", (Var("q"), Var("k"), Var("v")))),
        Statement("x", Apply("add", (Var("x"), matmul("a", "w_o", "heads", "head_dim", "hidden")))),
        h,
        Statement("g", Apply("mul", (gate, matmul("h", "w_up", "hidden", "ffn")))),
        Statement("x", Apply("add", (Var("x"), matmul("g", "w_down", "ffn", "hidden")))),
    )


def model(layers: int, name: str = "tiny", kinds: int = 1) -> ModelSpec:
    sizes = {"hidden": 1024, "heads": 16, "kv_heads": 4, "head_dim": 64, "ffn": 4096, "vocab": 32000}
    cuts = [layers * k // kinds for k in range(kinds + 1)]
    names = [""] if kinds == 1 else [f"kind{k}" for k in range(kinds)]
    blocks = (BlockSpec(n, (cuts[k], cuts[k + 1]), "x", statements()) for k, n in enumerate(names))
    head = matmul(Apply("rms_norm", (Var("x"),)), "w_head", "hidden", "vocab")
    embedding = Weight("w_embed", ("vocab", "hidden"))
    return ModelSpec(
        name,
        layers,
        sizes=tuple(sizes.items()),
        weights="bf16",
        activations="bf16",
        kv_cache="bf16",
        compute=None,
        embedding=embedding,
        blocks=tuple(blocks),
        head=head,
    )


GPU = GpuSpec("gpu_64", 64e9, 2e12, (("bf16", 500e12),))
NODE = NodeSpec("box_8", GPU, 8, LinkSpec("mesh", 50e9, 2e-6))
CALIBRATION = CalibrationSpec("c", (("gemm", 0.5), ("hbm", 0.8), ("link", 0.75), ("launch", 3e-6)))
SPLIT = ("heads", "kv_heads", "ffn", "vocab")


def sharding(tp: int = 1, pp: int = 1, dp: int = 1, sp: int = 1) -> ShardingSpec:
    degrees = {"data": dp, "stage": pp, "seq": sp, "tensor": tp}
    rules = []
    if pp > 1:
        rules.append(RuleSpec(("layers",), ("stage",)))
    if tp > 1:
        rules.append(RuleSpec(SPLIT, ("tensor",)))
    if sp > 1:
        rules.append(RuleSpec(("tokens",), ("seq",)))
        both = ("tensor", "seq") if tp > 1 else ("seq",)
        rules.append(RuleSpec(("heads", "kv_heads"), both, "attention"))
    axes = tuple(AxisSpec(n, s) for n, s in degrees.items() if s > 1)
    return ShardingSpec("s", axes, tuple(rules), ("data",) if dp > 1 else ())


def plan(
    *,
    layers: int = 8,
    batch: int = 16,
    node: NodeSpec = NODE,
    name: str = "serve",
    in_flight: int | None = None,
    kinds: int = 1,
    model_name: str = "tiny",
    **degrees: int,
) -> PlanSpec:
    load = WorkloadSpec("w", 1000, 200, batch, in_flight)
    return PlanSpec(
        name,
        model(layers, model_name, kinds),
        node=node,
        sharding=sharding(**degrees),
        workload=load,
        calibration=CALIBRATION,
    )


def compiled(spec: PlanSpec) -> Replicas:
    one = Single(spec, compile_phase(spec, "prefill"), compile_phase(spec, "decode"))
    return Replicas(spec.sharding.replicas, one)


def drawn(spec: PlanSpec, view: str, phase: str = "prefill") -> str:
    cost = compiled(spec)
    return draw(view, cost, estimate(cost), phase)


CASES = {
    "one": plan(),
    "tensor": plan(tp=4),
    "hybrid": plan(tp=2, pp=2, layers=5),
    "replicas": plan(tp=2, pp=2, dp=2),
    "ulysses": plan(sp=4, tp=2, batch=4),
    "full": plan(tp=2, pp=2, batch=4000),
    "two_kinds": plan(kinds=2, pp=2),
}


# ---- what is on the sheet


class Shape(NamedTuple):
    """A box of the DOT text in points; y grows upwards."""

    name: str
    left: float
    right: float
    bottom: float
    top: float
    look: str


SHAPE = re.compile(r'  "((?:[^"\\]|\\.)*)" \[pos="([-\d.]+),([-\d.]+)", width=([\d.]+), height=([\d.]+)(.*)\]')


def shapes(dot: str) -> list[Shape]:
    found = []
    for m in SHAPE.finditer(dot):
        x, y, w, h = (float(m[i]) for i in (2, 3, 4, 5))
        found.append(Shape(m[1], x - 36 * w, right=x + 36 * w, bottom=y - 36 * h, top=y + 36 * h, look=m[6]))
    return found


def boxes(dot: str, pattern: str) -> list[tuple[re.Match[str], Shape]]:
    every = [(re.fullmatch(pattern, s.name), s) for s in shapes(dot) if "plaintext" not in s.look]
    return [(m, s) for m, s in every if m]


# ---- goldens


@pytest.mark.parametrize(
    "case",
    [
        "devices-one-prefill",
        "devices-hybrid-prefill",
        "devices-ulysses-decode",
        "block-hybrid-prefill",
        "block-one-decode",
        "timeline-tensor-prefill",
        "timeline-hybrid-prefill",
        "timeline-hybrid-decode",
        "memory-hybrid-prefill",
        "memory-full-prefill",
    ],
)
def test_golden_pictures(case: str, request: pytest.FixtureRequest) -> None:
    view, name, phase = case.split("-")
    dot, path = drawn(CASES[name], view, phase), GOLDEN / f"{case}.dot"
    if request.config.getoption("--update-golden", default=False):
        path.write_text(dot, encoding="utf-8")
    assert dot == path.read_text(encoding="utf-8")


# ---- every picture


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("case", CASES)
def test_pictures_are_legible_and_inside_their_sheet(case: str, view: str, phase: str) -> None:
    dot = drawn(CASES[case], view, phase)
    sizes = [float(s) for s in re.findall(r"fontsize=([\d.]+)", dot)]
    assert min(sizes) >= 10
    size = re.search(r"// ([\d.]+) x ([\d.]+) points", dot)
    assert size
    width, height = float(size[1]), float(size[2])
    assert 1000 <= width <= 2100
    assert height <= (1700 if case == "two_kinds" else 1300)
    for s in shapes(dot):
        assert s.left >= -1
        assert s.right <= width + 1
        assert s.bottom >= -1
        assert s.top <= height + 1
    names = [s.name for s in shapes(dot)]
    assert len(names) == len(set(names))
    assert "None" not in dot
    assert not re.search(r'label="(\\[lr])?"', dot.partition("  edge [")[2])


@pytest.mark.parametrize("view", VIEWS)
def test_drawing_is_deterministic(view: str) -> None:
    assert drawn(CASES["hybrid"], view) == drawn(CASES["hybrid"], view)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.usefixtures("drawing")
def test_names_are_escaped_and_cut(view: str) -> None:
    node = evolve(NODE, name='box "8" \\N <b>&amp;\n' + "n" * 300)
    spec = plan(tp=2, name='"><script> & \\l' + "p" * 300, model_name="m" * 300 + "<", node=node)
    dot = drawn(spec, view)
    assert all(s.right <= 2100 for s in shapes(dot))
    svg = fromstring(render(dot, "svg"))
    words = " ".join(t.text or "" for t in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert '"><script> & \\l' in words.replace("\N{NO-BREAK SPACE}", " ")
    assert view != "devices" or 'box "8" \\N <b>&amp; nnn' in words.replace("\N{NO-BREAK SPACE}", " ")


FOLDED = {
    "devices": ["56 more stages", "stage 8 to 63, 224 GPUs of each replica", "7 more replicas"],
    "communication": ["a row or a column is 256 GPUs"],
    "timeline": ["16 of 500 batches in flight are drawn", "stages 11 to 62 are not drawn"],
    "block": [],
    "memory": [],
}
"""What is said of a large plan where only a part of it is drawn."""


@pytest.mark.parametrize("view", VIEWS)
def test_large_plans_are_folded(view: str) -> None:
    node = NodeSpec("hall", GPU, 4096, LinkSpec("switch", 50e9, 2e-6))
    spec = plan(tp=4, pp=64, dp=8, layers=128, node=node, in_flight=500)
    for phase in PHASES:
        dot = drawn(spec, view, phase)
        assert len(shapes(dot)) < 2500
        assert all(words in dot for words in FOLDED[view])


def test_unknown_views_and_phases_are_diagnosed() -> None:
    cost = compiled(CASES["one"])
    for view, phase in (("device", "prefill"), ("block", "pre")):
        with pytest.raises(PlanError) as caught:
            draw(view, cost, estimate(cost), phase)
        (found,) = caught.value.diagnostics
        assert found.code == "E432"
        assert "did you mean `devices`?" in found.hint or "did you mean `prefill`?" in found.hint


# ---- devices


@pytest.mark.parametrize("case", [c for c in CASES if c != "two_kinds"])
def test_every_gpu_is_drawn_once(case: str) -> None:
    dot = drawn(CASES[case], "devices")
    cards = [int(m[1]) for m, _ in boxes(dot, r"GPU (\d+)")]
    assert sorted(cards) == list(range(8))
    idle = [int(m[1]) for m, s in boxes(dot, r"GPU (\d+)") if "dashed" in s.look]
    assert sorted(idle) == list(range(CASES[case].sharding.ranks, 8))


def test_cards_do_not_overlap() -> None:
    for case in CASES.values():
        cards = [s for _, s in boxes(drawn(case, "devices"), r"GPU \d+")]
        for i, a in enumerate(cards):
            for b in cards[i + 1 :]:
                apart = a.right <= b.left or b.right <= a.left or a.top <= b.bottom or b.top <= a.bottom
                assert apart, (a.name, b.name)


def test_memory_bars_are_to_scale() -> None:
    for case in CASES.values():
        cost = compiled(case)
        e = estimate(cost)
        dot = draw("devices", cost, e)
        stages = len(e.stages)
        for m, whole in boxes(dot, r"GPU (\d+): memory"):
            rank = int(m[1])
            stage = rank // max(1, case.sharding.axis("tensor") * case.sharding.axis("seq")) % stages
            held = e.stages[stage]
            (weights,) = (s for n, s in boxes(dot, rf"GPU {rank}: weights"))
            scale = max(held.total, held.capacity)
            share = (weights.right - weights.left) / (whole.right - whole.left)
            assert share == pytest.approx(held.weights / scale, abs=0.002)
            parts = [s for _, s in boxes(dot, rf"GPU {rank}: (weights|KV cache|activations|buffers)")]
            assert all(p.right <= whole.right + 0.1 for p in parts)


# ---- timeline


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("flights", [1, 2, 7, 40])
def test_batches_of_a_stage_do_not_overlap(flights: int, phase: str) -> None:
    dot = drawn(plan(pp=4, in_flight=flights), "timeline", phase)
    lanes: dict[int, list[tuple[float, float, int]]] = {}
    for m, s in boxes(dot, r"stage (\d+): batch (\d+), .*"):
        lanes.setdefault(int(m[1]), []).append((s.left, s.right, int(m[2])))
    assert sorted(lanes) == [0, 1, 2, 3]
    for lane in lanes.values():
        lane.sort()
        assert all(b[0] >= a[1] - 0.1 for a, b in pairwise(lane))
        if phase == "prefill":
            assert [b for _, _, b in lane] == list(range(min(flights, 16)))


def test_decode_shows_each_batch_for_as_long_as_one_step_of_it() -> None:
    spec = plan(pp=4, tp=2)
    cost = compiled(spec)
    dot = draw("timeline", cost, estimate(cost), "decode")
    decode = decode_step(cost.one, 16, 1000, 200)
    spans: dict[tuple[int, int], float] = {}
    for m, s in boxes(dot, r"stage (\d+): batch (\d+), .*"):
        key = (int(m[1]), int(m[2]))
        spans[key] = spans.get(key, 0.0) + s.right - s.left
    assert sorted(spans) == [(s, b) for s in range(4) for b in range(4)]
    for (stage, _), width in spans.items():
        assert width == pytest.approx(1000.0 * decode.stages[stage].span / decode.period, rel=0.02)


def test_ops_of_one_layer_fill_the_layer() -> None:
    dot = drawn(CASES["tensor"], "timeline")
    kernels = sorted((s.left, s.right) for _, s in boxes(dot, r"(gemm|norm|elementwise|attention)\b.*: .*"))
    links = [s for _, s in boxes(dot, r"all_reduce .*: .*")]
    assert len(links) == 2
    assert all(b[0] >= a[1] - 0.1 for a, b in pairwise(kernels))
    covered = sum(b - a for a, b in kernels) + sum(s.right - s.left for s in links)
    assert covered == pytest.approx(1090, abs=1)


# ---- block


def test_block_shows_local_shapes_of_both_phases() -> None:
    prefill, decode = (drawn(CASES["tensor"], "block", p) for p in PHASES)
    assert "q bf16 [tokens 16000, heads 4, head_dim 64]" in prefill
    assert "q bf16 [tokens 16, heads 4, head_dim 64]" in decode
    assert "keys bf16 [batch 16, context 1100, kv_heads 1, head_dim 64]" in decode
    assert "w_gate bf16 [hidden 1024, ffn 1024]" in prefill


def test_every_kind_of_block_has_a_frame_of_its_own() -> None:
    dot = drawn(CASES["two_kinds"], "block")
    frames = [s.name for s in shapes(dot)]
    for name in ("embedding", "block.kind0", "block.kind1", "head"):
        assert any(f == name or f.endswith(name.rpartition(".")[2]) for f in frames), frames


# ---- the play


seconds = st.floats(1e-6, 10.0)
pipelines = st.tuples(st.lists(seconds, min_size=1, max_size=6), st.one_of(st.just(0.0), seconds), st.integers(1, 9))


@given(pipelines, st.integers(2, 5))
def test_a_pipeline_settles_at_its_period(pipeline: tuple[list[float], float, int], rounds: int) -> None:
    stages, hop, batches = pipeline
    runs = play_pipeline(stages, hop, batches, rounds)
    ends = {(r.batch, r.round): r.end for r in runs if r.stage == len(stages) - 1}
    through = sum(stages) + (len(stages) - 1) * hop
    slowest = max(*stages, hop if len(stages) > 1 else 0.0)
    for batch in range(batches):
        period = ends[batch, rounds - 1] - ends[batch, rounds - 2]
        assert period == pytest.approx(max(through, batches * slowest))


@given(pipelines)
def test_nobody_does_two_things_at_once(pipeline: tuple[list[float], float, int]) -> None:
    stages, hop, batches = pipeline
    runs = play_pipeline(stages, hop, batches, 3)
    sends = play_sends(runs, hop)
    assert len(runs) == 3 * batches * len(stages)
    assert len(sends) == 3 * batches * (len(stages) - 1)
    starts = {(r.stage, r.batch, r.round): r.start for r in runs}
    for lane in (runs, sends):
        for stage in range(len(stages)):
            turns = [r for r in lane if r.stage == stage]
            assert all(b.start >= a.end for a, b in pairwise(turns))
    for send in sends:
        assert starts[send.stage + 1, send.batch, send.round] >= send.end


def test_slots_end_when_the_cost_model_says() -> None:
    slots = [Slot(0, COMPUTE, ()), Slot(1, LINK, (0,)), Slot(2, COMPUTE, (0,)), Slot(3, COMPUTE, (1,))]
    times = play_slots(slots, [2.0, 5.0, 1.0, 3.0])
    assert times == [(0.0, 2.0), (2.0, 7.0), (2.0, 3.0), (7.0, 10.0)]
    assert max(end for _, end in times) == play(slots, [2.0, 5.0, 1.0, 3.0]).span


# ---- text


@given(st.text(), st.floats(1, 300))
def test_fitted_text_fits(text: str, width: float) -> None:
    shown = fit(text, width, 12)
    assert shown == text or text_width(shown, 12) <= width or len(shown) <= 1


# ---- files


MAGIC = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF", ".dot": b"digraph"}
BARE = 'digraph "t" {\n  graph [layout=nop2]\n  a [pos="10,10"]\n}\n'


def hide_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")


def hide_pygraphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def failure(act: Callable[[], None]) -> tuple[str, str]:
    with pytest.raises(PlanError) as caught:
        act()
    (found,) = caught.value.diagnostics
    assert "\n" not in found.message
    return found.code, f"{found.message}; {found.hint}"


@pytest.mark.parametrize("suffix", MAGIC)
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.usefixtures("drawing")
def test_each_suffix_gives_its_kind_of_file(suffix: str, upper: bool, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix.upper() if upper else suffix}"
    write(drawn(CASES["hybrid"], "devices"), path)
    data = path.read_bytes()
    assert data.startswith(MAGIC[suffix])
    assert len(data) > 1000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "engine", [pytest.param("dot", marks=needs_dot), pytest.param("pygraphviz", marks=needs_pygraphviz)]
)
def test_both_engines_draw_every_view_without_a_warning(engine: str) -> None:
    for case in CASES.values():
        for view in VIEWS:
            for phase in PHASES:
                text = drawn(case, view, phase).encode()
                done = subprocess.run(ENGINES[engine], input=text, capture_output=True, check=True)
                said = [line for line in done.stderr.decode().splitlines() if "Fontconfig" not in line]
                assert (said, b"</svg>" in done.stdout) == ([], True)


@pytest.mark.parametrize(
    "engine", [pytest.param("dot", marks=needs_dot), pytest.param("pygraphviz", marks=needs_pygraphviz)]
)
@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_each_engine_draws_by_itself(engine: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hide_dot if engine == "pygraphviz" else hide_pygraphviz)(monkeypatch)
    path = tmp_path / f"out{suffix}"
    write(drawn(CASES["one"], "memory"), path)
    assert path.read_bytes().startswith(MAGIC[suffix])


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("node", ["h100_1", "h100_8"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_plan_on_one_gpu_is_drawn(node: str, view: str, tmp_path: Path) -> None:
    text = f"plan p {{ model = llama_3_1_8b, node = {node}, workload {{ input = 512, output = 64, batch = 4 }} }}\n"
    (tmp_path / "p.plan").write_text(text)
    for phase in PHASES:
        out = tmp_path / f"{phase}.svg"
        assert main(["render", str(tmp_path / "p.plan"), "--view", view, "--phase", phase, "-o", str(out)]) == 0
        assert out.read_text().rstrip().endswith("</svg>")


def test_an_empty_line_of_text_is_no_shape() -> None:
    canvas = Canvas("t")
    for text in ("", " ", "\n"):
        canvas.text(10, 10, text, align="r", width=50)
    assert shapes(canvas.dot()) == []


@pytest.mark.usefixtures("drawing")
def test_a_warning_is_no_failure() -> None:
    node = 'a [pos="9,9", width=0.1, height=0.1, fixedsize=true, label="far too long"]'
    assert b"far too long" in render(f'digraph "t" {{ graph [layout=nop2]; {node} }}', "svg")


@pytest.mark.parametrize(
    ("status", "said", "reason"),
    [
        (
            1,
            b"Warning: a\nError: <stdin>: syntax error in line 1\nWarning: b\n",
            "Error: <stdin>: syntax error in line 1",
        ),
        (1, b"Warning: size too small for label\n", "exit status 1"),
        (-11, b"Fontconfig warning: c\n", "signal 11"),
        (3, b"", "exit status 3"),
    ],
)
def test_a_failure_is_told_by_its_error_and_not_by_a_warning(status: int, said: bytes, reason: str) -> None:
    assert failure_reason(subprocess.CalledProcessError(status, "dot", stderr=said)) == reason


def test_without_graphviz_one_line_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_dot(monkeypatch)
    hide_pygraphviz(monkeypatch)
    code, text = failure(lambda: write(BARE, tmp_path / "out.svg"))
    assert code == "E430"
    assert "`dot`" in text
    assert "pygraphviz" in text
    write(BARE, tmp_path / "out.dot")
    assert [p.name for p in tmp_path.iterdir()] == ["out.dot"]


@pytest.mark.parametrize("name", ["out.jpeg", "out", "out.svg.gz", ".svg"])
def test_unknown_suffixes_name_the_four(name: str, tmp_path: Path) -> None:
    code, text = failure(lambda: write(BARE, tmp_path / name))
    assert code == "E431"
    assert all(s in text for s in MAGIC)


def test_a_place_that_cannot_be_written_is_diagnosed(tmp_path: Path) -> None:
    (tmp_path / "folder.dot").mkdir()
    (tmp_path / "file").write_text("")
    for path in ("missing/out.svg", "missing/out.dot", "folder.dot", "file/out.dot", "n" * 300 + ".dot", "\0.dot"):
        assert failure(lambda path=path: write(BARE, tmp_path / path))[0] == "E433"  # type: ignore[misc]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.dot"]


@pytest.mark.usefixtures("drawing")
def test_a_failure_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.svg"
    path.write_text("old")
    assert failure(lambda: write("digraph {", path))[0] == "E434"
    assert failure(lambda: write(BARE, path, limit=1e-6))[0] == "E434"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("out.svg", "old")]


def test_every_code_is_explained() -> None:
    source = "".join(p.read_text() for p in (Path(__file__).parents[1] / "backends" / "graphviz").glob("*.py"))
    assert set(re.findall(r'"(E4\d\d)"', source)) == set(RENDER_CODES)
    assert all(title and text and fix for title, text, _, fix in RENDER_CODES.values())
