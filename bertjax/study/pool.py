"""Runs jobs in worker processes, each on its own share of the CPU's cores, until they finish or a signal stops them."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from bertjax.errors import UserError
from bertjax.signals import Interrupted, Interruption

_POLL_SECONDS = 0.5
Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    run: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Result | UserError]]:
    """Runs all jobs, at most `workers` at once, and yields each with its result as it finishes.

    If a job raises a `UserError`, that is its result. Any other error, or a signal, ends all jobs: the workers get
    SIGTERM, on which a run saves a checkpoint.

    Raises:
      UserError: a worker was killed.
      Interrupted: the process received SIGINT or SIGTERM.
    """
    context = multiprocessing.get_context("spawn")
    worker_args = context.Value("i", 0), workers
    queue = iter(jobs)
    running: dict[Future[Any], Job] = {}
    try:
        with Interruption() as signalled, ProcessPoolExecutor(workers, context, _start_worker, worker_args) as pool:
            try:
                while True:
                    # Submit only what can start now: a submitted job cannot be taken back.
                    for job in itertools.islice(queue, workers - len(running)):
                        running[_submit(pool, run, job)] = job
                    if not running:
                        return
                    finished: set[Future[Any]] = set()
                    while not finished and signalled.name is None:
                        finished = wait(running, _POLL_SECONDS, FIRST_COMPLETED).done
                    if signalled.name is not None:
                        raise Interrupted(f"{signalled.name}: finished results are saved")
                    for future in finished:
                        yield running.pop(future), _outcome(future)
            except BaseException as error:
                # Interruption records the first Ctrl-C; the second raises KeyboardInterrupt.
                is_second = isinstance(error, KeyboardInterrupt) and not isinstance(error, Interrupted)
                _signal_workers(signal.SIGKILL if is_second else signal.SIGTERM)
                raise
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely because memory ran out; the same command resumes, and "
            "--workers=1 needs less memory"
        ) from None
    except KeyboardInterrupt:
        _signal_workers(signal.SIGKILL)  # the second Ctrl-C came while the pool waited for its workers
        raise


def _signal_workers(number: signal.Signals) -> None:
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it may have just ended
            os.kill(worker.pid, number)


def _submit(pool: ProcessPoolExecutor, run: Callable[[Job], Result], job: Job) -> Future[Result]:
    # A terminal sends Ctrl-C to all processes. Workers start here and inherit the mask, so only the parent handles it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(run, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outcome(future: Future[Result]) -> Result | UserError:
    try:
        return future.result()
    except UserError as error:
        return error


def _start_worker(counter: Any, workers: int) -> None:
    with counter.get_lock():
        index = counter.value
        counter.value += 1
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    if hasattr(os, "sched_getaffinity") and 1 < workers <= len(cores := sorted(os.sched_getaffinity(0))):
        os.sched_setaffinity(0, cores[index::workers])  # XLA starts a thread for each


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # a killed parent could not send SIGTERM; a rerun resumes from the last checkpoint
