"""The pool of worker processes, with jobs that do no work."""

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
        raise UserError("bad job")
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
    """Finishes only after the other job has started."""
    (folder / str(number)).touch()
    while not (folder / str(1 - number)).exists():
        time.sleep(0.01)
    return job(number)


def test_every_job_runs_once_and_a_failure_yields_its_error():
    found = dict(run_jobs(job, range(6), 1))
    assert list(found) == list(range(6))
    assert str(found.pop(3)) == "bad job"
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


def test_a_killed_worker_is_reported():
    jobs = run_jobs(killed, range(4), 1)
    assert [next(jobs), next(jobs)] == [(0, 0), (1, 1)]
    with pytest.raises(UserError, match="a worker process was killed, .*--workers=1"):
        next(jobs)


def test_a_worker_that_has_just_ended_needs_no_signal(monkeypatch):
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [ended])
    pool._signal_workers(signal.SIGTERM)


def test_other_errors_are_raised():
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(broken, [0], 1))


def broken_or_long(number):
    if number:
        time.sleep(100)
    return broken(number)


def killed_while_idle(number):
    if number == 0:  # after its result was sent
        threading.Timer(0.5, os._exit, [1]).start()
    return number


def test_a_worker_killed_while_idle_is_reported():
    jobs = run_jobs(killed_while_idle, range(2), 1)
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
    with Interruption() as signalled:
        print("begun", flush=True)
        while signalled.name is None or sys.argv[1] == "deaf":
            time.sleep(0.01)
    print("saved", flush=True)
    raise Interrupted(signalled.name)

if __name__ == "__main__":
    try:
        list(run_jobs(long, range(3), 1))
    except Interrupted as stopped:
        print(stopped, flush=True)
"""


@pytest.fixture(params=["listening"])
def running(request, tmp_path):
    """A process with a job that runs until a signal stops it or, if "deaf", for ever."""
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
def test_workers_save_before_they_stop(running, to_all):
    if to_all:  # like a terminal's Ctrl-C
        os.killpg(running.pid, signal.SIGINT)
    else:
        running.send_signal(signal.SIGTERM)
    output, errors = running.communicate(timeout=60)
    assert "Traceback" not in errors
    name = "SIGINT" if to_all else "SIGTERM"
    assert output == f"saved\n{name}: finished results are saved\n"
    assert running.returncode == 0


@pytest.mark.parametrize("running", ["deaf"], indirect=True)
def test_a_second_signal_ends_all_at_once(running):
    os.killpg(running.pid, signal.SIGINT)
    while not running.stderr.readline().startswith("SIGINT: "):
        pass
    os.killpg(running.pid, signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGINT


def test_an_error_in_one_job_ends_the_others():
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(broken_or_long, [1, 0], 2))
    assert time.monotonic() - begun < 60


def test_workers_end_with_their_parent(running):
    running.kill()
    assert running.communicate(timeout=60)[0] == ""  # returns once the worker has closed its end too
