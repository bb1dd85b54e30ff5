"""What needs libraries beside those of `make test`: notebooks, `%%plan`, and those that take tables by Arrow.

`make test-all` installs them; elsewhere these tests are skipped, and say which library is missing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import plandsl
from plandsl import Plan, Search, Sharding, Workload

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
PLAN = Plan(
    name="serve",
    model="llama_3_1_8b",
    node="h100_8",
    sharding=Sharding(tp=4),
    workload=Workload(input=1024, output=128, batch=8),
)

pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("ignore")]


def need(library: str, extra: str = "notebook") -> Any:
    """A library, or a skip that says what is missing."""
    return pytest.importorskip(library, reason=f"{library} is missing: `make test-all` installs plandsl[{extra}]")


# ---- notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_asks_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = need("nbformat"), need("nbclient")
    need("ipykernel")
    need("matplotlib", "plot")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    silent = ("import ", "from ", "%load_ext")
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.startswith(silent):
            assert cell.outputs, cell.source
            assert not [out for out in cell.outputs if out.get("name") == "stderr"], cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    import json

    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


# ---- the magic


@pytest.fixture
def shell() -> Any:
    """A shell of IPython with the extension, whose displayed objects are kept."""
    need("IPython")
    from IPython.core.interactiveshell import InteractiveShell

    made = InteractiveShell.instance()
    made.extension_manager.load_extension("plandsl")
    yield made
    InteractiveShell.clear_instance()


def test_a_cell_shows_its_plans_and_names_them(shell: Any) -> None:
    from IPython.utils.capture import capture_output

    with capture_output() as shown:
        done = shell.run_cell(f"%%plan --view timeline\n{PLAN}")
    assert done.success
    report, picture = shown.outputs
    assert "where the time goes" in report.data["text/html"]
    assert picture.data["text/plain"].startswith("<Picture of ")
    assert shell.user_ns["serve"].estimate().ok
    search = Search(name="tps", plan=PLAN, vary={"tp": [1, 2]}, goals="maximize throughput")
    with capture_output() as shown:
        assert shell.run_cell(f"%%plan --no-picture\n{search}").success
    assert len(shown.outputs) == 2
    assert shell.user_ns["tps"].seen == 2


def test_a_mistake_in_a_cell_is_text_with_a_caret_and_no_traceback(shell: Any) -> None:
    from IPython.utils.capture import capture_output

    with capture_output() as shown:
        done = shell.run_cell(f"%%plan\n{PLAN.with_(sharding=Sharding(tp=3))}")
    assert isinstance(done.error_in_exec, plandsl.PlanError)
    assert "cell.plan:4:14" in shown.stdout
    assert "^^ 32 / 3 is not whole" in shown.stdout
    assert "Traceback" not in shown.stdout
    with capture_output() as shown:
        shell.run_cell(f"%%plan --view devises\n{PLAN}")
    assert "E400" in shown.stdout
    assert "Traceback" not in shown.stdout


# ---- who takes tables


def test_pandas_takes_tables() -> None:
    pandas = need("pandas", "takers")
    table = PLAN.estimate().table("decode")
    frame = pandas.DataFrame(table.columns)
    assert list(frame.columns) == list(table.columns)
    assert frame.time_s.sum() == pytest.approx(table["time_s"].sum())


def test_polars_takes_tables() -> None:
    polars = need("polars", "takers")
    need("pyarrow", "arrow")
    table = PLAN.estimate().table("decode")
    frame = polars.DataFrame(table)
    assert frame["time_s"].sum() == pytest.approx(table["time_s"].sum())
    assert polars.DataFrame(PLAN.evaluate(batch=[1, 2]).table()).shape[0] == 2  # type: ignore[arg-type]


def test_duckdb_takes_tables() -> None:
    duckdb = need("duckdb", "takers")
    need("pyarrow", "arrow")
    ops = PLAN.estimate().table("decode")
    found = duckdb.sql("select op, sum(time_s) as s from ops group by op order by s desc limit 1").fetchall()
    assert found == [("gemm", pytest.approx(sum(row["time_s"] for row in ops if row["op"] == "gemm")))]
