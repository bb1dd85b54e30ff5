"""A folder of inputs, and for each verb of `planc` commands on them with the files that each is asked to write."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent

PLAN = """plan p {
  model = llama_3_1_8b, node = h100_8
  sharding { tp = 2 }
  workload { input = 512, output = 64, batch = 4 }
}
"""
PAIR = PLAN + PLAN.replace("plan p", "plan q").replace("tp = 2", "tp = 4")
SEARCH = """search s {
  model = llama_3_1_8b, node = h100_8, workload { input = 512, output = 64 }
  vary tp in [1, 2], batch in [1, 4]
}
"""
TRAFFIC = """plan t {
  model = llama_3_1_8b, node = h100_8, engine = vllm
  workload { input = 512, output = 16, rate = 4 req/s, requests = 40 }
  require ttft <= 10 s
}
"""
GEMMS = "gpu,dtype,m,n,k,time_s\n" + "".join(f"h100_sxm,bf16,{2**i},4096,4096,{1e-5 + i * 1e-6}\n" for i in range(12))


class Case(NamedTuple):
    """A command of `planc`, the files or folders that it is asked to write, the extras that it needs, its status."""

    words: tuple[str, ...]
    writes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    status: int = 0

    @property
    def missing(self) -> list[str]:
        """The libraries that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def words_for(self, folder: Path) -> list[str]:
        """The words, the outputs in another folder."""
        return [str(folder / word) if word in self.writes else word for word in self.words]


def case(words: str, *writes: str, needs: Sequence[str] = (), status: int = 0) -> Case:
    return Case(tuple(words.split()), writes, tuple(needs), status)


CASES = {
    "init": case("init out.plan", "out.plan"),
    "compile": case("compile p.plan"),
    "compile_json": case("compile p.plan --json"),
    "check": case("check p.plan s.plan --format sarif"),
    "render_dot": case("render p.plan -o out.dot", "out.dot"),
    "render_svg": case("render p.plan --view memory -o out.svg", "out.svg"),
    "tradeoff": case("render t.plan --view tradeoff -o out.svg", "out.svg", needs=["matplotlib"]),
    "report": case("report p.plan -o out.html", "out.html"),
    "verify": case("verify p.plan --steps 1"),
    "laws": case("laws p.plan --draws 0 --law work-is-shared-out"),
    "search": case("search s.plan --rows out.csv -o out.plan", "out.csv", "out.plan"),
    "search_parquet": case("search s.plan --rows out.parquet", "out.parquet", needs=["pyarrow"]),
    "search_plot": case("search s.plan --plot out.svg", "out.svg", needs=["matplotlib"]),
    "search_spread": case("search s.plan --scheduler local:1", needs=["distributed"]),
    "fmt": case("fmt rough.plan", "rough.plan"),
    "catalog": case("catalog model config.json"),
    "passes": case("passes"),
    "explain": case("explain p.plan"),
    "diff": case("diff pair.plan"),
    "compare": case("compare bench.plan bench.json --rows out.csv --fit out.plan", "out.csv", "out.plan"),
    "compare-comm": case("compare-comm pair.plan -o out.svg", "out.svg"),
    "measure": case("measure -o out.csv --seconds 0.01", "out.csv", needs=["jax"]),
    "calibrate": case("calibrate gemm.csv -o out.plan", "out.plan"),
    "calibrate_folder": case("calibrate gemm.csv -o out", "out"),
    "accuracy": case("accuracy gemm.csv"),
    "accuracy_rows": case("accuracy serving.csv --rows out.csv", "out.csv"),
    "simulate": case("simulate t.plan --rows out.csv", "out.csv"),
    "simulate_plot": case("simulate t.plan --plot out.png", "out.png", needs=["matplotlib"]),
    "autoscale": case("autoscale t.plan --requests 20 --every 1s"),
    "lsp": case("lsp", needs=["pygls"]),
    "serve": case("serve p.plan --port 0 --for 0.2", needs=["starlette", "uvicorn"]),
    "completion": case("completion bash"),
    "export_vllm": case("export p.plan --to vllm -o out.sh", "out.sh"),
    "export_perfetto": case("export p.plan --to perfetto -o out.json.gz", "out.json.gz"),
    "export_chakra": case("export p.plan --to chakra -o out", "out"),
    "export_jax": case("export p.plan --to jax --shrink -o out.py", "out.py"),
    "import": case("import run.sh -o out.plan", "out.plan"),
    "run": case("run p.plan --shrink --steps 1", needs=["jax"]),
}
"""Commands by name. The name up to a `_` is the verb."""


def make_inputs(folder: Path) -> None:
    """Write the files that the commands of `CASES` read."""
    texts = {
        "p.plan": PLAN, "pair.plan": PAIR, "s.plan": SEARCH, "t.plan": TRAFFIC, "gemm.csv": GEMMS,
        "rough.plan": PLAN.replace("  model", "model"),
        "run.sh": "vllm serve meta-llama/Llama-3.1-8B-Instruct --tensor-parallel-size 2\n",
        "bench.plan": (
            "plan b { model = llama_3_1_8b, node = h100_1, engine = vllm\n"
            "  workload { input = 1024, output = 128, concurrency = 32 } }\n"
        ),
        "serving.csv": (
            "gpu,n_gpu,framework,model,precision,isl_tokens,osl_tokens,concurrency,tp,output_tok_per_s\n"
            "h100_sxm,2,vllm,llama_3_1_8b,bf16,512,64,8,2,900\n"
        ),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    shutil.copy(ROOT / "tests" / "bench" / "vllm_8.json", folder / "bench.json")
    shutil.copy(ROOT / "tests" / "configs" / "llama_3_1_8b.json", folder / "config.json")


def snapshot(folder: Path) -> dict[str, str]:
    """Each path below a folder with what is there: the hash of a file, or the kind of another thing."""

    def walk() -> Iterator[tuple[str, str]]:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                yield name, f"link to {os.readlink(path)}"
            elif path.is_file():
                yield name, hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                yield name, "folder" if path.is_dir() else "other"

    return dict(walk())
