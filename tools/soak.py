"""Kills a run again and again, lets it go on each time, and compares its end with that of a run left alone.

    python -m tools.soak                                  # SMART on the starter assets, 20 kills
    python -m tools.soak --kills=3 -- --config=configs/sst.py --config.max_steps=20

Flags after `--` are train.py's. SIGKILL comes at random moments, every fourth as soon as a checkpoint is being written.
A run that comes to its end before all kills are spent is compared, and another one is begun.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[1]
COMMAND = [
    "--config=configs/sst_smart.py",
    *(f"--config.{change}" for change in ("max_steps=60", "eval_every=30", "checkpoint_every=2")),
]


def end_of(workdir: Path, *, has_checkpoints: bool = True) -> dict[str, Any]:
    """All that a finished run leaves that must not depend on where it was cut.

    Returns:
      A hash of every array of every checkpoint kept (parameters, optimizer state, anchor, counters), the lines of
      metrics.jsonl without what depends on the clock, and the scores and the cost of result.json.
    """
    found: dict[str, Any] = {}
    for path in sorted((workdir / "checkpoints").iterdir()) if has_checkpoints else ():
        for item in ("params", "rest"):
            with ocp.StandardCheckpointer() as checkpointer:
                tree = checkpointer.restore(path / item)
            for name, array in ocp.tree.to_flat_dict(tree, sep="/").items():
                found[f"{path.name}/{item}/{name}"] = hashlib.sha256(memoryview(array).tobytes()).hexdigest()[:16]
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [{name: x for name, x in record.items() if name != "timing"} for record in records]
    if (workdir / "result.json").exists():
        result = json.loads((workdir / "result.json").read_text())
        found["result.json"] = [result[name] for name in ("dev", "datasets", "steps", "warnings", "cost")]
    return found


def soak(command: Sequence[str], folder: Path, *, kills: int, seed: int = 0) -> list[bool]:
    """Runs train.py in folders under `folder`: once in peace, then under fire; prints a line a kill.

    Args:
      command: its flags, but for --workdir.
      folder: for the runs and what they compile.
      kills: how many.
      seed: of their moments.

    Returns:
      Of each run that was killed and came to its end: whether the end is that of the run in peace.
    """
    draw = random.Random(seed)
    start = time.monotonic()
    _finish(_train(command, folder, "peace"), folder)
    seconds = time.monotonic() - start
    startup = json.loads((folder / "peace" / "result.json").read_text())["timing"]["seconds_to_first_step"]
    print(f"in peace: {seconds:.0f} s, {startup:.0f} s of them to the first update", flush=True)
    # On the whole, a life then brings a run forward by its share of the way.
    longest = 2 * (startup + (seconds - startup) / (kills + 1))
    same, killed = [], 0
    while killed < kills:
        name = f"fire{len(same)}"
        process = _train(command, folder, name)
        if _kill(process, folder / name, draw.uniform(0, longest), while_saving=killed % 4 == 3):
            killed += 1
            half = [path.name for path in (folder / name / "checkpoints").glob("*tmp*")]
            whole = [int(path.name) for path in (folder / name / "checkpoints").glob("*") if path.name.isdigit()]
            print(f"kill {killed}: last checkpoint {max(whole, default=None)}, half written {half}", flush=True)
        else:
            _finish(process, folder)
            same.append(end_of(folder / name) == end_of(folder / "peace"))
    name = f"fire{len(same)}"
    _finish(_train(command, folder, name), folder)
    return [*same, end_of(folder / name) == end_of(folder / "peace")]


def _train(command: Sequence[str], folder: Path, name: str) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "train.py", *command, f"--workdir={folder / name}"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )


def _finish(process: subprocess.Popen, folder: Path) -> None:
    if process.wait():
        raise SystemExit(f"train.py ended with status {process.returncode}:\n{(folder / 'log').read_text()[-2000:]}")


def _kill(process: subprocess.Popen, workdir: Path, moment: float, *, while_saving: bool) -> bool:
    """Kills the process; False where it came to its end before."""
    try:
        process.wait(moment)
        return False
    except subprocess.TimeoutExpired:
        pass
    while while_saving and process.poll() is None and not any((workdir / "checkpoints").glob("*tmp*")):
        time.sleep(0.001)
    process.kill()
    return process.wait() == -signal.SIGKILL


def main() -> None:
    """Reads the flags, reports, and exits with 1 where an end differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", default=COMMAND)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        same = soak(options.flags or COMMAND, Path(folder), kills=options.kills, seed=options.seed)
        passed_over = (Path(folder) / "log").read_text().count("cut off while it was written")
    print(f"{options.kills} kills, {passed_over} half-written checkpoints passed over")
    print(f"{sum(same)} of {len(same)} runs that were killed came to the end of the one in peace, bit for bit")
    sys.exit(not all(same))


if __name__ == "__main__":
    main()
