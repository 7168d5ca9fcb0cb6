"""Jobs in processes of their own, each with its share of the CPU's cores, until done or asked to stop."""

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


Done = TypeVar("Done")


def run_jobs(run: Callable[[Job], Done], jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Done | UserError]]:
    """Runs every job, so many at once, and gives each with what came of it as it is done.

    A `UserError` of one job is given in place of its result. Whatever else ends this, a signal or an error in a job,
    ends the others, too: they get SIGTERM, on which a run saves.

    Raises:
      UserError: a worker was killed.
      Interrupted: SIGINT or SIGTERM came.
    """
    context = multiprocessing.get_context("spawn")
    start = context.Value("i", 0), workers
    queue = iter(jobs)
    running: dict[Future[Any], Job] = {}
    try:
        with Interruption() as asked, ProcessPoolExecutor(workers, context, _start_worker, start) as pool:
            try:
                while True:
                    # No more than run at once: what is handed to a worker cannot be taken back.
                    for job in itertools.islice(queue, workers - len(running)):
                        running[_submit(pool, run, job)] = job
                    if not running:
                        return
                    done: set[Future[Any]] = set()
                    while not done and asked.name is None:
                        done = wait(running, _POLL_SECONDS, FIRST_COMPLETED).done
                    if asked.name is not None:
                        raise Interrupted(f"{asked.name}: what was finished is saved")
                    for future in done:
                        yield running.pop(future), _outcome(future)
            except BaseException as error:
                # Of Ctrl-C the first is noted, and the second raised.
                is_second = isinstance(error, KeyboardInterrupt) and not isinstance(error, Interrupted)
                _signal_workers(signal.SIGKILL if is_second else signal.SIGTERM)
                raise
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely for want of memory; the same command goes on from there, and "
            "--workers=1 needs less"
        ) from None
    except KeyboardInterrupt:
        _signal_workers(signal.SIGKILL)  # where the second came while the pool waited for its workers
        raise


def _signal_workers(number: signal.Signals) -> None:
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it may just have ended
            os.kill(worker.pid, number)


def _submit(pool: ProcessPoolExecutor, run: Callable[[Job], Done], job: Job) -> Future[Done]:
    # A terminal's Ctrl-C reaches all; workers, which inherit what is blocked, leave it to who started them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(run, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outcome(future: Future[Done]) -> Done | UserError:
    try:
        return future.result()
    except UserError as error:
        return error


def _start_worker(count: Any, workers: int) -> None:
    with count.get_lock():
        place = count.value
        count.value += 1
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    if hasattr(os, "sched_getaffinity") and 1 < workers <= len(cores := sorted(os.sched_getaffinity(0))):
        os.sched_setaffinity(0, cores[place::workers])  # XLA then starts as many threads


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # killed, it could not ask; what the last checkpoint lacks is done again
