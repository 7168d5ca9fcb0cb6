"""Measures the time from command to first update, with an empty and with a filled compilation cache.

    python -m benchmarks.start

Runs `python train.py --config=configs/sst_smart.py` for one update, with model and data in the cache folder and a fresh
folder for compiled steps. The time is the whole process's, minus the run's time after its first update. It is an upper
bound, as it includes the end of the process. Prints medians and writes benchmarks/results/start.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import circumstances
from bertjax.compilation import MIN_COMPILE_SECONDS
from bertjax.evaluation.tables import format_rows

ROOT = Path(__file__).parents[1]
ROUNDS = 3


def first_update(compiled: Path, workdir: Path) -> float:
    """Seconds from the command to the first update."""
    command = [sys.executable, "train.py", "--config=configs/sst_smart.py", f"--workdir={workdir}"]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--config.max_steps=1"],
        cwd=ROOT,
        # With JAX's own cache folder, JAX's threshold would be one second.
        env=os.environ
        | {
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(MIN_COMPILE_SECONDS),
        },
        check=True,
        capture_output=True,
    )
    whole = time.perf_counter() - start
    timing = json.loads((workdir / "result.json").read_text())["timing"]
    return whole - timing["seconds"] + timing["seconds_to_first_step"]


def main() -> None:
    """Measures, prints and writes."""
    seconds = {"cold": [], "warm": []}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as scratch:
            for name in seconds:
                seconds[name].append(first_update(Path(scratch) / "compiled", Path(scratch) / name))
    rows = [{"name": name, "seconds_to_first_update": round(statistics.median(x), 1)} for name, x in seconds.items()]
    print(format_rows(rows))
    report = circumstances() | {"rows": rows}
    (Path(__file__).parent / "results" / "start.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
