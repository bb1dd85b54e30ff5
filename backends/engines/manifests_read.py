"""Reads YAML: the file of `--config`, and manifests of Kubernetes with launch commands in their containers.

PyYAML reads it (the extra `yaml`), as nodes with places, and without making objects: a manifest is data of somebody
else. An alias counts as all that it stands for, so a short file cannot ask for long work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from plandsl import limits
from plandsl.backends.engines.arguments import Launch, engine_of_image, find_launch, take_config
from plandsl.backends.engines.manifests import Files
from plandsl.backends.engines.server import Role
from plandsl.backends.engines.words import Command, Word, split_commands
from plandsl.diagnostics import Diagnostic, PlanError, Span, clip
from plandsl.values import sum_up

if TYPE_CHECKING:
    import yaml


def _compose(text: str, file: str, skipped: int) -> list[yaml.Node]:
    """The documents of a text, which starts after ``skipped`` lines of a file, as nodes.

    Raises `PlanError` (E509) if the text is no YAML, asks for too much, or if PyYAML is missing.
    """
    try:
        import yaml
    except ImportError as error:
        hint = "pip install 'plandsl[yaml]'"
        raise PlanError([Diagnostic("E509", f"reading {file} needs PyYAML, which is missing", hint=hint)]) from error
    try:
        documents = [node for node in yaml.compose_all(text, yaml.SafeLoader) if node is not None]
    except (yaml.YAMLError, ArithmeticError, RecursionError, ValueError) as error:
        # PyYAML gives characters and versions that cannot be to `chr` and `int`, which raise errors of their own
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "it is no YAML"
        span = mark and Span(file, mark.line + 1 + skipped, mark.column + 1, mark.line + 1 + skipped, mark.column + 2)
        hint = "correct the file; `python -m yaml` tells more"
        shown = {file: "\n" * skipped + text}
        raise PlanError([Diagnostic("E509", f"cannot read {file}: {why}", span, hint=hint)], shown) from error
    total, known = 0, dict[int, tuple[int, int]]()
    refuse = _refuser(text, file, skipped)
    for node in documents:
        total += _measure(node, known, refuse)[0]
        if total > limits.MAX_YAML_NODES:
            why = f"its aliases stand for more than {limits.MAX_YAML_NODES:,} nodes"
            raise refuse(node, why, limits.MAX_YAML_NODES.hint("write fewer aliases"))
    return documents


Refuse: TypeAlias = "Callable[[yaml.Node, str, str], PlanError]"
"""Makes an error (E509) at a node, of what is wrong and what helps."""


def _refuser(text: str, file: str, skipped: int) -> Refuse:
    """What refuses nodes of a text that starts after ``skipped`` lines of a file."""

    def refuse(node: yaml.Node, why: str, hint: str) -> PlanError:
        span = _word(node, file, skipped).span
        found = Diagnostic("E509", f"cannot read {file}: {why}", span, hint=hint)
        return PlanError([found], {file: "\n" * skipped + text})

    return refuse


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]], refuse: Refuse, level: int = 0) -> tuple[int, int]:
    """How many nodes ``node`` is with all below it, and how many levels. An alias counts as all that it stands for.

    ``known`` has both for the nodes that were measured, by their id.

    Raises `PlanError` (E509) for too many levels, and for a key that is no word.
    """
    import yaml

    if level + known.get(id(node), (0, 0))[1] > limits.MAX_YAML_LEVELS:
        raise refuse(
            node,
            f"it has more than {limits.MAX_YAML_LEVELS} levels",
            limits.MAX_YAML_LEVELS.hint("an alias inside itself has no end"),
        )
    if id(node) in known:
        return known[id(node)]
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise refuse(key, "a key is a list or a mapping", "keys are words here")
            below += [key, value]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    found = [_measure(one, known, refuse, level + 1) for one in below]
    known[id(node)] = 1 + sum_up(size for size, _ in found), 1 + max((levels for _, levels in found), default=0)
    return known[id(node)]


def _text(node: Any) -> str:
    """The word of a node; empty where there is no node, or where it is a list or a mapping."""
    return node.value if node is not None and isinstance(node.value, str) else ""


def _word(node: yaml.Node, file: str, skipped: int) -> Word:
    start, end = node.start_mark, node.end_mark
    same = end.line == start.line
    span = Span(file, start.line + 1 + skipped, start.column + 1, start.line + 1 + skipped,
                end.column + 1 if same else start.column + 2)  # fmt: skip
    return Word(_text(node), span)


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    import yaml

    return node.value if isinstance(node, yaml.MappingNode) else []


def _get(node: Any, *path: str) -> Any:
    """The node at a path of keys, None where there is none."""
    for name in path:
        node = next((value for key, value in _pairs(node) if key.value == name), None)
    return node


def _items(node: Any) -> list[Any]:
    import yaml

    return node.value if isinstance(node, yaml.SequenceNode) else []


def _plain(node: Any) -> object:
    """A node as a value: mappings, lists, words, numbers and switches."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    kind, text = node.tag.rsplit(":", 1)[-1], node.value
    try:
        match kind:
            case "int":
                return int(text.replace("_", ""), 0)
            case "float":
                return float(text.replace("_", ""))
            case "bool":
                return text.lower() in ("true", "yes", "on")
            case "null":
                return None
            case _:
                return str(text)
    except ValueError:
        return str(text)


def read_config(text: str, file: str, skipped: int) -> list[tuple[Word, object]]:
    """The keys of a `--config` file with their places and values; its text starts after ``skipped`` lines of a file.

    Raises `PlanError` (E509) if it is no mapping.
    """
    documents = _compose(text, file, skipped)[:1]
    for one in documents:
        if one.id != "mapping":
            raise _refuser(text, file, skipped)(one, "arguments are a mapping", "write `name: value`, a line for each")
    return [(_word(key, file, skipped), _plain(value)) for one in documents for key, value in _pairs(one)]


# ---- manifests


def read_manifest(text: str, file: str) -> tuple[list[Launch], list[Diagnostic]]:
    """The servers that the containers of a manifest start, and what is wrong."""
    found: list[Diagnostic] = []
    launches: list[Launch] = []
    documents = _compose(text, file, 0)
    configs = {key.value: value for one in documents if _text(_get(one, "kind")) == "ConfigMap"
               for key, value in _pairs(_get(one, Files._fields[0]))}  # fmt: skip
    for document in documents:
        for role, replicas, containers in _workers(document):
            for container in containers:
                launch = _launch(container, file, found)
                if launch is not None:
                    launch = _with_config(launch, configs, file, found)
                    launches.append(_copied(launch, replicas)._replace(hint=role))
                    break
    return launches, found


def _with_config(launch: Launch, configs: dict[str, Any], file: str, found: list[Diagnostic]) -> Launch:
    """``launch`` with the keys of its `--config`, which a ConfigMap of the manifest holds."""
    if launch.config is None:
        return launch
    node = configs.get(launch.config.text.rsplit("/", 1)[-1])
    if node is None:
        why = f"no ConfigMap of the manifest has `{clip(launch.config.text)}`"
        found.append(Diagnostic("E505", why, launch.config.span, hint="add the ConfigMap to the file"))
        return launch
    if not _text(node).strip():
        why = f"the ConfigMap's `{clip(launch.config.text)}` is no text"
        hint = "write the file's lines after `|`"
        found.append(Diagnostic("E505", why, _word(node, file, 0).span, hint=hint))
        return launch
    place = _placer(node, file)
    try:
        items = [(place(word), given) for word, given in read_config(_text(node), file, 0)]
    except PlanError as error:
        found += [one._replace(span=one.span and place(Word("", one.span)).span) for one in error.diagnostics]
        return launch
    return take_config(launch, items, found)


def _copied(launch: Launch, replicas: str) -> Launch:
    return launch._replace(environment={**launch.environment, "REPLICAS": replicas})


def _workers(document: Any) -> Iterator[tuple[Role, str, list[Any]]]:
    """The role, the replicas and the containers of each worker of a manifest that may start a server."""
    spec = _get(document, "spec")
    kind = _text(_get(document, "kind"))
    if kind == "DynamoGraphDeployment":
        for name, service in _pairs(_get(spec, "services")):
            words = f"{_text(name)} {_text(_get(service, 'subComponentType'))}".lower()
            container = _get(service, "extraPodSpec", "mainContainer")
            yield _role(words), _text(_get(service, "replicas")), [container] if container is not None else []
        for component in _items(_get(spec, "components")):
            words = " ".join(_text(_get(component, key)) for key in ("name", "type")).lower()
            yield (
                _role(words),
                _text(_get(component, "replicas")),
                _items(_get(component, "podTemplate", "spec", "containers")),
            )
        return
    name = _text(_get(document, "metadata", "name")).lower()
    leader = _get(spec, "leaderWorkerTemplate", "leaderTemplate", "spec", "containers")
    worker = _get(spec, "leaderWorkerTemplate", "workerTemplate", "spec", "containers")
    plain = _get(spec, "template", "spec", "containers")
    yield _role(name), _text(_get(spec, "replicas")), _items(leader) or _items(worker) or _items(plain)


def _role(words: str) -> Role:
    return "prefill" if "prefill" in words else "decode" if "decode" in words else ""


def _launch(container: Any, file: str, found: list[Diagnostic]) -> Launch | None:
    """The server that a container starts: its words are a list, or a script in a block of text."""
    parts = [part for key in ("command", "args") for part in _items(_get(container, key))]
    environment = {
        _text(_get(item, "name")): _text(_get(item, "value"))
        for item in _items(_get(container, "env"))
        if _text(_get(item, "name")) and _get(item, "value") is not None
    }
    words = tuple(_word(part, file, 0) for part in parts)
    for part, word in zip(parts, words, strict=True):
        if "\n" in word.text or (" " in word.text and word.text.lstrip()[:1] not in "{["):
            place = _placer(part, file)
            for command in split_commands(word.text, file):
                placed = tuple(map(place, command.words))
                if launch := find_launch(command._replace(words=placed), found):
                    return launch._replace(environment={**environment, **launch.environment})
    image = _get(container, "image")
    if not _items(_get(container, "command")) and engine_of_image(_text(image)) is not None:
        words = (Word("docker", _word(image, file, 0).span), _word(image, file, 0), *words)
    return find_launch(Command(environment, words), found) if words else None


_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What ends a line of YAML (YAML 1.1, section 4.2)."""


def _placer(node: Any, file: str) -> Callable[[Word], Word]:
    """What gives a word in the text of a node its place in the file: its own line in a block (``|``), else the node."""
    outer = _word(node, file, 0).span
    if getattr(node, "style", "") != "|" or not node.value:
        return lambda word: word._replace(span=outer)
    first = _BREAK.split(node.start_mark.buffer)[outer.line]  # the line below the mark
    indent = len(first) - len(first.lstrip(" "))

    def place(word: Word) -> Word:
        inner = word.span
        span = Span(
            inner.file,
            line=outer.line + inner.line,
            column=inner.column + indent,
            end_line=outer.line + inner.end_line,
            end_column=inner.end_column + indent,
        )
        return word._replace(span=span)

    return place
