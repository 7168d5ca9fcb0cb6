"""Checks and measures a GPU or TPU within a given time: examples/s, plain and with SMART, against PyTorch.

    python -m benchmarks.accelerator                     # ends by itself within 420 seconds
    python -m benchmarks.accelerator --models tiny --batch=4 --length=16 --rounds=2 --seconds=60   # a trial, anywhere

Needs JAX, Flax, optax, NumPy and this repository; PyTorch and Transformers are measured if installed. Weights and word
pieces are random, so nothing is downloaded. The most important rows come first: checks, then BERT-base, then MiniLM-L6,
attention, and an epoch of SST-5 estimated by interpolation. benchmarks/results/accelerator.json is replaced after every
row and lists each row as measured, failed or left out. docs/devices.md explains the output.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import timed_rows

STARTED = time.monotonic()
"""Taken before JAX is imported, which can take ten seconds."""
MODELS = ("BERT-base", "MiniLM-L6", "tiny")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=420, help="the whole process ends within this time")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["BERT-base", "MiniLM-L6"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="an update's time is the median over these")
    parser.add_argument("--matmul", type=int, default=None, help="its size; 8192, but 512 on a CPU")
    parser.add_argument("--skip", nargs="+", default=[], help="leave out rows whose name contains one of these")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "accelerator.json")
    return parser.parse_args(arguments)


def main() -> None:
    """Measures and reports."""
    options = parse()
    deadline = STARTED + options.seconds - timed_rows.TEARDOWN_SECONDS
    timer = timed_rows.end_process_at(deadline)
    results = timed_rows.Results(options.out, {"limit_seconds": options.seconds})
    results.left_out["all rows"] = "JAX did not find its devices in time"
    results.write()
    # JAX would otherwise take most of the GPU's memory, and leave PyTorch none.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from benchmarks import accelerator_plan

    accelerator_plan.run(options, results, deadline)
    timer.cancel()


if __name__ == "__main__":
    main()
