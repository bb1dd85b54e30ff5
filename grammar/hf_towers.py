"""The tower of a multimodal config.json: its `vision_config` as the text of a `tower { }`.

A family of towers is a file in `catalog/families` whose `towers` are architectures. It reads `vision_config`, and
besides `text_hidden_size`, `tokens_per_image` and `spatial_merge_size` of the config around it.
"""

from __future__ import annotations

from plandsl import limits
from plandsl.grammar.hf_config import AROUND, Config, json_list
from plandsl.grammar.hf_families import Family, tower_family
from plandsl.grammar.hf_shape import Shape, shape_of
from plandsl.grammar.hf_text import Made, dimensions_in, tower_text
from plandsl.spec.model import ACTIVATIONS

VISION = "vision_config"


def tower_lines(config: Config, shape: Shape, activations: str) -> list[str]:
    """The lines of the tower, for a model of this shape; none if the config describes no tower that `hf` can write.

    ``activations`` is the format of the tower's weights and values. What is left out is told in a note.
    """
    values = config.get(VISION)
    if not isinstance(values, dict):
        return []
    family = tower_family(config.items(AROUND, str) or config.items("architectures", str) or [])
    if family is None:
        config.note("only the language model is written: vision is left out", VISION)
        return []
    made = _made(config, family, values, shape)
    return (
        []
        if made is None
        else tower_text(made, f"weights = {activations}, {ACTIVATIONS} = {activations}, causal = false")
    )


def _made(config: Config, family: Family, values: dict[str, object], shape: Shape) -> Made | None:
    """The tower's family with its shape; None, and a note, where a value is missing or wrong."""
    around = {"text_hidden_size": shape.values["hidden"], "tokens_per_image": config.get("mm_tokens_per_image")}
    around |= {"spatial_merge_size": values.get("spatial_merge_size", config.get("spatial_merge_size"))}
    place = config.spans.get(VISION, config.span)
    own = Config(config.file, {**values, **around}, dict.fromkeys(values, place), place)
    own.skip("model_type", *around)
    found = shape_of(own, family)
    wrong = next((d.message for d in own.found if d.severity == "error"), "")
    if not wrong and found.values["joined"] < 2:
        wrong = "no patches become one token"
    made = Made(family, found)
    sizes = (
        () if wrong else ((n, found.values.get(n, 1)) for n in sorted(dimensions_in("\n".join(tower_text(made, "")))))
    )
    wrong = wrong or next((f"`{n}` would be {size:,}" for n, size in sizes if size > limits.MAX_DIMENSION), "")
    if wrong:
        config.note(f"the tower is left out: {wrong}", VISION)
        return None
    config.found += own.found
    if own.unread():
        config.note(f"`hf` does not read {json_list(own.unread()[:8])} of the tower", VISION)
    return made
