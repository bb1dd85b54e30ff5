"""Targets that read launch commands, manifests and `--config` files of engines, as `planc import` does."""

from __future__ import annotations

import json
import shlex
from random import Random

from tests.fuzz.after import seldom
from tests.fuzz.case import Case, Corpus, Target
from tests.fuzz.documents import RAW
from tests.fuzz.inputs import FLAGS, draw_command, draw_manifest, draw_script
from tests.fuzz.mutate import NUMBERS, mutate, mutate_one

WORDS = tuple(flag.split()[0].encode() for flags in FLAGS.values() for flag in flags)
MORE = (
    "--extra_llm_api_options c.yaml", "--config c.yaml", "--speculative-config.method mtp",
    "--kv-transfer-config '{}'",
    "--hf-overrides '{\"a\": [1]}'", "--nosuch 1", "--max-model-len 4k", "--max-num-seqs 1K", "-tp=2", "--tp-size=2",
)  # fmt: skip

CONFIG = {
    "tensor_parallel_size": "2", "max_batch_size": "64", "max_num_tokens": "2048", "max_seq_len": "4096",
    "backend": "pytorch",
    "kv_cache_config": "{free_gpu_memory_fraction: 0.9, enable_block_reuse: true}", "enable_attention_dp": "false",
    "cuda_graph_config": "{max_batch_size: 64}",
    "speculative_config": "{decoding_type: MTP, num_nextn_predict_layers: 2}",
    "moe_expert_parallel_size": "2", "pipeline_parallel_size": "1", "kv_cache_dtype": "fp8", "print_iter_log": "true",
    "host_cache_size": "1000000000", "nosuch": "1",
}  # fmt: skip
SCALARS = (
    "1", "2", "0.5", "true", "null", "~", ".inf", "-.inf", ".nan", "1.0e+400", "0x10", "1_000", "1:30", "0o7", "[1]",
    "[]",
    "{}", "{a: 1}", '"\\UFFFFFFFF"', '"\\ud800"', "'x'", "|\n    a\n    b", "&a [*a]", "*b", "!!int x", "!x y",
    "2001-01-01",
    "9" * 400, "9" * 5_000, "? [a]", "- a", "@", "`", "%",
)  # fmt: skip
"""Values of YAML, of which some are none."""


def draw_config(random: Random) -> str:
    """The lines of a `--config` file: most values are sound."""
    lines = []
    for key in random.sample(sorted(CONFIG), random.choice((0, 1, 2, 4))):
        value = random.choice(SCALARS) if random.random() < 0.1 else CONFIG[key]
        lines.append(f"{key}: {value}\n")
    return "".join(lines)


def _draw_script(random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.2:
        return mutate_one(random, corpus, WORDS)
    script = draw_script(random).decode()
    if random.random() < 0.25:
        script = script.replace("\n", f" {random.choice(MORE)}\n", 1)
    if random.random() < 0.1:
        script = f"cat > c.yaml <<'EOF'\n{draw_config(random)}EOF\n{script.rstrip()} --extra_llm_api_options c.yaml\n"
    if random.random() < 0.05:
        script += f"vllm serve m --speculative-config '{random.choice(RAW)}'\n"
    content = script.encode("utf-8", "surrogatepass")
    return Case(
        {
            "run.sh": mutate(content, random, words=WORDS) if random.random() < 0.25 else content,
            "c.yaml": b"max_batch_size: 8\n",
        }
    )


def _script(case: Case) -> object:
    """Read the launches; write the plan of a few."""
    return _import("run.sh", case.files["run.sh"])


def _import(name: str, content: bytes) -> object:
    from plandsl.commands.import_ import _read
    from tests.fuzz.process import run_main

    if seldom(content, 16):
        answer = run_main(["import", name], b"")
        assert "Traceback" not in answer.err
        return answer
    return _read([name])


SCRIPT = Target("script", "reader", _draw_script, _script)


def _draw_manifest(random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.2:
        return mutate_one(random, corpus, WORDS)
    match random.randrange(4):
        case 0:
            text = draw_manifest(random).decode()
        case 1:
            lines = draw_script(random).decode().replace("\n", "\n              ")
            text = _deployment(
                random, f"command: [bash, -c]\n          args:\n            - |\n              {lines}\n"
            )
        case 2:
            words = [*_command(random, "trtllm-serve"), "--extra_llm_api_options", "/c/c.yaml"]
            text = _deployment(random, f"command: {json.dumps(words)}\n")
            held = draw_config(random).replace("\n", "\n    ")
            text += f"---\nkind: ConfigMap\ndata:\n  c.yaml: |\n    {held}\n"
        case _:
            flags = json.dumps(["--model", *_command(random, "vllm")[2:]])
            text = _deployment(
                random,
                f'image: vllm/vllm-openai:v0.12\n          args: {flags}\n          env: [{{name: A, value: "1"}}]\n',
            )
    if random.random() < 0.1:
        text += f"---\n{random.choice(('a: ', '', '- '))}{random.choice(SCALARS)}\n"
    content = text.encode("utf-8", "surrogatepass")
    return Case({"m.yaml": mutate(content, random, words=WORDS) if random.random() < 0.2 else content})


def _command(random: Random, start: str) -> list[str]:
    """The words of a command that starts an engine."""
    while not (command := draw_command(random)).startswith(start):
        pass
    return shlex.split(command)


def _deployment(random: Random, container: str) -> str:
    """A manifest of a kind, around the lines of a container."""
    kind = random.choice(("Deployment", "Deployment", "StatefulSet", "Job", "DynamoGraphDeployment", "List"))
    return f"""kind: {kind}
metadata: {{ name: {random.choice(("server", "decode-x", "prefill"))} }}
spec:
  replicas: {random.choice((1, 1, 2, "9" * 30, "x"))}
  template:
    spec:
      containers:
        - name: engine
          {container}"""


def _manifest(case: Case) -> object:
    return _import("m.yaml", case.files["m.yaml"])


MANIFEST = Target("manifest", "reader", _draw_manifest, _manifest)


def _draw_engine_config(random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.2:
        return _configured(mutate(random.choice(corpus).files["c.yaml"], random))
    text = draw_config(random)
    if random.random() < 0.1:
        text = text.replace(": ", f": {random.choice(NUMBERS).decode()} #", 1)
    content = text.encode("utf-8", "surrogatepass")
    content = mutate(content, random) if random.random() < 0.3 else content
    return _configured(content)


def _configured(content: bytes) -> Case:
    """A script that starts an engine with the file."""
    return Case({"c.yaml": content, "run.sh": b"trtllm-serve meta-llama/Llama-3.1-8B --extra_llm_api_options c.yaml\n"})


def _engine_config(case: Case) -> object:
    """The keys of the file as settings of an engine; the plan of a few."""
    return _import("run.sh", case.files["c.yaml"])


ENGINE_CONFIG = Target("engine-config", "reader", _draw_engine_config, _engine_config)

LAUNCHES = (SCRIPT, MANIFEST, ENGINE_CONFIG)
