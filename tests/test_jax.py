"""The backend `jax` prints each collective of a plan once, and a program that needs jax and numpy alone."""

import ast
import builtins
import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from math import isclose
from pathlib import Path
from symtable import SymbolTable, symtable

import pytest

from plandsl.backends.jax import run
from plandsl.cli import main
from plandsl.commands.run import predicted
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, check_plan, compile_text, open_file
from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, ReduceScatter, Rescale, Ring

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

CALLS = {
    AllReduce: "lax.psum",
    ReduceScatter: "lax.psum_scatter",
    AllGather: "lax.all_gather",
    AllToAll: "lax.all_to_all",
    Rescale: "rescale",
    Ring: "ring",
}
"""What a program calls for each op that communicates."""

SHOWN = [
    ("adapters", "turns"),
    ("experts", "dealt"),
    ("long_context", "states"),
    ("llama_4_scout", "context"),
    ("own_model", "megatron"),
    ("shift_llama_3_3_70b", "shift"),
    ("split_llama_3_3_70b", "split"),
    ("unlike_gpus", "by_hand"),
    ("vision", "split"),
]
"""Examples that have every collective, stages, pools, two shardings, adapters and a tower between them."""

PLAIN = "silu(h @ u[hidden, ffn]) @ d[ffn, hidden]"

STATED = """
model m {
  layers = 2, hidden = 64, ffn = 64, vocab = 100, weights = WEIGHTS
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    x = x + BODY
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
plan p { model = m, node = h100_8, sharding { tp = 2 }, workload { input = 8, output = 4, batch = 2 } }
"""


@cache
def functions(text: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def calls(function: ast.AST) -> Counter[str]:
    found = (ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call))
    return Counter(name for name in found if name in CALLS.values())


@pytest.mark.parametrize(("file", "name"), SHOWN)
def test_every_collective_of_a_program_is_called_once(file: str, name: str) -> None:
    spec, _ = check_plan(open_file(EXAMPLES / f"{file}.plan"), name)
    assert spec is not None
    check_calls(CompiledPlan(spec, ()))


@pytest.mark.parametrize("model", ["gemma_3n_e4b", "glm_5_2"])
def test_every_collective_of_a_model_that_hands_values_on_is_called_once(model: str) -> None:
    load = "workload { input = 600, output = 64, batch = 4 }"
    (plan,) = compile_text(f"plan p {{ model = {model}, node = h100_8, sharding {{ tp = 2, cp = 2 }}, {load} }}")
    check_calls(plan.small)


def check_calls(plan: CompiledPlan) -> None:
    """Each collective of the plan's programs is called once, in the function of its region."""
    made = functions(plan.jax_program())
    for sharding in (s for part, model in plan.parts.items() for s in model.shardings(part)):
        for program in sharding.programs:
            prefix = f"{sharding.prefix}{program.phase}_"
            for region in program.regions:
                wanted = Counter(CALLS[type(op)] for op in region.ops if type(op) in CALLS)
                assert calls(made[prefix + region.name.replace(".", "_")]) == wanted, region.name
            stages = [one for one in made if one.startswith(f"{prefix}stage_")]
            assert len(stages) == max(len(program.stages), 1)
            assert not any(calls(made[stage]) for stage in stages), "a stage only calls its regions"


def test_a_program_needs_jax_and_numpy_alone() -> None:
    (plan,) = compile_text(STATED.replace("BODY", PLAIN).replace("WEIGHTS", "bf16"))
    found = set()
    for node in ast.walk(ast.parse(plan.jax_program())):
        if isinstance(node, ast.Import):
            found |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    assert found - sys.stdlib_module_names == {"jax", "numpy"}


def test_every_name_of_a_program_stands_in_it() -> None:
    """Functions are printed from modules without their imports: what such a function imports would be missing."""
    (plan,) = compile_text(STATED.replace("BODY", PLAIN).replace("WEIGHTS", "bf16"))
    program = symtable(plan.jax_program(), "program", "exec")
    known = {one.get_name() for one in program.get_symbols() if one.is_assigned() or one.is_imported()}
    asked = {one.get_name() for table in below(program) for one in table.get_symbols() if one.is_global()}
    assert asked - known - set(dir(builtins)) == set()


def below(table: SymbolTable) -> Iterator[SymbolTable]:
    """The tables of functions and classes in ``table``."""
    for inner in table.get_children():
        yield inner
        yield from below(inner)


def test_names_of_values_do_not_hide_functions() -> None:
    body = "rms_norm(silu(h @ rope[hidden, ffn]) @ gates[ffn, hidden])"
    text = STATED.replace("  h = ", "  gemm = ").replace("BODY", body.replace("h @", "gemm @"))
    block = functions(compile_text(text.replace("WEIGHTS", "bf16"))[0].jax_program())["prefill_block"]
    assigned = {node.id for node in ast.walk(block) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert "gemm" not in assigned
    assert "gemm_" in assigned


def test_a_function_that_only_a_convolution_calls_is_in_the_program() -> None:
    (plan,) = compile_text(
        "plan p { model = qwen3_next_80b_a3b, node = h100_8, sharding { tp = 2 }, workload { input = 8, output = 4 } }"
    )
    (small,) = compile_text(
        STATED.replace("h = rms_norm(x)", "h = silu(short_conv(rms_norm(x), c[taps, hidden]))")
        .replace("ffn = 64", "ffn = 64, taps = 4")
        .replace("BODY", "gelu(h @ u[hidden, ffn]) @ d[ffn, hidden]")
        .replace("WEIGHTS", "bf16")
    )
    assert all("silu" in functions(one.jax_program(shrink=True)) for one in (plan, small))


def test_formats_that_jax_lacks_are_named_and_small_programs_do_without() -> None:
    (plan,) = compile_text(STATED.replace("BODY", PLAIN).replace("WEIGHTS", "fp6"))
    with pytest.raises(PlanError) as error:
        plan.jax_program()
    assert [d.code for d in error.value.diagnostics] == ["E516"]
    assert "`fp6`" in str(error.value)
    assert "fp6 = jnp.float64" in plan.jax_program(shrink=True, exact=True)


def test_steps_of_a_trace_are_no_option_of_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    """0 is a number that was given, though it counts as false."""
    assert main(["export", str(EXAMPLES / "own_model.plan"), "--plan", "own", "--to", "jax", "--steps", "0"]) == 2
    assert "error[E400]: `--steps` is no option of `--to jax`" in capsys.readouterr().err


def test_an_encoder_is_a_program_without_cache_and_decode() -> None:
    text = STATED.replace("BODY", PLAIN).replace("WEIGHTS", "bf16").replace("output = 4", "output = 0")
    made = functions(compile_text(text)[0].jax_program())
    assert [name for name in made if name.startswith("prefill_")] == [
        "prefill_embedding",
        "prefill_block",
        "prefill_head",
        "prefill_stage_0",
    ]
    assert not [name for name in made if name.startswith("decode_")]
    w = "[hidden, heads, head_dim]"
    attends = text.replace(PLAIN, f"attention(h @ q{w}, h @ k{w}, h @ v{w}) @ o[heads, head_dim, hidden]")
    attends = attends.replace("ffn = 64", "heads = 4, head_dim = 16")
    for output, kept in (("output = 0", 0), ("output = 4", 1)):
        block = functions(compile_text(attends.replace("output = 0", output))[0].jax_program())["prefill_block"]
        assert ast.unparse(block).count("new['") == kept


TIMED = """
plan p {
  model = llama_3_1_8b, node = h100_8, workload { input = 512, output = 64, batch = 8 }
  shift { base { sp = 4 }, tensor { tp = 4 }, threshold = 256 }
  speculate { draft = llama_3_2_1b, tokens = 2, acceptance = 70 % }
}
"""


def test_a_step_is_predicted_for_the_sharding_that_takes_it() -> None:
    (plan,) = compile_text(TIMED)
    found = predicted(plan)
    assert {name for name, _ in found} == {s.name for part, one in plan.parts.items() for s in one.shardings(part)}
    alone = {
        name: compile_text(
            f"plan q {{ model = llama_3_1_8b, node = h100_8, sharding {{ {rules} }},"
            " workload { input = 512, output = 64, batch = 8 } }"
        )[0].closed_form()
        for name, rules in (("base", "sp = 4"), ("tensor", "tp = 4"))
    }
    for name, estimate in alone.items():
        assert isclose(found[name, "prefill"], estimate.prefill.time_s)
        assert estimate.decode.time_s < found[name, "decode"] < 1.5 * estimate.decode.time_s, "a step of three tokens"


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"needed": 2, "devices": 1}, "E519", "XLA_FLAGS=--xla_force_host_platform_device_count=2"),
        ({"memory": "RESOURCE_EXHAUSTED: Out of memory allocating 8000000000 bytes."}, "E537", "8.00 GB at once"),
        ({"memory": "RESOURCE_EXHAUSTED: no more"}, "E537", "RESOURCE_EXHAUSTED: no more"),
    ],
)
def test_a_program_that_a_machine_cannot_hold_says_what_lacks(
    answer: dict[str, object], code: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "run_process", lambda *_: json.dumps({"device": "cpu", **answer}))
    monkeypatch.setattr(run, "python_with_jax", lambda: "python")
    with pytest.raises(PlanError) as error:
        run.time_program("")
    assert [d.code for d in error.value.diagnostics] == [code]
    assert said in str(error.value)


def test_a_program_that_the_system_ends_is_told_as_too_large() -> None:
    with pytest.raises(PlanError) as error:
        run.run_process([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], None)
    assert [d.code for d in error.value.diagnostics] == ["E537"]


def test_export_writes_real_and_small_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(EXAMPLES / "own_model.plan"), "--plan", "own", "--to", "jax"]
    assert main(command) == 0
    assert "Tensor((7, 1536, 24, 80), bf16, P(None, None, 'tensor'))".replace("'", '"') in capsys.readouterr().out
    assert main([*command, "--shrink"]) == 0
    assert "1536" not in capsys.readouterr().out
