"""Launch commands of engines as settings with places: which engine, which checkpoint, which flags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from plandsl import limits
from plandsl.backends.engines.flags import (
    CHANGES,
    FLAGS,
    MODEL_FLAG,
    OTHER,
    SHOWN,
    Flag,
    Settings,
    Value,
    find_flag,
    is_recorded,
    normal,
    recorded,
)
from plandsl.backends.engines.server import Role
from plandsl.backends.engines.words import Command, Word, is_whole
from plandsl.diagnostics import MOST_NEAR, Diagnostic, Span, clip, either, nearest
from plandsl.spec.scheduler import SchedulerName

_STARTS: tuple[tuple[tuple[str, ...], SchedulerName], ...] = (
    (("vllm", "serve"), "vllm"),
    (("-m", "vllm.entrypoints.openai.api_server"), "vllm"),
    (("-m", "dynamo.vllm"), "vllm"),
    (("sglang", "serve"), "sglang"),
    (("-m", "sglang.launch_server"), "sglang"),
    (("-m", "dynamo.sglang"), "sglang"),
    (("-m", "dynamo.trtllm"), "trtllm"),
    (("trtllm-serve", "serve"), "trtllm"),
    (("trtllm-serve",), "trtllm"),
)
"""Words that start an engine, the longer first."""

IMAGES: tuple[tuple[str, SchedulerName], ...] = (("vllm-openai", "vllm"),)
"""Names of images that start an engine by themselves, so that only arguments follow."""

BENCHES = (("vllm", "bench", "serve"), ("-m", "sglang.bench_serving"))
"""Words that start a benchmark."""

_NUMBER = re.compile(r"-?\d+(\.\d+)?([kKmMgG])?", re.ASCII)
_TIMES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30, None: 1}


INFINITE = 1e40
"""No number of an argument is as large; YAML has infinite ones too."""


class Launch(NamedTuple):
    """A command that starts a server.

    ``spans`` has the place of each argument by its long name; ``config`` is the file that `--config` names.
    ``ignored`` are flags that say nothing of a plan; ``unread`` are flags of the engine that an import does not know.
    """

    engine: SchedulerName
    settings: Settings
    spans: dict[str, Span]
    start: Span
    environment: Mapping[str, str]
    config: Word | None = None
    ignored: tuple[str, ...] = ()
    hint: Role = ""
    unread: tuple[Word, ...] = ()

    @property
    def copies(self) -> int:
        """How many such servers are started."""
        given = self.environment.get("REPLICAS", "")
        return int(given) if is_whole(given) and len(given) < 6 else 1


def find_launch(command: Command, found: list[Diagnostic]) -> Launch | None:
    """The server that a command starts, None for another command. Mistakes go to ``found``."""
    texts = [word.text for word in command.words]
    for start, engine in _STARTS:
        for at in range(len(texts) - len(start) + 1):
            if tuple(texts[at : at + len(start)]) == start and texts[at + len(start) :][:1] != ["disaggregated"]:
                return _read(engine, command, at + len(start), found)
    for at, text in enumerate(texts):
        if texts[:1] in (["docker"], ["podman"]) and (engine_ := engine_of_image(text)) is not None:
            return _read(engine_, command, at + 1, found)
    return None


def engine_of_image(text: str) -> SchedulerName | None:
    """The engine that an image starts by itself: ``vllm/vllm-openai:v0.12``. None for other words."""
    found = re.fullmatch(r"(?:.*/)?([\w.-]+?)(?:[:@].*)?", text)
    return None if found is None else dict(IMAGES).get(found[1])


def find_bench(command: Command) -> dict[str, str] | None:
    """The flags of a benchmark, None for another command."""
    texts = [word.text for word in command.words]
    if not any(tuple(texts[at : at + len(b)]) == b for b in BENCHES for at in range(len(texts))):
        return None
    out = {}
    for word, after in zip(texts, [*texts[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            out[name[2:].replace("_", "-")] = value if equals else after
    return out


def _read(engine: SchedulerName, command: Command, at: int, found: list[Diagnostic]) -> Launch:
    words = command.words
    start = words[0].span.to(words[at - 1].span) if words[0].span.line == words[at - 1].span.line else words[0].span
    settings: Settings = {}
    spans: dict[str, Span] = {}
    ignored: list[str] = []
    unread: list[Word] = []
    unknown: list[Diagnostic] = []
    config: Word | None = None
    rest = list(words[at:])
    while rest:
        word = rest.pop(0)
        if word.text.startswith("$("):
            continue  # what a shell puts there depends on the node
        if not word.text.startswith("-"):
            _take_model(engine, word, settings, spans, found)
            continue
        name, equals, inline = word.text.partition("=")
        name, dot, key = name.partition(".") if name.startswith("--") else (name, "", "")
        flag = find_flag(engine, name)
        plain = normal(engine, name.lstrip("-"))
        if flag is None and plain in CHANGES[engine]:
            unread.append(word)
        if flag is None and plain in OTHER[engine]:
            count = 0 if equals else OTHER[engine][plain]
            taken = [Word(inline, word.span)] if equals else rest[:count]
            rest = rest[count:]
            if plain in ("config", "extra_llm_api_options") and taken:
                config = taken[0]
            if plain not in CHANGES[engine]:
                ignored.append(name)
            continue
        if flag is None and is_recorded(engine, name):
            unread.append(word)
            if not equals:
                rest = rest[_values(rest) :]
            continue
        if flag is None:
            if len(unknown) < limits.MAX_ERRORS:  # the search for near words takes time
                unknown.append(unknown_flag(engine, word, name))
            if rest and not equals and not rest[0].text.startswith("-"):
                rest.pop(0)  # what follows is most likely its value
            continue
        if flag.name in settings and not dot:
            first = spans[flag.name]
            found.append(Diagnostic("E508", f"`{name}` is given twice", word.span, hint=f"the first stands in "
                                    f"column {first.column}: keep one of the two"))  # fmt: skip
        spans[flag.name] = word.span
        value = Word(inline, word.span) if equals else None
        if flag.kind == "words":
            count = 0 if equals else _values(rest)
            taken, rest = [value] if value is not None else rest[:count], rest[count:]
            if not taken:
                found.append(_wrong(flag, word, "nothing follows it"))
            settings[flag.name] = [one.text for one in taken]
            continue
        if value is None and (flag.kind not in ("switch", "pair")):
            if not rest:
                found.append(_wrong(flag, word, "nothing follows it"))
                continue
            value = rest.pop(0)
        one = _value(flag, word, value, found) if not dot else _inner(settings.get(flag.name), key, value)
        if one is not None:
            settings[flag.name] = one
    found += unknown
    return Launch(
        engine,
        settings,
        spans,
        start,
        environment=dict(command.environment),
        config=config,
        ignored=tuple(dict.fromkeys(ignored)),
        unread=tuple(unread),
    )


def _values(words: Sequence[Word]) -> int:
    """How many words come before the next flag."""
    return next((at for at, word in enumerate(words) if word.text.startswith("-")), len(words))


def _take_model(
    engine: SchedulerName, word: Word, settings: Settings, spans: dict[str, Span], found: list[Diagnostic]
) -> None:
    """A word that is no flag: the checkpoint, or a slip."""
    name = MODEL_FLAG[engine]
    if name in settings:
        found.append(Diagnostic("E506", f"`{clip(word.text)}` is neither a flag nor the value of one", word.span,
                                hint=f"flags start with `--`; the checkpoint is `{settings[name]}`"))  # fmt: skip
        return
    settings[name], spans[name] = word.text, word.span


def unknown_flag(engine: SchedulerName, word: Word, name: str) -> Diagnostic:
    """The error (E506) about a flag that an engine does not have, with the nearest that it has."""
    known = [f"--{flag.name}" for flag in FLAGS[engine]] + [f"--{other}" for other in OTHER[engine]]
    known += [f"--no-{flag.name}" for flag in FLAGS[engine] if flag.kind == "pair"]
    known += [f"--{one}" for one in recorded(engine)]
    known += [one for others in recorded(engine).values() for one in others if one.startswith("--")]
    plain = f"--{normal(engine, name.lstrip('-'))}"
    begins = [one for one in dict.fromkeys(known) if one.startswith(plain)]
    near = begins[:MOST_NEAR] if len(plain) > LEAST_LETTERS and begins else nearest(plain, list(dict.fromkeys(known)))
    hint = _elsewhere(engine, name) or (f"did you mean {either(near)}?" if near else "")
    span = word.span._replace(end_column=word.span.column + len(name))
    why = f"`{clip(name)}` is no flag of {SHOWN[engine]}"
    return Diagnostic("E506", why, span, hint=hint or "leave it out: an import needs only what a plan says")


LEAST_LETTERS = len("--abc")
"""A word of more letters that begins flags is short for one of them."""


def _elsewhere(engine: SchedulerName, name: str) -> str:
    """A hint that a flag belongs to another engine, or to planc."""
    if name == "--node":
        return "this is an option of planc: it stands before `--`"
    for other, shown in SHOWN.items():
        if other != engine and find_flag(other, name) is not None:
            return f"this is a flag of {shown}"  # such as `--tp-size`, which is near another one here
    return ""


def _wrong(flag: Flag, word: Word, why: str) -> Diagnostic:
    wanted = {"whole": f"a whole number of at least {flag.least}", "number": "a number", "json": "JSON",
              "word": either(flag.words) if flag.words else "a word", "words": "words", "switch": "nothing",
              "pair": "nothing"}[flag.kind]  # fmt: skip
    return Diagnostic("E507", f"`--{flag.name}`: {why}", word.span, hint=f"expected {wanted}")


def _json_slip(text: str) -> str:
    """Where a text stops being JSON, in words; empty where it is JSON."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f", since {error.msg[:1].lower()}{error.msg[1:]} at letter {error.pos + 1}"
    except RecursionError:
        return ", since it nests too deeply"
    except ValueError:
        return ", since a number in it is too long"
    return ""


def _read_json(text: str) -> object:
    """The value of a text that is JSON; another text as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _value(flag: Flag, word: Word, value: Word | None, found: list[Diagnostic]) -> Value | None:
    """The value of a flag; None, with an error (E507) in ``found``, where it is wrong."""
    if flag.kind in ("switch", "pair"):
        if value is not None and value.text.lower() not in ("true", "false"):
            found.append(_wrong(flag, value, f"`{clip(value.text)}` follows it"))
        negative = flag.kind == "pair" and word.text.lstrip("-").replace("_", "-").startswith("no-")
        return not negative and (value is None or value.text.lower() != "false")
    assert value is not None
    return check_value(flag, value.text, value, found)


def check_value(flag: Flag, given: object, word: Word, found: list[Diagnostic]) -> Value | None:
    """``given`` as the value of a flag that takes one; None, with an error (E507) in ``found``, where it is wrong."""
    if isinstance(given, str):
        given = _parse(flag, given)
    match flag.kind, given:
        case (("switch" | "pair"), bool()):
            return given
        case "whole", int() if not isinstance(given, bool) and given >= flag.least:
            return given
        case "number", (int() | float()) if not isinstance(given, bool) and abs(given) < INFINITE:
            return given
        case "word", str() if not flag.words or given in flag.words:
            return given
        case "json", (dict() | list()):
            return given
        case "words", list():
            return [str(one) for one in given]
        case "words", str():
            return [given]
        case _:
            near = nearest(str(given), flag.words) if flag.words else []
            why = f"`{clip(str(given))}` is not what it takes"
            if flag.kind == "json" and isinstance(given, str):
                why = f"`{clip(given)}` is no JSON{_json_slip(given)}"
            wrong = _wrong(flag, word, why)
            found.append(wrong._replace(hint=f"did you mean {either(near)}?") if near else wrong)
            return None


def _parse(flag: Flag, text: str) -> object:
    """The text of a value as what its flag takes, or as it is."""
    if flag.kind == "json":
        return _read_json(text)
    if flag.kind in ("whole", "number") and len(text) < 40 and (match := _NUMBER.fullmatch(text)):
        number = float(text.rstrip("kKmMgG")) * _TIMES[match[2]]
        return int(number) if flag.kind == "whole" and number.is_integer() else number
    if flag.kind == "whole" and text == "auto" and flag.least < 0:
        return -1
    return text


def _inner(given: Value | None, key: str, value: Word | None) -> Value:
    """An object with one more key, as `--speculative-config.method mtp` gives it."""
    text = value.text if value is not None else "true"
    return (given if isinstance(given, dict) else {}) | {key: _read_json(text)}


def take_config(launch: Launch, items: Sequence[tuple[Word, object]], found: list[Diagnostic]) -> Launch:
    """``launch`` with the keys of a file of its arguments; the command line goes before the file."""
    settings, spans, ignored = dict(launch.settings), dict(launch.spans), list(launch.ignored)
    unread = list(launch.unread)
    for word, given in items:
        flag, plain = find_flag(launch.engine, f"--{word.text}"), normal(launch.engine, word.text)
        if flag is None and plain in OTHER[launch.engine]:
            if plain in CHANGES[launch.engine]:
                unread.append(word)
            else:
                ignored.append(word.text)
        elif flag is None and is_recorded(launch.engine, f"--{word.text}"):
            unread.append(word)
        elif flag is None:
            found.append(unknown_flag(launch.engine, word, word.text))
        elif flag.name not in settings and given is not None:
            value = check_value(flag, given, word, found)
            spans[flag.name] = word.span
            if value is not None:
                settings[flag.name] = value
    return launch._replace(settings=settings, spans=spans, ignored=tuple(dict.fromkeys(ignored)), unread=tuple(unread))
