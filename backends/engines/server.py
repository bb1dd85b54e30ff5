"""What a serving engine is told about a plan, in the words of neither: degrees, formats, limits."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from plandsl.diagnostics import Diagnostic
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.spec.scheduler import WriteName

Role: TypeAlias = Literal["", "prefill", "decode"]


class Degrees(NamedTuple):
    """In how many ways the ranks of a server split its work.

    ``tensor`` splits heads and the other widths, ``pipeline`` layers, ``sequence`` tokens outside attention and heads
    inside it (Ulysses), ``context`` tokens and cached keys, ``attention`` the requests of a step between ranks that
    share experts. Experts lie over ``experts`` ranks, and each is cut into ``expert_tensor`` parts. ``replicas`` are
    whole copies. ``layers`` of each stage; empty: as even as can be.
    """

    tensor: int = 1
    pipeline: int = 1
    replicas: int = 1
    sequence: int = 1
    context: int = 1
    attention: int = 1
    experts: int = 1
    expert_tensor: int = 1
    layers: tuple[int, ...] = ()

    @property
    def ranks(self) -> int:
        """The ranks of one copy."""
        return self.tensor * self.pipeline * self.sequence * self.context * self.attention


class Draft(NamedTuple):
    """What guesses ``tokens`` ahead: a ``model`` on ``tensor`` ranks, the model's own `mtp`, or earlier tokens."""

    kind: Literal["model", "mtp", "ngram"]
    tokens: int
    model: str = ""
    tensor: int = 1


class Lora(NamedTuple):
    """Low-rank adapters: how many a GPU holds at once, and the largest rank; how many are in host memory (None: all).

    ``targets`` are the weights that have adapters; empty: the adapters' own files say it. ``inside`` are those of them
    that each expert has.
    """

    adapters: int
    rank: int
    host: int | None = None
    targets: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()


class HostCache(NamedTuple):
    """Host memory behind the KV cache: ``size`` bytes for each GPU, or ``ratio`` times the GPU's own cache.

    ``write`` says when blocks are copied there; empty: as the engine does.
    """

    size: float = 0.0
    ratio: float = 0.0
    write: WriteName | Literal[""] = ""


class Server(NamedTuple):
    """One engine and its limits; None: the engine's own default.

    ``model`` is the plan's name of it, ``weights`` and ``kv_cache`` are formats of the language, ``routed`` says
    whether it has routed experts, and ``dense`` whether it has a width that is no expert's. ``shift``: steps of at most
    so many tokens are sharded over heads alone. ``chunk``: most tokens of a step in which a part of a prompt runs
    beside decodes. ``memory_fraction`` is the engine's own. ``options`` are limits of its scheduler by their name in
    the language. ``gpus`` is the number of GPUs in a node.

    ``encodes``: prompts are read, and no tokens come out. ``state_cache`` is the format of the states of layers that
    have one (empty: none has). ``whole_images``: each rank encodes images of its own; False: all ranks share each.
    """

    model: str
    degrees: Degrees = Degrees()
    role: Role = ""
    weights: str = ""
    kv_cache: str = ""
    activations: str = "bf16"
    routed: bool = False
    dense: bool = True
    shift: int | None = None
    step_tokens: int | None = None
    max_requests: int | None = None
    memory_fraction: float | None = None
    max_context: int | None = None
    chunk: int | None = None
    prefix_cache: bool | None = None
    kv_block: int | None = None
    draft: Draft | None = None
    lora: Lora | None = None
    encodes: bool = False
    state_cache: str = ""
    host_cache: HostCache | None = None
    whole_images: bool | None = None
    options: tuple[tuple[str, bool | int | float | str], ...] = ()
    gpus: int = 8

    def pool(self, plan: PlanSpec) -> PlanSpec:
        """The part of a plan that this server is: a pool, or all of it."""
        if plan.split is None:
            return plan
        return plan.split.prefill if self.role == "prefill" else plan.split.decode

    @property
    def nodes(self) -> int:
        """The nodes that one copy takes."""
        return -(-self.degrees.ranks // self.gpus)


class Deployment(NamedTuple):
    """The servers of a plan, one of each kind, their load, and what the servers cannot be told, as remarks."""

    name: str
    servers: tuple[Server, ...]
    load: WorkloadSpec
    plan: PlanSpec
    remarks: tuple[Diagnostic, ...] = ()
