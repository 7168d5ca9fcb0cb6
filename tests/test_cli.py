"""Command lines with mistakes: one line on stderr, exit status 2, no traceback, nothing written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORK_SERVER = """
import json, os, runpy, sys, traceback
# Slow to import, so once for all command lines. JAX starts no threads before its first computation: forking is safe.
import bertjax.evaluation.predict_text, bertjax.training.finetuning, bertjax.training.pretraining

for line in sys.stdin:
    folder, script, *arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.environ["BERTJAX_CACHE"] = folder + "/cache"
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = [script, *arguments]
        status = 1
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stopped:
            status = stopped.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # the usual teardown of the interpreter takes more than a second
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run(script, *arguments, folder):
    """Runs a script in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BERTJAX_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def run_forked():
    """`run` in a fork of a process that has imported everything."""
    server = subprocess.Popen(
        [sys.executable, "-c", FORK_SERVER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run_forked(script, *arguments, folder):
        server.stdin.write(json.dumps([str(folder), str(ROOT / script), *arguments]) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        output = [(folder / name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess([script, *arguments], status, *output)

    yield run_forked
    server.kill()
    server.communicate()


def check_mistake(finished, message, folder):
    """Asserts that a command ended with status 2 and one line with `message`, and wrote no run."""
    assert finished.returncode == 2
    assert finished.stdout == ""
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (folder / "runs").exists()


CONFIG = f"--config={ROOT / 'configs' / 'sst.py'}"


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train.py", [CONFIG, "--config.epocs=3"], "error: --config.epocs: no such key; did you mean 'epochs'?"),
        (
            "train.py",
            [CONFIG, "--config.smart.weight=2", "--config.smrat.weight=3"],
            "error: --config.smrat: no such key; did you mean 'smart'?",
        ),
        ("train.py", [CONFIG, "--config.smart.wieght=3"], "--config.smart.wieght: no such key; did you mean 'weight'?"),
        ("train.py", [CONFIG, "--config.epochs=two"], "--config.epochs=two"),
        (
            "train.py",
            [CONFIG, "--config.smart.radius=-1"],
            "--config.smart.radius",
        ),
        ("train.py", [CONFIG, "--config.task=sst"], "--config.task: expected one of"),
        ("train.py", [CONFIG, "--config.task=sst5"], "--config.data_dir"),
        ("train.py", ["--config=nowhere.py"], "nowhere.py"),
        ("train.py", ["--config=nowhere.py", "--config.epochs=3"], "nowhere.py"),
        ("train.py", [f"--config={__file__}"], "get_config"),
        ("train.py", [], "config"),
        ("train.py", [f"--config={ROOT / 'configs' / 'sst_smart.py'}:papr"], "expected variant starter, base or paper"),
        ("train.py", [CONFIG, "seed=3"], "expected flags only, found 'seed=3'"),
        (
            "train.py",
            [CONFIG, "--num_processes=2"],
            "error: --num_processes, --process_id: expected --coordinator",
        ),
        ("train.py", [CONFIG, "--coordinator=localhost:1"], "error: --distributed: expected a cluster"),
        ("train.py", [CONFIG, "--coordinator=node0"], "error: --coordinator: expected HOST:PORT, found 'node0'"),
        (
            "train.py",
            [CONFIG, "--coordinator=node0:1", "--num_processes=2", "--process_id=2"],
            "error: --process_id: expected 0 to 1",
        ),
        (
            "train.py",
            [f"--config={ROOT / 'configs' / 'gold.py'}", "--config.data_dir=~nobody-of-that-name"],
            "error: ~nobody-of-that-name: expected a home folder",
        ),
        ("train.py", [CONFIG, "--distributed"], "error: --distributed: expected a cluster"),
        ("eval.py", ["--workdir=nowhere"], "config.json: not found"),
        ("eval.py", ["--workdir=.", "--split=tset"], "split"),
        ("eval.py", ["--workdir=.", "--task=sst5"], "error: --task: expected only with --input"),
        ("eval.py", ["--workdir=nowhere", "--input=-"], "config.json: not found"),
        ("eval.py", ["--workdir=~/x"], str(Path("~/x/config.json").expanduser())),
        (
            "eval.py",
            ["--workdir=.", "--input=-", "--config.data_dir=x"],
            "error: --config.data_dir: expected only without --input",
        ),
    ],
)
def test_a_mistake_is_one_line(run_forked, script, arguments, message, tmp_path):
    check_mistake(run_forked(script, *arguments, folder=tmp_path), message, tmp_path)


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train.py", [CONFIG, "--config.epocs=3"], "error: --config.epocs: no such key; did you mean 'epochs'?"),
        ("eval.py", ["--workdir=nowhere"], "config.json: not found"),
    ],
)
def test_a_mistake_is_one_line_in_a_process_of_its_own(script, arguments, message, tmp_path):
    check_mistake(run(script, *arguments, folder=tmp_path), message, tmp_path)


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("config", "--config.micro_batches=4"),
        ("checkpoint", "JAX_PLATFORMS=cpu"),
    ],
)
def test_running_out_of_memory_is_one_line_with_a_remedy(flag, remedy):
    code = f"""
import jax.numpy as jnp
from absl import flags
from bertjax import cli
flags.DEFINE_string("{flag}", None, "")
cli.run(lambda: jnp.zeros(10**15))
"""
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: ")
    assert "RESOURCE_EXHAUSTED: Out of memory" in finished.stderr
    assert remedy in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_a_closed_pipe_is_no_traceback():
    code = "from bertjax import cli\ncli.run(lambda: [print('line' * 999) for _ in range(99)])"
    writer = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline().startswith("line")
    writer.stdout.close()
    assert writer.stderr.read() == ""
    writer.stderr.close()
    assert writer.wait(60) == 141


def test_help_fits_a_screen_and_lists_the_recipes(tmp_path):
    done = run("train.py", "--help", folder=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) <= 40
    for recipe in (ROOT / "configs").glob("*.py"):
        assert f"  configs/{recipe.name}: " in done.stdout
