"""`planc export`: a plan as a file that another tool reads."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from plandsl._version import __version__
from plandsl.commands.console import OK, print_json, print_text
from plandsl.commands.export_traces import make_chakra, make_perfetto
from plandsl.commands.findings import print_diagnostics
from plandsl.commands.sources import compile_one
from plandsl.diagnostics import Diagnostic, PlanError, clip, nearest
from plandsl.files import write_file

if TYPE_CHECKING:
    from plandsl.backends.engines.server import Deployment
    from plandsl.driver import CompiledPlan
    from plandsl.spec.scheduler import SchedulerName

Exported: TypeAlias = "str | bytes | Mapping[str, str | bytes]"
"""The content of one file, or the content of each file of a folder by its name."""


class Target(NamedTuple):
    """What a plan can be exported to: a name, what is written, and the function that makes it.

    ``make`` takes the plan and the arguments of the command. It imports its backend when it is called. ``options`` are
    those of the command that this target takes beside those of all targets.
    """

    name: str
    writes: str
    make: Callable[[CompiledPlan, Namespace], Exported]
    options: tuple[str, ...] = ()


def _jax(plan: CompiledPlan, arguments: Namespace) -> str:
    return plan.jax_program(shrink=arguments.shrink)


def _vllm(plan: CompiledPlan, arguments: Namespace) -> Exported:
    return _script("vllm", plan, arguments)


def _sglang(plan: CompiledPlan, arguments: Namespace) -> Exported:
    return _script("sglang", plan, arguments)


def _trtllm(plan: CompiledPlan, arguments: Namespace) -> Exported:
    return _script("trtllm", plan, arguments)


def _script(engine: SchedulerName, plan: CompiledPlan, arguments: Namespace) -> str:
    """The script that starts a plan's servers; what it leaves out is told on standard error."""
    from plandsl.backends.engines.commands import CONNECTOR
    from plandsl.backends.engines.scripts import write_script

    return write_script(_deployment(engine, plan), engine, arguments.connector or CONNECTOR[engine])


def _k8s(plan: CompiledPlan, arguments: Namespace) -> Exported:
    from plandsl.backends.engines.manifests import write_k8s

    return _manifest(write_k8s, plan, arguments)


def _dynamo(plan: CompiledPlan, arguments: Namespace) -> Exported:
    from plandsl.backends.engines.manifests import write_dynamo

    return _manifest(write_dynamo, plan, arguments)


def _manifest(write: Callable[[Deployment, SchedulerName, str], str], plan: CompiledPlan, arguments: Namespace) -> str:
    """A manifest for the engine that the plan names, or for vLLM."""
    from plandsl.backends.engines.commands import CONNECTOR
    from plandsl.backends.engines.plans import family

    engine = family(plan.spec.pools[0])
    return write(_deployment(engine, plan), engine, arguments.connector or CONNECTOR[engine])


def _deployment(engine: SchedulerName, plan: CompiledPlan) -> Deployment:
    from plandsl.backends.engines.plans import deploy

    found = deploy(plan.spec, engine, plan.closed_form(), plan.sources)
    if found.remarks:
        print_diagnostics(found.remarks, plan.sources)
    return found


TARGETS: tuple[Target, ...] = (
    Target("vllm", "script for vLLM", _vllm, ("connector",)),
    Target("sglang", "script for SGLang", _sglang, ("connector",)),
    Target("trtllm", "script for TensorRT-LLM", _trtllm, ("connector",)),
    Target("dynamo", "graph for NVIDIA Dynamo", _dynamo, ("connector",)),
    Target("k8s", "manifest for Kubernetes", _k8s, ("connector",)),
    Target("jax", "a Python program", _jax, ("shrink",)),
    Target("perfetto", "trace for Perfetto", make_perfetto, ("ranks", "steps", "simulate", "requests")),
    Target("chakra", "Chakra execution traces", make_chakra, ("ranks", "steps")),
)
"""Every target of `planc export --to`."""


def run_export(arguments: Namespace) -> int:
    """`planc export`."""
    target = _target(arguments.to)
    _check_options(arguments, target)
    plan = compile_one(arguments)
    content = target.make(plan, arguments)
    if isinstance(content, Mapping):
        names = _write_folder(content, arguments.output)
    elif arguments.output is None or arguments.output == "-":
        return _print(plan.name, target, content, arguments.json)
    else:
        write_file(arguments.output, content)
        names = [arguments.output]
    if arguments.json:
        print_json({"plandsl": __version__, "plan": plan.name, "to": target.name, "files": names})
    else:
        shown = names[0] if len(names) == 1 else f"{len(names)} files in {arguments.output}"
        print_text(f"{target.writes} of {plan.name}: {shown}\n")
    return OK


def _target(name: str) -> Target:
    """The target of a name. Raises `PlanError` (E500) if there is none."""
    for target in TARGETS:
        if target.name == name:
            return target
    names = [target.name for target in TARGETS]
    near = [f"did you mean `{one}`? " for one in nearest(name, names)[:1]]
    raise PlanError([Diagnostic("E500", f"`planc export` has no target `{clip(name)}`",
                                hint=f"{''.join(near)}targets: {', '.join(names)}")])  # fmt: skip


def _check_options(arguments: Namespace, target: Target) -> None:
    """Raise `PlanError` (E400) for an option that only other targets take."""
    takers: dict[str, list[str]] = {}
    for one in TARGETS:
        for option in one.options:
            takers.setdefault(option, []).append(one.name)
    for option, names in takers.items():
        given = getattr(arguments, option)
        if given is not None and given is not False and option not in target.options:
            why = f"`--{option}` is no option of `--to {target.name}`"
            raise PlanError([Diagnostic("E400", why, hint=f"it is one of `--to {'` and `--to '.join(names)}`")])


def _print(plan: str, target: Target, content: str | bytes, as_json: bool) -> int:
    """Write the one file to standard output; as JSON, only a text."""
    if isinstance(content, bytes):
        raise PlanError([Diagnostic("E501", f"`--to {target.name}` writes a file that is no text",
                                    hint="name the file with -o FILE")])  # fmt: skip
    if as_json:
        print_json({"plandsl": __version__, "plan": plan, "to": target.name, "text": content})
    else:
        sys.stdout.write(content)
    return OK


def _write_folder(content: Mapping[str, str | bytes], folder: str | None) -> list[str]:
    """Write each file into a folder, which is made where there is none. Gives their paths."""
    if folder is None or folder == "-":
        why = f"this export is {len(content)} files"
        raise PlanError([Diagnostic("E501", why, hint="name a folder for them with -o FOLDER")])
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"cannot make the folder {clip(folder, 120)}: {error.strerror}"
        raise PlanError([Diagnostic("E405", why)]) from error
    for name, one in content.items():
        write_file(place / name, one)
    return [str(place / name) for name in content]
