"""Jobs that do no work: what becomes of them is under test."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bertjax.data.problems import BadData, Problem
from bertjax.errors import UserError
from bertjax.study import pool
from bertjax.study.pool import run_jobs

CORES = len(os.sched_getaffinity(0))


def job(number):
    if number == 3:
        raise UserError("three is no good")
    if number == 4:
        raise BadData([Problem("a.csv", 1, "first"), Problem("a.csv", 2, "second")])
    return number, os.getpid(), sorted(os.sched_getaffinity(0)), os.nice(0)


def killed(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def broken(number):
    return 1 // number


def met(number, folder):
    """Done only once the other one has begun, too."""
    (folder / str(number)).touch()
    while not (folder / str(1 - number)).exists():
        time.sleep(0.01)
    return job(number)


def test_every_job_is_done_once_and_a_failing_one_is_given_as_its_error():
    found = dict(run_jobs(job, range(6), 1))
    assert list(found) == list(range(6))
    assert str(found.pop(3)) == "three is no good"
    assert [problem.what for problem in found.pop(4).problems] == ["first", "second"]
    assert [number for number, *_ in found.values()] == list(found)
    _, pid, cores, niceness = found[0]
    assert pid != os.getpid()
    assert cores == sorted(os.sched_getaffinity(0))
    assert niceness == min(19, os.nice(0) + 10)
    assert list(run_jobs(job, [], 2)) == []


@pytest.mark.skipif(CORES < 2, reason="one core")
def test_two_at_once_share_the_cores(tmp_path):
    found = dict(run_jobs(functools.partial(met, folder=tmp_path), [0, 1], 2))
    (_, first, ours, _), (_, second, theirs, _) = found.values()
    assert first != second
    assert sorted([*ours, *theirs]) == sorted(os.sched_getaffinity(0))


def test_a_killed_worker_is_told():
    jobs = run_jobs(killed, range(4), 1)
    assert [next(jobs), next(jobs)] == [(0, 0), (1, 1)]
    with pytest.raises(UserError, match="a worker process was killed, most likely for want of memory; the same"):
        next(jobs)


def test_a_worker_that_has_just_ended_needs_no_signal(monkeypatch):
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [ended])
    pool._signal_workers(signal.SIGTERM)


def test_a_mistake_in_the_code_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(broken, [0], 1))


def broken_or_long(number):
    if number:
        time.sleep(100)
    return broken(number)


def killed_at_rest(number):
    if number == 0:  # once its result is on its way
        threading.Timer(0.5, os._exit, [1]).start()
    return number


def test_a_worker_that_was_killed_at_rest_is_told():
    jobs = run_jobs(killed_at_rest, range(2), 1)
    assert next(jobs) == (0, 0)
    while multiprocessing.active_children():
        time.sleep(0.01)
    with pytest.raises(UserError, match="a worker process was killed"):
        next(jobs)


LONG = """
import os, sys, time
from bertjax.signals import Interrupted, Interruption
from bertjax.study.pool import run_jobs

def long(number):
    with Interruption() as asked:
        print("begun", flush=True)
        while asked.name is None or sys.argv[1] == "deaf":
            time.sleep(0.01)
    print("saved", flush=True)
    raise Interrupted(asked.name)

if __name__ == "__main__":
    try:
        list(run_jobs(long, range(3), 1))
    except Interrupted as stopped:
        print(stopped, flush=True)
"""


@pytest.fixture(params=["listening"])
def running(request, tmp_path):
    """A process with a job that goes on until it is asked to stop, or, if deaf, for ever."""
    script = tmp_path / "long.py"
    script.write_text(LONG)
    process = subprocess.Popen(
        [sys.executable, script, request.param],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    with process:
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


@pytest.mark.parametrize("to_all", [True, False], ids=["SIGINT", "SIGTERM"])
def test_asked_to_stop_the_workers_save_first(running, to_all):
    if to_all:  # as a terminal's Ctrl-C
        os.killpg(running.pid, signal.SIGINT)
    else:
        running.send_signal(signal.SIGTERM)
    rest, told = running.communicate(timeout=60)
    assert "Traceback" not in told
    name = "SIGINT" if to_all else "SIGTERM"
    assert rest == f"saved\n{name}: what was finished is saved\n"
    assert running.returncode == 0


@pytest.mark.parametrize("running", ["deaf"], indirect=True)
def test_a_second_signal_ends_all_at_once(running):
    os.killpg(running.pid, signal.SIGINT)
    while not running.stderr.readline().startswith("SIGINT: "):
        pass
    os.killpg(running.pid, signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGINT


def test_an_error_of_one_job_ends_the_others():
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(broken_or_long, [1, 0], 2))
    assert time.monotonic() - begun < 60


def test_workers_end_with_who_started_them(running):
    running.kill()
    assert running.communicate(timeout=60)[0] == ""  # once the worker, too, has closed its end
