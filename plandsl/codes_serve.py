"""The codes of the playground, which `planc serve` runs: title, text, an example, and what to do."""

from __future__ import annotations

SERVE_CODES: dict[str, tuple[str, str, str, str]] = {
    "E595": (
        "the playground cannot run here",
        "`planc serve` needs starlette and uvicorn, which are not installed with plandsl, and a system that can bound "
        "the memory of a process: Linux or macOS, not Windows. It starts processes, which answer requests.",
        "",
        "`pip install 'plandsl[serve]'`; on Windows run it in WSL.",
    ),
    "E596": (
        "the server cannot listen at this address",
        "The port is in use, or this machine has no such address or name.",
        "",
        "choose another port with `--port`, or any free one with `--port 0`; leave `--host` out.",
    ),
    "E597": (
        "a playground reads no files",
        "The text of a playground may come from anybody, by a link, so that it reads no file of the machine that the "
        "server runs on: no `use`, no `hf` and `gguf`, no trace, no file of lengths, no `measured`. The catalog is "
        "there as always.",
        "",
        "copy into the text what the file declares, or keep the plan in a file and run `planc compile`.",
    ),
    "E598": (
        "a request takes more than the server allows",
        "The server bounds the time, the memory, the size and the number of requests (docs/playground.md), so that no "
        "text can stop it. The worker that took too much is gone; the next request gets a new one.",
        "",
        "ask for less: fewer plans, or a shorter load. `planc compile` has none of these limits.",
    ),
    "E599": (
        "the server refuses a request",
        "The server answers its own page. It refuses what comes under another name, from a page of another site, or in "
        "another form, and says which.",
        "",
        "open the address that `planc serve` prints. With `--host NAME` the server goes by that name too.",
    ),
    "W555": (
        "the playground is open to others",
        "With `--host` the server takes requests from other machines. It has no passwords and no encryption, and each "
        "request uses this machine's processors. The limits of requests hold for all users together.",
        "",
        "leave `--host` out, and let others reach this machine through `ssh -L`, or put a web server with TLS and "
        "passwords in front.",
    ),
    "N555": (
        "some plans are not estimated",
        "The estimates of a text have a bounded time. The plan that is shown comes first, then the others, in the "
        "order of the text; those for which no time was left are not estimated. All plans are checked.",
        "",
        "",
    ),
}
