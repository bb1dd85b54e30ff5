"""The pages under docs/ say what is so: their examples compile, run and print what they show.

How a fenced block is held to that follows from its first line:

    plan                      a whole file without errors or warnings; `file=NAME` keeps it for commands below
    plan fragment             a part that parses
    plan fails E301           a whole file with errors of that code and no other
    console                   `$ planc ...`, `$ python -m ...`, `$ echo $?`, with its output
    console slow              the same, by `make test-all` alone
    ir small.plan plan=p after=shard [phase=decode]     lines of that program, in order
    csv file=conv.csv         a file for the blocks below
    json serve.plan           the fields of `planc compile serve.plan --json`, values aside
    python                    run in order; with `>>>` a doctest
    yaml                      a file of another tool: the commands of planc in it are taken by the command line
    sh                        commands that need a GPU or a long time: the command line takes them

In output a line `...` stands for any lines, and `...` within one for any text. `pytest --update-golden`
writes the real output and the generated tables into the pages; read the diff.
"""

import contextlib
import doctest
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from plandsl import limits
from plandsl.cli import VERBS, main, parser
from plandsl.codes import CODES
from plandsl.driver import check_module, compile_file, open_file, open_text
from plandsl.entries import catalog_gpu, catalog_line
from plandsl.grammar import (
    arrivals,
    catalog,
    draws,
    functions,
    hardware,
    layout,
    models,
    plans,
    requires,
    searches,
    sharding,
    synonyms,
    workloads,
)
from plandsl.grammar._tables import FIXED
from plandsl.grammar.modules import KINDS
from plandsl.grammar.parse import parse
from plandsl.ir.ops import OPS
from plandsl.ir.text import show
from plandsl.passes import PIPELINE
from plandsl.spec.formats import BITS
from plandsl.spec.hardware import CONSTANTS
from plandsl.traces import FORMATS
from plandsl.units import UNITS
from tests.checkpoints import first_kept, gguf_llama, llama, write_folder, write_gguf

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = (
    "language.md", "cost.md", "api.md", "architecture.md", "calibration.md", "measuring.md", "accuracy.md", "search.md",
    "traffic.md", "operator.md", "ci.md", "money.md", "laws.md", "gallery.md", "engines.md", "machines.md", "traces.md",
    "compare.md", "partitioner.md", "editor.md", "report.md", "playground.md", "index.md", "tutorial.md", "study.md",
    "tools.md", "howto/parallelism.md", "howto/slow.md", "howto/memory.md", "howto/rate.md", "howto/fleet.md",
    "howto/benchmark.md", "howto/engine.md", "howto/calibrate.md", "howto/own_model.md",
)  # fmt: skip
FENCE = re.compile(r"^```([^\n`]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its page, the line its text starts on, the words after the fence, its text."""

    page: str
    line: int
    info: tuple[str, ...]
    text: str

    def option(self, name):
        """What stands behind ``name=``."""
        return next((word.partition("=")[2] for word in self.info if word.startswith(name + "=")), None)


def read(page):
    return (DOCS / page).read_text("utf-8")


def blocks_of(page):
    text = read(page)
    found = FENCE.finditer(text)
    return [Block(page, text.count("\n", 0, m.start(2)) + 1, tuple(m[1].split()), m[2]) for m in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def sort_of(block):
    """What is asked of a plan: complete, fragment or fails."""
    return next((word for word in block.info[1:] if word in ("fragment", "fails")), "complete")


def each(kind, sort=None):
    """Parametrize over the blocks of a kind."""
    found = [b for b in BLOCKS if b.info[0] == kind and (sort is None or sort_of(b) == sort)]
    assert found
    slow = [pytest.param(b, marks=pytest.mark.slow) if "slow" in b.info else b for b in found]
    return pytest.mark.parametrize("block", slow, ids=[f"{b.page}:{b.line}" for b in found])


@pytest.fixture
def updating(request):
    return request.config.getoption("--update-golden", default=False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(tmp_path):
    """Make ``tmp_path`` a place to run in, from which `examples/` is seen as from the root."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    write_folder(tmp_path / "small_fp8", llama(first_kept))  # the files of weights that pages speak of
    write_gguf(tmp_path / "small-q4_k_m.gguf", gguf_llama())
    for path in (ROOT / "tests" / "bench").glob("vllm_*.json"):  # results of benchmarks
        (tmp_path / path.name).symlink_to(path)


def lay(block, folder):
    """Write the files that the page shows above ``block``; gives the name of its own."""
    for other in BLOCKS:
        name = other.option("file")
        if other.page == block.page and other.line <= block.line and name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(other.text, "utf-8")
    return block.option("file") or "block.plan"


def judged(block, folder):
    """The errors and warnings of a whole file."""
    name = lay(block, folder)
    (folder / name).write_text(block.text, "utf-8")
    return [d for d in check_module(open_file(name)) if d.severity != "note"]


# ---- examples


def test_every_block_is_of_a_known_kind():
    ours, editors = (
        {"plan", "console", "csv", "ir", "json", "python", "sh", "text", "yaml"},
        {"elisp", "jsonc", "lua", "toml"},
    )
    assert {b.info[0] for b in BLOCKS} <= ours | editors
    assert {b.page for b in BLOCKS if b.info[0] in editors} == {"editor.md"}
    words = {word.partition("=")[0] for b in BLOCKS if b.info[0] == "plan" for word in b.info[1:]}
    assert words <= {"file", "fragment", "fails", *CODES}


def test_commands_in_files_of_other_tools_are_taken():
    texts = [b.text for b in BLOCKS if b.info[0] in ("yaml", "sh")]
    texts.append((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    found = [line for text in texts for line in re.findall(r"\bplanc (\w[^;|}\n]*)", text)]
    assert len(found) >= 5
    for line in found:
        words = line.split()
        parser(VERBS).parse_args([*words, *([] if any("." in w or "$" in w for w in words) else ["FILE"])])
    hooks = set(re.findall(r"^- id: (.*)$", texts[-1], re.MULTILINE))
    assert {name for text in texts[:-1] for name in re.findall(r"^ *- id: (.*)$", text, re.MULTILINE)} == hooks


@each("plan", "complete")
def test_complete_examples_are_sound(block, folder):
    assert judged(block, folder) == []


@each("plan", "fails")
def test_wrong_examples_are_wrong_as_told(block, folder):
    assert {d.code for d in judged(block, folder)} == {block.info[-1]}


@each("plan", "fragment")
def test_fragments_parse(block):
    inside = "it is {\n" + block.text + "}\n"
    found = [parse(text, "fragment.plan")[1] for text in (block.text, inside)]
    assert [] in found, found


@each("ir")
def test_programs_read_as_shown(block, folder):
    lay(block, folder)
    (plan,) = compile_file(block.info[1], block.option("plan"))
    program = plan.program(block.option("phase") or "prefill", block.option("after"))
    real = iter(line.strip() for line in show(program).splitlines())
    for line in block.text.splitlines():
        wanted = re.sub(r" +", " ", line.strip())
        assert wanted in ("", "...") or wanted in real, f"not in the program, or not in this order: {wanted}"


def output(command, status):
    """What a command prints on both streams, and its exit status."""
    words = command.split()
    if command == "echo $?":
        return f"{status}\n", status
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        if words[0] == "planc":
            status = planc(*words[1:])
        else:
            assert words == ["python", "-m", "benchmarks.study"], f"no way to run `{command}`"
            from benchmarks.study import report

            print(report())
    return text.getvalue(), status


def planc(*arguments):
    try:
        return main([a.strip("'") for a in arguments])
    except SystemExit as stop:
        return stop.code


def played(block, folder):
    """The block with the real output of its commands, `...` kept where it covers the difference."""
    lay(block, folder)
    _, *parts = COMMAND.split(block.text)
    out, status = "", 0
    for command, shown in zip(parts[::2], parts[1::2], strict=True):
        real, status = output(command, status)
        out += f"$ {command}\n" + (shown[1:] if covers(shown[1:], real) else shortened(shown[1:], real))
    return out


def covers(shown, real):
    """Whether ``shown`` is ``real`` with `...` in place of some lines, or of some of a line."""
    lines = re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)
    parts = [re.escape(part).replace(re.escape("..."), ".*") for part in lines]
    return re.fullmatch("(?:.*\n)*".join(parts), real) is not None


def shortened(shown, real):
    """``real``, cut where ``shown`` has a line `...`; the line behind it is the next one with its words."""
    lines, out, at, cut = real.splitlines(keepends=True), "", 0, False
    for line in shown.splitlines(keepends=True):
        if line == "...\n":
            out, cut = out + line, True
            continue
        if cut:
            at = next((i for i in range(at, len(lines)) if words(lines[i]) == words(line)), len(lines))
        if at == len(lines):
            return real
        out, at, cut = out + (line if covers(line, lines[at]) else lines[at]), at + 1, False
    return out if cut else out + "".join(lines[at:])


def words(line):
    """The words of a line, without numbers and their units."""
    return [word for word in line.split() if word[0].isalpha() and word not in ("us", "ms", "s", "G", "K")]


@each("console")
def test_commands_print_what_is_shown(block, folder, updating):
    real = played(block, folder)
    if updating and real != block.text:
        path = DOCS / block.page
        path.write_text(path.read_text("utf-8").replace(block.text, real), "utf-8")
        return
    assert real == block.text


def fields(value, path=""):
    """The paths of all fields of a JSON value; the items of a list count together."""
    if isinstance(value, dict):
        own = {f"{path}.{key}" for key in value}
        return own.union(*(fields(inner, f"{path}.{key}") for key, inner in value.items()))
    return {p for item in value for p in fields(item, path + "[]")} if isinstance(value, list) else set()


@each("json")
def test_json_has_the_fields_shown(block, folder):
    lay(block, folder)
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        status = planc("compile", block.info[1], "--json")
    assert status in (0, 1)
    real, shown = json.loads(text.getvalue()), json.loads(block.text)
    assert fields(shown) == fields(real)


def test_the_operators_story_is_told_with_the_rates_that_it_shows() -> None:
    page, readme = ((ROOT / name).read_text("utf-8") for name in ("docs/operator.md", "README.md"))
    shown = re.findall(r"^(\w+) +\d+ +([\d.]+) times the trace's speed", page, re.MULTILINE)
    told = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| \w+ \| ([\d.]+) times.*?\| ([\d.]+) \|$", page, re.MULTILINE)
    assert [(name, f"{float(rate):.2f}") for name, rate in shown] == [(name, rate) for name, _, rate, _ in told]
    for (_, rate), (_, price, _, each) in zip(shown, told, strict=True):
        assert f"{float(price) / float(rate):.2f}" == each, "each GPU filled"
    first, *others, last = (rate for _, _, rate, _ in told)
    assert f"{', '.join([first, *others])} and {last} times the traffic" in readme


@pytest.mark.hypothesis  # docs/api.md has property tests
@pytest.mark.parametrize("page", PAGES)
def test_python_runs_as_shown(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace = {"__name__": page}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for block in (b for b in BLOCKS if b.page == page and b.info[0] == "python"):
        if ">>>" not in block.text:
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), namespace)
            continue
        test = doctest.DocTestParser().get_doctest(block.text, namespace, page, page, block.line - 1)
        test.globs = namespace
        told = []
        doctest.DocTestRunner(optionflags=flags).run(test, out=told.append, clear_globs=False)
        assert not told, "".join(told)


EXAMPLES = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("examples/**/*.plan"))


@pytest.mark.parametrize("path", EXAMPLES)
def test_every_example_file_checks_clean(path):
    assert [d for d in check_module(open_file(ROOT / path)) if d.severity != "note"] == []


# ---- closed sets


def code_of(page):
    """The words that stand in code on a page: in back quotes, or in a fenced block."""
    text = read(page)
    spans = [m[2] for m in FENCE.finditer(text)] + re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return {word for span in spans for word in re.split(r"[\s,|()\[\]{}=:\"]+", span)}


def commands():
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        planc("--help")
    return re.findall(r"^    ([\w-]+) ", text.getvalue(), re.MULTILINE)


def options():
    found = set()
    for command in commands():
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            planc(command, "--help")
        found |= set(re.findall(r"--[a-z-]+", text.getvalue()))
    return sorted(found)


CLOSED = {
    "declarations": (*KINDS, "let", "use"),
    "units": UNITS,
    "number formats": BITS,
    "fields of a model": models.FIELDS,
    "functions": functions.FUNCTIONS,
    "options of functions": {o for names in functions.OPTIONS.values() for o in names},
    "fields of a gpu": hardware.GPU,
    "fields of a node": hardware.NODE,
    "fields of a cluster": hardware.CLUSTER,
    "fields of a link": hardware.LINK,
    "topologies": (*hardware.TOPOLOGIES, *hardware.NETWORKS),
    "fields of a sharding": sharding.KNOWN,
    "axes of degrees": {sugar.axis for sugar in sharding.SUGAR.values()},
    "regions": sharding.REGIONS,
    "dimensions of every model": sharding.EVERY_MODEL,
    "fields of a workload": (*workloads.STATIC, *workloads.TRAFFIC),
    "fields of a plan": plans.PLAN,
    "fields of a search": searches.FIELDS,
    "algorithms": plans.ALGORITHMS,
    "distributions": draws.FORMS,
    "forms of a rate": (*arrivals.FORMS, arrivals.AT_ONCE),
    "formats of a trace": FORMATS,
    "metrics": (*requires.METRICS, *requires.OVER_REQUESTS),
    "words that start an item": {w for w, kind in FIXED.items() if kind in layout.ITEM_KEYWORDS},
}


@pytest.mark.parametrize("what", CLOSED)
def test_the_language_page_names_every_one_of(what):
    assert sorted(set(CLOSED[what]) - code_of("language.md")) == []


def test_the_language_page_names_every_command_and_option():
    assert {"compile", "check"} <= set(commands())
    assert sorted({*commands(), *options()} - code_of("language.md")) == []


def test_the_cost_page_names_every_constant():
    source = (ROOT / "backends" / "cost" / "machine" / "machine.py").read_text("utf-8")
    read_by_name = set(re.findall(r'\bget\("(\w+)"', source))
    assert read_by_name | {"low", "high"} == set(CONSTANTS)  # a band goes with every section, and with none
    assert sorted(set(CONSTANTS) - code_of("cost.md")) == []


def test_the_architecture_page_names_every_pass_and_op():
    named = code_of("architecture.md")
    assert [step.name for step in PIPELINE if step.name not in named] == []
    assert [op.keyword for op in OPS if op.keyword not in named] == []


def table_of_codes():
    rows = "".join(f"| `{name}` | {code.title} |\n" for name, code in sorted(CODES.items()))
    return "| code | what it means |\n| --- | --- |\n" + rows


def table_of_limits():
    rows = "".join(
        f"| `{one.name}` | {f'{one:,} {one.unit}'.strip()} | {one.what} | {', '.join(one.codes)} |\n"
        for one in limits.DEFAULTS.values()
    )
    return "| limit | at most | of what | beyond it |\n| --- | --- | --- | --- |\n" + rows


def table_of_words():
    """What a plan calls what other tools have, by the path of the field; words of no tool are left out."""
    words = {}
    for table, path in (
        (synonyms.FIELDS, lambda own: own.path),
        (synonyms.FORMATS, lambda own: own[0]),
        (synonyms.METRICS, lambda own: own[0]),
    ):
        for word, own in table.items():
            tool = own.tool if isinstance(own, synonyms.Synonym) else own[1]
            if tool:
                words.setdefault(path(own), {}).setdefault(tool, []).append(f"`{word}`")
    cells = {own: "; ".join(f"{tool}: {', '.join(names)}" for tool, names in by.items()) for own, by in words.items()}
    rows = "".join(f"| `{own}` | {elsewhere} |\n" for own, elsewhere in cells.items())
    return "| in a plan | elsewhere |\n| --- | --- |\n" + rows


def priced_gpus():
    """The GPUs of the catalog by name, without other names of the same GPU."""
    paths = sorted((ROOT / "plandsl" / "catalog" / "gpus").glob("*.plan"))
    return {path.stem: catalog_gpu(path.stem) for path in paths if "{" in path.read_text("utf-8")}


def table_of_prices():
    rows = ""
    for name, gpu in priced_gpus().items():
        prices = ["" if p is None else f"{p * 3600:.2f}" for p in (gpu.price, gpu.price_reserved)]
        idle = "" if gpu.power_idle is None else f"{gpu.power_idle:g} W"
        if gpu.price is not None or idle:
            rows += f"| `{name}` | {' | '.join(prices)} | {gpu.price_source} | {idle} |\n"
    return "| GPU | on demand | reserved | whose | idle power |\n| --- | --- | --- | --- | --- |\n" + rows


def unknown_prices():
    """Lines that name the GPUs without a price, and those without an idle power."""
    free = [f"`{name}`" for name, gpu in priced_gpus().items() if gpu.price is None]
    dark = [f"`{name}`" for name, gpu in priced_gpus().items() if gpu.power_idle is None]
    return f"- no price: {', '.join(free)}\n- no idle power: {', '.join(dark)}\n"


PEAKS = ("fp4", "fp8", "int8", "bf16", "fp16")


def table_of_chips():
    """A row for each accelerator: what the chip is, and whose kernels its times rest on."""
    rows = ""
    for name, gpu in priced_gpus().items():
        assumed = dict(gpu.assumed)
        peaks = []
        for dtype in PEAKS:
            peak = dict(gpu.compute).get(dtype)
            peaks.append("" if peak is None else f"{peak / 1e12:,.5g}{'*' * (f'compute.{dtype}' in assumed)}")
        memory = f"{gpu.memory / 2**30:.4g}{'*' * ('memory' in assumed)}"
        bandwidth = f"{gpu.bandwidth / 1e9:,.5g}{'*' * ('bandwidth' in assumed)}"
        power = "" if gpu.power is None else f"{gpu.power:g}{'*' * ('power' in assumed)}"
        own = catalog.aliases("gpu").get(gpu.calibration, gpu.calibration) == name
        kernels = "its own" if own else f"`{gpu.calibration}`"
        rows += f"| `{name}` | {memory} | {bandwidth} | {' | '.join(peaks)} | {power} | {kernels} |\n"
    head = ["chip", "GiB", "GB/s", *PEAKS, "W", "kernels of"]
    return f"| {' | '.join(head)} |\n|{' --- |' * len(head)}\n{rows}"


def _node_specs():
    module, others = open_text(""), catalog.aliases("node")
    return {name: module.spec("node", name) for name in catalog.names("node") if name not in others}


def _links(node):
    return catalog_line("node", node.name).removeprefix(f"{node.composition}, ").partition(" and direction")[0]


def table_of_nodes():
    """A row for each kind of node with its links, and the counts that there are."""
    kinds = {}
    for name, node in _node_specs().items():
        if node.price is None and not name.startswith(("aws", "gcp", "azure")):
            words = _links(node) if node.count > 1 else ""
            kinds.setdefault(name.rpartition("_")[0], []).append((node.count, words))
    rows = ""
    for stem, found in kinds.items():
        by = {}
        for count, words in found:
            by.setdefault(words.replace(" per", "/").replace("/ ", "/"), []).append(count)
        several = {words: sorted(by[words]) for words in sorted(by, key=lambda words: min(by[words])) if words}
        cells = [f"{', '.join(map(str, counts))}: {words}" for words, counts in several.items()] or ["1"]
        rows += f"| `{stem}_N` | {'; '.join(cells)} |\n"
    return f"| node | N, and its links each way |\n| --- | --- |\n{rows}"


def table_of_clouds():
    rows = ""
    for name, node in _node_specs().items():
        if name.startswith(("aws", "gcp", "azure")):
            network = "" if node.network is None else f"{node.network.bandwidth * 8 / 1e9:g} Gbit/s"
            host = "" if node.host_memory is None else f"{node.host_memory / 1e9:,.0f} GB"
            price = "" if node.price is None else f"{node.price * 3600:.2f}"
            rows += f"| `{name}` | {node.composition} | {network} | {host} | {price} | {node.price_source} |\n"
    return "| node | chips | network of each | host | USD/h | whose |\n| --- | --- | --- | --- | --- | --- |\n" + rows


@pytest.mark.parametrize("page", PAGES)
def test_generated_tables_are_up_to_date(page, updating):
    made = {
        "codes": table_of_codes, "words": table_of_words, "prices": table_of_prices, "unknown": unknown_prices,
        "chips": table_of_chips, "nodes": table_of_nodes, "clouds": table_of_clouds, "limits": table_of_limits,
    }  # fmt: skip
    text = read(page)
    real = GENERATED.sub(lambda m: m[1] + made[m[2]]() + m[3], text)
    assert "generated: codes" in text or page != "language.md"
    if updating and real != text:
        (DOCS / page).write_text(real, "utf-8")
        return
    assert real == text


# ---- links


def anchors(path):
    """What GitHub makes of the headings of a page."""
    text = FENCE.sub("", path.read_text("utf-8"))
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}" for name in PAGES)])
def test_relative_links_resolve(page):
    text = FENCE.sub("", (ROOT / page).read_text("utf-8"))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page):
    folders = "backends|benchmarks|docs|examples|grammar|passes|plandsl|tests"
    named = re.findall(rf"`((?:{folders})/[\w/.\-]*)`", FENCE.sub("", read(page)))
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


def test_every_page_is_tested():
    assert sorted(PAGES) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))
