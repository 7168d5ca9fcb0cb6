"""What a person sees who types it wrong: one line on stderr, status 2, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(script, *arguments, folder):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BERTJAX_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )


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
            "--config.smart.radius must be a finite number of at least 0",
        ),
        ("train.py", [CONFIG, "--config.task=sst"], "--config.task: expected one of"),
        ("train.py", [CONFIG, "--config.task=sst5"], "--config.data_dir"),
        ("train.py", ["--config=nowhere.py"], "nowhere.py"),
        ("train.py", ["--config=nowhere.py", "--config.epochs=3"], "nowhere.py"),
        ("train.py", [f"--config={__file__}"], "get_config"),
        ("train.py", [], "config"),
        ("train.py", [f"--config={ROOT / 'configs' / 'sst_smart.py'}:papr"], "expected variant starter or paper"),
        ("train.py", [CONFIG, "seed=3"], "expected flags only, found 'seed=3'"),
        ("train.py", [CONFIG, "--num_processes=2"], "expected --coordinator=HOST:PORT with them, found none"),
        ("train.py", [CONFIG, "--coordinator=localhost:1"], "error: --distributed: expected a cluster that JAX knows"),
        ("train.py", [CONFIG, "--coordinator=node0"], "error: --coordinator: expected HOST:PORT, found 'node0'"),
        (
            "train.py",
            [CONFIG, "--coordinator=node0:1", "--num_processes=2", "--process_id=2"],
            "error: --process_id: expected 0 to 1, one less than --num_processes, found 2",
        ),
        (
            "train.py",
            [f"--config={ROOT / 'configs' / 'gold.py'}", "--config.data_dir=~nobody-of-that-name"],
            "error: ~nobody-of-that-name: expected a home folder at '~', found none; write the path out",
        ),
        ("train.py", [CONFIG, "--distributed"], "error: --distributed: expected a cluster that JAX knows"),
        ("eval.py", ["--workdir=nowhere"], "config.json: not found"),
        ("eval.py", ["--workdir=.", "--split=tset"], "split"),
        ("eval.py", ["--workdir=.", "--task=sst5"], "error: --task: it goes with --input, found none"),
        ("eval.py", ["--workdir=nowhere", "--input=-"], "config.json: not found"),
        ("eval.py", ["--workdir=~/x"], str(Path("~/x/config.json").expanduser())),
        (
            "eval.py",
            ["--workdir=.", "--input=-", "--config.data_dir=x"],
            "--config.data_dir: it does not go with --input",
        ),
    ],
)
def test_a_mistake_is_one_line(script, arguments, message, tmp_path):
    finished = run(script, *arguments, folder=tmp_path)
    assert finished.returncode == 2
    assert finished.stdout == ""
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("config", "try --config.micro_batches=4, then --config.remat=True, then a smaller --config.max_length "),
        ("checkpoint", "use one with more, or JAX_PLATFORMS=cpu\n"),
    ],
)
def test_want_of_memory_is_one_line_with_what_to_do(flag, remedy):
    code = f"""
import jax.numpy as jnp
from absl import flags
from bertjax import cli
flags.DEFINE_string("{flag}", None, "")
cli.run(lambda: jnp.zeros(10**15))
"""
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: a device's memory does not suffice (RESOURCE_EXHAUSTED: Out of memory")
    assert f"; {remedy}" in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_a_reader_who_has_enough_is_no_traceback(tmp_path):
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
