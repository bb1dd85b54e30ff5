"""The parts of an exported program that are the same in each: helpers on a device, and what runs the stages."""

HEAD = """from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

EXACT = "--exact" in sys.argv  # every format is float64, for a comparison
if EXACT:
    jax.config.update("jax_enable_x64", True)

Array = jax.Array
WIDE = jnp.float64 if EXACT else jnp.float32  # of norms, softmaxes and sums
"""

ON_A_DEVICE = '''def wide(x: Array) -> Array:
    """``x`` in the format of norms, softmaxes and sums."""
    return x.astype(WIDE)


def gemm(dims: str, x: Array, w: Array, compute: Any, out: Any) -> Array:
    """The product of ``x`` and ``w``, multiplied in format ``compute`` and stored in format ``out``."""
    kept = WIDE if jnp.issubdtype(compute, jnp.floating) else jnp.int32
    return jnp.einsum(dims, x.astype(compute), w.astype(compute), preferred_element_type=kept).astype(out)


def positions(count: int, past: Array, index: Array | int = 0) -> Array:
    """The positions of ``count`` tokens of the rank that has part ``index`` of a step, after ``past`` tokens."""
    return past + index * count + jnp.arange(count)


def known(at: Array, total: Array) -> Array:
    """The positions of the slots of a cache; -1 for slots that no token of the first ``total`` has filled."""
    return jnp.where(at < total, at, -1)


def own_part(x: Array, axes: Any, ways: int, along: int) -> Array:
    """This rank's part of dimension ``along``; nothing travels."""
    size = x.shape[along] // ways
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axes) * size, size, along)


def split(x: Array, along: int, blocks: int, count: int) -> list[Array]:
    """Cut each of ``blocks`` blocks of dimension ``along`` into ``count`` parts; part i of all blocks is chunk i."""
    shape = x.shape[:along] + (blocks, x.shape[along] // blocks) + x.shape[along + 1 :]
    each, more = divmod(shape[along + 1], count)
    ends = [(i + 1) * each + min(i + 1, more) for i in range(count - 1)]
    parts = jnp.split(x.reshape(shape), ends, axis=along + 1)
    return [p.reshape(x.shape[:along] + (-1,) + x.shape[along + 1 :]) if p.size else
            jnp.zeros(x.shape[:along] + (0,) + x.shape[along + 1 :], x.dtype) for p in parts]


def join(chunks: list[Array], along: int, blocks: int) -> Array:
    """The inverse of `split`."""
    first = chunks[0].shape
    parts = [c.reshape(first[:along] + (blocks, c.shape[along] // blocks) + first[along + 1 :]) for c in chunks]
    whole = jnp.concatenate(parts, axis=along + 1)
    return whole.reshape(first[:along] + (blocks * whole.shape[along + 1],) + first[along + 1 :])


def unless_empty(x: Array, exchange: Callable[[Array], Array]) -> Array:
    """``exchange(x)``; of a chunk without rows, as empty a result."""
    return exchange(x) if x.size else jnp.zeros(jax.eval_shape(exchange, x).shape, x.dtype)


def rescale(x: Array, axes: Any, keep: bool = False) -> Array:
    """Weigh this rank's softmax over its own keys, so that the ranks along ``axes`` add up to the whole softmax.

    Only the log-sum-exps travel, which are the last element of each row; with ``keep``, the row keeps the sum of all.
    """
    every = lax.all_gather(x[..., -1:], axes)
    highest = every.max(axis=0)
    base = jnp.where(jnp.isfinite(highest), highest, 0.0)
    together = base + jnp.log(jnp.exp(every - base).sum(axis=0))
    own = jnp.exp(x[..., -1:] - jnp.where(jnp.isfinite(together), together, 0.0))
    mean = x[..., :-1] * own
    return jnp.concatenate([mean, together], axis=-1) if keep else mean


def ring(xs: list[Array], axis: str, ways: int, along: int) -> list[Array]:
    """Pass the parts of dimension ``along`` around the ranks of ``axis``; gives all parts, in the dimension's order."""
    steps = [(i, (i + 1) % ways) for i in range(ways)]

    def pass_on(held: list[Array], _: None) -> tuple[list[Array], list[Array]]:
        return lax.ppermute(held, axis, steps), held

    last, before = lax.scan(pass_on, xs, length=ways - 1)
    came = (lax.axis_index(axis) - jnp.arange(ways)) % ways
    found = []
    for x, blocks in zip(last, before, strict=True):
        whole = jnp.take(jnp.concatenate([blocks, x[None]]), came, axis=0)
        shape = x.shape[:along] + (ways * x.shape[along],) + x.shape[along + 1 :]
        found.append(jnp.moveaxis(whole, 0, along).reshape(shape))
    return found


def write_slots(kept: Array, new: Array, at: Array, first: Array) -> Array:
    """A cache ``kept`` whose slots hold the positions ``at``, with the rows ``new`` of positions from ``first`` on."""
    rows = at - first
    here = ((rows >= 0) & (rows < new.shape[1])).reshape((1, -1) + (1,) * (new.ndim - 2))
    return jnp.where(here, jnp.take(new, jnp.clip(rows, 0, new.shape[1] - 1), axis=1), kept)


def with_tail(kept: Array, x: Array, past: Array) -> Array:
    """``x [batch, position, channels...]`` behind the tokens that its convolution kept; zeros before the first."""
    return jnp.concatenate([jnp.where(past == 0, 0, kept).astype(x.dtype), x], axis=1)


def recurrence(
    kept: Array, q: Array, k: Array, v: Array, *, decay: Array, write: Array | None = None, skip: Array | None = None,
    delta: bool = False, past: Array, total: Array,
) -> tuple[Array, Array]:
    """What the tokens of a step read of the state, as ``v [batch, position, heads, p]``, and the state after the last.

    Tokens run one by one. Those from ``total`` on are padding, and leave the state as it is. Without p, each head has
    one value.
    """
    flat = v.ndim == 3
    kept, v = (kept[..., None], v[..., None]) if flat else (kept, v)
    live = past + jnp.arange(v.shape[1]) < total
    write = jnp.ones(v.shape[:3], WIDE) if write is None else write
    decay = jnp.broadcast_to(decay, v.shape[:3] + decay.shape[-1:])

    def token(state: Array, each: Any) -> tuple[Array, Array]:
        new, out = recur_token(state, *each[:-1], delta)
        return jnp.where(each[-1], new, state), out

    tokens = [jnp.moveaxis(x, 1, 0) for x in (q, k, v, decay, write)]
    state, outs = lax.scan(token, jnp.where(past == 0, 0, wide(kept)), (*tokens, live))
    out = jnp.moveaxis(outs, 0, 1)
    out = out if skip is None else out + skip[:, None] * v
    return (out[..., 0], state[..., 0]) if flat else (out, state)


def layers(
    block: Callable, w: Any, cache: Any, x: Array, ids: Array, past: Array, total: Array, at: Any = None
) -> Any:
    """Run ``block`` for each layer that the arrays of ``w`` and ``cache`` stack, or for those of the range ``at``."""
    some = (w, cache) if at is None else jax.tree.map(lambda a: a[at[0] : at[1]], (w, cache))
    x, new = lax.scan(lambda x, each: block(*each, x, ids, past, total), x, some)
    if at is not None:
        new = jax.tree.map(lambda a, b: a.at[at[0] : at[1]].set(b), cache, new)
    return x, new
'''

SETTINGS = '''class Tensor(NamedTuple):
    """The stacked layers of a weight, or of an operand of a cache: its shape, format and layout.

    Items of dimension ``along`` are repeated ``times`` times, one for each rank that needs it. A cached tensor without
    ``positions`` is a state, which has the same size after every token.
    """

    shape: tuple[int, ...]
    dtype: Any
    spec: P
    along: int = 0
    times: int = 1
    positions: bool = True


class Step(NamedTuple):
    """The function of a stage in one phase, and the layouts of what it takes and gives."""

    run: Callable
    takes: P
    gives: P


class Stage(NamedTuple):
    """A stage: its place in the mesh, the layers of each region, its weights and caches, and its two functions."""

    place: tuple[Any, ...]
    layers: dict[str, tuple[int | None, ...]]
    weights: dict[str, dict[str, Tensor]]
    caches: dict[str, dict[str, tuple[Tensor, ...]]]
    steps: dict[str, Step]


class Setting(NamedTuple):
    """One sharding of a model on the devices from ``first`` on.

    Prompts of ``batch`` requests come in ``parts`` (numbers of tokens), and requests in ``groups``, one after the
    other. A step decodes ``queries`` tokens of each request; the cache has room for ``decoded`` tokens after the
    prompt. Requests are padded to a multiple of ``pad_batch``, and tokens of a step to a multiple of ``pad``.
    """

    first: int
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    batch: int
    pad_batch: int
    parts: tuple[int, ...]
    groups: int
    queries: int
    pad: int
    decoded: int
    stages: tuple[Stage, ...]


def mesh_of(setting: Setting, stage: Stage) -> Mesh:
    """The devices of a stage, with every axis of the mesh."""
    count = int(np.prod(setting.shape))
    devices = np.array(jax.devices()[setting.first : setting.first + count]).reshape(setting.shape)
    return Mesh(devices[stage.place], setting.axes)


def slots(setting: Setting, ways: int, parts: int) -> Array:
    """The positions that slots of a context hold that ``ways`` ranks share, in ``parts`` rows.

    Each rank has its share of each part of the prompt. Tokens that follow the prompt go to the ranks in turn.
    """
    found, first = [], 0
    for tokens in setting.parts:
        at = first + np.arange(-(-tokens // setting.pad) * setting.pad).reshape(ways, -1)
        first += tokens
        found.append(np.where(at < first, at, 2**30))
    found.append(first + np.arange(-(-setting.decoded // ways) * ways).reshape(-1, ways).T)
    return jnp.asarray(np.concatenate(found, axis=1).reshape(parts, -1))


def is_tensor(x: Any) -> bool:
    """Whether ``x`` is a leaf of a tree of tensors."""
    return isinstance(x, Tensor)


def specs(tree: Any) -> Any:
    """The layouts of a tree of tensors."""
    return jax.tree.map(lambda t: t.spec, tree, is_leaf=is_tensor)


def put(x: Any, setting: Setting, stage: Stage, spec: P) -> Array:
    """``x`` on the devices of a stage."""
    return jax.device_put(x, NamedSharding(mesh_of(setting, stage), spec))


def load_weights(setting: Setting, get: Callable[[str, int | None, str], np.ndarray]) -> list[Any]:
    """The weights of each stage. ``get`` gives the whole weight of a region, a layer (None at the ends) and a name."""

    def load(stage: Stage, region: str, name: str, tensor: Tensor) -> Array:
        every = np.stack([get(region, layer, name) for layer in stage.layers[region]])
        every = every if stage.layers[region] != (None,) else every[0]
        return put(np.repeat(every, tensor.times, axis=tensor.along).astype(tensor.dtype), setting, stage, tensor.spec)

    return [
        {r: {n: load(stage, r, n, t) for n, t in named.items()} for r, named in stage.weights.items()}
        for stage in setting.stages
    ]


def random_weights(setting: Setting, seed: int = 0) -> list[Any]:
    """Random weights, made where they stay: gains around 1, others scaled by their first dimension."""
    rng = iter(range(seed, 2**31))

    def make(stage: Stage, tensor: Tensor) -> Array:
        sharding = NamedSharding(mesh_of(setting, stage), tensor.spec)
        fan_in = max(tensor.shape[-2] if len(tensor.shape) > 1 else 1, 1)

        def draw(key: Array) -> Array:
            noise = jax.random.normal(key, tensor.shape, jnp.bfloat16)
            return (noise / fan_in**0.5).astype(tensor.dtype)

        return jax.jit(draw, out_shardings=sharding)(jax.random.key(next(rng)))

    return [jax.tree.map(lambda t, s=stage: make(s, t), stage.weights, is_leaf=is_tensor) for stage in setting.stages]


def empty_cache(setting: Setting) -> list[Any]:
    """An empty cache of each stage."""

    def make(stage: Stage, tensor: Tensor) -> Array:
        sharding = NamedSharding(mesh_of(setting, stage), tensor.spec)
        return jax.jit(lambda: jnp.zeros(tensor.shape, tensor.dtype), out_shardings=sharding)()

    return [jax.tree.map(lambda t, s=stage: make(s, t), stage.caches, is_leaf=is_tensor) for stage in setting.stages]


@lru_cache(maxsize=None)
def compiled(name: str, index: int, phase: str) -> Callable:
    """The function of a stage over its mesh. It takes weights, cache, input, token ids, past and total."""
    setting = SETTINGS[name]
    stage = setting.stages[index]
    step = stage.steps[phase]
    mapped = jax.shard_map(
        step.run,
        mesh=mesh_of(setting, stage),
        in_specs=(specs(stage.weights), specs(stage.caches), step.takes, P(), P(), P()),
        out_specs=(step.gives, specs(stage.caches)),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=1)


def run(name: str, phase: str, weights: list[Any], cache: list[Any], ids: np.ndarray, past: int) -> tuple[Any, list]:
    """Run ``ids`` ``[batch, position]`` through every stage; a value goes to the next stage by `jax.device_put`."""
    setting = SETTINGS[name]
    rows, tokens = ids.shape
    ids = np.pad(ids, ((0, -rows % setting.pad_batch), (0, -tokens % setting.pad))).astype(np.int32)
    x: Any = ids
    new = []
    for index, stage in enumerate(setting.stages):
        x = put(x, setting, stage, stage.steps[phase].takes)
        x, kept = compiled(name, index, phase)(
            weights[index], cache[index], x, ids, np.int32(past), np.int32(past + tokens)
        )
        new.append(kept)
    return (x[:rows, :tokens] if x.ndim == 3 else x[:rows]), new


def prefill(name: str, weights: list[Any], cache: list[Any], ids: np.ndarray) -> tuple[Any, list[Any]]:
    """Run the prompts ``ids`` ``[batch, input]``; gives the logits of the last token of each, and the cache."""
    setting, found = SETTINGS[name], []
    share = -(-setting.batch // (setting.pad_batch * setting.groups))
    padded = np.pad(ids, ((0, share * setting.pad_batch * setting.groups - len(ids)), (0, 0)))
    for group in range(setting.groups):
        some = cache if setting.groups == 1 else requests_of(cache, setting, group, share)
        rows = padded.reshape(setting.pad_batch, setting.groups, share, -1)[:, group].reshape(-1, ids.shape[1])
        past = 0
        for tokens in setting.parts:
            logits, some = run(name, "prefill", weights, some, rows[:, past : past + tokens], past)
            past += tokens
        cache = some if setting.groups == 1 else with_requests(cache, some, setting, group, share)
        found.append(np.asarray(logits).reshape(setting.pad_batch, share, -1))
    whole = np.stack(found, axis=1)
    return whole.reshape(-1, whole.shape[-1])[: len(ids)], cache


def by_group(a: Array, setting: Setting, share: int) -> Array:
    """A cached array with its requests as ``[blocks, groups, share]``."""
    return a.reshape(a.shape[0], setting.pad_batch, setting.groups, share, *a.shape[2:])


def requests_of(cache: list[Any], setting: Setting, group: int, share: int) -> list[Any]:
    """The cache of one group of requests; each rank has some of its requests in each group."""
    return jax.tree.map(
        lambda a: by_group(a, setting, share)[:, :, group].reshape(a.shape[0], -1, *a.shape[2:]), cache
    )


def with_requests(cache: list[Any], some: list[Any], setting: Setting, group: int, share: int) -> list[Any]:
    """``cache`` with that of one group put back."""
    return jax.tree.map(
        lambda a, b: by_group(a, setting, share)
        .at[:, :, group]
        .set(b.reshape(a.shape[0], setting.pad_batch, share, *a.shape[2:]))
        .reshape(a.shape),
        cache,
        some,
    )


def decode(name: str, weights: list[Any], cache: list[Any], ids: np.ndarray, past: int) -> tuple[Any, list[Any]]:
    """Run the next tokens ``ids`` ``[batch, queries]`` after ``past`` tokens; gives their logits, and the cache.

    A KV cache forgets tokens where the next step begins at an earlier ``past``; a state has seen all of ``ids``.
    """
    return run(name, "decode", weights, cache, ids, past)


def hand_over(source: str, target: str, cache: list[Any]) -> list[Any]:
    """The cache of one setting in the layout of another, from the devices of one to those of the other."""
    a, b, found = SETTINGS[source], SETTINGS[target], {}
    for stage, kept in zip(a.stages, cache, strict=True):
        for region, caches in kept.items():
            for name, operands in caches.items():
                for i, whole in enumerate(operands):
                    tensor = stage.caches[region][name][i]
                    whole = unsplit(a, tensor, whole)
                    for at, layer in enumerate(stage.layers[region]):
                        found[region, name, i, layer] = whole[at]

    def take(stage: Stage, region: str, name: str, i: int, tensor: Tensor) -> Array:
        every = [found[region, name, i, layer] for layer in stage.layers[region]]
        every = jnp.stack([put(x, b, stage, P()) for x in every])
        return put(resplit(b, tensor, every), b, stage, tensor.spec)

    return [
        {
            r: {n: tuple(take(s, r, n, i, t) for i, t in enumerate(ts)) for n, ts in named.items()}
            for r, named in s.caches.items()
        }
        for s in b.stages
    ]


def ways_of(setting: Setting, spec: P, along: int) -> int:
    """Into how many parts a dimension is cut."""
    axes = spec[along] if along < len(spec) else None
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    return int(np.prod([setting.shape[setting.axes.index(n)] for n in names], dtype=int))


def unsplit(setting: Setting, tensor: Tensor, kept: Array) -> Array:
    """A cached tensor ``[layers, batch, position, ...]`` with the prompt's positions in order and no repeated items.

    A state ``[layers, batch, ...]`` has no positions.
    """
    kept = kept[:, : setting.batch]
    if tensor.positions:
        if (ways := ways_of(setting, tensor.spec, 2)) > 1:
            at = np.argsort(np.asarray(slots(setting, ways, 1))[0], kind="stable")
            kept = jnp.take(kept, at, axis=2)
        kept = kept[:, :, : sum(setting.parts)]
    return lax.slice_in_dim(kept, 0, kept.shape[tensor.along], tensor.times, tensor.along)


def resplit(setting: Setting, tensor: Tensor, whole: Array) -> Array:
    """The inverse of `unsplit`: empty slots for what follows the prompt."""
    ways = ways_of(setting, tensor.spec, 2)
    whole = jnp.repeat(whole, tensor.times, axis=tensor.along)
    if ways > 1 and tensor.positions:
        at = np.asarray(slots(setting, ways, 1))[0]
        whole = jnp.take(whole, np.minimum(at, whole.shape[2] - 1), axis=2)
    pads = [(0, to - have) for have, to in zip(whole.shape, tensor.shape, strict=True)]
    return jnp.pad(whole, pads).astype(tensor.dtype)
'''

MAIN = '''def time_steps(name: str, count: int = 5) -> dict[str, float]:
    """Seconds of a prefill and of a decode step: the least of ``count``, after one that compiles."""
    setting = SETTINGS[name]
    weights, prompt = random_weights(setting), sum(setting.parts)
    ids = np.zeros((setting.batch, prompt), np.int32)
    best = {}
    for phase in ("prefill", "decode"):
        seconds = []
        for _ in range(count + 1):
            cache = empty_cache(setting)
            jax.block_until_ready((weights, cache))
            start = time.perf_counter()
            if phase == "prefill":
                out = prefill(name, weights, cache, ids)
            else:
                out = decode(name, weights, cache, ids[:, : setting.queries], prompt)
            jax.block_until_ready(out)
            seconds.append(time.perf_counter() - start)
        best[phase] = min(seconds[1:])
    return best


def refused_formats() -> list[str]:
    """The formats of the plan that a device cannot multiply."""
    found = []
    for name, kind in FORMATS.items():
        one = jnp.ones((16, 16), WIDE)
        try:
            jax.block_until_ready(jax.jit(lambda x, kind=kind: gemm("ab,bc->ac", x, x, kind, kind))(one))
        except Exception:
            found.append(name)
    return found


def main() -> None:
    """Print the seconds of the steps of every sharding; with --json, as one line of JSON."""
    needed = max(s.first + int(np.prod(s.shape)) for s in SETTINGS.values())
    answer: dict[str, Any] = {"device": jax.devices()[0].device_kind, "devices": len(jax.devices())}
    answer["refused"] = refused_formats()
    if answer["devices"] < needed:
        answer["needed"] = needed
    elif not answer["refused"]:
        answer["times"] = [(name, *row) for name in SETTINGS for row in time_steps(name).items()]
    if "--json" in sys.argv:
        print(json.dumps(answer))
        return
    if "needed" in answer:
        sys.exit(f"{needed} devices are needed; XLA_FLAGS=--xla_force_host_platform_device_count={needed} makes them")
    if answer["refused"]:
        sys.exit(f"{answer['device']} refuses the formats {', '.join(answer['refused'])}")
    for name, phase, seconds in answer["times"]:
        print(f"{name} {phase}: {seconds * 1e3:.3f} ms")


if __name__ == "__main__":
    main()
'''
