"""Where work is done: in this process, or on a Dask cluster. The answer is the same."""

from __future__ import annotations

import asyncio
import atexit
import logging
import pickle
import pydoc
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from plandsl import ending
from plandsl._version import __version__
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.passes import structure
from plandsl.progress import Tick
from plandsl.searches.run import CHUNK, Compiler, Done, Found, Job, Run, do_job
from plandsl.searches.space import Grid
from plandsl.spec.search import Setting
from plandsl.values import sum_up

PATIENCE = 4
"""Seconds that a scheduler has to answer, and after that its workers to appear."""

PLANS, LOADS = 32, CHUNK
"""Most plans and most configurations of one batch: at most a second of work, and megabytes where all rows come back."""

AHEAD = 3
"""Batches in flight for each thread of the cluster: no thread waits for work, and few results wait to be taken."""

MOST_AHEAD = 4
"""Items for each thread that are looked at for work that can be done ahead."""

HERE = "local"
"""The address that starts workers on this machine: ``local``, or ``local:4`` for four workers."""

_thread = threading.local()


Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(NamedTuple):
    """This process, or the workers of the cluster that ``client`` reaches."""

    client: Any = None

    def search(self, run: Run, tick: Tick) -> Found:
        """Do all jobs of ``run``."""
        return run.run(tick) if self.client is None else run_jobs(run, self.client, tick)

    def map(self, function: Callable[[Item, Compiler], Result], items: Sequence[Item], tick: Tick) -> Iterator[Result]:
        """The results of ``function`` for all ``items``, in their order. It must be one of a module, for pickle's sake.

        Few items are in flight at any time, and when a worker dies, another one does its item again. Raises `PlanError`
        (E412) where the workers are lost.
        """
        results = _map_here(function, items) if self.client is None else _map_there(function, items, self.client)
        for done, result in enumerate(results, 1):
            yield result
            tick(done, len(items))

    @property
    def threads(self) -> int:
        """Items that are done at the same time."""
        return 1 if self.client is None else sum_up(self.client.nthreads().values())


class Ahead:
    """Results of ``function`` on a cluster, one after another: what is asked for next may depend on the last result.

    Threads that would wait do what may be asked for next. What nobody asks for is thrown away, so that the results are
    those of one process. `close` ends what is still on its way.
    """

    def __init__(self, workers: Workers, function: Callable[[Any, Compiler], Any]) -> None:
        self.client, self.function, self.threads = workers.client, function, workers.threads
        self.futures: dict[Any, Any] = {}

    def ask(self, items: Iterable[Any]) -> Any:
        """The result for the first item. Those behind it are done ahead where threads are free; a few are read.

        Raises `PlanError` as `Workers.map`.
        """
        coming = iter(items)
        first = next(coming)
        self._submit(first)
        for item in islice(coming, MOST_AHEAD * self.threads):
            if sum(not future.done() for future in self.futures.values()) >= self.threads:
                break
            self._submit(item)
        found = _result(self.futures[first])
        del self.futures[first]
        return found

    def _submit(self, item: Any) -> None:
        if item not in self.futures:
            packed = pickle.dumps((self.function, item), pickle.HIGHEST_PROTOCOL)
            self.futures[item] = self.client.submit(do_item, packed, pure=False)

    def close(self) -> None:
        """Throw away what nobody asked for."""
        self.client.cancel(list(self.futures.values()))


@contextmanager
def open_workers(address: str | None) -> Iterator[Workers]:
    """The workers of the cluster at ``address``; this process if it is None.

    Raises `PlanError` (E412) where no scheduler answers or a worker cannot do the work.
    """
    with ExitStack() as stack:
        yield Workers(_client(address, stack) if address else None)


def _map_here(function: Callable[[Item, Compiler], Result], items: Sequence[Item]) -> Iterator[Result]:
    compiler = Compiler()
    for item in items:
        yield function(item, compiler)


def _map_there(function: Callable[[Item, Compiler], Result], items: Sequence[Item], client: Any) -> Iterator[Result]:
    most = AHEAD * Workers(client).threads
    waiting: deque[Any] = deque()
    try:
        for item in items:
            packed = pickle.dumps((function, item), pickle.HIGHEST_PROTOCOL)
            waiting.append(client.submit(do_item, packed, pure=False))
            if len(waiting) == most:
                yield _result(waiting[0])
                waiting.popleft()
        while waiting:
            yield _result(waiting[0])
            waiting.popleft()
    finally:
        client.cancel(list(waiting))


def do_item(packed: bytes) -> Any:
    """Do one item of `Workers.map`, on a worker."""
    function, item = pickle.loads(packed)
    return function(item, _compiler())


def run_jobs(run: Run, client: Any, tick: Tick) -> Found:
    """Do all jobs of ``run`` on a cluster. The answer equals the answer of `Run.run`, to the last bit.

    Results are taken in the order of the jobs, and few batches are in flight at any time. When a worker dies, another
    worker does its batches again. An interruption keeps the results so far. Raises `PlanError` (E412) where the workers
    are lost.
    """
    total, every = run.found.search.size, run.sink is not None
    grid, structures = _strip_grid(run.space.grid), set[Hashable]()
    waiting: deque[tuple[Any, int]] = deque()
    most = AHEAD * Workers(client).threads
    try:
        for jobs in _batches(run.jobs()):
            structures.update(structure(mode) for mode in dict.fromkeys(m for j in jobs for m in j.plan.modes))
            # as bytes: Dask would search tuples for tasks
            packed = pickle.dumps([job._replace(grid=grid) for job in jobs], pickle.HIGHEST_PROTOCOL)
            waiting.append((client.submit(do_batch, packed, every, pure=False), jobs[-1].first + jobs[-1].size))
            if len(waiting) == most:
                _take_batch(run, waiting, tick, total)
        while waiting:
            _take_batch(run, waiting, tick, total)
    except KeyboardInterrupt:
        run.found.stop()
        for future, _ in waiting:
            if future.status == "finished":
                _take_results(run, future.result(timeout=PATIENCE))
        client.cancel([future for future, _ in waiting])
    run.found.structures = len(structures)
    return run.found


def _take_batch(run: Run, waiting: deque[tuple[Any, int]], tick: Tick, total: int) -> None:
    """Wait for the oldest batch in flight, and add its results."""
    future, done = waiting[0]
    found = _result(future)
    waiting.popleft()
    _take_results(run, found)
    tick(done, total)


def _result(future: Any) -> Any:
    """What a worker found. Raises `PlanError` (E412) where the workers are lost."""
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except (KilledWorker, CancelledError, OSError) as error:
        hint = "give workers more memory, or start fewer of them"
        raise _cluster_error(f"the cluster lost its workers: {_first_line(error)}", hint) from error


def _take_results(run: Run, found: list[Done]) -> None:
    for done in found:
        run.take(done)


def do_batch(packed: bytes, every: bool) -> list[Done]:
    """Do the jobs of a batch in turn, on a worker. Each thread keeps a compiler, which keeps compiled structures."""
    jobs: list[Job] = pickle.loads(packed)
    return [do_job(job, _compiler(), every) for job in jobs]


def _compiler() -> Compiler:
    if not hasattr(_thread, "compiler"):
        _thread.compiler = Compiler()
    found: Compiler = _thread.compiler
    return found


def _batches(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    """Jobs in order, grouped into batches."""
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


def _strip_grid(grid: Grid) -> Grid:
    """A grid without the texts and expressions of its values, which only the resolver and the report read."""
    return Grid(tuple(c._replace(settings=tuple(Setting("", s.value) for s in c.settings)) for c in grid.choices))


# ---- reaching the cluster


def _client(address: str, stack: ExitStack) -> Any:
    """A client of the cluster, once it has workers and they have the same version of plandsl. ``stack`` closes it."""
    try:
        import distributed
    except ImportError as error:
        hint = "pip install 'plandsl[distributed]', or leave --scheduler out"
        raise PlanError([Diagnostic("E412", "a cluster needs Dask", hint=hint)]) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # diagnostics say what matters
    name, _, workers = address.partition(":")
    if name == HERE:
        target: Any = stack.enter_context(_closed_in_the_end(_local_cluster(workers, stack)))
    else:
        target = _answering_address(address)
    client = stack.enter_context(distributed.Client(target, timeout=PATIENCE, set_as_default=False))
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        hint = f"dask worker {address} starts one"
        raise _cluster_error(f"the scheduler at {address} has no workers", hint) from error
    found = client.run(pydoc.locate, "plandsl._version.__version__")
    for worker, version in found.items():
        if version != __version__:
            has = f"has plandsl {version}" if version else "has no plandsl"
            fix = f"install plandsl {__version__} where it runs"
            raise _cluster_error(f"the worker at {worker} {has}, and this is {__version__}", fix)
    return client


def _answering_address(address: str) -> str:
    """``address``, once a scheduler answers there. Asked first because a client without a scheduler gives up slowly."""
    from distributed.comm import connect

    async def ask() -> None:
        comm = await connect(address, timeout=PATIENCE)
        await comm.close()

    try:
        asyncio.run(asyncio.wait_for(ask(), PATIENCE))
    except Exception as error:  # whatever answers there is not a scheduler
        hint = "dask scheduler --host 127.0.0.1 starts one, and --scheduler local:4 four workers on this machine"
        raise _cluster_error(f"no Dask scheduler answers at {address}: {_first_line(error)}", hint) from error
    return address


@contextmanager
def _closed_in_the_end(cluster: Any) -> Iterator[Any]:
    """A cluster that is closed when the block ends. Workers that take long to end do so when this process has ended."""
    started = cluster.__enter__()
    try:
        yield started
    finally:
        with suppress(Exception):
            cluster.close()


def _local_cluster(workers: str, stack: ExitStack) -> Any:
    """A cluster of worker processes on this machine: ``workers`` of them, or one for each core where it is empty.

    ``stack`` removes the folder of what they write.
    """
    import dask
    from distributed import LocalCluster

    if workers and not (workers.isdecimal() and 0 < int(workers) <= 1024):
        why = f"`--scheduler {HERE}:{workers}` starts no workers"
        raise PlanError([Diagnostic("E400", why, hint=f"--scheduler {HERE}:4 starts four")])
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="plandsl-", ignore_cleanup_errors=True))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # a worker may have written to it until just now
    settings = {
        # Dask's default makes malloc give memory back at once, so that every large array is paged in again
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
        # Dask's default has one name for all users of the machine, it stays, and modules are loaded from it
        "temporary-directory": folder,
    }
    with dask.config.set(settings), ending.shield():
        return LocalCluster(
            n_workers=int(workers) if workers else None,
            threads_per_worker=1,
            host="127.0.0.1",
            local_directory=folder,
            dashboard_address="127.0.0.1:0",  # a free port: another search may run
            silence_logs=logging.CRITICAL,
        )


def _cluster_error(why: str, hint: str) -> PlanError:
    return PlanError([Diagnostic("E412", why, hint=hint)])


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
