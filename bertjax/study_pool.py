"""Jobs in processes of their own, each with its share of the CPU's cores, until done or asked to stop."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from bertjax.errors import UserError
from bertjax.interruption import Interrupted, Interruption

_POLL_SECONDS = 0.5
Job = TypeVar("Job")
Done = TypeVar("Done")


def each(run: Callable[[Job], Done], jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Done | UserError]]:
    """Runs every job, so many at once, and gives each with what came of it as it is done.

    A `UserError` of one job is given in place of its result; any other exception ends all.

    Raises:
      UserError: a worker was killed.
      Interrupted: SIGINT or SIGTERM came; the workers were asked to stop, too, and have.
    """
    context = multiprocessing.get_context("spawn")
    start = context.Value("i", 0), workers
    queue = iter(jobs)
    running: dict[Future[Done], Job] = {}
    with Interruption() as asked, ProcessPoolExecutor(workers, context, _start_worker, start) as pool:
        while True:
            # No more than run at once: what is handed to a worker cannot be taken back.
            for job in queue:
                running[pool.submit(run, job)] = job
                if len(running) == workers:
                    break
            if not running:
                return
            done: set[Future[Done]] = set()
            while not done and asked.name is None:
                done = wait(running, _POLL_SECONDS, FIRST_COMPLETED).done
            if asked.name is not None:
                for worker in multiprocessing.active_children():
                    worker.terminate()  # SIGTERM, on which a run saves
                break
            for future in done:
                yield running.pop(future), _outcome(future)
    raise Interrupted(f"{asked.name}: what was finished is saved")


def _outcome(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely for want of memory; the same command goes on from there, and "
            "--workers=1 needs less"
        ) from None
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
