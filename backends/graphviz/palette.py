"""The colours of every picture: few, and distinct for readers who cannot tell red from green."""

from __future__ import annotations

from plandsl.ir.ops import OPS

INK = "#1f2933"
MUTED = "#56616f"
FAINT = "#7b8794"
LINE = "#b8c2cc"
FRAME = "#d5dbe1"
PANEL = "#f5f7f9"
CARD = "#ffffff"
IDLE = "#e6e9ed"
GOOD, GOOD_BACK = "#14633f", "#dceee4"
BAD, BAD_BACK = "#b3261e", "#fbe4e1"
SPINE = "#3e4c59"
HOP = "#6f4e94"
COMM = "#bf5229"

MEMORY = {"weights": "#3f73a8", "kv_cache": "#e3a23b", "activations": "#5fa893", "buffers": "#a983b3"}
MEMORY_NAMES = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "activations": "activations",
    "buffers": "buffers",
}
FREE = "#e9edf1"

GPUS = ("#e3eefa", "#fbeed6", "#e2f3e8", "#f3e6f5")
"""Colours of the cards of unlike GPUs."""

AXES = (COMM, "#1f7a82", "#8a6d1c", "#a0457e")
"""Colours of collectives, by mesh axis."""

TRANSFER = "#1d7f83"
"""Colour of the KV cache that is sent from pool to pool."""

KINDS = {
    "gemm": "#3f73a8",
    "attention": "#e3a23b",
    "recurrence": "#a85f7a",
    "norm": "#8fa3b5",
    "elementwise": "#b9c4ce",
    "embedding": "#5fa893",
    "collective": COMM,
    "hop": HOP,
}
"""Colours of ops, by kind."""

KIND_NAMES = {
    "gemm": "matrix multiplication",
    "attention": "attention",
    "recurrence": "layer with a state",
    "norm": "norm",
    "elementwise": "element by element",
    "embedding": "embedding",
    "collective": "collective",
    "hop": "to the next stage",
}

BATCHES = ("#88b4dd", "#f0a07c", "#8fcfb8", "#e8d27a", "#c3a6d8", "#a8c95f", "#f2b8c6", "#9fd8e8")
"""Colours of in-flight batches in turn, light enough for dark numbers."""


LOOKS = {op.facts.word: op.facts.look for op in OPS}
"""The key of `KINDS` for each word by which reports call an op."""


def mix(color: str, share: float) -> str:
    """``share`` of a colour in white."""
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in parts)


def ink_on(fill: str) -> str:
    """The text colour, white or dark, that reads better on ``fill``."""
    red, green, blue = (int(fill[i : i + 2], 16) for i in (1, 3, 5))
    return CARD if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else INK
