"""What a search writes and where it runs: pictures, Parquet, clusters, and the examples with their answers."""

import builtins
import csv
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from plandsl.cli import main
from plandsl.driver import compile_file, open_file, open_text
from plandsl.searches import shortlist
from plandsl.searches import spread as spreading
from plandsl.searches.points import CELLS, CLOUD, ON_CURVE, Points
from plandsl.searches.run import MEMORY, Run
from plandsl.searches.values import METRICS

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ROOT / "examples" / "search_70b.plan"
STUDY = ROOT / "examples" / "search_study.plan"
SEARCH = """search s {{
  model = llama_3_1_8b, node = h100_8
  workload {{ input = 1024, output = 128 }}
  vary tp in [1, 2, 4], pp in [1, 2], {more}
  where tp * pp <= 4
  require tpot <= 20 ms
  maximize throughput
}}
"""


def search(more="batch in 1..256 by * 2"):
    return open_text(SEARCH.format(more=more)).spec("search", "s")


def written(folder, more="batch in 1..256 by * 2"):
    path = folder / "s.plan"
    path.write_text(SEARCH.format(more=more))
    return str(path)


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    status = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def without(monkeypatch, package):
    """As if a library were not installed."""
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)


def all_rows(spec):
    """Every row of a search, and the collected points."""
    points, tables = Points(spec), []

    def sink(found, table):
        points(found, table)
        tables.append((found, table))

    found = Run(spec, 10, sink).run()
    return found, points, tables


# ---- libraries that are not there


def test_a_cluster_without_dask_is_one_line_with_its_extra(tmp_path, monkeypatch, capsys):
    without(monkeypatch, "distributed")
    status, out, err = run(capsys, "search", written(tmp_path), "--scheduler", "local")
    assert (status, out) == (2, "")
    assert err.startswith("error[E412]")
    assert "pip install 'plandsl[distributed]'" in err
    assert [p.name for p in tmp_path.iterdir()] == ["s.plan"]


LACKS = [("matplotlib", "E411", "plot", "x.svg"), ("pyarrow", "E410", "parquet", "x.parquet")]


@pytest.mark.parametrize(("package", "code", "extra", "lost"), LACKS)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_search_without_a_library_writes_all_other_files(
    tmp_path, monkeypatch, capsys, package, code, extra, lost, as_json
):  # fmt: skip
    without(monkeypatch, package)
    rows = "x.parquet" if package == "pyarrow" else "x.csv"
    files = ["--rows", tmp_path / rows, "--plot", tmp_path / "x.svg", "-o", tmp_path / "best.plan"]
    status, out, err = run(capsys, "search", written(tmp_path), *files, *["--json"] * as_json)
    assert status == 2
    assert err.startswith(f"error[{code}]")
    assert f"pip install 'plandsl[{extra}]'" in err
    assert err.count(f"{lost} is not written: ") == 1
    assert {p.name for p in tmp_path.iterdir()} == {"s.plan", "best.plan", rows, "x.svg"} - {lost}
    if as_json:
        body = json.loads(out)
        assert [d["code"] for d in body["diagnostics"]] == [code]
        assert body["searches"][0]["top"]
    else:
        assert "meet all" in out


@pytest.mark.parametrize(("package", "code", "extra", "lost"), LACKS)
def test_a_simulation_without_a_library_writes_all_other_files(
    tmp_path, monkeypatch, capsys, package, code, extra, lost
):  # fmt: skip
    without(monkeypatch, package)
    (tmp_path / "p.plan").write_text(
        "plan p { model = llama_3_1_8b, node = h100_1, engine = vllm\n"
        "  workload { input = 100, output = 10, requests = 20, rate = 5 req/s } }\n"
    )
    rows = "x.parquet" if package == "pyarrow" else "x.csv"
    files = ["--rows", tmp_path / rows, "--plot", tmp_path / "x.svg"]
    status, out, err = run(capsys, "simulate", tmp_path / "p.plan", *files)
    assert status == 2
    assert err.startswith(f"error[{code}]")
    assert "20 of 20 requests served" in out
    assert {p.name for p in tmp_path.iterdir()} == {"p.plan", rows, "x.svg"} - {lost}


@pytest.mark.parametrize(
    ("package", "view", "extra"), [("matplotlib", "tradeoff", "plot"), ("pygraphviz", "memory", "render")]
)
def test_a_command_of_one_output_says_which_extra_is_missing(tmp_path, monkeypatch, capsys, package, view, extra):
    without(monkeypatch, package)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    monkeypatch.setenv("PATH", str(tmp_path))  # no program `dot` either
    example = ROOT / "examples" / "own_model.plan"
    status, out, err = run(capsys, "render", example, "--view", view, "--plan", "own", "-o", tmp_path / "x.svg")
    assert (status, out) == (2, "")
    assert err.startswith("error[E4")
    assert f"plandsl[{extra}]" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x", "x.jpg", "x.csv"])
def test_an_unknown_kind_of_picture_is_refused_before_the_search(tmp_path, capsys, name):
    status, out, err = run(capsys, "search", written(tmp_path), "--plot", tmp_path / name)
    assert (status, out) == (2, "")
    assert "error[E400]" in err


def test_a_picture_in_no_folder_is_refused_before_the_search(tmp_path, capsys):
    status, out, err = run(capsys, "search", written(tmp_path), "--plot", tmp_path / "no" / "x.svg")
    assert (status, out) == (2, "")
    assert "error[E405]" in err


# ---- points


def test_points_keep_what_fits_and_no_more_than_their_bound():
    _, points, tables = all_rows(search("batch in 1..400, input in 256..4096 by + 256"))
    fitting = sum(int((t.why != MEMORY).sum()) for _, t in tables)
    assert fitting > CLOUD
    kept = sum(len(rows.numbers) for rows in points.clouds.values())
    assert CLOUD / 4 < kept <= CLOUD
    assert {len(rows.numbers) for rows in points.curves.values()} == {ON_CURVE}
    assert max(max(c.best.shape) for c in points.maps.values()) == CELLS
    assert set(points.clouds) == {"tp 1, pp 1", "tp 2", "tp 4", "pp 2", "tp 2, pp 2"}


def test_points_do_not_depend_on_how_rows_come():
    spec = search("batch in 1..400, input in 256..4096 by + 256")
    found, points, tables = all_rows(spec)
    other = Points(spec)
    for _, table in reversed(tables):
        for part in np.array_split(np.arange(len(table.why)), 3)[::-1]:
            other(found, type(table)(table.rows.take(part), table.why[part]))
    for name, rows in points.clouds.items():
        assert set(rows.numbers) == set(other.clouds[name].numbers)
        assert points.curves[name].numbers.tolist() == other.curves[name].numbers.tolist()
    for pair, cells in points.maps.items():
        assert np.array_equal(cells.best, other.maps[pair].best)
        assert np.array_equal(cells.ends, other.maps[pair].ends)


def test_a_curve_has_the_best_of_what_fits_at_each_batch():
    found, points, tables = all_rows(search("batch in 1..256 by * 2, input in [256, 1024]"))
    best = {}
    for _, table in tables:
        for number, value, why in zip(table.rows.numbers, table.rows.column("throughput"), table.why, strict=True):
            chosen = {c.name: s.value for c, s in found.combination(int(number))}
            at = chosen["tp"], chosen["pp"], chosen["batch"]
            if why != MEMORY:
                best[at] = max(best.get(at, 0.0), value)
    expected = [value for (tp, pp, _), value in sorted(best.items()) if (tp, pp) == (2, 2)]
    assert points.curves["tp 2, pp 2"].column("throughput").tolist() == expected


def test_a_map_has_the_best_of_each_cell_and_counts_every_row():
    spec = search()
    found, points, tables = all_rows(spec)
    best = np.full((3, 9), -np.inf)
    ends = np.zeros((3, 9), int)
    for _, table in tables:
        for number, metrics, why in zip(table.rows.numbers, table.rows.metrics, table.why, strict=True):
            chosen = {c.name: c.settings.index(s) for c, s in found.combination(int(number))}
            at = chosen["tp"], chosen["batch"]
            ends[at] += 1
            if not why:
                best[at] = max(best[at], metrics[METRICS.index("throughput")])
    cells = points.maps["sharding.tp", "workload.batch"]
    assert np.array_equal(cells.best, best)
    assert np.array_equal(cells.ends.sum(axis=2), ends)
    assert cells.ends[:, :, 0].sum() == found.tally.met


# ---- pictures


@pytest.mark.usefixtures("texts_apart")
def test_a_picture_names_plans_bounds_and_the_best(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "x.svg"
    status, out, _ = run(capsys, "search", written(tmp_path), "--plot", path)
    assert status == 0
    assert out.endswith(f"picture: {path}\n")
    text = path.read_text()
    # matplotlib draws letters as paths, and writes what they say beside them
    for said in ("tp 4", "tp 2, pp 2", "tpot &lt;= 20 ms", "TPOT", "TTFT", "throughput (tok/s)", "best, tp"):
        assert f"<!-- {said}" in text, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.plan", "x.svg"]


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_same_search_draws_the_same_file(tmp_path, capsys, ending, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    paths = [tmp_path / f"{n}.{ending}" for n in "ab"]
    for path in paths:
        run(capsys, "search", written(tmp_path), "--plot", path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "vary tp in [2]",
        "vary batch in [1, 4]",
        "vary tp in [1, 2], node in [h100_8, h200_8]",
        "vary batch in 1..64 by * 2, input in [64, 512], require tpot <= 1 us",
        "vary tp in [1, 2], require memory <= 1 %, minimize comm_share",
        "vary concurrency in 1..64 by * 2, tp in [1, 2], minimize latency, require latency <= 5 s",
        "vary tp in [1, 2], minimize tpot",
        "vary tp in [1, 2], batch in [1, 2], model = llama_3_1_405b",
    ],
)
def test_any_search_draws(tmp_path, capsys, text, request):
    pytest.importorskip("matplotlib")
    model = "" if "model =" in text else "model = llama_3_1_8b, "
    head = f"search s {{\n  {model}node = h100_8, workload {{ input = 1024, output = 128 }}\n  "
    plan, path = tmp_path / "s.plan", tmp_path / "x.svg"
    plan.write_text(
        head
        + text.replace(", require", "\n  require").replace(", minimize", "\n  minimize").replace(", model", "\n  model")
        + "\n}\n"
    )
    if "batch in [1, 4]" in text or "concurrency" in text:  # measured too, where axes are short
        request.getfixturevalue("texts_apart")
    status, _, err = run(capsys, "search", plan, "--plot", path)
    assert (status in (0, 1), err) == (True, "")
    assert path.read_text().startswith("<?xml")


@pytest.mark.usefixtures("texts_apart")
def test_searches_share_a_picture_where_their_configurations_are_the_same(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "x.svg"
    assert run(capsys, "search", SERVICES, "--plot", path)[0] == 0
    text = path.read_text()
    assert "<!-- interactive: best, tp 4, pp 2, batch 16 -->" in text
    assert "<!-- offline: best, pp 8, batch 64 -->" in text
    assert "<!-- also required: memory &lt;= 95 % -->" in text
    for goal in ("interactive: maximize throughput_per_gpu; 10 of 44", "offline: minimize latency; 4 of 44"):
        assert f"<!-- {goal} configurations meet all requirements -->" in text
    assert "<!-- llama_3_1_70b on mi325x_8; 2048 tokens in, 256 out -->" in text
    assert all(f"<!-- {2**i} -->" in text for i in range(11))  # every batch stands below the maps
    assert "(a) memory, (b) ttft &lt;= 2 s, (c) tpot &lt;= 15 ms, (d) throughput_per_gpu &gt;= 600 tok/s" in text
    status, _, err = run(capsys, "search", STUDY, "--plot", path)
    assert (status, "error[E403]" in err) == (2, True)
    assert path.read_text() == text


# ---- rows


MIXED = "node.link.bandwidth in [64 GB/s, 100.5 GB/s], node in [mi300x_8, mi325x_8], batch in [1, 8]"


def test_parquet_holds_what_csv_holds(tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [parquet]")
    plan = written(tmp_path, MIXED)
    for name in ("rows.csv", "rows.parquet"):
        assert run(capsys, "search", plan, "--rows", tmp_path / name)[0] == 0
    table = parquet.read_table(tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert table.num_rows == len(rows) == 5 * 2 * 2 * 2
    for row, other in zip(rows, table.to_pylist(), strict=True):
        for name, value in other.items():
            told = row[name]
            assert told == value if isinstance(value, str) else float(told or "inf") == float(value)
    kinds = {f.name: str(f.type) for f in table.schema}
    assert (kinds["tp"], kinds["batch"], kinds["node"], kinds["tpot_s"]) == ("int64", "int64", "string", "double")


def test_rows_of_a_search_without_any_have_their_heading(tmp_path, capsys):
    plan = Path(written(tmp_path))
    plan.write_text(plan.read_text().replace("tp * pp <= 4", "tp * pp > 8"))
    assert run(capsys, "search", plan, "--rows", tmp_path / "x.csv")[0] == 1
    (line,) = (tmp_path / "x.csv").read_text().splitlines()
    assert line.startswith("configuration,tp,pp,batch,ttft_s,")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [parquet]")
    assert run(capsys, "search", plan, "--rows", tmp_path / "x.parquet")[0] == 1
    assert parquet.read_table(tmp_path / "x.parquet").num_rows == 0


# ---- clusters


def found_by(status_out):
    body = json.loads(status_out)
    for one in body["searches"]:
        del one["seconds"]
    return body


def planc(folder, *arguments, wait=True):
    """`planc` in a process of its own, from which a cluster starts. Ctrl-C ends it, even if these tests ignore that."""
    command = [sys.executable, "-m", "plandsl", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    return (started.communicate(timeout=240), started.returncode) if wait else started


@pytest.mark.slow
def test_pickled_jobs_are_small_and_give_the_same_answer():
    import pickle

    spec = search("batch in 1..4000, input in 128..4096 by + 128")
    whole, parts = Run(spec), Run(spec)
    lean = spreading._strip_grid(parts.space.grid)
    assert len(pickle.dumps(lean)) < 20 * (4000 + 32) < len(pickle.dumps(parts.space.grid))
    for job in whole.jobs():
        whole.take(spreading.do_job(job, spreading.Compiler()))
    for jobs in spreading._batches(parts.jobs()):
        for done in spreading.do_batch(pickle.dumps([job._replace(grid=lean) for job in jobs]), False):
            parts.take(done)
    assert whole.found.tally.met == parts.found.tally.met
    assert np.array_equal(whole.found.tally.top.metrics, parts.found.tally.top.metrics, equal_nan=True)


@pytest.mark.parametrize("address", ["local:0", "local:x", "local:-1"])
def test_workers_that_cannot_be_started_are_wrong_arguments(tmp_path, capsys, address):
    pytest.importorskip("distributed", reason="needs the extra [distributed]")
    status, _, err = run(capsys, "search", written(tmp_path), "--scheduler", address)
    assert (status, "error[E400]" in err) == (2, True)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere", "udp://127.0.0.1:9"])
def test_where_nobody_answers_a_diagnostic_says_so(tmp_path, capsys, address):
    pytest.importorskip("distributed", reason="needs the extra [distributed]")
    status, out, err = run(capsys, "search", written(tmp_path), "--scheduler", address)
    assert (status, out) == (2, "")
    assert err.startswith(f"error[E412]: no Dask scheduler answers at {address}")


def test_two_workers_give_the_answer_of_one_process(tmp_path, capsys):
    pytest.importorskip("distributed", reason="needs the extra [distributed]")
    plan = written(tmp_path, "batch in 1..200, input in 128..4096 by + 128")
    status, out, _ = run(capsys, "search", plan, "--json", "--rows", tmp_path / "here.csv")
    (told, err), spread = planc(
        tmp_path, "search", plan, "--json", "--scheduler", "local:2", "--rows", "there.csv"
    )  # fmt: skip
    assert (spread, err) == (status, "")
    assert found_by(told) == found_by(out)
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


DAY = """plan {name} {{
  model = llama_3_1_8b, node = h100_8, sharding {{ tp = {tp} }}, engine = vllm, chunked_prefill = 8192
  workload {{ input = uniform(100, 900), output = 20
    rate = varying([[0 h, 20 req/s], [1 h, 60 req/s], [2 h, 90 req/s], [3 h, 40 req/s]], every = 4 h) }}
  require p90(ttft) <= 200 ms
}}
"""

CHOOSING = """search s {
  model = llama_3_1_8b, node = h100_8, engine = vllm, chunked_prefill = 8192
  workload { input = uniform(100, 900), output = 20, rate = 20 req/s, requests = 30 }
  vary tp in [1, 2, 4], dp in [1, 2]
  require p90(ttft) <= 200 ms
  minimize p90(ttft)
}
"""

LOSING = """
import os, sys, json, time
from argparse import Namespace
from plandsl.driver import compile_file, open_file
from plandsl.searches import spread as s
from plandsl.searches.run import Run
from plandsl.searches.runs import find_rates_with, simulate_seeds_with, simulate_with
from plandsl.searches.scale import scale
from plandsl.searches.shortlist import simulate_best

if __name__ == "__main__":
    from contextlib import ExitStack
    with ExitStack() as stack:
        client = s._client("local:2", stack)
        workers = s.Workers(client)
        lost, calls = [], []
        def lose(at):
            lost.clear(), calls.clear()
            def tick(done, of):
                calls.append(done)
                if len(calls) == at:
                    lost.append(next(iter(client.run(os.getpid).values())))
                    os.kill(lost[0], 9)
            return tick
        def restart():
            while len(pids := client.run(os.getpid, on_error="ignore")) < 2 or lost[0] in pids.values():
                client.cluster.scale(2)  # a nanny may give up
                time.sleep(0.1)
        def quiet(done, of):
            pass
        plans = compile_file(sys.argv[1])
        runs = simulate_with(workers, plans, 20, lose(1))
        restart()
        rates = find_rates_with(workers, plans[:1], 20, lose(1))
        assert lost
        restart()
        seeds = simulate_seeds_with(workers, plans[:1], 3, 20, quiet)
        day = scale(plans[0], Namespace(every="1h", requests=10, least=1), workers, quiet)
        found = workers.search(Run(open_file(sys.argv[2]).spec("search", "s"), 32), quiet)
        best = simulate_best(found, workers, None, 32, quiet)
        s.PLANS, s.LOADS, came = 1, 1, []
        sink = lambda found, table: came.append(int(table.rows.numbers[0]))
        t = s.run_jobs(Run(open_file(sys.argv[3]).spec("search", "s"), 10, sink), client, lose(2)).tally
        assert came == sorted(came) and len(came) == 20, came
        assert lost
    found = [[r.simulation.as_json() for r in runs], *(x.as_json() for x in (rates[0], seeds[0], day, best))]
    found.append([t.seen, t.met, t.top.numbers.tolist(), t.front.metrics.tobytes().hex()])
    print(json.dumps(found, sort_keys=True))
"""


def test_workers_that_die_cost_nothing_but_time(tmp_path):
    """One cluster, which loses a worker while it simulates plans, while it finds a rate, and while it searches."""
    pytest.importorskip("distributed", reason="needs the extra [distributed]")
    day, choosing, script = tmp_path / "day.plan", tmp_path / "choosing.plan", tmp_path / "losing.py"
    day.write_text(DAY.format(name="p", tp=1) + "plan q = p with { sharding { dp = 3, tp = 2 } }\n")
    choosing.write_text(CHOOSING)
    script.write_text(LOSING)
    many = written(tmp_path, "batch in 1..64 by * 2, model.weights in [bf16, fp8, int8, fp16]")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    outcome = subprocess.run(
        [sys.executable, script, day, choosing, many],
        env=environment,
        text=True,
        capture_output=True,
        check=False,
        timeout=240,
    )
    assert outcome.returncode == 0, outcome.stderr
    plans = compile_file(day)
    found = Run(open_file(choosing).spec("search", "s"), 32).run()
    best = shortlist.simulate_best(found, spreading.Workers(), None, 32, lambda done, of: None)
    t = Run(open_file(many).spec("search", "s")).run().tally
    here = [
        [plan.simulate(20).simulation.as_json() for plan in plans], plans[0].find_rate(20).as_json(),
        plans[0].simulate_seeds(3, 20).as_json(), plans[0].autoscale(3600.0, 10).as_json(), best.as_json(),
        [t.seen, t.met, t.top.numbers.tolist(), t.front.metrics.tobytes().hex()],
    ]  # fmt: skip
    assert outcome.stdout.strip() == json.dumps(here, sort_keys=True)


def test_commands_run_on_a_cluster(tmp_path, capsys):
    """One process, in which a client stands for the cluster's."""
    asked = []

    class Future:
        def __init__(self, function, arguments):
            self.work, self.over = (function, arguments), False

        def result(self):
            self.over = True
            return self.work[0](*self.work[1])

        def done(self):
            return self.over

    class Client:
        def nthreads(self):
            return {"a": threads, "b": 1}

        def submit(self, function, *arguments, pure):
            asked.append(Future(function, arguments))
            return asked[-1]

        def cancel(self, futures):
            """What is on its way is thrown away."""

    day, picture = tmp_path / "day.plan", tmp_path / "x.svg"
    day.write_text(DAY.format(name="p", tp=1) + "plan q = p with { sharding { dp = 3, tp = 2 } }\n")
    with pytest.MonkeyPatch.context() as patch:
        pytest.importorskip("distributed", reason="needs the extra [distributed]")
        patch.setattr(spreading, "_client", lambda address, stack: Client())
        sweep = importlib.import_module("plandsl.backends.plots.sweep")
        patch.setattr(sweep, "SHARES", (0.5, 1.1))
        patch.setattr(sweep, "LONG", 40)
        for threads, verb, *more in (
            [2, "simulate", "--requests", 20],
            [1, "simulate", "--find-rate", "--requests", 9],
            [5, "simulate", "--find-rate", "--requests", 9],
            [2, "simulate", "--seeds", 3, "--requests", 9],
            [1, "autoscale", "--requests", 10],
            [1, "simulate", "--requests", 20, "--plot", picture, "--view", "rates"],
        ):
            status, here, _ = run(capsys, verb, day, "--json", *more)
            drawn = picture.read_bytes() if picture.exists() else b""
            asked.clear()
            assert run(capsys, verb, day, "--json", *more, "--scheduler", "tcp://x:1") == (status, here, "")
            assert asked
            assert (picture.read_bytes() if picture.exists() else b"") == drawn
            if threads > 2 and "--find-rate" in more:
                assert not all(one.over for one in asked), "some runs are made ahead, and nobody asks for them"


def test_another_version_on_a_worker_is_named(monkeypatch, tmp_path, capsys):
    distributed = pytest.importorskip("distributed", reason="needs the extra [distributed]")
    del distributed

    class Cluster:
        def wait_for_workers(self, *_, **__):
            pass

        def run(self, *_):
            return {"tcp://a:1": spreading.__version__, "tcp://b:1": "0.0.1", "tcp://c:1": None}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(spreading, "_answering_address", lambda address: address)
    monkeypatch.setattr("distributed.Client", lambda *_, **__: Cluster())
    status, _, err = run(capsys, "search", written(tmp_path), "--scheduler", "tcp://x:1")
    assert status == 2
    assert "error[E412]: the worker at tcp://b:1 has plandsl 0.0.1" in err


def test_an_interruption_keeps_what_is_done(tmp_path):
    pytest.importorskip("distributed", reason="needs the extra [distributed]")
    vary = "batch in 1..10, model.layers in 1..2000"  # it takes minutes, a second for each batch of plans
    plan = written(tmp_path, vary)
    started = planc(tmp_path, "search", plan, "--json", "--rows", "x.csv", "--scheduler", "local:2", wait=False)
    while started.poll() is None and not any(f.stat().st_size > 10_000 for f in tmp_path.glob(".x.csv-*.tmp")):
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, err = started.communicate(timeout=120)
    assert (started.returncode, err) == (130, "x.csv is not written: the search was interrupted\n")
    assert not (tmp_path / "x.csv").exists()
    (body,) = json.loads(out)["searches"]
    assert body["interrupted"]
    assert 0 < body["configurations"] < search(vary).size
    assert len(body["top"]) == 10


# ---- examples


def best(capsys, file, name):
    status, out, _ = run(capsys, "search", file, "--search", name, "--json")
    assert status == 0
    return json.loads(out)["searches"][0]["top"][0]["choices"]


def test_the_two_services_take_a_hybrid_and_a_pipeline(capsys):
    assert best(capsys, SERVICES, "interactive") == {"tp": 4, "pp": 2, "batch": 16}
    assert best(capsys, SERVICES, "offline") == {"tp": 1, "pp": 8, "batch": 64}


@pytest.mark.parametrize("model", ["70b", "405b"])
def test_searches_find_what_the_study_found(capsys, model):
    fastest = best(capsys, STUDY, f"latency_{model}")
    assert (fastest["tp"], fastest["pp"]) == (8, 1)
    most = best(capsys, STUDY, f"throughput_{model}")
    assert (most["tp"], most["pp"], most["batch"]) == (1, 8, 1024)
    between = best(capsys, STUDY, f"between_{model}")
    assert (between["tp"], between["pp"]) == (4, 2)


def test_the_best_of_an_example_compiles_to_the_same_numbers(tmp_path, capsys):
    path = tmp_path / "best.plan"
    _, out, _ = run(capsys, "search", SERVICES, "--search", "offline", "--json", "-o", path)
    top = json.loads(out)["searches"][0]["top"][0]
    (plan,) = compile_file(path)
    e = plan.estimate()
    assert (e.ttft_s, e.tpot_s) == (top["ttft_s"], top["tpot_s"])


def test_the_pictures_of_the_docs_are_there():
    for name in ("services", "study_70b", "study_405b"):
        assert f"images/search/{name}.svg" in (ROOT / "docs" / "search.md").read_text()
        assert (ROOT / "docs" / "images" / "search" / f"{name}.svg").stat().st_size < 600_000
