"""Launch files of engines: what a plan becomes, what an engine cannot do, and what comes back."""

from __future__ import annotations

import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plandsl.backends.engines.commands import CONNECTOR
from plandsl.backends.engines.flags import FLAGS, OTHER, find_flag
from plandsl.backends.engines.manifests import write_dynamo, write_k8s
from plandsl.backends.engines.modules import merged_modules
from plandsl.backends.engines.plans import deploy
from plandsl.backends.engines.scripts import write_script
from plandsl.backends.engines.server import Deployment, Server
from plandsl.cli import main
from plandsl.commands.import_ import _plan, _read
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_file, compile_text
from plandsl.spec.scheduler import SCHEDULERS, SchedulerName

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
RECORDED = ROOT / "backends" / "engines" / "recorded"
OLD = {
    "vllm": {
        "disable-log-requests",
        "swap-space",
        "calculate-kv-scales",
        "disaggregation-mode",
    },  # the last is Dynamo's
    "sglang": {
        "enable-dp-attention",
        "tool-call-parser",
        "reasoning-parser",
        "disable-cuda-graph",
        "cuda-graph-max-bs",
    },
}
"""Flags of earlier releases, which command lines still have."""


def deployed(text: str, engine: SchedulerName, name: str = "") -> Deployment:
    plan = compile_text(text, plan=name or None)[0]
    return deploy(plan.spec, engine, plan.closed_form(), plan.sources)


def of_example(file: str, name: str, engine: SchedulerName) -> Deployment:
    plan = compile_file(EXAMPLES / file, name)[0]
    return deploy(plan.spec, engine, plan.closed_form(), plan.sources)


def imported(*words: str, model: str | None = None, node: str | None = "h100_8") -> str:
    return _plan(_read(words), Namespace(model=model, node=node, output=None))[0]


def planc(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 2
    return capsys.readouterr().err


def script(deployment: Deployment, engine: SchedulerName, connector: str = "") -> str:
    return write_script(deployment, engine, connector or CONNECTOR[engine])


# ---- flags, against the engines' own definitions


@pytest.mark.parametrize("engine", SCHEDULERS)
def test_flags_are_those_of_the_engines_own_definitions(engine: SchedulerName) -> None:
    lines = [line.split() for line in (RECORDED / f"{engine}.txt").read_text().splitlines() if line[0] != "#"]
    recorded = {name.lstrip("-"): spellings for name, *spellings in lines}
    for flag in FLAGS[engine]:
        assert flag.name in recorded or flag.name in OLD.get(engine, ()), flag.name
        for other in flag.also:
            begins = [name for name in recorded if name.startswith(other.lstrip("-") + "-")]
            assert other in recorded.get(flag.name, ()) or begins == [flag.name], other
    if engine != "trtllm":  # of which not all keys are listed
        ports = {"port", "node-rank", "enable-metrics", "enable-eplb"} if engine == "sglang" else set()
        plain = {name.removeprefix("no-") for name in OTHER[engine]}
        assert plain <= set(recorded) | OLD[engine] | ports


@pytest.mark.parametrize("engine", SCHEDULERS)
def test_each_spelling_finds_its_flag_alone(engine: SchedulerName) -> None:
    for flag in FLAGS[engine]:
        for word in (f"--{flag.name}", f"--{flag.name.replace('-', '_')}", *flag.also):
            assert find_flag(engine, word) == flag
        assert flag.name not in OTHER[engine] or flag.name == "disaggregation-mode"


# ---- what a plan becomes


def test_shift_parallelism_is_arctic_inferences() -> None:
    text = script(of_example("shift_llama_3_3_70b.plan", "shift", "vllm"), "vllm")
    assert "ARCTIC_INFERENCE_ENABLED=1 vllm serve" in text
    for words in ("--ulysses-sequence-parallel-size 8", "--enable-shift-parallel", "--shift-parallel-threshold 256"):
        assert words in text


def test_two_pools_are_two_servers_and_what_moves_the_cache() -> None:
    for engine, connector, words in (
        ("vllm", "nixl", '"kv_connector":"NixlConnector"'),
        ("vllm", "mooncake", '"kv_role":"kv_consumer"'),
        ("sglang", "nixl", "--disaggregation-transfer-backend nixl"),
        ("trtllm", "mooncake", 'backend: "MOONCAKE"'),
    ):
        text = script(of_example("split_llama_3_3_70b.plan", "split", engine), engine, connector)
        assert words in text
        assert "prefill)" in text
        assert "decode)" in text
        assert "router)" in text


def test_experts_go_to_the_engines_in_their_own_ways() -> None:
    vllm = script(of_example("experts.plan", "dealt", "vllm"), "vllm")
    assert "--data-parallel-size 8" in vllm
    assert "--enable-expert-parallel" in vllm
    sglang = script(of_example("experts.plan", "dealt", "sglang"), "sglang")
    assert "--tp-size 8" in sglang
    assert "--attn-dp-size 8" in sglang
    assert "--ep-size 8" in sglang
    trtllm = script(of_example("experts.plan", "stay", "trtllm"), "trtllm")
    assert "moe_expert_parallel_size: 8" in trtllm
    assert "enable_attention_dp" not in trtllm


def test_several_nodes_run_one_command_each() -> None:
    vllm = script(of_example("clusters/racks.plan", "wide", "vllm"), "vllm")
    assert "--nnodes 4" in vllm
    assert '--node-rank "$NODE_RANK"' in vllm
    assert "echo --headless" in vllm
    assert '--dist-init-addr "$HEAD:20000"' in script(of_example("clusters/racks.plan", "wide", "sglang"), "sglang")
    assert "mpirun -n 32 trtllm-llmapi-launch" in script(of_example("clusters/racks.plan", "wide", "trtllm"), "trtllm")


def test_the_longest_request_has_room_in_the_cache() -> None:
    text = "plan p { model = llama_3_1_70b, node = h100_8, sharding { tp = 2 }, workload { input = 64, output = 8 } }"
    (server,) = deployed(text, "vllm").servers
    assert server.max_context is not None
    assert server.max_context < 131072


def test_fractions_of_memory_are_converted_through_bytes() -> None:
    text = ("plan p { model = llama_3_1_8b, node = h100_8, engine = vllm, memory_fraction = 80 %, "
            "workload { input = 64, output = 8, batch = 8 } }")  # fmt: skip
    plan = compile_text(text)[0]
    memory = plan.closed_form().memory
    rest, cache = memory.activations + memory.buffers, 0.8 * memory.capacity - memory.total + memory.kv_cache
    wanted = {"vllm": 0.8, "sglang": 0.8 - rest / memory.capacity,
              "trtllm": cache / (memory.capacity - memory.weights - rest)}  # fmt: skip
    for engine in SCHEDULERS:
        (server,) = deployed(text, engine).servers
        assert server.memory_fraction == pytest.approx(wanted[engine], abs=0.0006)


@pytest.mark.parametrize("engine", SCHEDULERS)
@pytest.mark.parametrize(("file", "name"), [("experts.plan", "dealt"), ("speculate.plan", "guessed"),
                                            ("clusters/racks.plan", "wide"), ("split_llama_3_3_70b.plan", "split"),
                                            ("shift_llama_3_3_70b.plan", "dp8")])  # fmt: skip
def test_scripts_are_scripts(engine: SchedulerName, file: str, name: str) -> None:
    text = script(of_example(file, name, engine), engine)
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""


# ---- what an engine cannot do


@pytest.mark.parametrize(
    ("file", "name", "target", "code", "at"),
    [
        ("own_model.plan", "megatron", "vllm", "E502", "tensor = 8"),
        ("own_model.plan", "ulysses", "sglang", "E503", ""),
        ("shift_llama_3_3_70b.plan", "shift", "trtllm", "E503", "sp = 8"),
        ("llama_4_scout.plan", "experts", "vllm", "E503", ""),
        ("clusters/racks.plan", "wide", "k8s", "", ""),
    ],
)
def test_a_refusal_stands_at_the_plans_own_words(
    file: str, name: str, target: str, code: str, at: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(EXAMPLES / file), "--plan", name, "--to", target]
    if not code:
        assert main(arguments) == 0
        return
    err = planc(capsys, *arguments)
    assert err.startswith(f"error[{code}]")
    assert "help:" in err
    assert "^" in err
    assert at in err


def test_a_cache_format_that_the_engine_lacks_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    err = planc(capsys, "export", str(EXAMPLES / "llama3_70b.plan"), "--plan", "hybrid", "--to", "sglang", "--set",
                "model.kv_cache=int8")  # fmt: skip
    assert err.startswith("error[E504]: sglang has no KV cache in `int8`")


def test_what_no_engine_takes_is_told_and_commented(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(EXAMPLES / "llama3_70b.plan"), "--plan", "hybrid", "--to", "vllm", "--set",
                 "overlap=collectives"]) == 0  # fmt: skip
    out, err = capsys.readouterr()
    assert "warning[W500]: no argument of an engine says `overlap = collectives`" in err
    assert "# no argument of an engine says `overlap = collectives`" in out


# ---- imports


def test_a_command_line_becomes_a_plan() -> None:
    words = "vllm serve meta-llama/Llama-3.1-70B-Instruct -tp 4 --pipeline_parallel_size=2 --max-num-seqs 256"
    words += " --max-num-batched-tokens 8k --kv-cache-dtype fp8 --gpu-memory-utilization 0.85"
    words += " --speculative-config.method ngram --speculative-config.num_speculative_tokens 3"
    (plan,) = compile_text(imported(*words.split()))
    spec = plan.spec
    assert spec.model.kv_cache == "fp8"
    assert [(a.name, a.size) for a in spec.sharding.axes if a.size > 1] == [("stage", 2), ("tensor", 4)]
    assert spec.engine is not None
    assert spec.engine.max_requests == 256
    assert (spec.step_tokens, spec.memory_fraction, spec.queries) == (8000, 0.85, 4)


def test_the_older_spelling_of_attention_dp_is_read() -> None:
    words = "python3 -m sglang.launch_server --model deepseek-ai/DeepSeek-V3 --tp 8 --dp-size 8 --enable-dp-attention"
    text = imported(*words.split(), "--ep-size", "8", node="h200_8")
    assert "ep = 8" in text
    assert "dp = " not in text


def test_a_command_that_cannot_work_says_so_in_the_plans_words(capsys: pytest.CaptureFixture[str]) -> None:
    err = planc(capsys, "import", "--", "vllm", "serve", "llama_3_1_8b", "-tp", "3")
    assert "error[E301]" in err
    assert "error[E508]: this command line makes no working plan" in err


TWO = "trtllm-serve llama_3_1_8b", "sglang serve llama_3_1_8b --disaggregation-mode prefill"


@pytest.mark.parametrize("command", TWO)
def test_two_servers_of_one_kind_are_no_pools(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "x.sh"
    script.write_text(f"{command}\n{command}\n")
    err = planc(capsys, "import", str(script))
    assert err.startswith("error[E505]: 2 servers, of which none hands its KV cache to the other"), err
    assert "x.sh:2:1" in err


def test_flags_about_something_else_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--", "vllm", "serve", "llama_3_1_8b", "--port", "1", "--trust-remote-code"]) == 0
    out, err = capsys.readouterr()
    assert "note[N500]: these flags say nothing of a plan: --port, --trust-remote-code" in err
    assert "plan imported" in out


def test_a_model_comes_from_its_config(tmp_path: Path) -> None:
    config = Path(__file__).parent / "configs" / "llama_3_1_405b.json"
    (tmp_path / "config.json").write_bytes(config.read_bytes())
    text = imported("vllm", "serve", str(tmp_path), "-tp", "8")
    (plan,) = compile_text(text)
    assert plan.spec.model.layers == 126


# ---- there and back

KNOWN = [name for name in Server._fields if name not in ("model", "gpus")]


def back(text: str, node: str, model: str, folder: Path, name: str = "x.sh") -> str:
    (folder / name).write_text(text)
    return imported(str(folder / name), node=node, model=model)


@st.composite
def served(draw: st.DrawFn) -> tuple[str, SchedulerName, str]:
    """A plan that an engine can serve, the engine, and the plan's model."""
    engine = draw(st.sampled_from(SCHEDULERS))
    routed = draw(st.booleans())
    model = "qwen3_235b_a22b" if routed else "llama_3_1_70b"
    tensor, stages = draw(st.sampled_from([(8, 1), (4, 2), (2, 2), (2, 4), (4, 1)]))
    sharding = f"tp = {tensor}, pp = {stages}"
    if routed and draw(st.booleans()):
        sharding = f"ep = {tensor}, pp = {stages}"
    elif tensor * stages < 8 and draw(st.booleans()):
        sharding += f", dp = {8 // tensor // stages}"
    elif engine == "vllm" and not routed and tensor == 4:
        sharding = "tp = 2, sp = 4"
    fields = [f"engine = {engine} with {{ max_requests = {draw(st.integers(1, 512))}, "
              f"prefix_cache = {str(draw(st.booleans())).lower()} }}"]  # fmt: skip
    fields += draw(st.sampled_from([[], ["chunked_prefill = 2048"], ["step_tokens = 4096"]]))
    fields += draw(st.sampled_from([[], ["memory_fraction = 83 %"]]))
    fields += draw(st.sampled_from([[], ["speculate { tokens = 2, acceptance = 70 % }"]]))
    if "prefix_cache = true" in fields[0] and draw(st.booleans()):
        write = draw(st.sampled_from(["", ", kv_write = back"] if engine == "sglang" else [""]))
        fields[0] = fields[0].replace(" }", f", kv_tiers = [[{draw(st.integers(1, 900))} GB, 40 GB/s]]{write} }}")
    # adapters inside experts are refused where ranks have experts of their own, and by TensorRT-LLM
    targets = "[w_q, w_o]" if routed and (engine == "trtllm" or "ep" in sharding) else "all"
    change = draw(st.sampled_from(["", "kv_cache = fp8", "weights = fp8" if engine != "trtllm" else "kv_cache = fp8",
                                   f"lora {{ adapters = 4, rank = 16, targets = {targets} }}"]))  # fmt: skip
    least = 1 if engine == "trtllm" or "speculate" in str(fields) else 0  # 0: an encoder
    load = f"input = {draw(st.integers(1, 4000))}, output = {draw(st.integers(least, 500))}"
    load += draw(st.sampled_from([", batch = 4", ", concurrency = 12"]))
    text = (f"plan p {{\n  model = {model}{f' with {{ {change} }}' if change else ''}\n  node = b200_8\n"
            f"  sharding {{ {sharding} }}\n  workload {{ {load} }}\n  " + "\n  ".join(fields) + "\n}\n")  # fmt: skip
    return text, engine, model


@settings(max_examples=6)
@given(served())
def test_a_round_trip_keeps_every_field_that_the_engine_knows(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[str, SchedulerName, str]
) -> None:
    text, engine, model = drawn
    first = deployed(text, engine)
    again = deployed(back(script(first, engine), "b200_8", model, tmp_path_factory.getbasetemp()), engine)
    (ours,), (theirs,) = first.servers, again.servers
    for name in KNOWN:
        if name == "step_tokens" and ours.chunk is not None and engine != "sglang":
            continue  # one number there says both
        if name == "lora" and engine == "vllm" and ours.lora is not None and theirs.lora is not None:
            assert merged_modules(ours.lora.targets) == merged_modules(theirs.lora.targets)  # q, k and v are one module
            assert ours.lora._replace(targets=theirs.lora.targets) == theirs.lora
            continue
        assert getattr(ours, name) == getattr(theirs, name), name
    loads = [(d.load.input, d.load.output, d.load.encodes, d.load.concurrency) for d in (first, again)]
    assert loads[0] == loads[1]


def test_adapters_of_trtllm_are_modules_and_come_back(tmp_path: Path) -> None:
    lora = "adapters = 4, rank = 16, targets = [w_q, w_down], host_bandwidth = 9 GB/s, host_adapters = 8"
    text = f"plan p {{ model = llama_3_1_8b with {{ lora {{ {lora}, disk_bandwidth = 1 GB/s }} }}, node = h100_2\n"
    text += "engine = trtllm, sharding { tp = 2 }, workload { input = 64, output = 8, batch = 4 } }"
    first = deployed(text, "trtllm")
    assert any("holds zeros for w_k and w_v" in remark.message for remark in first.remarks)
    written = script(first, "trtllm")
    assert '- "attn_q"\n  - "mlp_4h_to_h"\n  max_lora_rank: 16\n  max_loras: 4\n  max_cpu_loras: 8\n' in written
    again = back(written, "h100_2", "llama_3_1_8b", tmp_path)
    assert "adapters = 4, rank = 16, targets = [w_q, w_down], host_bandwidth = 50 GB/s, host_adapters = 8" in again
    assert "# bandwidths to host memory and disks, 50 GB/s and 6 GB/s, are assumed" in again
    with pytest.raises(PlanError, match="`moe_gate` is no weight of `llama_3_1_8b` with adapters"):
        back(written.replace("attn_q", "moe_gate"), "h100_2", "llama_3_1_8b", tmp_path)
    text = "plan p { model = deepseek_v3 with { lora { adapters = 2, rank = 8, targets = [w_o, w_dkv] } }\n"
    text += "node = h200_8, sharding { ep = 8 }, workload { input = 9, output = 8 } }"
    with pytest.raises(PlanError, match="not of `w_dkv`"):
        script(deployed(text, "trtllm"), "trtllm")


def test_adapters_inside_experts_are_refused_where_the_engine_has_none() -> None:
    text = "plan p {{ model = mixtral_8x7b with {{ lora {{ adapters = 2, rank = 8, targets = [w_q, w_up] }} }}\n"
    text += "node = h200_8, sharding {{ {} = 8 }}, workload {{ input = 9, output = 8 }} }}"
    with pytest.raises(PlanError, match="no adapters inside experts"):
        script(deployed(text.format("ep"), "vllm"), "vllm")
    assert "--enable-lora" in script(deployed(text.format("tp"), "vllm"), "vllm")
    with pytest.raises(PlanError, match="not of `w_up` inside experts"):
        script(deployed(text.format("tp"), "trtllm"), "trtllm")


@pytest.mark.parametrize(
    ("file", "name", "engine", "model", "node"),
    [
        ("shift_llama_3_3_70b.plan", "shift", "vllm", "llama_3_3_70b", "h200_8"),
        ("llama_4_scout.plan", "experts", "sglang", "llama_4_scout", "h200_8"),
        ("experts.plan", "stay", "vllm", "qwen3_235b_a22b", "h200_8"),
        ("experts.plan", "dealt", "sglang", "qwen3_235b_a22b", "h200_8"),
        ("speculate.plan", "guessed", "vllm", "llama_3_3_70b", "h100_8"),
        ("speculate.plan", "own", "sglang", "deepseek_v3", "h200_8"),
        ("clusters/racks.plan", "wide", "vllm", "llama_3_1_405b", "h100_8"),
    ],
)
def test_examples_come_back(file: str, name: str, engine: SchedulerName, model: str, node: str, tmp_path: Path) -> None:
    first = of_example(file, name, engine)
    again = deployed(back(script(first, engine), node, model, tmp_path), engine)
    for ours, theirs in zip(first.servers, again.servers, strict=True):
        assert ours.degrees == theirs.degrees
        for one in ("shift", "draft", "weights", "kv_cache", "role", "max_requests", "max_context"):
            assert getattr(ours, one) == getattr(theirs, one), one


# ---- manifests


def test_a_copy_on_several_nodes_is_a_leader_worker_set() -> None:
    text = write_k8s(of_example("clusters/racks.plan", "wide", "vllm"), "vllm", "nixl")
    for line in ("apiVersion: \"leaderworkerset.x-k8s.io/v1\"", "size: 4", 'nvidia.com/gpu: "8"',
                 'HEAD="$LWS_LEADER_ADDRESS"', "--nnodes 4"):  # fmt: skip
        assert line in text
    assert text.count("readinessProbe") == 1  # workers answer no requests


def test_trtllm_on_several_nodes_has_no_manifest() -> None:
    with pytest.raises(PlanError) as caught:
        write_k8s(of_example("clusters/racks.plan", "wide", "trtllm"), "trtllm", "nixl")
    assert caught.value.diagnostics[0].code == "E503"


def test_words_that_yaml_takes_for_switches_are_quoted() -> None:
    from plandsl.backends.engines.yamls import show_yaml

    assert show_yaml({"no": "off", "a": "1e3"}) == '"no": "off"\na: "1e3"\n'


@pytest.mark.extras
@pytest.mark.parametrize("engine", SCHEDULERS)
def test_manifests_come_back(engine: SchedulerName, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="yaml is missing: `make test-all` installs plandsl[yaml]")
    first = of_example("split_llama_3_3_70b.plan", "split", engine)
    texts = [write_k8s(first, engine, CONNECTOR[engine])]
    if engine != "trtllm":
        texts.append(write_dynamo(first, engine, CONNECTOR[engine]))
    for text in texts:
        assert all(document["kind"] for document in yaml.safe_load_all(text))
        again = deployed(back(text, "h200_8", "llama_3_3_70b", tmp_path, "x.yaml"), engine)
        for ours, theirs in zip(first.servers, again.servers, strict=True):
            assert ours.degrees == theirs.degrees
            assert (ours.role, ours.max_requests, ours.kv_cache) == (theirs.role, theirs.max_requests, theirs.kv_cache)


@pytest.mark.extras
def test_a_wrong_flag_in_a_manifest_gets_a_caret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("yaml", reason="yaml is missing: `make test-all` installs plandsl[yaml]")
    text = write_k8s(of_example("clusters/racks.plan", "wide", "vllm"), "vllm", "nixl")
    (tmp_path / "x.yaml").write_text(text.replace("--nnodes 4", "--nnode 4"))
    err = planc(capsys, "import", str(tmp_path / "x.yaml"))
    assert err.startswith("error[E506]: `--nnode` is no flag of vLLM")
    assert "              --nnode 4 \\\n   |               ^^^^^^^\nhelp: did you mean `--nnodes`?" in err
    (tmp_path / "x.yaml").write_text("a: [1\nb: 2\n")
    assert planc(capsys, "import", str(tmp_path / "x.yaml")).startswith("error[E509]")
