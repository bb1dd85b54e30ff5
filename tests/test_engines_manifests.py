"""Manifests of Kubernetes: what a pod asks for, and files that ask for too much or hold the wrong thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from plandsl.backends.engines.commands import CONNECTOR
from plandsl.backends.engines.manifests import write_dynamo, write_k8s
from plandsl.backends.engines.plans import deploy
from plandsl.cli import main
from plandsl.driver import compile_file, compile_text
from plandsl.spec.scheduler import SCHEDULERS, SchedulerName
from tests.manifest_schemas import SCHEMAS

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

CONFIGURED = """kind: Deployment
spec: { template: { spec: { containers: [{ command: [trtllm-serve, m], args: [--config, /etc/x.yaml] }] } } }
---
kind: ConfigMap
data:
  x.yaml: """

DOUBLED = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 24))
"""Each line stands for twice as much as the line before it."""

CHAINED = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000))
"""Each line is one level deeper than the line before it."""


def test_each_pool_asks_for_the_gpus_of_its_own_vendor() -> None:
    text = """plan p {
      model = llama_3_1_8b
      workload { input = 64, output = 8, batch = 8 }
      prefill { node = h100_8, sharding { tp = 4 } }
      decode { node = mi300x_8, sharding { tp = 2 } }
      transfer { bandwidth = 50 GB/s, latency = 10 us }
    }"""
    plan = compile_text(text)[0]
    written = write_k8s(deploy(plan.spec, "vllm", plan.closed_form(), plan.sources), "vllm", "nixl")
    assert 'nvidia.com/gpu: "4"' in written
    assert 'amd.com/gpu: "2"' in written


@pytest.mark.extras
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param(DOUBLED + "kind: Deployment\n", "its aliases stand for more than 262,144 nodes", id="doubled"),
        pytest.param(CHAINED, "more than 32 levels", id="chained"),
        pytest.param("a: &a [*a, *a]\n", "more than 32 levels", id="itself"),
        pytest.param("a: " + "[" * 40 + "]" * 40 + "\n", "more than 32 levels", id="deep"),
        pytest.param("? [a, b]\n: c\n", "a key is a list or a mapping", id="key"),
        pytest.param("kind: ConfigMap\ndata:\n  ? {a: b}\n  : c\n", "a key is a list or a mapping", id="name"),
    ],
)
@pytest.mark.parametrize("where", ["manifest", "config", "script", "map"])
def test_yaml_that_asks_for_too_much_is_refused_with_the_limit(
    text: str,
    wanted: str,
    where: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("yaml", reason="yaml is missing: `make test-all` installs plandsl[yaml]")
    monkeypatch.chdir(tmp_path)
    words = ["x.yaml"]
    if where == "manifest":
        Path("x.yaml").write_text(text)
    elif where == "map":
        Path("x.yaml").write_text(CONFIGURED + "|\n" + "".join(f"    {line}\n" for line in text.splitlines()))
    elif where == "config":
        Path("x.yaml").write_text(text)
        words = ["--", "trtllm-serve", "m", "--config", "x.yaml"]
    else:
        Path("x.sh").write_text(f"cat > c.yaml <<EOF\n{text}EOF\ntrtllm-serve m --config c.yaml\n")
        words = ["x.sh"]
    assert main(["import", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error[E509]: cannot read ")
    assert wanted in err
    assert "^" in err


@pytest.mark.extras
@pytest.mark.parametrize("entry", ["{ max_batch_size: 8 }\n", "[8]\n", "\n", "&a [*a]\n", "|\n    - 1\n    - 2\n"])
def test_a_configmap_entry_that_is_no_text_is_told(
    entry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("yaml", reason="yaml is missing: `make test-all` installs plandsl[yaml]")
    (tmp_path / "x.yaml").write_text(CONFIGURED + entry)
    assert main(["import", str(tmp_path / "x.yaml"), "--model", "llama_3_1_8b"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error[E50")
    assert "^" in err


@pytest.mark.parametrize("words", ["--random-input-len {}", "--max-concurrency {}", "--num-prompts {}"])
@pytest.mark.parametrize("number", ["²", "9" * 5000, "-1"])
def test_a_length_of_a_benchmark_that_is_no_number_says_nothing(
    words: str, number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = "vllm bench serve --random-output-len 8 --random-input-len 8 --max-concurrency 2 --num-prompts 4 "
    (tmp_path / "x.sh").write_text("vllm serve llama_3_1_8b\n" + known + words.format(number) + "\n")
    assert main(["import", str(tmp_path / "x.sh")]) == 0
    assert number not in capsys.readouterr().out.replace("-1", "", number != "-1")


@pytest.mark.extras
@pytest.mark.parametrize("engine", SCHEDULERS)
@pytest.mark.parametrize(
    ("file", "name"),
    [("split_llama_3_3_70b.plan", "split"), ("clusters/racks.plan", "wide"), ("experts.plan", "dealt"),
     ("shift_llama_3_3_70b.plan", "dp8"), ("adapters.plan", "")],
)  # fmt: skip
def test_manifests_are_what_kubernetes_takes(engine: SchedulerName, file: str, name: str) -> None:
    yaml = pytest.importorskip("yaml", reason="yaml is missing: `make test-all` installs plandsl[yaml]")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is missing: `make test-all` installs it")
    plan = compile_file(EXAMPLES / file, name or None)[0]
    made = deploy(plan.spec, engine, plan.closed_form(), plan.sources)
    if engine == "trtllm" and any(server.nodes > 1 for server in made.servers):
        return  # an error, as another test says
    texts = [write_k8s(made, engine, CONNECTOR[engine])]
    texts += [] if engine == "trtllm" else [write_dynamo(made, engine, CONNECTOR[engine])]
    for document in (one for text in texts for one in yaml.safe_load_all(text)):
        check = jsonschema.Draft202012Validator(SCHEMAS[document["kind"]])
        assert [error.message for error in check.iter_errors(document)] == []
        assert list(check.iter_errors(document | {"metadata": {"name": "Not_A_Name"}}))
