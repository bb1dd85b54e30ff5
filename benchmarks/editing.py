"""How long an editor waits: a change in a file of 500 lines, as the language server answers it.

``python -m benchmarks.editing`` prints these rows alone. Changes are spread over the file; each changes a number, as
somebody who types does.
"""

from __future__ import annotations

import gc
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from plandsl.editing.complete import complete
from plandsl.editing.hover import hover
from plandsl.editing.outline import painted
from plandsl.editing.reading import Reading
from plandsl.grammar.parse import parse

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MADE_OF = ("own_model", "llama3_70b", "experts", "speculate", "split_llama_3_3_70b", "shift_llama_3_3_70b")
LINES = 500


def dense(lines: int = LINES) -> str:
    """A file of so many lines: examples again and again, each time with other names. A sixth of the lines is a plan."""
    texts = [(EXAMPLES / f"{name}.plan").read_text("utf-8") for name in MADE_OF]
    out, turn = "", 0
    while True:
        for text in texts:
            turn += 1
            declared = re.findall(r"^(?:plan|workload|model|sharding|search|engine|let) (\w+)", text, re.MULTILINE)
            for name in sorted(set(declared), key=len, reverse=True):
                text = re.sub(rf"\b{name}\b(?! \{{ base)", f"{name}_{turn}", text)
            out += ("\n" if out else "") + text
            if out.count("\n") >= lines:
                return out


def changes(text: str, count: int = 24) -> list[str]:
    """The text with one number changed, at places that are spread over it."""
    found = list(re.finditer(r"(?:input|batch|output|tp) = (\d+)", text))
    chosen = found[:: max(1, len(found) // count)]
    return [text[: m.start(1)] + str(int(m[1]) + 1) + text[m.end(1) :] for m in chosen]


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rows() -> list[tuple[str, float, float, str]]:
    """What was timed, the median and the longest time in seconds, and the target."""
    gc.set_threshold(100_000, 50, 50)  # as `planc` does
    text = dense()
    reading = Reading(text, "dense.plan")
    reading.check()
    made: dict[str, list[float]] = {"read": [], "look": [], "check": [], "colours": []}
    for changed in changes(text):
        start = time.perf_counter()
        after = Reading(changed, "dense.plan", before=reading)
        made["read"].append(time.perf_counter() - start)
        after.look()
        made["look"].append(time.perf_counter() - start)
        made["check"].append(made["look"][-1] + timed(after.check))
        made["colours"].append(timed(lambda after=after: painted(after)))  # type: ignore[misc]
    lines = text.split("\n")
    places = [(n + 1, len(line) + 1) for n, line in enumerate(lines) if line.strip()][::20]
    offered = [timed(lambda at=at: complete(reading, *at)) for at in places]  # type: ignore[misc]
    said = [timed(lambda at=at: hover(reading, at[0], 4)) for at in places]  # type: ignore[misc]
    parsed = [timed(lambda: parse(text, "dense.plan")) for _ in range(9)]
    called = f"{text.count(chr(10))} lines"
    return [
        (f"parse {called}", *_both(parsed), ""),
        (f"a change in {called}: read it", *_both(made["read"]), ""),
        (f"a change in {called}: findings", *_both(made["look"]), "target < 50 ms"),
        ("  and those of compiled plans", *_both(made["check"]), ""),
        ("  and colours", *_both(made["colours"]), ""),
        ("completion", *_both(offered), ""),
        ("hover", *_both(said), ""),
    ]


def _both(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), max(times)


def main() -> None:
    """Print the rows: medians, the longest, and ratios to parsing the text."""
    found = rows()
    base = found[0][1]
    for what, median, longest, target in found:
        ratio = f"{median / base:>10.3g} x parsing, at most {1e3 * longest:.1f} ms"
        print(f"{what:<46}{1e3 * median:>10.3f} ms{ratio}  {target}")


if __name__ == "__main__":
    main()
