"""Worker processes that answer requests. Each answer is bounded in time and memory; a worker that fails is replaced.

Workers are forked from one process that has loaded everything (`multiprocessing`'s fork server), so that a new one is
ready within milliseconds. They share nothing with the server but a pipe of bytes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple, Protocol, TypeVar

from plandsl import ending
from plandsl.backends.serve import fence
from plandsl.backends.serve.guard import Refusal, refuse, said
from plandsl.backends.serve.limits import Limits
from plandsl.diagnostics import Diagnostic, PlanError

T = TypeVar("T")

Log = Callable[[str], None]
"""Takes what the server's owner should know; none of it reaches a browser."""


READY = "ready"
"""What a worker says first."""

START = 60.0
"""Seconds that a worker may take to start. The first one loads the compiler; the others are forked."""


class Answer(Protocol):
    """What answers a request, in a worker: a function of a module, found there by its name.

    It takes the last word of the path and the body, and gives a status and JSON. ``seconds`` are left for it.
    """

    def __call__(self, kind: str, body: bytes, seconds: float) -> tuple[int, bytes]:
        """Answer one request."""


class Reply(NamedTuple):
    """An answer: its status, and its JSON."""

    status: int
    body: bytes


class Lost(Exception):
    """A worker gave no answer: it took too long, or it ended."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.why.message)


def too_slow(limits: Limits) -> Refusal:
    """The refusal of a request that took all its time."""
    hint = "ask for less, such as a shorter load or a smaller search; `planc serve --limit SECONDS` gives more time"
    return Refusal(503, Diagnostic("E598", f"no answer within {limits.seconds:g} s", hint=hint))


def too_big(limits: Limits) -> Refusal:
    """The refusal of a request that took all its memory."""
    hint = "ask for less: fewer plans or smaller ones; `planc compile` has no such limit"
    why = f"the answer needs more than the {limits.memory / 2**30:.3g} GiB that a request may use"
    return Refusal(503, Diagnostic("E598", why, hint=hint))


def failed() -> Refusal:
    """The refusal where the compiler itself is wrong. What went wrong is in the log."""
    hint = "try `planc check` on this plan; if it fails too, please report the plan as an issue"
    return refuse(500, "the compiler failed on this plan, which is a mistake of plandsl", hint)


# ---- in the worker


def work(pipe: Connection, answer: Answer, limits: Limits) -> None:
    """The life of a worker: answer what comes through the pipe, until the server closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its workers
    os.setpgid(0, 0)  # what the worker starts ends with it
    fence.bound(limits.memory)
    fence.raise_fence()
    with suppress(EOFError, OSError):  # the server has ended
        pipe.send(READY)
        while True:
            _answer_one(pipe, answer, limits)


def _answer_one(pipe: Connection, answer: Answer, limits: Limits) -> None:
    """Answer the next request. Raises `EOFError` or `OSError` where the server has closed the pipe."""
    seconds, kind, body = pipe.recv()
    fence.bound_cpu(seconds)
    log = ""
    try:
        status, text = answer(kind, body, seconds)
    except MemoryError:
        status, text = too_big(limits)[0], too_big(limits).body
    except Exception:
        log = traceback.format_exc()
        status, text = 500, failed().body
    if len(text) > limits.answer:
        status, text = 503, said(Diagnostic("E598", f"the answer has more than {limits.answer:,} bytes"))
    pipe.send((status, text, log))


# ---- in the server


def _not_started(error: Exception | None = None) -> PlanError:
    why = "the processes that answer requests do not start"
    if "path too long" in str(error):  # the name of a socket has 107 bytes at most
        hint = "the name of the folder for temporary files is too long: set TMPDIR to a shorter one"
        return PlanError([Diagnostic("E595", f"{why}: {error}", hint=hint)])
    return PlanError([Diagnostic("E595", why, hint="what they printed above says why; please report it as an issue")])


class Worker:
    """One worker process, and the server's end of its pipe."""

    def __init__(self, answer: Answer, limits: Limits, loaded: Sequence[str], log: Log) -> None:
        self.limits, self.log, self.answered = limits, log, 0
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(loaded))
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, answer, limits), daemon=True)
        try:
            with ending.shield():  # what workers are forked from gets no Ctrl-C either, while it loads
                self.process.start()
        except (EOFError, OSError) as error:  # the process that workers are forked from has ended
            raise _not_started(error) from error
        theirs.close()

    def wait(self) -> None:
        """Wait until the worker is ready. Raises `PlanError` (E595) where it does not start."""
        try:
            if self.pipe.poll(START) and self.pipe.recv() == READY:
                return
        except (EOFError, OSError):
            pass
        self.end()
        raise _not_started()

    def ask(self, kind: str, body: bytes, seconds: float) -> Reply:
        """The answer to a request. Raises `Lost` where there is none after so many seconds: the worker is of no use."""
        try:
            self.pipe.send((seconds, kind, body))
            if not self.pipe.poll(seconds):
                raise Lost(too_slow(self.limits))
            status, text, log = self.pipe.recv()
        except (EOFError, OSError):
            raise Lost(too_big(self.limits)) from None
        if log:
            self.log(log)
        self.answered += 1
        return Reply(status, text)

    @property
    def worn(self) -> bool:
        """Whether the worker has answered enough."""
        return self.answered >= self.limits.recycle

    def end(self) -> None:
        """End the process at once, with all that it started."""
        self.pipe.close()
        if self.process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join(1)


class Crew:
    """The workers of a server. Requests wait for an idle one, in the order in which they come."""

    def __init__(self, answer: Answer, limits: Limits, loaded: Sequence[str], log: Log) -> None:
        self.answer, self.limits, self.loaded, self.log = answer, limits, loaded, log
        self.idle: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()  # the last one knows the last text
        self.all: set[Worker] = set()
        self.waiting, self.stopped = 0, False
        self.threads = ThreadPoolExecutor(
            3 * limits.workers
        )  # each waits for one worker, or for one to start or to end

    def start(self) -> None:
        """Start the workers. Raises `PlanError` (E595) where they do not start."""
        for worker in [self._hire() for _ in range(self.limits.workers)]:
            worker.wait()
            self.idle.put_nowait(worker)

    def _hire(self) -> Worker:
        worker = Worker(self.answer, self.limits, self.loaded, self.log)
        self.all.add(worker)
        return worker

    async def ask(self, kind: str, body: bytes) -> Reply:
        """The answer to a request, or the refusal that stands for it; never later than the limit."""
        deadline = time.monotonic() + self.limits.seconds
        if self.waiting >= self.limits.waiting:
            return _refused(busy())
        self.waiting += 1
        try:
            worker = await asyncio.wait_for(self.idle.get(), self.limits.seconds)
        except TimeoutError:
            return _refused(busy())
        finally:
            self.waiting -= 1
        return await asyncio.shield(asyncio.ensure_future(self._ask(worker, kind, body, deadline)))

    async def _ask(self, worker: Worker, kind: str, body: bytes, deadline: float) -> Reply:
        """The answer of one worker, which is idle afterwards, or replaced. It runs to its end if the client goes."""
        try:
            seconds = max(0.05, deadline - time.monotonic())
            reply = await self._wait(worker.ask, kind, body, seconds)
        except Lost as lost:
            reply, useless = _refused(lost.refusal), True
        else:
            useless = worker.worn or reply.status >= 500
        if useless:
            asyncio.ensure_future(self._replace(worker))  # noqa: RUF006 - it ends by itself, and the answer need not wait
        else:
            self.idle.put_nowait(worker)
        return reply

    async def _replace(self, worker: Worker) -> None:
        self.all.discard(worker)
        await self._wait(worker.end)
        if self.stopped:
            return
        try:
            new = await self._wait(self._hire)
            if not self.stopped:
                await self._wait(new.wait)
        except PlanError as error:
            self.log(str(error))
        else:
            new.end() if self.stopped else self.idle.put_nowait(new)

    async def _wait(self, call: Callable[..., T], *arguments: object) -> T:
        """What a call gives that waits for a process."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, call, *arguments)

    def stop(self) -> None:
        """End all workers."""
        self.stopped = True
        for worker in self.all:
            worker.end()
        self.all.clear()
        self.threads.shutdown(wait=False, cancel_futures=True)


def busy() -> Refusal:
    """The refusal where too many requests come at once."""
    return Refusal(503, Diagnostic("E598", "the server has too many requests", hint="wait a moment, and try again"))


def _refused(refusal: Refusal) -> Reply:
    return Reply(refusal.status, refusal.body)
