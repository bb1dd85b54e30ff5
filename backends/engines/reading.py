"""Arguments of an engine as they were read, with their places, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from plandsl.backends.engines.flags import Settings
from plandsl.backends.engines.formats import DTYPES, READ_DTYPES
from plandsl.backends.engines.server import Lora, Role
from plandsl.backends.engines.words import is_whole
from plandsl.diagnostics import Diagnostic, PlanError, Span, clip, either
from plandsl.spec.model import Apply, ModelSpec, Weight, walk
from plandsl.spec.scheduler import SchedulerName


def shown(value: object) -> str:
    """A value of a file as a message shows it: a text as it is, all else as JSON."""
    return clip(value if isinstance(value, str) else json.dumps(value, default=str))


class Reading:
    """The arguments of one server, the model that it serves, and what stands around the command.

    ``copies`` servers are started alike, ``environment`` holds variables set for the command, ``hint`` the role of the
    server where its arguments leave it open. Methods record wrong values as E508 in ``found``.
    """

    def __init__(
        self,
        engine: SchedulerName,
        settings: Settings,
        spans: Mapping[str, Span],
        model: ModelSpec,
        *,
        gpus: int = 8,
        copies: int = 1,
        environment: Mapping[str, str] | None = None,
        hint: Role = "",
    ) -> None:
        self.engine, self.settings, self.spans, self.model = engine, settings, spans, model
        self.gpus, self.copies, self.environment, self.hint = gpus, copies, environment or {}, hint
        self.found: list[Diagnostic] = []

    @property
    def dense(self) -> bool:
        """Whether the model has a width that is no expert's."""
        return "ffn" in dict(self.model.sizes)

    def has_weight(self, name: str) -> bool:
        """Whether the model's blocks multiply by a weight of this name."""
        terms = (t for term in self.model.terms for t in walk(term) if isinstance(t, Apply) and t.fn == "matmul")
        return any(isinstance(t.args[1], Weight) and t.args[1].name == name for t in terms)

    def any(self, name: str) -> bool | int | float | str | None:
        """A plain value; None where the argument is not given."""
        value = self.settings.get(name)
        return None if isinstance(value, (dict, list)) else value

    def whole(self, name: str, default: int) -> int:
        """A whole number."""
        value = self.settings.get(name, default)
        return value if isinstance(value, int) else default

    def maybe_whole(self, name: str) -> int | None:
        """A whole number, None where it is not given."""
        value = self.settings.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def flag(self, name: str) -> bool | None:
        """A switch, None where it is not given."""
        value = self.settings.get(name)
        return value if isinstance(value, bool) else None

    def word(self, name: str) -> str:
        """A word, empty where it is not given."""
        value = self.settings.get(name)
        return value if isinstance(value, str) else ""

    def share(self, name: str) -> float | None:
        """A share of memory above 0 and at most 1."""
        value = self.settings.get(name)
        if value is None or isinstance(value, bool | str | dict | list):
            return None
        if not 0 < value <= 1:
            self.fail(name, f"`{value}` is no share of memory", "a number above 0 and at most 1, such as 0.9")
            return None
        return float(value)

    def positive(self, name: str) -> float | None:
        """A number above 0, None where it is not given; 0 stands for none."""
        value = self.settings.get(name)
        if value is None or isinstance(value, bool | str | dict | list) or value == 0:
            return None
        if value < 0:
            self.fail(name, f"`{value}` is below 0", "a number above 0")
            return None
        return float(value)

    def words(self, name: str) -> tuple[str, ...]:
        """Several words, none where they are not given."""
        return tuple(str(one) for one in self.items(name))

    def json(self, name: str) -> dict[str, object]:
        """An object, empty where it is not given."""
        value = self.settings.get(name)
        return value if isinstance(value, dict) else {}

    def items(self, name: str) -> list[object]:
        """A list, empty where it is not given."""
        value = self.settings.get(name)
        return value if isinstance(value, list) else []

    def inner_whole(self, name: str, config: Mapping[str, object], key: str) -> int:
        """A whole number of at least 1 inside an object."""
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        why = f"expected a whole number `{key}`"
        if value is not None:
            why = f"`{key}`: `{shown(value)}` is no whole number above 0"
        raise self.wrong(name, why, f'"{key}": 3')

    def inner_share(self, name: str, key: str) -> float | None:
        """A share of memory inside the object ``name``, above 0 and at most 1; None where it is not given."""
        value = self.json(name).get(key)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
            return float(value)
        why = f"`{key}`: `{shown(value)}` is no share of memory"
        raise self.wrong(name, why, "a number above 0 and at most 1, such as 0.9")

    def inner_flag(self, name: str, key: str) -> bool | None:
        """A switch inside the object ``name``, None where it is not given."""
        value = self.json(name).get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.wrong(name, f"`{key}`: `{shown(value)}` is neither true nor false", f'"{key}": true')

    def inner_word(self, name: str, key: str, words: Collection[str]) -> str:
        """One of ``words`` inside the object ``name``, empty where it is not given."""
        value = self.json(name).get(key)
        if value is None:
            return ""
        if isinstance(value, str) and value in words:
            return value
        raise self.wrong(name, f"`{key}`: `{shown(value)}` is not what it takes", f"expected {either(list(words))}")

    def role(self, found: str) -> Role:
        """The role of the server: what its arguments say, else what stands around it."""
        match found:
            case "prefill" | "decode":
                return found
            case _:
                return self.hint

    def lora(self, count: str, host: str) -> Lora | None:
        """The adapters that `--enable-lora` asks for.

        The argument ``count`` says how many are on a GPU, ``host`` how many in host memory.
        """
        if not self.flag("enable-lora"):
            return None
        adapters, rank = self.maybe_whole(count), self.maybe_whole("max-lora-rank")
        if adapters is None or rank is None:
            why = "a plan has a number of adapters and a rank"
            self.fail("enable-lora", why, f"add --{count} and --max-lora-rank")
            return None
        return Lora(adapters, rank, self.maybe_whole(host))

    def dtype(self) -> str:
        """The format that `--dtype` names; empty for ``auto``."""
        word = {"half": "float16", "float": "float32"}.get(self.word("dtype"), self.word("dtype"))
        return READ_DTYPES.get(word, "")

    def stored(self) -> str:
        """The format of weights where no flag converts them: that of `--dtype`, unless the checkpoint is quantised."""
        return (self.dtype() if self.model.weights in DTYPES else "") or self.model.weights

    def auto_cache(self) -> str:
        """The format of a cache that is left to the engine: that of the activations."""
        if "kv-cache-dtype" not in self.settings and self.engine != "trtllm":
            return self.model.kv_cache
        return self.dtype() or self.model.activations

    def state(self, name: str) -> str:
        """The format of states that an argument names; empty for ``auto``, and for a model without states."""
        named = {theirs: ours for ours, theirs in DTYPES.items()}
        return named.get(self.word(name), "") if self.model.stateful else ""

    def own_state(self) -> str:
        """The format of the states of a model where no argument names one; empty for a model without states."""
        return (self.model.state_cache or self.model.activations) if self.model.stateful else ""

    def whole_images(self, name: str, found: bool | None) -> bool | None:
        """Whether each rank encodes whole images, as the argument ``name`` says; only a model with a tower has any."""
        if found and self.model.tower is None:
            self.fail(name, f"`{self.model.name}` has no tower that reads images", "drop the flag")
        return found if self.model.tower is not None else None

    def partition(self, variable: str) -> tuple[int, ...]:
        """The layers of each stage that an environment variable lists."""
        words = self.environment.get(variable, "").split(",")
        return tuple(map(int, words)) if all(is_whole(word.strip()) for word in words) else ()

    def wrong(self, name: str, why: str, hint: str) -> PlanError:
        """An error (E508) at the argument ``name``."""
        return PlanError([Diagnostic("E508", why, self.spans.get(name), hint=hint)])

    def fail(self, name: str, why: str, hint: str) -> None:
        """Record an error (E508) at the argument ``name``, and go on."""
        self.found.append(Diagnostic("E508", why, self.spans.get(name), hint=hint))
