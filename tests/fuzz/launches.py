"""Targets that read launch commands, manifests and `--config` files of engines, as `planc import` does."""

from __future__ import annotations

import json
import re
import shlex
from random import Random

from plandsl.backends.engines.yamls import show_yaml
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

CONFIG: dict[str, tuple[object, ...]] = {
    "tensor_parallel_size": (2, 1, 4, "2"), "pipeline_parallel_size": (1, 2), "moe_expert_parallel_size": (2, 1),
    "moe_tensor_parallel_size": (1, 2), "max_batch_size": (64, 1, 2048), "max_num_tokens": (2048, "8k"),
    "max_seq_len": (4096, 131_072), "pp_partition": ([16, 16], [1] * 32, []), "enable_attention_dp": (False, True),
    "enable_chunked_prefill": (True, False), "disable_overlap_scheduler": (True,), "dtype": ("bfloat16", "auto"),
    "free_gpu_memory_fraction": (0.9, 1, 0.05),
    "kv_cache_config": (
        {"free_gpu_memory_fraction": 0.9, "enable_block_reuse": True}, {"dtype": "fp8", "tokens_per_block": 32},
        {"host_cache_size": 10**9}, {"mamba_ssm_cache_dtype": "float32", "max_tokens": None}, {},
    ),
    "scheduler_config": (
        {"capacity_scheduler_policy": "MAX_UTILIZATION", "context_chunking_policy": "EQUAL_PROGRESS"},
        {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"}, {"dynamic_batch_config": {"a": [1, {"b": None}]}},
    ),
    "speculative_config": (
        {"decoding_type": "MTP", "num_nextn_predict_layers": 2}, {"decoding_type": "NGram", "max_draft_len": 3},
        {"decoding_type": "Draft_Target", "max_draft_len": 4, "speculative_model": "meta-llama/Llama-3.2-1B"},
    ),
    "lora_config": ({"lora_target_modules": ["attn_q", "attn_v"], "max_lora_rank": 16, "max_loras": 4},),
    "cache_transceiver_config": ({"backend": "NIXL"}, {"backend": "DEFAULT", "max_tokens_in_buffer": 8192}),
    "cuda_graph_config": ({"max_batch_size": 64, "batch_sizes": [1, 2, 4]}, None), "moe_config": ({"backend": "x"},),
    "backend": ("pytorch",), "print_iter_log": (True,), "enable_lora": (True,), "max_beam_width": (1,),
    "tokenizer": ("a: b", "- x", "é", "no", "1e3", "{x}"), "trust_remote_code": (True,),
}  # fmt: skip
"""Keys of a `--config` file, and sound values of each."""

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
    for key in random.sample(sorted(CONFIG), random.choice((0, 1, 2, 4, 8))):
        value = random.choice(CONFIG[key])
        if random.random() < 0.05:
            text = f"{key}: {random.choice(SCALARS)}"
        elif random.random() < 0.4:
            text = show_yaml({key: value})
        else:
            text = f"{_key(key, random)}{random.choice((': ', ': ', ':   '))}{_scalar(value, random)}"
        if "\n" not in text.strip() and random.random() < 0.1:
            text = random.choice((f"# {text}\n{text}", f"{text}  # why: not", f"\n{text}"))
        lines.append(f"{text.rstrip()}\n")
    if random.random() < 0.03:
        lines.append("nosuch: 1\n")
    return "".join(lines)


def _key(key: str, random: Random) -> str:
    """A key of YAML, in quotes now and then."""
    return random.choice((key, key, key, key, f'"{key}"', f"'{key}'", key.replace("_", "-")))


def _scalar(value: object, random: Random) -> str:
    """A value of YAML in one line: as JSON, or a word or a number as people write it."""
    shown = json.dumps(value)
    if isinstance(value, str) and WORD.fullmatch(value):
        return random.choice((shown, value, f"'{value}'"))
    if isinstance(value, bool):
        return random.choice((shown, shown.title(), shown.upper()))
    return (
        random.choice((shown, f"!!int {shown}", f"&a{random.getrandbits(30)} {shown}"))
        if isinstance(value, int)
        else shown
    )


WORD = re.compile(r"[a-z]{3,}[0-9]*")


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
        return _changed(random, corpus)
    text = draw_config(random)
    chance = random.random()
    if chance < 0.08:
        text = text.replace(": ", f": {random.choice(NUMBERS).decode()} #", 1)
    elif chance < 0.13 and text:
        text = json.dumps({key: random.choice(values) for key, values in random.sample(sorted(CONFIG.items()), 3)})
    elif chance < 0.2:
        first, last = random.choice(("---", "%YAML 1.1\n---", "# keys", "")), random.choice(("...", ""))
        text = f"{first}\n{text}{last}\n"
    content = text.encode("utf-8", "surrogatepass")
    content = mutate(content, random) if random.random() < 0.2 else content
    return _configured(content, random.choice(STARTS))


def _changed(random: Random, corpus: Corpus) -> Case:
    """A file of the corpus that is changed, or has lines of a drawn one too."""
    case = random.choice(corpus)
    content = case.files["c.yaml"]
    if random.random() < 0.5:
        lines = content.splitlines(keepends=True)
        at = random.choice([0, len(lines)])
        lines[at:at] = draw_config(random).encode().splitlines(keepends=True)
        content = b"".join(lines)
    else:
        content = mutate(content, random)
    return Case(case.files | {"c.yaml": content})


STARTS = (
    "trtllm-serve meta-llama/Llama-3.1-8B --extra_llm_api_options c.yaml",
    "trtllm-serve serve deepseek-ai/DeepSeek-V3 --config c.yaml --tp_size 8",
    "python3 -m dynamo.trtllm --model Qwen/Qwen3-8B --extra_llm_api_options=c.yaml --max_batch_size 8",
    "trtllm-serve mistralai/Mixtral-8x7B-v0.1 --config=c.yaml --ep_size 2 --tp_size 2 &",
)


def _configured(content: bytes, start: str) -> Case:
    """A script that starts an engine with the file."""
    return Case({"c.yaml": content, "run.sh": f"{start}\n".encode()})


def _engine_config(case: Case) -> object:
    """The keys of the file as settings of an engine; the plan of a few."""
    return _import("run.sh", case.files["c.yaml"])


ENGINE_CONFIG = Target("engine-config", "reader", _draw_engine_config, _engine_config)

LAUNCHES = (SCRIPT, MANIFEST, ENGINE_CONFIG)
