"""Two processes of two devices each, on one machine, come to what one process with four comes to."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import toy_loop as toy

from bertjax.config import read_config
from bertjax.training import finetuning

pytestmark = pytest.mark.skipif(jax.__version_info__ < (0, 8), reason="several hosts need JAX 0.8")
TESTS = Path(__file__).parents[1]
PROGRAM = """
import os, signal, sys, time
from pathlib import Path

import jax

port, process, workdir, moment = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(process))
import toy_loop as toy
from bertjax.signals import Interrupted

def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2)  # JAX looks for the signal once a second, and the toy would be done by then

at = {int(moment): stop} if process == "1" else {}
try:
    toy.run(Path(workdir), toy.Batches(at=at), devices=4)
except Interrupted as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(75)
"""


def run_two_processes(command):
    """Runs Python with `command(port, process)` twice at once; their statuses and what they wrote to stderr."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(TESTS)}
    processes = [
        subprocess.Popen(
            [sys.executable, *command(port, process)],
            cwd=TESTS.parent,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    return [process.returncode for process in processes], errors


def assert_same_log(ours, theirs):
    ours, theirs = toy.lines(ours), toy.lines(theirs)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for here, there in zip(ours, theirs, strict=True):
        assert here["values"] == pytest.approx(there["values"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_are_one_and_stop_together(tmp_path):
    toy.run(tmp_path / "one", devices=4)
    for moment, status in ((5, 75), (99, 0)):
        statuses, errors = run_two_processes(
            lambda port, process, moment=moment: [
                *("-c", PROGRAM, str(port), str(process), str(tmp_path / "two"), str(moment))
            ]
        )
        assert statuses == [status, status], errors
    assert toy.steps(tmp_path / "two") == toy.steps(tmp_path / "one")
    assert_same_log(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_train_on_two_hosts_is_train_on_one(tiny_checkpoint, sst_folder, tmp_path):
    changes = {"batch_size": 8, "max_length": 16, "max_steps": 4, "data_dir": sst_folder, "init_from": tiny_checkpoint}
    flags = [
        *("--config=configs/gold.py:sst5", f"--workdir={tmp_path / 'two'}"),
        *(f"--config.{name}={value}" for name, value in changes.items()),
    ]
    statuses, errors = run_two_processes(
        lambda port, process: [
            *("train.py", *flags, f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={process}")
        ]
    )
    assert statuses == [0, 0], errors
    config = read_config(json.loads((tmp_path / "two" / "config.json").read_text()))
    result = finetuning.train_and_evaluate(config, tmp_path / "one")
    assert result["devices"]["count"] == 4
    assert_same_log(tmp_path / "two", tmp_path / "one")
