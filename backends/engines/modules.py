"""Names that vLLM and SGLang have for the modules with adapters, and the weights of the catalog that they hold."""

from __future__ import annotations

from collections.abc import Sequence

from plandsl.backends.engines.reading import Reading

OWN = {
    "w_q": "q_proj", "w_k": "k_proj", "w_v": "v_proj", "w_o": "o_proj",
    "w_gate": "gate_proj", "w_up": "up_proj", "w_down": "down_proj",
}  # fmt: skip
"""Weights as the catalog names them -> modules, as SGLang takes them one by one.

Source: `SUPPORTED_LORA_TARGET_MODULES` in sglang/srt/utils/common.py (wheel of SGLang 0.5.23).
"""

MERGED = {
    "qkv_proj": ("w_q", "w_k", "w_v"), "o_proj": ("w_o",),
    "gate_up_proj": ("w_gate", "w_up"), "down_proj": ("w_down",),
}  # fmt: skip
"""Modules as vLLM runs them -> their weights. An adapter of one has room for adapters of all.

Source: `--lora-target-modules` in vLLM's engine arguments, whose example names `o_proj` and `qkv_proj`.
"""

ALL = "all"
"""The word of SGLang for all modules that it can adapt."""


def merged_modules(targets: Sequence[str], inside: Sequence[str] = ()) -> tuple[str, ...]:
    """The modules of vLLM that hold ``targets``; empty where it has no name for one of them.

    ``inside`` are targets in experts, whose modules have other names.
    """
    known = {name for names in MERGED.values() for name in names}
    if inside or not set(targets) <= known:
        return ()
    return tuple(module for module, names in MERGED.items() if set(names) & set(targets))


def own_modules(targets: Sequence[str], inside: Sequence[str] = ()) -> tuple[str, ...]:
    """The modules of SGLang that are ``targets``; `ALL` where it has no name for one of them."""
    return tuple(OWN[name] for name in targets) if not inside and set(targets) <= set(OWN) else (ALL,)


def more_targets(targets: Sequence[str], inside: Sequence[str] = ()) -> list[str]:
    """Weights beside ``targets`` for whose adapters vLLM has room, because they share a module with a target."""
    held = [name for module in merged_modules(targets, inside) for name in MERGED[module]]
    return [name for name in held if name not in targets]


def weights_of(r: Reading, flag: str) -> tuple[str, ...]:
    """The weights that the words of a flag name; empty for all. Records a module that is not known (E508)."""
    named = {theirs: (ours,) for ours, theirs in OWN.items()} | MERGED
    words = r.words(flag)
    if list(words) == [ALL]:
        return ()
    found: dict[str, None] = {}
    for word in words:
        weights = [name for name in named.get(word, ()) if r.has_weight(name)]
        if not weights:
            r.fail(
                flag, f"no weight of `{r.model.name}` is known as `{word}`", f"one of {', '.join(named)}, or drop it"
            )
        found |= dict.fromkeys(weights)
    return tuple(found)
