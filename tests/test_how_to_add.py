"""The table "How to add" of CONTRIBUTING.md, followed: an op, a function and a pass in a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("plandsl", "grammar", "passes", "backends")

FUNCTION = '    Function("softplus", lambda np, x: np.logaddexp(x, 0.0)),\n'

OP = '''
@frozen
class Negate(Regular):
    """``x`` with its sign changed."""

    keyword: ClassVar[str] = "negate"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any", linear=("x",))
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    span: Span | None = span_field()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """As ``x``."""
        return (Rule((self.x,), self.x.type.names, self.x.type.dtype),)


'''

PASS = '''"""Negate: every function of elements is negated twice."""

from attrs import evolve

from plandsl.ir.compute import Map, Negate
from plandsl.ir.program import Program, Region
from plandsl.ir.types import Value
from plandsl.passes.rewrite import Names, each_region
from plandsl.spec.plan import PlanSpec


def negate(program: Program, plan: PlanSpec) -> Program:
    """Negate what each function makes, and negate it again."""
    return each_region(program, _region)


def _region(region: Region) -> Region:
    names, ops = Names(region.values()), []
    for op in region.ops:
        if not isinstance(op, Map):
            ops.append(op)
            continue
        first, second = (Value(names.fresh(op.out.name), op.out.type) for _ in range(2))
        ops += [evolve(op, out=first), Negate(second, first), Negate(op.out, second)]
    return evolve(region, ops=tuple(ops))
'''

MODEL = """
model m {
  hidden = 8, ffn = 16, heads = 4, head_dim = 2, vocab = 12, layers = 2, weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
    a = attention(q, rope(h @ w_k[hidden, heads, head_dim]), h @ w_v[hidden, heads, head_dim])
    x = x + a @ w_o[heads, head_dim, hidden]
    x = x + softplus(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
plan p { model = m, node = h100_8, sharding { tp = 2, sp = 2 }, workload { input = 8, output = 4, batch = 2 } }
"""

USE = f'''
import numpy as np

from plandsl.backends.reference.compute import Local, compute
from plandsl.backends.reference.placement import Placement
from plandsl.driver import compile_text, pass_lines
from plandsl.ir.compute import Map, Negate
from plandsl.ir.text import read, read_op, read_type, show, show_op
from plandsl.ir.types import Mesh, Value

sizes, x, y = {{"hidden": 3}}, Value("x", read_type("bf16[hidden]")), Value("y", read_type("bf16[hidden]"))
held = {{"x": {{0: np.array([-1.0, 0.0, 2.0])}}}}
here = Local(0, Placement(Mesh(), sizes), held, past=0, ids=np.zeros((1, 3), int), requests=np.zeros(1, int))
assert compute(Negate(y, x), here)[0].tolist() == [1.0, 0.0, -2.0]
assert np.allclose(compute(Map(y, (x,), "softplus"), here)[0], np.log1p(np.exp([-1.0, 0.0, 2.0])))

some = Value("s", read_type("bf16[hidden@a]{{+b}}"))
op = Negate(some, some)
assert op.infer() == (some.type,)
assert not list(op.verify())
assert read_op(show_op(op), {{"s": some}}) == op

(plan,) = compile_text("""{MODEL}""")
assert "negate" in [name for name, _, _ in pass_lines()]
program = plan.prefill.program
assert read(show(program)) == program
types = {{str(op.x.type) for op in program.region("block").ops if isinstance(op, Negate)}}
assert types == {{"bf16[batch, position@seq, hidden]", "bf16[batch, position@seq, ffn@tensor]"}}
assert plan.verify().ok
times = {{line.name: line.time_s for line in plan.estimate().prefill.ops}}
assert times["softplus"] > 0
assert times["negate"] > 0
'''


def insert(path: Path, *edits: tuple[str, str, str]) -> None:
    """Put text before or after what stands in a file once."""
    text = path.read_text(encoding="utf-8")
    for where, mark, new in edits:
        assert text.count(mark) == 1, f"{path.name}: {mark}"
        text = text.replace(mark, new + mark if where == "before" else mark + new)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the rows of the table were followed."""
    root = tmp_path_factory.mktemp("added")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    insert(root / "plandsl/ir/functions.py", ("after", "FUNCTIONS = (\n", FUNCTION))
    insert(
        root / "plandsl/ir/compute.py",
        ("before", "\nCompute: TypeAlias = ", OP),
        ("after", "\nCompute: TypeAlias = ", "Negate | "),
    )
    insert(
        root / "backends/reference/compute.py",
        ("after", "    Norm,\n", "    Negate,\n"),
        ("before", "        case Scale():\n", "        case Negate():\n            return (-here.array(op.x),)\n"),
    )
    (root / "passes/negate.py").write_text(PASS, encoding="utf-8")
    insert(
        root / "passes/__init__.py",
        ("after", "from plandsl.passes.merge_sums import merge_sums\n", "from plandsl.passes.negate import negate\n"),
        ("before", '    Pass(\n        "shard", ', '    Pass("negate", negate, "before layouts"),\n'),
    )
    return root


CONFIG = """{"architectures": ["SmolLM3ForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 36,
"num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 11008, "vocab_size": 128256,
"torch_dtype": "bfloat16"}"""

ADDED = f'''
from plandsl.backends.cost.answers.counts import parameters
from plandsl.driver import compile_text, open_text
from plandsl.grammar.hf import translate
from plandsl.passes.build import build_model

text = translate(b"""{CONFIG}""", "config.json").text
assert "block plain [layers = 3..36 by 4]" in text
module = open_text(text)
module.check()
assert not module.diagnostics
spec = module.spec("model", module.declarations[0].name.text)
assert parameters(build_model(spec, "decode", "bf16")) == 3_075_098_624
long = open_text("").spec("model", "qwen3_14b_long")
assert (long.max_context, long.size("hidden")) == (131072, 5120)
load = "workload {{ input = 100, output = 10, batch = 4 }}"
(plan,) = compile_text("plan p {{ model = llama_3_1_8b, node = h20_141_4, sharding {{ tp = 4 }}, " + load + " }}")
assert plan.estimate().fits
assert plan.spec.node.gpu.bandwidth == 4.8e12
assert "memory" in dict(plan.spec.node.gpu.assumed)
'''


def test_a_model_a_gpu_a_node_and_a_family_are_added_as_the_examples_say(copy: Path) -> None:
    examples = re.findall(r"```text file=(\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    for path, text in examples:
        assert not (copy / path).exists()
        (copy / path).write_text(text, encoding="utf-8")
    assert {Path(path).suffix for path, _ in examples} >= {".plan", ".family"}
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", ADDED], cwd=copy, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_op_a_function_and_a_pass_are_added_as_the_table_says(copy: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", USE], cwd=copy, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
