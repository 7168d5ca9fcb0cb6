"""From the command to the first update: with nothing compiled yet, and with what the run before kept.

    python -m benchmarks.start

`python train.py --config=configs/sst_smart.py`, one update; model and data are in the cache folder, compiled steps go
to a fresh one. What is taken is the whole run's time less what the run spent after its first update: an upper bound,
as it holds the end of the process too. Prints medians and writes benchmarks/results/start.json.
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
        # A cache folder of JAX's own has JAX's own threshold, a second.
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
    """Runs, prints and writes."""
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
