"""Text of another language in place of a plan: what it is, and the plan that says the same."""

from __future__ import annotations

import re
from collections.abc import Iterator

from plandsl.diagnostics import Diagnostic, Span
from plandsl.grammar.near import catalog_name
from plandsl.grammar.places import DEGREES, SECTIONS
from plandsl.grammar.synonyms import ENGINES, FIELDS, FORMATS, Synonym, plain
from plandsl.grammar.tokens import KINDS
from plandsl.spec.formats import is_storage

_DECLARED = re.compile(
    rf"^[ \t]*(?:use[ \t]+\"|let[ \t]+\w+[ \t]*=|(?:{'|'.join(KINDS)})[ \t]+[^\s:=({{]+[ \t]*[={{])", re.MULTILINE
)
_PROGRAMS = (
    r"vllm|sglang|trtllm(?:-\w+)?|python3?|torchrun|mpirun|srun|docker|podman|pip3?|uv|conda|curl|export|planc|bash"
)
_KINDS = "|".join(KINDS)
SHELL = re.compile(rf"\s*(?:\$ \w|#!|(?:[A-Z_][A-Z0-9_]*=\S+\s+)*(?:{_PROGRAMS})\s+[\w./-]|--?[a-z][\w-]+(?:[ =]|$))")
PYTHON = re.compile(
    r"\s*(?:>>> |from\s+[\w.]+\s+import\b|import\s+[\w.]+\s*$|def\s+\w+\(|class\s+\w+\b.*:$|if\s.+:$|return\b|print\()"
)
_ASSIGNMENT = re.compile(rf"(?!(?:{_KINDS})\b)\w+\s*=\s*[A-Za-z_][\w.]*\(")
_YAML = re.compile(r"---$|(?:- )?[\w.\"'-]+(?: [\w-]+)?:(?:\s.*)?$")
_TOML = re.compile(r"\[{1,2}[\w.\"-]+\]{1,2}$")

_FLAG = re.compile(r"--?([A-Za-z][\w-]*)(?:[ \t]+|=)(\"[^\"]*\"|'[^']*'|[^\s\\\"'-][^\s\\\"']*)")
_SERVED = re.compile(r"\bserve\s+([\w./-]*[A-Za-z][\w./-]*)")
_ASSIGNED = re.compile(r"([A-Za-z_][\w-]*)[\"']?[ \t]*[:=][ \t]*(\"[^\"]*\"|'[^']*'|[\w./+-]+)")
_NUMBER = re.compile(r"\d[\d_]*(?:\.\d+)?")

SHELL_NAME = "a command for a shell"
LINES = ((SHELL, SHELL_NAME), (PYTHON, "Python"))
"""Languages of which a single line is known, and their names."""


def foreign_text(text: str, file: str) -> Diagnostic | None:
    """The finding that a text is of another language; None for a text that declares something, or is not known."""
    if _DECLARED.search(text):
        return None
    at, line = next(((i, ln) for i, ln in enumerate(text.split("\n"), 1) if _is_significant(ln)), (0, ""))
    what = _language(line.strip(), text) if at else ""
    if not what:
        return None
    start = len(line) - len(line.lstrip()) + 1
    span = Span(file, at, start, at, len(line.rstrip()) + 1)
    return Diagnostic("E101", f"this is {what}, not a plan", span, hint=_hint(what, text))


def _is_significant(line: str) -> bool:
    return bool(line.strip()) and (not line.lstrip().startswith("#") or line.startswith("#!"))


def _language(line: str, text: str) -> str:
    if re.match(r"[\[{]\s*[\"{\[}\]]", text.lstrip()):
        return "JSON"
    if line.startswith("<"):
        return "XML"
    if _TOML.match(line):
        return "TOML"
    if _ASSIGNMENT.match(line):
        return "Python"
    if (known := next((name for pattern, name in LINES if pattern.match(line)), "")) and not _YAML.fullmatch(line):
        return known
    return "YAML" if _YAML.match(line) else ""


def _hint(what: str, text: str) -> str:
    if "architectures" in text or "model_type" in text:
        return 'it is the config of a model: in a plan write `model = hf("config.json")`, with the path of this file'
    if re.match(r"\s*(?:\$ )?planc\b", text):
        return "run it in a terminal; a plan is a file that it reads"
    pairs = list(shell_pairs(text) if what == SHELL_NAME else _pairs(text))
    fields = own_fields(pairs)
    if not fields:
        return f"a plan is written as: `{plan_text(fields, text)}`"
    own, load = fields.get("", {}), fields.get("workload", {})
    stated = {"model": "model" in own, "node": "node" in own, "load": {"input", "output"} <= load.keys()}
    made_up = [part for part, known in stated.items() if not known]
    also = f" (the {' and '.join(made_up)} an example)" if made_up else ""
    return f"in a plan: `{plan_text(fields, text)}`{also}"


# ---- what a text says


def shell_pairs(text: str) -> Iterator[tuple[str, str]]:
    """The options of a command line, and the model that it serves."""
    if served := _SERVED.search(text):
        yield "model", served[1]
    for name, value in _FLAG.findall(text):
        yield name, value.strip("\"'")


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for name, value in _ASSIGNED.findall(text):
        yield name, value.strip("\"'")


def own_fields(pairs: list[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """What pairs of another language say, in fields of a plan by section; what a plan does not say is left out."""
    out: dict[str, dict[str, str]] = {}
    for word, written in pairs:
        synonym = FIELDS.get(plain(word)) or _own(plain(word))
        section, _, name = synonym.path.rpartition(".") if synonym else ("", "", "")
        if synonym and (value := _converted(name, written, synonym)):
            out.setdefault(section, {}).setdefault(name, value)
    return out


def _own(word: str) -> Synonym | None:
    section = next((section for section, names in SECTIONS.items() if word in names), None)
    return None if section is None else Synonym(f"{section}.{word}", "")


def _converted(name: str, written: str, synonym: Synonym) -> str:
    """A value of another language as a field of a plan takes it; empty if it does not take such a value."""
    if name == "model":
        return catalog_name("model", written) or 'hf("config.json")'
    if name == "node":
        return catalog_name("node", written)
    if name in ("weights", "kv_cache"):
        return written if is_storage(written) else FORMATS.get(plain(written), ("",))[0]
    if synonym.switch or not _NUMBER.fullmatch(written):
        return ""
    return f"{written} {synonym.unit}" if synonym.unit else written


def plan_text(stated: dict[str, dict[str, str]], text: str) -> str:
    """A plan on one line with the ``stated`` fields by section, and with an example for what every plan must say."""
    own = {"model": "llama_3_1_8b"} | stated.get("", {})
    load = {"input": "1000", "output": "100"} | stated.get("workload", {})
    fields = stated | {"": own, "workload": load}
    ranks = 1
    for name in DEGREES:
        ranks *= int(fields.get("sharding", {}).get(name, "1"))
    if "node" not in own:
        own["node" if ranks <= LARGEST else "cluster"] = "h100_8" if ranks <= LARGEST else "h100_8x4"
    return f"plan serve {{ {', '.join(plan_items(fields, text))} }}"


LARGEST = 8
"""GPUs of the node that stands as an example."""


def plan_items(fields: dict[str, dict[str, str]], text: str) -> list[str]:
    """The items of a plan with these fields by section; ``text`` is where its engine is named."""
    own = dict(fields.get("", {}))
    said = re.sub(r"tensorrt[-_]?llm", "trtllm", text.lower())
    engine = next((name for name in ENGINES.values() if name in said), "vllm" if "engine" in fields else "")
    out = []
    if "model" in own or "model" in fields:
        out.append(f"model = {own.pop('model', 'llama_3_1_8b')}{_over(fields.get('model'))}")
    out += [f"{name} = {own.pop(name)}" for name in ("node", "cluster") if name in own]
    out += [f"sharding {{ {listed(fields['sharding'])} }}"] if "sharding" in fields else []
    out += [f"engine = {engine}{_over(fields.get('engine'))}"] if engine else []
    out += [f"workload {{ {listed(fields['workload'])} }}"] if "workload" in fields else []
    return [*out, listed(own)] if own else out


def _over(fields: dict[str, str] | None) -> str:
    return f" with {{ {listed(fields)} }}" if fields else ""


def listed(fields: dict[str, str]) -> str:
    """Fields as a plan writes them on one line."""
    return ", ".join(f"{name} = {value}" for name, value in fields.items())
