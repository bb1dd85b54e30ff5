"""Writes what the page of `planc serve` takes from the language: its words, for colours, and the examples of its menu.

python -m benchmarks.playground
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plandsl.files import write_file
from plandsl.grammar.tokens import KEYWORDS, KINDS
from plandsl.starter import starter
from plandsl.units import UNITS

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "backends" / "serve" / "static" / "page.json"
PICTURE = ROOT / "docs" / "images" / "playground.png"

FIRST = "a first plan"
EXAMPLES = {
    "llama3_70b": "three ways to shard a 70B model",
    "own_model": "a model of your own",
    "split_llama_3_3_70b": "pools for prefill and decode",
    "shift_llama_3_3_70b": "two shardings that take turns",
    "speculate": "speculative decoding",
    "experts": "experts in parallel",
    "llama_4_scout": "heads, experts or context",
    "long_context": "long contexts",
    "sparse_attention": "sparse attention",
    "unlike_gpus": "unlike GPUs",
    "adapters": "adapters under traffic",
    "vision": "images",
    "money_70b": "money and energy",
    "search_70b": "a search for the best sharding",
}
"""Files of `examples/` that use no other file, and their titles in the menu."""


def page() -> dict[str, Any]:
    """The content of the file."""
    files = (
        {"title": title, "text": (ROOT / "examples" / f"{name}.plan").read_text()} for name, title in EXAMPLES.items()
    )
    words = {"kinds": list(KINDS), "keywords": sorted(KEYWORDS - {*KINDS}), "units": sorted(UNITS)}
    return {"words": words, "examples": [{"title": FIRST, "text": starter()}, *files]}


def text() -> str:
    """The content of the file as text."""
    return json.dumps(page(), indent=1) + "\n"


def draw(target: Path) -> None:
    """The picture of docs/playground.md: the page in Chromium, by the libraries of `make test-extras`."""
    import subprocess
    import sys

    from playwright.sync_api import sync_playwright

    example = str(ROOT / "examples" / "llama3_70b.plan")
    command = [sys.executable, "-m", "plandsl", "serve", example, "--json", "--port", "0", "--for", "60"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")["address"]
        with sync_playwright() as found:
            chromium = found.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--disable-gpu", "--no-sandbox"]
            )
            page = chromium.new_page(viewport={"width": 1400, "height": 860}, reduced_motion="reduce")
            page.goto(address)
            page.click(".plans button:has-text('hybrid')")
            page.wait_for_selector("#estimate h2 b:has-text('hybrid')")
            page.evaluate("document.getElementById('status').textContent = ''")
            page.screenshot(path=str(target))
            chromium.close()
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", action="store_true", help="also draw the picture of the page")
    asked = parser.parse_args()
    write_file(TARGET, text())
    print(f"wrote {TARGET.relative_to(ROOT)}")
    if asked.picture:
        draw(PICTURE)
        print(f"wrote {PICTURE.relative_to(ROOT)}")
