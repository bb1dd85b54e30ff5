"""No cell of a file of measurements ends in a traceback, a hang or a fit to what is no number."""

import csv

import numpy as np
import pytest

from plandsl.backends.calibrate.kinds import KINDS
from plandsl.backends.calibrate.run import LEAST, jobs
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.entries import catalog_gpu, catalog_link
from plandsl.limits import MAX_TABLE_BYTES
from plandsl.measurements import AT_MOST, NUMBERS
from tests.tables import WHOLE

BAD = ("nan", "inf", "-inf", "-1", "0", "1e50", "text", "", "1_0", "power_law_x", "power_law_nan", "power_law_1e50",
       "activated_experts=x", "activated_experts=nan", "activated_experts=0")  # fmt: skip
FILES = sorted({kind.file.removesuffix(".csv") for kind in KINDS})
ROWS = LEAST + 2


def write(folder, name, at, column=None, cell=""):
    """Rows of a file, of which those of ``at`` hold ``cell`` in a column."""
    header, row = WHOLE[name]
    with (folder / f"{name}.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(header)
        for i in range(ROWS):
            out.writerow(
                [cell if i in at and name == column else value for name, value in zip(header, row, strict=True)]
            )
    return folder


def found(folder):
    """The jobs of a folder, or the diagnostic that it ends in."""
    try:
        return list(jobs([folder], catalog_gpu, catalog_link))
    except PlanError as error:
        (diagnostic,) = error.diagnostics
        return diagnostic


def blank(name, column):
    """Whether a cell of this column may be empty."""
    kinds = [kind for kind in KINDS if kind.file == f"{name}.csv"]
    return not any(column in kind.columns and column not in kind.blank for kind in kinds)


def fits(name, column, cell):
    """Whether a cell is a number that its column may hold, as the declared ranges have it."""
    if not cell:
        return blank(name, column)
    try:
        return NUMBERS[column].least <= float(cell) <= NUMBERS[column].most
    except ValueError:
        return False


@pytest.mark.parametrize("name", FILES)
def test_the_rows_that_are_spoiled_below_can_be_fitted(name, tmp_path):
    assert found(write(tmp_path, name, ()))
    header, _ = WHOLE[name]
    for kind in KINDS:
        if kind.file == f"{name}.csv":
            assert set(kind.columns) <= set(header)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_wrong_cell_is_named_by_row_and_column(name, every, tmp_path):
    for column in WHOLE[name][0]:
        edges = map(str, NUMBERS[column]) if column in NUMBERS else ()
        for cell in (*BAD, *edges):
            said = f"{column} = {cell!r}"
            result = found(write(tmp_path, name, range(ROWS) if every else (4,), column, cell))
            if column in NUMBERS and not fits(name, column, cell):
                assert result.code == "E450", said
                assert f"row {2 if every else 6}: `{column}` is `{cell}`" in result.message, said
                assert f"`{column}` is a number from {NUMBERS[column]}" == result.hint, said
            elif not isinstance(result, list):  # a number that is sound by itself, and not beside another
                assert any(column in pair and f"`{pair[0]}` is " in result.message for pair in AT_MOST), said
            else:
                for job in result:
                    seconds = job.kind.seconds(job.kind.start, job.gpu, job.rows)
                    measured = job.rows.numbers(job.kind.metric)
                    for values in (seconds, measured):
                        assert ((values > 0) & (values < np.inf)).all(), said


def test_blank_lines_count_as_rows(tmp_path):
    write(tmp_path, "gemm", (4,), "m", "0")
    text = (tmp_path / "gemm.csv").read_text()
    (tmp_path / "gemm.csv").write_text(text.replace("\n", "\n\n", 2))
    assert "row 8: `m` is `0`" in found(tmp_path).message


def test_nothing_is_written_where_a_cell_is_wrong(tmp_path, capsys):
    write(tmp_path, "ep_alltoall", (4,), "topk", "1e50")
    assert main(["calibrate", str(tmp_path), "-o", str(tmp_path / "x.plan")]) == 2
    assert "error[E450]" in capsys.readouterr().err
    assert not (tmp_path / "x.plan").exists()


@pytest.mark.parametrize("verb", [["calibrate", "-o", "x.plan"], ["accuracy"]])
def test_a_large_file_is_not_read(verb, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (write(tmp_path, "gemm", ()) / "gemm.csv").open("ab") as file:
        file.truncate(MAX_TABLE_BYTES + 1)
    assert main([*verb, "gemm.csv"]) == 2
    assert f"larger than {MAX_TABLE_BYTES:,} bytes" in capsys.readouterr().err


def test_every_column_of_numbers_that_a_kind_needs_has_a_range():
    texts = {"gpu", "dtype", "kv_dtype", "op", "backend", "phase", "library", "mode", "routing", "kernel"}
    for kind in KINDS:
        assert set(kind.columns) - NUMBERS.keys() <= texts
        assert {kind.metric, *kind.blank} <= NUMBERS.keys()
