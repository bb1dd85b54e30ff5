"""`planc import`: a launch command, a script or a manifest of an engine as a plan."""

from __future__ import annotations

import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from attrs import evolve

from plandsl._version import __version__
from plandsl.backends.accuracy.names import PRECISION, find_model, precision_of
from plandsl.backends.engines.arguments import Launch, find_bench, find_launch, take_config
from plandsl.backends.engines.flags import MODEL_FLAG, SHOWN
from plandsl.backends.engines.formats import read_weights
from plandsl.backends.engines.plan_text import write_plan
from plandsl.backends.engines.reading import Reading
from plandsl.backends.engines.server import Role, Server
from plandsl.backends.engines.sglang import read_sglang
from plandsl.backends.engines.trtllm import read_trtllm
from plandsl.backends.engines.vllm import read_vllm
from plandsl.backends.engines.words import is_whole, split_commands
from plandsl.commands.console import OK, print_json
from plandsl.commands.findings import print_diagnostics
from plandsl.commands.host_cache import size_host_caches
from plandsl.commands.sources import read_source
from plandsl.diagnostics import MOST_NEAR, Diagnostic, PlanError, clip, either, suggest
from plandsl.driver import compile_text, open_text
from plandsl.entries import catalog_has, catalog_model, catalog_node
from plandsl.files import is_there, write_file
from plandsl.grammar.modules import catalog_names
from plandsl.spec.hardware import NodeSpec
from plandsl.spec.model import ModelSpec
from plandsl.spec.scheduler import SchedulerName
from plandsl.units import show_bytes

COMMAND = "<command>"
"""The file name of an imported command line in diagnostics."""

EXAMPLE = "planc import -- vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size 4"
LOAD = {"random-input-len": "input", "input-len": "input", "random-output-len": "output", "output-len": "output"}


class _Found(NamedTuple):
    """What a text says: servers, the load of its benchmark, and the texts that places point into."""

    launches: list[Launch]
    load: dict[str, str]
    sources: dict[str, str]
    notes: list[Diagnostic]


def run_import(arguments: Namespace) -> int:
    """`planc import`."""
    found = _read(arguments.source)
    text, notes = _plan(found, arguments)
    _check(text, arguments.output or "imported.plan", found)
    if notes:
        print_diagnostics(notes, found.sources)
    if arguments.output not in (None, "-"):
        write_file(arguments.output, text)
    if arguments.json:
        print_json({"plandsl": __version__, "text": text, "notes": [note.as_json() for note in notes]})
    elif arguments.output in (None, "-"):
        sys.stdout.write(text)
    else:
        sys.stdout.write(f"plan: {arguments.output}\n")
    return OK


def _check(text: str, file: str, found: _Found) -> None:
    """Compile the plan: what a command line asks for may be wrong, and then it says so in the plan's own words."""
    try:
        compile_text(text, file)
    except PlanError as error:
        hint = "the other diagnostics tell where, in the words of a plan"
        why = Diagnostic("E508", "this command line makes no working plan", found.launches[0].start, hint=hint)
        raise PlanError([*error.diagnostics, why], {**found.sources, **error.sources}) from error


def _read(words: Sequence[str]) -> _Found:
    """The servers that a file or the words of a command start. Raises `PlanError` with everything that is wrong."""
    name = words[0] if len(words) == 1 and (words[0] == "-" or is_there(Path(words[0]))) else ""
    text = read_source(name) if name else words[0] if _is_line(words) else " ".join(map(shlex.quote, words))
    file = name or COMMAND
    if Path(name).suffix in (".yaml", ".yml"):
        from plandsl.backends.engines.manifests_read import read_manifest

        load: dict[str, str] = {}
        sources = {file: text}
        launches, found = read_manifest(text, file)
    else:
        launches, load, found, sources = _read_commands(text, file)
    if not launches:
        found.append(_no_engine(words, name, file))
    if any(one.severity == "error" for one in found):
        raise PlanError(found, sources)
    return _Found(launches, load, sources, found)


def _is_line(words: Sequence[str]) -> bool:
    """Whether a whole command line stands in quotes."""
    return len(words) == 1 and " " in words[0].strip()


def _no_engine(words: Sequence[str], name: str, file: str) -> Diagnostic:
    """The error (E505) about words, or the file ``name``, that start no engine."""
    first = words[0].split()[0] if words and words[0].split() else ""
    if Path(name).suffix == ".plan":
        return Diagnostic("E505", f"{file} is a plan already", hint=f"planc compile {file}")
    if Path(name).suffix in (".json", ".jsonl"):
        hint = f"the result of a benchmark is for `planc compare PLAN {file}`"
        return Diagnostic("E505", f"{file} starts no engine: it is JSON", hint=hint)
    if not name and len(words) == 1 and not _is_line(words):
        why = f"`{clip(words[0])}` is neither a file nor a command that starts an engine"
        return Diagnostic("E505", why, hint=f"a script, a manifest, or a command: {EXAMPLE}")
    if not name and first in ("vllm", "sglang") and words[1:2] != ["serve"]:
        why = f"`{clip(' '.join(words)[:40])}` starts no engine: expected `{first} serve`"
        return Diagnostic("E505", why, hint=f"planc import -- {first} serve MODEL")
    expected = "`vllm serve`, `python3 -m sglang.launch_server` or `trtllm-serve`"
    return Diagnostic("E505", f"{file} starts no engine: expected {expected}", hint=EXAMPLE)


def _read_commands(text: str, file: str) -> tuple[list[Launch], dict[str, str], list[Diagnostic], dict[str, str]]:
    launches: list[Launch] = []
    load: dict[str, str] = {}
    found: list[Diagnostic] = []
    sources = {file: text}
    for command in split_commands(text, file):
        bench = find_bench(command)
        if bench is not None:
            load = _load(bench)
            if "rate" in load and is_whole(bench.get("max-concurrency", "")):
                most = bench["max-concurrency"]
                why = f"the benchmark sends at most {most} requests at once, and a plan has the rate alone"
                hint = "`planc compare` simulates both"
                found.append(Diagnostic("N540", why, command.words[0].span, hint=hint))
            continue
        launch = find_launch(command, found)
        if launch is None:
            continue
        if launch.config is not None:
            launch = _with_config(launch, text, file, found, sources)
        launches.append(launch)
    return launches, load, found, sources


def _with_config(launch: Launch, text: str, file: str, found: list[Diagnostic], sources: dict[str, str]) -> Launch:
    """``launch`` with the keys of its `--config`: a document in the script itself, or a file."""
    from plandsl.backends.engines.manifests_read import read_config

    assert launch.config is not None
    name = launch.config.text
    here = re.search(rf"cat > \"?{re.escape(name)}\"? <<'?(\w+)'?\n(.*?)^\1$", text, re.DOTALL | re.MULTILINE)
    if here is not None:
        skipped = text.count("\n", 0, here.start(2))
        return take_config(launch, read_config(here[2], file, skipped), found)
    try:
        body = read_source(name)
    except PlanError as error:
        found += [one._replace(span=launch.config.span) for one in error.diagnostics]
        return launch
    sources[name] = body
    return take_config(launch, read_config(body, name, 0), found)


def _load(bench: dict[str, str]) -> dict[str, str]:
    """The fields of a workload that a benchmark's flags say."""
    out: dict[str, str] = {}
    for flag, field in LOAD.items():
        if is_whole(bench.get(flag, "")):
            out[field] = bench[flag]
    cached = int(bench["random-prefix-len"]) if is_whole(bench.get("random-prefix-len", "")) else 0
    if cached and "input" in out:
        whole = int(out["input"]) + cached
        out |= {"input": str(whole), "reuse": f"{round(100 * cached / whole, 6):g} %"}
    if set(out) < {"input", "output"}:
        return {}
    rate, together, count = (bench.get(k, "") for k in ("request-rate", "max-concurrency", "num-prompts"))
    if re.fullmatch(r"\d+(\.\d+)?", rate, re.ASCII):
        return out | {"rate": f"{rate} req/s"}
    if is_whole(together):
        ongoing = is_whole(count) and int(count) > int(together)
        return out | ({"concurrency": together} if ongoing else {"batch": together})
    return out | {"batch": count} if is_whole(count) else out


def _plan(found: _Found, arguments: Namespace) -> tuple[str, list[Diagnostic]]:
    """The text of the plan, and notes about flags that say nothing of it (N500)."""
    launches = _pools(found)
    engine = launches[0].engine
    known = _model(launches[0], arguments, found.sources)
    model, name = known.spec, str(launches[0].settings.get(MODEL_FLAG[engine], ""))
    stored = model
    said = str(launches[0].settings.get("quantization", ""))
    if not known.text and model.weights == "bf16":  # a flag, or a name such as Qwen3-32B-FP8, says how it is stored
        told = (precision_of("", text) for text in (said, name) if text)
        stored = evolve(model, weights=next((PRECISION[w][0] for w in told if w in PRECISION and w != "bf16"), "bf16"))
    node = _node(arguments.node)
    problems: list[Diagnostic] = []
    servers: list[Server] = []
    for at, launch in enumerate(launches):
        reading = Reading(
            engine,
            launch.settings,
            launch.spans,
            stored,
            gpus=node.count,
            copies=launch.copies,
            environment=launch.environment,
            hint=launch.hint or (ROLES[at] if len(launches) == 2 else ""),
        )
        try:
            servers.append(_server(engine, reading))
        except PlanError as error:
            problems += error.diagnostics
        problems += reading.found
    if problems:
        raise PlanError(problems, found.sources)
    if len(servers) == 2 and {server.role for server in servers} != set(ROLES):
        hint = "import one of them; two pools are a server that says it is for prefill and one for decode"
        why = "2 servers, of which none hands its KV cache to the other: they are no two pools"
        raise PlanError([Diagnostic("E505", why, launches[-1].start, hint=hint)], found.sources)
    load = _load_of_a_copy(found.load, servers)
    if len(servers) == 1 and servers[0].role:
        servers = [servers[0]._replace(role="")]

    def written(some: Sequence[Server]) -> str:
        body = write_plan(
            _name(arguments), tuple(some), engine, model=model, declared=known.written,
            nodes=tuple(_machine(server, node, arguments.node) for server in some), load=load,
            catalog=_draft,
        )  # fmt: skip
        return "\n".join(filter(None, (known.text, body)))

    sized = size_host_caches(servers, written)
    text = written(sized)
    ignored = list(dict.fromkeys(name for launch in launches for name in launch.ignored))
    notes = [*found.notes, *_notes(launches, servers, sized)]
    if said and read_weights(engine, said) is None and stored.weights == "bf16":
        why = f"`--quantization {clip(said)}` does not say how weights are stored: the plan has {stored.weights}"
        at = launches[0].spans.get("quantization")
        notes.append(Diagnostic("N541", why, at, hint="write `weights = ...` of the checkpoint into the plan"))
    if ignored:
        why = f"these flags say nothing of a plan: {', '.join(ignored)}"
        notes.append(Diagnostic("N500", why, launches[0].start, hint="nothing to do"))
    if arguments.node is None:
        why = f"the command does not say which GPUs: the plan takes {DEFAULT_NODE}"
        notes.append(Diagnostic("N500", why, launches[0].start, hint="name a node with --node"))
    return text, notes


def _notes(launches: Sequence[Launch], servers: Sequence[Server], sized: Sequence[Server]) -> Iterator[Diagnostic]:
    """Notes about flags that are not read (N528), and about numbers that were worked out (N529)."""
    for launch in launches:
        if launch.unread:
            names = ", ".join(dict.fromkeys(word.text.partition("=")[0] for word in launch.unread))
            why = f"an import does not read these flags of {SHOWN[launch.engine]}: {names}"
            yield Diagnostic("N528", why, launch.unread[0].span, hint="what they change is not in the plan")
    for launch, before, after in zip(launches, servers, sized, strict=True):
        if before.host_cache is not None and after.host_cache is not None and before.host_cache.ratio:
            ratio, size = before.host_cache.ratio, after.host_cache.size
            why = f"host memory of {ratio:g} times the KV cache of a GPU is {show_bytes(size)} here"
            at = next((launch.spans[n] for n in ("hicache-ratio", "enable-hierarchical-cache") if n in launch.spans),
                      launch.start)  # fmt: skip
            yield Diagnostic("N529", why, at, hint="the plan's own memory says how large the cache is: check both")


DEFAULT_NODE = "h100_8"
ROLES: tuple[Role, Role] = ("prefill", "decode")


def _load_of_a_copy(load: dict[str, str], servers: Sequence[Server]) -> dict[str, str]:
    """The load with the requests of one of the replicas and in-flight batches, as a plan counts a `batch`."""
    last = servers[-1].degrees
    for name, parts in (("batch", last.replicas * last.pipeline), ("concurrency", last.replicas)):
        if name in load:
            load = load | {name: str(max(1, -(-int(load[name]) // parts)))}
    return load


def _pools(found: _Found) -> list[Launch]:
    """The one server, or the two of pools, prefill first. Raises `PlanError` (E505) for more kinds of servers."""
    launches = found.launches
    if len(launches) > 2 or len({launch.engine for launch in launches}) > 1:
        why = f"{len(launches)} servers: a plan has one kind of server, or two pools of one engine"
        raise PlanError([Diagnostic("E505", why, launches[-1].start, hint="import one of them")], found.sources)
    roles = [str(one.settings.get("disaggregation-mode", "")) or one.hint for one in launches]
    return launches[::-1] if roles == ["decode", "prefill"] else launches


def _server(engine: SchedulerName, reading: Reading) -> Server:
    match engine:
        case "vllm":
            return read_vllm(reading)
        case "sglang":
            return read_sglang(reading)
        case "trtllm":
            return read_trtllm(reading)


class _Known(NamedTuple):
    """The model that is served: what it is, what a plan writes for it, and a declaration that this needs."""

    spec: ModelSpec
    written: str
    text: str = ""


def _model(launch: Launch, arguments: Namespace, sources: dict[str, str]) -> _Known:
    """The model that is served. Raises `PlanError` (E505) where nobody knows it."""
    given = str(launch.settings.get(MODEL_FLAG[launch.engine], ""))
    served = str(launch.settings.get("served-model-name") or launch.settings.get("served_model_name") or "")
    for word in (given, served) if arguments.model is None else (arguments.model,):
        places = (Path(word), Path(word) / "config.json") if word else ()
        config = next((p for p in places if p.suffix == ".json" and os.path.isfile(p)), None)
        if config is not None:
            return _from_config(config)
        if word and (name := find_model(word, catalog_has)):
            spec = catalog_model(name)
            assert spec is not None, "the catalog has it"
            return _Known(spec, name)
    shown = arguments.model or given or served or "none"
    hint = "name one with --model: of the catalog (`planc catalog model`), or a config.json"
    why = f"the model `{shown}` is neither in the catalog nor a folder with a config.json"
    span = launch.spans.get(MODEL_FLAG[launch.engine], launch.start)
    raise PlanError([Diagnostic("E505", why, span, hint=hint)], sources)


def _from_config(path: Path) -> _Known:
    """The model of a config.json, written out: a plan reads files of its own folder alone."""
    from plandsl.grammar.catalog import from_config

    text = from_config(str(path))
    name = re.findall(r"^model (\w+) ", text, re.MULTILINE)[0]
    spec = open_text(text, "imported.plan").spec("model", name)
    assert isinstance(spec, ModelSpec), "the text of a model is a model"
    return _Known(spec, name, text)


def _draft(name: str) -> str:
    """The catalog's name of a draft model. Raises `PlanError` (E505) if it has none."""
    if found := find_model(name, catalog_has):
        return found
    hint = "leave the guesses out, and write the draft into the plan"
    raise PlanError([Diagnostic("E505", f"the draft model `{name}` is not in the catalog", hint=hint)])


def _node(name: str | None) -> NodeSpec:
    """A node of the catalog. Raises `PlanError` (E406) for another name."""
    if (spec := catalog_node(name or DEFAULT_NODE)) is not None:
        return spec
    known = catalog_names("node")
    begins = [one for one in known if one.startswith(f"{name}_")][:MOST_NEAR]
    hint = f"did you mean {either(begins)}?" if begins else suggest(name or "", known)
    raise PlanError([Diagnostic("E406", f"the catalog has no node `{clip(name or '')}`", hint=hint)])


def _machine(server: Server, node: NodeSpec, name: str | None) -> str:
    """The field that says where a server runs: a node, or a cluster of so many."""
    ranks = server.degrees.ranks * server.degrees.replicas
    nodes = -(-ranks // node.count)
    named = name or DEFAULT_NODE
    if nodes == 1:
        return f"node = {named}"
    network = "network { topology = switch, bandwidth = 50 GB/s, latency = 5 us }"
    return f"cluster {{ node = {named}, count = {nodes}, {network} }}  # the network is assumed: put yours here"


def _name(arguments: Namespace) -> str:
    stem = Path(arguments.output).stem if arguments.output not in (None, "-") else "imported"
    return re.sub(r"\W+", "_", stem) if stem[0].isalpha() else "imported"
