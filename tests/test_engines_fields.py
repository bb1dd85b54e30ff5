"""What engines know beside degrees and limits: encoders, states, memory behind the KV cache, towers, adapters."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from plandsl.backends.engines.commands import CONNECTOR
from plandsl.backends.engines.plans import deploy
from plandsl.backends.engines.scripts import write_script
from plandsl.backends.engines.server import Deployment, HostCache, Server
from plandsl.cli import main
from plandsl.commands.import_ import _plan, _read
from plandsl.driver import compile_text
from plandsl.spec.scheduler import SCHEDULERS, SchedulerName

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = Path(__file__).parent / "configs"
TIERS = "kv_tiers = [[80 GB, 50 GB/s]]"
LOAD = "workload { input = 64, output = 8, batch = 4 }"


def exported(text: str, engine: SchedulerName) -> tuple[Deployment, str]:
    plan = compile_text(text)[0]
    made = deploy(plan.spec, engine, plan.closed_form(), plan.sources)
    return made, write_script(made, engine, CONNECTOR[engine])


def imported(*words: str, model: str | None = None) -> str:
    return _plan(_read(words), Namespace(model=model, node="h200_8", output=None))[0]


def there_and_back(text: str, engine: SchedulerName, model: str, folder: Path) -> tuple[Server, Server, str]:
    """The first server of a plan, that of its export's import, and the export."""
    first, script = exported(text, engine)
    (folder / "x.sh").write_text(script)
    again = exported(imported(str(folder / "x.sh"), model=model), engine)[0]
    return first.servers[0], again.servers[0], script


@pytest.mark.parametrize(
    ("engine", "change", "fields", "load", "flags"),
    [
        ("vllm", "", "", "output = 0", ["--runner pooling", "--backend openai-embeddings"]),
        ("sglang", "", "", "output = 0", ["--is-embedding", "--backend sglang-embedding"]),
        ("vllm", "state_cache = fp16", "", "output = 8", ["--mamba-ssm-cache-dtype float16"]),
        ("sglang", "state_cache = fp32", "", "output = 8", ["--mamba-ssm-dtype float32"]),
        ("trtllm", "state_cache = fp32", "", "output = 8", ['mamba_ssm_cache_dtype: "float32"']),
        ("vllm", "", TIERS, "output = 8", ["--kv-offloading-size 298.023223877 ", "--kv-offloading-backend native"]),
        ("sglang", "", TIERS + ", kv_write = back", "output = 8",
         ["--enable-hierarchical-cache", "--hicache-size 80 ", "--hicache-write-policy write_back"]),
        ("trtllm", "", TIERS, "output = 8", ["host_cache_size: 80000000000"]),
        ("vllm", "lora { adapters = 4, rank = 16, targets = [w_o, w_down] }", "", "output = 8",
         ["--lora-target-modules o_proj down_proj"]),
        ("vllm", "lora { adapters = 4, rank = 16, targets = all }", "", "output = 8",
         ["--lora-target-modules qkv_proj o_proj gate_up_proj down_proj"]),
        ("sglang", "lora { adapters = 4, rank = 16, targets = [w_k, w_up] }", "", "output = 8",
         ["--lora-target-modules k_proj up_proj"]),
        ("vllm", "", "order = priority, ahead = false, prefix_cache = false", "output = 8",
         ["--scheduling-policy priority", "--no-async-scheduling", "--no-enable-prefix-caching"]),
        ("sglang", "", "order = priority, mixed = true, ahead = false", "output = 8",
         ["--enable-priority-scheduling", "--enable-mixed-chunk", "--disable-overlap-schedule"]),
        ("sglang", "", "order = longest_prefix, prefix_cache = false", "output = 8",
         ["--schedule-policy lpm", "--disable-radix-cache"]),
        ("trtllm", "", "room = max_utilisation, equal = true, ahead = false, chunked = false", "output = 8",
         ["MAX_UTILIZATION", "EQUAL_PROGRESS", "disable_overlap_scheduler: true", "enable_chunked_prefill: false"]),
    ],
)  # fmt: skip
def test_a_field_becomes_a_flag_and_comes_back(
    engine: SchedulerName, change: str, fields: str, load: str, flags: list[str], tmp_path: Path
) -> None:
    model = "qwen3_next_80b_a3b" if "state" in change else "llama_3_1_70b"
    text = f"""plan p {{
      model = {model}{f" with {{ {change} }}" if change else ""}, node = h200_8, sharding {{ tp = 4 }}
      engine = {engine}{f" with {{ {fields} }}" if fields else ""}, workload {{ input = 64, {load}, batch = 4 }}
    }}"""
    ours, theirs, script = there_and_back(text, engine, model, tmp_path)
    for flag in flags:
        assert flag in script.replace("\n", " ") + " "
    for name in ("encodes", "state_cache", "host_cache", "lora", "prefix_cache"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert dict(ours.options) == dict(theirs.options)


@pytest.mark.parametrize("connector", ["nixl", "mooncake"])
def test_a_pool_that_offloads_has_two_connectors_and_comes_back(connector: str, tmp_path: Path) -> None:
    text = f"""plan p {{
      model = llama_3_1_8b, {LOAD}
      prefill {{ node = h200_8, engine = vllm with {{ {TIERS} }} }}
      decode {{ node = h200_8, sharding {{ tp = 2 }}, engine = vllm }}
      transfer {{ bandwidth = 50 GB/s, latency = 10 us }}
    }}"""
    plan = compile_text(text)[0]
    made = deploy(plan.spec, "vllm", plan.closed_form(), plan.sources)
    script = write_script(made, "vllm", connector)
    assert script.count('"kv_connector":"MultiConnector"') == 1
    assert '{"kv_connector":"OffloadingConnector","kv_role":"kv_both"' in script
    assert "kv-offloading-size" not in script  # it would take the place of the connector between the pools
    (tmp_path / "x.sh").write_text(script)
    again = exported(imported(str(tmp_path / "x.sh"), model="llama_3_1_8b"), "vllm")[0]
    assert [server.role for server in again.servers] == ["prefill", "decode"]
    assert [server.host_cache for server in again.servers] == [HostCache(80e9), None]


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        ("vllm serve {} -tp 4 --mm-encoder-tp-mode data", True),
        ("vllm serve {} -tp 4 --mm-encoder-tp-mode weights", False),
        ("vllm serve {} -tp 2 -pp 2 --mm-encoder-tp-mode data", True),
        ("sglang serve {} --tp 4 --mm-enable-dp-encoder", True),
        ("sglang serve {} --tp 2 --dp 2 --mm-enable-dp-encoder", True),
    ],
)
def test_how_a_tower_lies_comes_back(words: str, whole: bool, tmp_path: Path) -> None:
    config = next(p for p in sorted(CONFIGS.glob("*.json")) if "vision_config" in json.loads(p.read_text()))
    text = imported(*words.format(config).split())
    engine: SchedulerName = "vllm" if words.startswith("vllm") else "sglang"
    made, script = exported(text, engine)
    assert made.servers[0].whole_images is whole
    assert not [remark for remark in made.remarks if "tower" in remark.message]
    (tmp_path / "x.sh").write_text(script)
    assert exported(imported(str(tmp_path / "x.sh"), model=str(config)), engine)[0].servers[0].whole_images is whole


def test_a_ratio_of_host_memory_becomes_bytes_by_the_plans_own_cache(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for flags in ("--enable-hierarchical-cache", "--enable-hicache --hicache-ratio 4"):
        assert (
            main(["import", "--node", "h200_8", "--", "sglang", "serve", "llama_3_1_70b", "--tp", "8", *flags.split()])
            == 0
        )
        out, err = capsys.readouterr()
        assert "note[N529]" in err
        engine = compile_text(out)[0].spec.engine
        assert engine is not None
        sizes.append(engine.scheduler.tiers[0].memory)
    plan = compile_text(out)[0].closed_form()
    own = plan.kv_capacity_tokens * plan.kv_bytes_per_token / 8
    assert sizes[0] == pytest.approx(2 * own, abs=0.51e9)
    assert sizes[1] == pytest.approx(4 * own, abs=0.51e9)


@pytest.mark.parametrize(
    ("engine", "fields", "words"),
    [
        ("vllm", "engine = vllm with { kv_tiers = [[80 GB, 50 GB/s], [2 TB, 6 GB/s]], kv_write = back }",
         ["host memory is as fast as your machine", "2000 GB of `kv_tiers` are left out",
          "vllm copies blocks as they fill"]),
        ("trtllm", "engine = trtllm with { kv_tiers = [[80 GB, 50 GB/s, 9 us]], kv_write = through }",
         ["the plan counts with 50 GB/s and 9 us", "trtllm copies blocks as they are evicted"]),
        ("sglang", "engine = sglang with { kv_tiers = [[1.6 GB, 50 GB/s]] }", ["1.6 GB become 2"]),
    ],
)  # fmt: skip
def test_what_an_engine_is_not_told_of_host_memory_is_told(
    engine: SchedulerName, fields: str, words: list[str]
) -> None:
    made = exported(f"plan p {{ model = llama_3_1_8b, node = h200_8, {fields}, {LOAD} }}", engine)[0]
    told = "\n".join(remark.message for remark in made.remarks)
    for word in words:
        assert word in told


@pytest.mark.parametrize("engine", SCHEDULERS)
def test_states_in_a_format_that_no_engine_keeps_are_an_error(
    engine: SchedulerName, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "plan p { model = qwen3_next_80b_a3b with { state_cache = fp8 }, node = h200_8, sharding { tp = 4 }, "
    (tmp_path / "x.plan").write_text(text + LOAD + " }")
    assert main(["export", str(tmp_path / "x.plan"), "--to", engine]) == 2
    assert f"error[E504]: {engine} keeps no states in `fp8`" in capsys.readouterr().err


def test_flags_of_the_engine_that_an_import_does_not_read_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = "vllm serve llama_3_1_8b --cpu-offload-gb 20 --no-enable-flashinfer-autotune --max-logprobs=5 -tp 2"
    assert main(["import", "--", *words.split()]) == 0
    out, err = capsys.readouterr()
    assert "note[N528]: an import does not read these flags of vLLM 0.33.0: --cpu-offload-gb" in err
    assert "--max-logprobs" in err
    assert "tp = 2" in out


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        (["vllm", "serve", "llama_3_1_8b", "--tensor-parallel-size", "2"], "tp = 2"),  # without `--`
        (["--node", "h200_8", "vllm", "serve", "llama_3_1_8b", "-tp", "4"], "node = h200_8"),
        (["vllm serve llama_3_1_8b --tensor-parallel-size 2"], "tp = 2"),  # a line in quotes
        (["--", "docker", "run", "--gpus", "all", "-p", "8000:8000", "vllm/vllm-openai:v0.33.0", "--model",
          "meta-llama/Llama-3.1-8B-Instruct", "-tp", "2"], "tp = 2"),
        (["trtllm-serve", "llama_3_1_8b", "--kv_cache_free_gpu_memory_fraction", "0.8"], "memory_fraction = 80 %"),
        (["trtllm-serve", "llama_3_1_8b", "--kv_cache_config", '{"dtype": "float16"}'], "kv_cache = fp16"),
        (["vllm", "serve", "llama_3_1_8b", "-q", "awq"], "weights = int4"),
    ],
)  # fmt: skip
def test_a_command_is_read_as_people_give_it(words: list[str], plan: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", *words]) == 0
    assert plan in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why", "hint"),
    [
        (["nowhere.sh"], "`nowhere.sh` is neither a file nor a command", "a script, a manifest"),
        ([str(ROOT / "examples" / "adapters.plan")], "is a plan already", "planc compile"),
        ([str(ROOT / "tests" / "bench" / "vllm_1.json")], "it is JSON", "planc compare PLAN"),
        (["--", "vllm", "server", "m"], "expected `vllm serve`", "planc import -- vllm serve MODEL"),
        (["--node", "b200", "--", "vllm", "serve", "llama_3_1_8b"], "no node `b200`", "did you mean `b200_8`"),
        (["--", "vllm", "serve", "llama_3_1_8b", "-sc", '{"method": "mtp"'], "is no JSON, since", "expected JSON"),
    ],
)
def test_what_is_no_command_says_what_would_be(
    words: list[str], why: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", *words]) == 2
    err = capsys.readouterr().err
    assert why in err
    assert hint in err


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("vllm serve llama_3_1_8b --quantization modelopt", "N541", "does not say how weights are stored"),
        ("vllm serve llama_3_1_8b --kv-cache-memory-bytes 9000000000 --enforce-eager", "N528",
         "--kv-cache-memory-bytes, --enforce-eager"),
        ("vllm serve llama_3_1_8b\nvllm bench serve --random-input-len 9 --random-output-len 9 --request-rate 4 "
         "--max-concurrency 12", "N540", "at most 12 requests at once"),
    ],
)  # fmt: skip
def test_what_an_import_cannot_say_in_a_plan_is_told(
    line: str, code: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.sh").write_text(line)
    assert main(["import", str(tmp_path / "x.sh")]) == 0
    err = capsys.readouterr().err
    assert f"note[{code}]" in err
    assert words in err


@pytest.mark.extras
def test_an_image_of_a_pod_starts_its_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("yaml", reason="yaml is missing: `make test-all` installs plandsl[yaml]")
    (tmp_path / "x.yaml").write_text("""kind: Deployment
metadata: { name: x }
spec:
  template:
    spec:
      containers:
      - image: docker.io/vllm/vllm-openai:latest
        args: [--model, llama_3_1_8b, --tensor-paralel-size, "2"]
""")
    assert main(["import", str(tmp_path / "x.yaml")]) == 2
    err = capsys.readouterr().err
    assert "did you mean `--tensor-parallel-size`?" in err
    assert "^^^^^" in err
