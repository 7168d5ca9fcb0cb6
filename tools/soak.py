"""Kills a training run repeatedly, resumes it each time, and compares its results with those of an undisturbed run.

    python -m tools.soak                                  # SMART on the starter assets, 20 kills
    python -m tools.soak --kills=3 -- --config=configs/sst.py --config.max_steps=20

Flags after `--` are passed to train.py. SIGKILL is sent at random moments; every fourth waits until a checkpoint is
being written. If a run finishes before the last kill, it is compared and another one starts.
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


def final_state(workdir: Path, *, has_checkpoints: bool = True) -> dict[str, Any]:
    """Collects what a finished run wrote that must not depend on interruptions.

    Returns:
      A hash of every array of every checkpoint kept (parameters, optimizer state, anchor, counters), the records of
      metrics.jsonl without their timing, and the scores and the cost in result.json.
    """
    state: dict[str, Any] = {}
    for path in sorted((workdir / "checkpoints").iterdir()) if has_checkpoints else ():
        for item in ("params", "rest"):
            with ocp.StandardCheckpointer() as checkpointer:
                tree = checkpointer.restore(path / item)
            for name, array in ocp.tree.to_flat_dict(tree, sep="/").items():
                state[f"{path.name}/{item}/{name}"] = hashlib.sha256(memoryview(array).tobytes()).hexdigest()[:16]
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    state["metrics.jsonl"] = [{name: x for name, x in record.items() if name != "timing"} for record in records]
    if (workdir / "result.json").exists():
        result = json.loads((workdir / "result.json").read_text())
        state["result.json"] = [result[name] for name in ("dev", "datasets", "steps", "warnings", "cost")]
    return state


def soak(command: Sequence[str], folder: Path, *, kills: int, seed: int = 0) -> list[bool]:
    """Runs train.py once undisturbed, then with kills; prints a line for each kill.

    Args:
      command: flags of train.py, without --workdir.
      folder: holds the runs and the compilation cache.
      kills: number of kills.
      seed: seed of the random moments.

    Returns:
      For each killed run, once finished: whether its final state equals that of the undisturbed run.
    """
    draw = random.Random(seed)
    start = time.monotonic()
    _finish(_train(command, folder, "undisturbed"), folder)
    seconds = time.monotonic() - start
    startup = json.loads((folder / "undisturbed" / "result.json").read_text())["timing"]["seconds_to_first_step"]
    print(f"undisturbed: {seconds:.0f} s, {startup:.0f} s of them to the first update", flush=True)
    # On average, each life then covers 1 / (kills + 1) of the run.
    max_seconds = 2 * (startup + (seconds - startup) / (kills + 1))
    same, killed = [], 0
    while killed < kills:
        name = f"killed{len(same)}"
        process = _train(command, folder, name)
        if _kill(process, folder / name, draw.uniform(0, max_seconds), while_saving=killed % 4 == 3):
            killed += 1
            partial = [path.name for path in (folder / name / "checkpoints").glob("*tmp*")]
            complete = [int(path.name) for path in (folder / name / "checkpoints").glob("*") if path.name.isdigit()]
            print(f"kill {killed}: last checkpoint {max(complete, default=None)}, partly written {partial}", flush=True)
        else:
            _finish(process, folder)
            same.append(final_state(folder / name) == final_state(folder / "undisturbed"))
    name = f"killed{len(same)}"
    _finish(_train(command, folder, name), folder)
    return [*same, final_state(folder / name) == final_state(folder / "undisturbed")]


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
    """Kills the process; returns False if it ended before."""
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
    """Parses the flags, prints a summary, and exits with 1 if a final state differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", default=COMMAND)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        same = soak(options.flags or COMMAND, Path(folder), kills=options.kills, seed=options.seed)
    print(f"{sum(same)} of {len(same)} killed runs equal the undisturbed run, bit for bit")
    sys.exit(not all(same))


if __name__ == "__main__":
    main()
