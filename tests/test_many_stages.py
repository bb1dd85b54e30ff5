"""Stages that are alike are worked out once, however many there are, and layers that differ cost no square."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from plandsl.backends.cost.answers import flows, short
from plandsl.backends.cost.deployments.contents import Contents
from plandsl.backends.cost.deployments.memory import ProgramMemory
from plandsl.backends.cost.time import phase
from plandsl.backends.report import timeline
from plandsl.cli import main
from plandsl.driver import compile_text
from plandsl.passes.cut_stages import split_layers

PLAN = """
model m {
  layers = STAGES, hidden = 64, heads = 4, kv_heads = 4, head_dim = 16, ffn = 128, vocab = 256
  weights = bf16, activations = bf16, kv_cache = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    k = h @ w_k[hidden, kv_heads, head_dim]
    a = attention(h @ w_q[hidden, heads, head_dim], k, k)
    x = x + a @ w_o[heads, head_dim, hidden]
    x = x + silu(x @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  head x @ w_head[hidden, vocab]
}
node n { gpu = h100_sxm, count = STAGES, link { topology = switch, bandwidth = 450 GB/s, latency = 2 us } }
plan p { model = m, node = n, sharding { pp = STAGES }, workload { input = 64, output = 8, batch = 4 } }
"""


FEW_LAYERS = """
  block b{i} [layers = {i}..{end}] x[tokens, hidden] {{
    k = x @ w_k[hidden, kv_heads, head_dim]
    a = attention(x @ w_q[hidden, heads, head_dim], k, k, window = {window})
    x = x + a @ w_o[heads, head_dim, hidden]
  }}"""


def asked(stages: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often an explanation of a plan on ``stages`` stages asks for the bytes of a stage, and plays a region."""
    found = {"held": 0, "play": 0, "adapters_of": 0}
    held, play, adapters_of = ProgramMemory.held, phase.play, Contents.adapters_of

    def count_held(*args: object) -> object:
        found["held"] += 1
        return held(*args)  # type: ignore[arg-type]

    def count_play(*args: object) -> object:
        found["play"] += 1
        return play(*args)  # type: ignore[arg-type]

    def count_adapters(*args: object) -> object:
        found["adapters_of"] += 1
        return adapters_of(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Contents, "adapters_of", count_adapters)
        patch.setattr(ProgramMemory, "held", count_held)
        patch.setattr(phase, "play", count_play)
        (made,) = compile_text(PLAN.replace("STAGES", str(stages)))
        made.explain()
    return found


def test_an_explanation_asks_a_hundred_stages_no_more_than_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = asked(10, monkeypatch), asked(100, monkeypatch)
    assert many["play"] == few["play"]
    assert many["adapters_of"] == few["adapters_of"]
    assert many["held"] < 1.5 * few["held"]  # a bisection for the largest batch may take a step more


def test_stages_that_differ_are_told_apart() -> None:
    """The first of four stages has the embedding, the last the head; the two between them hold and take the same."""
    (made,) = compile_text(PLAN.replace("STAGES", "4"))
    memory = made.cost.pools[0].one.memory
    assert memory.first_alike == [0, 1, 1, 3]
    found = made.estimate()
    assert found.stages[1] == found.stages[2] != found.stages[3]
    assert list(made.cost.pools[0].main.decode.alike.values()) == [[0], [1, 2], [3]]


def test_flows_look_at_each_group_once_for_all_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = [0, 0]
    of_mesh = flows.groups

    def count_groups(*args: object) -> Iterator[range]:
        for group in of_mesh(*args):  # type: ignore[arg-type]
            looked[-1] += 1
            yield group

    monkeypatch.setattr(flows, "groups", count_groups)
    for at, stages in enumerate((4, 8)):
        text = PLAN.replace("STAGES", str(stages)).replace(f"count = {stages},", f"count = {2 * stages},")
        (made,) = compile_text(text.replace(f"pp = {stages}", f"pp = {stages}, tp = 2"))
        looked[-1] = 0
        assert flows.flows(made.cost)
        looked[at] = looked[-1]
    assert looked[1] == 2 * looked[0] > 0


def test_more_replicas_than_a_moment_serves_are_left_to_a_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """plan p { model = llama_3_2_1b, node = h100_2, engine = vllm, sharding { dp = 2 }
      workload { input = 99, output = 9, rate = 1 req/s, requests = 50 } }"""
    assert compile_text(text)[0].estimate().simulated is not None
    monkeypatch.setattr(short, "MOST_SERVERS", 1)
    found = compile_text(text)[0].estimate()
    assert found.simulated is None
    assert any("it takes long, see `planc simulate`" in note.message for note in found.notes)


class Starts(list[int]):
    """Layers at which stages may start; it counts how often one is looked at."""

    looked = 0

    def __getitem__(self, at):  # type: ignore[no-untyped-def]
        self.looked += 1
        return super().__getitem__(at)

    def __iter__(self) -> Iterator[int]:
        self.looked += len(self)
        return super().__iter__()


def test_a_cut_into_many_stages_looks_at_few_layers_for_each() -> None:
    starts = Starts(range(1024))
    assert split_layers(1024, 1024, starts) == split_layers(1024, 1024)
    assert starts.looked < 40 * 1024


@pytest.mark.parametrize("seed", range(20))
def test_each_stage_starts_at_the_nearest_layer_that_leaves_one_for_each_later_stage(seed: int) -> None:
    rng = random.Random(seed)
    layers = rng.randint(1, 40)
    starts = sorted({0, *rng.sample(range(layers), rng.randint(0, layers - 1))})
    stages = rng.randint(1, len(starts))
    each, more = divmod(layers, stages)
    at = 0
    for i, (start, _) in enumerate(split_layers(layers, stages, starts)[1:], 1):
        later = [n for n in starts if n > at]
        wish = i * each + min(i, more)
        assert start == min(later[: len(later) - (stages - 1 - i)], key=lambda n: abs(n - wish))
        at = start


def test_a_mean_over_contexts_is_cut_at_the_windows_among_them() -> None:
    """Each cut asks all ops of attention three more times: with a window in each layer that would be the square."""
    blocks = "".join(FEW_LAYERS.format(i=i, end=i + 1, window=100 + i) for i in range(60))
    text = PLAN.replace("STAGES", "60").replace("pp = 60", "tp = 1")
    start, end = text.index("  block"), text.index("  head")
    (made,) = compile_text(text[:start] + blocks + "\n" + text[end:])
    model = made.cost.pools[0].main.decode
    assert len(model.windows) == 60
    assert len(model.contexts(1000, 2000)) == len(model.contexts(10, 90)) == 3
    assert len(model.contexts(109.5, 110.5)) <= 6
    assert len(model.contexts(1, 1000)) <= 3 * (phase.MOST_CUTS + 1)
    assert sum(weight for weight, _ in model.contexts(1, 1000)) == pytest.approx(1)


def test_many_contexts_asked_at_once_give_the_times_of_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = "".join(FEW_LAYERS.format(i=i, end=i + 1, window=100 + i) for i in range(12))
    text = PLAN.replace("STAGES", "12").replace("pp = 12", "pp = 3")
    start, end = text.index("  block"), text.index("  head")
    (made,) = compile_text(text[:start] + blocks + "\n" + text[end:])
    model = made.cost.pools[0].main.decode
    contexts, bind = model.contexts(50.5, 150.5), {"batch": 4, "context": 100, "queries": 1}
    assert len(contexts) > phase.AT_ONCE
    others = model, model.on([model.machine])
    at_once = [other.at(bind, 2, contexts) for other in others]
    monkeypatch.setattr(phase, "AT_ONCE", 1000)
    assert at_once == [other.at(bind, 2, contexts) for other in others]


def test_timelines_of_many_passes_are_not_played(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.plan").write_text(PLAN.replace("STAGES", "8"))
    page, trace = tmp_path / "p.html", tmp_path / "p.json"
    monkeypatch.setattr(timeline, "MOST_PLAYED", 63)
    assert main(["report", str(tmp_path / "p.plan"), "-o", str(page)]) == 0
    assert "No timeline is drawn: the trace has 64 passes of batches through stages" in page.read_text()
    export = ["export", str(tmp_path / "p.plan"), "--to", "perfetto", "-o", str(trace)]
    assert main([*export, "--max", "trace_passes=127"]) == 2
    told = capsys.readouterr().err
    assert "error[E511]: the trace has 128 passes of batches through stages" in told
    assert "or raise the limit: `planc ... --max trace_passes=128`" in told
    assert not trace.exists()
