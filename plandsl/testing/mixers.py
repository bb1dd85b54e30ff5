"""Strategies for layers with a state: gated delta nets, Mamba, lightning attention and short convolutions."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from plandsl.spec.model import Apply, Statement, Term, Var, Weight

MIXERS = ("delta", "mamba2", "mamba", "lightning", "convolution")
"""The kinds of layers with a state, one of which a model has."""

STORED = frozenset(MIXERS) - {"convolution"}
"""The kinds whose states have the format `state_cache`; a convolution keeps tokens in the format of activations."""

H = Var("h")


class Mixer(NamedTuple):
    """A layer with a state: its statements, and the term that it adds to the residual stream."""

    before: tuple[Statement, ...]
    out: Apply


def _matmul(x: Term, name: str, *dims: str) -> Apply:
    return Apply("matmul", (x, Weight(name, dims)))


@composite
def mixer_sizes(draw: DrawFn, kind: str, scale: int) -> dict[str, int]:
    """Sizes of the dimensions that a mixer of this kind has beside those of attention."""
    widths = st.sampled_from((2, 4, 6, 8)).map(lambda n: scale * n)
    sizes = {"state_dim": draw(widths)} if kind != "mamba" else {}
    if kind == "lightning":
        return sizes
    groups = draw(st.sampled_from((2, 4, 1, 3, 8)))
    sizes["state_heads"] = groups * draw(st.sampled_from((1, 2, 4, 3)))
    sizes["conv_width"] = draw(st.sampled_from((4, 2, 3)))
    if kind in ("delta", "mamba2"):
        sizes |= {"state_groups": groups}
    if kind != "convolution":
        sizes |= {"state_width": draw(widths)}
    return sizes


@composite
def mixers(draw: DrawFn, kind: str) -> Mixer:
    """A mixer of a kind, with convolutions, biases, gates and norms or without."""
    channels = {"mamba": ("state_heads",), "lightning": ("heads", "state_dim")}.get(kind, ("state_heads", "state_dim"))
    before: tuple[Statement, ...]
    if kind == "convolution":
        before = (Statement("v", draw(_convolved("v", _matmul(H, "w_sv", "hidden", *channels)))),)
        y: Term = Var("v")
    else:
        before, y = draw(_recurrences(kind, channels))
    if len(channels) == 2 and draw(st.booleans()):
        fn = draw(st.sampled_from(("rms_norm", "layer_norm")))
        together = kind in ("delta", "mamba2") and draw(st.booleans())
        groups = (("gain", "none"), ("groups", "state_groups")) if together else ()
        y = Apply(fn, (y,), (("over", channels[-1]), *groups))
    if draw(st.booleans()):
        gate = Apply(draw(st.sampled_from(("silu", "sigmoid"))), (_matmul(H, "w_z", "hidden", *channels),))
        y = Apply("mul", (y, gate))
    return Mixer((*before, Statement("m", y)), _matmul(Var("m"), "w_so", *channels, "hidden"))


@composite
def _convolved(draw: DrawFn, name: str, x: Term) -> Term:
    """A short convolution of the channels of ``x``, with a bias and a function after it or without."""
    assert isinstance(x, Apply)
    assert isinstance(x.args[1], Weight)
    channels = x.args[1].dims[1:]
    bias = (Weight(f"b_conv_{name}", channels),) if draw(st.booleans()) else ()
    y = Apply("short_conv", (x, Weight(f"w_conv_{name}", ("conv_width", *channels)), *bias))
    return Apply("silu", (y,)) if draw(st.integers(0, 3)) else y


@composite
def _recurrences(draw: DrawFn, kind: str, channels: tuple[str, ...]) -> tuple[tuple[Statement, ...], Apply]:
    """Queries, keys, values and what the state decays by, and the `recurrence` of them."""
    groups = {"lightning": ("heads", "head_dim"), "mamba": ("state_width",)}.get(kind, ("state_groups", "state_width"))
    convolves = kind != "lightning" and draw(st.integers(0, 4)) > 0
    before = []
    for name, dims in (("q", groups), ("k", groups), ("v", channels)):
        x: Term = _matmul(H, f"w_s{name}", "hidden", *dims)
        x = draw(_convolved(name, x)) if convolves and (kind != "mamba" or name == "v") else x
        before.append(Statement(name, x))
    roles: list[tuple[str, Term]] = []
    if kind != "lightning":
        narrow, wide = ("state_heads",), ("state_heads", "state_width")
        own = wide if draw(st.integers(0, 5)) == 0 else narrow
        rate = wide if kind == "mamba" and draw(st.booleans()) else own
        step = Apply("add", (_matmul(H, "w_step", "hidden", *own), Weight("b_step", own)))
        before.append(Statement("step", Apply("softplus", (step,))))
        roles = [("step", Var("step")), ("rate", Weight("a_log", rate))]
        if kind == "delta":
            before.append(Statement("beta", Apply("sigmoid", (_matmul(H, "w_beta", "hidden", *narrow),))))
            roles.append(("write", Var("beta")))
        elif own == narrow:
            roles.append(("write", Var("step")))
        roles += [("skip", Weight("d_skip", narrow))] if draw(st.booleans()) else []
    options: list[tuple[str, int | bool | str]] = [("named", " ".join(name for name, _ in roles))] if roles else []
    options += [("delta", True), ("normalize", True)] if kind == "delta" else []
    options += [("slopes", True)] if kind == "lightning" and draw(st.integers(0, 3)) else []
    options += [("chunk", draw(st.sampled_from((16, 128, 256))))] if draw(st.booleans()) else []
    operands = (Var("q"), Var("k"), Var("v"), *(term for _, term in roles))
    return tuple(before), Apply("recurrence", operands, tuple(options))
