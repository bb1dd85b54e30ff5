"""The names of the catalog that somebody may mean who wrote another one: a typo, a model id, ``8xH100``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from plandsl.diagnostics import MOST_NEAR, count_slips, either, nearest
from plandsl.grammar.modules import catalog_find, catalog_names
from plandsl.grammar.synonyms import FIELDS, FORMATS, METRICS, WORDS, plain, say
from plandsl.grammar.syntax import Ref
from plandsl.spec.formats import BITS
from plandsl.spec.plan import TIMES
from plandsl.units import UNITS

HARDWARE = ("gpu", "node", "cluster", "calibration")

ELSEWHERE = ("b100", "p100", "a2", "a16", "mi100", "mi250", "rtx_2080", "rtx_5080", "tpu_v3", "tpu_v4")
"""GPUs that the catalog does not have: who names one means no other."""

DEGREE = re.compile(r"([dpcest]p)[_ ]?(\d+)", re.IGNORECASE)
"""A degree of a sharding, as people say it: ``tp8``."""

LISTED = 12
"""Most names of the catalog that a hint lists where none is near."""

_MAKERS = ("nvidia", "amd", "intel", "google", "aws", "azure", "gcp", "dgx", "hgx", "meta")
_SERIES = (
    "tesla", "geforce", "quadro", "instinct", "generation", "standard", "cloud", "blackwell", "server", "edition",
)  # fmt: skip
"""Words in the name of a machine that do not choose it."""
_CLOUDS = ("aws", "gcp", "azure")
_SHORT = {
    "gb10": "dgx_spark", "spark": "dgx_spark", "trn2": "trainium_2", "trainium2": "trainium_2", "gaudi2": "gaudi_2",
    "gaudi3": "gaudi_3", "hl_225": "gaudi_2", "hl_325l": "gaudi_3", "trillium": "tpu_v6e", "ironwood": "tpu_v7",
    "tpu7x": "tpu_v7", "v5litepod": "tpu_v5e", "v5e": "tpu_v5e", "v5p": "tpu_v5p", "v6e": "tpu_v6e",
    "6000_ada": "rtx_6000_ada", "pro_6000": "rtx_pro_6000", "3090": "rtx_3090", "4090": "rtx_4090", "5090": "rtx_5090",
    "rtx_a6000": "a6000", "b300": "b300_sxm", "gb200_nvl72": "gb200_72", "gb300_nvl72": "gb300_72",
}  # fmt: skip
"""Other names of accelerators and racks -> the catalog's."""
_VARIANTS = ("instruct", "chat", "it", "base", "hf", "preview", "thinking", "turbo", "dynamic", "quantized", "latest")
"""Words in a model's id that do not change its dimensions."""

_DATE, _VERSION = re.compile(r"\d{4}"), re.compile(r"v\d+")
_MANY = re.compile(r"(?P<count>\d{1,3})(?:_?x_?|_)(?P<gpu>[a-z]\w*|\d{4})")
_BY = re.compile(r"(?P<gpu>[a-z]\w*?)(?:_?x_?|_)(?P<count>\d{1,3})")
_TOTAL = re.compile(r"memory_total = ([0-9_]+) (MiB|GiB)")
_WORDLESS = re.compile(r"[^a-z0-9]+")


def hint_for_name(kind: str, text: str, local: Iterable[str] = ()) -> str:
    """What to write for ``text`` where the name of a ``kind`` is expected; the files declare the names ``local``."""
    if text.lower() in ("none", "null"):
        return f"leave the field out to have no {kind}" if kind == "engine" else "leave the field out"
    if meant := catalog_name(kind, text):
        return f"write `{meant}`"
    ours, words = list(local), _words(text)
    if kind == "node" and (largest := _too_many("_".join(words))):
        return f"`{largest}` is the largest such node: a `cluster` joins several of them"
    if kind == "sharding" and not nearest(text, ours) and (degrees := DEGREE.findall(text)):
        return f"write `sharding {{ {', '.join(f'{name.lower()} = {size}' for name, size in degrees)} }}`"
    if near := nearest(text, ours) or _relatives(kind, "_".join(_kept(words) if kind == "model" else words)):
        return f"did you mean {either(near)}?"
    return _where_to_look(kind, ours)


def _where_to_look(kind: str, local: list[str]) -> str:
    names = sorted({*local, *catalog_names(kind)})
    if not names:
        return f"declare it: `{kind} NAME {{ ... }}`"
    if len(names) <= LISTED:
        return f"known here: {', '.join(f'`{name}`' for name in names)}"
    if kind == "model":
        return 'the catalog has none like it: see `planc catalog model`, or read its config: `hf("config.json")`'
    return f"the catalog has none like it: see `planc catalog {kind}`, or declare `{kind} NAME {{ ... }}`"


# ---- words of other tools

_PERCENTILE = re.compile(r"(p\d\d|median|mean|avg)_?(.+)|(.+?)_?(p\d\d|median|mean|avg)")


def hint_for_format(word: str, choices: Iterable[str] = ()) -> str:
    """What a plan calls the number format of another tool; empty for other words, and for what is no choice here."""
    own, tool = FORMATS.get(plain(word), ("", ""))
    return say(word, own, tool) if own and (not choices or own in choices) else ""


def hint_for_word(word: str, choices: Iterable[str]) -> str:
    """What a plan calls a word of somebody else, where it takes one of the ``choices``; empty for other words."""
    own, maker = WORDS.get(plain(word), ("", ""))
    return say(word, own, maker) if own in choices else ""


def hint_for_metric(word: str) -> str:
    """What a plan calls the metric of another tool, or a percentile of one; empty for other words."""
    parts = _PERCENTILE.fullmatch(plain(word))
    stated, inner = (parts[1] or parts[4], parts[2] or parts[3]) if parts else ("", plain(word))
    own, tool = METRICS.get(inner, (inner, ""))
    if parts and own in TIMES:
        written = {"mean": own, "avg": own, "median": f"p50({own})"}.get(stated, f"{stated}({own})")
        return f"write `{written}`"
    return say(word, own, tool) if inner in METRICS else ""


def own_path(word: str) -> str:
    """The path of the field that another tool calls ``word``; empty for other words."""
    synonym = FIELDS.get(plain(word))
    return synonym.path if synonym else ""


# ---- typos


def _relatives(kind: str, word: str) -> list[str]:
    """Names of the same family that have all words of ``word``, else those that differ by the fewest slips."""
    names = catalog_names(kind)
    if kind in HARDWARE and re.sub(r"_\d{1,2}$|_\d+x\d+$", "", word) in ELSEWHERE:
        return []
    if kind in HARDWARE:
        same = tuple(name for name in names if _family(name) == _family(word))
        if kind == "node" and not same:  # an instance, without its cloud
            clouds = {name.partition("_")[2]: name for name in names if name.startswith(_CLOUDS)}
            near = nearest(word, [own for own in clouds if _family(own) == _family(word)])
            return [clouds[own] for own in near]
        names = same
    elif kind == "model":
        names = _same_family(word, names)
    wider = [name for name in names if _holds(name.split("_"), word.split("_"))]
    return sorted(wider, key=lambda name: (len(name), name))[:MOST_NEAR] or nearest(word, names)


def _same_family(word: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of models with the family of ``word``; with one letter of it wrong, where no model has this family."""
    ours = _family(word)
    return tuple(n for n in names if _family(n) == ours) or tuple(
        n for n in names if len(ours) > MOST_NEAR and count_slips(_family(n), ours) == 1
    )


def _family(name: str) -> str:
    """What stands before the first digit: `h` of `h100_sxm`, `llama` of `llama_3_1_8b`."""
    return re.split(r"[\d_]", name.lower().removeprefix("rtx_"), maxsplit=1)[0]


def _holds(name: list[str], words: list[str]) -> bool:
    rest = iter(name)
    return all(word in rest for word in words)


# ---- names as they are elsewhere


def catalog_name(kind: str, text: str) -> str:
    """What to write for a model id or a number of GPUs; empty if the catalog has nothing that ``text`` must mean."""
    if kind == "model":
        return _model(text)
    exact = _WORDLESS.sub("_", text.lower().rsplit("/", 1)[-1])
    word = exact if catalog_find(kind, exact) else "_".join(_machine(text))
    if kind == "node":
        clouds = (f"{cloud}_{own}" for own in (exact, word) for cloud in _CLOUDS)
        return next((name for name in clouds if catalog_find("node", name)), "") or _node(word)
    word = _SHORT.get(word, word)
    if kind == "gpu" and not catalog_find(kind, word):
        return _with_memory(word)
    return word if catalog_find(kind, word) else ""


def _machine(text: str) -> list[str]:
    """The words that choose a machine: ``NVIDIA H100-SXM5-80GB`` -> ``h100 sxm 80``."""
    words = [re.sub(r"sxm\d", "sxm", word) for word in _words(re.sub(r"(?i)\brtx(?=\d)", "rtx ", text))]
    return [word for word in words if word not in _SERIES] or words


def _with_memory(word: str) -> str:
    """The GPU whose name is followed by its gigabytes, as in ``h100_sxm_80``; empty where it has another memory."""
    name, _, size = word.rpartition("_")
    name = _SHORT.get(name, name)
    found = catalog_find("gpu", name) if size.isdecimal() and name else None
    while found and isinstance(found[0].value, Ref):
        found = catalog_find("gpu", found[0].value.name)
    sizes = _TOTAL.search(found[1].text) if found else None
    if not sizes:
        return ""
    gigabytes = int(sizes[1]) * UNITS[sizes[2]][0] / UNITS["GB"][0]
    return name if abs(gigabytes / int(size) - 1) < 0.1 else ""


def _words(text: str) -> list[str]:
    """The words of a name but that of the maker, in lower case: ``meta-llama/Llama-3`` -> ``llama 3``."""
    lower = text.lower().replace("\u00d7", "x").rsplit("/", 1)[-1]
    words = [word for word in _WORDLESS.split(re.sub(r"(?<=\d)gb(?![a-z0-9])", "", lower)) if word]
    return [word for word in words if word not in _MAKERS] or words


def _kept(words: list[str]) -> list[str]:
    """The words of a model's id that choose its dimensions."""
    return [word for word in words if word not in _VARIANTS and not _format(word)]


def _node(word: str) -> str:
    """The node of a count and a GPU; where the catalog has none of this size, it is made from the node of eight."""
    for name in (word, _SHORT.get(word, "")):
        if catalog_find("node", name):
            return name
    stem, count = _counted(word)
    stem = _SHORT.get(stem, stem)
    eight = catalog_find("node", f"{stem}_8")
    if not eight:
        stem = re.sub(r"_\d+$", "", stem)  # the memory, as in `h100_80`
        eight = catalog_find("node", f"{stem}_8")
    if catalog_find("node", f"{stem}_{count}"):
        return f"{stem}_{count}"
    if 1 < count < 8 and eight and "torus" not in eight[1].text:  # a torus has sizes of its own
        return f"{stem}_8 with {{ count = {count} }}"
    return f"{stem}_{max(sizes)}" if (sizes := _sizes(stem)) and not re.search(r"\d+x|x\d+|_\d+$", word) else ""


def _counted(word: str) -> tuple[str, int]:
    """The GPU of a node, and how many it has: eight, where ``word`` does not say."""
    found = _MANY.fullmatch(word) or _BY.fullmatch(word)
    return (found["gpu"], int(found["count"])) if found else (word, 8)


def _too_many(word: str) -> str:
    """The largest node of the catalog, for a node with more GPUs of the same kind; empty for other nodes."""
    stem, count = _counted(word)
    sizes = _sizes(stem)
    return f"{stem}_{max(sizes)}" if sizes and count > max(sizes) else ""


def _sizes(stem: str) -> list[int]:
    """The numbers of GPUs of the catalog's nodes of one kind."""
    found = (re.fullmatch(rf"{re.escape(stem)}_(\d+)", name) for name in catalog_names("node"))
    return [int(match[1]) for match in found if match]


def _model(text: str) -> str:
    """The model of an id such as ``meta-llama/Llama-3.1-70B-Instruct-FP8``, with the format that the id names."""
    formats = [own for word in _words(text) if (own := _format(word))]
    words = _kept(_words(text))
    undated = [word for word in words if not _DATE.fullmatch(word)]
    version = next((at for at, word in enumerate(undated) if at and _VERSION.fullmatch(word)), len(undated))
    keys = {name.replace("_", ""): name for name in catalog_names("model")}
    found = next((name for kept in (words, undated, undated[:version]) if (name := _begins(keys, kept))), "")
    return f"{found} with {{ weights = {formats[0]} }}" if found and formats else found


def _begins(keys: dict[str, str], words: list[str]) -> str:
    """The model whose name is an id, or all that it begins with: `llama_4_scout` for ``Llama-4-Scout-17B-16E``."""
    sizes = range(len(words), min(2, len(words) - 1), -1)
    return next((name for size in sizes if (name := keys.get("".join(words[:size])))), "")


def _format(word: str) -> str:
    """The number format that a word of an id names; empty if it names none."""
    return word if word in BITS else FORMATS.get(word, ("",))[0]
