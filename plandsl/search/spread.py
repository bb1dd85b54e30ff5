"""Spreads a search over a Dask cluster: the same jobs, the same answer, more hands."""

from __future__ import annotations

import asyncio
import logging
import pickle
import pydoc
import signal
import threading
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import ExitStack
from typing import Any

from plandsl._version import __version__
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.passes import structure
from plandsl.search.run import CHUNK, Compiler, Done, Found, Job, Run, Tick, work
from plandsl.search.space import Grid
from plandsl.spec.search import Setting

PATIENCE = 4
"""Seconds that a scheduler has to answer, and then its workers to be there."""

PLANS, LOADS = 32, CHUNK
"""Most plans and most configurations of one batch: a second of work or less, and megabytes where all rows come back."""

AHEAD = 3
"""Batches on their way for each thread of the cluster: none waits for work, and few results wait to be taken."""

HERE = "local"
"""An address that starts workers on this machine: ``local``, or ``local:4`` for four of them."""

_of = threading.local()


def spread(run: Run, address: str, tick: Tick) -> Found:
    """Do all jobs of ``run`` on the cluster at ``address``; the answer is that of `Run.here`, to the last bit.

    What is done is taken in the order of the jobs, few batches are on their way at any time, and those of a worker that
    dies are done again by another. An interruption keeps what is done and leaves the rest. Raises `PlanError` (E412)
    where nobody answers, or a worker cannot do the work.
    """
    with ExitStack() as stack:
        client = _client(address, stack)
        return _through(run, client, tick)


def _through(run: Run, client: Any, tick: Tick) -> Found:
    """Feed the cluster and take what it finds."""
    total, every = run.found.search.size, run.sink is not None
    grid, structures = _lean(run.space.grid), set[Hashable]()
    waiting: deque[tuple[Any, int]] = deque()
    most = AHEAD * sum(client.nthreads().values())
    try:
        for jobs in _batches(run.jobs()):
            structures.update(structure(mode) for mode in dict.fromkeys(m for j in jobs for m in j.plan.modes))
            # as bytes: Dask would look for tasks of its own inside of tuples
            packed = pickle.dumps([job._replace(grid=grid) for job in jobs], pickle.HIGHEST_PROTOCOL)
            waiting.append((client.submit(batch, packed, every, pure=False), jobs[-1].first + jobs[-1].size))
            if len(waiting) == most:
                _take(run, waiting, tick, total)
        while waiting:
            _take(run, waiting, tick, total)
    except KeyboardInterrupt:
        run.found.stopped = True
        for future, _ in waiting:
            if future.status == "finished":
                _each(run, future.result(timeout=PATIENCE))
        client.cancel([future for future, _ in waiting])
    run.found.structures = len(structures)
    return run.found


def _take(run: Run, waiting: deque[tuple[Any, int]], tick: Tick, total: int) -> None:
    """Wait for the batch that was sent first, and add what it found."""
    from distributed import CancelledError, KilledWorker

    future, done = waiting[0]
    try:
        found = future.result()
    except (KilledWorker, CancelledError, OSError) as error:
        hint = "give workers more memory, or search with fewer of them"
        raise _wrong(f"the cluster lost its workers: {_line(error)}", hint) from error
    waiting.popleft()
    _each(run, found)
    tick(done, total)


def _each(run: Run, found: list[Done]) -> None:
    for done in found:
        run.take(done)


def batch(packed: bytes, every: bool) -> list[Done]:
    """What a worker does: the jobs of a batch in turn. Each thread of it keeps a compiler with what that has seen."""
    if not hasattr(_of, "compiler"):
        _of.compiler = Compiler()
    jobs: list[Job] = pickle.loads(packed)
    return [work(job, _of.compiler, every) for job in jobs]


def _batches(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    """Jobs in order, some at a time."""
    held: list[Job] = []
    size = 0
    for job in jobs:
        if held and (len(held) == PLANS or size + job.size > LOADS):
            yield held
            held, size = [], 0
        held.append(job)
        size += job.size
    if held:
        yield held


def _lean(grid: Grid) -> Grid:
    """A grid without what only the resolver and the report read: how and where in the file each value stands."""
    return Grid(tuple(c._replace(settings=tuple(Setting("", s.value) for s in c.settings)) for c in grid.choices))


# ---- reaching the cluster


def _client(address: str, stack: ExitStack) -> Any:
    """A client of the cluster, which `stack` closes, whose workers are there and have this plandsl."""
    try:
        import distributed
    except ImportError as error:
        hint = "pip install 'plandsl[distributed]', or leave --scheduler out"
        raise PlanError([Diagnostic("E412", "a cluster needs Dask", hint=hint)]) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said by diagnostics
    name, _, workers = address.partition(":")
    if name == HERE:
        target: Any = stack.enter_context(_started(workers))
    else:
        target = _answering(address)
    client = stack.enter_context(distributed.Client(target, timeout=PATIENCE, set_as_default=False))
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        hint = f"dask worker {address} starts one"
        raise _wrong(f"the scheduler at {address} has no workers", hint) from error
    if name == HERE:
        client.register_worker_callbacks(_deaf)  # of those that take a dead one's place too
    found = client.run(pydoc.locate, "plandsl._version.__version__")
    for worker, version in found.items():
        if version != __version__:
            has = f"has plandsl {version}" if version else "has no plandsl"
            fix = f"install plandsl {__version__} where it runs"
            raise _wrong(f"the worker at {worker} {has}, and this is {__version__}", fix)
    return client


def _answering(address: str) -> str:
    """The address, where a scheduler answers: a client that finds none takes long to give up."""
    from distributed.comm import connect

    async def ask() -> None:
        comm = await connect(address, timeout=PATIENCE)
        await comm.close()

    try:
        asyncio.run(asyncio.wait_for(ask(), PATIENCE))
    except Exception as error:  # whatever it is that answers there, it is no scheduler
        hint = "dask scheduler --host 127.0.0.1 starts one, and --scheduler local:4 four workers on this machine"
        raise _wrong(f"no Dask scheduler answers at {address}: {_line(error)}", hint) from error
    return address


def _started(workers: str) -> Any:
    """Workers on this machine, one process each, as many as it has cores where nothing is said."""
    import dask
    from distributed import LocalCluster

    if workers and not (workers.isdecimal() and 0 < int(workers) <= 1024):
        why = f"`--scheduler {HERE}:{workers}` starts no workers"
        raise PlanError([Diagnostic("E400", why, hint=f"--scheduler {HERE}:4 starts four")])
    # Dask's own has malloc give memory back at once, so that every large array is paged in anew
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1}}):
        return LocalCluster(
            n_workers=int(workers) if workers else None,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # a free port: another search may run
            silence_logs=logging.CRITICAL,
        )


def _deaf() -> None:
    """A worker of this terminal: an interruption is for the process that it works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _wrong(why: str, hint: str) -> PlanError:
    return PlanError([Diagnostic("E412", why, hint=hint)])


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
