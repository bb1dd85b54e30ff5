"""The page of examples: every file of examples/, in full."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]

HEAD = """# Examples

The plans in the folder `examples/` of the source, each in full. They compile without errors, and pages of this site run
them.

"""


def files() -> list[Path]:
    """The plans, those at the top first."""
    return sorted((ROOT / "examples").rglob("*.plan"), key=lambda p: (len(p.parts), p))


def anchors() -> dict[str, str]:
    """Path in the repository -> anchor on the page, of each plan and each folder of plans."""
    found = {"examples": "", "examples/notebooks": "notebooks"}
    for path in reversed(files()):
        name = path.relative_to(ROOT).as_posix()
        found[name] = found[path.parent.relative_to(ROOT).as_posix()] = _anchor(name)
    return found | {"examples": ""}


def _anchor(name: str) -> str:
    return name.removeprefix("examples/").replace("/", "").replace(".", "")


def page() -> str:
    """The page, as Markdown."""
    out = HEAD
    for path in files():
        name = path.relative_to(ROOT / "examples").as_posix()
        out += f'## {name}\n\n```plan title="examples/{name}"\n{path.read_text("utf-8").rstrip()}\n```\n\n'
    books = ", ".join(f"`{p.name}`" for p in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")))
    return out + f"## Notebooks\n\nThe folder `examples/notebooks` has {books}, which run with the extra `notebook`.\n"
