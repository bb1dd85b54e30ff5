"""`planc` as people run it: exit statuses, both forms of output, and answers to wrong input."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plandsl.cli import VERBS, main
from plandsl.codes import CODES
from plandsl.codes_hf import HF_CODES
from plandsl.driver import check_module, open_text
from plandsl.grammar import catalog
from plandsl.grammar.parse import decode

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = str(ROOT / "examples" / "llama3_70b.plan")
PLAN = "plan p {{ model = llama_3_1_70b, node = {node}, sharding {{ {sharding} }}, workload {{ {workload} }}{more} }}\n"


def plan(sharding="tp = 8", node="h100_8", workload="input = 100, output = 10", more=""):
    return PLAN.format(node=node, sharding=sharding, workload=workload, more=more)


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def write(folder, text, name="p.plan"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---- compile


def test_compile_prints_every_plan_at_a_glance(capsys):
    status, out, err = run(capsys, "compile", EXAMPLE)
    assert (status, err) == (0, "")
    for word in ("tensor_parallel", "pipeline", "hybrid", "TTFT", "TPOT", "throughput", "largest batch", "assumed"):
        assert word in out
    assert "\x1b" not in out  # a pipe gets no colours


def test_json_has_the_documented_form(capsys):
    status, out, _ = run(capsys, "compile", EXAMPLE, "--plan", "hybrid", "--json")
    body = json.loads(out)
    assert status == 0
    assert set(body) == {"plandsl", "file", "plans"}
    (p,) = body["plans"]
    assert {
        "plan", "fits", "gpus", "replicas", "mesh", "ttft_s", "tpot_s", "latency_s", "throughput_tokens_per_s",
        "throughput_per_gpu_tokens_per_s", "memory_per_gpu_bytes", "kv_capacity_tokens", "max_batch", "prefill",
        "decode", "requires", "notes",
    } <= set(p)  # fmt: skip
    assert p["mesh"] == {"stage": 2, "tensor": 4}
    assert set(p["memory_per_gpu_bytes"]) == {"total", "weights", "kv_cache", "activations", "buffers", "capacity"}
    assert {"time_s", "compute_s", "communication_s", "bubble_s", "mfu", "mbu", "ops"} <= set(p["prefill"])
    ops = {o["name"]: o for o in p["prefill"]["ops"] if o["op"] == "gemm"}
    assert {"op", "name", "count", "shape", "flops", "bytes", "time_s", "bound"} <= set(ops["qkv"])
    reduced = next(o for o in p["prefill"]["ops"] if o["op"] == "all_reduce")
    assert {"op", "name", "count", "axis", "bytes", "time_s", "bound"} <= set(reduced)
    assert p["decode"]["time_s"] == p["tpot_s"]
    assert p["prefill"]["time_s"] == p["ttft_s"]
    assert all(set(r) == {"text", "value", "ok"} for r in p["requires"])


def test_a_requirement_that_fails_gives_status_1(capsys, tmp_path):
    path = write(tmp_path, plan(more=", require tpot <= 1 us"))
    status, out, _ = run(capsys, "compile", path)
    assert status == 1
    assert "FAILED" in out


def test_a_plan_that_does_not_fit_is_a_result_with_status_1(capsys, tmp_path):
    path = write(tmp_path, plan(sharding="tp = 1"))
    status, out, _ = run(capsys, "compile", path, "--json")
    body = json.loads(out)["plans"][0]
    assert (status, body["fits"]) == (1, False)
    assert body["ttft_s"] > 0


def test_check_does_not_judge_requirements(capsys, tmp_path):
    path = write(tmp_path, plan(more=", require tpot <= 1 us"))
    assert run(capsys, "check", path)[0] == 0


def test_set_overrides_a_field(capsys):
    out = [
        run(capsys, "compile", EXAMPLE, "--plan", "hybrid", "--json", *more)[1]
        for more in ((), ("--set", "workload.batch=8"))
    ]
    a, b = (json.loads(text)["plans"][0] for text in out)
    assert (a["batch"], b["batch"]) == (64, 8)
    assert b["ttft_s"] < a["ttft_s"]


@pytest.mark.parametrize("override", ["nonsense", "workload.batc=3", "sharding.tp=3", "workload.batch=2 s", "=4"])
def test_a_wrong_override_is_wrong_input(capsys, override):
    status, _, err = run(capsys, "compile", EXAMPLE, "--plan", "hybrid", "--set", override)
    assert status == 2
    assert "error[E" in err
    assert "help: " in err


def test_dump_prints_a_program_that_reads_back(capsys):
    from plandsl.ir.text import read, show

    for name in ("build", "shard", "insert-collectives", "quantize", "fuse", "cut-stages", "place-memory", "schedule"):
        status, out, _ = run(capsys, "compile", EXAMPLE, "--plan", "hybrid", "--dump", name)
        text = out.split("\n", 1)[1]
        assert status == 0
        assert show(read(text)) == text
    assert run(capsys, "compile", EXAMPLE, "--dump", "fuze")[0] == 2


def test_only_the_named_plan_is_judged(capsys, tmp_path):
    path = write(tmp_path, plan() + plan(sharding="tp = 3").replace("plan p", "plan q"))
    assert run(capsys, "compile", path, "--plan", "p")[0] == 0
    assert run(capsys, "compile", path)[0] == 2
    assert run(capsys, "compile", path, "--plan", "r")[0] == 2


def test_standard_input_is_a_file(capsys, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(plan().encode())))
    assert run(capsys, "compile", "-")[0] == 0


# ---- the other verbs


def test_fmt_check_and_write(capsys, tmp_path):
    path = write(tmp_path, "plan  p{model=llama_3_1_8b,node=h100_8,sharding{tp=2},workload{input=1,output=1}}# x\n")
    assert run(capsys, "fmt", "--check", path)[0] == 1
    assert run(capsys, "fmt", path)[0] == 0
    assert run(capsys, "fmt", "--check", path)[0] == 0
    assert "# x" in path.read_text("utf-8")


def test_fmt_leaves_a_broken_file_alone(capsys, tmp_path):
    good, bad = write(tmp_path, "let  a=1\n", "a.plan"), write(tmp_path, "plan p {\n", "b.plan")
    assert run(capsys, "fmt", good, bad)[0] == 2
    assert good.read_text("utf-8") == "let  a=1\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.plan", "b.plan"]


def test_verify_compares_with_the_unsharded_model(capsys):
    status, out, _ = run(capsys, "verify", EXAMPLE)
    assert status == 0
    assert out.count("equal to the unsharded model") == 3
    body = json.loads(run(capsys, "verify", EXAMPLE, "--plan", "hybrid", "--json")[1])
    assert body["plans"][0]["ok"] is True


def test_catalog_lists_and_prints(capsys):
    assert "llama_3_1_70b" in run(capsys, "catalog")[1]
    assert run(capsys, "catalog", "gpu", "mi325x")[1] == run(capsys, "catalog", "mi325x")[1]
    assert "memory = 255.98 GiB" in run(capsys, "catalog", "mi325x")[1]
    for wrong in (("mi32x",), ("gpu", "mi32x"), ("gpus",)):
        status, _, err = run(capsys, "catalog", *wrong)
        assert status == 2
        assert "help: " in err


def test_without_arguments_planc_says_where_to_start(capsys):
    status, out, err = run(capsys)
    assert (status, err) == (0, "")
    assert all(re.search(rf"^  {verb} +{re.escape(text)}$", out, re.M) for verb, (text, _) in VERBS.items())
    assert all(line in out for line in ("planc init ", "planc compile first.plan"))
    for line in re.findall(r"^  planc (\w+)", out, re.M):
        assert line in VERBS


@pytest.mark.parametrize(
    ("more", "shardings"),
    [
        ((), ["dp = 2", "tp = 2, dp = 1"]),
        (("--model", "llama_3_1_70b", "--node", "h100_8"), ["tp = 2, dp = 4", "tp = 8, dp = 1"]),
        (("--node", "h100_1"), ["tp = 1"]),
    ],
)
def test_a_first_plan_compiles_as_it_is(capsys, tmp_path, more, shardings):
    path = tmp_path / "mine.plan"
    status, out, err = run(capsys, "init", path, *more)
    assert (status, err) == (0, "")
    assert out == f"wrote {path}; now: planc compile {path}\n"
    text = path.read_text()
    assert re.findall(r"sharding \{ (.*?) \}", text) == shardings
    assert run(capsys, "fmt", "--check", path)[0] == 0
    status, out, err = run(capsys, "compile", path, "--json")
    assert (status, err) == (0, "")
    assert all(plan["fits"] for plan in json.loads(out)["plans"])
    status, _, err = run(capsys, "init", path)
    assert (status, path.read_text()) == (2, text)
    assert "exists already" in err


def test_no_first_plan_is_written_where_none_would_compile(capsys, tmp_path):
    path = tmp_path / "mine.plan"
    for more, why in (
        (("--model", "lama_3_1_8b"), "did you mean `llama_3_1_8b`?"),
        (("--node", "h100_9"), "h100_8"),
        (("--model", "llama_3_1_405b", "--node", "l40s_2"), "no tensor parallelism in `l40s_2` holds `llama_3_1_405b`"),
    ):
        status, _, err = run(capsys, "init", path, *more)
        assert status == 2
        assert why in err
        assert not path.exists()
    assert "mine.plan" in run(capsys, "init", "mine.txt")[2]


def test_diagnostics_are_coloured_where_the_reader_sees_colours(capsys, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    wrong = "compile", EXAMPLE, "--plan", "hybrid", "--set", "sharding.tp=3"
    status, _, usual = run(capsys, *wrong)
    assert (status, "\033" in usual) == (2, False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    found = run(capsys, *wrong)[2]
    assert re.sub(r"\033\[[0-9;]*m", "", found) == usual
    assert "\033[1;31merror[E301]\033[0m" in found
    assert re.search(r"\| +\033\[1;31m\^+ [^\033]+\033\[0m\n", found), "the caret has the colour of the severity"
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(capsys, *wrong)[2] == usual


def test_a_word_lists_the_entries_that_have_it_in_their_names(capsys):
    lines = run(capsys, "catalog", "model", "qwen")[1].splitlines()
    assert lines[0] == "model"
    alone = set(catalog.names("model")).difference(catalog.aliases("model"))
    assert len(lines) == 1 + sum("qwen" in name for name in alone)
    listed = json.loads(run(capsys, "catalog", "h100", "--json")[1])["catalog"]
    assert {kind: set(names) for kind, names in listed.items()} == {
        kind: {name for name in catalog.names(kind) if "h100" in name} for kind in listed
    }
    assert {"gpu", "node", "cluster"} <= set(listed)


def test_aliases_stand_on_the_line_of_their_entry(capsys):
    for kind in catalog.kinds():
        lines = run(capsys, "catalog", kind)[1].splitlines()[1:]
        aliases = catalog.aliases(kind)
        assert [line.split()[0] for line in lines] == [n for n in catalog.names(kind) if n not in aliases]
        for alias, entry in aliases.items():
            (line,) = (line for line in lines if line.split()[0] == entry)
            assert alias in line.partition("; also ")[2].split(", ")
    assert catalog.aliases("node")["h100_sxm_8"] == "h100_8"
    assert "a100_80" in run(capsys, "catalog", "gpu", "a100_sxm_")[1].split()


def test_passes_are_listed_with_a_line_each(capsys):
    status, out, _ = run(capsys, "passes", "--json")
    assert status == 0
    assert all(p["does"] and p["place"] for p in json.loads(out)["passes"])


@pytest.mark.usefixtures("drawing")
def test_render_writes_what_the_suffix_says(capsys, tmp_path):
    for suffix, start in ((".svg", b"<?xml"), (".dot", b"digraph"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        target = tmp_path / f"out{suffix}"
        assert run(capsys, "render", EXAMPLE, "--plan", "hybrid", "-o", target)[0] == 0
        assert start in target.read_bytes()[:200]
    assert run(capsys, "render", EXAMPLE, "-o", tmp_path / "x.svg")[0] == 2  # which of the three plans?
    assert run(capsys, "render", EXAMPLE, "--plan", "hybrid", "-o", tmp_path / "x.gif")[0] == 2
    assert run(capsys, "render", EXAMPLE, "--plan", "hybrid", "-o", tmp_path / "no" / "x.svg")[0] == 2
    assert not (tmp_path / "x.gif").exists()


def test_wrong_arguments_are_wrong_input(capsys):
    for arguments in (
        ("--json",),
        ("compil",),
        ("compile",),
        ("render", EXAMPLE),
        ("compile", EXAMPLE, "--phase", "x"),
    ):
        status, _, err = run(capsys, *arguments)
        assert status == 2
        assert err.startswith("error[E400]")


# ---- wrong input

HOSTILE = {
    "a degree that does not divide": (plan(sharding="tp = 3"), "E301"),
    "an unknown node": (plan(node="h10_8"), "E201"),
    "a missing unit": ("gpu g { memory = 80, bandwidth = 3 TB/s, compute { bf16 = 900 TFLOP/s } }\n" + plan(), "E205"),
    "a wrong unit": (plan(more=", require ttft <= 5 GB"), "E204"),
    "16 ranks on 8 GPUs": (plan(sharding="tp = 8, pp = 2"), "E302"),
    "a huge degree": (plan(sharding="tp = 1_000_000_000_000"), "E306"),
    "a file that uses itself": ('use "p.plan"\n' + plan(), "E209"),
    "20,000 parentheses": (plan(workload="input = " + "(" * 20_000 + "1" + ")" * 20_000 + ", output = 1"), "E107"),
    "a binary file": (bytes(range(256)) * 50, "E109"),
    "a 10,000-digit number": (plan(workload="input = " + "9" * 10_000 + ", output = 1"), "E106"),
    "an empty plan": ("plan p { }\n", "E207"),
    "an empty file": ("", "E401"),
    "a typo in a keyword": (plan(more="\n requre ttft <= 5 s"), "E101"),
    "a typo in a declaration": (plan().replace("plan p", "plam p"), "E211"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_wrong_input_is_answered_with_place_reason_and_hint(case, tmp_path):
    """A process of its own: exit status 2 within seconds and bounded memory, caret and hint, no traceback."""
    text, code = HOSTILE[case]
    path = write(tmp_path, text)
    limit = 1 << 30

    def bound():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    start = time.process_time()
    done = subprocess.run(
        [sys.executable, "-m", "plandsl", "compile", str(path), "--json"],
        capture_output=True, text=True, timeout=60, preexec_fn=bound, cwd=ROOT, check=False,
    )  # fmt: skip
    assert time.process_time() - start < 2
    assert done.returncode == 2
    assert f"error[{code}]" in done.stderr
    assert "Traceback" not in done.stderr
    assert "^" in done.stderr
    assert "help: " in done.stderr
    (first, *_) = [d for d in json.loads(done.stdout)["diagnostics"] if d["code"] == code]
    assert {"severity", "message", "file", "line", "column", "end_line", "end_column", "hint"} <= set(first)


def test_several_mistakes_are_reported_in_one_run(capsys, tmp_path):
    path = write(
        tmp_path, plan(sharding="tp = 3") + plan(node="h10_8").replace("plan p", "plan q") + "let a = 1 GB + 2 s\n"
    )
    _, _, err = run(capsys, "check", path)
    assert all(f"error[{code}]" in err for code in ("E301", "E201", "E204"))


def test_a_missing_file_and_a_folder(capsys, tmp_path):
    for path in (tmp_path / "no.plan", tmp_path):
        status, _, err = run(capsys, "compile", path)
        assert status == 2
        assert "cannot read" in err


# ---- start-up


def loaded(*arguments):
    call = f"main({list(map(str, arguments))!r})"
    code = f"import sys; from plandsl.cli import main\ntry: {call}\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split("\n")[-2].split())


def test_version_and_help_load_next_to_nothing():
    for argument in ("--version", "--help"):
        assert not {"numpy", "lark", "attrs", "attr", "rich", "graphviz"} & loaded(argument)


def test_compiling_loads_neither_numpy_nor_graphviz():
    for arguments in (("compile", EXAMPLE), ("check", EXAMPLE), ("compile", EXAMPLE, "--json")):
        assert not {"numpy", "graphviz", "hypothesis"} & loaded(*arguments)


def test_only_named_catalog_entries_are_read(monkeypatch):
    read = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self.stem) or real(self))
    from plandsl.grammar.modules import _catalog_unit

    _catalog_unit.cache_clear()
    open_text(plan()).plan("p")
    assert set(read) <= {"llama_3_1_70b", "h100", "h100_sxm", "generic"}


def test_colours_only_where_wanted():
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    for extra, coloured in (({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False), ({}, False)):
        done = subprocess.run(
            [sys.executable, "-m", "plandsl", "compile", EXAMPLE, "--plan", "hybrid"],
            capture_output=True, text=True, cwd=ROOT, check=True, env=environment | extra,
        )  # fmt: skip
        assert ("\x1b[3" in done.stdout) is coloured


ESCAPE = "\033[31mred\a"


@pytest.mark.parametrize(
    "words",
    [
        ("compile", f"{ESCAPE}.plan"),
        ("explain", ESCAPE),
        ("catalog", ESCAPE),
        ("catalog", "gpu", ESCAPE),
        ("compile", "p.plan", "--plan", ESCAPE),
        ("compile", "p.plan", "--set", f"{ESCAPE}=1"),
        ("compile", "p.plan", "--set", f"workload.batch={ESCAPE}"),
        ("check", "used.plan", "--format", "github"),
        ("check", "used.plan"),
        ("calibrate", "rows.csv", "-o", f"{ESCAPE}.plan"),
        ("accuracy", "rows.csv"),
        ("fmt", f"{ESCAPE}.plan"),
        ("render", "p.plan", "-o", f"{ESCAPE}.svg"),
        ("export", "p.plan", "--to", "vllm", "-o", f"{ESCAPE}.sh"),
    ],
    ids=lambda words: " ".join(words).replace(ESCAPE, "X"),
)
def test_no_name_steers_a_terminal(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("p.plan").write_text(
        "plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }, workload { input = 8, output = 8 } }\n"
    )
    Path("used.plan").write_text(f'use "{ESCAPE}.plan"\n')
    Path("rows.csv").write_text(f"op,{ESCAPE},n\n1,2,3\n")
    _, out, err = run(capsys, *words)
    assert out + err
    assert all(c.isprintable() or c == "\n" for c in out + err)


def run_apart(*arguments: str, **streams: object) -> subprocess.CompletedProcess[str]:
    """`planc` in a process of its own."""
    command = [sys.executable, "-m", "plandsl", *arguments]
    return subprocess.run(command, text=True, cwd=ROOT, check=False, timeout=60, **streams)


def test_an_output_without_some_signs_shows_others():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = run_apart("compile", EXAMPLE, "--plan", "hybrid", capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "##" in done.stdout
    assert "?" not in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [("check", "nosuch.plan"), ("nosuch",), ("compile", EXAMPLE, "--plan", "none")])
def test_an_error_that_cannot_be_printed_still_gives_the_status(arguments):
    with open("/dev/full", "w") as full:
        done = run_apart(*arguments, stdout=subprocess.PIPE, stderr=full)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("redirected", "arguments", "says"),
    [
        ("2>&-", "nosuch", ""),
        (">&-", "passes", "E405"),
        (">/dev/full", "--version", "E405"),
        ("<&-", "check -", "E209"),
    ],
)
def test_a_closed_or_full_end_of_planc_gives_the_status_and_is_told(redirected, arguments, says):
    command = f"{sys.executable} -m plandsl {arguments} {redirected}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


REPORTS = {
    "compile": [EXAMPLE],
    "explain": [EXAMPLE, "--plan", "hybrid"],
    "diff": [f"{EXAMPLE}:hybrid", f"{EXAMPLE}:pipeline"],
    "search": [ROOT / "examples" / "search_70b.plan"],
    "verify": [EXAMPLE, "--plan", "tensor_parallel", "--steps", "1"],
    "accuracy": ["gemm.csv"],
    "passes": [],
    "catalog": [],
}


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("verb", REPORTS)
def test_no_line_of_a_report_ends_in_a_space(verb, colour, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
    write(tmp_path, "gpu,dtype,m,n,k,time_s\nh100_sxm,bf16,8,1024,1024,1e-5\nno,bf16,8,8,8,1\n", "gemm.csv")
    lines = run(capsys, verb, *REPORTS[verb])[1].split("\n")
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert len(plain) > 1
    assert [line for line in plain if line != line.rstrip()] == []


# ---- codes


def found_by(text):
    """Codes that compiling a text finds: in it, in its bytes, or in what it asks for."""
    _, early = decode(text.encode(), "x.plan")
    module = open_text(text, "x.plan")
    return {d.code for d in [*early, *check_module(module)]} | ({"E401"} if not module.plans else set())


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_explained(code, capsys):
    status, out, _ = run(capsys, "explain", code)
    assert status == 0
    assert out.startswith(f"{code}: ")
    assert CODES[code].text


@pytest.mark.parametrize("code", [c for c in CODES if CODES[c].example and c not in HF_CODES])
def test_the_example_of_a_code_produces_it(code):
    assert code in found_by(CODES[code].example)


def test_every_code_in_the_source_is_explained():
    import re

    folders = ("plandsl", "grammar", "passes", "backends")
    files = {p.resolve() for f in folders for p in (ROOT / f).rglob("*.py")}
    used = {c for p in files for c in re.findall(r'"([EWN][1-4]\d\d)"', p.read_text("utf-8"))}
    assert used <= set(CODES)


def test_unknown_code(capsys):
    assert run(capsys, "explain", "E999")[0] == 2
