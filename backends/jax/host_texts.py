"""The parts of an exported program that are the same in each and run on the host: settings, and what runs stages."""

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
    takes: Any
    gives: Any


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
    prompt. Requests are padded to a multiple of ``pad_batch``, and tokens of a step to a multiple of ``pad``. The model
    has so many ``adapters``. Its head makes one token of ``merged`` tokens. It reads patches of ``patch`` elements,
    or ids of tokens (0). A row of the result has ``width`` elements; what is behind them is padding.
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
    adapters: int
    merged: int
    patch: int
    width: int
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


def put(x: Any, setting: Setting, stage: Stage, spec: Any) -> Any:
    """``x``, an array or several, on the devices of a stage."""
    mesh = mesh_of(setting, stage)
    return jax.tree.map(lambda a, s: jax.device_put(a, NamedSharding(mesh, s)), x, spec)


def load_weights(setting: Setting, get: Callable[[str, int | None, str], np.ndarray]) -> list[Any]:
    """The weights of each stage. ``get`` gives the whole weight of a region, a layer (None at the ends) and a name."""

    def load(stage: Stage, region: str, name: str, tensor: Tensor) -> Array:
        every = np.stack([get(region, layer, name) for layer in stage.layers[region]])
        every = every if stage.layers[region] != (None,) else every[0]
        every = np.repeat(every, tensor.times, axis=tensor.along)
        every = np.pad(every, [(0, to - have) for have, to in zip(every.shape, tensor.shape, strict=True)])
        return put(every.astype(tensor.dtype), setting, stage, tensor.spec)

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
    """The function of a stage over its mesh. It takes weights, cache, input, and what `run` says of the step."""
    setting = SETTINGS[name]
    stage = setting.stages[index]
    step = stage.steps[phase]
    about = 4 if setting.adapters else 3
    mapped = jax.shard_map(
        step.run,
        mesh=mesh_of(setting, stage),
        in_specs=(specs(stage.weights), specs(stage.caches), step.takes, *[P()] * about),
        out_specs=(step.gives, specs(stage.caches)),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=1)


def adapters_of(setting: Setting, rows: int) -> np.ndarray:
    """An adapter for each of ``rows`` requests: they take turns, and every last one has none (`Setting.adapters`)."""
    return np.arange(rows) % (setting.adapters + 1)


def run(
    name: str, phase: str, weights: list[Any], cache: list[Any], ids: np.ndarray, past: int,
    adapters: np.ndarray | None = None,
) -> tuple[Any, list[Any]]:
    """Run ``ids`` ``[batch, position]`` through every stage; a value goes to the next stage by `jax.device_put`.

    A model of images takes patches ``[batch, position, patch]`` instead. ``adapters [batch]`` has the number of each
    request's adapter, `Setting.adapters` for none.
    """
    setting = SETTINGS[name]
    rows, tokens = ids.shape[:2]
    unit = setting.pad_batch * (1 if phase == "prefill" else setting.groups)  # a decode step runs all groups together
    pads = [(0, -rows % unit), (0, -tokens % setting.pad), (0, 0)]
    x: Any = np.pad(ids, pads[: ids.ndim]).astype(np.int32 if ids.ndim == 2 else WIDE)
    step = [x if ids.ndim == 2 else np.zeros(x.shape[:2], np.int32), np.int32(past), np.int32(past + tokens)]
    if setting.adapters:
        chosen = adapters_of(setting, rows) if adapters is None else adapters
        step.append(np.pad(chosen, pads[0], constant_values=setting.adapters).astype(np.int32))
    new = []
    for index, stage in enumerate(setting.stages):
        x = put(x, setting, stage, stage.steps[phase].takes)
        x, kept = compiled(name, index, phase)(weights[index], cache[index], x, *step)
        new.append(kept)
    return (x[:rows, : -(-tokens // setting.merged)] if x.ndim == 3 else x[:rows])[..., : setting.width], new


def prefill(
    name: str, weights: list[Any], cache: list[Any], ids: np.ndarray, adapters: np.ndarray | None = None
) -> tuple[Any, list[Any]]:
    """Run the prompts ``ids`` ``[batch, input]``; gives the logits of the last token of each, and the cache.

    A model that is not causal gives those of all tokens. ``adapters`` and patches as in `run`.
    """
    setting, found = SETTINGS[name], []
    share = -(-setting.batch // (setting.pad_batch * setting.groups))
    blocks, more = (setting.pad_batch, setting.groups, share), setting.pad_batch * setting.groups * share - len(ids)
    padded = np.pad(ids, [(0, more), (0, 0), (0, 0)][: ids.ndim]).reshape(*blocks, *ids.shape[1:])
    chosen = adapters_of(setting, len(ids)) if adapters is None else adapters
    chosen = np.pad(chosen, (0, more), constant_values=setting.adapters).reshape(blocks)
    for group in range(setting.groups):
        some = cache if setting.groups == 1 else requests_of(cache, setting, group, share)
        rows, own = padded[:, group].reshape(-1, *ids.shape[1:]), chosen[:, group].ravel()
        past = 0
        for tokens in setting.parts:
            logits, some = run(name, "prefill", weights, some, rows[:, past : past + tokens], past, own)
            past += tokens
        cache = some if setting.groups == 1 else with_requests(cache, some, setting, group, share)
        found.append(np.asarray(logits).reshape(setting.pad_batch, share, *logits.shape[1:]))
    whole = np.stack(found, axis=1)
    return whole.reshape(-1, *whole.shape[3:])[: len(ids)], cache


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


def decode(
    name: str, weights: list[Any], cache: list[Any], ids: np.ndarray, past: int, adapters: np.ndarray | None = None
) -> tuple[Any, list[Any]]:
    """Run the next tokens ``ids`` ``[batch, queries]`` after ``past`` tokens; gives their logits, and the cache.

    A KV cache forgets tokens where the next step begins at an earlier ``past``; a state has seen all of ``ids``.
    """
    return run(name, "decode", weights, cache, ids, past, adapters)


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
    """Seconds of a step of each phase: the least of ``count``, after one that compiles."""
    setting = SETTINGS[name]
    weights, prompt = random_weights(setting), sum(setting.parts)
    ids = np.zeros((setting.batch, prompt, setting.patch)[: 3 if setting.patch else 2], np.int32)
    best = {}
    for phase in setting.stages[0].steps:
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
        try:
            answer["times"] = [(name, *row) for name in SETTINGS for row in time_steps(name).items()]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            answer["memory"] = str(error).splitlines()[0]
    if "--json" in sys.argv:
        print(json.dumps(answer))
        return
    if "needed" in answer:
        sys.exit(f"{needed} devices are needed; XLA_FLAGS=--xla_force_host_platform_device_count={needed} makes them")
    if answer["refused"]:
        sys.exit(f"{answer['device']} refuses the formats {', '.join(answer['refused'])}")
    if "memory" in answer:
        sys.exit(f"{answer['device']} has too little memory: {answer['memory']}")
    for name, phase, seconds in answer["times"]:
        print(f"{name} {phase}: {seconds * 1e3:.3f} ms")


if __name__ == "__main__":
    main()
'''
