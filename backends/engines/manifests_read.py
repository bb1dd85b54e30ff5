"""Reads YAML: the file of `--config`, and manifests of Kubernetes with launch commands in their containers.

PyYAML reads it (the extra `yaml`), as nodes with places, and without making objects: a manifest is data of somebody
else. Keys are looked for by name, so an alias costs nothing however often it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from plandsl.backends.engines.arguments import Launch, find_launch, take_config
from plandsl.backends.engines.manifests import Files
from plandsl.backends.engines.server import Role
from plandsl.backends.engines.words import Command, Word, split_commands
from plandsl.diagnostics import Diagnostic, PlanError, Span

if TYPE_CHECKING:
    import yaml

DEEPEST = 32
"""Levels of YAML that are read."""


def _compose(text: str, file: str, skipped: int) -> list[yaml.Node]:
    """The documents of a text as nodes. Raises `PlanError` (E509) if it is no YAML, or PyYAML is missing."""
    try:
        import yaml
    except ImportError as error:
        hint = "pip install 'plandsl[yaml]'"
        raise PlanError([Diagnostic("E509", f"reading {file} needs PyYAML, which is missing", hint=hint)]) from error
    try:
        return [node for node in yaml.compose_all(text, yaml.SafeLoader) if node is not None]
    except (yaml.YAMLError, RecursionError) as error:
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "it is no YAML"
        span = mark and Span(file, mark.line + 1 + skipped, mark.column + 1, mark.line + 1 + skipped, mark.column + 2)
        hint = "correct the file; `python -m yaml` tells more"
        raise PlanError([Diagnostic("E509", f"cannot read {file}: {why}", span, hint=hint)], {file: text}) from error


def _word(node: yaml.Node, file: str, skipped: int) -> Word:
    start, end = node.start_mark, node.end_mark
    same = end.line == start.line
    span = Span(file, start.line + 1 + skipped, start.column + 1, start.line + 1 + skipped,
                end.column + 1 if same else start.column + 2)  # fmt: skip
    return Word(str(node.value) if isinstance(node.value, str) else "", span)


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


def _plain(node: Any, depth: int = 0) -> object:
    """A node as a value: mappings, lists, words, numbers and switches."""
    import yaml

    if depth > DEEPEST:
        return None
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value, depth + 1) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, depth + 1) for item in node.value]
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
    """The keys of a `--config` file with their places and values; its text starts after ``skipped`` lines of a file."""
    documents = _compose(text, file, skipped)
    return [(_word(key, file, skipped), _plain(value)) for one in documents[:1] for key, value in _pairs(one)]


# ---- manifests


def read_manifest(text: str, file: str) -> tuple[list[Launch], list[Diagnostic]]:
    """The servers that the containers of a manifest start, and what is wrong."""
    found: list[Diagnostic] = []
    launches: list[Launch] = []
    documents = _compose(text, file, 0)
    configs = {key.value: value for one in documents if getattr(_get(one, "kind"), "value", "") == "ConfigMap"
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
        why = f"no ConfigMap of the manifest has `{launch.config.text}`"
        found.append(Diagnostic("E505", why, launch.config.span, hint="add the ConfigMap to the file"))
        return launch
    place = _placer(node, file)
    items = [(place(word), given) for word, given in read_config(node.value, file, 0)]
    return take_config(launch, items, found)


def _copied(launch: Launch, replicas: int) -> Launch:
    return launch._replace(environment={**launch.environment, "REPLICAS": str(replicas)})


def _workers(document: Any) -> Iterator[tuple[Role, int, list[Any]]]:
    """The role, the replicas and the containers of each worker of a manifest that may start a server."""
    spec = _get(document, "spec")
    kind = getattr(_get(document, "kind"), "value", "")
    if kind == "DynamoGraphDeployment":
        for name, service in _pairs(_get(spec, "services")):
            words = f"{name.value} {getattr(_get(service, 'subComponentType'), 'value', '')}".lower()
            container = _get(service, "extraPodSpec", "mainContainer")
            yield _role(words), _replicas(service), [container] if container is not None else []
        for component in _items(_get(spec, "components")):
            words = " ".join(str(getattr(_get(component, key), "value", "")) for key in ("name", "type")).lower()
            yield _role(words), _replicas(component), _items(_get(component, "podTemplate", "spec", "containers"))
        return
    name = str(getattr(_get(document, "metadata", "name"), "value", "")).lower()
    leader = _get(spec, "leaderWorkerTemplate", "leaderTemplate", "spec", "containers")
    worker = _get(spec, "leaderWorkerTemplate", "workerTemplate", "spec", "containers")
    plain = _get(spec, "template", "spec", "containers")
    yield _role(name), _replicas(spec), _items(leader) or _items(worker) or _items(plain)


def _role(words: str) -> Role:
    return "prefill" if "prefill" in words else "decode" if "decode" in words else ""


def _replicas(node: Any) -> int:
    value = _get(node, "replicas")
    return int(value.value) if value is not None and str(value.value).isdigit() else 1


def _launch(container: Any, file: str, found: list[Diagnostic]) -> Launch | None:
    """The server that a container starts: its words are a list, or a script in a block of text."""
    parts = [part for key in ("command", "args") for part in _items(_get(container, key))]
    environment = {
        str(_get(item, "name").value): str(_get(item, "value").value)
        for item in _items(_get(container, "env"))
        if _get(item, "name") is not None and _get(item, "value") is not None
    }
    words = tuple(_word(part, file, 0) for part in parts)
    for part, word in zip(parts, words, strict=True):
        if "\n" in word.text or (" " in word.text and word.text.lstrip()[:1] not in "{["):
            place = _placer(part, file)
            for command in split_commands(word.text, file):
                placed = tuple(map(place, command.words))
                if launch := find_launch(Command({**environment, **command.environment}, placed), found):
                    return launch
    return find_launch(Command(environment, words), found) if words else None


def _placer(node: Any, file: str) -> Callable[[Word], Word]:
    """What gives a word in the text of a node its place in the file: its own line in a block (``|``), else the node."""
    outer = _word(node, file, 0).span
    if node.style != "|" or not node.value:
        return lambda word: word._replace(span=outer)
    first = node.start_mark.buffer.split("\n")[outer.line]  # the line below the mark
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
